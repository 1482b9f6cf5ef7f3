"""Priors of the model's codes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fitjax.losses.core import Loss
from fitjax.observation.observation import Observation
from fitjax.prediction import Prediction


def _half_square_norm(pred: Prediction, obs: Observation, **groups: Any) -> Float[Array, ""]:
    total: Any = jnp.zeros((), pred.t_camera_head.dtype)
    for group, code in pred.prior.items():
        scale = groups.get(group, 1.0)
        total = total + 0.5 * scale * sum(jnp.sum(x**2) for x in jax.tree.leaves(code))
    return total


def prior(weight: float = 1.0, **groups: float) -> Loss:
    """½ λ Σ of the squared whitened codes, ``weight`` = λ; keyword arguments scale it per group (``identity=0.5``).

    Solvers treat it as a diagonal. With landmarks at their default weight (percent of the face size) and N points, λ of the
    objective Σ r² + λ_d² Σ a² (r in percent) is λ = λ_d² / N: λ_d = 1 at 68 points is λ = 0.0147.
    """
    return Loss(np.float32(weight), {k: jnp.asarray(v) for k, v in groups.items()}, None, _half_square_norm, (), "prior")
