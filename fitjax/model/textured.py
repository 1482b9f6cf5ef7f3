"""A shape model with an albedo model and per-image residuals in UV space.

The model's own shape and albedo are the **proxies**; ``detail_shape`` and ``detail_albedo`` are free-form residual maps on top
(Tran, Liu, Liu, CVPR 2019, with the network replaced by one map per image):

    vertices = proxy vertices + normal displacement sampled at each vertex's UV
    albedo   = proxy albedo · exp(residual)

The albedo residual is a factor, so it never leaves the positive range and its L1 norm treats dark and light skin alike. Light is a code of 27 numbers
with a standard normal prior (:func:`fitjax.model.light_prior.light_from_code`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

from fitjax.geometry.surface import SurfacePoints, vertex_normals
from fitjax.model.albedo import default_albedo
from fitjax.model.linear import LinearModel, vertex_uvs
from fitjax.model.load import EMBEDDED, is_nonlinear, load_basis, model_path
from fitjax.model.occlusion import default_occlusion
from fitjax.model.params import Params
from fitjax.model.protocol import Face
from fitjax.observation.part_tables import FACE_OVAL
from fitjax.pytree import pytree, replace, static
from fitjax.render.texture import sample_texture

#: Factor on the code of the light's level in the prior. Of level and skin tone a photo shows the product alone; what else tells them apart (hue)
#: is fainter than a model's errors. At one, a fit buys a little hue with a light twice as bright on skin half as light.
LEVEL_PRIOR = 5.0

#: Furthest that a residual displaces the surface, metres: wrinkles and folds, not another head.
DISPLACEMENT_LIMIT = 2e-3

#: Sides of the residual maps, texels.
DETAIL_SIZE = 256


@pytree
class TexturedModel:
    """Shape and albedo behind the one model protocol.

    Attributes:
        shape: the shape model. albedo: an albedo model (``init``, ``decode``, ``prior``) over the same UVs.
        vertex_uv: (V, 2) one UV per vertex (at a seam, one of its several).
        face_map: (H, W) 1 on the skin inside the face oval, without eyes and mouth: where the photo is trusted to show what the model has.
        detail_map: (H, W) the same with eyes, teeth and mouth: where the photo is trusted to show the face at all, for residual maps.
        occlusion: (H, W) share of the surrounding light that reaches each texel of the mean head: nostrils, eye sockets, the mouth.
        detail_vertices: (V,) 1 where a vertex may be displaced: the skin of the face, not eyeballs or teeth, fading beyond the oval.
        detail_size: side of the residual maps.
    """

    shape: LinearModel
    albedo: Any
    vertex_uv: Float[Array, "V 2"]
    face_map: Float[Array, "H W"]
    detail_map: Float[Array, "H W"]
    occlusion: Float[Array, "H W"]
    detail_vertices: Float[Array, "V"]
    detail_size: int = static(default=DETAIL_SIZE)

    @property
    def triangles(self) -> Int[Array, "F 3"]:
        return self.shape.triangles

    @property
    def uv(self) -> Float[Array, "T 2"]:
        return self.shape.uv

    @property
    def uv_triangles(self) -> Int[Array, "F 3"]:
        return self.shape.uv_triangles

    @property
    def triangle_region(self) -> Int[Array, "F"]:
        return self.shape.triangle_region

    @property
    def sample_sets(self) -> tuple[str, ...]:
        return self.shape.sample_sets

    @property
    def pose_frames(self) -> dict[str, Array]:
        return self.shape.pose_frames

    def init(self) -> Params:
        """Mean face, mean albedo, white even light, no residuals."""
        return {**self.shape.init(), "albedo": self.albedo.init(), "light": jnp.zeros(27, self.shape.mean.dtype)}

    def no_detail(self) -> Params:
        """Zero residual maps, to add to parameters before a detail stage."""
        n = self.detail_size
        dtype = self.shape.mean.dtype
        return {"detail_shape": jnp.zeros((n, n), dtype), "detail_albedo": jnp.zeros((n, n, 3), dtype)}

    def decode(self, params: Params) -> Face:
        """Proxy and full vertices (metres, head space), proxy and full albedo maps (linear light, row 0 = top)."""
        proxy = self.shape.decode(params).vertices
        vertices = proxy
        if "detail_shape" in params:
            displacement = sample_texture(params["detail_shape"][..., None], self.vertex_uv)[:, 0] * self.detail_vertices
            vertices = proxy + displacement[:, None] * vertex_normals(proxy, self.triangles)
        proxy_albedo = self.albedo.decode(params["albedo"])
        albedo = proxy_albedo
        if "detail_albedo" in params:
            albedo = proxy_albedo * jnp.exp(params["detail_albedo"])
        return Face(vertices, proxy, albedo, proxy_albedo)

    def decode_samples(self, params: Params, name: str) -> SurfacePoints:
        """Samples of the proxy surface: residuals are fractions of a millimetre and no landmark knows them."""
        return self.shape.decode_samples(params, name)

    def prior(self, params: Params) -> Mapping[str, Any]:
        light = params["light"].at[0].multiply(LEVEL_PRIOR)
        return {**self.shape.prior(params), "albedo": self.albedo.prior(params["albedo"]), "light": light}

    def bounds(self) -> Mapping[str, tuple[Any, Any]]:
        limit = jnp.full((self.detail_size, self.detail_size), DISPLACEMENT_LIMIT, self.shape.mean.dtype)
        return {**self.shape.bounds(), "albedo": self.albedo.bounds(), "detail_shape": (-limit, limit)}

    def with_samples(self, name: str) -> TexturedModel:
        return replace(self, shape=self.shape.with_samples(name))


def textured_model(shape: LinearModel, albedo: Any, occlusion: np.ndarray | None = None) -> TexturedModel:
    """A textured model from a shape model and an albedo model over its UVs; ``occlusion`` (H, W) default none."""
    triangles = np.asarray(shape.triangles)
    vertex_uv = vertex_uvs(shape)
    region = np.asarray(shape.triangle_region)
    movable = np.zeros(shape.n_vertices, np.float32)
    movable[triangles[region == 0].reshape(-1)] = 1
    movable[triangles[region != 0].reshape(-1)] = 0
    dtype = shape.mean.dtype
    size = albedo.shape[0]
    skin, face = face_maps(shape, size)
    # Fading beyond the oval: what no pixel shows there would follow the coarse steps of a solver.
    movable *= ndimage.map_coordinates(ndimage.uniform_filter(skin, size // 16), _texels(vertex_uv, size), order=1, mode="nearest")
    shadow = np.ones_like(skin) if occlusion is None else occlusion
    maps = [jnp.asarray(x, dtype) for x in (vertex_uv, skin, face, shadow, movable)]
    return TexturedModel(shape, albedo, maps[0], maps[1], maps[2], maps[3], maps[4])


def _texels(uv: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of texture coordinates in a square map whose row 0 is the top."""
    return (1 - uv[:, 1]) * size - 0.5, uv[:, 0] * size - 0.5


