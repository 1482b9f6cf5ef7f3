"""The Surrey Face Model, in the archives of eos: `sfm_shape_3448.bin`, `expression_blendshapes_3448.bin` and `ibug_to_sfm.txt` (millimetres).

P. Huber et al., "A Multiresolution 3D Morphable Face Model and Fitting Framework", VISAPP 2016; https://github.com/patrikhuber/eos. Research only.
Other archives of eos, such as its conversions of the Basel models, have the same form and are read too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fitjax.errors import BasisError
from fitjax.importers.landmark_tables import parse_table
from fitjax.importers.linear_file import FREE, Imported, linear_basis
from fitjax.importers.safe.cereal import EosModel, PcaModel, read_eos_blendshapes, read_eos_model
from fitjax.importers.safe.fields import Fields
from fitjax.importers.safe.kinds import FileKind, sniff

LICENCE = "Surrey Face Model: non-commercial research (https://cvssp.org/faceweb/3dmm/)"
#: Blendshapes: no displacement to twice what was recorded.
_SIGMA, _UPPER = 0.5, 2.0


def read_surrey(path: Path) -> Imported:
    """A folder with the shape model, the blendshapes and the table of landmarks, or the shape model itself with the others beside it.

    Raises:
        BasisError: no shape model among the files, more than one, a damaged one, or blendshapes of another mesh.
    """
    model_path = _model_path(path)
    model = read_eos_model(model_path)
    count, odd = divmod(len(model.shape.mean), 3)
    if odd or not count:
        raise BasisError(
            f"{model_path}: expected three numbers per vertex, found {len(model.shape.mean)}; is it the right file?"
        )
    fields = Fields(model_path, _arrays(model), "the morphable model")
    variances = fields.floats("variances")
    if (variances < 0).any():
        raise fields.wrong("variances", "expected none below zero")
    basis = fields.floats("basis") * np.sqrt(variances)
    shapes, extra = _expressions(model_path, model, count)
    uv = fields.floats("uv", (None, 2))
    uv_triangles = fields.indices("uv_triangles", len(uv), (None, 3)) if len(model.uv_triangles) else None
    triangles = fields.indices("triangles", count, (None, 3))
    if uv_triangles is None and len(uv) == count:
        uv_triangles = triangles
    albedo = None
    if len(model.colour.mean) == 3 * count:
        modes = fields.floats("colour basis") * np.sqrt(np.maximum(fields.floats("colour variances"), 0))
        albedo = fields.floats("colour mean").reshape(-1, 3), modes.T.reshape(-1, count, 3)
    return linear_basis(
        name="surrey",
        licence=LICENCE,
        source=f"eos archive {model_path.name}",
        units="mm",
        mean=fields.floats("mean").reshape(-1, 3),
        triangles=triangles,
        identity=basis.T.reshape(-1, count, 3),
        expression=shapes,
        uv=uv * [1, -1] + [0, 1] if uv_triangles is not None and len(uv_triangles) == len(triangles) else None,
        uv_triangles=uv_triangles,
        landmarks68=_landmarks(model_path, count),
        albedo=albedo,
        **extra,
    )


def _model_path(path: Path) -> Path:
    if sniff(path) is not FileKind.FOLDER:
        return path
    found = sorted(p for p in path.glob("*.bin") if "blendshape" not in p.name.lower())
    if len(found) == 1:
        return found[0]
    shape = [p for p in found if "shape" in p.name.lower()]
    if len(shape) != 1:
        listed = ", ".join(p.name for p in found) or "none"
        raise BasisError(
            f"{path}: expected one shape model of eos such as sfm_shape_3448.bin, found {listed}; give the file itself"
        )
    return shape[0]


def _arrays(model: EosModel) -> dict[str, np.ndarray]:
    shape, colour = model.shape, model.colour
    return {
        "mean": shape.mean, "basis": shape.basis, "variances": shape.variances, "triangles": shape.triangles, "uv": model.uv,
        "uv_triangles": model.uv_triangles, "colour mean": colour.mean, "colour basis": colour.basis, "colour variances": colour.variances,
    }  # fmt: skip


def _expressions(path: Path, model: EosModel, count: int) -> tuple[np.ndarray, dict]:
    """Displacements (E, V, 3), and names, spreads and bounds."""
    if isinstance(model.expression, PcaModel):
        pca = model.expression
        fields = Fields(path, {"basis": pca.basis, "variances": pca.variances}, "the expression model")
        modes = fields.floats("basis", (3 * count, None)) * np.sqrt(np.maximum(fields.floats("variances"), 0))
        names = [f"expression_{k:03d}" for k in range(modes.shape[1])]
        bounds = {"expression_lower": -FREE, "expression_upper": FREE}
        return modes.T.reshape(-1, count, 3), {"expression_names": names, **bounds}
    beside = sorted(p for p in path.parent.glob("*.bin") if "blendshape" in p.name.lower() and p != path)
    shapes = model.expression
    if shapes is None and beside:
        if len(beside) > 1:
            listed = ", ".join(p.name for p in beside)
            raise BasisError(
                f"{path.parent}: expected one archive of blendshapes, found {listed}; move the others away"
            )
        path, shapes = beside[0], read_eos_blendshapes(beside[0])
    fields = Fields(path, shapes or {}, "the blendshapes")
    modes = np.zeros((len(fields), count, 3))
    for mode, name in zip(modes, fields):
        mode[:] = fields.floats(name, (3 * count,)).reshape(-1, 3)
    bounds = {"expression_sigma": _SIGMA, "expression_lower": 0.0, "expression_upper": _UPPER}
    return modes, {"expression_names": list(fields), **bounds}


def _landmarks(path: Path, count: int) -> np.ndarray | None:
    found = sorted(path.parent.glob("ibug_to_*.txt"))
    return parse_table(found[0], count) if len(found) == 1 else None
