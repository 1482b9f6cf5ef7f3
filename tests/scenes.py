"""Synthetic faces with known truth."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

import fitjax as fj
from fitjax.fit.run import predict_final
from fitjax.geometry.rotation import rotation_from_aflw2000
from fitjax.model.params import Params


def random_truth(model: Any, rng: np.random.Generator, *, angles=(20.0, 40.0, 20.0), depth=(0.5, 1.5), dtype=np.float32) -> Params:
    """Identity from the prior, sparse expressions, a pose within ± angles (degrees), somewhere in the picture."""
    expression = rng.uniform(0, 0.8, model.n_expression) * (rng.random(model.n_expression) < 0.25)
    rotation = rotation_from_aflw2000(jnp.asarray(np.radians(rng.uniform(-1, 1, 3) * angles)))
    z = rng.uniform(*depth)
    return {
        "identity": jnp.asarray(rng.normal(size=model.n_identity), dtype),
        "expression": jnp.asarray(expression, dtype),
        "pose": {
            "rotation": jnp.asarray(rotation, dtype),
            "translation": jnp.asarray([0.1 * z * rng.normal(), 0.1 * z * rng.normal(), z], dtype),
        },
    }


def render_landmarks(model: Any, params: Params, name: str, camera: fj.Camera) -> np.ndarray:
    """(N, 2) pixels of a sample set at the true parameters."""
    placeholder = fj.make_observation({name: np.random.default_rng(0).uniform(0, 100, (len(model.sample_library[name]), 2))}, camera)
    return np.asarray(predict_final(model, params, placeholder).pixels[name])


def scene(
    model: Any,
    rng: np.random.Generator,
    name: str = "aflw68",
    noise: float = 0.0,
    relative_depth: np.ndarray | None = None,
    **options: Any,
) -> tuple[Params, fj.Observation]:
    """True parameters and the observation of one set, with Gaussian noise in pixels."""
    dtype = options.get("dtype", np.float32)
    camera = fj.make_camera(640, 480, dtype=dtype)
    truth = random_truth(model, rng, **options)
    points = render_landmarks(model, truth, name, camera)
    points = points + noise * rng.normal(size=points.shape)
    depth = None if relative_depth is None else {name: relative_depth}
    return truth, fj.make_observation({name: points}, camera, depth=depth, dtype=dtype)
