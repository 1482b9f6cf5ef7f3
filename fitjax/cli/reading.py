"""Reading one photo and finding its faces: what may run in another process. Knows NumPy alone; JAX would take the accelerator there."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from fitjax.cli.archives import Member
from fitjax.cli.beside import file_of
from fitjax.detect import DetectedFace, Detector, detect_faces
from fitjax.errors import FitjaxError, ImageError, LandmarkError
from fitjax.image.photo import Photo, photo_from_bytes, read_photo
from fitjax.landmark_files import LandmarkFile, read_landmarks

LANDMARK_ENDINGS = (".pts", ".npy", ".json")
LABEL_ENDINGS = (".png", ".npy")


@dataclass(frozen=True)
class Beside:
    """Where the files are that go with photos: one file, or a folder with one for each; None: there are none. ``boxed``: nothing is detected."""

    landmarks: Path | None = None
    mask: Path | None = None
    labels: Path | None = None
    boxed: bool = False

    def files(self, photo: Path | Member) -> list[Path | None]:
        """The files of a photo; None for one that is expected and not there."""
        kinds = ((self.landmarks, LANDMARK_ENDINGS), (self.mask, (".png",)), (self.labels, LABEL_ENDINGS))
        return [file_of(photo, given, endings) for given, endings in kinds if given is not None]


@dataclass(frozen=True)
class Task:
    """A photo to read.

    Attributes:
        name: of its result. done: content for which there is a result already, or None.
    """

    path: Path | Member
    name: str
    done: str | None = None


@dataclass
class ReadPhoto:
    """A photo with its faces, or why there are none.

    Attributes:
        content: hash of all its files, or None where one cannot be read. done: its result is there already; nothing more was read.
        photo: the pixels. faces: as detected, largest first. landmarks: the user's own with their file, instead of faces.
        mask: (height, width) 0 to 1. labels: label map with its file. error: one line.
    """

    task: Task
    content: str | None = None
    done: bool = False
    photo: Photo | None = None
    faces: list[DetectedFace] = field(default_factory=list)
    landmarks: tuple[LandmarkFile, Path] | None = None
    mask: np.ndarray | None = None
    labels: tuple[np.ndarray, Path] | None = None
    error: str | None = None
    timings: dict[str, float] = field(default_factory=dict)


def content_hash(files: Sequence[Path | Member | None]) -> str | None:
    """What decides that a photo is the same as before: sha256 of the file, or of the hashes of all files that go with it."""
    digests = []
    for path in files:
        try:
            if isinstance(path, Member):
                digests.append(hashlib.sha256(path.read()).hexdigest())
                continue
            if path is None or not path.is_file():
                return None
            with open(path, "rb") as stream:
                digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
        except (OSError, ValueError, ImageError):
            return None
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()


def read_task(task: Task, beside: Beside, detector: Detector | None) -> ReadPhoto:
    """Read a photo and what goes with it; what is wrong with it is an entry of the result, not an exception."""
    began = time.perf_counter()
    content = content_hash([task.path, *beside.files(task.path)])
    # The bytes of a member stay here: they are not sent back.
    result = ReadPhoto(replace(task, path=replace(task.path, data=b"")) if isinstance(task.path, Member) and task.path.data else task, content)
    if content is not None and content == task.done:
        result.done = True
        return result
    try:
        photo = photo_from_bytes(task.path.read(), str(task.path)) if isinstance(task.path, Member) else read_photo(task.path)
        read = time.perf_counter()
        if beside.landmarks is not None:
            file = find_landmarks(task.path, beside.landmarks)
            result.landmarks = read_landmarks(file), file
        elif not beside.boxed:
            result.faces = detect_faces(photo, detector)
        if beside.labels is not None:
            # Imported here: it knows JAX, which the process need not start for photos alone.
            from fitjax.cli.label_maps import find_labels, read_labels

            found = find_labels(task.path, beside.labels)
            result.labels = read_labels(found), found
        if beside.mask is not None:
            result.mask = read_mask(find_mask(task.path, beside.mask), photo)
    except FitjaxError as error:
        result.error = str(error)
        result.timings = {"read": time.perf_counter() - began}
        return result
    result.photo = photo
    result.timings = {"read": read - began, "detect": time.perf_counter() - read}
    return result


def find_landmarks(photo: Path | Member, landmarks: Path) -> Path:
    """The landmark file of a photo: the file itself, or the one of the photo's stem in a folder.

    Raises:
        LandmarkError: the folder has none.
    """
    found = file_of(photo, landmarks, LANDMARK_ENDINGS)
    if found is None:
        raise LandmarkError(f"{landmarks}: no landmarks for {photo.name}; expected {photo.stem}.pts, .npy or .json")
    return found


def find_mask(photo: Path | Member, mask: Path) -> Path:
    """The mask of a photo: the file itself, or <stem>.png in a folder.

    Raises:
        ImageError: the folder has none.
    """
    found = file_of(photo, mask, (".png",))
    if found is None:
        raise ImageError(f"{mask}: no mask for {photo.name}; expected {photo.stem}.png")
    return found


def read_mask(path: Path, photo: Photo) -> np.ndarray:
    """(height, width) 0 to 1, the mean of the picture's channels.

    Raises:
        ImageError: no such picture, or one of another size than the photo.
    """
    picture = read_photo(path)
    if (picture.width, picture.height) != (photo.width, photo.height):
        raise ImageError(
            f"{path}: expected a mask of the photo's size {photo.width} × {photo.height}, found {picture.width} × {picture.height}"
        )
    return picture.rgb.mean(-1, dtype=np.float32) / 255
