"""Head models of the package `body-models`, or the same arrays in a mapping, as a basis.

https://github.com/abcamiletto/body-models (SMPL-family models and FLAME for NumPy, PyTorch and JAX). Its models are read by their public arrays
(``rest_vertices``, ``faces``, ``skin_weights``, ``parents``, ``joint_names``, ``shapedirs``, ``posedirs``) and by what they compute: joints from
``forward_skeleton``, expressions from ``forward_vertices`` where no ``exprdirs`` are public. The package itself is not needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from fitjax.errors import BasisError
from fitjax.importers.articulated import Articulated, articulated_basis
from fitjax.importers.linear_file import Imported

#: Keys of a mapping, with their shapes: V vertices, F triangles, J joints (the root first), S shapes, E expressions.
KEYS = {
    "rest_vertices": "(V, 3) metres, +y up, +z out of the face",
    "faces": "(F, 3)",
    "skin_weights": "(V, J)",
    "parents": "(J,) -1 for the root",
    "joint_names": "J names, of which one has 'left' and 'eye' in it, one 'right' and 'eye'",
    "shapedirs": "(V, 3, S) per coefficient of unit variance",
    "exprdirs": "(V, 3, E), optional",
    "posedirs": "(9 (J - 1), 3 V) per entry of the joints' rotation matrices less identity, without the root's, row by row; optional",
    "joints": "(J, 3) at rest",
    "joint_shapedirs": "(J, 3, S)",
    "joint_exprdirs": "(J, 3, E), optional",
}
_NEEDED = ("rest_vertices", "faces", "skin_weights", "parents", "joint_names", "shapedirs", "joints", "joint_shapedirs")

# Models compute in float32: differences of large coefficients lose less.
_STEP = 10.0


def from_body_model(model: Any, name: str = "body_model", licence: str = "that of the model") -> Imported:
    """A basis without annotations, from a model of the package or a mapping of :data:`KEYS`; write it with ``serialise(tensors, metadata)``.

    Raises:
        BasisError: an array is missing or has another shape, or the model is no head with two eye joints.
    """
    arrays = dict(model) if isinstance(model, Mapping) else arrays_of(model)
    what = "mapping" if isinstance(model, Mapping) else f"{type(model).__module__}.{type(model).__qualname__}"
    lacking = [key for key in _NEEDED if key not in arrays]
    if lacking:
        raise BasisError(f"body model ({what}): lacks {', '.join(lacking)}; expected {', '.join(f'{k} {KEYS[k]}' for k in lacking)}")
    numbers = {key: _numbers(what, key, arrays[key]) for key in KEYS if key in arrays and key != "joint_names"}
    vertices, weights = numbers["rest_vertices"], numbers["skin_weights"]
    count, joints = len(vertices), len(numbers["joints"])
    shapes = _modes(what, "shapedirs", numbers["shapedirs"], count)
    expressions = _modes(what, "exprdirs", numbers.get("exprdirs", np.zeros((count, 3, 0))), count)
    joint_shapes = _modes(what, "joint_shapedirs", numbers["joint_shapedirs"], joints)
    joint_expressions = _modes(what, "joint_exprdirs", numbers.get("joint_exprdirs", np.zeros((joints, 3, len(expressions)))), joints)
    correctives = numbers.get("posedirs")
    if correctives is not None:
        if correctives.shape != (9 * (joints - 1), 3 * count):
            raise BasisError(f"body model ({what}): posedirs: expected {(9 * (joints - 1), 3 * count)}, found {correctives.shape}")
        correctives = correctives.reshape(-1, count, 3)
    return articulated_basis(
        Articulated(
            file=f"body model ({what})", name=name, licence=licence, source={"source": f"body model {what}"},
            vertices=vertices, triangles=numbers["faces"].astype(np.int64), identity=shapes, expression=expressions,
            joints=numbers["joints"], joint_identity=joint_shapes, joint_expression=joint_expressions,
            parents=np.append(-1, numbers["parents"][1:].astype(np.int64)), weights=weights, correctives=correctives,
            joint_names=tuple(str(x) for x in arrays["joint_names"]),
        )
    )  # fmt: skip


def arrays_of(model: Any) -> dict[str, Any]:
    """The arrays of :data:`KEYS` of a model of the package, any backend.

    Raises:
        BasisError: the model lacks one of the public names.
    """
    found: dict[str, Any] = {}
    for key in ("rest_vertices", "faces", "skin_weights", "parents", "joint_names", "shapedirs", "posedirs", "exprdirs"):
        if hasattr(model, key):
            found[key] = getattr(model, key)
    if "shapedirs" not in found or not hasattr(model, "forward_skeleton"):
        raise BasisError(f"body model {type(model).__qualname__}: expected public shapedirs and forward_skeleton, as of body-models 0.18")
    rest = _rest(model, 1)
    sizes = {name: np.shape(rest[name])[-1] for name in ("shape", "expression") if name in rest}
    if "shape" not in sizes:
        raise BasisError(f"body model {type(model).__qualname__}: expected a parameter 'shape', found {', '.join(rest)}")
    found["joints"] = _joints(model, rest)[0]
    found["shapedirs"] = np.asarray(found["shapedirs"])[..., : sizes["shape"]]
    found["joint_shapedirs"] = _slope(model, "shape", sizes["shape"], _joints)
    if "expression" in sizes:
        if "exprdirs" not in found:
            found["exprdirs"] = _slope(model, "expression", sizes["expression"], lambda m, p: np.asarray(m.forward_vertices(**p)))
        found["joint_exprdirs"] = _slope(model, "expression", sizes["expression"], _joints)
    return found


def _rest(model: Any, count: int) -> dict[str, Any]:
    try:
        return dict(model.get_rest_pose(batch_dims=(count,)))
    except TypeError:  # before 0.18
        return dict(model.get_rest_pose(batch_size=count))


def _joints(model: Any, params: dict[str, Any]) -> Float[np.ndarray, "B J 3"]:
    return np.asarray(model.forward_skeleton(**params))[..., :3, 3]


def _slope(model: Any, name: str, count: int, measure: Any) -> Float[np.ndarray, "N 3 C"]:
    """How what is measured moves per coefficient; it is linear in them."""
    columns = []
    for k in range(count):
        rest = _rest(model, 2)
        code = np.zeros((2, count), np.float32)
        code[:, k] = -_STEP, _STEP
        like = rest[name]
        # In the backend's own kind of array.
        rest[name] = code if isinstance(like, np.ndarray) else like + (like.new_tensor(code) if hasattr(like, "new_tensor") else code)
        low, high = measure(model, rest)
        columns.append((np.asarray(high, float) - np.asarray(low, float)) / (2 * _STEP))
    return np.stack(columns, -1)


def _numbers(what: str, key: str, value: Any) -> np.ndarray:
    try:
        found = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    except (TypeError, ValueError):
        raise BasisError(f"body model ({what}): {key}: expected an array {KEYS[key]}") from None
    if found.dtype.kind not in "fiu" or found.ndim == 0:
        raise BasisError(f"body model ({what}): {key}: expected numbers {KEYS[key]}, found {found.dtype} {found.shape}")
    return found.astype(np.float64)


def _modes(what: str, key: str, value: np.ndarray, count: int) -> np.ndarray:
    """(M, N, 3) from (N, 3, M)."""
    if value.ndim != 3 or value.shape[:2] != (count, 3):
        raise BasisError(f"body model ({what}): {key}: expected ({count}, 3, any), found {value.shape}")
    return np.ascontiguousarray(np.moveaxis(value, 2, 0))
