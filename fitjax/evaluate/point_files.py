"""Points of one face or of many from files and arrays of any layout, and names of faces."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from fitjax.errors import FitjaxError
from fitjax.evaluate.plain_files import read_json, read_npy, read_text_numbers

LANDMARK_ENDINGS = (".npy", ".txt", ".pts", ".json")
_PHOTO_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".mat")

#: Set sizes do not matter here; this is the key of landmarks that belong to no named set.
PLAIN = ""


def face_name(text: str) -> str:
    """The name of a face: without the ending of a photo."""
    name = str(text).strip().replace("\\", "/")
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in _PHOTO_ENDINGS else name


def points_of(value: Any, what: str) -> np.ndarray:
    """(N, 2) of an array (N, 2), (N, 3), (2, N) or (3, N); a third coordinate (depth) is left out. NaN is kept.

    Raises:
        FitjaxError: another shape, infinity, or no numbers.
    """
    try:
        array = np.asarray(
            [[np.nan if c is None else c for c in row] for row in value] if isinstance(value, list) else value,
            np.float64,
        )
    except (TypeError, ValueError):
        raise FitjaxError(f"{what}: expected a list of [x, y], found something else") from None
    if array.ndim == 2 and array.shape[0] in (2, 3) and array.shape[1] > 3:
        array = array.T
    if array.ndim != 2 or array.shape[1] not in (2, 3) or len(array) < 2:
        raise FitjaxError(f"{what}: expected points (N, 2) or (N, 3: depth is left out), found shape {array.shape}")
    if np.isinf(array[:, :2]).any():
        raise FitjaxError(f"{what}: a coordinate is infinite; leave a face out that was not found")
    return array[:, :2]


def read_point_file(path: Path) -> dict[str, np.ndarray]:
    """Landmark set → (N, 2) of one ``.npy``, ``.txt``, ``.pts`` or ``.json``; of ``.pts`` 1 is subtracted (ibug counts pixels from 1).

    Raises:
        FitjaxError: not one of these, or not points.
    """
    ending = path.suffix.lower()
    if ending == ".npy":
        return {PLAIN: points_of(read_npy(path, "points (N, 2) or (N, 3)"), str(path))}
    if ending == ".txt":
        return {PLAIN: points_of(read_text_numbers(path, "one point per line, x y"), str(path))}
    if ending == ".json":
        content = read_json(path, "points")
        if isinstance(content, list):
            return {PLAIN: points_of([p if isinstance(p, list) else [None, None] for p in content], str(path))}
        if isinstance(content, dict) and isinstance(content.get("points"), list):
            return {
                PLAIN: points_of([p if isinstance(p, list) else [None, None] for p in content["points"]], str(path))
            }
        if isinstance(content, dict) and content and all(isinstance(v, list) for v in content.values()):
            return {k: points_of(v, f"{path}: {k}") for k, v in content.items()}
        raise FitjaxError(f"{path}: expected a list of [x, y], {{'points': ...}} or named sets of points")
    if ending == ".pts":
        from fitjax.landmark_files import read_landmarks

        marks = read_landmarks(path)
        return {PLAIN: np.where(marks.valid[:, None], marks.points, np.nan)}
    raise FitjaxError(f"{path}: expected a landmark file ({', '.join(LANDMARK_ENDINGS)})")


def stacked_points(array: np.ndarray, what: str) -> np.ndarray:
    """(F, N, 2) of an array (F, N, 2), (F, N, 3), (F, 2, N) or (F, 3, N).

    Raises:
        FitjaxError: another shape.
    """
    if array.ndim == 3 and array.shape[1] in (2, 3) and array.shape[2] > 3:
        array = array.transpose(0, 2, 1)
    if array.ndim != 3 or array.shape[2] not in (2, 3) or array.dtype.kind not in "iuf":
        raise FitjaxError(f"{what}: expected numbers (faces, points, 2 or 3), found {array.dtype} {array.shape}")
    return array[..., :2].astype(np.float64)


def names_of(arrays: dict[str, np.ndarray], count: int, what: str) -> list[str]:
    """Names of the faces of an .npz: ``name`` (text), else ``row`` (whole numbers).

    Raises:
        FitjaxError: neither, or not one per face.
    """
    key = next((k for k in ("name", "names", "row", "rows") if k in arrays), None)
    if key is None:
        raise FitjaxError(
            f"{what}: expected 'name' (text) or 'row' (whole numbers) beside 'landmarks', found {', '.join(arrays)}"
        )
    values = arrays[key]
    if values.shape != (count,) or values.dtype.kind not in "USiu":
        raise FitjaxError(
            f"{what}: expected {count} names or whole numbers in {key!r}, found {values.dtype} {values.shape}"
        )
    return [face_name(v.decode() if isinstance(v, bytes) else str(v)) for v in values.tolist()]
