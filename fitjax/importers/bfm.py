"""The Basel Face Models of 2009 (`01_MorphableModel.mat`, micrometres), 2017 and 2019 (`model2017-1_bfm_nomouth.h5` and others, millimetres).

P. Paysan et al., "A 3D Face Model for Pose and Illumination Invariant Face Recognition", AVSS 2009; T. Gerig et al., "Morphable Face Models - An Open
Framework", FG 2018; https://faces.dmi.unibas.ch/bfm. The newer files are Statismo's: groups ``shape``, ``color``, ``expression``, each with
``model/mean``, ``model/pcaBasis`` (3 V, K) of unit length and ``model/pcaVariance`` (K), and the mesh as ``representer/cells`` (3, F).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fitjax.errors import BasisError
from fitjax.importers.landmark_tables import known_table
from fitjax.importers.linear_file import Imported, linear_basis
from fitjax.importers.safe.fields import Fields
from fitjax.importers.safe.foreign import read_hdf5, read_mat
from fitjax.importers.safe.kinds import FileKind, sniff

LICENCE = "Basel Face Model: non-commercial research (https://faces.dmi.unibas.ch/bfm)"

#: Tables of landmarks by the number of vertices.
_TABLES = {53490: "ibug68_bfm2009", 53149: "ibug68_bfm2017_nomouth"}


def _one(path: Path, pattern: str) -> Path:
    """The file itself, or the only one of a kind in a folder."""
    if sniff(path) is not FileKind.FOLDER:
        return path
    found = sorted(path.glob(pattern))
    if len(found) != 1:
        listed = ", ".join(p.name for p in found) or "none"
        raise BasisError(f"{path}: expected one file {pattern}, found {listed}; give the file itself")
    return found[0]


def _modes(fields: Fields, basis: str, sigma: np.ndarray, count: int) -> np.ndarray:
    """(K, V, 3) of unit variance from columns of unit length."""
    columns = fields.floats(basis, (3 * count, None), np.float32)
    if columns.shape[1] != len(sigma):
        raise fields.wrong(basis, f"expected {len(sigma)} modes, found {columns.shape[1]}")
    if not np.isfinite(sigma).all() or (sigma < 0).any():
        raise fields.wrong(basis, "expected spreads that are not below zero")
    return (columns * sigma.astype(np.float32)).T.reshape(-1, count, 3)


def _vertices(fields: Fields, name: str) -> np.ndarray:
    mean = fields.floats(name).reshape(-1)
    if len(mean) % 3 or not len(mean):
        raise fields.wrong(name, f"expected three numbers per vertex, found {len(mean)}")
    return mean.reshape(-1, 3)


def _landmarks(count: int) -> np.ndarray | None:
    return known_table(_TABLES[count], count) if count in _TABLES else None


def read_bfm2009(path: Path) -> Imported:
    """The file `01_MorphableModel.mat`, or the folder `PublicMM1` that it lies in. It has no expressions.

    Raises:
        BasisError: not such a file, or a damaged one.
    """
    path = _one(path, "*MorphableModel*.mat")
    fields = Fields(path, read_mat(path, "BFM 2009").arrays, "BFM 2009")
    mean = _vertices(fields, "shapeMU")
    count = len(mean)
    # shapeEV and texEV are standard deviations, whatever their names say.
    identity = _modes(fields, "shapePC", fields.floats("shapeEV").reshape(-1), count)
    albedo = None
    if "texMU" in fields:
        modes = _modes(fields, "texPC", fields.floats("texEV").reshape(-1), count)
        albedo = fields.floats("texMU", (3 * count, 1)).reshape(-1, 3) / 255, modes / 255
    return linear_basis(
        name="bfm2009",
        licence=LICENCE,
        source=f"BFM 2009, {path.name}",
        units="um",
        mean=mean,
        # Clockwise in the file; linear_basis turns them.
        triangles=fields.indices("tl", count, (None, 3), base=1),
        identity=identity,
        expression=np.zeros((0, count, 3)),
        expression_names=[],
        landmarks68=_landmarks(count),
        albedo=albedo,
    )


def read_bfm2017(path: Path) -> Imported:
    """A file `.h5` of 2017 or 2019: full head, `bfm_nomouth` or `face12`. Identity, expressions and albedo.

    Raises:
        BasisError: not such a file, a damaged one, or h5py is missing.
    """
    path = _one(path, "*.h5")
    found = read_hdf5(path, "BFM 2017 or 2019").arrays
    fields = Fields(path, found, "BFM 2017 or 2019")
    mean = _vertices(fields, "shape/model/mean")
    count = len(mean)
    triangles = _cells(fields, count)
    identity = _modes(fields, "shape/model/pcaBasis", _sigma(fields, "shape"), count)
    expression = np.zeros((0, count, 3), np.float32)
    if "expression/model/pcaBasis" in fields:
        expression = _modes(fields, "expression/model/pcaBasis", _sigma(fields, "expression"), count)
        if "expression/model/mean" in fields:
            shift = _vertices(fields, "expression/model/mean")
            if shift.shape != mean.shape:
                raise fields.wrong("expression/model/mean", f"expected {count} vertices, found {len(shift)}")
            mean = mean + shift
    albedo = None
    if "color/model/pcaBasis" in fields:
        colour = _vertices(fields, "color/model/mean")
        if len(colour) != count:
            raise fields.wrong("color/model/mean", f"expected {count} colours, found {len(colour)}")
        albedo = colour, _modes(fields, "color/model/pcaBasis", _sigma(fields, "color"), count)
    return linear_basis(
        name="bfm2019" if "2019" in path.name else "bfm2017",
        licence=LICENCE,
        source=f"BFM, {path.name}",
        units="mm",
        mean=mean,
        triangles=triangles,
        identity=identity,
        expression=expression,
        expression_names=[f"expression_{k:03d}" for k in range(len(expression))],
        landmarks68=_landmarks(count),
        albedo=albedo,
    )


def _cells(fields: Fields, count: int) -> np.ndarray:
    """(F, 3) from the rows or columns of a mesh."""
    name = fields.first("shape/representer/cells", "representer/cells")
    cells = fields.indices(name, count)
    if cells.ndim != 2 or 3 not in cells.shape:
        raise fields.wrong(name, f"expected (3, F), found {cells.shape}")
    return cells.T if cells.shape[0] == 3 else cells


def _sigma(fields: Fields, group: str) -> np.ndarray:
    variance = fields.floats(f"{group}/model/pcaVariance").reshape(-1)
    if (variance < 0).any():
        raise fields.wrong(f"{group}/model/pcaVariance", "expected none below zero")
    return np.sqrt(variance)
