"""Faces with known truth whose parts are rendered."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
from scenes import render_landmarks

import fitjax as fj
from fitjax.geometry.rotation import rotation_from_aflw2000
from fitjax.model.params import Params


@cache
def part_model() -> Any:
    return fj.with_part_samples(fj.load_basis(level=0))


def scene_with_parts(
    expression: dict[str, float], *, yaw: float = 10.0, size: int = 1
) -> tuple[Any, Params, fj.Observation]:
    """The coarse default model, true parameters and the true landmarks; ``size`` scales the photo."""
    model = part_model()
    names = list(model.expression_names)
    code = np.zeros(model.n_expression, np.float32)
    for name, value in expression.items():
        code[names.index(name)] = value
    identity = 0.7 * np.random.default_rng(0).normal(size=model.n_identity)
    rotation = rotation_from_aflw2000(jnp.radians(jnp.array([5.0, yaw, 3.0])))
    truth = {
        "identity": jnp.asarray(identity, jnp.float32),
        "expression": jnp.asarray(code),
        "pose": {
            "rotation": jnp.asarray(rotation, jnp.float32),
            "translation": jnp.asarray([0.02, 0.01, 0.7], jnp.float32),
        },
    }
    camera = fj.make_camera(640 * size, 480 * size)
    points = render_landmarks(model, truth, "mediapipe478", camera)
    return model, truth, fj.make_observation({"mediapipe478": points}, camera)
