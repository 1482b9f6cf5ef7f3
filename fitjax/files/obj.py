"""Wavefront OBJ: text meshes with texture coordinates; vertices are never reordered or merged."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fitjax.errors import FitjaxError
from fitjax.files.atomic import atomic_write_text
from fitjax.render.reference import check_mesh


class ObjMaterial(NamedTuple):
    """A material: its name, and the file name of its texture, relative to the OBJ."""

    name: str = "face"
    texture: str | None = None


class ObjMesh(NamedTuple):
    """What an OBJ holds: vertices (V, 3) float64 in file order, triangles (F, 3) int32, and where present uv (T, 2),
    uv_triangles (F, 3) and normals (N, 3); ``texture``: the ``map_Kd`` of its MTL."""

    vertices: np.ndarray
    triangles: np.ndarray
    uv: np.ndarray | None = None
    uv_triangles: np.ndarray | None = None
    normals: np.ndarray | None = None
    texture: str | None = None


def check_uv(
    n_vertices: int, triangles: np.ndarray, uv: np.ndarray | None, uv_triangles: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Texture coordinates (T, 2) and their triangles (F, 3), one per vertex if none are given; None without any.

    Raises:
        FitjaxError: wrong shapes, or an index out of range.
    """
    if uv is None:
        return None
    uv = np.asarray(uv, np.float64)
    if uv.ndim != 2 or uv.shape[1] != 2:
        raise FitjaxError(f"mesh: uv has shape {uv.shape}; expected (T, 2)")
    if uv_triangles is None:
        if len(uv) != n_vertices:
            raise FitjaxError(f"mesh: {len(uv)} uv for {n_vertices} vertices; pass uv_triangles when they differ")
        return uv, triangles
    uv_triangles = np.asarray(uv_triangles)
    if uv_triangles.shape != triangles.shape or uv_triangles.dtype.kind not in "iu":
        found = f"{uv_triangles.dtype} {uv_triangles.shape}"
        raise FitjaxError(f"mesh: uv_triangles are {found}; expected integers {triangles.shape}")
    if uv_triangles.size and not (uv_triangles.min() >= 0 and uv_triangles.max() < len(uv)):
        found = f"{uv_triangles.min()} to {uv_triangles.max()}"
        raise FitjaxError(f"mesh: uv_triangles refer to uv {found}; expected 0 to {len(uv) - 1}")
    return uv, uv_triangles.astype(np.int64)


def _lines(keyword: str, rows: np.ndarray) -> list[str]:
    """Nine significant digits: float32 survives exactly. ``+ 0.0`` turns -0 into 0."""
    pattern = keyword + " %.9g" * rows.shape[1]
    return [pattern % tuple(row) for row in (np.asarray(rows, np.float64) + 0.0).tolist()]


def write_obj(
    path: str | os.PathLike,
    vertices: np.ndarray,
    triangles: np.ndarray,
    uv: np.ndarray | None = None,
    uv_triangles: np.ndarray | None = None,
    normals: np.ndarray | None = None,
    material: ObjMaterial | None = None,
) -> None:
    """Write an OBJ, and beside it an MTL of the same stem if there is a material. The same input gives the same bytes.

    Args:
        vertices: (V, 3), written in this order; metres by this project's convention (OBJ itself has no unit).
        triangles: (F, 3) indices from 0.
        uv: (T, 2), origin bottom-left as in OBJ; the texture's first row is its top, v = 1.
        uv_triangles: (F, 3) indices into uv; by default uv belongs to the vertices one by one.
        normals: (V, 3), one per vertex.
        material: name and texture; the texture file itself is the caller's to write.

    Raises:
        FitjaxError: wrong shapes, an index out of range, a value that is not finite, or an unwritable path.
    """
    path = Path(path)
    vertices, triangles = check_mesh(vertices, triangles)
    textured = check_uv(len(vertices), triangles, uv, uv_triangles)
    columns = [triangles + 1]
    lines = ["# fitjax"]
    if material is not None:
        if any(c in "\r\n" for c in f"{material.name}{material.texture}"):
            raise FitjaxError(f"{path}: the material's names hold a line break; expected one line")
        lines += [f"mtllib {path.stem}.mtl"]
    lines += _lines("v", vertices)
    pattern = "%d"
    if textured is not None:
        lines += _lines("vt", textured[0])
        columns.append(textured[1] + 1)
        pattern = "%d/%d"
    if normals is not None:
        normals = np.asarray(normals, np.float64)
        if normals.shape != vertices.shape:
            raise FitjaxError(f"mesh: normals have shape {normals.shape}; expected {vertices.shape}")
        lines += _lines("vn", normals)
        columns.append(triangles + 1)
        pattern += "//%d" if textured is None else "/%d"
    for name, values in (("vertices", vertices), ("uv", textured[0] if textured else None), ("normals", normals)):
        if values is not None and not np.isfinite(values).all():
            raise FitjaxError(f"{path}: {name} hold a value that is not finite; expected finite numbers")
    if material is not None:
        lines += [f"usemtl {material.name}"]
    face = " ".join(["f", pattern, pattern, pattern])
    corners = np.stack(columns, -1).reshape(len(triangles), -1)
    lines += [face % tuple(row) for row in corners.tolist()]
    if material is not None:  # first, so that no OBJ ever names an MTL that is not there
        atomic_write_text(path.with_suffix(".mtl"), _mtl(material))
    atomic_write_text(path, "\n".join(lines) + "\n")


