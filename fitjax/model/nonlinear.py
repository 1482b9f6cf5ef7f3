"""The nonlinear 3DMM behind the one model protocol: codes of shape and albedo, decoded into a proxy and a full face (Tran, Liu, Liu, CVPR 2019).

Two configurations of either half: the lifted basis, which is shipped, and the paper's convolutional global-local network. To solvers, losses, stages,
exports and the command line the model is a :class:`fitjax.model.textured.TexturedModel`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax.numpy as jnp

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
from fitjax.render.texture import sample_texture


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

    Identity coefficients become components, of which the code takes the leading ones; the albedo goes through the encoder. Other groups are kept;
    residual maps are dropped. Only for lifted models.

    Raises:
        BasisError: the models are not of one basis, or the nonlinear one is not a lift.
    """
    shape: Any = model.shape
    if getattr(shape, "to_modes", None) is None or getattr(model.albedo, "encoder", None) is None:
        raise BasisError("project_linear: expected a lifted model with an encoder; convolutional ones have none")
    if shape.basis_sha256 != linear.shape.basis_sha256:
        raise BasisError(f"project_linear: expected models of one basis, found {shape.name!r} and {linear.shape.name!r}")
    identity = jnp.append(params["identity"], 0.0)
    components = jnp.linalg.solve(shape.to_modes.T, identity)[: shape.code_length]
    codes = {"identity": components / shape.scales.sigma[: shape.code_length], "albedo": model.albedo.encode(linear.albedo.decode(params["albedo"]))}
    return {name: value for name, value in params.items() if name not in DETAIL} | codes


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
