"""What the camera sees: vertices, surface samples, triangles.

By default the mesh is rasterised at a size of its own (``resolution`` pixels along its longer side), so accuracy and time do not depend
on the photo. A point is compared with the triangles seen at the pixels around it, each continued as a plane to the point itself: depth
comparison without the slope error of a plain z-buffer.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from fitjax.geometry.surface import SurfaceSamples
from fitjax.render.raster_fixed_point import DEPTH_RANGE
from fitjax.render.rasterize import rasterize

#: How much deeper than the nearest surface a point may lie, as a share of its depth.
TOLERANCE = 4e-3


def seen(triangle_id: Int[Array, "H W"], n_triangles: int) -> Bool[Array, "F"]:
    """Triangles that show at least one pixel: exact for this image."""
    place = jnp.where(triangle_id >= 0, triangle_id, n_triangles).reshape(-1)
    return jnp.zeros(n_triangles + 1, bool).at[place].set(True)[:-1]


def seen_vertices(triangle_id: Int[Array, "H W"], triangles: Int[Array, "F 3"], n_vertices: int) -> Bool[Array, "V"]:
    """Vertices of triangles that show at least one pixel: those that the image's colours depend on."""
    return _any_corner(seen(triangle_id, triangles.shape[0]), triangles, n_vertices)


def _any_corner(flag: Bool[Array, "F"], triangles: Int[Array, "F 3"], n_vertices: int) -> Bool[Array, "V"]:
    triangles = jnp.asarray(triangles)
    corners = jnp.broadcast_to(flag[:, None], triangles.shape).astype(jnp.int32)
    return jnp.zeros(n_vertices, jnp.int32).at[triangles].max(corners) > 0


def _corner_columns(vertices: Array, triangles: Array, rows: Array) -> list[Array]:
    return [vertices[triangles[:, k][rows]] for k in range(3)]


