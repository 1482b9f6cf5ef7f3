"""Shapes decoded by a network: a lifted identity or a map of offsets, with the expressions of a linear basis on arcs.

Both are linear models to whoever slices or exports them (`fitjax.model.linear.LinearModel`), with another code for the identity. Identity and
expression stay separate codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fitjax.geometry.surface import SurfacePoints, points_from_corners
from fitjax.model.linear import LinearModel, vertex_uvs
from fitjax.model.nonlinear_arcs import arcs_of
from fitjax.model.params import Params
from fitjax.model.protocol import Face
from fitjax.networks import run
from fitjax.networks.conv import GlobalLocalDecoder, Region
from fitjax.networks.lift import LiftDecoder
from fitjax.pytree import pytree, static
from fitjax.render.texture import sample_texture


def fields_of(model: Any, *leave_out: str) -> dict[str, Any]:
    """The fields of a record by name, to build a record of a subclass."""
    return {name: getattr(model, name) for name in model.__dataclass_fields__ if name not in leave_out}


@pytree
class NonlinearShape(LinearModel):
    """Vertices = mean + [identity coefficients(code), extra(age(code), expression), expression] · modes.

    ``modes`` are the basis's identities, then the extra ones of :mod:`fitjax.model.nonlinear_arcs`, then its expressions.

    Attributes:
        weights: of the decoder; None for the linear identity: the code is then the identity coefficients and, last, the age.
        scales: spreads of the R components. to_modes: (R, K + 1) components → identity coefficients and age.
        arcs: rule of the extra coefficients. gate: 0 for principal components alone.
    """

    weights: Any = None
    scales: Any = None
    to_modes: Any = None
    arcs: Any = None
    gate: Any = np.float32(1.0)
    code_length: int = static(default=0)
    hidden: int = static(default=256)
    depth: int = static(default=3)

    def init(self) -> Params:
        """Zero codes: the mean, neutral face, of middle age."""
        dtype = self.mean.dtype
        return {"identity": jnp.zeros(self.code_length, dtype), "expression": jnp.zeros(self.n_expression, dtype)}

    def identity_coefficients(self, code: Float[Array, "k"]) -> tuple[Float[Array, "K1"], Float[Array, "K1"]]:
        """Identity coefficients of the basis and, last, the age; of the full and of the proxy face."""
        if self.weights is None:
            return code, code
        decoder = LiftDecoder(self.scales.sigma.shape[0], self.hidden, self.depth)
        both = jnp.stack(run(decoder, self.weights, code, self.scales, self.gate))
        full, proxy = jnp.matmul(both, self.to_modes, precision="highest")
        return full, proxy

    def _modes_code(self, identity: Array, expression: Array, wrinkles: float) -> Float[Array, "M"]:
        extra = self.arcs.coefficients(identity[-1], expression)
        count = self.arcs.wrinkle_mix.shape[0]
        if count:
            extra = extra.at[-count:].multiply(wrinkles)
        return jnp.concatenate([identity[:-1], extra, expression])

    def _code(self, params: Params) -> Float[Array, "M"]:
        return self._modes_code(self.identity_coefficients(params["identity"])[0], params["expression"], 1.0)

    def decode(self, params: Params) -> Face:
        """Full and proxy vertices (V, 3) in head space, metres; the proxy has no wrinkles."""
        full, proxy = self.identity_coefficients(params["identity"])
        e = params["expression"]
        codes = jnp.stack([self._modes_code(full, e, 1.0), self._modes_code(proxy, e, 0.0)])
        both = self.mean + jnp.matmul(codes, self.modes, precision="highest").reshape(2, -1, 3)
        return Face(both[0], both[1])


def extended_shape(model: LinearModel, **network: Any) -> NonlinearShape:
    """A linear model with arcs, pairs and wrinkles; ``network``: the fields of the lift, none for linear identities."""
    rule, extra = arcs_of(model)
    modes = np.asarray(model.modes)
    k = model.n_identity
    joined = np.concatenate([modes[:k], extra.reshape(len(extra), -1), modes[k:]])
    names = tuple(model.sampled)
    fields = fields_of(model, "modes", "sampled")
    lengths: dict[str, Any] = {} if network else {"code_length": k + 1}
    shape = NonlinearShape(**fields, modes=jnp.asarray(joined), sampled={}, arcs=rule, **lengths, **network)
    for name in names:
        shape = shape.with_samples(name, model.sampled[name].samples)  # type: ignore[assignment]
    return shape


@pytree
class ConvShape(LinearModel):
    """Vertices = mean + offsets of a UV map at each vertex + linear expressions (Tran, Liu, Liu, CVPR 2019).

    ``modes`` are the basis's expressions alone.

    Attributes:
        weights: of :class:`fitjax.networks.conv.GlobalLocalDecoder`. scale: metres per unit of its map.
        corner, corner_weight: (V, 4) texels around each vertex, flat, and their bilinear weights: the fixed gather from map to mesh.
    """

    weights: Any = None
    scale: Any = np.float32(1.0)
    corner: Any = None
    corner_weight: Any = None
    code_length: int = static(default=160)
    regions: tuple[Region, ...] = static(default=())
    height: int = static(default=192)
    width: int = static(default=224)
    first: int = static(default=160)
    local_first: int = static(default=128)
    channels: tuple[int, ...] = static(default=(128, 96, 64, 32, 16))
    local_channels: tuple[int, ...] = static(default=(64, 32, 16))

    @property
    def module(self) -> GlobalLocalDecoder:
        return GlobalLocalDecoder(
            self.height, self.width, self.regions, self.first, self.local_first, self.channels, self.local_channels, limit=2.0
        )

    def init(self) -> Params:
        """Zero codes. The network's face at zero is what it was trained to be there."""
        dtype = self.mean.dtype
        return {"identity": jnp.zeros(self.code_length, dtype), "expression": jnp.zeros(self.n_expression, dtype)}

    def maps(self, code: Float[Array, "k"]) -> Float[Array, "2 H W 3"]:
        """Offsets in metres, full and proxy."""
        full, proxy = run(self.module, self.weights, code[None])
        return self.scale * jnp.concatenate([full, proxy])

    def _expressed(self, params: Params) -> Float[Array, "V 3"]:
        return jnp.matmul(params["expression"], self.modes, precision="highest").reshape(-1, 3)

    def _at_vertices(self, maps: Float[Array, "n H W 3"], vertices: Any = slice(None)) -> Float[Array, "n *s 3"]:
        flat = maps.reshape(maps.shape[0], -1, 3)
        corner, weight = self.corner[vertices], self.corner_weight[vertices]
        return sum(flat[:, corner[..., k]] * weight[..., k, None] for k in range(4))  # type: ignore[return-value]

    def decode(self, params: Params) -> Face:
        """Full and proxy vertices (V, 3) in head space, metres."""
        offsets = self._at_vertices(self.maps(params["identity"]))
        both = self.mean + self._expressed(params) + offsets
        return Face(both[0], both[1])

    def decode_samples(self, params: Params, name: str) -> SurfacePoints:
        """Positions and unit normals (S, 3) of the set ``name`` on the full face, head space.

        Raises:
            BasisError: the set is not sliced.
        """
        neutral = {"identity": params["identity"][:0], "expression": params["expression"]}
        expressed = super().decode_samples(neutral, name)
        part = self.sampled[name]
        corner = self.triangles[part.samples.triangle]
        offset = self._at_vertices(self.maps(params["identity"])[:1], corner)[0]
        moved = part.corner_mean + offset + jnp.matmul(params["expression"], part.corner_modes, precision="highest").reshape(offset.shape)
        shift = jnp.einsum("skc,sk->sc", offset, part.samples.barycentric, precision="highest")
        return SurfacePoints(expressed.position + shift, points_from_corners(moved, part.samples.barycentric).normal)

    def prior(self, params: Params) -> Mapping[str, Array]:
        return {"identity": params["identity"], "expression": params["expression"] / self.expression_sigma}


