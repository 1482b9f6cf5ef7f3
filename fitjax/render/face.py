"""The face at the pixels of a crop, shaded: what photometric losses compare with the photo.

Which triangle a pixel shows is data, frozen per outer step; where on it the pixel lies is recomputed from the vertices, so gradients flow through the
barycentric interpolation, the normals, the texture coordinates and the light. Occlusion edges have no gradient.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fitjax.geometry.camera import project, to_crop
from fitjax.geometry.rotation import safe_normalise
from fitjax.geometry.surface import vertex_normals
from fitjax.model.light_prior import light_from_code
from fitjax.prediction import Prediction, to_camera
from fitjax.render.interpolate import CoveredPixels, covered_pixels, fragments, interpolate
from fitjax.render.lighting import shade
from fitjax.render.rasterize import rasterize
from fitjax.render.texture import sample_texture

Version = Literal["proxy", "full"]


class RenderedFace(NamedTuple):
    """The covered pixels of a crop; P places, of which the covered ones count.

    Attributes:
        pixel: (P,) row · width + column. covered: (P,). triangle: (P,).
        uv: (P, 2). normal: (P, 3) camera axes. albedo, colour: (P, 3) linear light.
        trusted, detailed: (P,) the model's face map and detail map at each pixel.
    """

    pixel: Int[Array, "P"]
    covered: Bool[Array, "P"]
    triangle: Int[Array, "P"]
    uv: Float[Array, "P 2"]
    normal: Float[Array, "P 3"]
    albedo: Float[Array, "P 3"]
    colour: Float[Array, "P 3"]
    trusted: Float[Array, "P"]
    detailed: Float[Array, "P"]


def vertices_in_crop(prediction: Prediction, shape: Version = "full") -> tuple[Array, Array]:
    """(V, 3) vertices in camera space and (V, 3) x, y in pixels of the crop with camera depth."""
    face = prediction.face
    head = face.vertices if shape == "full" else face.proxy_vertices
    camera_space = to_camera(head, prediction.R_camera_head, prediction.t_camera_head)
    pixels = to_crop(prediction.camera, project(prediction.camera, camera_space, prediction.t_camera_head[2]))
    return camera_space, jnp.concatenate([pixels, camera_space[:, 2:]], -1)


def rasterize_face(prediction: Prediction, height: int, width: int) -> Int[Array, "H W"]:
    """Triangle per pixel of the crop, -1 where the head is not."""
    assert prediction.mesh is not None
    _, image = vertices_in_crop(prediction)
    perspective = prediction.camera.kind == "perspective"
    return rasterize(image, prediction.mesh.triangles, height, width, perspective=perspective)


def render_face(
    prediction: Prediction,
    triangle_id: Int[Array, "H W"],
    shape: Version = "full",
    albedo: Version = "full",
    pixels: CoveredPixels | None = None,
) -> RenderedFace:
    """Shade the covered pixels with the proxy or the full shape and albedo (the pairings of Tran, Liu, Liu, CVPR 2019)."""
    mesh = prediction.mesh
    assert mesh is not None
    pixels = covered_pixels(triangle_id) if pixels is None else pixels
    camera_space, image = vertices_in_crop(prediction, shape)
    perspective = prediction.camera.kind == "perspective"
    where = fragments(image, mesh.triangles, triangle_id, pixels, perspective=perspective)
    normal = safe_normalise(interpolate(vertex_normals(camera_space, mesh.triangles), mesh.triangles, where))
    uv = interpolate(mesh.uv, mesh.uv_triangles, where)
    maps = prediction.face.albedo if albedo == "full" else prediction.face.proxy_albedo
    reflectance = sample_texture(maps, uv)
    maps = sample_texture(jnp.stack([mesh.occlusion, mesh.face_map, mesh.detail_map], -1), uv)
    colour = shade(reflectance, normal, light_from_code(prediction.params["light"])) * maps[..., :1]
    return RenderedFace(
        pixels.pixel, where.covered, where.triangle, uv, normal, reflectance, colour, maps[..., 1], maps[..., 2]
    )
