"""From triangle ids to differentiable values at pixels: barycentrics, depth, attributes; all pixels, or the covered ones only.

Which triangle a pixel shows is a constant of differentiation; where on the triangle the pixel lies is not. So gradients are exact inside
the silhouette and away from occlusion edges, and the edges themselves give none: see docs/rendering.md.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from fitjax.errors import FitjaxError
from fitjax.pytree import pytree
from fitjax.render.raster_classes import compact

#: Barycentrics may leave [0, 1] by this much. A pixel's centre is covered up to 1/362 pixel outside of its triangle (positions are rounded
#: for coverage); on a sliver thinner than that the weights would explode, and every gradient with them.
OUTSIDE = 0.25


@pytree
class CoveredPixels:
    """Row-major numbers of the covered pixels.

    Attributes:
        pixel: (P,) row · width + column, ascending; 0 in unused places.
        valid: (P,) which places are used.
        count: () how many pixels are covered. With a ``capacity`` below it, those beyond are missing: check it.
    """

    pixel: Int[Array, "P"]
    valid: Bool[Array, "P"]
    count: Int[Array, ""]


@pytree
class Fragments:
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
    triangle_id = jnp.asarray(triangle_id)
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
    vertices_image, triangles, triangle_id = (
        jnp.asarray(vertices_image),
        jnp.asarray(triangles),
        jnp.asarray(triangle_id),
    )
    width = triangle_id.shape[1]
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
    corners = tuple(_corner(vertices_image, triangles, triangle, k) for k in range(3))
    return fragments_of_corners(corners, triangle, x, y, covered, perspective=perspective)


def fragments_of_corners(
    corners: tuple[Float[Array, "*s 3"], ...],
    triangle: Int[Array, "*s"],
    x: Int[Array, "*s"],
    y: Int[Array, "*s"],
    covered: Bool[Array, "*s"],
    *,
    perspective: bool = True,
) -> Fragments:
    """`fragments` of pixels (x, y) whose triangles' corners are at hand: image x, y and camera depth of each."""
    # Sums are written out corner by corner: reductions over an axis of three are slow.
    dtype = corners[0].dtype
    screen = _screen_barycentric(corners, x.astype(dtype), y.astype(dtype), covered)
    z0, z1, z2 = (jnp.where(covered, c[..., 2], 1) for c in corners)
    if not perspective:
        depth = screen[0] * z0 + screen[1] * z1 + screen[2] * z2
        return Fragments(triangle, jnp.stack(screen, -1), jnp.where(covered, depth, 0), covered)
    w0, w1, w2 = screen[0] / z0, screen[1] / z1, screen[2] / z2
    inverse_depth = w0 + w1 + w2
    # Positive unless a sliver's weights lie outside and its depths differ by a factor of four.
    good = inverse_depth > 0
    depth = jnp.where(good, 1 / jnp.where(good, inverse_depth, 1), (z0 + z1 + z2) / 3)
    barycentric = jnp.stack([jnp.where(good, w * depth, 1 / 3) for w in (w0, w1, w2)], -1)
    return Fragments(triangle, barycentric, jnp.where(covered, depth, 0), covered)


def _corner(rows: Array, triangles: Array, triangle: Array, k: int) -> Array:
    """The rows of corner ``k`` of each triangle."""
    return rows[triangles[:, k][triangle]]


def _screen_barycentric(corners: tuple[Array, ...], x: Array, y: Array, covered: Array) -> tuple[Array, Array, Array]:
    """Barycentrics in the image of points (…) in triangles, given as three corners (…, 2 or more)."""
    x0, y0 = corners[0][..., 0], corners[0][..., 1]
    dx1, dy1 = corners[1][..., 0] - x0, corners[1][..., 1] - y0
    dx2, dy2 = corners[2][..., 0] - x0, corners[2][..., 1] - y0
    area = dx1 * dy2 - dx2 * dy1
    usable = covered & (area != 0)
    inverse = 1 / jnp.where(usable, area, 1)
    x, y = x - x0, y - y0
    b1, b2 = (x * dy2 - dx2 * y) * inverse, (dx1 * y - x * dy1) * inverse
    weights = tuple(jnp.where(usable, b, 1 / 3) for b in (1 - b1 - b2, b1, b2))
    clipped = tuple(jnp.clip(b, -OUTSIDE, 1 + OUTSIDE) for b in weights)
    inside = (weights[0] == clipped[0]) & (weights[1] == clipped[1]) & (weights[2] == clipped[2])
    scale = 1 / (
        clipped[0] + clipped[1] + clipped[2]
    )  # their sum is never zero: the largest is at least 1/3, and two below zero make it 1
    first, second, third = (jnp.where(inside, b, c * scale) for b, c in zip(weights, clipped))
    return first, second, third


def interpolate(
    attributes: Float[Array, "N C"], triangles: Int[Array, "F 3"], where: Fragments
) -> Float[Array, "*s C"]:
    """Attributes at pixels, 0 where nothing is shown; differentiable in attributes and, through ``where``, in positions.

    Args:
        attributes: one row per vertex, or per corner with triangles of their own: ``interpolate(uv, uv_triangles, where)``.
        triangles: (F, 3) into ``attributes``, in the order of the mesh's triangles.
    """
    attributes, triangles = jnp.asarray(attributes), jnp.asarray(triangles)
    a, b, c = (_corner(attributes, triangles, where.triangle, k) for k in range(3))
    weights = where.barycentric
    value = a * weights[..., 0, None] + b * weights[..., 1, None] + c * weights[..., 2, None]
    return jnp.where(where.covered[..., None], value, 0)


def scatter_pixels(
    values: Float[Array, "P C"], pixels: CoveredPixels, height: int, width: int
) -> Float[Array, "H W C"]:
    """An image from values at covered pixels, 0 elsewhere."""
    place = jnp.where(pixels.valid, pixels.pixel, height * width)
    image = jnp.zeros((height * width, *values.shape[1:]), values.dtype).at[place].set(values, mode="drop")
    return image.reshape(height, width, *values.shape[1:])
