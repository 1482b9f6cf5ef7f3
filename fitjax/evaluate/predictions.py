"""Landmarks and poses of many faces, of ``fitjax fit`` or of any other tool, by name.

Accepted, by content (docs/evaluation.md describes each):

- a folder of results of ``fitjax fit``: one folder per face with ``landmarks.json`` and ``report.json``;
- a folder of landmark files, one per face: ``NAME.npy``, ``.txt``, ``.pts``, ``.json``;
- one ``.npz``, ``.json`` or ``.csv`` for all faces.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fitjax.errors import FitjaxError
from fitjax.evaluate.plain_files import read_csv, read_json, read_npz
from fitjax.evaluate.point_files import (
    LANDMARK_ENDINGS,
    PLAIN,
    face_name,
    names_of,
    points_of,
    read_point_file,
    stacked_points,
)
from fitjax.evaluate.pose import degrees_from_rotation, rotation_from_degrees

#: Angles and a rotation of one face that differ by more than this are of different conventions.
_SAME_POSE_DEGREES = 1.0


@dataclass(frozen=True)
class FacePrediction:
    """What a tool says of one face.

    Attributes:
        source: file or folder, for messages. sets: landmark set → (N, 2) pixels of the photo; tools without named sets have one, ``""``.
        pitch_yaw_roll: degrees in the convention of AFLW2000-3D, or None.
    """

    source: str
    sets: dict[str, np.ndarray] = field(default_factory=dict)
    pitch_yaw_roll: np.ndarray | None = None

    def landmarks(self, preference: Sequence[str]) -> tuple[str, np.ndarray]:
        """The first set of ``preference`` that is there, and its name; the only one, where a tool names none.

        Raises:
            FitjaxError: none of them.
        """
        for name in (*preference, PLAIN):
            if name in self.sets:
                return name, self.sets[name]
        raise FitjaxError(
            f"{self.source}: expected landmarks of one of the sets {', '.join(preference)}, found {', '.join(self.sets) or 'none'}"
        )


@dataclass(frozen=True)
class Predictions:
    """All faces of one tool, and what kind of files they came from."""

    faces: dict[str, FacePrediction]
    kind: str

    def match(self, names: Iterable[str]) -> tuple[list[str], list[str]]:
        """(names without a prediction, predictions without a truth).

        Raises:
            FitjaxError: not one name is common.
        """
        wanted = list(names)
        known = set(wanted)
        missing, unused = [n for n in wanted if n not in self.faces], [n for n in self.faces if n not in known]
        if len(missing) == len(wanted):
            raise FitjaxError(
                f"predictions: none of their names is one of the truth's; predicted {_some(self.faces)}; truth {_some(wanted)}; "
                "name predictions like the photos, or give 'row' in an .npz"
            )
        return missing, unused


def _some(names: Iterable[str]) -> str:
    first = list(names)[:3]
    return ", ".join(map(repr, first)) + ", …" if first else "none"


def _pose_of(angles: Any, rotation: Any, what: str) -> np.ndarray | None:
    """Degrees of angles, of a rotation matrix, or of both where they agree."""
    pose = None
    if angles is not None:
        pose = np.asarray(angles, np.float64)
        if pose.shape != (3,):
            raise FitjaxError(f"{what}: expected pitch, yaw, roll in degrees, found shape {pose.shape}")
    if rotation is not None:
        matrix = np.asarray(rotation, np.float64)
        if matrix.shape != (3, 3) or (np.isfinite(matrix).all() and np.abs(matrix @ matrix.T - np.eye(3)).max() > 1e-2):
            raise FitjaxError(
                f"{what}: expected a rotation matrix (3, 3), R_camera_head, found {matrix.shape} that is none"
            )
        from_matrix = degrees_from_rotation(matrix)
        if pose is not None and np.abs(
            rotation_from_degrees(pose) - rotation_from_degrees(from_matrix)
        ).max() > np.radians(_SAME_POSE_DEGREES):
            raise FitjaxError(
                f"{what}: angles {np.round(pose, 1).tolist()} and rotation ({np.round(from_matrix, 1).tolist()} as pitch, yaw, roll) disagree; "
                "the angles are of another Euler order or sign; give the rotation alone"
            )
        pose = from_matrix
    return pose


def _collect(entries: Iterable[tuple[str, FacePrediction]], kind: str, source: Path) -> Predictions:
    faces: dict[str, FacePrediction] = {}
    for name, face in entries:
        if name in faces:
            raise FitjaxError(f"{source}: two predictions for {name!r} ({faces[name].source}, {face.source}); keep one")
        # A face of NaN alone is how some tools mark one that they did not find.
        sets = {k: v for k, v in face.sets.items() if np.isfinite(v).any()}
        pose = None if face.pitch_yaw_roll is None or np.isnan(face.pitch_yaw_roll).any() else face.pitch_yaw_roll
        if sets or pose is not None:
            faces[name] = FacePrediction(face.source, sets, pose)
    if not faces:
        raise FitjaxError(f"{source}: holds no prediction; expected {_EXPECTED}")
    return Predictions(faces, kind)


_EXPECTED = "folders of `fitjax fit`, a folder of NAME.npy/.txt/.pts/.json, or one .npz, .json or .csv for all faces (docs/evaluation.md)"


def is_fit_folder(path: Path) -> bool:
    """Whether a folder is the result of one face."""
    return path.is_dir() and (path / "landmarks.json").is_file() and (path / "report.json").is_file()


def fit_folders(path: Path) -> list[Path]:
    """``path`` itself or the folders in it that hold a fit, sorted."""
    if is_fit_folder(path):
        return [path]
    return [p for p in sorted(path.iterdir()) if is_fit_folder(p)] if path.is_dir() else []


def read_fit(folder: Path) -> FacePrediction:
    """One result of ``fitjax fit``.

    Raises:
        FitjaxError: a damaged ``landmarks.json`` or ``report.json``.
    """
    marks = read_json(folder / "landmarks.json", "the landmarks of a fit")
    said = read_json(folder / "report.json", "the report of a fit")
    if not isinstance(marks, dict) or not isinstance(said, dict):
        raise FitjaxError(f"{folder}: landmarks.json and report.json are not those of a fit; fit the photo again")
    sets = {k: points_of(v, f"{folder / 'landmarks.json'}: {k}") for k, v in marks.items()}
    pose = said.get("pose")
    return FacePrediction(
        str(folder),
        sets,
        _pose_of(pose.get("pitch_yaw_roll_degrees") if isinstance(pose, dict) else None, None, str(folder)),
    )


def _from_npz(path: Path) -> Predictions:
    arrays = read_npz(path, "landmarks of many faces")
    angles, turns = arrays.get("pitch_yaw_roll_degrees"), arrays.get("rotation")
    points = None if "landmarks" not in arrays else stacked_points(arrays["landmarks"], f"{path}: 'landmarks'")
    given = [
        (k, v)
        for k, v in (("landmarks", points), ("pitch_yaw_roll_degrees", angles), ("rotation", turns))
        if v is not None
    ]
    if not given:
        raise FitjaxError(
            f"{path}: expected 'landmarks', 'pitch_yaw_roll_degrees' or 'rotation', found {', '.join(arrays) or 'nothing'}"
        )
    count = len(given[0][1])
    for key, value in given:
        if value.ndim < 2 or len(value) != count:
            raise FitjaxError(f"{path}: {key!r} has shape {value.shape}; expected one entry for each of {count} faces")
    entries = []
    for k, name in enumerate(names_of(arrays, count, str(path))):
        what = f"{path}: {name}"
        pose = _pose_of(None if angles is None else angles[k], None if turns is None else turns[k], what)
        entries.append(
            (name, FacePrediction(what, {} if points is None else {PLAIN: points_of(points[k], what)}, pose))
        )
    return _collect(entries, "one .npz", path)


def _from_json(path: Path) -> Predictions:
    content = read_json(path, "an object of names and landmarks")
    if not isinstance(content, dict):
        raise FitjaxError(
            f"{path}: expected an object {{NAME: [[x, y], ...]}} or {{NAME: {{'landmarks': ...}}}}, found {type(content).__name__}"
        )
    entries = []
    for name, value in content.items():
        what = f"{path}: {name}"
        if isinstance(value, list):
            value = {"landmarks": value}
        if not isinstance(value, dict):
            raise FitjaxError(
                f"{what}: expected a list of [x, y] or an object with 'landmarks', found {type(value).__name__}"
            )
        points = value.get("landmarks")
        sets = {} if points is None else {PLAIN: points_of(points, what)}
        entries.append(
            (
                face_name(name),
                FacePrediction(what, sets, _pose_of(value.get("pitch_yaw_roll_degrees"), value.get("rotation"), what)),
            )
        )
    return _collect(entries, "one .json", path)


_CSV = "a header name,x0,y0,x1,y1,… (and pitch,yaw,roll in degrees, if known) and a line per face"


def _from_csv(path: Path) -> Predictions:
    header, rows = read_csv(path, _CSV)
    place = {name.lower(): k for k, name in enumerate(header)}
    if len(place) != len(header) or "name" not in place:
        raise FitjaxError(f"{path}: expected {_CSV}, found the columns {', '.join(header[:6])}")
    count = sum(1 for name in place if name[:1] == "x" and name[1:].isdigit())
    wanted = [f"{axis}{k}" for k in range(count) for axis in "xy"]
    angles = [a for a in ("pitch", "yaw", "roll") if a in place]
    absent = [name for name in wanted if name not in place] + (
        [a for a in ("pitch", "yaw", "roll") if a not in place] if angles else []
    )
    if absent or not (count or angles):
        raise FitjaxError(f"{path}: expected {_CSV}, missing {', '.join(absent[:4]) or 'x0'}")
    entries = []
    for number, row in enumerate(rows, 2):
        what = f"{path}, line {number}"
        try:
            numbers = {k: float(row[place[k]]) if row[place[k]].strip() else np.nan for k in (*wanted, *angles)}
        except ValueError:
            raise FitjaxError(f"{what}: a cell is no number; expected {_CSV}") from None
        sets = {PLAIN: points_of(np.array([numbers[k] for k in wanted]).reshape(-1, 2), what)} if count else {}
        pose = _pose_of([numbers[a] for a in angles], None, what) if angles else None
        entries.append((face_name(row[place["name"]]), FacePrediction(what, sets, pose)))
    return _collect(entries, "one .csv", path)


def read_predictions(path: Path) -> Predictions:
    """Landmarks and poses of many faces.

    Raises:
        FitjaxError: nothing there, none of the accepted forms, duplicate names, wrong shapes or values.
    """
    if path.is_dir():
        folders = fit_folders(path)
        if folders:
            return _collect(((p.name, read_fit(p)) for p in folders), "results of fitjax fit", path)
        files = [
            p for p in sorted(path.iterdir()) if p.suffix.lower() in LANDMARK_ENDINGS and not p.name.startswith(".")
        ]
        return _collect(((p.stem, FacePrediction(str(p), read_point_file(p))) for p in files), "a file per face", path)
    readers = {".npz": _from_npz, ".json": _from_json, ".csv": _from_csv}
    reader = readers.get(path.suffix.lower())
    if not path.exists() or reader is None:
        found = "no such file or folder" if not path.exists() else f"a file that ends in {path.suffix or 'nothing'!r}"
        raise FitjaxError(f"{path}: {found}; expected {_EXPECTED}")
    return reader(path)
