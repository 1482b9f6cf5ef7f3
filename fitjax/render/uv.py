"""Texture space: which point of the mesh each texel shows, its mirror image, how well a photo shows it, and completion by symmetry.

Texels follow `fitjax.render.texture`: row 0 is v = 1. Charts (islands of the layout) are separated by gutters; a gutter texel repeats its nearest
texel inside a chart, so that filtering never mixes in what belongs to no surface.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from fitjax.errors import FitjaxError
from fitjax.geometry.surface import vertex_normals
from fitjax.prediction import Prediction
from fitjax.render.face import vertices_in_crop
from fitjax.render.ramp import ramp
from fitjax.render.texture import sample_texture
from fitjax.render.visibility import points_visible

#: Cosine between normal and view below which a texel is not read from the photo at all, and above which it is read fully.
_GRAZING, _FACING = 0.15, 0.5
#: Blending widths as shares of the map's side: 3 texels of 256.
_SOFT = 3 / 256


class UvPoints(NamedTuple):
    """The surface point of each texel of a square map; arrays of NumPy.

    Attributes:
        triangle: (H, W) int32. barycentric: (H, W, 3) float32.
        inside: (H, W) bool, False in gutters, whose point is that of the nearest texel inside.
        nearest: (H, W) int32, flat index of that texel; its own inside.
    """

    triangle: np.ndarray
    barycentric: np.ndarray
    inside: np.ndarray
    nearest: np.ndarray

    def fill_gutters(self, texture: np.ndarray) -> np.ndarray:
        """A map (H, W, ...) whose gutters repeat the nearest texel."""
        flat = np.asarray(texture).reshape(self.nearest.size, *np.shape(texture)[2:])
        return flat[self.nearest]


def uv_points(uv: np.ndarray, uv_triangles: np.ndarray, size: int) -> UvPoints:
    """The surface point at each texel centre of a map of ``size`` × ``size``. Kept for the last few layouts.

    Args:
        uv: (T, 2), origin bottom-left. uv_triangles: (F, 3).

    Raises:
        FitjaxError: no triangle covers a texel centre.
    """
    uv, uv_triangles = np.ascontiguousarray(uv, np.float32), np.ascontiguousarray(uv_triangles, np.int32)
    return _uv_points(uv.tobytes(), uv_triangles.tobytes(), size)


@lru_cache(maxsize=4)
def _uv_points(uv_bytes: bytes, triangle_bytes: bytes, size: int) -> UvPoints:
    from scipy.ndimage import distance_transform_edt

    from fitjax.render.reference import rasterize_reference

    uv = np.frombuffer(uv_bytes, np.float32).reshape(-1, 2)
    uv_triangles = np.frombuffer(triangle_bytes, np.int32).reshape(-1, 3)
    screen = np.concatenate([uv * [size, -size] + [-0.5, size - 0.5], np.ones((len(uv), 1))], 1)
    raster = rasterize_reference(screen, uv_triangles, size, size, cull_back=False)
    inside = raster.triangle_id >= 0
    if not inside.any():
        raise FitjaxError(f"texture: no triangle covers a texel of a {size} × {size} map; expected uv in [0, 1]")
    rows, columns = distance_transform_edt(~inside, return_distances=False, return_indices=True)
    nearest = (rows * size + columns).astype(np.int32)
    triangle = raster.triangle_id.reshape(-1)[nearest].astype(np.int32)
    barycentric = raster.barycentric.reshape(-1, 3)[nearest].astype(np.float32)
    for array in (triangle, barycentric, inside, nearest):
        array.setflags(write=False)  # shared by all callers
    return UvPoints(triangle, barycentric, inside, nearest)


def mirror_uv(shape: Any, size: int) -> Float[np.ndarray, "H W 2"]:
    """Texture coordinates of the mirrored surface point of each texel: what ``complete_by_symmetry`` reads from.

    It follows the model's ``mirror`` map of vertices, not the layout: charts of eyes and teeth need not lie symmetrically. A triangle without a twin
    maps to itself.

    Args:
        shape: a linear model, or a textured one: its ``triangles``, ``uv``, ``uv_triangles`` and ``mirror`` are read.
    """
    linear = getattr(shape, "shape", shape)
    triangles, mirror = np.asarray(linear.triangles), np.asarray(linear.mirror)
    uv, uv_triangles = np.asarray(linear.uv, np.float64), np.asarray(linear.uv_triangles)
    points = uv_points(uv, uv_triangles, size)
    twin, place = _mirrored_triangles(triangles, mirror)
    corners = uv[
        np.take_along_axis(uv_triangles[twin], place, 1)
    ]  # (F, 3 corners, 2): where each corner's mirror image lies
    return np.einsum("hwk,hwkc->hwc", points.barycentric, corners[points.triangle]).astype(np.float32)


def _mirrored_triangles(triangles: np.ndarray, mirror: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(F,) the twin of each triangle, and (F, 3) the place in the twin of the image of each corner."""
    images = mirror[triangles]
    n = int(triangles.max()) + 1

    def key(corners: np.ndarray) -> np.ndarray:
        a, b, c = np.sort(corners.astype(np.int64), 1).T
        return (a * n + b) * n + c

    keys, wanted = key(triangles), key(images)
    order = np.argsort(keys, kind="stable")
    found = order[np.clip(np.searchsorted(keys[order], wanted), 0, len(keys) - 1)]
    has_twin = keys[found] == wanted
    twin = np.where(has_twin, found, np.arange(len(triangles)))
    place = np.argmax(images[:, :, None] == triangles[twin][:, None, :], 2)
    return twin, np.where(has_twin[:, None], place, [0, 1, 2])


