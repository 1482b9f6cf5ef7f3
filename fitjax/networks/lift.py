"""The lifted basis: from a short code to the coefficients of a longer basis, with a linear path and a learned bend.

    full  = σ z            + g · s · full head (MLP(z))
    proxy = S (σ z, 0 ...) + g · s · proxy head (MLP(z))

z has k numbers, the basis R > k components with spreads σ; S is the linear filter that makes a proxy of a face (see
:func:`fitjax.train.lift.proxy_filter`); s scales the heads so that small components are learned as fast as large ones. The gate g is an argument:
at 0 the decoder *is* principal components.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float


class LiftScales(NamedTuple):
    """What a lift knows of its basis: ``sigma`` (R,) spreads, ``filter`` (R, R) the proxy's filter on coefficients, as rows c ↦ c @ filter.

    For training alone: ``parity`` (R,) 1 for even and -1 for odd components, so that mirrored faces can be shown too; ``metric`` (R, R), errors are
    measured as c @ metric.
    """

    sigma: Any
    filter: Any
    parity: Any = None
    metric: Any = None

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
    """Code (k,) → coefficients (R,) of the full and of the proxy face."""

    rank: int
    hidden: int = 512
    depth: int = 3

    @nn.compact
    def __call__(
        self, code: Float[Array, "*b k"], scales: LiftScales, gate: Any = 1.0
    ) -> tuple[Float[Array, "*b R"], Float[Array, "*b R"]]:
        x = Trunk(self.hidden, self.depth, name="trunk")(code)
        k = code.shape[-1]
        sigma = jnp.asarray(scales.sigma)
        linear = code * sigma[:k]
        scale = gate * scales.head_scale()
        full = nn.Dense(self.rank, kernel_init=_SMALL, name="full")(x) * scale
        proxy = nn.Dense(self.rank, kernel_init=_SMALL, name="proxy")(x) * scale
        full = full + jnp.pad(linear, [(0, 0)] * (code.ndim - 1) + [(0, self.rank - k)])
        return full, proxy + jnp.matmul(linear, jnp.asarray(scales.filter)[:k], precision="highest")


class LiftEncoder(nn.Module):
    """Coefficients (R,) → code (k,): the leading ones whitened, plus a learned correction. It starts a fit of codes."""

    code_length: int
    hidden: int = 512
    depth: int = 3

    @nn.compact
    def __call__(self, coefficients: Float[Array, "*b R"], scales: LiftScales) -> Float[Array, "*b k"]:
        whitened = coefficients / jnp.asarray(scales.sigma)
        x = Trunk(self.hidden, self.depth, name="trunk")(4 * jnp.tanh(whitened / 4))
        correction = nn.Dense(self.code_length, kernel_init=_SMALL, name="code")(x)
        return whitened[..., : self.code_length] + correction
