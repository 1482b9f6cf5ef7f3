"""From an articulated model's own arrays to the tensors of `fitjax-basis/1`: checks, head space, priors of joints, texture coordinates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from fitjax.errors import BasisError
from fitjax.geometry.host_mesh import vertex_normals
from fitjax.importers.linear_file import Imported, unrolled
from fitjax.model.basis_file import FORMAT
from fitjax.model.skinned_file import Rig, check_parents, check_weights, rig_tensors

#: Statistical expressions have unit variance; beyond this many standard deviations nothing was learned.
STATISTICAL_BOUND = 5.0


@dataclass(frozen=True)
class JointPrior:
    """What is known of a joint's axis-angle vector, radians about x (nod, open), y (turn), z (tilt).

    Attributes:
        sigma, lower, upper: per axis. free: whether fits move the joint by default.
    """

    sigma: tuple[float, float, float]
    lower: tuple[float, float, float]
    upper: tuple[float, float, float]
    free: bool


#: By what a joint's name contains. A jaw opens about +x. Necks and heads turn with the pose of the head, so fits leave them alone.
JOINT_PRIORS: tuple[tuple[str, JointPrior], ...] = (
    ("jaw", JointPrior((0.2, 0.05, 0.05), (-0.1, -0.3, -0.3), (0.8, 0.3, 0.3), True)),
    ("eye", JointPrior((0.2, 0.2, 0.02), (-0.7, -0.7, -0.2), (0.7, 0.7, 0.2), True)),
    ("", JointPrior((0.2, 0.2, 0.2), (-1.5, -1.5, -1.5), (1.5, 1.5, 1.5), False)),
)


@dataclass(frozen=True)
class Articulated:
    """An articulated model in its own space, which has to be metres with +x the subject's left, +y up, +z out of the face.

    Attributes:
        file: for messages. name, licence, source: for the metadata; ``source`` says what it is and what was kept of it.
        vertices, triangles: (V, 3), (F, 3). identity, expression: (K, V, 3), (E, V, 3) per coefficient of unit variance.
        joints: (J, 3), the root first. joint_identity, joint_expression: (K, J, 3), (E, J, 3). parents: (J,). weights: (V, J).
        correctives: (9 (J - 1), V, 3) per entry of the rotation matrices less identity, row by row, without the root's; or None.
        joint_names: left and right eye are found by them. expression_names: default ``expression_000``.
        uv, uv_triangles: OBJ's origin, bottom-left; default the unrolled head. region: (F,) of the triangles. mirror: (V,).
    """

    file: str
    name: str
    licence: str
    source: dict[str, Any]
    vertices: Float[np.ndarray, "V 3"]
    triangles: Int[np.ndarray, "F 3"]
    identity: Float[np.ndarray, "K V 3"]
    expression: Float[np.ndarray, "E V 3"]
    joints: Float[np.ndarray, "J 3"]
    joint_identity: Float[np.ndarray, "K J 3"]
    joint_expression: Float[np.ndarray, "E J 3"]
    parents: Int[np.ndarray, "J"]
    weights: Float[np.ndarray, "V J"]
    correctives: Float[np.ndarray, "P V 3"] | None
    joint_names: tuple[str, ...]
    expression_names: tuple[str, ...] = ()
    uv: Float[np.ndarray, "T 2"] | None = None
    uv_triangles: Int[np.ndarray, "F 3"] | None = None
    region: Int[np.ndarray, "F"] | None = None
    mirror: Int[np.ndarray, "V"] | None = None


def articulated_basis(model: Articulated) -> Imported:
    """A basis without annotations, and without landmarks.

    Head space is the model's own space, moved so that the middle between its two eye joints is the origin: x_model = x_head + ``origin_m``, which the
    provenance holds. Shapes are kept in float32, so that parameters can go back to where they came from.

    Raises:
        BasisError: arrays that disagree, that are not finite, indices out of range, or a space that is not the one above.
    """
    _check(model)
    origin = _origin(model)
    priors = [joint_prior(name) for name in model.joint_names[1:]]
    rig = Rig(
        joint_mean=model.joints - origin,
        joint_identity=model.joint_identity,
        joint_expression=model.joint_expression,
        parents=model.parents,
        weights=model.weights,
        correctives=np.zeros((0, len(model.vertices), 3)) if model.correctives is None else model.correctives,
        sigma=np.array([p.sigma for p in priors]),
        lower=np.array([p.lower for p in priors]),
        upper=np.array([p.upper for p in priors]),
        free=np.array([p.free for p in priors], np.uint8),
        names=model.joint_names,
    )
    joints, joint_names = rig_tensors(rig)
    uv, uv_triangles = (model.uv, model.uv_triangles) if model.uv is not None else unrolled(model.vertices - origin, model.triangles)
    assert uv_triangles is not None
    one = np.ones(len(model.expression), np.float32)
    tensors = {
        "mean": (model.vertices - origin).astype(np.float32),
        "triangles": model.triangles.astype(np.int32),
        "uv": uv.astype(np.float32),
        "uv_triangles": uv_triangles.astype(np.int32),
        "identity": model.identity.astype(np.float32),
        "expression": model.expression.astype(np.float32),
        "expression_sigma": one,
        "expression_lower": -STATISTICAL_BOUND * one,
        "expression_upper": STATISTICAL_BOUND * one,
    }
    if model.region is not None:
        tensors["triangle_region"] = model.region.astype(np.uint8)
    if model.mirror is not None:
        tensors["mirror"] = model.mirror.astype(np.int32)
    names = model.expression_names or tuple(f"expression_{i:03d}" for i in range(len(one)))
    metadata = {
        "format": FORMAT,
        "name": model.name,
        "licence": model.licence,
        "units": "m",
        "expression_names": json.dumps(list(names)),
        "provenance": json.dumps({**model.source, "origin_m": [round(float(x), 9) for x in origin]}),
        "subdivision": "loop",
    }
    return Imported(tensors | joints, metadata | joint_names, None)


def joint_prior(name: str) -> JointPrior:
    """The first of :data:`JOINT_PRIORS` whose word is in the name."""
    return next(prior for word, prior in JOINT_PRIORS if word in name.lower())


def eye_joints(names: Sequence[str]) -> tuple[int, int] | None:
    """The joints of the subject's left and right eye, by their names."""
    found = [next((i for i, n in enumerate(names) if "eye" in n.lower() and side in n.lower()), None) for side in ("left", "right")]
    return None if found[0] is None or found[1] is None else (found[0], found[1])


