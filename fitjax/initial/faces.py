"""Random faces as landmarks with truth: what the landmark network is trained on. Projections of the model alone, no pixels.

Landmarks are spoilt as detectors spoil them: noise, smooth warps, points that are far off, missing points, half of the face hidden.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from fitjax.fit.defaults import OTHER_PRIOR_WEIGHT, PRIOR_WEIGHT
from fitjax.geometry.camera import Camera
from fitjax.geometry.rotation import rotation_from_aflw2000
from fitjax.initial.points import PointTable, View, look_at
from fitjax.pytree import pytree, replace

#: The sets that are trained on; any other set of the model's surface is as good.
SETS = ("aflw68", "aflw68_original", "ibug68", "mediapipe478")
_SIZES = (68, 68, 68, 478)
#: Points per face: 68 as they are, of the many a random choice.
POINTS = 96
#: Degrees. PITCH and ROLL to either side, YAW all the way.
PITCH, YAW, ROLL = 45.0, 90.0, 45.0
_FACE_METRES = 0.15


@pytree
class Faces:
    """A batch of B faces.

    Attributes:
        table: of the K points. view: of the spoilt points, by face. truth: (B, K, 2) exact points in the view's camera.
        rotation: (B, 3, 3) in the view's camera. codes: (B, M). plain: (B,) whether no point is far off. noise: (B,) face sizes.
    """

    table: PointTable
    view: View
    truth: Float[Array, "B K 2"]
    rotation: Float[Array, "B 3 3"]
    codes: Float[Array, "B M"]
    plain: Bool[Array, "B"]
    noise: Float[Array, "B"]


def random_codes(key: Array, n_identity: int, lower: Float[Array, "E"], upper: Float[Array, "E"]) -> tuple[Array, Array]:
    """Identity N(0, 1); of the expressions none to a half, up to 0.8 of their bounds."""
    keys = jax.random.split(key, 4)
    identity = jax.random.normal(keys[0], (n_identity,))
    share = 0.5 * jax.random.uniform(keys[1]) ** 2
    active = jax.random.uniform(keys[2], lower.shape) < share
    return identity, jnp.where(active, lower + 0.8 * jax.random.uniform(keys[3], lower.shape) * (upper - lower), jnp.clip(0, lower, upper))


def random_pose(key: Array) -> tuple[Float[Array, "3 3"], Float[Array, "3"]]:
    """Rotation, and pitch, yaw, roll in degrees: uniform over the whole range."""
    angles = jax.random.uniform(key, (3,), minval=-1, maxval=1) * jnp.array([PITCH, YAW, ROLL])
    return rotation_from_aflw2000(jnp.radians(angles)), angles


def _spoil(key: Array, points: Float[Array, "K 2"], base: Float[Array, "K"], size: Array) -> tuple[Array, Array, Array, Array]:
    """Points and weights as a detector would give them; whether none is far off; the noise."""
    k = jax.random.split(key, 12)
    unit = (points - points.mean(0)) / size
    noise = 0.002 * 15 ** jax.random.uniform(k[0])
    moved = noise * jax.random.normal(k[1], points.shape)
    monomials = jnp.stack([unit[:, 0], unit[:, 1], unit[:, 0] ** 2, unit[:, 1] ** 2, unit[:, 0] * unit[:, 1]], -1)
    warped = jax.random.uniform(k[2]) < 0.3
    moved = moved + jnp.where(warped, 0.03, 0) * jnp.matmul(monomials, jax.random.normal(k[3], (5, 2)))
    wild = jax.random.uniform(k[4]) < 0.25
    far = wild & (jax.random.uniform(k[5], base.shape) < 0.15 * jax.random.uniform(k[6]))
    moved = moved + jnp.where(far[:, None], 0.2 * jax.random.normal(k[7], points.shape), 0)
    weight = base * jnp.where(far & (jax.random.uniform(k[8]) < 0.5), 0.2, 1.0)
    kept = jax.random.uniform(k[9], base.shape) > 0.5 * jnp.maximum(jax.random.uniform(k[10]) - 0.5, 0)
    direction = jax.random.normal(k[11], (2,))
    along = jnp.matmul(unit, direction)
    hidden = jax.random.uniform(jax.random.fold_in(key, 1)) < 0.3
    cut = jnp.quantile(along, 1 - 0.5 * jax.random.uniform(jax.random.fold_in(key, 2)))
    weight = jnp.where(kept & ~(hidden & (along > cut)), weight, 0)
    return points + size * moved, weight, ~wild, noise


def random_faces(key: Array, table: PointTable, n_identity: int, count: int) -> Faces:
    """``count`` faces of one set, which the key chooses; ``table`` holds the points of :data:`SETS` one after the other."""
    choice, many, subset, key = jax.random.split(key, 4)
    # Half of the batches are of the large set.
    kind = jnp.maximum(jax.random.randint(choice, (), 0, 3), jnp.where(jax.random.bernoulli(many), 3, 0))
    offsets = jnp.asarray(np.cumsum((0, *_SIZES[:-1])))
    at = jnp.arange(POINTS)
    few = jnp.where(at < 68, at, 0)
    index = jnp.where(kind == 3, jax.random.permutation(subset, _SIZES[3])[:POINTS], few) + offsets[kind]
    base = jnp.where((kind == 3) | (at < 68), 1.0, 0.0)
    base = jnp.where((kind == SETS.index("ibug68")) & (at < 17), 0.1, base)
    part = replace(table.take(index), prior=jnp.where(kind == 3, PRIOR_WEIGHT["mediapipe478"], OTHER_PRIOR_WEIGHT))

    def one(key: Array) -> tuple[Any, ...]:
        k = jax.random.split(key, 5)
        identity, expression = random_codes(k[0], n_identity, part.lower[n_identity:], part.upper[n_identity:])
        codes = jnp.concatenate([identity, expression])
        rotation, _ = random_pose(k[1])
        angular = 0.015 * 35 ** jax.random.uniform(k[2])
        depth = _FACE_METRES / angular
        place = jnp.concatenate([0.25 * depth * jax.random.uniform(k[3], (2,), minval=-1, maxval=1), depth[None]])
        shape = part.mean + jnp.einsum("m,mna->na", codes, part.modes)
        posed = jnp.matmul(shape, rotation.T, precision="highest") + place
        true = posed[:, :2] / posed[:, 2:]
        size = jnp.sqrt(jnp.prod(true.max(0) - true.min(0)))
        spoilt, weight, plain, noise = _spoil(k[4], true, base, size)
        camera = Camera(jnp.ones(2), jnp.zeros(2), jnp.eye(2, 3))
        view = look_at(camera, spoilt, weight, size)
        rays = jnp.matmul(jnp.concatenate([true, jnp.ones_like(true[:, :1])], 1), view.turn, precision="highest")
        return view, rays[:, :2] / rays[:, 2:], jnp.matmul(view.turn.T, rotation, precision="highest"), codes, plain, noise

    return Faces(part, *jax.vmap(one)(jax.random.split(key, count)))
