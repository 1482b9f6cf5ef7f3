"""The truth of AFLW2000-3D, from the forms in which it is around.

- the data set itself: a folder of ``NAME.mat`` (``pt3d_68``, ``Pose_Para``), with the hand-made re-annotation in a file of its own;
- one ``.npz`` for all faces: ``landmarks``, ``landmarks_reannotated``, ``pose_npy`` or ``yaw_degrees``, ``pose_pitch_yaw_roll``, ``row`` or ``name``;
- a folder of ``NAME.npz``, one per face: ``landmarks``, ``landmarks_reannotated``, ``pose_para``, ``row``.
"""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fitjax.errors import FitjaxError
from fitjax.evaluate.plain_files import read_npy, read_npz, read_text_numbers
from fitjax.evaluate.point_files import face_name, names_of, points_of, stacked_points
from fitjax.evaluate.pose import POSE_LIMIT
from fitjax.files.atomic import atomic_write_bytes

ORIGINAL, REANNOTATED = "original", "re-annotated"

#: Images of the full set.
FULL_SET = 2000

_EXPECTED = "the .mat files of AFLW2000-3D, one .npz for all faces, or a folder of NAME.npz (docs/evaluation.md)"


@dataclass(frozen=True)
class Aflw2000Truth:
    """Annotated faces.

    Attributes:
        names: (N,). labels: ``original`` and, where known, ``re-annotated`` → (N, 68, 2) pixels.
        yaw: (N,) degrees, signed, for the bins; ``yaw_is`` says whose.
        pitch_yaw_roll: (N, 3) degrees of ``Pose_Para``, NaN where unknown; ``pose_is`` says whose.
        excluded: (N,) faces that the data itself leaves out of pose errors, besides those beyond ±99°.
    """

    names: tuple[str, ...]
    labels: dict[str, np.ndarray]
    yaw: np.ndarray
    yaw_is: str
    pitch_yaw_roll: np.ndarray
    pose_is: str
    excluded: np.ndarray
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for name in self.names:
            if name in seen:
                raise FitjaxError(f"truth: the face {name!r} is there twice; keep one")
            seen.add(name)

    def subset(self, names: list[str]) -> Aflw2000Truth:
        """The named faces alone.

        Raises:
            FitjaxError: an unknown name.
        """
        place = {n: k for k, n in enumerate(self.names)}
        unknown = [n for n in names if n not in place]
        if unknown:
            raise FitjaxError(f"truth: no face {unknown[0]!r}; it holds {len(place)} such as {self.names[0]!r}")
        k = np.array([place[n] for n in names])
        labels = {key: v[k] for key, v in self.labels.items()}
        return replace(
            self,
            names=tuple(names),
            labels=labels,
            yaw=self.yaw[k],
            pitch_yaw_roll=self.pitch_yaw_roll[k],
            excluded=self.excluded[k],
        )


def _check_labels(points: np.ndarray, what: str) -> np.ndarray:
    if points.shape[1:] != (68, 2):
        raise FitjaxError(f"{what}: expected 68 points per face, found {points.shape[1]}")
    if not np.isfinite(points).all():
        raise FitjaxError(f"{what}: a coordinate is not finite; expected pixels of the 450 × 450 pictures")
    if not (np.ptp(points, axis=1) > 1).all():
        raise FitjaxError(
            f"{what}: the points of a face lie within one pixel; expected pixels of the 450 × 450 pictures"
        )
    return points


def _from_npz(path: Path) -> Aflw2000Truth:
    arrays = read_npz(path, "annotations of AFLW2000-3D")
    if "landmarks" not in arrays:
        raise FitjaxError(f"{path}: expected 'landmarks' (faces, 3, 68), found {', '.join(arrays) or 'nothing'}")
    labels = {
        ORIGINAL: _check_labels(stacked_points(arrays["landmarks"], f"{path}: 'landmarks'"), f"{path}: 'landmarks'")
    }
    count = len(labels[ORIGINAL])
    if "landmarks_reannotated" in arrays:
        what = f"{path}: 'landmarks_reannotated'"
        labels[REANNOTATED] = _check_labels(stacked_points(arrays["landmarks_reannotated"], what), what)
    pose = arrays.get("pose_pitch_yaw_roll", np.full((count, 3), np.nan)).astype(np.float64)
    yaw_key = next((k for k in ("yaw_degrees", "pose_npy") if k in arrays), None)
    yaw = (
        pose[:, 1]
        if yaw_key is None and pose.shape == (count, 3)
        else arrays.get(yaw_key or "", np.zeros(0)).astype(np.float64)
    )
    excluded = arrays.get("pose_excluded", np.zeros(count, bool)).astype(bool)
    for key, value, shape in (
        ("landmarks_reannotated", labels.get(REANNOTATED, labels[ORIGINAL]), (count, 68, 2)),
        ("pose_pitch_yaw_roll", pose, (count, 3)),
        (yaw_key or "pose_npy", yaw, (count,)),
        ("pose_excluded", excluded, (count,)),
    ):
        if value.shape != shape:
            raise FitjaxError(f"{path}: {key!r}: expected shape {shape} for {count} faces, found {value.shape}")
    yaw_is = {"pose_npy": "the published list of signed yaws (pose_npy)", "yaw_degrees": "yaw_degrees of the truth"}
    return Aflw2000Truth(
        tuple(names_of(arrays, count, str(path))),
        labels,
        yaw,
        yaw_is.get(yaw_key or "", "pose_pitch_yaw_roll of the truth"),
        pose,
        "pose_pitch_yaw_roll of the truth (degrees)",
        excluded,
    )


