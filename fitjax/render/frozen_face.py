"""The face at the pixels that losses read, with everything that does not depend on a small step kept as data.

Which triangle a pixel shows, which texels lie under it and how the albedo changes from texel to texel are taken anew per outer step. Within it the
albedo model is evaluated at the pixels alone, and a pixel that slides over the surface sees albedo + slope · its movement in UV space: exact to
first order where the step began. So a step costs neither a rasterisation nor a decoded map.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fitjax.geometry.rotation import safe_normalise
from fitjax.geometry.surface import vertex_normals
from fitjax.model.light_prior import light_from_code
from fitjax.prediction import Prediction
from fitjax.pytree import pytree, replace
from fitjax.render.face import RenderedFace, Version, vertices_in_crop
from fitjax.render.interpolate import fragments, fragments_of_corners, interpolate
from fitjax.render.lighting import shade
from fitjax.render.raster_classes import compact
from fitjax.render.texture import sample_texture

#: Most pixels of a crop that losses read, as a part of all. The face fills a third of the default crop; beyond, an even selection is read.
READ_PART = 0.45


@pytree
class FrozenPixels:
    """The P pixels of a crop that losses read; P is fixed by the crop's size.

    Attributes:
        pixel: (P,) row · width + column; ``used`` (P,) which places hold one; ``triangle`` (P,) what it shows, with the vertices (P, 3) and the UVs
            (P, 3, 2) of its corners.
        uv: (P, 2) where. trusted, detailed, occlusion: (P,) the model's maps there.
        albedo: the albedo model at ``uv``. slope, proxy_slope: (P, 3, 2) change of the full and of the proxy albedo, darkened by occlusion, per
            unit of UV.
    """

    pixel: Int[Array, "P"]
    used: Bool[Array, "P"]
    triangle: Int[Array, "P"]
    corner: Int[Array, "P 3"]
    corner_uv: Float[Array, "P 3 2"]
    uv: Float[Array, "P 2"]
    trusted: Float[Array, "P"]
    detailed: Float[Array, "P"]
    occlusion: Float[Array, "P"]
    albedo: Any
    slope: Float[Array, "P 3 2"]
    proxy_slope: Float[Array, "P 3 2"]


def _select(wanted: Bool[Array, "N"], capacity: int) -> tuple[Int[Array, "P"], Bool[Array, "P"]]:
    """The wanted pixels, or ``capacity`` of them evenly spread when there are more."""
    order, count = compact(wanted)
    place = jnp.arange(capacity, dtype=jnp.int32)
    # Scaled in floating point: the product of two pixel numbers leaves 32 bits.
    step = jnp.maximum(count.astype(jnp.float32) / capacity, 1)
    chosen = order[jnp.minimum((place.astype(jnp.float32) * step).astype(jnp.int32), order.size - 1)]
    return chosen, place < jnp.minimum(count, capacity)


def _slopes(albedo: Float[Array, "H W 3"], uv: Float[Array, "P 2"]) -> Float[Array, "P 3 2"]:
    """Central differences over two texels, per unit of u and of v."""
    height, width = albedo.shape[:2]
    padded = jnp.pad(albedo, ((1, 1), (1, 1), (0, 0)), mode="edge")
    du = (padded[1:-1, 2:] - padded[1:-1, :-2]) * (0.5 * width)
    dv = (padded[:-2, 1:-1] - padded[2:, 1:-1]) * (0.5 * height)
    both = sample_texture(jnp.concatenate([du, dv], -1), uv)
    return jnp.stack([both[:, :3], both[:, 3:]], -1)


def freeze_face(prediction: Prediction, albedo_model: Any, triangle_id: Int[Array, "H W"]) -> FrozenPixels:
    """Fix which pixels of the crop show what, from the full shape at the current parameters: skin of the face only."""
    prediction = jax.lax.stop_gradient(prediction)
    mesh = prediction.mesh
    assert mesh is not None
    _, image = vertices_in_crop(prediction)
    perspective = prediction.camera.kind == "perspective"
    everywhere = fragments(image, mesh.triangles, triangle_id, perspective=perspective)
    uv = interpolate(mesh.uv, mesh.uv_triangles, everywhere).reshape(-1, 2)
    maps = sample_texture(jnp.stack([mesh.face_map, mesh.detail_map, mesh.occlusion], -1), uv)
    ids = triangle_id.reshape(-1)
    capacity = max(1, int(READ_PART * ids.size))
    pixel, used = _select((ids >= 0) & (maps[:, 1] > 0), capacity)
    # Unused places spread over the mesh: one triangle for all would make the scatter of the gradient wait for itself.
    spread = jnp.arange(capacity, dtype=jnp.int32) % mesh.triangles.shape[0]
    triangle = jnp.where(used, jnp.maximum(ids[pixel], 0), spread)
    uv, maps = uv[pixel], jnp.where(used[:, None], maps[pixel], 0)
    face = prediction.face
    return FrozenPixels(
        pixel,
        used,
        triangle,
        mesh.triangles[triangle],
        mesh.uv[mesh.uv_triangles[triangle]],
        uv,
        maps[:, 0],
        maps[:, 1],
        maps[:, 2],
        albedo_model.at(uv),
        _slopes(face.albedo * mesh.occlusion[..., None], uv),
        _slopes(face.proxy_albedo * mesh.occlusion[..., None], uv),
    )


def _reflected(prediction: Prediction, frozen: FrozenPixels, uv: Array, version: Version) -> Float[Array, "P 3"]:
    """Albedo times occlusion where the pixels are now."""
    model = frozen.albedo
    # Decoders with a proxy of their own; of other models the proxy is the albedo itself.
    value = (getattr(model, "decode_proxy", model.decode) if version == "proxy" else model.decode)(prediction.params["albedo"])
    if version == "full" and "detail_albedo" in prediction.params:
        value = value * jnp.exp(sample_texture(prediction.params["detail_albedo"], frozen.uv))
    moved = jnp.where(frozen.used[:, None], uv - frozen.uv, 0)
    slope = frozen.slope if version == "full" else frozen.proxy_slope
    return value * frozen.occlusion[:, None] + slope[..., 0] * moved[:, :1] + slope[..., 1] * moved[:, 1:]


def render_frozen(
    prediction: Prediction,
    frozen: FrozenPixels,
    width: int,
    shape: Version = "full",
    albedo: Version = "full",
    hold_shape: bool = False,
) -> RenderedFace:
    """The pixels of ``frozen`` shaded with the proxy or the full shape and albedo.

    Args:
        width: of the crop, pixels.
        hold_shape: the surface is data: gradients reach albedo and light alone.
    """
    if hold_shape:
        shown = jax.lax.stop_gradient((prediction.face, prediction.R_camera_head, prediction.t_camera_head, prediction.camera))
        face, rotation, translation, camera = shown
        prediction = replace(prediction, face=face, R_camera_head=rotation, t_camera_head=translation, camera=camera)
    mesh = prediction.mesh
    assert mesh is not None
    camera_space, image = vertices_in_crop(prediction, shape)
    # Positions and normals are gathered together: on a CPU the scatter of their gradients costs as much for six columns as for three.
    rows = jnp.concatenate([image, vertex_normals(camera_space, mesh.triangles)], 1)
    corners = tuple(rows[frozen.corner[:, k]] for k in range(3))
    x, y = frozen.pixel % width, frozen.pixel // width
    perspective = prediction.camera.kind == "perspective"
    places = tuple(c[:, :3] for c in corners)
    where = fragments_of_corners(places, frozen.triangle, x, y, frozen.used, perspective=perspective)
    weights = [where.barycentric[:, k, None] for k in range(3)]
    first, second, third = (w * c[:, 3:] for w, c in zip(weights, corners))
    normal = safe_normalise(first + second + third)
    u0, u1, u2 = (w * frozen.corner_uv[:, k] for k, w in enumerate(weights))
    uv = u0 + u1 + u2
    reflected = _reflected(prediction, frozen, uv, albedo)
    return RenderedFace(
        frozen.pixel,
        where.covered,
        where.triangle,
        uv,
        normal,
        reflected / jnp.maximum(frozen.occlusion, 0.05)[:, None],
        shade(reflected, normal, light_from_code(prediction.params["light"])),
        frozen.trusted,
        frozen.detailed,
    )