def uv_gather(uv: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(V, 4) flat texels around points in UV space and their bilinear weights, as `fitjax.render.texture.sample_texture` reads them."""
    x = np.clip(uv[:, 0] * width - 0.5, 0, width - 1)
    y = np.clip((1 - uv[:, 1]) * height - 0.5, 0, height - 1)
    column, row = np.minimum(x.astype(int), width - 2), np.minimum(y.astype(int), height - 2)
    fx, fy = x - column, y - row
    first = row * width + column
    corner = np.stack([first, first + 1, first + width, first + width + 1], 1)
    weight = np.stack([(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy], 1)
    return corner.astype(np.int32), weight.astype(np.float32)


def conv_shape(
    model: LinearModel, weights: Any, regions: tuple[Region, ...], *, scale: float = 0.02, **settings: Any
) -> ConvShape:
    """A convolutional shape model over a linear one's mean, UVs and expressions.

    Args:
        weights: of the network; None for fresh ones (seed 0), to train. scale: metres per unit of its map. settings: fields of :class:`ConvShape`.
    """
    modes = model.modes[model.n_identity :]
    base = ConvShape(**fields_of(model, "modes", "sampled"), modes=modes, sampled={}, regions=regions, **settings)
    corner, weight = uv_gather(vertex_uvs(model), base.height, base.width)
    if weights is None:
        weights = jax.jit(base.module.init)(jax.random.key(0), jnp.zeros((1, base.code_length), model.mean.dtype))
    fields = fields_of(base, "weights", "scale", "corner", "corner_weight")
    dtype = model.mean.dtype
    shape = ConvShape(
        **fields,
        weights=weights,
        scale=jnp.asarray(scale, dtype),
        corner=jnp.asarray(corner),
        corner_weight=jnp.asarray(weight, dtype),
    )
    for name in model.sampled:
        shape = shape.with_samples(name, model.sampled[name].samples)  # type: ignore[assignment]
    return shape


def sampled_offsets(maps: Float[Array, "H W 3"], uv: Float[Array, "V 2"]) -> Float[Array, "V 3"]:
    """The gather of :class:`ConvShape`, written out: what :func:`uv_gather` is tested against."""
    return sample_texture(maps, uv)
