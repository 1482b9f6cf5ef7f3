"""Self-consistency (SynergyNet: Wu, Xu and Neumann, 3DV 2021): what the landmark network makes of the image network's landmarks agrees with the
parameters that the image network gives itself.

The landmark network is frozen. Gradients reach the landmarks through its last step, a linear solve about a start that counts as fixed.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fitjax.fit.defaults import OTHER_PRIOR_WEIGHT
from fitjax.geometry.camera import Camera
from fitjax.initial.image_network import SIGMA_UNIT, ImageOutput, posed
from fitjax.initial.image_tables import ImageTables
from fitjax.initial.linear_start import apply_step, linear_start
from fitjax.initial.network import LandmarkNet, features, units
from fitjax.initial.points import PointTable, look_at, pose_in_photo
from fitjax.initial.polish import polish
from fitjax.networks import run


def placed_by_landmarks(
    net: LandmarkNet, weights: Any, tables: ImageTables, marks: Float[Array, "68 2"], spread: Float[Array, "68"], size: Float[Array, ""]
) -> tuple[Array, Array, Array, Array]:
    """Rotation (3, 3), scale, shift (2,) and codes (M,) of landmarks in a crop, by the landmark network; ``spread`` and ``size`` in crop units."""
    prior = jnp.asarray(OTHER_PRIOR_WEIGHT)
    table = PointTable(tables.mean[:68], tables.modes[:, :68], tables.sigma, tables.lower, tables.upper, prior)
    camera = Camera(jnp.ones(2), jnp.zeros(2), jnp.eye(2, 3), kind="weak_perspective")
    weight = jax.lax.stop_gradient(0.02**2 / (spread**2 + 0.01**2))
    view = look_at(camera, marks, weight, size)
    found = linear_start(table, jax.lax.stop_gradient(view))
    step = found.step + units(table) * run(net, weights, features(table, jax.lax.stop_gradient(view), found))
    rotation, translation, codes = polish(table, view, *jax.lax.stop_gradient(apply_step(table, found.place, step)))
    pose = pose_in_photo(view, rotation, translation)
    depth = pose["translation"][2]
    return pose["rotation"], 1 / depth, pose["translation"][:2] / depth, codes


def disagreement(net: LandmarkNet, weights: Any, tables: ImageTables, out: ImageOutput, size: Float[Array, "B"]) -> Float[Array, "B N"]:
    """Distance, in percent of the face size, of the tables' points as both sides place them; not more than 30 each."""
    spread = SIGMA_UNIT * jnp.exp(out.mark_log_sigma)
    theirs = jax.vmap(partial(placed_by_landmarks, net, weights, tables))(out.refined[-1], spread, size)
    ours = posed(tables.mean, tables.modes, out.rotation, out.scale, out.shift, out.codes)
    off = ours - posed(tables.mean, tables.modes, *theirs)
    length = 100 * jnp.sqrt(jnp.sum(off**2, -1) + 1e-10) / size[:, None]
    return jnp.minimum(jnp.where(jnp.isfinite(length), length, 30.0), 30.0)
