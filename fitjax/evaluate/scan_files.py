"""Scans and predicted meshes from files: OBJ, PLY, ``.npz``; landmarks as ``.npy``, ``.txt``, ``.json`` or MeshLab's ``.pp``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fitjax.errors import FitjaxError
from fitjax.evaluate.plain_files import read_bytes, read_json, read_npy, read_npz, read_text_numbers
from fitjax.evaluate.predictions import fit_folders
from fitjax.evaluate.scan import UNITS, PredictedMesh, Scan
from fitjax.evaluate.scan_protocol import NOW7

MESH_ENDINGS = (".obj", ".ply", ".npz")
LANDMARK_ENDINGS = (".npy", ".txt", ".pp", ".json")


def unit_factor(unit: str, option: str = "unit") -> float:
    """Millimetres per unit of ``mm``, ``cm``, ``m``, or of a number.

    Raises:
        FitjaxError: neither.
    """
    if unit in UNITS:
        return UNITS[unit]
    try:
        value = float(unit)
    except ValueError:
        value = float("nan")
    if not (np.isfinite(value) and value > 0):
        raise FitjaxError(f"{option}: expected mm, cm, m or a number of millimetres per unit, found {unit!r}")
    return value


def read_mesh(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(V, 3) vertices in the file's unit and (F, 3) triangles; no triangles for a cloud of points.

    Raises:
        FitjaxError: not a mesh, or trimesh is missing (for PLY).
    """
    ending = path.suffix.lower()
    if ending == ".npz":
        arrays = read_npz(path, "a mesh")
        if "vertices" not in arrays:
            raise FitjaxError(
                f"{path}: expected 'vertices' (V, 3) and 'triangles' (F, 3), found {', '.join(arrays) or 'nothing'}"
            )
        vertices, triangles = arrays["vertices"], arrays.get("triangles", np.zeros((0, 3), np.int64))
    elif ending == ".obj":
        from fitjax.files.obj import read_obj

        mesh = read_obj(path)
        vertices, triangles = mesh.vertices, mesh.triangles
    elif ending == ".ply":
        vertices, triangles = _read_ply(path)
    else:
        raise FitjaxError(f"{path}: expected a mesh ({', '.join(MESH_ENDINGS)})")
    vertices, triangles = np.asarray(vertices), np.asarray(triangles)
    if vertices.ndim != 2 or vertices.shape[1] != 3 or vertices.dtype.kind not in "fiu" or not len(vertices):
        raise FitjaxError(f"{path}: expected vertices (V, 3), found {vertices.dtype} {vertices.shape}")
    if triangles.ndim != 2 or triangles.shape[1] != 3 or triangles.dtype.kind not in "iu":
        raise FitjaxError(f"{path}: expected triangles (F, 3) of indices, found {triangles.dtype} {triangles.shape}")
    if triangles.size and not (triangles.min() >= 0 and triangles.max() < len(vertices)):
        raise FitjaxError(
            f"{path}: triangles refer to vertices {triangles.min()} to {triangles.max()}; expected 0 to {len(vertices) - 1}"
        )
    return vertices.astype(np.float64), triangles.astype(np.int64)


def _read_ply(path: Path) -> tuple[np.ndarray, np.ndarray]:
    data = read_bytes(path, "a PLY mesh")
    if not data.startswith(b"ply"):
        raise FitjaxError(f"{path}: not a PLY file (starts with {data[:8]!r}); expected a mesh")
    try:
        import trimesh
    except ImportError:
        raise FitjaxError(
            f'{path}: reading PLY needs trimesh; pip install "fitjax[mesh]", or convert the mesh to OBJ'
        ) from None
    try:
        mesh: Any = trimesh.load(path, process=False, maintain_order=True)
        return np.asarray(mesh.vertices), np.asarray(getattr(mesh, "faces", np.zeros((0, 3), np.int64)))
    except Exception as error:  # trimesh raises whatever its parser met
        raise FitjaxError(f"{path}: damaged PLY ({' '.join(str(error).split())[:120]}); write it again") from None


_PP_POINT = re.compile(r"<point\b([^>]*)>", re.IGNORECASE)


def _read_pp(path: Path) -> np.ndarray:
    """MeshLab's picked points, in the order of the file; points marked as not active are left out."""
    text = read_bytes(path, "MeshLab's picked points").decode("utf-8", "replace")
    rows = []
    for match in _PP_POINT.finditer(text):
        given = dict(re.findall(r'(\w+)\s*=\s*"([^"]*)"', match.group(1)))
        if given.get("active", "1") == "0":
            continue
        try:
            rows.append([float(given[axis]) for axis in "xyz"])
        except (KeyError, ValueError):
            raise FitjaxError(f"{path}: a point without numbers x, y, z; expected MeshLab's picked points") from None
    return np.array(rows).reshape(-1, 3)


