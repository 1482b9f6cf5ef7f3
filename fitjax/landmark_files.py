"""Reading landmarks from files (.pts, .npy, .json) and checking that they can be those of a face in a photo.

Everywhere: x to the right and y down, in pixels, with the **centre** of the top-left pixel at (0, 0).
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .detect.landmark_checks import SET_COUNTS, check_landmarks, set_for_count
from .errors import LandmarkError

__all__ = ["LandmarkFile", "check_landmarks", "read_landmarks", "write_landmarks"]

MAX_BYTES = 1 << 26
# Where a file holds several sets: the one that fixes the most of the face first.
_PREFERENCE = ("mediapipe478", "mediapipe468", "ibug68", "aflw68", "aflw68_original", "ibug51")


@dataclass(frozen=True, eq=False)
class LandmarkFile:
    """Landmarks of one face.

    Attributes:
        points: (N, 2) float64 pixels, always finite; missing points are (0, 0).
        confidence: (N,) float64 in [0, 1]; 0 for missing points.
        valid: (N,) bool; False for missing points and those of confidence 0.
        set_name: the landmark set, such as ``"ibug68"``.
    """

    points: np.ndarray
    confidence: np.ndarray
    valid: np.ndarray
    set_name: str


def read_landmarks(
    path: str | os.PathLike[str], *, set_name: str | None = None, one_based: bool | None = None
) -> LandmarkFile:
    """Read a landmark file; its content, not its name, decides the format.

    * ``.pts`` (ibug): ``version: 1``, ``n_points: 68``, ``{``, a line ``x y`` per point, ``}``. ibug's coordinates come
      from Matlab, where the centre of the top-left pixel is (1, 1), so **1 is subtracted**; ``one_based=False`` keeps
      them.
    * ``.npy``: (N, 2), or (N, 3) where the third column is a confidence and must lie in [0, 1]; never pickled objects.
    * ``.json``: a list of ``[x, y]``, ``[x, y, confidence]`` or ``null``; or ``{"points": ..., "confidence": ...,
      "set": ...}``; or several of either under set names, as ``write_landmarks`` writes them (``landmarks.json`` of a
      fit).

    A point is missing if it is ``null`` in JSON (the point or a coordinate) or has confidence 0. Any other NaN or
    infinity is an error.

    Args:
        path: the file.
        set_name: the set to take from a file of several, or the name of the set where the count alone is ambiguous
            (68 points count as ``ibug68``). None takes the file's own name, or the one of the count; of several sets,
            the first of mediapipe478, mediapipe468, ibug68, aflw68, ibug51.
        one_based: whether coordinates start at 1; None: only those of ``.pts`` do.

    Raises:
        LandmarkError: missing, unreadable, not one of these formats, a count of no known set, a value that is not
            finite, or an unknown set.
    """
    what = str(path)
    data = _read_bytes(Path(path), what)
    if set_name is not None and set_name not in SET_COUNTS:
        raise LandmarkError(f"{what}: unknown landmark set {set_name!r}; known: {', '.join(SET_COUNTS)}")
    head = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    default_base = False
    if data.startswith(b"\x93NUMPY"):
        points, confidence, found = *_from_array(_load_npy(data, what), what), None
    elif head[:1] in (b"[", b"{"):
        points, confidence, found = _from_json(_load_json(data, what), what, set_name)
    elif head[:7].lower() == b"version" or head[:8].lower() == b"n_points":
        points, confidence, found = *_from_pts(data, what), None
        default_base = True
    else:
        raise LandmarkError(
            f"{what}: not a landmark file (starts with {data[:12]!r}); expected .pts (ibug), .npy or .json; convert it"
        )
    if default_base if one_based is None else one_based:
        points = points - 1.0
    return _finish(points, confidence, set_name or found, what)


def _read_bytes(path: Path, what: str) -> bytes:
    try:
        if not path.is_file():
            found = "is a folder" if path.is_dir() else "no such file"
            raise LandmarkError(f"{what}: {found}; expected a landmark file (.pts, .npy, .json); check the path")
        if path.stat().st_size > MAX_BYTES:
            raise LandmarkError(f"{what}: larger than {MAX_BYTES >> 20} MiB; expected the landmarks of one face")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise LandmarkError(f"{what!r}: cannot be read ({error}); check the path and its permissions") from None
    if not data:
        raise LandmarkError(f"{what}: the file is empty (0 bytes); expected landmarks; write or fetch it again")
    return data


def _finish(points: np.ndarray, confidence: np.ndarray, name: str | None, what: str) -> LandmarkFile:
    """Check values and count, settle the set's name, blank missing points."""
    if name is None:
        name = set_for_count(len(points), what)
    elif SET_COUNTS[name] != len(points):
        raise LandmarkError(
            f"{what}: set {name} has {SET_COUNTS[name]} points, found {len(points)}; check the set's name"
        )
    bad = ~(np.isfinite(confidence) & (confidence >= 0) & (confidence <= 1))
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise LandmarkError(
            f"{what}: the confidence of point {i} is {confidence[i]:.6g}; expected 0 to 1; a depth column must be "
            "left out"
        )
    valid = confidence > 0
    bad = valid & ~np.isfinite(points).all(axis=1)
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise LandmarkError(
            f"{what}: point {i} is ({points[i, 0]}, {points[i, 1]}); expected finite pixels; mark a missing point by "
            "confidence 0 (or null in JSON)"
        )
    finite = np.isfinite(points).all(axis=1, keepdims=True)
    return LandmarkFile(np.where(finite, points, 0.0), confidence, valid, name)


