"""Pose and codes from landmarks in closed form: robust scaled orthography with depths put right, then one linear solve for everything at once.

The pose is POSIT's (DeMenthon and Davis, "Model-based object pose in 25 lines of code", 1995) with weights that shrink where a point is far off.
All that it leaves over is linear in small turns, shifts and codes, as long as the depths hold: a regularised least-squares problem. Its
solution is what the network corrects (:mod:`fitjax.initial.network`).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fitjax.geometry.rotation import cross_matrix, orthonormalise, rotation_exp, safe_normalise
from fitjax.initial.points import PointTable, View
from fitjax.pytree import pytree
from fitjax.solve.start import affine_camera

#: Small steps before the codes: turns about the head's axes (radians), shifts along them (metres), growth of the picture (log).
STEPS = 7
#: Their prior spreads in the linear solve.
_STEP_SIGMA = np.array([0.5] * 3 + [0.05] * 3 + [0.3])
#: Rounds of depths and weights.
_ROUNDS = 4
#: A point this far off (face sizes) has lost half of its weight; the mean face itself is off by some hundredths.
_ROBUST = 0.12
#: Weight of landmark losses, ½ · 10⁴ · mean |r|².
_LANDMARK_WEIGHT = 1e4


@pytree
class Place:
    """Where the mean face was found: ``rotation`` (3, 3); ``anchor`` (3,) the point of the head that ``anchor_camera`` (3,) is the place of."""

    rotation: Float[Array, "3 3"]
    anchor: Float[Array, "3"]
    anchor_camera: Float[Array, "3"]


@pytree
class LinearStart:
    """The closed-form start.

    Attributes:
        place: pose of the mean face. step: (7 + M,) small steps and codes on top of it.
        weight: (N,) with what is far off weighed down. left: () root mean square of what the solve leaves over, face sizes.
        share: () weighted share of points that are there. middle: (3,) of them on the mean face, metres.
    """

    place: Place
    step: Float[Array, "D"]
    weight: Float[Array, "N"]
    left: Float[Array, ""]
    share: Float[Array, ""]
    middle: Float[Array, "3"]


def _find_mean_face(table: PointTable, view: View) -> tuple[Place, Array, Array, Array]:
    """Place, its scale, the points with their depths put right (N, 2), robust weights."""

    def improve(_: Any, state: tuple[Array, Array]) -> tuple[Array, Array]:
        _, _, y, w = one(*state)
        return y, w

    def one(y: Array, w: Array) -> tuple[Place, Array, Array, Array]:
        affine, anchor, centroid = affine_camera(table.mean, y, w)
        scale = jnp.maximum(jnp.mean(jnp.linalg.norm(affine, axis=1)), 1e-6)
        first, second = safe_normalise(affine[0]), safe_normalise(affine[1])
        rotation = orthonormalise(jnp.stack([first, second, safe_normalise(jnp.cross(first, second))]))
        anchor_camera = jnp.concatenate([centroid, jnp.ones_like(centroid[:1])]) / scale
        posed = jnp.matmul(table.mean - anchor, rotation.T, precision="highest")
        relative = jnp.clip(1 + posed[:, 2] * scale, 0.5, 2.0)
        y = view.points * relative[:, None]
        error = jnp.linalg.norm(y - centroid - scale * posed[:, :2], axis=1) / view.size
        return Place(rotation, anchor, anchor_camera), scale, y, view.weight / (1 + (error / _ROBUST) ** 2)

    y, w = jax.lax.fori_loop(0, _ROUNDS - 1, improve, (view.points, view.weight))
    return one(y, w)


def pose_modes(table: PointTable, anchor: Float[Array, "3"]) -> Float[Array, "7 N 3"]:
    """How the points move in head space under the small steps."""
    from_anchor = table.mean - anchor
    turns = jnp.einsum("kab,nb->kna", cross_matrix(jnp.eye(3, dtype=anchor.dtype)), from_anchor)
    shifts = jnp.broadcast_to(jnp.eye(3, dtype=anchor.dtype)[:, None], turns.shape)
    return jnp.concatenate([turns, shifts, from_anchor[None]])


def linear_start(table: PointTable, view: View) -> LinearStart:
    """Start of a face whose points are ``view``; everything stays finite whatever is missing."""
    place, scale, y, weight = _find_mean_face(table, view)
    total = jnp.maximum(jnp.sum(weight), 1e-6)
    factor = scale / view.size
    modes = jnp.concatenate([pose_modes(table, place.anchor), table.modes])
    flat = table.mean - place.anchor
    rest = (y - place.anchor_camera[:2] * scale) / view.size - jnp.matmul(flat, place.rotation[:2].T, precision="highest") * factor
    root = jnp.sqrt(_LANDMARK_WEIGHT * weight / total)
    target = (rest * root[:, None]).reshape(-1)
    sigma = jnp.concatenate([jnp.asarray(_STEP_SIGMA, scale.dtype), table.sigma])
    # Written as a sum, XLA goes over the modes once.
    across = (place.rotation[:2] * factor)[None] * root[:, None, None]
    whitened = sum((modes[..., a, None] * across[..., a] for a in range(3)), jnp.zeros(())) * sigma[:, None, None]
    whitened = whitened.reshape(len(modes), -1)
    curvature = jnp.matmul(whitened, whitened.T, precision="highest")
    right = jnp.matmul(whitened, target, precision="highest")
    eye = jnp.eye(len(sigma), dtype=scale.dtype)
    unit = jax.scipy.linalg.solve(curvature + table.prior * eye, right, assume_a="pos")
    step = sigma * unit
    left = target - jnp.matmul(unit, whitened, precision="highest")
    middle = jnp.sum(weight[:, None] * table.mean, 0) / total
    share = jnp.sum(weight) / (jnp.max(weight) * weight.shape[0] + 1e-6)
    return LinearStart(place, step, weight, jnp.sqrt(jnp.sum(left**2) / _LANDMARK_WEIGHT), share, middle)


def apply_step(table: PointTable, place: Place, step: Float[Array, "D"]) -> tuple[Array, Array, Array]:
    """Rotation (3, 3), translation (3,) in the view's camera, and codes (M,) within their bounds."""
    rotation = jnp.matmul(place.rotation, rotation_exp(step[:3]), precision="highest")
    moved = place.anchor_camera + jnp.matmul(place.rotation, step[3:6], precision="highest")
    moved = moved * jnp.exp(-jnp.clip(step[6], -1, 1))
    translation = moved - jnp.matmul(rotation, place.anchor, precision="highest")
    return rotation, translation, jnp.clip(step[STEPS:], table.lower, table.upper)


def project_points(table: PointTable, rotation: Array, translation: Array, codes: Float[Array, "M"]) -> Float[Array, "N 2"]:
    """The points in the view's camera."""
    shape = table.mean + jnp.einsum("m,mna->na", codes, table.modes, precision="highest")
    posed = jnp.matmul(shape, rotation.T, precision="highest") + translation
    return posed[:, :2] / jnp.maximum(posed[:, 2:], 1e-3)
