"""A model as plain arrays in one `.npz`: for whoever has a model in a form of their own. Fields as in docs/models/npz.md.

Arrays only; nothing pickled is read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fitjax.importers.linear_file import FREE, UNITS, Imported, linear_basis
from fitjax.importers.safe.arrays import read_npz
from fitjax.importers.safe.fields import Fields

_PER_EXPRESSION = frozenset(f"expression_{k}" for k in ("names", "sigma", "lower", "upper"))
_KNOWN = _PER_EXPRESSION | {
    *("vertices", "triangles", "identity", "identity_sigma", "expression", "uv", "uv_triangles", "triangle_region", "mirror"),
    *("landmarks68", "albedo_mean", "albedo", "units", "name", "licence"),
}


def read_plain(path: Path) -> Imported:
    """A `.npz` with at least ``vertices``, ``triangles``, ``identity`` and ``units``.

    Raises:
        BasisError: not such a file, a field that is unknown, missing, of another shape or not finite.
    """
    fields = Fields(path, read_npz(path, "a model of plain arrays"), "the model")
    for name in fields:
        if name not in _KNOWN:
            raise fields.wrong(name, f"not known; the fields are {', '.join(sorted(_KNOWN))}")
    mean = fields.floats("vertices", (None, 3))
    count = len(mean)
    units = _text(fields, "units", None)
    if units not in UNITS:
        raise fields.wrong("units", f"expected one of {', '.join(UNITS)}, found {units[:20]!r}")
    identity = fields.floats("identity", (None, count, 3))
    if "identity_sigma" in fields:
        identity = identity * fields.floats("identity_sigma", (len(identity),))[:, None, None]
    expression = fields.floats("expression", (None, count, 3)) if "expression" in fields else np.zeros((0, count, 3))
    n = len(expression)

    def each(name: str, default: float) -> np.ndarray | float:
        return fields.floats(name, (n,)) if name in fields else default

    sigma, lower, upper = each("expression_sigma", 1.0), each("expression_lower", -FREE), each("expression_upper", FREE)
    if np.any(np.asarray(sigma) <= 0):
        raise fields.wrong("expression_sigma", "expected positive spreads")
    if np.any(np.asarray(lower) > 0) or np.any(np.asarray(upper) < 0):
        raise fields.wrong("expression_lower", "expected bounds around zero, the neutral face")
    triangles = fields.indices("triangles", count, (None, 3))
    uv = fields.floats("uv", (None, 2)) if "uv" in fields else None
    uv_triangles = None
    if uv is not None:
        name = "uv_triangles" if "uv_triangles" in fields else "triangles"
        uv_triangles = fields.indices(name, len(uv), (len(triangles), 3))
    marks = None
    if "landmarks68" in fields:
        marks = fields.indices("landmarks68", count + 1, (68,), base=-1) - 1
    albedo = None
    if "albedo_mean" in fields:
        modes = fields.floats("albedo", (None, count, 3)) if "albedo" in fields else np.zeros((0, count, 3))
        albedo = fields.floats("albedo_mean", (count, 3)), modes
    return linear_basis(
        name=_text(fields, "name", path.stem),
        licence=_text(fields, "licence", "unknown"),
        source=f"plain arrays, {path.name}",
        units=units,
        mean=mean,
        triangles=triangles,
        identity=identity,
        expression=expression,
        expression_names=fields.names("expression_names", n)
        if "expression_names" in fields
        else [f"expression_{k:03d}" for k in range(n)],
        expression_sigma=sigma,
        expression_lower=lower,
        expression_upper=upper,
        uv=uv,
        uv_triangles=uv_triangles,
        region=fields.indices("triangle_region", 5, (len(triangles),)) if "triangle_region" in fields else None,
        mirror=fields.indices("mirror", count, (count,)) if "mirror" in fields else None,
        landmarks68=marks,
        albedo=albedo,
    )


def _text(fields: Fields, name: str, default: str | None) -> str:
    if name not in fields and default is not None:
        return default
    found = fields.names(name)
    if len(found) != 1:
        raise fields.wrong(name, "expected one text")
    return found[0]
