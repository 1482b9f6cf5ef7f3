"""Normalised mean error, yaw bins and angles, against figures worked out by hand and the published label disagreement."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import shared_data
from fitjax.evaluate.nme import BinnedMean, binned_mean, box_size, geodesic_degrees, nme, yaw_bin


def turn(axis, degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    rotation = np.eye(3)
    rotation[i, i] = rotation[j, j] = c
    rotation[i, j], rotation[j, i] = -s, s
    return rotation


def test_nme_by_hand():
    truth = np.array([[0.0, 0.0], [9.0, 0.0], [9.0, 4.0], [0.0, 4.0]])
    assert box_size(truth) == pytest.approx(6)
    found = truth + np.array([[3.0, 4.0], [0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    # Distances 5, 0, 1, 0: mean 1.5 of 6 is 25 %.
    assert nme(found, truth) == pytest.approx(25)
    # Held-out points 0 and 2: mean 3, and still the box of all four.
    assert nme(found, truth, only=[0, 2]) == pytest.approx(50)


def test_nme_is_of_the_truth_and_batched():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(5, 68, 2))
    found = truth + rng.normal(size=truth.shape)
    each = [nme(a, b) for a, b in zip(found, truth)]
    assert np.allclose(nme(found, truth), each)
    assert np.allclose(nme(10 * found + 7, 10 * truth + 7), each)
    assert not np.allclose(nme(truth, found), each)


@pytest.mark.parametrize("shape", [(3, 2), (4, 3), (2, 4, 2)])
def test_nme_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="one shape"):
        nme(np.zeros(shape), np.zeros((4, 2)))


def test_nme_refuses_a_face_without_area():
    with pytest.raises(ValueError, match="no area"):
        nme(np.zeros((4, 2)), [[0, 0], [1, 0], [2, 0], [3, 0]])


def test_yaw_bins_close_on_the_right():
    assert yaw_bin([0, 30, -30, 30.01, 60, -60, 60.01, -90]).tolist() == [0, 0, 0, 1, 1, 1, 2, 2]


def test_both_means():
    result = binned_mean([1.0, 3.0, 5.0, 9.0], [0, -20, 45, -80])
    assert result == BinnedMean((2.0, 5.0, 9.0), (2, 1, 1), 16 / 3, 4.5)
    partial = binned_mean([1.0], [10])
    assert partial.counts == (1, 0, 0)
    assert partial.mean_of_faces == 1
    assert np.isnan(partial.mean_of_bins)


@pytest.mark.parametrize("degrees", [0.0, 1e-5, 3.0, 90.0, 179.0])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_geodesic_is_the_angle_of_the_turn(axis, degrees):
    base = turn(0, 20) @ turn(1, -50) @ turn(2, 10)
    assert geodesic_degrees(base, base @ turn(axis, degrees)) == pytest.approx(degrees, abs=1e-9)


def test_the_two_label_sets_disagree_as_published():
    data: Path = shared_data.require("aflw2000/landmarks.npz", skip=pytest.skip)
    with np.load(data, allow_pickle=False) as faces:
        original = faces["landmarks"][:, :2].transpose(0, 2, 1)
        again = faces["landmarks_reannotated"].transpose(0, 2, 1)
    assert nme(again, original).mean() == pytest.approx(2.99, abs=0.005)
