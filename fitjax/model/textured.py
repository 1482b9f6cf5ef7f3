"""A shape model with an albedo model and per-image residuals in UV space.

The model's own shape and albedo are the **proxies**; ``detail_shape`` and ``detail_albedo`` are free-form residual maps on top
(Tran, Liu, Liu, CVPR 2019, with the network replaced by one map per image):

    vertices = proxy vertices + normal displacement sampled at each vertex's UV
    albedo   = proxy albedo · exp(residual)

The albedo residual is a factor, so it never leaves the positive range and its L1 norm treats dark and light skin alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fitjax.geometry.surface import SurfacePoints, vertex_normals
from fitjax.model.linear import LinearModel
from fitjax.model.params import Params
from fitjax.model.protocol import Face
from fitjax.pytree import pytree, replace, static

#: Sides of the residual maps, texels.
DETAIL_SIZE = 256


@pytree
class TexturedModel:
    """Shape and albedo behind the one model protocol.

    Attributes:
        shape: the shape model. albedo: an albedo model (``init``, ``decode``, ``prior``) over the same UVs.
        vertex_uv: (V, 2) one UV per vertex (at a seam, one of its several).
        detail_vertices: (V,) 1 where a vertex may be displaced: the skin, not eyeballs or teeth.
        detail_size: side of the residual maps.
    """

    shape: LinearModel
    albedo: Any
    vertex_uv: Float[Array, "V 2"]
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
        """Mean face, mean albedo, no residuals."""
        return {**self.shape.init(), "albedo": self.albedo.init()}

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
            displacement = sample_map(params["detail_shape"][..., None], self.vertex_uv)[:, 0] * self.detail_vertices
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
        return {**self.shape.prior(params), "albedo": self.albedo.prior(params["albedo"])}

    def bounds(self) -> Mapping[str, tuple[Any, Any]]:
        return self.shape.bounds()

    def with_samples(self, name: str) -> TexturedModel:
        return replace(self, shape=self.shape.with_samples(name))


def sample_map(image: Float[Array, "H W C"], uv: Float[Array, "*b 2"]) -> Float[Array, "*b C"]:
    """Bilinear samples of a UV map: row 0 is the top (v = 1), texel centres at (i + 1/2) / size, clamped at the border."""
    height, width = image.shape[:2]
    x = jnp.clip(uv[..., 0] * width - 0.5, 0, width - 1)
    y = jnp.clip((1 - uv[..., 1]) * height - 0.5, 0, height - 1)
    x0 = jnp.minimum(jnp.floor(x).astype(jnp.int32), width - 2)
    y0 = jnp.minimum(jnp.floor(y).astype(jnp.int32), height - 2)
    fx, fy = (x - x0)[..., None], (y - y0)[..., None]
    flat = image.reshape(height * width, -1)
    start = y0 * width + x0
    top = flat[start] * (1 - fx) + flat[start + 1] * fx
    bottom = flat[start + width] * (1 - fx) + flat[start + width + 1] * fx
    return top * (1 - fy) + bottom * fy


def textured_model(shape: LinearModel, albedo: Any) -> TexturedModel:
    """A textured model from a shape model and an albedo model over its UVs."""
    triangles, uv_triangles = np.asarray(shape.triangles), np.asarray(shape.uv_triangles)
    vertex_uv = np.zeros((shape.n_vertices, 2), np.float32)
    vertex_uv[triangles.reshape(-1)] = np.asarray(shape.uv)[uv_triangles.reshape(-1)]
    region = np.asarray(shape.triangle_region)
    movable = np.zeros(shape.n_vertices, np.float32)
    movable[triangles[region == 0].reshape(-1)] = 1
    movable[triangles[region != 0].reshape(-1)] = 0
    dtype = shape.mean.dtype
    return TexturedModel(shape, albedo, jnp.asarray(vertex_uv, dtype), jnp.asarray(movable, dtype))
