"""The correction of FaceMesh's points: symmetric, harmless far out, checked on loading, and better than nothing on renders."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from fitjax.detect import DetectedFace
from fitjax.detect.correction import EMBEDDED, POINTS, Correction, Frame, Halves, correct, load_correction
from fitjax.errors import BasisError, LandmarkError


@pytest.fixture(scope="module")
def correction() -> Correction:
    return load_correction()


def posed(correction: Correction, pitch: float, yaw: float, roll: float) -> np.ndarray:
    """(478, 3) pixels and depth of the mean face under weak perspective; degrees."""
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_euler("ZXY", [roll, pitch, yaw], degrees=True).as_matrix()
    return correction.template @ turn.T @ np.diag([1.0, -1.0, -1.0]) * 1500 + [200.0, 220.0, 0.0]


def likely(correction: Correction, seed: int = 0) -> np.ndarray:
    """(478, 3) pixels and depth as the detector gives them for some turned face: random scores of the training faces."""
    rng = np.random.default_rng(seed)
    e, o = (0.6 * rng.normal(size=len(x)) for x in (correction.even, correction.odd))
    e[0], o[0] = -0.5, 1.2
    own = Halves.of(correction.mirror).join(e @ correction.even_back + correction.mean, o @ correction.odd_back)
    return own * 1200 + [200.0, 220.0, 0.0]


def as_face(points: np.ndarray) -> DetectedFace:
    return DetectedFace(
        points[:, :2], np.ones(POINTS), "mediapipe478", 0.9, (0.0, 0.0, 1.0, 1.0), np.array(points[:, 2])
    )


def test_a_mirrored_face_gets_the_mirrored_correction(correction: Correction) -> None:
    points = likely(correction)
    flipped = points[correction.mirror] * [-1, 1, 1] + [451, 0, 0]
    here, there = correct(as_face(points)), correct(as_face(flipped))
    assert np.abs(here.landmarks - points[:, :2]).mean() > 0.3
    expected = here.landmarks[correction.mirror] * [-1, 1] + [451, 0]
    np.testing.assert_allclose(there.landmarks, expected, atol=1e-3)
    np.testing.assert_allclose(there.depth, here.depth[correction.mirror], atol=1e-3)


def test_moving_turning_and_enlarging_the_picture_moves_the_correction(correction: Correction) -> None:
    points = likely(correction, 1)
    c, s = np.cos(0.7), np.sin(0.7)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    moved = 1.7 * points @ turn.T + [30, -12, 0]
    expected = 1.7 * correction.predict(points)[0] @ turn.T
    assert np.abs(expected).mean() > 0.3
    np.testing.assert_allclose(correction.predict(moved)[0], expected, atol=1e-3)


def test_far_from_the_training_faces_nothing_moves(correction: Correction) -> None:
    points = likely(correction)
    points = points + 40 * np.random.default_rng(1).normal(size=points.shape)
    moved, far = correction.predict(points)
    assert far > 2
    assert np.abs(moved).max() == 0
    np.testing.assert_array_equal(correct(as_face(points)).landmarks, points[:, :2])


def test_a_frontal_face_is_left_alone(correction: Correction) -> None:
    assert correction.gate[1] > correction.gate[0] > 0
    points = posed(correction, 0, correction.gate[0] - 1, 25)
    np.testing.assert_array_equal(correct(as_face(points)).landmarks, points[:, :2])


def test_what_else_a_face_carries_is_kept(correction: Correction) -> None:
    face = as_face(posed(correction, 0, 30, 0))
    found = correct(face)
    assert found.score == face.score and found.set_name == face.set_name and found.confidence is face.confidence
    assert found.box == (*found.landmarks.min(0), *found.landmarks.max(0))


def test_the_halves_add_up_and_keep_length(correction: Correction) -> None:
    halves = Halves.of(correction.mirror)
    value = np.random.default_rng(0).normal(size=(2, POINTS, 3))
    even, odd = halves.split(value)
    np.testing.assert_allclose(halves.join(even, odd), value, atol=1e-12)
    np.testing.assert_allclose(np.square(even).sum() + np.square(odd).sum(), np.square(value).sum())


def test_the_frame_knows_the_pose(correction: Correction) -> None:
    frame = Frame.of(posed(correction, 0, 35, 20), correction.template)
    assert abs(np.degrees(frame.yaw)) == pytest.approx(35, abs=0.01)
    assert np.degrees(frame.pitch) == pytest.approx(0, abs=0.01)
    assert frame.scale == pytest.approx(1500)


def test_it_is_fast(correction: Correction) -> None:
    face = as_face(posed(correction, 0, 30, 0))
    times = []
    for _ in range(20):
        start = time.perf_counter()
        correct(face)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.004


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"landmarks": np.zeros((68, 2)), "set_name": "ibug68"}, "478"),
        ({"depth": None}, "no depth"),
        ({"landmarks": np.full((POINTS, 2), np.nan)}, "not finite"),
        ({"landmarks": np.zeros((POINTS, 2))}, "one place"),
    ],
)
def test_what_cannot_be_corrected_is_refused(correction: Correction, change: dict, message: str) -> None:
    from dataclasses import replace

    with pytest.raises(LandmarkError, match=message):
        correct(replace(as_face(posed(correction, 0, 0, 0)), **change))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(BasisError, match="no such file"):
        load_correction(tmp_path / "absent.safetensors")
    path = tmp_path / "cut.safetensors"
    path.write_bytes(EMBEDDED.read_bytes()[:1000])
    with pytest.raises(BasisError, match="not a readable"):
        load_correction(path)
    path = tmp_path / "other.safetensors"
    shutil.copy(EMBEDDED, path)
    path.with_suffix(".json").write_text(json.dumps({"sha256": "0" * 64}))
    with pytest.raises(BasisError, match="differs from its record"):
        load_correction(path)


def test_a_field_of_the_wrong_shape_is_named(tmp_path: Path) -> None:
    import safetensors.numpy

    tensors = safetensors.numpy.load(EMBEDDED.read_bytes())
    path = tmp_path / "short.safetensors"
    safetensors.numpy.save_file(
        {**tensors, "template": tensors["template"][:9]}, path, {"format": "fitjax-correction/1"}
    )
    with pytest.raises(BasisError, match="'template': expected shape"):
        load_correction(path)
    safetensors.numpy.save_file({k: v for k, v in tensors.items() if k != "limits"}, path, {"format": "other"})
    with pytest.raises(BasisError, match="expected format"):
        load_correction(path := shutil.copy(path, tmp_path / "format.safetensors"))


def test_the_file_has_a_licence_and_is_small() -> None:
    record = json.loads(EMBEDDED.with_suffix(".json").read_text())
    assert record["licence"] == "CC0-1.0"
    assert record["bytes"] == EMBEDDED.stat().st_size <= 3.5e6


def test_faces_that_it_has_not_seen_get_better(correction: Correction) -> None:
    """Detections on held-out renders of turned heads, stored with the weights."""
    import safetensors.numpy

    tensors = safetensors.numpy.load(EMBEDDED.read_bytes())
    detected, true = tensors["check.detected"].astype(np.float64), tensors["check.true"].astype(np.float64)
    before = np.linalg.norm((detected - true)[..., :2], axis=-1).mean(-1)
    found = np.stack([correct(as_face(p)).landmarks for p in detected])
    after = np.linalg.norm(found - true[..., :2], axis=-1).mean(-1)
    assert len(before) >= 16
    assert after.mean() < 0.75 * before.mean()
    assert (after < before).mean() > 0.75
