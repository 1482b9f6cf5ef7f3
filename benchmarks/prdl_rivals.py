"""What the part re-projection loss is measured against: blurred silhouettes per part, and the Chamfer distance.

Both see the same data (masks of eight parts), take the same model's samples, and count every part alike.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import ndimage

import fitjax as fj
from fitjax.losses.core import Loss
from fitjax.losses.parts import predicted_parts, sample_set
from fitjax.observation.crop import CROP_SIDE
from fitjax.observation.observation import Observation
from fitjax.observation.part_tables import PARTS
from fitjax.observation.parts import GRID
from fitjax.prediction import Prediction
from fitjax.pytree import replace

#: The blurred pictures have every second pixel of the crop; every fourth where the blur is wide.
_STEP, _WIDE_STEP, _WIDE = 2, 4, 0.06

_EYES = ("right_eye", "left_eye")

#: Whose visibility a fit freezes.
_SETS = tuple(map(sample_set, PARTS))


@fj.value
def _silhouettes(
    pred: Prediction,
    obs: Observation,
    *,
    target: Array,
    scale: Array,
    surface: Array,
    sigma: Array,
    visible_sets: tuple[str, ...],
) -> Float[Array, ""]:
    """Mean squared difference of blurred occupancies; each part in units of its own target's strength.

    The blurred picture of a part is the sum of a Gaussian per sample, as strong as the area in the picture that the sample stands for. That area is a
    differentiable function of pose and distance. A Gaussian is a product of two, so that the picture is a product of matrices.
    """
    line = (jnp.arange(0, GRID, GRID // target.shape[1]) - (GRID - 1) / 2) * CROP_SIDE / GRID
    total = jnp.zeros((), target.dtype)
    for row, (name, (points, share)) in enumerate(predicted_parts(pred).items()):
        if name in _EYES:
            corners = points.reshape(-1, 16, 2)
            outline = jnp.concatenate([corners[:, 0], corners[::-1, -1]])
            nxt = jnp.roll(outline, -1, 0)
            # A closed eye has no area and no silhouette; never quite none, so that it can open again.
            size = jnp.abs(jnp.sum(outline[:, 0] * nxt[:, 1] - outline[:, 1] * nxt[:, 0])) / 2 + 1e-4
            area = size * share
        else:
            seen = pred.points_camera[sample_set(name)]
            cosine = -jnp.sum(seen.normal * seen.position, -1) / jnp.linalg.norm(seen.position, axis=-1)
            unit = jnp.mean(pred.camera.focal) / pred.face_size / seen.position[:, 2]
            area = surface[row] * jnp.maximum(cosine, 0) * unit**2
        spread = [jnp.exp(-0.5 * ((line[:, None] - points[None, :, k]) / sigma) ** 2) for k in (0, 1)]
        picture = (spread[1] * area) @ spread[0].T / (2 * jnp.pi * sigma**2)
        total += jnp.where(scale[row] > 0, jnp.mean((picture - target[row]) ** 2) * scale[row], 0)
    return total / jnp.maximum(jnp.sum(scale > 0), 1)


def silhouettes(labels: np.ndarray, sigma: float, surface: np.ndarray) -> Loss:
    """Blurred silhouettes of a label map (224, 224) over the crop.

    Args:
        sigma: of the Gaussian, face sizes; the target is blurred as much as the prediction. surface: (P,) as :func:`surface_per_sample`.
    """
    masks = np.stack([labels == k for k in range(1, len(PARTS) + 1)]).astype(np.float32)
    wide = sigma * GRID / CROP_SIDE
    step = _WIDE_STEP if sigma > _WIDE else _STEP
    target = np.stack([ndimage.gaussian_filter(m, wide, mode="constant", truncate=5) for m in masks])[:, ::step, ::step]
    strength = (target**2).mean((1, 2))
    scale = np.where(strength > 0, 1 / np.maximum(strength, 1e-12), 0).astype(np.float32)
    return _silhouettes(
        target=target, scale=scale, surface=np.asarray(surface, np.float32), sigma=np.float32(sigma), visible_sets=_SETS
    )


def surface_per_sample(model: Any) -> np.ndarray:
    """(P,) square metres of the mean face's surface that a sample of each part stands for: samples are uniform, so the model's map of parts says."""
    vertices, uv = np.asarray(model.mean, np.float64), np.asarray(model.uv)
    triangles, uv_triangles, parts = (
        np.asarray(model.triangles),
        np.asarray(model.uv_triangles),
        np.asarray(model.uv_parts),
    )
    corners = vertices[triangles]
    area = 0.5 * np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    middle = uv[uv_triangles].mean(1)
    height, width = parts.shape
    column = (middle[:, 0] * width).astype(int).clip(0, width - 1)
    row = ((1 - middle[:, 1]) * height).astype(int).clip(0, height - 1)
    # The middle of a small triangle decides for all of it; errors along the outlines cancel.
    label = parts[row, column]
    return np.array(
        [area[label == k].sum() / len(model.sampled[sample_set(p)].samples) for k, p in enumerate(PARTS, 1)]
    )


#: Points of a part that the Chamfer distance uses, of each set.
_CHAMFER_POINTS = 256


@fj.value
def _chamfer(pred: Prediction, obs: Observation, *, visible_sets: tuple[str, ...]) -> Float[Array, ""]:
    """Mean squared distance to the nearest point of the other set, both ways, percent of the face size squared."""
    seen: Any = obs.parts
    total, count = jnp.zeros((), seen.points.dtype), jnp.zeros((), seen.points.dtype)
    for row, (points, area) in enumerate(predicted_parts(pred).values()):
        step = max(1, len(points) // _CHAMFER_POINTS)
        points, area = points[::step], area[::step]
        # Chosen farthest first: the first points are an even subset.
        other, there = seen.points[row][:_CHAMFER_POINTS], seen.weight[row][:_CHAMFER_POINTS] > 0
        here = area > 0
        both = there.any() & here.any()
        square = jnp.sum((points[:, None] - other[None]) ** 2, -1)
        to_other = jnp.min(jnp.where(there[None], square, 1e3), 1)
        to_points = jnp.min(jnp.where(here[:, None], square, 1e3), 0)
        mean = jnp.sum(jnp.where(here, to_other, 0)) / jnp.maximum(here.sum(), 1)
        mean += jnp.sum(jnp.where(there, to_points, 0)) / jnp.maximum(there.sum(), 1)
        total, count = total + jnp.where(both, mean, 0), count + both
    return 0.5e4 * total / jnp.maximum(count, 1)


def chamfer() -> Loss:
    """The Chamfer distance between samples of the model and points of the masks."""
    return _chamfer(visible_sets=_SETS)


def weighted(loss: Loss, factor: float) -> Loss:
    """The loss with another weight, as data."""
    return replace(loss, weight=np.float32(float(loss.weight) * factor))
