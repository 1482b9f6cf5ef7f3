"""Label maps of a face parser, from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from fitjax.cli.archives import Member
from fitjax.cli.beside import file_of
from fitjax.errors import FitjaxError, ImageError
from fitjax.image.photo import Photo
from fitjax.observation.observation import Observation
from fitjax.observation.part_tables import LabelTable, as_table
from fitjax.observation.segmentation import with_parts

LABEL_ENDINGS = (".png", ".npy")


def find_labels(photo: Path | Member, labels: Path) -> Path:
    """The label map of a photo: the file itself, or the one of the photo's stem in a folder.

    Raises:
        ImageError: the folder has none.
    """
    found = file_of(photo, labels, LABEL_ENDINGS)
    if found is None:
        raise ImageError(f"{labels}: no label map for {photo.name}; expected {photo.stem}.png or .npy")
    return found


def read_labels(path: Path) -> np.ndarray:
    """(H, W) integers: a picture with one channel whose values (or palette indices) are the labels, or an array of NumPy.

    Raises:
        ImageError: no such file, or none of the two.
    """
    expected = "expected a .png with one channel (grey or palette) or a .npy of integers (H, W), one label per pixel"
    try:
        if path.suffix.lower() == ".npy":
            labels = np.load(path, allow_pickle=False)
        else:
            with Image.open(path) as picture:
                if picture.mode not in ("L", "P", "1", "I", "I;16"):
                    raise ImageError(f"{path}: {expected}, found a picture of mode {picture.mode}")
                labels = np.asarray(picture)
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file; {expected}") from None
    except (OSError, SyntaxError, ValueError, EOFError, UnidentifiedImageError) as error:
        raise ImageError(f"{path}: cannot be read ({' '.join(str(error).split())}); {expected}") from None
    if labels.ndim != 2 or not (np.issubdtype(labels.dtype, np.integer) or labels.dtype == bool):
        raise ImageError(f"{path}: {expected}, found shape {labels.shape} of {labels.dtype}")
    return labels.astype(np.int32)


def read_table(name: str) -> LabelTable:
    """A table by name, or from a JSON file ``{"nose": 10, "skin": [1, 17], ..., "other": [0, 2]}``.

    Raises:
        FitjaxError: an unknown name, no such file or a wrong table.
    """
    if not name.lower().endswith(".json"):
        return as_table(name)
    try:
        content: Any = json.loads(Path(name).read_text())
    except (OSError, ValueError) as error:
        raise FitjaxError(f"--label-table {name}: cannot be read ({error}); expected a JSON object of parts and labels") from None
    return as_table(content)


def observe_labels(
    observation: Observation, photo: Photo, labels: np.ndarray, table: LabelTable, path: Path
) -> Observation:
    """The observation with the parts of the label map of ``path``, which covers the photo at any resolution.

    Raises:
        FitjaxError: the map shows no part; the message names the file.
    """
    try:
        return with_parts(observation, labels, table, image_size=(photo.width, photo.height))
    except FitjaxError as error:
        raise FitjaxError(f"{path}: {error}") from None


def face_mask(labels: np.ndarray, table: LabelTable, photo: Photo) -> np.ndarray:
    """(height, width) of the photo, true where the map shows a part of the face, or what parts enclose: the mouth's inside."""
    from scipy.ndimage import binary_fill_holes

    known = [label for group in table.parts.values() for label in group]
    face = binary_fill_holes(np.isin(labels, known))
    picture = Image.fromarray(face.astype(np.uint8)).resize((photo.width, photo.height), Image.Resampling.NEAREST)
    return np.asarray(picture) > 0
