"""Dense errors with hand-made answers."""

import numpy as np
import pytest

from fitjax.errors import FitjaxError
from fitjax.evaluate.dense import align_by_reach, dense_nme, reconstruction_nme
from fitjax.evaluate.dense_maps import add_dense, read_texels
from fitjax.evaluate.report import Evaluation

#: Four corners of a 40 × 90 rectangle, sqrt(w h) = 60, at different depths.
TRUTH = np.array([[[0.0, 0, 5], [40, 0, -3]], [[0, 90, 1], [40, 90, 1]]])


def test_dense_nme_by_hand():
    found = TRUTH.copy()
    found[0, 0] += [3, 4, 0]
    # Distances 5, 0, 0, 0: mean 1.25 of 60.
    assert dense_nme(found, TRUTH) == pytest.approx(100 * 1.25 / 60)
    # A common depth is nobody's fault; a shift in the image is.
    assert dense_nme(found + np.array([0, 0, 17]), TRUTH) == pytest.approx(100 * 1.25 / 60)
    assert dense_nme(TRUTH + np.array([6, 0, 0]), TRUTH) == pytest.approx(10)


def test_dense_nme_counts_depth_without_its_mean():
    found = TRUTH.copy()
    found[0, 0, 2] += 8
    # Depth differences 8, 0, 0, 0 become 6, -2, -2, -2: mean 3 of 60 is 5 %.
    assert dense_nme(found, TRUTH) == pytest.approx(5)


def test_the_mask_decides_points_box_and_mean_depth():
    mask = np.array([[1, 1], [1, 0]])
    found = TRUTH.copy()
    found[1, 1] = 1e6
    assert dense_nme(found, TRUTH, mask) == 0
    found[0, 0] += [3, 4, 0]
    assert dense_nme(found, TRUTH, mask) == pytest.approx(100 * (5 / 3) / 60)


def test_reconstruction_forgives_a_similarity():
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(16, 16, 3)) * [40, 50, 20]
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    corners = np.array([[0.0, 0, 0], [30, 40, 0]])
    moved = 0.3 * truth @ turn.T + [5, -7, 9]
    assert reconstruction_nme(moved, truth, corners) == pytest.approx(0, abs=1e-10)
    assert dense_nme(moved, truth) > 10


def test_reconstruction_by_hand():
    """Points on a line: the scale is the ratio of the summed distances from the first point, not the least-squares one."""
    truth = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]])
    found = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [9, 0, 0]])
    # Reach 12 against 6: scaled by 1/2 to 0, .5, 1, 4.5; means 1.5 and 1.5. Differences 0, .5, 1, 1.5: mean .75, over an eye distance of 5.
    assert np.allclose(align_by_reach(found, truth)[:, 0], [0, 0.5, 1, 4.5])
    assert reconstruction_nme(found, truth, [[0, 0, 0], [3, 4, 0]]) == pytest.approx(15)


def test_alignment_never_mirrors():
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(50, 3))
    assert np.linalg.norm(align_by_reach(truth * [-1, 1, 1], truth) - truth, axis=1).mean() > 0.3


@pytest.mark.parametrize(
    ("found", "truth", "mask", "says"),
    [
        (np.zeros((4, 4, 3)), np.zeros((4, 5, 3)), None, "one shape"),
        (np.zeros((4, 4, 3)), np.zeros((4, 4, 3)), None, "no area"),
        (np.full((2, 2, 3), np.nan), TRUTH, None, "not finite"),
        (TRUTH, TRUTH, np.zeros((2, 2)), "mask"),
    ],
)
def test_bad_maps(found, truth, mask, says):
    with pytest.raises(ValueError, match=says):
        dense_nme(found, truth, mask)


def test_folders_of_maps(tmp_path):
    rng = np.random.default_rng(3)
    truth = rng.uniform(0, 200, (8, 9, 3))
    for folder in ("found", "true"):
        (tmp_path / folder).mkdir()
    for name, shift in (("a", 0.0), ("b", 4.0)):
        np.save(tmp_path / "true" / f"{name}.npy", truth)
        np.save(tmp_path / "found" / f"{name}.npy", truth + np.array([shift, 0, 0]))
    np.save(tmp_path / "true" / "c.npy", truth)
    np.save(tmp_path / "mask.npy", np.ones((8, 9)))
    texels = np.zeros((68, 2), int)
    texels[36], texels[45] = (1, 2), (5, 7)
    np.savetxt(tmp_path / "texels.txt", texels[:, ::-1].T)  # PRNet's two lines: columns, then rows
    assert np.array_equal(read_texels(tmp_path / "texels.txt"), texels)
    evaluation = Evaluation("aflw2000", "", [], 3)
    add_dense(evaluation, tmp_path / "found", tmp_path / "true", tmp_path / "mask.npy", tmp_path / "texels.txt")
    found = evaluation.results["dense"]
    box = np.sqrt(np.ptp(truth[..., 0]) * np.ptp(truth[..., 1]))
    assert found["faces"] == pytest.approx({"a": 0, "b": 400 / box})
    assert found["nme"] == pytest.approx(200 / box)
    assert found["reconstruction"] == pytest.approx(0, abs=1e-10)
    assert found["missing"] == ["c"]
    np.save(tmp_path / "found" / "a.npy", truth[:4])
    with pytest.raises(FitjaxError, match=r"a\.npy against .*one shape"):
        add_dense(evaluation, tmp_path / "found", tmp_path / "true", tmp_path / "mask.npy", None)
