"""Finding faces and their landmarks in a photo; the detector packages are imported only when one is used."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..errors import DetectionError
from .facemesh import FaceMeshDetector, import_mediapipe
from .protocol import DetectedFace, Detector
from .tasks import TasksDetector

if TYPE_CHECKING:
    from ..image.photo import Photo

__all__ = ["DetectedFace", "Detector", "FaceMeshDetector", "TasksDetector", "default_detector", "detect_faces"]


def default_detector(model_path: str | os.PathLike[str] | None = None) -> FaceMeshDetector | TasksDetector:
    """The detector that this installation can run.

    Args:
        model_path: a FaceLandmarker ``.task`` file: then the tasks API is used. Without it, FaceMesh.

    Raises:
        DetectionError: nothing usable is installed; the message says what to install.
    """
    if model_path is not None:
        return TasksDetector(model_path)
    try:
        import_mediapipe("mediapipe.python.solutions.face_mesh")
    except DetectionError as error:
        if "has no module" not in str(error):
            raise
        raise DetectionError(
            "the installed mediapipe is the official package, which has no models inside: give the path of a "
            'face_landmarker.task file (model_path), or `pip uninstall mediapipe` and `pip install "fitjax[detect]"` '
            "(Python 3.11 or 3.12), or give your own landmarks"
        ) from None
    return FaceMeshDetector()


def detect_faces(photo: Photo, detector: Detector | None = None) -> list[DetectedFace]:
    """The faces of a photo, largest first; at least one.

    Args:
        photo: from ``fitjax.image.read_photo``.
        detector: any ``Detector``; None makes a ``default_detector`` for this call. Give one to reuse it.

    Raises:
        DetectionError: no face was found (names the photo), or the detector is missing or failed.
    """
    if detector is None:
        with default_detector() as own:
            return detect_faces(photo, own)
    faces = detector.detect(photo.rgb)
    if not faces:
        raise DetectionError(
            f"{photo.path}: no face found in the {photo.width} x {photo.height} image by {detector.name}; use a "
            "photo with a face of at least 60 pixels, crop around it, or give your own landmarks"
        )
    return faces
