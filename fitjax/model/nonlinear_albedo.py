"""Albedo decoded by a network: the lifted basis, and maps of the convolutional one. Both are albedo models (`fitjax.model.albedo.AlbedoModel`).

Besides ``decode``, the full albedo, they answer ``decode_proxy``, the strongly regularised one. Networks work in sRGB values, where errors are what a
viewer sees; decoded albedo is in linear light, in (0, 1).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fitjax.model.albedo import _linear_light, _UnitCodes, bilinear
from fitjax.networks import run
from fitjax.networks.conv import GlobalLocalDecoder, Region, fading
from fitjax.networks.lift import LiftDecoder, LiftEncoder, LiftScales
from fitjax.pytree import pytree, replace, static
from fitjax.render.lighting import srgb_from_linear
from fitjax.render.texture import sample_texture

#: Side of the square maps that a fit sees: that of the residual maps.
MAP_SIZE = 256

#: Weight of the first code in the prior.
TONE_PRIOR = 0.1


class _Decoded(_UnitCodes):
    """What both kinds share: values (sRGB) of the full and of the proxy face, at texels or at points."""

    weights: Any
    points: Any
    size: int
    code_length: int

    @property
    def n_codes(self) -> int:
        return self.code_length

    @property
    def _dtype(self) -> Any:
        return jax.tree.leaves(self.weights)[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what :meth:`decode` returns, without the channels: (size, size), or (S,) at points."""
        return (self.size, self.size) if self.points is None else (self.points.shape[0],)

    def values(self, code: Float[Array, "K"]) -> tuple[Array, Array]:
        """sRGB of the full and of the proxy face, where the model's own grid or points are."""
        raise NotImplementedError

    def _placed(self, value: Array) -> Float[Array, "*S 3"]:
        if self.points is None and value.shape[:2] != (self.size, self.size):
            value = jax.image.resize(value, (self.size, self.size, 3), "linear", antialias=False)
        return _linear_light(value, srgb=True)

    def decode(self, code: Float[Array, "K"]) -> Float[Array, "*S 3"]:
        """The full albedo in linear light, in (0, 1): (size, size, 3) with row 0 at v = 1, or (S, 3)."""
        return self._placed(self.values(code)[0])

    def decode_proxy(self, code: Float[Array, "K"]) -> Float[Array, "*S 3"]:
        """The proxy albedo, likewise."""
        return self._placed(self.values(code)[1])

    def decode_both(self, code: Float[Array, "K"]) -> tuple[Float[Array, "*S 3"], Float[Array, "*S 3"]]:
        """Full and proxy albedo of one run of the network."""
        full, proxy = self.values(code)
        return self._placed(full), self._placed(proxy)


