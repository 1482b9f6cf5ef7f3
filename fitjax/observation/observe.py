"""From a photo to observations: detect faces, or take the user's own landmarks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from fitjax.detect import DetectedFace, Detector, detect_faces
from fitjax.detect.landmark_checks import check_landmarks
from fitjax.errors import FitjaxError, LandmarkError
from fitjax.geometry.camera import Camera, CameraKind, make_camera
from fitjax.image.photo import Photo, photo_from_array, read_photo
from fitjax.landmark_files import LandmarkFile
from fitjax.observation.observation import Observation, make_observation


def as_photo(source: Any) -> Photo:
    """A photo from a path, a :class:`Photo` or an RGB array.

    Raises:
        ImageError: it cannot be read. FitjaxError: it is none of these.
    """
    if isinstance(source, Photo):
        return source
    if isinstance(source, str | os.PathLike):
        return read_photo(source)
    if isinstance(source, np.ndarray) or hasattr(source, "__array__"):
        return photo_from_array(np.asarray(source))
    raise FitjaxError(f"photo: expected a path, a Photo, an array or an Observation, found {type(source).__name__}")


def photo_camera(photo: Photo, *, focal_px: float | None = None, kind: CameraKind = "perspective") -> Camera:
    """Camera of a photo: the given focal length, else the one from EXIF, else the default field of view."""
    return make_camera(photo.width, photo.height, focal=focal_px or photo.focal_px, kind=kind)


def observe_detected(photo: Photo, face: DetectedFace, camera: Camera) -> Observation:
    """Observation of one detected face."""
    name = face.set_name
    depth = None if face.depth is None else {name: face.depth}
    return make_observation({name: face.landmarks}, camera, confidence={name: face.confidence}, depth=depth)


def observe_landmarks(photo: Photo, given: LandmarkFile, camera: Camera, what: str = "landmarks") -> Observation:
    """Observation from the user's own landmarks.

    Raises:
        LandmarkError: mirrored, collinear, outside the photo or too few.
    """
    check_landmarks(given.points, given.valid, given.set_name, (photo.width, photo.height), what=what)
    name = given.set_name
    return make_observation({name: given.points}, camera, confidence={name: given.confidence}, valid={name: given.valid})


def observe(
    source: Any,
    *,
    landmarks: LandmarkFile | Mapping[str, Any] | None = None,
    detector: Detector | None = None,
    camera: Camera | None = None,
    kind: CameraKind = "perspective",
) -> tuple[Observation, tuple[str, ...]]:
    """Observation of the largest face of a photo, and warnings.

    Args:
        source: path, :class:`Photo` or (H, W, 3) RGB array.
        landmarks: the user's own, from :func:`fitjax.read_landmarks` or ``{set name: (N, 2) pixels}``; nothing is detected then.
        detector: default FaceMesh. camera: default from EXIF or 40 degrees along the longer side.

    Raises:
        ImageError, DetectionError, LandmarkError: the photo cannot be read, shows no face, or the landmarks are not those of a face.
    """
    photo = as_photo(source)
    camera = photo_camera(photo, kind=kind) if camera is None else camera
    if isinstance(landmarks, LandmarkFile):
        return observe_landmarks(photo, landmarks, camera), photo.warnings
    if landmarks is not None:
        if not isinstance(landmarks, Mapping):
            raise LandmarkError("landmarks: expected {'ibug68': (68, 2) pixels} or the result of read_landmarks")
        return make_observation(landmarks, camera), photo.warnings
    faces = detect_faces(photo, detector)
    warnings = photo.warnings
    if len(faces) > 1:
        warnings = (*warnings, f"{photo.path}: {len(faces)} faces found, the largest is fitted; use --all-faces for each")
    return observe_detected(photo, faces[0], camera), warnings