def read_landmarks7(path: Path) -> np.ndarray:
    """(7, 3) in the file's unit. Of 68 or 51 points (ibug's order) the seven are taken.

    Raises:
        FitjaxError: not a landmark file, or another number of points.
    """
    ending = path.suffix.lower()
    if ending == ".npy":
        points = read_npy(path, "seven landmarks (7, 3)")
    elif ending == ".pp":
        points = _read_pp(path)
    elif ending == ".json":
        content = read_json(path, "a list of seven [x, y, z]")
        try:
            points = np.asarray(content, np.float64)
        except (TypeError, ValueError):
            raise FitjaxError(f"{path}: expected a list of seven [x, y, z], found something else") from None
    elif ending == ".txt":
        points = read_text_numbers(path, "seven lines of x y z")
    else:
        raise FitjaxError(f"{path}: expected landmarks ({', '.join(LANDMARK_ENDINGS)})")
    return take_seven(points, str(path))


def take_seven(points: np.ndarray, what: str) -> np.ndarray:
    """The seven of (7, 3), (68, 3) or (51, 3).

    Raises:
        FitjaxError: another shape, or a value that is not finite.
    """
    points = np.asarray(points, np.float64)
    if points.shape == (68, 3):
        points = points[list(NOW7)]
    elif points.shape == (51, 3):
        points = points[[k - 17 for k in NOW7]]
    if points.shape != (7, 3) or not np.isfinite(points).all():
        raise FitjaxError(
            f"{what}: expected 7 finite landmarks (7, 3), or 68 or 51 in ibug's order, found {points.shape}"
        )
    return points


def _one(candidates: list[Path], what: str, where: Path) -> Path:
    if len(candidates) != 1:
        found = ", ".join(p.name for p in candidates[:4]) or "none"
        raise FitjaxError(f"{where}: expected one {what}, found {found}")
    return candidates[0]


