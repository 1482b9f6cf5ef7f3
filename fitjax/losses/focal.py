"""What holds a focal length that is fitted: landmarks alone often leave it open, and a face seen from far tells nothing of it."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from fitjax.losses.core import Loss, residual
from fitjax.observation.observation import Observation
from fitjax.prediction import Prediction

#: Standard deviation of the logarithm: a focal length that is a guess is right within a third.
DEFAULT_SIGMA = 0.3


@residual
def _log_focal(prediction: Prediction, observation: Observation, sigma: Array, visible_sets: tuple[str, ...]) -> Float[Array, "1"]:
    del observation, visible_sets  # none: nothing is asked of any sample
    camera = prediction.params.get("camera", {})
    return jnp.atleast_1d(camera["log_focal"]) / sigma if camera else jnp.zeros(1)


def focal_prior(weight: float, sigma: float = DEFAULT_SIGMA) -> Loss:
    """½ ``weight`` (log f / σ)² of the focal length relative to the camera's own, in every photo.

    Args:
        weight: λ as of `fitjax.prior`, divided by the number of photos that share the focal length.
    """
    return weight * _log_focal(sigma=sigma, visible_sets=())
