"""From the command line's inputs to a list of faces to fit: files, output names, detection.

What is wrong with one photo is an entry of the list, not an exception: the others are fitted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fitjax.cli.beside import file_of
from fitjax.cli.label_maps import face_mask, find_labels, observe_labels, read_labels
from fitjax.detect import Detector, detect_faces
from fitjax.errors import FitjaxError, ImageError, LandmarkError
from fitjax.files.result import check_result_folder
from fitjax.geometry.camera import CameraKind
from fitjax.image.photo import Photo, read_photo
from fitjax.landmark_files import read_landmarks
from fitjax.observation.crop import with_image
from fitjax.observation.observation import Observation
from fitjax.observation.observe import observe_detected, observe_landmarks, photo_camera
from fitjax.observation.part_tables import LabelTable

PHOTO_ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".jp2", ".avif", ".tga", ".mpo"),
)
LANDMARK_ENDINGS = (".pts", ".npy", ".json")


@dataclass
class Job:
    """One face to fit, or one photo that failed.

    Attributes:
        source: the photo's path. name: folder name of the result.
        observation, photo: set unless ``error`` says why not.
    """

    source: Path
    name: str
    photo: Photo | None = None
    observation: Observation | None = None
    error: str | None = None
    warnings: tuple[str, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)


def find_photos(inputs: list[Path]) -> list[Path]:
    """Photos in the order given; folders contribute their photos sorted by name.

    Raises:
        ImageError: nothing was given, or a folder holds no photo. A missing file is left to its own job.
    """
    photos: list[Path] = []
    for path in inputs:
        if path.is_dir():
            inside = _photos_inside(path)
            if not inside:
                raise ImageError(
                    f"{path}: the folder holds no photo; expected files ending in {', '.join(PHOTO_ENDINGS)}; name another"
                )
            photos.extend(inside)
        else:
            photos.append(path)
    if not photos:
        raise ImageError("inputs: expected at least one photo or folder; see fitjax fit --help")
    return photos


def _photos_inside(folder: Path) -> list[Path]:
    """Hidden files are left out: macOS leaves ``._photo.jpg`` beside each photo on foreign disks."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise ImageError(f"{folder}: the folder cannot be read ({error.strerror}); check its permissions") from None
    return [p for p in entries if p.suffix.lower() in PHOTO_ENDINGS and not p.name.startswith(".") and p.is_file()]


def output_names(photos: list[Path]) -> list[str]:
    """A folder name per photo: its stem, with the ending or a number added where two photos share it."""
    names: list[str] = []
    taken: set[str] = set()
    stems = [p.stem.casefold() for p in photos]
    for path, stem in zip(photos, stems):
        name = path.stem or "photo"
        if stems.count(stem) > 1:
            name = f"{name}_{path.suffix.lstrip('.').lower()}"
        candidate, number = name, 2
        # Some file systems ignore case, so the comparison does too.
        while candidate.casefold() in taken:
            candidate, number = f"{name}_{number}", number + 1
        taken.add(candidate.casefold())
        names.append(candidate)
    return names


def find_landmarks(photo: Path, landmarks: Path) -> Path:
    """The landmark file of a photo: the file itself, or the one of the photo's stem in a folder.

    Raises:
        LandmarkError: the folder has none.
    """
    found = file_of(photo, landmarks, LANDMARK_ENDINGS)
    if found is None:
        raise LandmarkError(f"{landmarks}: no landmarks for {photo.name}; expected {photo.stem}.pts, .npy or .json")
    return found


def find_mask(photo: Path, mask: Path) -> Path:
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


def make_jobs(
    path: Path,
    name: str,
    *,
    out: Path,
    detector: Detector | None,
    landmarks: Path | None,
    all_faces: bool,
    camera_kind: CameraKind,
    focal: float | None,
    pixels: bool = False,
    mask: Path | None = None,
    labels: Path | None = None,
    table: LabelTable | None = None,
) -> Iterator[Job]:
    """The faces of one photo; exactly one failed job if it cannot be used, or its result could not be written.

    Args:
        pixels: observations get a crop of the photo. mask: picture, or folder of pictures, of what of the photo shows the face.
        labels: label map of a face parser, or folder of maps, with its table.
    """
    began = time.perf_counter()
    try:
        if not all_faces:
            check_result_folder(out / name)
        photo = read_photo(path)
        read = time.perf_counter()
        camera = photo_camera(photo, focal_px=focal, kind=camera_kind)
        if landmarks is not None:
            file = find_landmarks(path, landmarks)
            observations = [observe_landmarks(photo, read_landmarks(file), camera, str(file))]
        else:
            observations = [observe_detected(photo, face, camera) for face in detect_faces(photo, detector)]
        if all_faces:
            for i in range(len(observations)):
                check_result_folder(out / f"{name}_face{i + 1}")
        else:
            others, observations = len(observations) - 1, observations[:1]
        shown = None
        if labels is not None and table is not None:
            found = find_labels(path, labels)
            label_map = read_labels(found)
            observations = [observe_labels(o, photo, label_map, table, found) for o in observations]
            shown = face_mask(label_map, table, photo) if pixels else None
        if mask is not None:  # drawn by hand: it comes before a parser's
            shown = read_mask(find_mask(path, mask), photo)
        if pixels:
            observations = [with_image(o, photo, mask=shown) for o in observations]
        timings = {"read": read - began, "detect": time.perf_counter() - read}
    except FitjaxError as error:
        yield Job(path, name, error=str(error), timings={"read": time.perf_counter() - began})
        return
    warnings = photo.warnings
    if not all_faces and others > 0:
        warnings = (*warnings, f"{path}: {others + 1} faces found, the largest is fitted; --all-faces fits each")
    for i, observation in enumerate(observations):
        label = f"{name}_face{i + 1}" if all_faces else name
        yield Job(path, label, photo, observation, None, warnings, timings)
