"""Sums over covered pixels, for losses: as much work as there are covered pixels, in pieces that fit in a CPU's cache.

A photometric loss written over a whole image keeps some hundred arrays of the image's size for its gradient. At 512² that is more than
100 MB, and merely touching that memory takes ten times as long as the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from fitjax.render.interpolate import CoveredPixels, covered_pixels

#: Pixels per piece. A GPU would take all at once, and may with ``piece``.
PIECE = 1 << 13


def sum_over_covered(
    function: Callable[[CoveredPixels], Float[Array, ""]], triangle_id: Int[Array, "H W"], piece: int = PIECE
) -> Float[Array, ""]:
    """Σ function(pixels) over pieces of the covered pixels, with a loop that runs as often as needed.

    Differentiable (reverse mode only) in everything that ``function`` closes over; the gradient is computed along with the value, piece
    by piece, so nothing of the image's size is kept. Nothing can overflow.

    Args:
        function: takes `CoveredPixels` with ``piece`` places, of which ``valid`` says which are used (``count`` is that of the whole
            image), and returns a sum over them: one number. `fragments` of those pixels takes care of ``valid`` in its ``covered``.
    """
    n = triangle_id.size
    piece = min(piece, n)
    pixels = covered_pixels(lax.stop_gradient(triangle_id))
    padded = jnp.pad(pixels.pixel, (0, -n % piece))

    def at(padded: Array, count: Array, trip: Array) -> CoveredPixels:
        begin = trip * piece
        valid = begin + jnp.arange(piece, dtype=jnp.int32) < count
        return CoveredPixels(lax.dynamic_slice(padded, (begin,), (piece,)), valid, count)

    converted, captured = jax.closure_convert(function, at(padded, pixels.count, jnp.int32(0)))
    out = jax.eval_shape(converted, at(padded, pixels.count, jnp.int32(0)), *captured)

    def trips(count: Array) -> Array:
        return (count + (piece - 1)) // piece

    @jax.custom_vjp
    def total(padded: Array, count: Array, captured: tuple[Any, ...]) -> Array:
        def add(trip: Array, held: Array) -> Array:
            return held + converted(at(padded, count, trip), *captured)

        return lax.fori_loop(0, trips(count), add, jnp.zeros(out.shape, out.dtype))

    def forward(padded: Array, count: Array, captured: tuple[Any, ...]) -> tuple[Array, Any]:
        def add(trip: Array, held: Any) -> Any:
            def one(captured: tuple[Any, ...]) -> Array:
                return converted(at(padded, count, trip), *captured)

            return jax.tree.map(jnp.add, held, jax.value_and_grad(one)(captured))

        start = jnp.zeros(out.shape, out.dtype), jax.tree.map(jnp.zeros_like, captured)
        return lax.fori_loop(0, trips(count), add, start)

    def backward(gradient: Any, cotangent: Array) -> tuple[Any, ...]:
        return None, None, jax.tree.map(lambda g: (g * cotangent).astype(g.dtype), gradient)

    total.defvjp(forward, backward)
    return total(padded, pixels.count, tuple(captured))