@pytree
class LiftedAlbedo(_Decoded):
    """mean + Σ c_r B_r with c from :class:`fitjax.networks.lift.LiftDecoder`. K codes, R components, P texels.

    Attributes:
        mean: (P, 3) sRGB; basis (R, 3 P), rows as mean, texels of a map of ``height`` × ``width`` in row order, or points.
        scales: spreads of the components and the proxy's filter. weights: of the decoder. encoder: of the encoder, or None.
        whitening: (R, R) solves for components of a face from its projections on ``basis`` under ``texel_weight`` (P,); for :meth:`encode`.
        gate: 0 for principal components alone, 1 for the lift. points: (S, 2) where the model was sampled, or None.
        local_modes: per region (n, 3 h w), the local residual's components in their boxes ``regions``, ``local`` of them; sampled at points they are
            rows of ``basis``, after the others.
    """

    mean: Float[Array, "P 3"]
    basis: Float[Array, "R P3"]
    scales: LiftScales
    weights: Any
    encoder: Any = None
    texel_weight: Any = None
    whitening: Any = None
    gate: Any = np.float32(1.0)
    points: Any = None
    local_modes: tuple[Any, ...] = ()
    code_length: int = static(default=64)
    hidden: int = static(default=512)
    depth: int = static(default=3)
    height: int = static(default=192)
    width: int = static(default=224)
    size: int = static(default=MAP_SIZE)
    regions: tuple[Region, ...] = static(default=())
    local: tuple[int, ...] = static(default=())

    @property
    def rank(self) -> int:
        """Components of the whole face."""
        return self.scales.sigma.shape[0] - sum(self.local)

    def coefficients(self, code: Float[Array, "*b K"]) -> tuple[Float[Array, "*b RL"], Float[Array, "*b RL"]]:
        """Of the full and of the proxy face; local ones last."""
        return run(LiftDecoder(self.rank, self.hidden, self.depth, self.local), self.weights, code, self.scales, self.gate)

    def _map(self, coefficients: Float[Array, "RL"]) -> Float[Array, "*S 3"]:
        """sRGB of coefficients, on the model's own grid or at its points."""
        whole = coefficients[: self.basis.shape[0]]
        value = jnp.matmul(whole, self.basis, precision="highest").reshape(self.mean.shape) + self.mean
        return value if self.points is not None else self._with_local(value.reshape(self.height, self.width, 3), coefficients)

    def _with_local(self, value: Float[Array, "H W 3"], coefficients: Float[Array, "RL"]) -> Float[Array, "H W 3"]:
        first = self.rank
        for (top, left, height, width), modes in zip(self.regions, self.local_modes):
            part = jnp.matmul(coefficients[first : first + len(modes)], modes, precision="highest").reshape(height, width, 3)
            value = value.at[top : top + height, left : left + width].add(part)
            first += len(modes)
        return value

    def values(self, code: Float[Array, "K"]) -> tuple[Array, Array]:
        coefficients = jnp.stack(self.coefficients(code))
        both = jnp.matmul(coefficients[:, : self.basis.shape[0]], self.basis, precision="highest").reshape(2, *self.mean.shape) + self.mean
        if self.points is not None:
            return both[0], both[1]
        both = both.reshape(2, self.height, self.width, 3)
        return self._with_local(both[0], coefficients[0]), both[1]

    def _drawn(self, coefficients: Float[Array, "RL"]) -> Float[Array, "*S 3"]:
        return self._placed(self._map(coefficients))

    def decode(self, code: Float[Array, "K"]) -> Float[Array, "*S 3"]:
        """The full albedo (see :class:`_Decoded`) without the cost of the proxy's."""
        return self._drawn(self.coefficients(code)[0])

    def decode_proxy(self, code: Float[Array, "K"]) -> Float[Array, "*S 3"]:
        """The proxy albedo without the cost of the full one's."""
        return self._drawn(self.coefficients(code)[1])

    def prior(self, code: Float[Array, "K"]) -> Float[Array, "K"]:
        """The codes; the first, which is nearly the tone of the skin, divided by ten: a normal prior would pull light and dark faces to a medium one
        (see :meth:`fitjax.model.albedo.BiophysicalAlbedo.prior`)."""
        return code.at[0].multiply(TONE_PRIOR)

    def at(self, uv: Float[Array, "S 2"]) -> LiftedAlbedo:
        """The model at texture coordinates (S, 2): rows of the basis there, so that a fit to pixels decodes these alone."""

        def sampled(maps: Array) -> Array:
            channels = jnp.moveaxis(maps.reshape(-1, self.height, self.width, 3), -1, 1).reshape(-1, self.height, self.width)
            return jnp.moveaxis(bilinear(channels, uv).reshape(-1, 3, len(uv)), 1, -1)

        basis = sampled(self.basis).reshape(self.rank, -1)
        for (top, left, height, width), modes in zip(self.regions, self.local_modes):
            placed = jnp.zeros((len(modes), self.height, self.width, 3), modes.dtype)
            placed = placed.at[:, top : top + height, left : left + width].set(modes.reshape(-1, height, width, 3))
            basis = jnp.concatenate([basis, sampled(placed).reshape(len(modes), -1)])
        empty: dict[str, Any] = {"encoder": None, "texel_weight": None, "whitening": None, "local_modes": ()}
        return replace(self, mean=sampled(self.mean)[0], basis=basis, points=uv, **empty)

    def encode(self, albedo: Float[Array, "*S 3"]) -> Float[Array, "K"]:
        """The code of an albedo map in linear light, of any size: where a fit of codes starts, such as a linear model's fit.

        Raises:
            ValueError: the model was sampled at points, or carries no encoder.
        """
        if self.encoder is None or self.texel_weight is None:
            raise ValueError("LiftedAlbedo.encode: expected a model of maps with an encoder; models from `at` and pruned ones have none")
        value = jax.image.resize(srgb_from_linear(albedo), (self.height, self.width, 3), "linear", antialias=False)
        weighted = (value.reshape(-1, 3) - self.mean) * self.texel_weight[:, None]
        c = jnp.matmul(self.whitening, jnp.matmul(self.basis, weighted.reshape(-1), precision="highest"), precision="highest")
        if self.local:
            drawn = jnp.matmul(c, self.basis, precision="highest").reshape(self.mean.shape)
            left = (value.reshape(-1, 3) - self.mean - drawn) * self.texel_weight[:, None]
            c = jnp.concatenate([c, self._local_coefficients(left.reshape(self.height, self.width, 3))])
        return run(LiftEncoder(self.code_length, self.hidden, self.depth), self.encoder, c, self.scales)

    def _local_coefficients(self, weighted: Float[Array, "H W 3"]) -> Float[Array, "L"]:
        """Of what the components of the whole face leave, times the weight of its texels."""
        parts = []
        for box, modes, window in zip(self.regions, self.local_modes, fading(self.regions, self.height, self.width)):
            top, left, height, width = box
            seen = weighted[top : top + height, left : left + width] * window.astype(weighted.dtype)
            parts.append(jnp.matmul(modes, seen.reshape(-1), precision="highest"))
        return jnp.concatenate(parts)

    def astype(self, dtype: np.typing.DTypeLike) -> LiftedAlbedo:
        """In another floating dtype (float64 needs JAX's x64 mode)."""
        return jax.tree.map(lambda x: jnp.asarray(x, np.dtype(dtype)), self)


