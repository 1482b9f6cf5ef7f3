"""What the image network knows of the face model: rows of the basis at landmarks, and over the face's part of the texture."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fitjax.model.linear import LinearModel
from fitjax.pytree import pytree
from fitjax.render.texture import sample_texture

#: Landmarks that the network places itself, and the denser set that its losses and its result read.
MARKS, DENSE = "aflw68", "mediapipe478"
#: The face's skin is one chart of the texture: its middle and half its extent, in texture coordinates.
UV_MIDDLE, UV_HALF = np.array([0.5, 0.505]), np.array([0.31, 0.255])
#: Texels of the atlas over that chart.
ATLAS = 72


@pytree
class ImageTables:
    """Rows of the basis.

    Attributes:
        mean, modes: (N, 3) metres in head space and (M, N, 3), of the 68 marks, then of the 478 dense points. marks_uv: (68, 2) of the marks, in
            units of the chart. sigma, lower, upper: (M,) prior spread and bounds of the codes, identity first.
        atlas: (A, A, 3 (1 + M)) the mean and the modes over the chart, row 0 at the top; zero where the chart has no surface.
    """

    mean: Float[Array, "N 3"]
    modes: Float[Array, "M N 3"]
    marks_uv: Float[Array, "68 2"]
    sigma: Float[Array, "M"]
    lower: Float[Array, "M"]
    upper: Float[Array, "M"]
    atlas: Float[Array, "A A C"]


def chart_from_uv(uv: Any) -> Any:
    """Texture coordinates → units of the chart, about -1 to 1."""
    return (uv - UV_MIDDLE) / UV_HALF


def _sample_uv(shape: LinearModel, name: str) -> np.ndarray:
    samples = shape.sample_library[name]
    corners = np.asarray(shape.uv)[np.asarray(shape.uv_triangles)[np.asarray(samples.triangle)]]
    return np.asarray((corners * np.asarray(samples.barycentric)[..., None]).sum(1))


def _atlas(shape: LinearModel) -> np.ndarray:
    """Mean and modes at the texels' centres; beyond the chart's border those of its nearest texel."""
    from scipy.ndimage import distance_transform_edt

    count = shape.modes.shape[0]
    uv, triangles = chart_from_uv(np.asarray(shape.uv, np.float64)), np.asarray(shape.uv_triangles)
    corners = (uv * [1, -1] + 1) / 2 * ATLAS - 0.5
    vertex, barycentric = np.zeros((ATLAS, ATLAS, 3), int), np.zeros((ATLAS, ATLAS, 3))
    for k in np.nonzero(np.asarray(shape.triangle_region) == 0)[0]:
        a, b, c = corners[triangles[k]]
        low, high = np.maximum(np.ceil(np.min([a, b, c], 0)), 0).astype(int), np.minimum(np.floor(np.max([a, b, c], 0)), ATLAS - 1).astype(int)
        if (low > high).any():
            continue
        x, y = np.meshgrid(np.arange(low[0], high[0] + 1), np.arange(low[1], high[1] + 1))
        system = np.stack([b - a, c - a], 1)
        if abs(np.linalg.det(system)) < 1e-12:
            continue
        share = np.stack([x - a[0], y - a[1]], -1) @ np.linalg.inv(system).T
        weights = np.concatenate([1 - share.sum(-1, keepdims=True), share], -1)
        inside = (weights >= -1e-9).all(-1)
        vertex[y[inside], x[inside]], barycentric[y[inside], x[inside]] = np.asarray(shape.triangles)[k], weights[inside]
    filled = barycentric.sum(-1) > 0
    near = distance_transform_edt(~filled, return_distances=False, return_indices=True)
    vertex, barycentric = vertex[tuple(near)], barycentric[tuple(near)]
    rows = np.concatenate([np.asarray(shape.mean)[None], np.asarray(shape.modes).reshape(count, -1, 3)])
    found = np.einsum("mabkc,abk->abmc", rows[:, vertex], barycentric)
    return found.reshape(ATLAS, ATLAS, -1).astype(np.float32)


def image_tables(model: Any) -> ImageTables:
    """Tables of a linear model with the sets ``aflw68`` and ``mediapipe478`` sliced; or of a textured one's shape."""
    shape: LinearModel = getattr(model, "shape", model)
    count, names = shape.modes.shape[0], (MARKS, DENSE)
    free = np.full(shape.n_identity, np.inf, np.float32)
    return ImageTables(
        jnp.concatenate([shape.sampled[n].mean for n in names]),
        jnp.concatenate([shape.sampled[n].modes.reshape(count, -1, 3) for n in names], 1),
        jnp.asarray(chart_from_uv(_sample_uv(shape, MARKS)), jnp.float32),
        jnp.concatenate([jnp.ones(shape.n_identity), shape.expression_sigma]),
        jnp.concatenate([-free, shape.expression_lower]),
        jnp.concatenate([free, shape.expression_upper]),
        jnp.asarray(_atlas(shape)),
    )


def rows_at(tables: ImageTables, chart: Float[Array, "N 2"]) -> tuple[Float[Array, "N 3"], Float[Array, "M N 3"]]:
    """Mean (N, 3) and modes (M, N, 3) of the basis at points of the chart."""
    found = sample_texture(tables.atlas, (chart + 1) / 2)
    rows = found.reshape(*chart.shape[:-1], -1, 3)
    return rows[..., 0, :], jnp.moveaxis(rows[..., 1:, :], -2, 0)
