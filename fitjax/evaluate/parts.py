"""How well fitted parts cover the segmented ones: intersection over union and distance of outlines, part by part."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int
from scipy import ndimage

from fitjax.errors import FitjaxError
from fitjax.model.params import Params
from fitjax.observation.crop import CROP_SIDE
from fitjax.observation.observation import Observation
from fitjax.observation.part_tables import PARTS, as_table
from fitjax.observation.parts import GRID
from fitjax.observation.segmentation import Sides, Table, label_masks, label_placement, observed_points
from fitjax.prediction import predict
from fitjax.render.interpolate import fragments, interpolate
from fitjax.render.rasterize import rasterize
from fitjax.render.texture import sample_texture

#: The parts of the published protocol: all but skin, whose outline is a matter of hair and neck.
SCORED = PARTS[:-1]

_EYEBALL = 1


def crop_placement(observation: Observation, size: int = GRID, side: float = CROP_SIDE) -> np.ndarray:
    """(2, 3) from (column, row) of a label map of the crop around the face to pixels of the photo."""
    scale = float(observation.face_size) * side / size
    low = np.asarray(observation.face_centre, np.float64) - scale * (size - 1) / 2
    return np.array([[scale, 0, low[0]], [0, scale, low[1]]])


def render_parts(model: Any, params: Params, observation: Observation, size: int = GRID) -> Int[np.ndarray, "H W"]:
    """What the model shows at each pixel of the crop: 0, or 1 to 8 in the order of the parts. Hidden parts are hidden.

    Args:
        model: with ``uv_parts``, the map of parts in texture space (docs/basis_format.md).
        size: pixels along the crop's side; ``crop_placement`` says where they lie.

    Raises:
        FitjaxError: the model has no such map.
    """
    shape = getattr(model, "shape", model)
    if np.size(getattr(shape, "uv_parts", ())) <= 1:
        raise FitjaxError(
            "render_parts: expected a model with a map of parts (uv_parts), found none; use one whose basis has it"
        )
    return np.asarray(
        _render(
            shape,
            {k: v for k, v in params.items() if k in ("identity", "expression", "pose", "camera")},
            observation,
            size,
        )
    )


@partial(jax.jit, static_argnums=3)
def _render(model: Any, params: Params, observation: Observation, size: int) -> Array:
    prediction = predict(model, params, observation)
    place = (prediction.normalise(prediction.vertices_pixels) / CROP_SIDE + 0.5) * size - 0.5
    image = jnp.concatenate([place, prediction.vertices_camera[:, 2:]], 1)
    perspective = prediction.camera.kind == "perspective"
    ids = rasterize(image, model.triangles, size, size, perspective=perspective)
    where = fragments(image, model.triangles, ids, perspective=perspective)
    uv = interpolate(model.uv, model.uv_triangles, where)
    # Bilinear votes: outlines finer than the map's texels.
    votes = sample_texture(jax.nn.one_hot(model.uv_parts, len(PARTS) + 1, dtype=image.dtype), uv)
    label = jnp.argmax(votes, -1)
    # All that is seen of an eyeball is eye, also where the lids are wider open than on the mean face, for which the map was made.
    right = model.mean[model.triangles].mean(1)[:, 0] < 0
    eye = jnp.where(right, 1, 2)[where.triangle]
    label = jnp.where(model.triangle_region[where.triangle] == _EYEBALL, eye, label)
    return jnp.where(where.covered, label, 0).astype(jnp.uint8)


def observed_labels(
    observation: Observation,
    labels: Any,
    table: Table,
    *,
    image_size: tuple[int, int] | None = None,
    image_from_labels: Any = None,
    sides: Sides = "landmarks",
    size: int = GRID,
) -> Int[np.ndarray, "H W"]:
    """A parser's label map as :func:`render_parts` would show it: the crop, 1 to 8, sides told apart, the forehead left out.

    The arguments are those of :func:`fitjax.with_parts`.

    Raises:
        FitjaxError: as there.
    """
    labels = np.asarray(labels)
    known = as_table(table)
    crop = crop_placement(observation, size)
    if labels.ndim == 2 and labels.size:
        placement = label_placement(labels, image_size, image_from_labels)
        column, row = np.meshgrid(np.arange(size), np.arange(size))
        photo = np.stack([column, row], -1) @ crop[:, :2].T + crop[:, 2]
        at = np.rint((photo - placement[:, 2]) @ np.linalg.inv(placement[:, :2]).T).astype(int)
        inside = ((at >= 0) & (at < labels.shape[::-1])).all(-1)
        nothing = (known.other or (int(labels.max()) + 1,))[0]
        at = np.clip(at, 0, np.array(labels.shape[::-1]) - 1)
        labels = np.where(inside, labels[at[..., 1], at[..., 0]], nothing)
    masks = label_masks(labels, known, crop, observed_points(observation), sides)
    result = np.zeros((size, size), np.uint8)
    for number, name in enumerate(PARTS, 1):
        if name in masks:
            result[masks[name]] = number
    return result


def part_iou(found: Any, expected: Any, parts: tuple[str, ...] = SCORED) -> dict[str, float]:
    """Intersection over union per part, and their ``mean``; a part that ``expected`` does not show is NaN and does not count.

    Args:
        found, expected: (H, W) labels 1 to 8.

    Raises:
        FitjaxError: their shapes differ.
    """
    pairs = _masks(found, expected, parts)
    return _with_mean(
        {name: float((a & b).sum() / (a | b).sum()) if b.any() else float("nan") for name, (a, b) in pairs.items()}
    )


def part_contour_distance(
    found: Any, expected: Any, parts: tuple[str, ...] = SCORED, side: float = CROP_SIDE
) -> dict[str, float]:
    """Mean distance between the outlines of a part, both ways, in face sizes, and the ``mean`` over parts; NaN where either shows none.

    Args:
        found, expected: (H, W) labels 1 to 8. side: of the map, in face sizes.

    Raises:
        FitjaxError: their shapes differ.
    """
    result = {}
    for name, (a, b) in _masks(found, expected, parts).items():
        if not (a.any() and b.any()):
            result[name] = float("nan")
            continue
        edges = [mask & ~ndimage.binary_erosion(mask) for mask in (a, b)]
        away = [ndimage.distance_transform_edt(~edge) for edge in edges]
        result[name] = float(0.5 * (away[1][edges[0]].mean() + away[0][edges[1]].mean()) * side / a.shape[1])
    return _with_mean(result)


def _masks(found: Any, expected: Any, parts: tuple[str, ...]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    found, expected = np.asarray(found), np.asarray(expected)
    unknown = [p for p in parts if p not in PARTS]
    if found.ndim != 2 or found.shape != expected.shape or unknown:
        raise FitjaxError(
            f"part metrics: expected two label maps of one shape and parts out of {', '.join(PARTS)}, "
            f"found {found.shape}, {expected.shape}, {unknown}"
        )
    return {name: (found == PARTS.index(name) + 1, expected == PARTS.index(name) + 1) for name in parts}


def _with_mean(values: Mapping[str, float]) -> dict[str, float]:
    finite = [v for v in values.values() if np.isfinite(v)]
    return {**values, "mean": float(np.mean(finite)) if finite else float("nan")}