def _mtl(material: ObjMaterial) -> str:
    lines = ["# fitjax", f"newmtl {material.name}", "Ka 1 1 1", "Kd 1 1 1", "Ks 0 0 0", "d 1", "illum 1"]
    if material.texture is not None:
        lines.append(f"map_Kd {material.texture}")
    return "\n".join(lines) + "\n"


def _texture_of(path: Path, library: str) -> str | None:
    mtl = path.parent / library
    if not mtl.is_file():
        return None
    for line in mtl.read_text("utf-8", "replace").splitlines():
        if line.strip().startswith("map_Kd "):
            return line.strip()[7:].strip()
    return None


def read_obj(path: str | os.PathLike) -> ObjMesh:
    """Read an OBJ as it stands: vertices in file order, polygons split into fans, colours after a vertex ignored.

    Raises:
        FitjaxError: a missing file, a line that cannot be understood (with its number), or an index out of range.
    """
    path = Path(path)
    try:
        text = path.read_text("utf-8", "replace")
    except OSError as error:
        raise FitjaxError(f"cannot read {path}: {error.strerror or error}; expected an OBJ file") from None
    rows: dict[str, list[list[float]]] = {"v": [], "vt": [], "vn": []}
    width = {"v": 3, "vt": 2, "vn": 3}
    corners: list[list[int]] = []
    uv_corners: list[list[int]] = []
    texture = None
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            if words[0] in rows:
                row = [float(word) for word in words[1 : 1 + width[words[0]]]]
                if len(row) < width[words[0]]:
                    raise ValueError
                rows[words[0]].append(row)
            elif words[0] == "f":
                parts = [word.split("/") for word in words[1:]]
                face = [_index(p[0], len(rows["v"])) for p in parts]
                uv_face = [_index(p[1], len(rows["vt"])) if len(p) > 1 and p[1] else -1 for p in parts]
                if len(face) < 3:
                    raise ValueError
                for k in range(1, len(face) - 1):
                    corners.append([face[0], face[k], face[k + 1]])
                    uv_corners.append([uv_face[0], uv_face[k], uv_face[k + 1]])
        except (ValueError, IndexError):
            raise FitjaxError(f"{path}, line {number}: cannot understand {line.strip()[:60]!r}; expected OBJ") from None
        if words[0] == "mtllib":
            texture = _texture_of(path, line.split(None, 1)[1].strip())
    vertices, triangles = check_mesh(np.array(rows["v"]).reshape(-1, 3), np.array(corners, np.int32).reshape(-1, 3))
    uv_triangles = np.array(uv_corners, np.int32).reshape(-1, 3)
    has_uv = bool(rows["vt"]) and len(uv_triangles) > 0 and bool((uv_triangles >= 0).all())
    if has_uv:
        check_uv(len(vertices), triangles, np.array(rows["vt"]), uv_triangles)
    return ObjMesh(
        vertices,
        triangles.astype(np.int32),
        np.array(rows["vt"]) if has_uv else None,
        uv_triangles if has_uv else None,
        np.array(rows["vn"]) if rows["vn"] else None,
        texture,
    )


def _index(word: str, count: int) -> int:
    """An OBJ index (from 1, or negative from the end so far) as an index from 0."""
    value = int(word)
    if value == 0 or value < -count:
        raise IndexError
    return value - 1 if value > 0 else count + value