def load_textured(name: str = "embedded", level: int = 1, sample_sets: Iterable[str] | None = None) -> TexturedModel:
    """A face model with albedo: its own if it brings one, else the embedded one in its texture; arguments as for :func:`fitjax.load_basis`.

    Raises:
        BasisError: no such model, a damaged file, or one that has neither albedo nor annotations.
    """
    if str(name) == EMBEDDED:
        return textured_model(load_basis(name, level, sample_sets=sample_sets), default_albedo(), default_occlusion())
    if is_nonlinear(name):
        from fitjax.model.nonlinear import load_nonlinear

        return load_nonlinear(name, level, sample_sets)
    from fitjax.model.imported_albedo import imported_albedo

    albedo, occlusion = imported_albedo(model_path(name))
    return textured_model(load_basis(name, level, sample_sets=sample_sets), albedo, occlusion)


def has_albedo(name: str) -> bool:
    """Whether :func:`load_textured` finds an albedo for a model.

    Raises:
        BasisError: no such model.
    """
    if str(name) == EMBEDDED or is_nonlinear(name):
        return True
    from fitjax.model.imported_albedo import albedo_fields

    return bool(albedo_fields(model_path(name)))


def face_maps(shape: LinearModel, size: int = DETAIL_SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Two maps (size, size) float32: 1 on texels of skin inside the face oval, fading over a few texels, from the model's own landmarks; and the same
    with all that is no skin (eyes, teeth, the mouth's inside).

    Without ``mediapipe478`` all skin counts.
    """
    uv, uv_triangles = np.asarray(shape.uv), np.asarray(shape.uv_triangles)

    def filled(polygons: Iterable[np.ndarray]) -> Image.Image:
        texels = Image.new("L", (size, size))
        draw = ImageDraw.Draw(texels)
        for points in polygons:
            draw.polygon([(float(u * size - 0.5), float((1 - v) * size - 0.5)) for u, v in points], fill=255)
        return texels

    is_skin = np.asarray(shape.triangle_region) == 0
    skin, others = (np.asarray(filled(uv[uv_triangles[kind]]), np.float32) / 255 for kind in (is_skin, ~is_skin))
    if "mediapipe478" not in shape.sample_library:
        return skin, np.maximum(skin, others)
    samples = shape.sample_library["mediapipe478"]
    corners = uv[uv_triangles[np.asarray(samples.triangle)]]
    points = (corners * np.asarray(samples.barycentric)[..., None]).sum(1)
    soft = filled([points[list(FACE_OVAL)]]).filter(ImageFilter.GaussianBlur(size / 128))
    face = skin * np.asarray(soft, np.float32) / 255
    return face, np.maximum(face, others)
