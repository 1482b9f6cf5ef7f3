"""One Gauss-Newton step of the fit's own objective on top of the network's start, bounds included.

The network's faces are within some percent of the lowest objective; the rest is a least-squares problem that no network solves as well as one
step does. Here it costs a part of what a step of the general solver costs: rows of the basis at the points are at hand, derivatives are written out.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from fitjax.geometry.rotation import cross_matrix, rotation_exp
from fitjax.initial.points import PointTable, View

#: A point this far off (face sizes) has lost half of its weight, as in the linear start.
_ROBUST = 0.12
#: Weight of landmark losses, ½ · 10⁴ · mean |r|².
_LANDMARK_WEIGHT = 1e4
#: Pose before the codes: turns about the head's axes (radians) and shifts (in units of the depth), and how far one step may take them.
_POSE, _LIMIT = 6, 0.2
#: Rounds of the active set.
_ROUNDS = 3


def bounded_step(
    curvature: Float[Array, "D D"], right: Float[Array, "D"], lower: Float[Array, "D"], upper: Float[Array, "D"], rounds: int = _ROUNDS
) -> Float[Array, "D"]:
    """The minimiser of ½ sᵀ A s - bᵀ s within bounds, by a few rounds of a primal-dual active set (Hintermüller, Ito, Kunisch, 2003)."""
    eye = jnp.eye(len(right), dtype=right.dtype)

    def improve(_: int, state: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = state
        return active(solved(low, high), low, high)

    def solved(low: Bool[Array, "D"], high: Bool[Array, "D"]) -> Array:
        held = low | high
        fixed = jnp.where(low, lower, jnp.where(high, upper, 0))
        free = ~held
        matrix = jnp.where(free[:, None] & free[None, :], curvature, 0) + jnp.where(held, eye, 0)
        rest = jnp.where(held, fixed, right - jnp.matmul(curvature, fixed, precision="highest"))
        return jax.scipy.linalg.solve(matrix, rest, assume_a="pos")

    def active(step: Array, low: Array, high: Array) -> tuple[Array, Array]:
        # A coordinate at its bound is let go where the quadratic falls towards the inside.
        slope = jnp.matmul(curvature, step, precision="highest") - right
        return jnp.where(low | high, low & (slope > 0), step < lower), jnp.where(low | high, high & (slope < 0), step > upper)

    none = jnp.zeros(right.shape, bool)
    return jnp.clip(solved(*jax.lax.fori_loop(0, rounds, improve, (none, none))), lower, upper)


def polish(
    table: PointTable, view: View, rotation: Float[Array, "3 3"], translation: Float[Array, "3"], codes: Float[Array, "M"]
) -> tuple[Array, Array, Array]:
    """Rotation (3, 3) and translation (3,) in the view's camera, and codes (M,), one step nearer to the lowest objective."""
    shape = table.mean + jnp.einsum("m,mna->na", codes, table.modes, precision="highest")
    turned = jnp.matmul(shape, rotation.T, precision="highest")
    depth = jnp.maximum(turned[:, 2:] + translation[2], 1e-3)
    seen = (turned[:, :2] + translation[:2]) / depth
    rest = view.points - seen
    weight = view.weight / (1 + jnp.sum(rest**2, 1) / (_ROBUST * view.size) ** 2)
    root = jnp.sqrt(_LANDMARK_WEIGHT * weight / jnp.maximum(jnp.sum(weight), 1e-6)) / view.size
    turns = jnp.einsum("kab,nb->kna", cross_matrix(jnp.eye(3, dtype=shape.dtype)), shape)
    shifts = jnp.broadcast_to((translation[2] * rotation)[:, None], turns.shape)
    # How a point of the picture moves with its point in head space, weighted: (N, 2, 3).
    per_point = (rotation[:2] - seen[..., None] * rotation[2]) * (root / depth[:, 0])[:, None, None]
    moves = jnp.concatenate([turns, shifts, table.modes * table.sigma[:, None, None]])
    whitened = sum((moves[..., a, None] * per_point[..., a] for a in range(3)), jnp.zeros(())).reshape(len(moves), -1)
    prior = jnp.concatenate([jnp.full(_POSE, 1e-6, shape.dtype), jnp.broadcast_to(table.prior, codes.shape)])
    curvature = jnp.matmul(whitened, whitened.T, precision="highest") + jnp.diag(prior)
    right = jnp.matmul(whitened, (rest * root[:, None]).reshape(-1), precision="highest")
    right = right - prior * jnp.concatenate([jnp.zeros(_POSE, shape.dtype), codes / table.sigma])
    far = jnp.asarray(np.full(_POSE, _LIMIT), shape.dtype)
    lower, upper = jnp.concatenate([-far, (table.lower - codes) / table.sigma]), jnp.concatenate([far, (table.upper - codes) / table.sigma])
    step = bounded_step(curvature, right, lower, upper)
    moved = translation + translation[2] * step[3:_POSE]
    return (
        jnp.matmul(rotation, rotation_exp(step[:3]), precision="highest"),
        moved,
        jnp.clip(codes + table.sigma * step[_POSE:], table.lower, table.upper),
    )