def texture_confidence(
    prediction: Prediction,
    triangle_id: Int[Array, "h w"],
    pixel_weight: Float[Array, "h w"],
    triangle: Int[Array, "H W"],
    barycentric: Float[Array, "H W 3"],
) -> Float[Array, "H W"]:
    """How well the photo shows each texel, 0 to 1: in view × not at a grazing angle × trusted to show the face. Under ``jit`` as well.

    Args:
        triangle_id, pixel_weight: of the crop: ids, and trust from `weight_image`.
        triangle, barycentric: of `uv_points`.
    """
    assert prediction.mesh is not None
    height, width = triangle.shape
    camera_space, image = vertices_in_crop(prediction)
    triangles = prediction.mesh.triangles
    corners, weights = triangles[triangle.reshape(-1)], jnp.asarray(barycentric, image.dtype).reshape(-1, 3)

    def at(values: Array) -> Array:
        a, b, c = (values[corners[:, k]] * weights[:, k, None] for k in range(3))
        return a + b + c

    perspective = prediction.camera.kind == "perspective"
    # A point on a triangle: barycentrics are of the 3-D triangle, so pixels are weighted by depth.
    depth = at(image[:, 2:])
    pixels = at(image[:, :2] * image[:, 2:]) / depth if perspective else at(image[:, :2])
    visible = points_visible(
        jnp.concatenate([pixels, depth], 1), image, triangles, triangle_id, perspective=perspective
    )
    position, normal = at(camera_space), at(vertex_normals(camera_space, triangles))
    view = position if perspective else jnp.broadcast_to(jnp.array([0.0, 0, 1], image.dtype), position.shape)
    length = jnp.linalg.norm(normal, axis=1) * jnp.linalg.norm(view, axis=1)
    cosine = -jnp.sum(normal * view, 1) / jnp.maximum(length, 1e-12)
    rows, columns = triangle_id.shape
    x, y = pixels[:, 0], pixels[:, 1]
    within = (x >= 0) & (x <= columns - 1) & (y >= 0) & (y <= rows - 1)
    crop_uv = jnp.stack([(x + 0.5) / columns, 1 - (y + 0.5) / rows], 1)
    trusted = sample_texture(jnp.asarray(pixel_weight)[..., None], jnp.where(within[:, None], crop_uv, 0.0))[:, 0]
    share = ramp(cosine, _GRAZING, _FACING)
    # The texel's own place on the face counts too: at a lid or an ear a pixel's weight reaches across to the surface behind.
    on_face = resize_map(prediction.mesh.face_map[..., None], (height, width))[..., 0]
    return (jnp.where(visible & within, trusted, 0) * share).reshape(height, width) * on_face


