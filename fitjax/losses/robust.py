"""Robust kernels ρ(s) of a squared residual s, with ρ(s) ≈ s near zero.

In a least-squares solver a kernel enters by iteratively reweighted least squares: each residual is scaled by sqrt(ρ'(s)).
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fitjax.errors import FitjaxError
from fitjax.pytree import pytree, static

KernelName = Literal["huber", "cauchy", "geman_mcclure", "charbonnier"]
KERNELS = ("huber", "cauchy", "geman_mcclure", "charbonnier")


@pytree
class Kernel:
    """A kernel and the residual size (in the residual's units) where it starts to flatten."""

    scale: Float[Array, ""]
    name: KernelName = static(default="huber")

    def __call__(self, square: Float[Array, "*n"]) -> Float[Array, "*n"]:
        c2 = jnp.asarray(self.scale, square.dtype) ** 2
        if self.name == "huber":
            outside = square > c2
            root = jnp.sqrt(jnp.where(outside, square, 1.0) * c2)
            return jnp.where(outside, 2 * root - c2, square)
        if self.name == "cauchy":
            return c2 * jnp.log1p(square / c2)
        if self.name == "geman_mcclure":
            return square / (1 + square / c2)
        return 2 * c2 * (jnp.sqrt(1 + square / c2) - 1)

    def slope(self, square: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """ρ'(s), elementwise."""
        return jax.jvp(self, (square,), (jnp.ones_like(square),))[1]


def make_kernel(name: str, scale: float) -> Kernel:
    """A kernel by name.

    Raises:
        FitjaxError: the name is unknown.
    """
    if name not in KERNELS:
        raise FitjaxError(f"robust kernel: expected one of {', '.join(KERNELS)}, found {name!r}")
    return Kernel(jnp.asarray(scale), name)  # type: ignore[arg-type]
