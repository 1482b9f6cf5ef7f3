"""Landmarks of many faces in one ``.npz``, without photos."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fitjax.cli.jobs import Job
from fitjax.detect.landmark_checks import SET_COUNTS, check_landmarks, set_for_count
from fitjax.errors import LandmarkError
from fitjax.geometry.camera import Camera, CameraKind, default_focal
from fitjax.observation.observation import PARTIAL_SETS, SET_SIZES, LandmarkObservation, Observation, face_box

ENDING = ".npz"


@dataclass(frozen=True)
class PackedLandmarks:
    """Landmarks of N faces.

    Attributes:
        points: (N, K, 2) float32 pixels, NaN where a face has none. confidence: (N, K), 0 where a point is missing.
        set_name: of all faces. names: of their results.
    """

    points: np.ndarray
    confidence: np.ndarray
    set_name: str
    names: tuple[str, ...]


def read_packed_landmarks(path: Path, set_name: str | None = None) -> PackedLandmarks:
    """Read ``.npz``: ``landmarks`` or ``points`` or an array with the name of a set, (N, K, 2), or (N, 2 or 3, K) as AFLW2000-3D's are stored (the
    third is depth, which is not used); if it likes, ``confidence`` (N, K) from 0 to 1, and ``names`` (N,) of text.

    Args:
        set_name: the landmark set; default the name of the array, else by the count.

    Raises:
        LandmarkError: a missing or damaged file, or arrays of other shapes.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            wanted = [k for k in (*SET_COUNTS, "landmarks", "points") if k in data]
            if set_name in wanted:
                wanted = [set_name]
            if not wanted:
                raise LandmarkError(f"{path}: expected an array 'landmarks' (N, 68, 2), found {', '.join(data) or 'none'}")
            array = np.asarray(data[wanted[0]])
            confidence = np.asarray(data["confidence"], np.float32) if "confidence" in data else None
            names = tuple(map(str, data["names"])) if "names" in data else None
    except FileNotFoundError:
        raise LandmarkError(f"{path}: no such file; expected landmarks of many faces (.npz)") from None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise LandmarkError(f"{path}: not a readable .npz ({' '.join(str(error).split())}); write it with numpy.savez") from None
    what = f"{path}: {wanted[0]}"
    if array.ndim == 3 and array.shape[2] != 2 and array.shape[1] in (2, 3):
        array = array.swapaxes(1, 2)[..., :2]
    if array.ndim != 3 or array.shape[2] != 2 or array.dtype.kind not in "fiu" or not len(array):
        raise LandmarkError(f"{what}: expected numbers (N, K, 2), found {array.dtype} {array.shape}")
    count = array.shape[1]
    name = set_name or (wanted[0] if wanted[0] in SET_COUNTS else set_for_count(count, what))
    if SET_COUNTS.get(name) != count:
        known = ", ".join(f"{k} ({n})" for k, n in SET_COUNTS.items())
        raise LandmarkError(f"{what}: {count} points are not the set {name!r}; expected one of {known}")
    shape = array.shape[:2]
    confidence = np.ones(shape, np.float32) if confidence is None else confidence
    if confidence.shape != shape or not ((confidence >= 0) & (confidence <= 1)).all():
        raise LandmarkError(f"{path}: confidence: expected numbers from 0 to 1 of shape {shape}, found shape {confidence.shape}")
    names = names or tuple(f"{path.stem}_{i:0{len(str(len(array) - 1))}d}" for i in range(len(array)))
    if len(names) != len(array) or len(set(names)) != len(names):
        raise LandmarkError(f"{path}: names: expected {len(array)} different names, found {len(set(names))}")
    return PackedLandmarks(array.astype(np.float32), confidence, name, names)


def packed_jobs(
    path: Path,
    given: PackedLandmarks,
    image_size: tuple[int, int] | None,
    kind: CameraKind,
    focal: float | None,
    wanted: Container[str] | None = None,
) -> Iterator[Job]:
    """A job per face; what cannot be a face says so. Observations hold NumPy arrays: tiny arrays on a device would cost more than the fits.

    Args:
        image_size: (width, height) of the pictures in pixels; None: as if each face filled half of one.
        wanted: names of those to make; None: all.
    """
    for i, name in enumerate(given.names):
        if wanted is not None and name not in wanted:
            continue
        points, confidence = given.points[i], given.confidence[i]
        source = f"{path}[{i}]"
        digest = hashlib.sha256(points.tobytes() + confidence.tobytes())
        digest.update(f"{given.set_name} {image_size}".encode())
        valid = confidence > 0
        size, error, observation = image_size or (0, 0), None, None
        try:
            check_landmarks(points, valid, given.set_name, image_size, what=f"{path}: face {i} ({name})")
            observation, size = _observation(given.set_name, points, confidence, valid, image_size, kind, focal)
        except LandmarkError as found:
            error = str(found)
        yield Job(source, name, None, observation, error, (), {}, name, 0, 1, digest.hexdigest(), size)


def _observation(
    name: str,
    points: np.ndarray,
    confidence: np.ndarray,
    valid: np.ndarray,
    image_size: tuple[int, int] | None,
    kind: CameraKind,
    focal: float | None,
) -> tuple[Observation, tuple[int, int]]:
    """What `fitjax.make_observation` makes, on the host; and the size of the picture."""
    points = np.where(valid[:, None], points, 0)
    centre, face_size = face_box(points, valid)
    if image_size is None:
        side = int(2 * max(face_size, 1.0))
        width, height, middle = side, side, np.asarray(centre, np.float32)
    else:
        width, height = image_size
        middle = np.array([(width - 1) / 2, (height - 1) / 2], np.float32)
    camera = Camera(np.full(2, focal or default_focal(width, height), np.float32), middle, np.eye(2, 3, dtype=np.float32), kind)  # type: ignore[arg-type]
    if name in PARTIAL_SETS:
        name, first = PARTIAL_SETS[name]
        around = (first, SET_SIZES[name] - first - len(points))
        points, confidence, valid = np.pad(points, (around, (0, 0))), np.pad(confidence, around), np.pad(valid, around)
    nowhere = np.zeros(len(points), np.float32)
    seen = LandmarkObservation(points, confidence, valid, nowhere, nowhere > 0)  # type: ignore[arg-type]
    leaves = np.asarray(centre, np.float32), np.float32(face_size), np.bool_(True)
    return Observation({name: seen}, camera, *leaves), (width, height)  # type: ignore[arg-type]