def _load_npy(data: bytes, what: str) -> np.ndarray:
    try:
        stream = io.BytesIO(data)
        version = np.lib.format.read_magic(stream)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = reader(stream)
        if dtype.kind not in "fiu":
            raise LandmarkError(
                f"{what}: expected an array of numbers, found dtype {dtype}; save float64 of shape (N, 2)"
            )
        # Checked before loading: a damaged header may ask for terabytes.
        need, have = int(np.prod([int(n) for n in shape], dtype=object)) * dtype.itemsize, len(data) - stream.tell()
        if have < need:
            raise LandmarkError(f"{what}: truncated: shape {shape} needs {need} bytes, found {have}; write it again")
        return np.load(io.BytesIO(data), allow_pickle=False).astype(np.float64)
    except LandmarkError:
        raise
    except Exception as error:  # numpy's header parser raises SyntaxError, KeyError, ValueError, TypeError, ...
        text = " ".join((str(error) or type(error).__name__).split())[:200]
        raise LandmarkError(f"{what}: damaged .npy file ({text}); write it again with numpy.save") from None


def _from_array(array: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    if array.ndim != 2 or array.shape[1] not in (2, 3):
        raise LandmarkError(
            f"{what}: expected an array of shape (N, 2) or (N, 3: x, y, confidence), found {array.shape}"
        )
    return array[:, :2], (array[:, 2] if array.shape[1] == 3 else np.ones(len(array)))


def _from_pts(data: bytes, what: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise LandmarkError(f"{what}: not a text file; expected the ibug .pts format") from None
    count = re.search(r"n_points\s*:\s*(\d{1,9})", text)
    body = re.search(r"\{([^{}]*)\}", text)
    if body is None:
        raise LandmarkError(f"{what}: expected the points between '{{' and '}}'; is the .pts file truncated?")
    rows = [line for line in body.group(1).splitlines() if line.strip()]
    points = np.zeros((len(rows), 2))
    for i, line in enumerate(rows):
        words = line.replace(",", " ").split()
        try:
            if len(words) != 2:
                raise ValueError
            points[i] = [float(word) for word in words]
        except ValueError:
            raise LandmarkError(f"{what}: point {i}: expected two numbers 'x y', found {line.strip()[:60]!r}") from None
    if count is not None and int(count.group(1)) != len(rows):
        raise LandmarkError(f"{what}: n_points says {count.group(1)}, found {len(rows)} points; is the file truncated?")
    return points, np.ones(len(rows))


def _load_json(data: bytes, what: str) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # ValueError covers bad JSON and bad UTF-8
        raise LandmarkError(f"{what}: damaged JSON ({error}); write it again") from None


def _from_json(value: Any, what: str, wanted: str | None) -> tuple[np.ndarray, np.ndarray, str | None]:
    """Points, confidence and the set's name of parsed JSON."""
    if isinstance(value, list):
        return *_points_of(value, None, what), None
    if "points" in value:
        name = value.get("set", value.get("set_name"))
        if name is not None and (not isinstance(name, str) or name not in SET_COUNTS):
            raise LandmarkError(f"{what}: unknown landmark set {name!r}; known: {', '.join(SET_COUNTS)}")
        if wanted is not None and name is not None and wanted != name:
            raise LandmarkError(f"{what}: expected set {wanted}, found {name}; leave out the set's name to take it")
        return *_points_of(value["points"], value.get("confidence"), what), name
    sets = value["sets"] if isinstance(value.get("sets"), dict) else value
    names = [name for name in _PREFERENCE if name in sets]
    name = wanted if wanted is not None else (names[0] if names else None)
    if name is None or name not in sets:
        expected = wanted or f"'points' or one of the sets {', '.join(SET_COUNTS)}"
        raise LandmarkError(
            f"{what}: expected {expected}, found the keys {', '.join(map(repr, list(value)[:8])) or 'none'}"
        )
    inner = sets[name]
    if isinstance(inner, dict):
        return *_points_of(inner.get("points"), inner.get("confidence"), f"{what}: {name}"), name
    return *_points_of(inner, None, f"{what}: {name}"), name


def _number(value: Any, where: str) -> float:
    """A JSON number as float; null as NaN is decided by the caller."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise LandmarkError(f"{where}: expected a number, found {value!r:.60}")
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def _points_of(rows: Any, confidence: Any, what: str) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) points and (N,) confidence of JSON rows; null points get confidence 0."""
    if not isinstance(rows, list):
        raise LandmarkError(f"{what}: 'points' must be a list of [x, y], found {type(rows).__name__}")
    points, conf = np.full((len(rows), 2), np.nan), np.ones(len(rows))
    if confidence is not None:
        if not isinstance(confidence, list) or len(confidence) != len(rows):
            found = f"{len(confidence)} values" if isinstance(confidence, list) else type(confidence).__name__
            raise LandmarkError(
                f"{what}: 'confidence' must list one number for each of {len(rows)} points, found {found}"
            )
        for i, c in enumerate(confidence):
            conf[i] = 0.0 if c is None else _number(c, f"{what}: confidence of point {i}")
    for i, row in enumerate(rows):
        if row is None:
            conf[i] = 0.0
            continue
        if not isinstance(row, list) or len(row) not in (2, 3):
            raise LandmarkError(f"{what}: point {i}: expected [x, y] or [x, y, confidence], found {row!r:.60}")
        if row[0] is None or row[1] is None:
            conf[i] = 0.0
            continue
        points[i] = [_number(v, f"{what}: point {i}") for v in row[:2]]
        if len(row) == 3:
            if confidence is not None:
                raise LandmarkError(
                    f"{what}: point {i} has a confidence of its own beside the 'confidence' list; keep one"
                )
            conf[i] = 0.0 if row[2] is None else _number(row[2], f"{what}: confidence of point {i}")
    return points, conf


def write_landmarks(path: str | os.PathLike[str], sets: Mapping[str, LandmarkFile]) -> None:
    """Write sets of landmarks as JSON: ``{"ibug68": {"points": [[x, y] or null, ...], "confidence": [...]}, ...}``.

    Args:
        path: the file, usually ``landmarks.json``; replaced if present.
        sets: set name to landmarks; missing points are written as null.

    Raises:
        LandmarkError: an unknown set, a wrong count, or the file cannot be written.
    """
    out = {}
    for name, marks in sets.items():
        if SET_COUNTS.get(name) != len(marks.points):
            raise LandmarkError(
                f"set {name!r} with {len(marks.points)} points is not one of {SET_COUNTS}; check the name"
            )
        rows = [[round(float(v), 4) for v in p] if ok else None for p, ok in zip(marks.points, marks.valid)]
        out[name] = {"points": rows, "confidence": [round(float(c), 4) for c in marks.confidence]}
    text = json.dumps(out, allow_nan=False)
    try:
        Path(path).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise LandmarkError(f"{path}: cannot be written ({error}); check the folder and its permissions") from None
