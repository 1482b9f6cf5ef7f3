"""The nonlinear 3DMM behind the one model protocol: codes of shape and albedo, decoded into a proxy and a full face (Tran, Liu, Liu, CVPR 2019).

Two configurations of either half: the lifted basis, which is shipped, and the paper's convolutional global-local network. To solvers, losses, stages,
exports and the command line the model is a :class:`fitjax.model.textured.TexturedModel`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from fitjax.errors import BasisError
from fitjax.geometry.surface import vertex_normals
from fitjax.model.linear import LinearModel
from fitjax.model.load import NONLINEAR
from fitjax.model.nonlinear_albedo import ConvAlbedo
from fitjax.model.nonlinear_shape import ConvShape, fields_of
from fitjax.model.params import DETAIL, Params
from fitjax.model.protocol import Face
from fitjax.model.textured import TexturedModel, textured_model
from fitjax.pytree import pytree
from fitjax.render.lighting import srgb_from_linear
from fitjax.render.texture import sample_texture

#: Steps of Adam that find the codes of a convolutional network nearest to a linear fit.
_PROJECTION_STEPS = 60


@pytree
class NonlinearModel(TexturedModel):
    """A textured model whose shape and albedo have proxies of their own; per-image residual maps go on top of the full ones."""

    @property
    def own_proxies(self) -> bool:
        """The full face differs from its proxy without residual maps: fits pair them (:func:`fitjax.photometric_losses`)."""
        return True

    @property
    def network_groups(self) -> tuple[str, ...]:
        """Codes that a convolutional network decodes: fits move them by first-order steps (:func:`fitjax.fit.defaults.for_model`)."""
        return tuple(name for name, part in (("identity", self.shape), ("albedo", self.albedo)) if isinstance(part, ConvShape | ConvAlbedo))

    def decode(self, params: Params) -> Face:
        """Proxy and full vertices (metres, head space), proxy and full albedo maps (linear light, row 0 = top)."""
        face = self.shape.decode(params)
        vertices = face.vertices
        if "detail_shape" in params:
            displacement = sample_texture(params["detail_shape"][..., None], self.vertex_uv)[:, 0] * self.detail_vertices
            vertices = vertices + displacement[:, None] * vertex_normals(vertices, self.triangles)
        albedo, proxy = self.albedo.decode_both(params["albedo"])
        if "detail_albedo" in params:
            albedo = albedo * jnp.exp(params["detail_albedo"])
        return Face(vertices, face.proxy_vertices, albedo, proxy)


def nonlinear_model(shape: LinearModel, albedo: Any, occlusion: Any = None) -> NonlinearModel:
    """A model of a decoded shape (:mod:`fitjax.model.nonlinear_shape`) and a decoded albedo (:mod:`fitjax.model.nonlinear_albedo`) over its UVs.

    Args:
        occlusion: (H, W) of the albedo's map, default none.
    """
    return NonlinearModel(**fields_of(textured_model(shape, albedo, occlusion)))


def project_linear(model: NonlinearModel, linear: TexturedModel, params: Params) -> Params:
    """The codes of a nonlinear model nearest to a fit of a linear one over the same basis: where a fit of codes can start.

    Of a lifted model identity coefficients become components, of which the code takes the leading ones, and the albedo goes through the encoder; of a
    convolutional one the nearest codes are found by Adam. Other groups are kept; residual maps are dropped.

    Raises:
        BasisError: the models are not of one basis, or the nonlinear one is a lift without its encoder.
    """
    shape: Any = model.shape
    if shape.basis_sha256 != linear.shape.basis_sha256:
        raise BasisError(f"project_linear: expected models of one basis, found {shape.name!r} and {linear.shape.name!r}")
    albedo = linear.albedo.decode(params["albedo"])
    kept = {name: value for name, value in params.items() if name not in DETAIL}
    codes: Params = {}
    if isinstance(shape, ConvShape):
        neutral = {"identity": params["identity"], "expression": jnp.zeros_like(params["expression"])}
        codes["identity"] = _nearest_identity(shape, linear.shape.decode(neutral).vertices)
    elif getattr(shape, "to_modes", None) is not None:
        components = jnp.linalg.solve(shape.to_modes.T, jnp.append(params["identity"], 0.0))[: shape.code_length]
        codes["identity"] = components / shape.scales.sigma[: shape.code_length]
    if isinstance(model.albedo, ConvAlbedo):
        codes["albedo"] = _nearest_albedo(model.albedo, albedo)
    elif getattr(model.albedo, "encoder", None) is not None:
        codes["albedo"] = model.albedo.encode(albedo)
    if len(codes) < 2:
        raise BasisError("project_linear: expected a lifted model with an encoder, or a convolutional one")
    return kept | codes


def _nearest(error: Callable[[Array], Array], length: int) -> Array:
    """The code of least error plus a hundredth of its square per number: Adam from zero."""
    optimiser = optax.adam(optax.cosine_decay_schedule(0.1, _PROJECTION_STEPS, 0.02), b2=0.99)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        code, memory = carry
        gradient = jax.grad(lambda z: error(z) + 0.01 * jnp.mean(z**2))(code)
        change, memory = optimiser.update(gradient, memory)
        return (optax.apply_updates(code, change), memory), None

    start = jnp.zeros(length)
    return jax.lax.scan(step, (start, optimiser.init(start)), None, length=_PROJECTION_STEPS)[0][0]


@jax.jit
def _nearest_identity(shape: ConvShape, vertices: Float[Array, "V 3"]) -> Float[Array, "k"]:
    """By the mean square distance of vertices, square millimetres."""
    neutral = jnp.zeros(shape.n_expression)
    return _nearest(lambda z: 1e6 * jnp.mean((shape.decode({"identity": z, "expression": neutral}).vertices - vertices) ** 2), shape.code_length)


@jax.jit
def _nearest_albedo(albedo: ConvAlbedo, wanted: Float[Array, "H W 3"]) -> Float[Array, "k"]:
    """By the mean absolute difference of sRGB, of 255."""
    values = jax.image.resize(srgb_from_linear(wanted), albedo.mean.shape, "linear", antialias=False)
    return _nearest(lambda z: 255 * jnp.mean(jnp.abs(albedo.values(z)[0] - values)), albedo.code_length)


def load_nonlinear(
    path: str | Path | None = None, level: int = 1, sample_sets: Iterable[str] | None = None
) -> NonlinearModel:
    """The shipped nonlinear model over the embedded basis, or one from a file that `fitjax train decoder` wrote.

    Args:
        path: a `fitjax-nonlinear/1` file; None or ``"nonlinear"``: the shipped one. level, sample_sets: as for :func:`fitjax.load_basis`.

    Raises:
        BasisError: no such file, a damaged one, or one trained for another basis.
    """
    # Imported here: most fits need no network.
    from fitjax.model.nonlinear_file import read_nonlinear

    return read_nonlinear(None if str(path) == NONLINEAR else path, level, sample_sets)