@pytree
class ConvAlbedo(_Decoded):
    """mean + scale · map of :class:`fitjax.networks.conv.GlobalLocalDecoder`. ``mean`` (H, W, 3) sRGB; points: (S, 2) where it is read, or None."""

    mean: Float[Array, "H W 3"]
    scale: Any
    weights: Any
    points: Any = None
    code_length: int = static(default=160)
    regions: tuple[Region, ...] = static(default=())
    first: int = static(default=160)
    local_first: int = static(default=128)
    channels: tuple[int, ...] = static(default=(128, 96, 64, 32, 16))
    local_channels: tuple[int, ...] = static(default=(64, 32, 16))
    size: int = static(default=MAP_SIZE)

    @property
    def module(self) -> GlobalLocalDecoder:
        height, width = self.mean.shape[:2]
        return GlobalLocalDecoder(
            height, width, self.regions, self.first, self.local_first, self.channels, self.local_channels
        )

    def values(self, code: Float[Array, "K"]) -> tuple[Array, Array]:
        full, proxy = (self.mean + self.scale * x[0] for x in run(self.module, self.weights, code[None]))
        if self.points is None:
            return full, proxy
        return sample_texture(full, self.points), sample_texture(proxy, self.points)

    def at(self, uv: Float[Array, "S 2"]) -> ConvAlbedo:
        """The model read at texture coordinates (S, 2). The network still draws its whole map."""
        return replace(self, points=uv)

    def astype(self, dtype: np.typing.DTypeLike) -> ConvAlbedo:
        """In another floating dtype (float64 needs JAX's x64 mode)."""
        return jax.tree.map(lambda x: jnp.asarray(x, np.dtype(dtype)), self)
