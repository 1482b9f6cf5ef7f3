"""From triangle ids to differentiable values at pixels: barycentrics, depth, attributes; all pixels, or the covered ones only.

Which triangle a pixel shows is a constant of differentiation; where on the triangle the pixel lies is not. So gradients are exact inside
the silhouette and away from occlusion edges, and the edges themselves give none: see docs/rendering.md.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from fitjax.errors import FitjaxError
from fitjax.render.raster_classes import compact

#: Barycentrics may leave [0, 1] by this much. A pixel's centre is covered up to 1/362 pixel outside of its triangle (positions are rounded
#: for coverage); on a sliver thinner than that the weights would explode, and every gradient with them.
OUTSIDE = 0.25


class CoveredPixels(NamedTuple):
    """Row-major numbers of the covered pixels.

    Attributes:
        pixel: (P,) row · width + column, ascending; 0 in unused places.
        valid: (P,) which places are used.
        count: () how many pixels are covered. With a ``capacity`` below it, those beyond are missing: check it.
    """

    pixel: Int[Array, "P"]
    valid: Bool[Array, "P"]
    count: Int[Array, ""]


class Fragments(NamedTuple):
    """What a set of pixels shows.

    Attributes:
        triangle: (…) the triangle; any for pixels that show none, so it may be used as an index.
        barycentric: (…, 3) weights of its corners on the 3-D triangle, summing to one.
        depth: (…) camera depth; 0 where nothing is shown.
        covered: (…) whether anything is shown.
    """

    triangle: Int[Array, "*s"]
    barycentric: Float[Array, "*s 3"]
    depth: Float[Array, "*s"]
    covered: Bool[Array, "*s"]


def covered_pixels(triangle_id: Int[Array, "H W"], capacity: int | None = None) -> CoveredPixels:
    """The covered pixels of an id image, so that losses need not touch the others.

    Args:
        capacity: places in the result, all pixels by default, which never overflow.

    Raises:
        FitjaxError: the capacity is not between 1 and the number of pixels.
    """
    n = triangle_id.size
    capacity = n if capacity is None else capacity
    if not 1 <= capacity <= n:
        raise FitjaxError(f"covered_pixels: capacity {capacity}; expected 1 to {n}")
    order, count = compact((triangle_id >= 0).reshape(-1))
    return CoveredPixels(order[:capacity], jnp.arange(capacity, dtype=jnp.int32) < count, count)


def fragments(
    vertices_image: Float[Array, "V 3"],
    triangles: Int[Array, "F 3"],
    triangle_id: Int[Array, "H W"],
    pixels: CoveredPixels | None = None,
    *,
    perspective: bool = True,
) -> Fragments:
    """Where on its triangle each pixel's centre lies; differentiable in ``vertices_image``.

    Args:
        vertices_image: (V, 3) x and y in pixels and camera depth, as for `rasterize`.
        pixels: only these (shape (P,)); all pixels (shape (H, W)) by default.
        perspective: as for `rasterize`.
    """
    height, width = triangle_id.shape
    if pixels is None:
        ids = triangle_id
        x, y = lax.broadcasted_iota(jnp.int32, ids.shape, 1), lax.broadcasted_iota(jnp.int32, ids.shape, 0)
        lane = y * width + x
        covered = ids >= 0
    else:
        ids = triangle_id.reshape(-1)[pixels.pixel]
        x, y = pixels.pixel % width, pixels.pixel // width
        lane = jnp.arange(ids.shape[0], dtype=jnp.int32)
        covered = pixels.valid & (ids >= 0)
    # Uncovered places spread over the mesh: one triangle for all would make the scatter of the gradient wait for itself.
    triangle = lax.stop_gradient(jnp.where(covered, ids, lane % triangles.shape[0]))
    corners = vertices_image[triangles[triangle]]
    dtype = vertices_image.dtype
    screen = _screen_barycentric(corners[..., :2], x.astype(dtype), y.astype(dtype), covered)
    z = corners[..., 2]
    if not perspective:
        depth = jnp.sum(screen * z, -1)
        return Fragments(triangle, screen, jnp.where(covered, depth, 0), covered)
    z = jnp.where(covered[..., None], z, 1)
    weighted = screen / z
    inverse_depth = jnp.sum(weighted, -1)
    # Positive unless a sliver's weights lie outside and its depths differ by a factor of four.
    good = inverse_depth > 0
    depth = 1 / jnp.where(good, inverse_depth, 1)
    barycentric = jnp.where(good[..., None], weighted * depth[..., None], 1 / 3)
    return Fragments(triangle, barycentric, jnp.where(covered, jnp.where(good, depth, jnp.mean(z, -1)), 0), covered)


def _screen_barycentric(corners: Array, x: Array, y: Array, covered: Array) -> Array:
    """Barycentrics in the image of points (…) in triangles (…, 3, 2)."""
    x0, y0 = corners[..., 0, 0], corners[..., 0, 1]
    dx1, dy1 = corners[..., 1, 0] - x0, corners[..., 1, 1] - y0
    dx2, dy2 = corners[..., 2, 0] - x0, corners[..., 2, 1] - y0
    area = dx1 * dy2 - dx2 * dy1
    usable = covered & (area != 0)
    inverse = 1 / jnp.where(usable, area, 1)
    x, y = x - x0, y - y0
    b1, b2 = (x * dy2 - dx2 * y) * inverse, (dx1 * y - x * dy1) * inverse
    weights = jnp.stack([1 - b1 - b2, b1, b2], -1)
    weights = jnp.where(usable[..., None], weights, 1 / 3)
    clipped = jnp.clip(weights, -OUTSIDE, 1 + OUTSIDE)
    inside = jnp.all(weights == clipped, -1, keepdims=True)
    # The largest weight is at least 1/3, so the sum of the clipped ones is positive… unless it is not finite.
    return jnp.where(inside, weights, clipped / jnp.sum(clipped, -1, keepdims=True))


def interpolate(
    attributes: Float[Array, "N C"], triangles: Int[Array, "F 3"], where: Fragments
) -> Float[Array, "*s C"]:
    """Attributes at pixels, 0 where nothing is shown; differentiable in attributes and, through ``where``, in positions.

    Args:
        attributes: one row per vertex, or per corner with triangles of their own: ``interpolate(uv, uv_triangles, where)``.
        triangles: (F, 3) into ``attributes``, in the order of the mesh's triangles.
    """
    corners = attributes[triangles[where.triangle]]
    weights = where.barycentric
    value = sum(corners[..., k, :] * weights[..., k, None] for k in range(3))
    return jnp.where(where.covered[..., None], value, 0)


def scatter_pixels(values: Float[Array, "P C"], pixels: CoveredPixels, height: int, width: int) -> Float[Array, "H W C"]:
    """An image from values at covered pixels, 0 elsewhere."""
    place = jnp.where(pixels.valid, pixels.pixel, height * width)
    image = jnp.zeros((height * width, *values.shape[1:]), values.dtype).at[place].set(values, mode="drop")
    return image.reshape(height, width, *values.shape[1:])
