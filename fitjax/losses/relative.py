"""Losses on relations between landmarks: immune to a shared bias of the detector."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array

from fitjax.losses.core import Loss, Residuals, residual
from fitjax.observation.observation import Observation
from fitjax.prediction import Prediction


@residual
def _distances(pred: Prediction, obs: Observation, *, name: str, pairs: Array) -> Residuals:
    seen = obs.landmarks[name]
    valid = seen.valid[pairs].all(1)
    target = jnp.where(valid[:, None], seen.points[pairs[:, 0]] - seen.points[pairs[:, 1]], 0)
    found = pred.pixels[name][pairs[:, 0]] - pred.pixels[name][pairs[:, 1]]
    weight = jnp.where(valid, jnp.minimum(seen.confidence[pairs[:, 0]], seen.confidence[pairs[:, 1]]), 0)
    return Residuals(jnp.where(valid[:, None], found - target, 0) / pred.face_size, weight)


def landmark_distances(name: str, pairs: Array) -> Loss:
    """Offsets between pairs of landmarks against the observed offsets, in units of the face size.

    With the pairs of upper and lower lids or lips these are the relative eye-closure and mouth-opening terms of DECA (Feng et al. 2021).

    Args:
        name: landmark set. pairs: (P, 2) indices into it.
    """
    return _distances(name=name, pairs=jnp.asarray(pairs))


@residual
def _symmetric_expression(pred: Prediction, obs: Observation, *, left: Array, right: Array) -> Array:
    expression = pred.params["expression"]
    return expression[left] - expression[right]


def expression_symmetry(names: tuple[str, ...]) -> Loss:
    """Difference between the coefficients of …Left and …Right expressions; ``names`` are the model's expression names."""
    index = {n: i for i, n in enumerate(names)}
    pairs = [(i, index[n[:-4] + "Right"]) for n, i in index.items() if n.endswith("Left") and n[:-4] + "Right" in index]
    left, right = (jnp.asarray([p[k] for p in pairs], jnp.int32) for k in (0, 1))
    return _symmetric_expression(left=left, right=right)
