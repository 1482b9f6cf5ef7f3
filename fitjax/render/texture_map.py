"""The texture of a fitted head: albedo with the residual, completed on the side that the photo does not show, and sharpened from the
photo's own pixels."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array
from PIL import Image

from fitjax.geometry.rotation import safe_normalise
from fitjax.geometry.surface import vertex_normals
from fitjax.model.light_prior import light_from_code
from fitjax.prediction import Prediction
from fitjax.render.lighting import diffuse_shading
from fitjax.render.shading import linear_from_srgb
from fitjax.render.uv import UvPoints, complete_by_symmetry, mirror_uv, texture_confidence, uv_points

#: Side of the texture, texels.
TEXTURE_SIZE = 1024
#: Surface points are found at this side and enlarged: they vary slowly.
_GEOMETRY_SIZE = 512
#: How far (log) a texel may be moved by the photo's pixels: pores and lashes, not shadows or highlights.
_FINEST = 0.5
#: Means over windows of this radius (share of the map's side) are left to the fit: 24 texels of 1024.
_COARSE = 24 / 1024
#: Shading below this tells nothing about albedo.
_DARK = 0.03


class TextureMaps(NamedTuple):
    """Maps in the texture of the model, row 0 = top; NumPy arrays.

    Attributes:
        albedo: (S, S, 3) linear light, times occlusion. confidence: (S, S) 0 to 1, how well the photo shows the texel.
        completed: (H, W, 3) albedo at the size of the model's maps: fitted and completed, not sharpened.
    """

    albedo: np.ndarray
    confidence: np.ndarray
    completed: np.ndarray


@jax.jit
def _texel_geometry(prediction: Prediction, triangle: Array, barycentric: Array) -> tuple[Array, Array]:
    """Per texel the shading of a white surface (H, W, 3) and its place in the photo, pixels (H, W, 2)."""
    mesh = prediction.mesh
    assert mesh is not None
    corners = mesh.triangles[triangle]

    def at(values: Array) -> Array:
        a, b, c = (values[corners[..., k]] * barycentric[..., k, None] for k in range(3))
        return a + b + c

    normal = safe_normalise(at(vertex_normals(prediction.vertices_camera, mesh.triangles)))
    # Triangles are small: weighting pixels by depth would move them by less than a hundredth.
    return diffuse_shading(normal, light_from_code(prediction.params["light"])), at(prediction.vertices_pixels)


_confidence = jax.jit(texture_confidence)
_complete = jax.jit(complete_by_symmetry)


def texture_maps(
    prediction: Prediction,
    triangle_id: Array,
    pixel_weight: Array,
    model: Any,
    photo_rgb: np.ndarray,
    size: int = TEXTURE_SIZE,
) -> TextureMaps:
    """The texture of a fit.

    Where there is a residual albedo, the texture also takes what is finer than its texels from the photo, as far as the photo is trusted
    there: the photo's colour divided by the fitted shading and by the fitted albedo, bounded, times the confidence. Without a residual it is
    the model's albedo.

    Args:
        triangle_id, pixel_weight: (h, w) of the crop: what each pixel shows, and how far it is trusted to show the face.
        model: the textured model; its mirror map is read.
        photo_rgb: (H, W, 3) uint8, the whole photo.
    """
    mesh, face = prediction.mesh, prediction.face
    assert mesh is not None
    points = uv_points(np.asarray(mesh.uv), np.asarray(mesh.uv_triangles), _GEOMETRY_SIZE)
    confidence = np.asarray(_confidence(prediction, triangle_id, pixel_weight, points.triangle, points.barycentric))
    # Seen elsewhere, a texture has not our shading: what light cannot reach is painted dark.
    proxy = np.asarray(face.proxy_albedo) * np.asarray(mesh.occlusion)[..., None]
    map_size = proxy.shape[0]
    if "detail_albedo" not in prediction.params:
        return TextureMaps(_enlarged(proxy, size), _enlarged(confidence, size), proxy)
    small = np.asarray(Image.fromarray(confidence).resize((map_size, map_size), Image.Resampling.BOX))
    mirror = mirror_uv(model, map_size)
    completed = proxy * np.exp(np.asarray(_complete(prediction.params["detail_albedo"], small, mirror)))
    weight = _enlarged(confidence, size)
    finest = _finest_detail(prediction, points, weight, photo_rgb, size)
    albedo = np.clip(_enlarged(completed, size), 1e-4, 1)
    skin = (np.asarray(model.triangle_region) == 0)[points.triangle]
    skin = np.asarray(Image.fromarray(skin).resize((size, size), Image.Resampling.NEAREST))
    # On the skin the layout is symmetric about u = 1/2 to half a texel of 256.
    mirrored = np.where(skin[..., None], finest[:, ::-1], 0)
    finest += (1 - weight[..., None]) * mirrored
    return TextureMaps(np.clip(albedo * np.exp(finest), 0, 1), weight, completed)


def _enlarged(texture: np.ndarray, size: int) -> np.ndarray:
    """A map (h, w) or (h, w, C) at another size, bicubic; the range of the map is kept."""

    def resize(channel: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(np.ascontiguousarray(channel, np.float32))
        return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC)).clip(channel.min(), channel.max())

    if texture.ndim == 2:
        return resize(texture)
    return np.stack([resize(texture[..., k]) for k in range(texture.shape[2])], -1)


def _finest_detail(
    prediction: Prediction, points: UvPoints, weight: np.ndarray, photo_rgb: np.ndarray, size: int
) -> np.ndarray:
    """(size, size, 3) log factor between the photo's and the fitted albedo, bounded, times the confidence; 0 where the photo shows nothing."""
    from scipy.ndimage import map_coordinates, uniform_filter

    shown = weight > 1e-3
    finest = np.zeros((size, size, 3), np.float32)
    if not shown.any():
        return finest
    shading, pixels = (np.asarray(x) for x in _texel_geometry(prediction, points.triangle, points.barycentric))
    x, y = (_enlarged(pixels[..., k], size)[shown] for k in (0, 1))
    # No finer than a texel: the photo is averaged over blocks of about one texel's size.
    texel = (
        np.median(np.linalg.norm(np.diff(pixels, axis=1), axis=-1)[weight[::2, ::2][:, 1:] > 0.5])
        if (weight > 0.5).any()
        else 1
    )
    block = max(1, round(float(texel) * _GEOMETRY_SIZE / size))
    left, top = max(int(x.min()) - 2 * block, 0), max(int(y.min()) - 2 * block, 0)
    part = photo_rgb[top : int(y.max()) + 2 * block + 1, left : int(x.max()) + 2 * block + 1]
    reduced = linear_from_srgb(np.asarray(Image.fromarray(part).reduce(block), np.float32) / 255)
    places = np.stack([(y - top + 0.5) / block - 0.5, (x - left + 0.5) / block - 0.5])
    assert prediction.mesh is not None
    fitted = np.asarray(prediction.face.albedo * prediction.mesh.occlusion[..., None])
    for k in range(3):
        photographed = map_coordinates(reduced[..., k], places, order=1, mode="nearest")
        lit = _enlarged(shading[..., k], size)[shown]
        rendered = _enlarged(fitted[..., k], size)[shown] * np.maximum(lit, _DARK)
        ratio = np.log(np.maximum(photographed, 1e-3)) - np.log(np.maximum(rendered, 1e-3))
        finest[..., k][shown] = np.where(lit > _DARK, _FINEST * np.tanh(ratio / _FINEST), 0) * weight[shown]
    # What varies slowly is the fit's to explain: here it is mostly light that it got wrong.
    radius = max(3, round(_COARSE * size))
    wide = [uniform_filter(x, 2 * radius + 1, mode="nearest") for x in (*np.moveaxis(finest, -1, 0), weight)]
    coarse = np.stack(wide[:3], -1) / np.maximum(wide[3], 1e-2)[..., None]
    return finest - coarse * weight[..., None]
