"""The landmark network: what the linear start gets wrong, learned from projections of random faces.

SynergyNet's backward direction (Wu, Xu and Neumann, 3DV 2021: landmarks to parameters), built so that no point has a fixed place: the sums
over points that the closed form takes replace the max pooling over a list. All features and outputs are in the head's own frame, so roll and
place in the picture cannot matter.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fitjax.initial.linear_start import STEPS, LinearStart, apply_step, linear_start
from fitjax.initial.points import PointTable, View
from fitjax.initial.polish import polish
from fitjax.networks import run
from fitjax.networks.lift import Trunk

#: Units of turns, shifts and growth.
_STEP_UNIT = np.array([0.1] * 3 + [0.005] * 3 + [0.05])
#: Whitened features count up to about here.
_LIMIT = 4.0
_SMALL = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")


class LandmarkNet(nn.Module):
    """Features (F,) → corrections (D,) in whitened units."""

    outputs: int
    hidden: int = 256
    depth: int = 2

    @nn.compact
    def __call__(self, x: Float[Array, "*b F"]) -> Float[Array, "*b D"]:
        return nn.Dense(self.outputs, kernel_init=_SMALL, name="out")(Trunk(self.hidden, self.depth, name="trunk")(x))


def units(table: PointTable) -> Float[Array, "D"]:
    """What one unit of each output is."""
    return jnp.concatenate([jnp.asarray(_STEP_UNIT, table.sigma.dtype), table.sigma])


def features(table: PointTable, view: View, found: LinearStart) -> Float[Array, "F"]:
    """What the network sees: the linear solution, the direction it is seen from, how near and how complete the face is."""
    step = found.step / units(table)
    axis = found.place.rotation[2]
    bend = jnp.stack([axis[0] ** 2, axis[1] ** 2, axis[0] * axis[1], axis[0] * axis[2], axis[1] * axis[2]])
    rest = jnp.stack([jnp.log(view.size / 0.2), 20 * found.left, 2 * found.share - 1])
    return jnp.concatenate([_LIMIT * jnp.tanh(step / _LIMIT), axis, bend, rest, 20 * found.middle])


def n_features(n_codes: int) -> int:
    return STEPS + n_codes + 14


def network_start(net: LandmarkNet, weights: Any, table: PointTable, view: View) -> tuple[Array, Array, Array]:
    """Rotation (3, 3) and translation (3,) in the view's camera, and codes (M,)."""
    found = linear_start(table, view)
    correction = run(net, weights, features(table, view, found))
    return polish(table, view, *apply_step(table, found.place, found.step + units(table) * correction))