def _table_beside(folder: Path) -> dict[int, float]:
    """Row of the full set → yaw, of a ``landmarks.npz`` in the folder or its parent: for faces that carry no pose of their own."""
    for place in (folder / "landmarks.npz", folder.parent / "landmarks.npz"):
        if place.is_file():
            arrays = read_npz(place, "annotations of AFLW2000-3D")
            if "row" in arrays and "pose_pitch_yaw_roll" in arrays:
                return dict(zip(arrays["row"].tolist(), arrays["pose_pitch_yaw_roll"][:, 1].tolist()))
    return {}


def _from_npz_folder(files: list[Path]) -> Aflw2000Truth:
    table = _table_beside(files[0].parent)
    names, original, again, yaw, pose, borrowed = [], [], [], [], [], []
    for path in files:
        arrays = read_npz(path, "annotations of AFLW2000-3D")
        if "landmarks" not in arrays:
            raise FitjaxError(f"{path}: expected 'landmarks' (3, 68), found {', '.join(arrays) or 'nothing'}")
        names.append(path.stem)
        original.append(points_of(arrays["landmarks"], f"{path}: 'landmarks'"))
        if "landmarks_reannotated" in arrays:
            again.append(points_of(arrays["landmarks_reannotated"], f"{path}: 'landmarks_reannotated'"))
        row = int(arrays["row"]) if "row" in arrays and arrays["row"].shape == () else None
        if "pose_para" in arrays:
            para = np.asarray(arrays["pose_para"], np.float64).reshape(-1)
            if len(para) < 3:
                raise FitjaxError(
                    f"{path}: 'pose_para': expected pitch, yaw, roll, … in radians, found {len(para)} numbers"
                )
            pose.append(np.degrees(para[:3]))
            yaw.append(pose[-1][1])
        elif row is not None and row in table:
            pose.append(np.full(3, np.nan))
            yaw.append(table[row])
            borrowed.append(path.stem)
        else:
            raise FitjaxError(
                f"{path}: expected 'pose_para' (radians), or 'row' and a landmarks.npz beside the folder that tells its yaw"
            )
    if again and len(again) != len(names):
        raise FitjaxError(
            f"{files[0].parent}: 'landmarks_reannotated' is there for {len(again)} of {len(names)} faces; expected all or none"
        )
    what = str(files[0].parent)
    labels = {ORIGINAL: _check_labels(np.stack(original), what)}
    if again:
        labels[REANNOTATED] = _check_labels(np.stack(again), what)
    note = (
        (f"the yaw of {', '.join(borrowed)}, which carry no pose, is that of landmarks.npz beside them",)
        if borrowed
        else ()
    )
    nobody = np.zeros(len(names), bool)
    return Aflw2000Truth(tuple(names), labels, np.array(yaw), "pose_para", np.stack(pose), "pose_para", nobody, note)


def _read_mat(path: Path) -> dict[str, np.ndarray]:
    from fitjax.importers.safe import read_mat

    return read_mat(path, "the annotation of a face of AFLW2000-3D").arrays


def _from_mat_folder(files: list[Path]) -> Aflw2000Truth:
    names, points, pose = [], [], []
    # Each file is opened in a process of its own, some tenths of a second: as many at a time as there are cores.
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for path, fields in zip(files, pool.map(_read_mat, files)):
            absent = [k for k in ("pt3d_68", "Pose_Para") if k not in fields]
            if absent:
                raise FitjaxError(
                    f"{path}: expected pt3d_68 and Pose_Para, {absent[0]} is missing; is this AFLW2000-3D?"
                )
            names.append(path.stem)
            points.append(points_of(np.asarray(fields["pt3d_68"]), f"{path}: pt3d_68"))
            para = np.asarray(fields["Pose_Para"], np.float64).reshape(-1)
            if len(para) != 7:
                raise FitjaxError(f"{path}: Pose_Para: expected 7 numbers, found {len(para)}")
            pose.append(np.degrees(para[:3]))
    angles = np.stack(pose)
    labels = {ORIGINAL: _check_labels(np.stack(points), str(files[0].parent))}
    return Aflw2000Truth(
        tuple(names), labels, angles[:, 1], "Pose_Para", angles, "Pose_Para", np.zeros(len(names), bool)
    )


