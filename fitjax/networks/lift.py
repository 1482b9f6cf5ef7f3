"""The lifted basis: from a short code to the coefficients of a longer basis, with a linear path and a learned bend.

    full  = σ z            + g · s · full head (MLP(z))
    proxy = S (σ z, 0 ...) + g · s · proxy head (MLP(z))

z has k numbers, the basis R > k components with spreads σ; S is the linear filter that makes a proxy of a face (see
:func:`fitjax.train.lift.proxy_filter`); s scales the heads so that small components are learned as fast as large ones. The gate g is an argument:
at 0 the decoder *is* principal components.

Local paths, if any, add coefficients of components that live around eyes, mouth and nose alone (:mod:`fitjax.train.local`), each from a network of
its own. They are a residual: the full face has them, its proxy has not, and the gate closes them too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float


class LiftScales(NamedTuple):
    """What a lift knows of its basis: ``sigma`` (R,) spreads, ``filter`` (R, R) the proxy's filter on coefficients, as rows c ↦ c @ filter.

    With local components, ``sigma`` (R + L,) has theirs last; the filter knows nothing of them.

    For training alone: ``parity`` (R,) 1 for even and -1 for odd components, so that mirrored faces can be shown too; ``metric`` (R, R), errors are
    measured as c @ metric. ``texels`` (T, 3, R + L) and ``texel_weight`` (T,), of mean one: values that the components have at texels of the map, of
    which a few are drawn per step and compared by L1.
    """

    sigma: Any
    filter: Any
    parity: Any = None
    metric: Any = None
    texels: Any = None
    texel_weight: Any = None

    def head_scale(self) -> Array:
        """(R,)."""
        sigma = jnp.asarray(self.sigma)
        return 0.3 * jnp.sqrt(sigma * sigma[0])


class Trunk(nn.Module):
    """Dense, then residual GELU layers."""

    hidden: int
    depth: int

    @nn.compact
    def __call__(self, x: Float[Array, "*b n"]) -> Float[Array, "*b h"]:
        x = nn.Dense(self.hidden, name="enter")(x)
        for k in range(self.depth):
            x = x + nn.Dense(self.hidden, name=f"layer{k}")(nn.gelu(x))
        return nn.gelu(x)


_SMALL = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")


class LiftDecoder(nn.Module):
    """Code (k,) → coefficients (R + L,) of the full and of the proxy face.

    Attributes:
        rank: R. hidden, depth: of the trunk. local: components of each local path, L in all; local_hidden: width of theirs, two layers each.
    """

    rank: int
    hidden: int = 512
    depth: int = 3
    local: tuple[int, ...] = ()
    local_hidden: int = 128

    @nn.compact
    def __call__(
        self, code: Float[Array, "*b k"], scales: LiftScales, gate: Any = 1.0
    ) -> tuple[Float[Array, "*b RL"], Float[Array, "*b RL"]]:
        x = Trunk(self.hidden, self.depth, name="trunk")(code)
        k = code.shape[-1]
        sigma = jnp.asarray(scales.sigma)
        linear = code * sigma[:k]
        scale = gate * scales.head_scale()
        full = nn.Dense(self.rank, kernel_init=_SMALL, name="full")(x) * scale[: self.rank]
        proxy = nn.Dense(self.rank, kernel_init=_SMALL, name="proxy")(x) * scale[: self.rank]
        pad = lambda y, n: jnp.pad(y, [(0, 0)] * (code.ndim - 1) + [(0, n)])  # noqa: E731
        full = full + pad(linear, self.rank - k)
        proxy = proxy + jnp.matmul(linear, jnp.asarray(scales.filter)[:k], precision="highest")
        if not self.local:
            return full, proxy
        parts = [Trunk(self.local_hidden, 2, name=f"local{j}_trunk")(code) for j in range(len(self.local))]
        heads = [nn.Dense(n, kernel_init=_SMALL, name=f"local{j}")(y) for j, (n, y) in enumerate(zip(self.local, parts))]
        return jnp.concatenate([full, jnp.concatenate(heads, -1) * scale[self.rank :]], -1), pad(proxy, sum(self.local))


class LiftEncoder(nn.Module):
    """Coefficients (R + L,) → code (k,): the leading ones whitened, plus a learned correction. It starts a fit of codes."""

    code_length: int
    hidden: int = 512
    depth: int = 3

    @nn.compact
    def __call__(self, coefficients: Float[Array, "*b R"], scales: LiftScales) -> Float[Array, "*b k"]:
        whitened = coefficients / jnp.asarray(scales.sigma)
        x = Trunk(self.hidden, self.depth, name="trunk")(4 * jnp.tanh(whitened / 4))
        correction = nn.Dense(self.code_length, kernel_init=_SMALL, name="code")(x)
        return whitened[..., : self.code_length] + correction