def _front(vertices_image: Float[Array, "V 3"], triangles: Int[Array, "F 3"]) -> Bool[Array, "F"]:
    """Triangles seen from their front: clockwise or not in pixels decides, whatever the camera."""
    a, b, c = (vertices_image[triangles[:, k]] for k in range(3))
    return (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (c[:, 0] - a[:, 0]) * (b[:, 1] - a[:, 1]) < 0


def fit_to_square(vertices_image: Float[Array, "V 3"], resolution: int) -> Float[Array, "V 3"]:
    """The mesh scaled and shifted in the image plane so that its longer side takes ``resolution`` pixels but for a border."""
    vertices_image = jnp.asarray(vertices_image)
    z = vertices_image[:, 2:]
    usable = jnp.isfinite(vertices_image).all(1, keepdims=True) & (z >= DEPTH_RANGE[0]) & (z <= DEPTH_RANGE[1])
    xy = vertices_image[:, :2]
    low = jnp.min(jnp.where(usable, xy, jnp.inf), 0)
    side = jnp.max(jnp.max(jnp.where(usable, xy, -jnp.inf), 0) - low)
    scale = (resolution - 3) / jnp.where(jnp.isfinite(side) & (side > 0), side, 1)
    return jnp.concatenate([(xy - jnp.where(jnp.isfinite(low), low, 0)) * scale + 1, z], 1)


def points_visible(
    points_image: Float[Array, "N 3"],
    vertices_image: Float[Array, "V 3"],
    triangles: Int[Array, "F 3"],
    triangle_id: Int[Array, "H W"],
    *,
    perspective: bool = True,
    tolerance: float = TOLERANCE,
) -> Bool[Array, "N"]:
    """Whether points on the mesh are hidden by what an id image shows around them; outside of the image nothing hides.

    Args:
        points_image, vertices_image: x and y in pixels of ``triangle_id``, and camera depth.
    """
    triangles, triangle_id = jnp.asarray(triangles), jnp.asarray(triangle_id)
    height, width = triangle_id.shape
    points, vertices = lax.stop_gradient(points_image), lax.stop_gradient(vertices_image)
    x, y, z = points[:, 0], points[:, 1], points[:, 2]
    good = jnp.isfinite(points).all(1) & (z >= DEPTH_RANGE[0])
    x, y = jnp.where(good, x, 0), jnp.where(good, y, 0)
    within = (x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5)
    column, row = (
        jnp.clip(jnp.rint(c), 0, n - 1).astype(jnp.int32) for c, n in ((x, width), (y, height))
    )  # fmt: skip
    ids = triangle_id[row, column]
    a, b, c = _corner_columns(vertices, triangles, jnp.maximum(ids, 0))
    dx1, dy1, dx2, dy2 = b[:, 0] - a[:, 0], b[:, 1] - a[:, 1], c[:, 0] - a[:, 0], c[:, 1] - a[:, 1]
    area = dx1 * dy2 - dx2 * dy1
    inverse = 1 / jnp.where(area == 0, 1, area)
    px, py = x - a[:, 0], y - a[:, 1]
    b1, b2 = (px * dy2 - dx2 * py) * inverse, (dx1 * py - px * dy1) * inverse
    za, zb, zc = (jnp.maximum(v[:, 2], DEPTH_RANGE[0]) for v in (a, b, c))
    if perspective:
        plane = 1 / za + b1 * (1 / zb - 1 / za) + b2 * (1 / zc - 1 / za)
        surface = 1 / jnp.where(plane > 0, plane, 1 / za)
    else:
        surface = za + b1 * (zb - za) + b2 * (zc - za)
    # A plane that is continued far beyond its triangle says little.
    surface = jnp.clip(surface, jnp.minimum(jnp.minimum(za, zb), zc), jnp.maximum(jnp.maximum(za, zb), zc))
    hidden = (ids >= 0) & within & (z > surface * (1 + tolerance))
    return good & ~hidden


def vertex_visibility(
    vertices_image: Float[Array, "V 3"],
    triangles: Int[Array, "F 3"],
    *,
    resolution: int = 192,
    perspective: bool = True,
    tolerance: float = TOLERANCE,
) -> Bool[Array, "V"]:
    """Vertices that face the camera (at least one triangle around them does) and are not hidden; the photo's borders do not count.

    Args:
        vertices_image: (V, 3) pixels and camera depth, as for `rasterize`.
        resolution: pixels along the mesh's longer side. Time grows slowly with it.
    """
    triangles = jnp.asarray(triangles)
    fitted = fit_to_square(lax.stop_gradient(vertices_image), resolution)
    ids = rasterize(fitted, triangles, resolution, resolution, perspective=perspective)
    facing = _any_corner(_front(fitted, triangles), triangles, vertices_image.shape[0])
    return facing & points_visible(fitted, fitted, triangles, ids, perspective=perspective, tolerance=tolerance)


def sample_visibility(
    samples: SurfaceSamples,
    vertices_image: Float[Array, "V 3"],
    triangles: Int[Array, "F 3"],
    *,
    resolution: int = 192,
    perspective: bool = True,
    tolerance: float = TOLERANCE,
) -> Bool[Array, "S"]:
    """The same for surface samples: their triangle faces the camera and nothing hides them."""
    triangles = jnp.asarray(triangles)
    fitted = fit_to_square(lax.stop_gradient(vertices_image), resolution)
    ids = rasterize(fitted, triangles, resolution, resolution, perspective=perspective)
    points = sample_points_image(samples, fitted, triangles, perspective=perspective)
    facing = _front(fitted, triangles[samples.triangle])
    return facing & points_visible(points, fitted, triangles, ids, perspective=perspective, tolerance=tolerance)


def sample_points_image(
    samples: SurfaceSamples,
    vertices_image: Float[Array, "V 3"],
    triangles: Int[Array, "F 3"],
    *,
    perspective: bool = True,
) -> Float[Array, "S 3"]:
    """Pixels and depth of samples, from those of the vertices."""
    vertices_image, triangles = jnp.asarray(vertices_image), jnp.asarray(triangles)
    a, b, c = _corner_columns(vertices_image, triangles, samples.triangle)
    weights = [samples.barycentric[:, k, None] for k in range(3)]
    if not perspective:
        return a * weights[0] + b * weights[1] + c * weights[2]
    depths = [jnp.where(v[:, 2:] > 0, v[:, 2:], 1) * w for v, w in zip((a, b, c), weights)]
    depth = depths[0] + depths[1] + depths[2]
    xy = (a[:, :2] * depths[0] + b[:, :2] * depths[1] + c[:, :2] * depths[2]) / depth
    return jnp.concatenate([xy, depth], 1)
