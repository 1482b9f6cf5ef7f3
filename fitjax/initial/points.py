"""Landmarks of any set as one list of points with what the model knows of each, seen by a camera that looks straight at the face.

Points are told apart by their rows of the basis, not by their place in the list: sets of any size and in any order give the same start.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fitjax.fit.defaults import OTHER_PRIOR_WEIGHT, OUTLINE_SETS, PRIOR_WEIGHT
from fitjax.geometry.camera import Camera
from fitjax.geometry.rotation import rotation_between_rays, safe_normalise
from fitjax.observation.observation import Observation
from fitjax.pytree import pytree

#: Weight of the jaw points of 2-D annotations, which follow the outline and are no points of the surface.
_OUTLINE_WEIGHT = 0.1
#: Angular size of a face that weak perspective is treated as: far away.
FAR = 0.02


@pytree
class PointTable:
    """Rows of a basis at N points.

    Attributes:
        mean: (N, 3) metres, head space. modes: (M, N, 3) of identity and expression codes. sigma: (M,) prior spread of each code.
        lower, upper: (M,) bounds. prior: () λ, as in :func:`fitjax.default_losses`.
    """

    mean: Float[Array, "N 3"]
    modes: Float[Array, "M N 3"]
    sigma: Float[Array, "M"]
    lower: Float[Array, "M"]
    upper: Float[Array, "M"]
    prior: Any

    def take(self, index: Any) -> PointTable:
        """The rows ``index`` (K,)."""
        return PointTable(self.mean[index], self.modes[:, index], self.sigma, self.lower, self.upper, self.prior)


@pytree
class View:
    """Points as a camera sees them that looks at their middle, with focal length 1.

    Attributes:
        points: (N, 2) tangents of the angles from the axis. weight: (N,) 0 or more; 0 where a point is missing. size: () angular face size.
        turn: (3, 3) rotation from this camera to the real one.
        centre: (2,), stretch: () for weak perspective, where the view is shifted and shrunk instead of turned; 0 and 1 otherwise.
    """

    points: Float[Array, "N 2"]
    weight: Float[Array, "N"]
    size: Float[Array, ""]
    turn: Float[Array, "3 3"]
    centre: Float[Array, "2"]
    stretch: Float[Array, ""]


def table_of(model: Any, names: tuple[str, ...]) -> PointTable:
    """The points of the sets ``names``, one after the other. ``model``: linear, with the sets sliced; or a textured one."""
    shape = getattr(model, "shape", model)
    count = shape.modes.shape[0]
    free = jnp.full(shape.n_identity, jnp.inf, shape.mean.dtype)
    weight = min(PRIOR_WEIGHT.get(name, OTHER_PRIOR_WEIGHT) for name in names)
    return PointTable(
        jnp.concatenate([shape.sampled[n].mean for n in names]),
        jnp.concatenate([shape.sampled[n].modes.reshape(count, -1, 3) for n in names], 1),
        jnp.concatenate([jnp.ones(shape.n_identity, shape.mean.dtype), shape.expression_sigma]),
        jnp.concatenate([-free, shape.expression_lower]),
        jnp.concatenate([free, shape.expression_upper]),
        jnp.asarray(weight, shape.mean.dtype),
    )


def look_at(camera: Camera, pixels: Float[Array, "N 2"], weight: Float[Array, "N"], face_size: Float[Array, ""]) -> View:
    """The points in the camera that looks at their weighted middle.

    Perspective: rays are turned, so that a face at the border of a wide picture looks as it would in the middle of it. Weak perspective: shifted.

    Args:
        pixels: of the photo; anything finite where the weight is 0. face_size: pixels.
    """
    total = jnp.maximum(jnp.sum(weight), jnp.finfo(weight.dtype).tiny)
    flat = (pixels - camera.centre) / camera.focal
    middle = jnp.sum(weight[:, None] * flat, 0) / total
    size = face_size / jnp.mean(camera.focal)
    one = jnp.ones((), flat.dtype)
    if camera.kind != "perspective":
        stretch = size / FAR
        return View((flat - middle) / stretch, weight, FAR * one, jnp.eye(3, dtype=flat.dtype), middle, stretch)
    ray = jnp.concatenate([middle, one[None]])
    turn = rotation_between_rays(jnp.array([0.0, 0.0, 1.0], flat.dtype), safe_normalise(ray))
    rays = jnp.matmul(jnp.concatenate([flat, jnp.ones_like(flat[:, :1])], 1), turn, precision="highest")
    # A point more than a right angle away is no landmark of this face.
    ahead = rays[:, 2] > 1e-3
    points = rays[:, :2] / jnp.where(ahead, rays[:, 2], 1.0)[:, None]
    # A pixel off the axis subtends less: along the ray by its length, and across it once more.
    length = jnp.linalg.norm(ray)
    return View(points, jnp.where(ahead, weight, 0), size / length**1.5, turn, jnp.zeros(2, flat.dtype), one)


def pose_in_photo(view: View, rotation: Float[Array, "3 3"], translation: Float[Array, "3"]) -> dict[str, Array]:
    """A pose of the view's camera as one of the photo's."""
    depth = translation[2] / view.stretch
    shifted = jnp.concatenate([translation[:2] + view.centre * depth, depth[None]])
    return {
        "rotation": jnp.matmul(view.turn, rotation, precision="highest"),
        "translation": jnp.matmul(view.turn, shifted, precision="highest"),
    }


def observed_points(observation: Observation, names: tuple[str, ...]) -> tuple[Float[Array, "N 2"], Float[Array, "N"]]:
    """Pixels and weights of the sets, one after the other; missing points weigh nothing."""
    pixels, weights = [], []
    for name in names:
        seen = observation.landmarks[name]
        weight = jnp.where(seen.valid, seen.confidence, 0)
        if name in OUTLINE_SETS:
            weight = weight * jnp.asarray(np.where(np.arange(weight.shape[0]) < 17, _OUTLINE_WEIGHT, 1), weight.dtype)
        pixels.append(jnp.where(seen.valid[:, None], seen.points, 0))
        weights.append(weight)
    return jnp.concatenate(pixels), jnp.concatenate(weights)