def _whole_list(path: Path, count: int, what: str) -> np.ndarray:
    array = read_text_numbers(path) if path.suffix.lower() == ".txt" else read_npy(path)
    if len(array) != count:
        raise FitjaxError(
            f"{path}: {what}: expected one entry for each of the truth's {count} faces in its order, found {len(array)}"
        )
    return array


def read_aflw2000(
    path: Path, reannotated: Path | None = None, yaw: Path | None = None, order: Path | None = None
) -> Aflw2000Truth:
    """Annotated faces of AFLW2000-3D.

    Args:
        path: see the top of this file.
        reannotated: ``.npy`` (N, 2 or 3, 68), the re-annotated labels in the order of the faces.
        yaw: ``.npy`` (N,) signed degrees to bin by, in the order of the faces: the published ``AFLW2000-3D.pose.npy``.
        order: text file with a name per line, the order of the two lists; default: the order of names.

    Raises:
        FitjaxError: nothing there, none of the accepted forms, wrong shapes, names that are there twice.
    """
    if path.is_file() and path.suffix.lower() == ".npz":
        truth = _from_npz(path)
    elif path.is_dir():
        mats = sorted(p for p in path.glob("*.mat") if not p.name.startswith("."))
        files = sorted(p for p in path.glob("*.npz") if p.name != "landmarks.npz" and not p.name.startswith("."))
        if not (mats or files):
            raise FitjaxError(f"{path}: the folder holds no .mat and no .npz; expected {_EXPECTED}")
        truth = _from_mat_folder(mats) if mats else _from_npz_folder(files)
    else:
        raise FitjaxError(
            f"{path}: {'not an .npz' if path.exists() else 'no such file or folder'}; expected {_EXPECTED}"
        )
    if order is not None:
        try:
            lines = order.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise FitjaxError(f"{order}: cannot be read ({error}); expected a name per line") from None
        truth = truth.subset([face_name(line).rsplit("/", 1)[-1] for line in lines if line.strip()])
    count = len(truth.names)
    if reannotated is not None:
        points = stacked_points(_whole_list(reannotated, count, "re-annotated labels"), str(reannotated))
        truth = replace(truth, labels={**truth.labels, REANNOTATED: _check_labels(points, str(reannotated))})
    if yaw is not None:
        angles = _whole_list(yaw, count, "yaw").astype(np.float64).reshape(-1)
        if angles.shape != (count,):
            raise FitjaxError(
                f"{yaw}: expected one signed yaw per face in degrees, found {angles.size} numbers for {count} faces"
            )
        truth = replace(truth, yaw=angles, yaw_is=f"the list {yaw.name}")
    if not np.isfinite(truth.yaw).all():
        raise FitjaxError(
            f"{path}: the yaw of {truth.names[int(np.flatnonzero(~np.isfinite(truth.yaw))[0])]} is unknown; give --yaw"
        )
    if np.abs(truth.yaw).max() <= np.pi / 2 and count > 50:
        raise FitjaxError(
            f"{path}: no |yaw| is larger than {np.abs(truth.yaw).max():.2f}; these look like radians, expected degrees"
        )
    return truth


def write_aflw2000(path: Path, truth: Aflw2000Truth) -> None:
    """Write the truth as the one .npz that :func:`read_aflw2000` takes: thousands of .mat files are slow to open.

    Raises:
        FitjaxError: another ending, or the file cannot be written.
    """
    if path.suffix.lower() != ".npz":
        raise FitjaxError(f"{path}: expected a file name that ends in .npz")
    arrays: dict[str, Any] = {
        "name": np.array(truth.names),
        "landmarks": truth.labels[ORIGINAL].transpose(0, 2, 1),
        "yaw_degrees": truth.yaw,
        "pose_pitch_yaw_roll": truth.pitch_yaw_roll,
        "pose_excluded": truth.excluded,
    }
    if REANNOTATED in truth.labels:
        arrays["landmarks_reannotated"] = truth.labels[REANNOTATED].transpose(0, 2, 1)
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    atomic_write_bytes(path, stream.getvalue())


def beyond_limit(truth: Aflw2000Truth) -> np.ndarray:
    """(N,) faces with a known pose beyond ±99°, which pose errors leave out."""
    with np.errstate(invalid="ignore"):
        return (np.abs(truth.pitch_yaw_roll) > POSE_LIMIT).any(1) | truth.excluded
