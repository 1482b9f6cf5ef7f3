"""Which surface samples nothing hides: neither the head, by one rasterised image for all sets of a loss, nor what labels say is in front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fitjax.errors import FitjaxError
from fitjax.observation.crop import CROP_SIDE
from fitjax.prediction import Prediction
from fitjax.render.rasterize import rasterize
from fitjax.render.visibility import fit_to_square, points_visible, sample_points_image

#: Pixels along the longer side of the image in which samples are looked up: one pixel is about 2 mm of a head.
RESOLUTION = 128


def unhidden(
    model: Any, prediction: Prediction, names: Sequence[str], resolution: int = RESOLUTION
) -> dict[str, Float[Array, "S"]]:
    """Per set (S,), 1.0 where neither the head itself nor what the observed parts say covers the face hides the sample; which way it faces does not
    count. Not differentiated.

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
        if prediction.covered is not None:
            result[name] = result[name] * uncovered(prediction.covered, prediction.normalise(prediction.pixels[name]))
    return result


def uncovered(covered: Bool[Array, "H W"], points: Float[Array, "S 2"]) -> Float[Array, "S"]:
    """1.0 for points (face sizes about the face's centre) where nothing covers the crop; points beyond it are uncovered."""
    side = jnp.array(covered.shape[::-1])
    place = jnp.floor((jax.lax.stop_gradient(points) / CROP_SIDE + 0.5) * side).astype(jnp.int32)
    within = ((place >= 0) & (place < side)).all(-1)
    column, row = jnp.clip(place, 0, side - 1).T
    return 1 - (covered[row, column] & within).astype(points.dtype)