def _check(model: Articulated) -> None:
    count, modes, expressions, joints = len(model.vertices), len(model.identity), len(model.expression), len(model.joints)
    shapes: dict[str, tuple[Any, tuple[int, ...]]] = {
        "vertices": (model.vertices, (count, 3)),
        "identity modes": (model.identity, (modes, count, 3)),
        "expressions": (model.expression, (expressions, count, 3)),
        "joints": (model.joints, (joints, 3)),
        "joint identity modes": (model.joint_identity, (modes, joints, 3)),
        "joint expressions": (model.joint_expression, (expressions, joints, 3)),
        "skinning weights": (model.weights, (count, joints)),
    }
    if model.correctives is not None:
        shapes["pose correctives"] = (model.correctives, (9 * (joints - 1), count, 3))
    for name, (value, shape) in shapes.items():
        if value.shape != shape or value.dtype.kind != "f":
            raise BasisError(f"{model.file}: {name}: expected numbers of shape {shape}, found {value.dtype} {value.shape}")
        if not np.isfinite(value).all():
            raise BasisError(f"{model.file}: {name}: holds values that are not finite; the file is damaged, download it again")
    if joints < 2 or not modes or not count or len(model.joint_names) != joints:
        raise BasisError(f"{model.file}: expected vertices, shapes and at least two joints with names, found {count}, {modes}, {joints}")
    indices = {"triangles": (model.triangles, count), "texture triangles": (model.uv_triangles, 0 if model.uv is None else len(model.uv))}
    for name, (index, limit) in indices.items():
        if index is None:
            continue
        if index.ndim != 2 or index.shape[1:] != (3,) or index.dtype.kind not in "iu" or len(index) != len(model.triangles):
            raise BasisError(f"{model.file}: {name}: expected indices ({len(model.triangles)}, 3), found {index.dtype} {index.shape}")
        if not len(index) or index.min() < 0 or index.max() >= limit:
            raise BasisError(f"{model.file}: {name}: expected indices in [0, {limit}), found others; the file is damaged, download it again")
    check_parents(model.parents, joints, f"{model.file}: joint parents")
    check_weights(model.weights, f"{model.file}: skinning weights")


def _origin(model: Articulated) -> np.ndarray:
    """Midway between the eyes, once the axes and units are seen to be what they should."""
    eyes = eye_joints(model.joint_names)
    if eyes is None:
        raise BasisError(f"{model.file}: expected joints of the left and the right eye, found {', '.join(model.joint_names)[:120]}")
    one, other = model.joints[list(eyes)].astype(float)
    size = float(np.ptp(model.vertices, axis=0).max())
    if not 0.1 < size < 1.0:
        raise BasisError(f"{model.file}: the head is {size:.3g} long; expected metres; scale the model first")
    middle, origin = model.vertices.mean(0), 0.5 * (one + other)
    apart = np.abs(one - other)
    # A mirrored space would turn the surface inside out.
    normals = vertex_normals(model.vertices.astype(float), model.triangles)
    front = model.vertices[:, 2] > np.quantile(model.vertices[:, 2], 0.7)
    placed = apart[0] > 3 * max(apart[1], apart[2]) and origin[1] > model.joints[0, 1] and origin[2] > middle[2]
    if not placed or normals[front, 2].mean() < 0:
        raise BasisError(f"{model.file}: expected +x as the subject's left, +y up and +z out of the face; the eyes or the front are elsewhere")
    return origin
