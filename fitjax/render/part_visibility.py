"""Which surface samples nothing hides, for all sets of a loss from one rasterised image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fitjax.errors import FitjaxError
from fitjax.prediction import Prediction
from fitjax.render.rasterize import rasterize
from fitjax.render.visibility import fit_to_square, points_visible, sample_points_image

#: Pixels along the longer side of the image in which samples are looked up: one pixel is about 2 mm of a head.
RESOLUTION = 128


def unhidden(
    model: Any, prediction: Prediction, names: Sequence[str], resolution: int = RESOLUTION
) -> dict[str, Float[Array, "S"]]:
    """Per set (S,), 1.0 where the head itself does not hide the sample; which way it faces does not count. Not differentiated.

    Raises:
        FitjaxError: the model does not say where on its mesh a set lies (``sample_library``).
    """
    shape = getattr(model, "shape", model)
    library = getattr(shape, "sample_library", {})
    missing = [name for name in names if name not in library]
    if missing:
        raise FitjaxError(
            f"occlusion: expected the sample sets {missing} in model.sample_library; use occlusion=False with this model"
        )
    camera_space = jax.lax.stop_gradient(prediction.vertices_camera)
    pixels = jax.lax.stop_gradient(prediction.vertices_pixels)
    perspective = prediction.camera.kind == "perspective"
    fitted = fit_to_square(jnp.concatenate([pixels, camera_space[:, 2:]], 1), resolution)
    triangles = jnp.asarray(shape.triangles)
    ids = rasterize(fitted, triangles, resolution, resolution, perspective=perspective)
    result = {}
    for name in names:
        points = sample_points_image(library[name], fitted, triangles, perspective=perspective)
        clear = points_visible(points, fitted, triangles, ids, perspective=perspective)
        result[name] = clear.astype(pixels.dtype)
    return result
