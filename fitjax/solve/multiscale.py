"""Adam over maps at several scales.

A map of texels under plain Adam moves texel by texel: what no pixel shows stays where it was, and a patch of colour has to grow one texel at a
time. Here the map is, in effect, a sum of maps of 1, ½, ¼ … the size, each with Adam's own step. Coarse scales move first and together, and
carry holes along with their surroundings. The parameter itself stays one plain map.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float


class MultiscaleState(NamedTuple):
    """Steps so far and Adam's moments; per leaf a tuple of arrays, from fine to coarse."""

    steps: Array
    first: tuple[tuple[Array, ...], ...]
    second: tuple[tuple[Array, ...], ...]


def _halve(x: Float[Array, "H W *C"]) -> Float[Array, "h w *C"]:
    """Sums over 2 × 2 texels."""
    height, width = x.shape[0] // 2, x.shape[1] // 2
    return x.reshape(height, 2, width, 2, *x.shape[2:]).sum((1, 3))


def _double(x: Float[Array, "h w *C"]) -> Float[Array, "H W *C"]:
    """Twice the size by linear interpolation between texel centres; the border's value goes on."""
    for axis in (0, 1):
        low = jnp.concatenate([jax.lax.slice_in_dim(x, 0, 1, axis=axis), jax.lax.slice_in_dim(x, 0, -1, axis=axis)], axis)
        high = jnp.concatenate([jax.lax.slice_in_dim(x, 1, None, axis=axis), jax.lax.slice_in_dim(x, -1, None, axis=axis)], axis)
        both = jnp.stack([0.75 * x + 0.25 * low, 0.75 * x + 0.25 * high], axis + 1)
        x = both.reshape(*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :])
    return x


def _scales(shape: tuple[int, ...], scales: int) -> int:
    """How many scales a leaf has: one for all that is no map."""
    n = 1
    while n < scales and len(shape) >= 2 and min(shape[:2]) % 2**n == 0 and min(shape[:2]) >> n >= 4:
        n += 1
    return n


def multiscale_adam(
    rate: float | optax.Schedule, scales: int = 5, b1: float = 0.9, b2: float = 0.99, eps: float = 1e-8
) -> optax.GradientTransformation:
    """Adam whose leaves of shape (H, W) or (H, W, C) step at ``scales`` scales at once; other leaves get plain Adam.

    Args:
        rate: of one scale; a map moves by up to ``scales`` times as much. A schedule of the step's number, or a number.
    """

    def init(params: Any) -> MultiscaleState:
        def zeros(x: Array) -> tuple[Array, ...]:
            levels, current = [], jnp.zeros_like(x)
            for level in range(_scales(x.shape, scales)):
                current = _halve(current) if level else current
                levels.append(current)
            return tuple(levels)

        leaves = tuple(zeros(x) for x in jax.tree.leaves(params))
        return MultiscaleState(jnp.zeros((), jnp.int32), leaves, leaves)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, MultiscaleState]:
        del params
        count = state.steps + 1
        step = rate(state.steps) if callable(rate) else rate
        leaves, structure = jax.tree.flatten(updates)
        moves, first, second = [], [], []
        for gradient, m_old, v_old in zip(leaves, state.first, state.second):
            m_new, v_new, per_scale = [], [], []
            for level, (m, v) in enumerate(zip(m_old, v_old)):
                gradient = _halve(gradient) if level else gradient
                m, v = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient**2
                unbiased = m / (1 - b1**count), v / (1 - b2**count)
                m_new.append(m)
                v_new.append(v)
                per_scale.append(unbiased[0] / (jnp.sqrt(unbiased[1]) + eps))
            total = per_scale[-1]
            for finer in reversed(per_scale[:-1]):
                total = _double(total) + finer
            moves.append(-step * total)
            first.append(tuple(m_new))
            second.append(tuple(v_new))
        return jax.tree.unflatten(structure, moves), MultiscaleState(count, tuple(first), tuple(second))

    return optax.GradientTransformation(init, update)
