"""A second detector: the FaceLandmarker of the official ``mediapipe`` package, for Pythons that FaceMesh's wheel lacks.

Its model is not in the wheel. The user supplies a ``.task`` file (``face_landmarker.task`` from Google's MediaPipe
model page).
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import DetectionError
from ..image.sniff import not_a_photo
from .facemesh import import_mediapipe
from .pixels import face_from_normalised
from .protocol import DetectedFace, as_rgb, one_line
from .quiet import quiet_stderr
from .search import search_faces

__all__ = ["TasksDetector"]

_GET_MODEL = "download face_landmarker.task from https://ai.google.dev/edge/mediapipe/solutions/vision/face_landmarker"


def _check_model(path: Path) -> None:
    """A ``.task`` file is a ZIP archive; say what else was found."""
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "no such file"
        raise DetectionError(f"{path}: {found}; expected a FaceLandmarker model file; {_GET_MODEL}")
    try:
        with path.open("rb") as file:
            head = file.read(1000)
    except OSError as error:
        raise DetectionError(f"{path}: the model file cannot be read ({error}); check its permissions") from None
    if head[:4] != b"PK\x03\x04":
        reason = not_a_photo(head) or f"starts with {head[:8]!r}"
        reason = reason.replace("not a photo", "not a model").split(":")[0]
        raise DetectionError(
            f"{path}: expected a FaceLandmarker .task model (a ZIP archive), but {reason}; {_GET_MODEL}"
        )


class TasksDetector:
    """478 landmarks per face with MediaPipe's tasks API and a model file of the user's.

    Loaded at the first ``detect`` and used until ``close``; a context manager; threads wait for each other. The API
    gives no score per face (NaN) and no confidence per point (1 throughout).
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        *,
        max_num_faces: int = 20,
        min_detection_confidence: float = 0.5,
        longest: int = 1280,
        retry: bool = True,
        thorough: bool = False,
    ) -> None:
        """Check the model file; nothing is loaded yet. The options are those of ``FaceMeshDetector``.

        Raises:
            DetectionError: the model file is missing or is not a ``.task`` file, or an option is out of range.
        """
        self._model = Path(model_path)
        _check_model(self._model)
        if max_num_faces < 1:
            raise DetectionError(f"max_num_faces must be at least 1, found {max_num_faces}")
        if not 0.0 <= min_detection_confidence <= 1.0:
            raise DetectionError(f"min_detection_confidence must lie in [0, 1], found {min_detection_confidence}")
        if longest < 128:
            raise DetectionError(f"longest must be at least 128 pixels, found {longest}")
        self._max_num_faces = max_num_faces
        self._confidence = float(min_detection_confidence)
        self._longest = longest
        self._retry = retry
        self._thorough = thorough
        self._landmarker: Any = None
        self._mediapipe: Any = None
        self._closed = False
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """``"mediapipe-tasks"``."""
        return "mediapipe-tasks"

    def _load(self) -> None:
        try:
            self._mediapipe = import_mediapipe("mediapipe")
            tasks = import_mediapipe("mediapipe.tasks.python")
            vision = import_mediapipe("mediapipe.tasks.python.vision")
        except DetectionError as error:
            if "is missing)" not in str(error):
                raise
            raise DetectionError(
                f"the mediapipe package, needed for {self._model.name}, is not installed: `pip install "
                "mediapipe`, or give "
                "your own landmarks (see fitjax.landmark_files.read_landmarks)"
            ) from None
        with quiet_stderr():
            options = vision.FaceLandmarkerOptions(
                # The bytes, not the path: MediaPipe resolves paths by rules of its own.
                base_options=tasks.BaseOptions(model_asset_buffer=self._model.read_bytes()),
                num_faces=self._max_num_faces,
                min_face_detection_confidence=self._confidence,
            )
            self._landmarker = vision.FaceLandmarker.create_from_options(options)

    def _run(self, rgb: np.ndarray) -> list[DetectedFace]:
        """Faces of one view, without retries."""
        mp = self._mediapipe
        with quiet_stderr():
            result = self._landmarker.detect(mp.Image(image_format=mp.ImageFormat.SRGB, data=rgb))
        height, width = rgb.shape[:2]
        faces = []
        for landmarks in result.face_landmarks:
            if len(landmarks) not in (468, 478):
                raise ValueError(f"the model gives {len(landmarks)} landmarks, expected 478")
            xyz = np.array([(p.x, p.y, p.z) for p in landmarks])
            faces.append(face_from_normalised(xyz, width, height, float("nan")))
        return faces

    def detect(self, rgb: np.ndarray) -> list[DetectedFace]:
        """Faces in an (H, W, 3) uint8 sRGB image, sorted by box area, largest first; empty when there is none.

        Raises:
            DetectionError: a wrong shape or dtype, the package is missing, the model does not load, the detector was
                closed, or MediaPipe failed.
        """
        rgb = as_rgb(rgb)
        with self._lock:
            if self._closed:
                raise DetectionError("this TasksDetector was closed; make a new one")
            try:
                if self._landmarker is None:
                    self._load()
                return search_faces(self._run, rgb, longest=self._longest, retry=self._retry, thorough=self._thorough)
            except (RuntimeError, ValueError, AttributeError, OSError) as error:
                raise DetectionError(
                    f"MediaPipe's FaceLandmarker failed with {self._model} ({one_line(error)}); is it a "
                    "face_landmarker.task file? "
                    f"{_GET_MODEL}"
                ) from error

    def close(self) -> None:
        """Free the model; harmless when called twice."""
        with self._lock:
            landmarker, self._landmarker, self._closed = self._landmarker, None, True
            if landmarker is not None:
                with quiet_stderr():
                    landmarker.close()

    def __enter__(self) -> TasksDetector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