def weight_image(
    pixel: Int[Array, "P"], used: Bool[Array, "P"], weight: Float[Array, "P"], height: int, width: int
) -> Float[Array, "h w"]:
    """Weights of some pixels as an image of the crop, 0 elsewhere; pixels between these that were left out get the mean of their neighbours.

    Args:
        pixel, used: row-major numbers, and which places hold one: `fitjax.render.frozen_face.FrozenPixels`.
    """
    counted = used.astype(weight.dtype)
    place = jnp.where(used, pixel, height * width)
    both = jnp.stack([weight * counted, counted], -1)
    picture = jnp.zeros((height * width, 2), both.dtype).at[place].set(both, mode="drop").reshape(height, width, 2)
    near = _blur(picture, 1)
    between = (picture[..., 1] == 0) & (near[..., 1] > 0.2)
    return jnp.where(between, near[..., 0] / jnp.maximum(near[..., 1], 1e-6), picture[..., 0])


def complete_by_symmetry(
    detail: Float[Array, "H W C"],
    confidence: Float[Array, "H W"],
    mirror: Float[Array, "H W 2"] | None = None,
) -> Float[Array, "H W C"]:
    """A residual map in which what the photo does not show is taken from the mirrored side, as far as the photo shows that.

    ``c d + (1 - c) c' d' + (1 - c)(1 - c') d``, with c the softened confidence and ' the mirror image: where neither side is seen the residual
    stays as it was fitted. c falls off within the seen side (never outside of it), so that the change from one side to the other is smooth.
    Left and right may differ in level where the light was not explained well: the mirrored part takes the level of the seen one near by.

    Args:
        detail: (H, W, C) additive residual: for albedo the log factor, for shape metres.
        confidence: (H, W) 0 to 1, see `texture_confidence`.
        mirror: from `mirror_uv`; by default u becomes 1 - u, which holds for the skin of the embedded model but not for eyes and teeth.

    Works in JAX (differentiable, under ``jit``) and on NumPy arrays.
    """
    detail, confidence = jnp.asarray(detail), jnp.clip(jnp.asarray(confidence), 0, 1)
    if mirror is None:
        other, other_confidence = detail[:, ::-1], confidence[:, ::-1]
    else:
        both = sample_texture(jnp.concatenate([detail, confidence[..., None]], -1), mirror)
        other, other_confidence = both[..., :-1], both[..., -1]
    own_weight, other_weight = _inwards(confidence), _inwards(other_confidence)
    # The level of the mirrored side is moved to that of the own side where both are seen: a broad normalised average of the difference.
    shared = (own_weight * other_weight)[..., None]
    radius = max(1, detail.shape[0] // 12)
    level = _blur((detail - other) * shared, radius) / (_blur(shared, radius) + 0.02)
    taken = ((1 - own_weight) * other_weight)[..., None]
    return detail + taken * (other + level - detail)


def _inwards(confidence: Array) -> Array:
    """A smooth weight that is 0 wherever the confidence is: softened, and pulled inwards by the width of the softening."""
    radius = max(1, round(confidence.shape[0] * _SOFT))
    blurred = _blur(confidence[..., None], radius)[..., 0]
    return ramp(blurred, 0.5, 1.0) * jnp.minimum(1, confidence * 4)


def _blur(image: Float[Array, "H W C"], radius: int) -> Float[Array, "H W C"]:
    """Two box means one after the other, the border repeated: a tent, by running sums, whatever the radius."""
    for _ in range(2):
        for axis in (0, 1):
            pad = [(0, 0)] * image.ndim
            pad[axis] = (radius + 1, radius)
            total = jnp.cumsum(jnp.pad(image, pad, mode="edge"), axis)
            n = image.shape[axis]
            high = jax.lax.slice_in_dim(total, 2 * radius + 1, 2 * radius + 1 + n, axis=axis)
            image = (high - jax.lax.slice_in_dim(total, 0, n, axis=axis)) / (2 * radius + 1)
    return image


def resize_map(texture: Float[Array, "h w C"], size: tuple[int, int]) -> Float[Array, "H W C"]:
    """The same map with another number of rows and columns, bilinear between texel centres (as `sample_texture` reads it)."""
    rows, columns = size
    u, v = np.meshgrid((np.arange(columns) + 0.5) / columns, 1 - (np.arange(rows) + 0.5) / rows)
    return sample_texture(jnp.asarray(texture), jnp.asarray(np.stack([u, v], -1), jnp.asarray(texture).dtype))
