"""Parameters: a nested dict of named groups, and how solvers move in it.

``Params`` is a plain dict pytree. Groups that a fit does not have are absent:

| group | leaves | meaning |
|---|---|---|
| ``identity`` | (K,) | identity code of the model |
| ``expression`` | (E,) | expression code of the model |
| ``joints`` | (J, 3) | axis-angle of the joints, radians, for articulated models |
| ``pose`` | ``rotation`` (3, 3), ``translation`` (3,) | head to camera, OpenCV axes, metres |
| ``camera`` | ``log_focal`` () | focal length relative to the observation's camera |
| ``albedo``, ``light`` | set by the model or the renderer | |
| ``detail_shape``, ``detail_albedo`` | UV maps | per-image residuals |

Codes are opaque to losses: what they mean, their priors and bounds come from the model. Solvers move by a **tangent**: the same tree,
but with (3,) in place of each rotation matrix. :func:`retract` applies it: rotations turn by the axis-angle vector on the left (camera side),
translations move in units of their own depth (so that the depth stays positive and one step size serves all), the rest adds.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fitjax.errors import ParamsError
from fitjax.geometry.rotation import polish_rotation, rotation_exp

#: Residual maps: they start at zero when a stage frees them.
DETAIL = ("detail_albedo", "detail_shape")

#: Groups that no landmark knows anything of.
APPEARANCE = ("albedo", "light", *DETAIL)

Params = dict[str, Any]
Tangent = dict[str, Any]

GROUPS = (
    "identity",
    "expression",
    "joints",
    "pose",
    "camera",
    "albedo",
    "light",
    "detail_shape",
    "detail_albedo",
)


def zero_tangent(params: Params, groups: tuple[str, ...] | None = None) -> Tangent:
    """The tangent that moves nothing; with ``groups``, only their part (the others are held fixed and cost nothing)."""
    tangent = {k: jax.tree.map(jnp.zeros_like, v) for k, v in params.items() if groups is None or k in groups}
    if "pose" in tangent:
        rotation = params["pose"]["rotation"]
        tangent["pose"] = dict(tangent["pose"], rotation=jnp.zeros(rotation.shape[:-1], rotation.dtype))
    return tangent


def retract(params: Params, tangent: Tangent) -> Params:
    """Move ``params`` along ``tangent``; groups absent from the tangent stay."""
    moved = dict(params)
    for group, step in tangent.items():
        if group == "pose":
            turned = jnp.matmul(rotation_exp(step["rotation"]), params["pose"]["rotation"], precision="highest")
            t = params["pose"]["translation"]
            depth = t[..., 2:]
            shifted = t[..., :2] + depth * step["translation"][..., :2]
            translation = jnp.concatenate([shifted, depth * jnp.exp(step["translation"][..., 2:])], -1)
            moved["pose"] = dict(params["pose"], rotation=turned, translation=translation)
        else:
            moved[group] = jax.tree.map(jnp.add, params[group], step)
    return moved


def polish(params: Params) -> Params:
    """Remove the rounding drift of rotation matrices after accepted steps."""
    if "pose" not in params:
        return params
    return dict(params, pose=dict(params["pose"], rotation=polish_rotation(params["pose"]["rotation"])))


def free_mask(tangent: Tangent, free: Mapping[str, Any]) -> Tangent:
    """Ones where a parameter may move: ``free`` maps group → scalar or array that broadcasts to its tangent leaves.

    The values are data: another mask over the same groups does not recompile.
    """

    def fill(leaf: jax.Array, value: Any) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(value, leaf.dtype), leaf.shape)

    mask = {}
    for group, part in tangent.items():
        value = free.get(group, 0.0)
        if isinstance(value, Mapping):
            mask[group] = {k: jax.tree.map(partial(fill, value=value.get(k, 0.0)), leaf) for k, leaf in part.items()}
        else:
            mask[group] = jax.tree.map(partial(fill, value=value), part)
    return mask


def frontal_pose(dtype: Any = np.float32, depth: float = 1.0) -> dict[str, jax.Array]:
    """A head that looks straight into the camera from ``depth`` metres."""
    rotation = jnp.diag(jnp.array([1.0, -1.0, -1.0], dtype))
    return {"rotation": rotation, "translation": jnp.array([0.0, 0.0, depth], dtype)}


def check_params(params: Params, like: Params) -> None:
    """Compare with the tree that a model expects.

    Raises:
        ParamsError: an unknown group, a missing group, a wrong shape, or values that are not finite.
    """
    for group in params:
        if group not in GROUPS:
            raise ParamsError(f"parameters: unknown group {group!r}; expected some of {', '.join(GROUPS)}")
    for group, expected in like.items():
        if group not in params:
            raise ParamsError(f"parameters: group {group!r} is missing; the model expects {', '.join(like)}")
        given_leaves, given_tree = jax.tree.flatten(params[group])
        tree: Any
        leaves, tree = jax.tree.flatten(expected)
        if given_tree != tree:
            raise ParamsError(f"parameters: group {group!r} has structure {given_tree}, expected {tree}")
        for a, b in zip(given_leaves, leaves):
            if np.shape(a) != np.shape(b):
                raise ParamsError(f"parameters: group {group!r} has shape {np.shape(a)}, the model expects {np.shape(b)}")
            if not np.isfinite(np.asarray(a)).all():
                raise ParamsError(f"parameters: group {group!r} holds values that are not finite; start from model.init()")