def _files(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    return sorted(
        p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in endings and not p.name.startswith(".")
    )


def _landmarks_beside(name: str, folder: Path, what: Path) -> Path:
    """``folder/NAME.npy`` and so on, or the only landmark file in ``folder/NAME``."""
    found = [p for e in LANDMARK_ENDINGS if (p := folder / f"{name}{e}").is_file()]
    if not found and (folder / name).is_dir():
        found = [p for p in _files(folder / name, LANDMARK_ENDINGS) if not p.stem.endswith("_regions")]
    return _one(found, f"file of landmarks for it ({', '.join(name + e for e in LANDMARK_ENDINGS)})", what)


def _seven_of(path: Path, name: str, place: Path) -> np.ndarray:
    """The seven landmarks in an .npz, else those beside a mesh."""
    if path.suffix.lower() == ".npz":
        arrays = read_npz(path, "a mesh")
        if "landmarks" in arrays:
            return take_seven(arrays["landmarks"], f"{path}: 'landmarks'")
    return read_landmarks7(_landmarks_beside(name, place, path))


def _regions(labels: np.ndarray, names: list[str] | None, count: int, what: str) -> dict[str, np.ndarray]:
    """Region → points, of one whole number per point; negative numbers are no region."""
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise FitjaxError(
            f"{what}: expected one whole number per point ({count},), found {labels.dtype} {labels.shape}"
        )
    used = [int(k) for k in np.unique(labels) if k >= 0]
    if names is not None and used and used[-1] >= len(names):
        raise FitjaxError(f"{what}: region {used[-1]} has no name; expected numbers below {len(names)}")
    return {(names[k] if names else str(k)): np.flatnonzero(labels == k) for k in used}


def read_scan(path: Path, landmarks: Path | None, factor: float) -> Scan:
    """A scan in mm: a mesh file, or a folder that holds one, or one OBJ per region (nose.obj, mouth.obj, … as REALY has them).

    Args:
        landmarks: folder with NAME.npy/.txt/.pp/.json or NAME/<one such file>; default the scan's own folder.
        factor: millimetres per unit of the files.

    Raises:
        FitjaxError: no mesh, no landmarks, or a file that cannot be read.
    """
    name, place = path.stem if path.is_file() else path.name, landmarks or path.parent
    if path.is_dir():
        files = _files(path, MESH_ENDINGS)
        if len(files) != 1:
            if not files or any(p.suffix.lower() != ".obj" for p in files):
                raise FitjaxError(
                    f"{path}: expected one mesh, or one .obj per region, found {', '.join(p.name for p in files[:4]) or 'none'}"
                )
            return _scan_of_regions(files, read_landmarks7(_landmarks_beside(name, place, path)), factor)
        path = files[0]
    vertices, triangles = read_mesh(path)
    seven = _seven_of(path, name, place)
    arrays = read_npz(path, "a scan") if path.suffix.lower() == ".npz" else {}
    labels, label_file = arrays.get("regions"), path.with_name(f"{path.stem}_regions.npy")
    if labels is None and label_file.is_file():
        labels = read_npy(label_file, "one region number per point")
    names = [str(x) for x in arrays["region_names"].tolist()] if "region_names" in arrays else None
    regions = {} if labels is None else _regions(labels, names, len(vertices), f"{path}: regions")
    return Scan(factor * vertices, factor * seven, triangles if len(triangles) else None, regions)


def _scan_of_regions(files: list[Path], seven: np.ndarray, factor: float) -> Scan:
    points, triangles, regions, count = [], [], {}, 0
    for path in files:
        vertices, faces = read_mesh(path)
        points.append(vertices)
        triangles.append(faces + count)
        regions[path.stem] = np.arange(count, count + len(vertices))
        count += len(vertices)
    joined = np.concatenate(triangles)
    return Scan(factor * np.concatenate(points), factor * seven, joined if len(joined) else None, regions)


def find_scans(path: Path) -> dict[str, Path]:
    """Name → mesh file or folder. ``path`` may be one mesh file.

    Raises:
        FitjaxError: nothing there, or two scans of one name.
    """
    if path.is_file():
        return {path.stem: path}
    if not path.is_dir():
        raise FitjaxError(f"{path}: no such file or folder; expected a scan or a folder of scans")
    found: dict[str, Path] = {}
    for entry in [
        *_files(path, MESH_ENDINGS),
        *sorted(p for p in path.iterdir() if p.is_dir() and _files(p, MESH_ENDINGS)),
    ]:
        name = entry.stem if entry.is_file() else entry.name
        if name in found:
            raise FitjaxError(f"{path}: two scans of the name {name!r} ({found[name].name}, {entry.name}); keep one")
        found[name] = entry
    if not found:
        raise FitjaxError(f"{path}: the folder holds no scan; expected NAME.obj, .ply or .npz, or NAME/<one mesh>")
    return found


@dataclass(frozen=True)
class Meshes:
    """Predictions by name, not yet read. ``fits``: results of ``fitjax fit`` (folders) rather than mesh files."""

    places: Mapping[str, Path]
    fits: bool


def find_meshes(path: Path) -> Meshes:
    """Predictions: results of ``fitjax fit``, one mesh, or a folder of meshes at any depth with their landmarks beside them.

    The name of a mesh in a folder is its path there without its ending, ``SUBJECT/CHALLENGE/IMG_1`` say.

    Raises:
        FitjaxError: nothing there, or two meshes of one name.
    """
    if path.is_dir() and (folders := fit_folders(path)):
        return Meshes({p.name: p for p in folders}, True)
    if path.is_file():
        return Meshes({path.stem: path}, False)
    if not path.is_dir():
        raise FitjaxError(
            f"{path}: no such file or folder; expected results of `fitjax fit`, or meshes NAME.obj with NAME.npy or .txt"
        )
    found: dict[str, Path] = {}
    for file in sorted(
        p for p in path.rglob("*") if p.suffix.lower() in MESH_ENDINGS and p.is_file() and not p.name.startswith(".")
    ):
        name = file.relative_to(path).with_suffix("").as_posix()
        if name in found:
            raise FitjaxError(f"{path}: two meshes of the name {name!r} ({found[name].name}, {file.name}); keep one")
        found[name] = file
    if not found:
        raise FitjaxError(
            f"{path}: the folder holds no mesh; expected results of `fitjax fit`, or NAME.obj, .ply or .npz with NAME.npy or .txt"
        )
    return Meshes(found, False)


def read_predicted(path: Path, factor: float) -> PredictedMesh:
    """A mesh file with its landmarks (in it, or beside it), in mm.

    Raises:
        FitjaxError: not a surface, no landmarks, or a file that cannot be read.
    """
    vertices, triangles = read_mesh(path)
    if not len(triangles):
        raise FitjaxError(f"{path}: the mesh has no triangles; expected a surface, distances are to it")
    return PredictedMesh(factor * vertices, triangles, factor * _seven_of(path, path.stem, path.parent))
