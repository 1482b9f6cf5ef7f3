"""Pose errors against a plain oracle of the convention, and against figures worked out by hand."""

from math import acos, atan2, cos, degrees, radians, sin

import jax.numpy as jnp
import numpy as np
import pytest

from fitjax.evaluate.pose import degrees_from_rotation, pose_errors, rotation_from_degrees, within_limits
from fitjax.geometry.rotation import rotation_from_aflw2000


def oracle(pitch, yaw, roll):
    """R = Rx Ry Rz as the data set's own tools write it out (y up, z towards the viewer), by plain sums."""
    c, s = cos(radians(pitch)), sin(radians(pitch))
    rx = [[1, 0, 0], [0, c, s], [0, -s, c]]
    c, s = cos(radians(yaw)), sin(radians(yaw))
    ry = [[c, 0, -s], [0, 1, 0], [s, 0, c]]
    c, s = cos(radians(roll)), sin(radians(roll))
    rz = [[c, s, 0], [-s, c, 0], [0, 0, 1]]

    def product(a, b):
        return [[sum(a[i][k] * b[k][j] for k in range(3)) for j in range(3)] for i in range(3)]

    return product(product(rx, ry), rz)


ANGLES = [(0, 0, 0), (10, 0, 0), (0, 25, 0), (0, 0, -40), (20, -55, 15), (-30, 80, 60), (5, 89, -70)]


@pytest.mark.parametrize("angles", ANGLES)
def test_rotation_is_the_conventions(angles):
    up = np.diag([1, -1, -1]) @ rotation_from_degrees(angles)
    assert np.allclose(up, oracle(*angles), atol=1e-14)
    # The inverse by the published formulas, on the oracle.
    r = oracle(*angles)
    by_hand = degrees(atan2(r[1][2], r[2][2])), degrees(-np.arcsin(r[0][2])), degrees(atan2(r[0][1], r[0][0]))
    assert np.allclose(by_hand, angles, atol=1e-9)
    assert np.allclose(degrees_from_rotation(rotation_from_degrees(angles)), angles, atol=1e-9)


def test_positive_yaw_turns_the_nose_to_the_images_left_and_positive_pitch_lifts_it():
    nose = np.array([0.0, 0.0, 1.0])  # head space: out of the face
    assert (rotation_from_degrees([0, 30, 0]) @ nose)[0] == pytest.approx(-0.5)
    assert (rotation_from_degrees([30, 0, 0]) @ nose)[1] == pytest.approx(
        -0.5
    )  # camera space: y down, so up is negative


def test_the_fits_own_convention_is_the_same():
    angles = np.array(ANGLES, np.float32)
    assert np.allclose(
        rotation_from_aflw2000(jnp.asarray(np.radians(angles))), rotation_from_degrees(angles), atol=1e-6
    )


def test_errors_by_hand():
    truth = np.array([[0, 0, 0], [10, 20, -30], [0, 99.0, 0], [0, 0, 99.1], [np.nan] * 3])
    found = truth + np.array([[3, -6, 9], [-1, 2, -3], [2, 4, 6], [1, 1, 1], [0, 0, 0]])
    errors = pose_errors(found, truth)
    # Three faces count: 99 is within the limit, 99.1 is not, the last has no truth. |errors|: (3, 6, 9), (1, 2, 3), (2, 4, 6).
    assert errors.faces == 3
    assert (errors.pitch, errors.yaw, errors.roll, errors.mean) == pytest.approx((2, 4, 6, 4))
    assert np.isnan(errors.each[3:]).all()
    assert pose_errors(found, truth, [True, False, False, False, False]).faces == 2


def test_no_wrap_around():
    assert pose_errors([[0, 0, -95.0]], [[0, 0, 95.0]]).roll == pytest.approx(190)


def test_geodesic_is_the_angle_of_the_relative_rotation():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(-80, 80, (2, 40, 3))
    errors = pose_errors(a, b)
    for k in range(40):
        relative = np.array(oracle(*a[k])) @ np.array(oracle(*b[k])).T
        assert errors.each[k, 3] == pytest.approx(degrees(acos(np.clip((np.trace(relative) - 1) / 2, -1, 1))), abs=1e-6)
    assert errors.geodesic == pytest.approx(errors.each[:, 3].mean())


def test_euler_errors_inflate_near_profile_and_the_geodesic_does_not():
    """Half a degree about the axis that pitch and roll share at yaw 90°: the angles jump, the rotation hardly moves."""
    truth = np.array([[0.0, 89.9, 0.0]])
    turn = rotation_from_degrees([0.5, 0, 0])
    up = np.diag([1, -1, -1])
    found = degrees_from_rotation(up @ (oracle(0, 89.9, 0) @ (up @ turn)))
    errors = pose_errors(found[None] if found.ndim == 1 else found, truth)
    assert errors.geodesic == pytest.approx(0.5, abs=1e-6)
    assert errors.pitch + errors.roll > 10


def test_limits():
    assert within_limits([[99, -99, 99], [99.01, 0, 0], [0, -100, 0], [np.nan, 0, 0]]).tolist() == [
        True,
        False,
        False,
        False,
    ]


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"\(N, 3\)"):
        pose_errors(np.zeros((2, 3)), np.zeros((3, 3)))
    nobody = pose_errors([[np.nan] * 3], [[0, 0, 0]])
    assert nobody.faces == 0 and np.isnan(nobody.mean)
