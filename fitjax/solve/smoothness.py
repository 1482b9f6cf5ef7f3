"""What `fitjax.losses.smoothness` costs, and its derivatives: each residual depends on one coordinate of a photo and the same of the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fitjax.geometry.rotation import rotation_log
from fitjax.losses.core import Loss
from fitjax.losses.smoothness import HALF_HEAD
from fitjax.model.params import Params, Tangent
from fitjax.solve.sharing import Sharing


def _weights(sharing: Sharing, loss: Loss, params: Params) -> dict[str, Array]:
    """√weight (P-1,) of each group that the loss holds: zero between photos of different persons."""
    person = sharing.person_of_photo
    same = person[1:] == person[:-1]
    found = {}
    for group, weight in loss.arguments.items():
        if group in params and sharing.level(group) == "photo":
            dtype = jax.tree.leaves(params[group])[0].dtype
            found[group] = jnp.where(same, jnp.sqrt(jnp.asarray(loss.weight * weight, dtype)), 0)
    return found


def _differences(group: str, part: Any) -> Any:
    """From each photo to the next; the tree of the group's tangent, every leaf (P-1, …)."""
    differences = jax.tree.map(lambda x: x[1:] - x[:-1], part)
    if group == "pose":
        turn = jnp.matmul(part["rotation"][1:], jnp.swapaxes(part["rotation"][:-1], -1, -2), precision="highest")
        differences = dict(differences, rotation=rotation_log(turn), translation=differences["translation"] / HALF_HEAD)
    return differences


def _times(weight: Array, x: Array) -> Array:
    return weight.reshape((-1,) + (1,) * (x.ndim - 1)) * x


def smooth_residuals(sharing: Sharing, loss: Loss, params: Params) -> dict[str, Any]:
    """Weighted residuals by group, leaves (P-1, …) as in a tangent: ½ Σ of their squares is the cost."""
    weights = _weights(sharing, loss, params)
    return {g: jax.tree.map(lambda x, w=w: _times(w, x), _differences(g, params[g])) for g, w in weights.items()}


def smooth_cost(sharing: Sharing | None, loss: Loss, params: Params) -> Float[Array, ""]:
    total: Array = jnp.zeros((), params["pose"]["translation"].dtype)
    if sharing is None:
        return total
    for leaf in jax.tree.leaves(smooth_residuals(sharing, loss, params)):
        total = total + 0.5 * jnp.sum(leaf**2)
    return total


class Links(NamedTuple):
    """Normal equations of what links neighbours, over the o coordinates of each of P photos.

    Attributes:
        gradient, diagonal: (P, o). coupling: (P-1, o), the diagonal of the block between a photo and the next.
    """

    gradient: Float[Array, "P o"]
    diagonal: Float[Array, "P o"]
    coupling: Float[Array, "P-1 o"]


def links(sharing: Sharing, losses: Mapping[str, Loss], params: Params, zero: Tangent, free: Float[Array, "P o"]) -> Links:
    """All smoothness losses at ``params``.

    The Jacobian of a rotation's residual is taken as ± the identity: its product with the residual is exact, so the gradient is.

    Args:
        zero: tangent of the groups that are free. free: 1 where a coordinate of a photo may move.
    """
    gradient, diagonal, coupling = jnp.zeros_like(free), jnp.zeros_like(free), jnp.zeros_like(free[1:])
    names = [g for g in sorted(zero) if sharing.level(g) == "photo"]
    for loss in losses.values():
        residuals, weights = smooth_residuals(sharing, loss, params), _weights(sharing, loss, params)
        r, before, after = [], [], []
        for group in names:
            nothing = jax.tree.map(lambda x: jnp.zeros_like(x[1:]), zero[group])
            r.append(residuals.get(group, nothing))
            weight = weights.get(group, jnp.zeros_like(free[1:, 0]))
            slope = jax.tree.map(lambda x, w=weight: _times(w, jnp.ones_like(x)), nothing)
            if group == "pose":  # a step of the tangent moves by its own depth
                depth = params["pose"]["translation"][:, 2:] / HALF_HEAD
                moves = [dict(slope, translation=slope["translation"] * d) for d in (depth[:-1], depth[1:])]
            else:
                moves = [slope, slope]
            before.append(moves[0])
            after.append(moves[1])
        flat, minus, plus = (_flat(x) for x in (r, before, after))
        minus, plus = minus * free[:-1], plus * free[1:]
        gradient = gradient.at[1:].add(plus * flat).at[:-1].add(-minus * flat)
        diagonal = diagonal.at[1:].add(plus**2).at[:-1].add(minus**2)
        coupling = coupling - minus * plus
    return Links(gradient, diagonal, coupling)


def _flat(trees: list[Any]) -> Array:
    leaves = jax.tree.leaves(trees)
    return jnp.concatenate([x.reshape(x.shape[0], -1) for x in leaves], 1)
