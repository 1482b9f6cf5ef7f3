"""The loops behind :mod:`fitjax.losses.part_kernel`: which points are nearest and furthest, the mean distance, and its derivative both ways.

P parts of N points, A anchors. Each of the three is written twice: with running results and no matrix of pairs, and over chunks of anchors, each
with its matrix. Which one runs depends on the device (:func:`for_platform`); the results do not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


@dataclass(frozen=True)
class KernelPlan:
    """What depends on the device.

    Attributes:
        running: loops with running results and without a matrix of pairs; otherwise chunks of anchors, each with its matrix.
        block: points (or anchors) per step of such a loop, a multiple of 16.
        pairs: pairs, all parts together, that a chunk of anchors may have.
    """

    running: bool
    block: int
    pairs: int


#: Points of a block among which the nearest is looked up once more.
_FEW = 16

CPU = KernelPlan(running=True, block=32, pairs=1 << 18)
ACCELERATOR = KernelPlan(running=False, block=32, pairs=1 << 24)


def for_platform(function: Callable[..., Any], *arrays: Any) -> Any:
    """``function(*arrays, plan)`` for the platform that the surrounding program is lowered for: the one place that chooses."""
    return lax.platform_dependent(*arrays, cpu=partial(function, plan=CPU), default=partial(function, plan=ACCELERATOR))


def search(anchors: Array, points: Array, share: Array, plan: KernelPlan) -> tuple[Array, Array, Array]:
    """Index of the nearest and of the furthest point (P, A), and the mean distance (P, A)."""
    return (
        _search_over_points(anchors, points, share, plan)
        if plan.running
        else _search_over_anchors(anchors, points, share, plan)
    )


def _blocks(points: Array, share: Array, size: int) -> tuple[Array, Array, int]:
    """(B, size, P, 2) and (B, size, P); the last block is filled up with the first point at share zero."""
    n = points.shape[1]
    missing = -n % size
    if missing:
        points = jnp.concatenate([points, jnp.broadcast_to(points[:, :1], (points.shape[0], missing, 2))], 1)
        share = jnp.pad(share, ((0, 0), (0, missing)))
    blocks = (n + missing) // size
    return points.transpose(1, 0, 2).reshape(blocks, size, -1, 2), share.T.reshape(blocks, size, -1), blocks


def _search_over_points(anchors: Array, points: Array, share: Array, plan: KernelPlan) -> tuple[Array, Array, Array]:
    blocked, shares, count = _blocks(points, share, plan.block)
    x, y = anchors[None, :, 0], anchors[None, :, 1]

    def step(carry: Any, block: tuple[Array, Array, Array]) -> tuple[Any, None]:
        low, high, low_few, high_few, total = carry
        q, s, number = block
        for few in range(plan.block // _FEW):
            nearest, furthest = low, high
            for k in range(few * _FEW, (few + 1) * _FEW):
                square = (x - q[k, :, :1]) ** 2 + (y - q[k, :, 1:]) ** 2
                nearest, furthest = jnp.minimum(nearest, square), jnp.maximum(furthest, square)
                total = total + s[k, :, None] * jnp.sqrt(square)
            # Which few points hold the winner is all that is kept on the way; which of them it was is found afterwards.
            low_few = jnp.where(nearest < low, number + few, low_few)
            high_few = jnp.where(furthest > high, number + few, high_few)
            low, high = nearest, furthest
        return (low, high, low_few, high_few, total), None

    shape = (points.shape[0], anchors.shape[0])
    zero, first = jnp.zeros(shape, points.dtype), jnp.zeros(shape, jnp.int32)
    start = (zero + jnp.inf, zero - 1, first, first, zero)
    numbers = jnp.arange(count, dtype=jnp.int32) * (plan.block // _FEW)
    (_, _, low_few, high_few, total), _ = lax.scan(step, start, (blocked, shares, numbers))

    # (P, B, few) coordinates.
    xs, ys = (blocked[..., k].reshape(-1, shape[0]).T.reshape(shape[0], -1, _FEW) for k in (0, 1))

    def within(few: Array, sign: float) -> Array:
        some_x, some_y = (jnp.take_along_axis(c, few[..., None], 1, mode="clip") for c in (xs, ys))
        square = sign * ((x[..., None] - some_x) ** 2 + (y[..., None] - some_y) ** 2)
        best, place = square[..., 0], jnp.zeros_like(few)
        for k in range(1, _FEW):
            # Strictly better: of several that tie the first one wins, and what fills up the last block (a copy of the first point) never does.
            better = square[..., k] < best
            best, place = jnp.where(better, square[..., k], best), jnp.where(better, k, place)
        return few * _FEW + place

    return within(low_few, 1.0), within(high_few, -1.0), total


def chunked(function: Callable[[Array], Any], anchors: Array, pairs_per_anchor: int, plan: KernelPlan) -> Any:
    """``function`` over chunks of anchors; its results have anchors on axis 1 and are put together there."""
    n = anchors.shape[0]
    size = max(1, min(n, plan.pairs // max(pairs_per_anchor, 1)))
    count = -(-n // size)
    if count == 1:
        return function(anchors)
    padded = jnp.concatenate([anchors, jnp.broadcast_to(anchors[-1:], (count * size - n, 2))])
    results = lax.map(function, padded.reshape(count, size, 2))
    return jax.tree.map(lambda r: jnp.moveaxis(r, 0, 1).reshape(r.shape[1], count * size, *r.shape[3:])[:, :n], results)


def _offsets(anchors: Array, points: Array) -> tuple[Array, Array, Array]:
    """Differences in x and y and the squared distances, each (P, a, N)."""
    dx = points[:, None, :, 0] - anchors[None, :, None, 0]
    dy = points[:, None, :, 1] - anchors[None, :, None, 1]
    return dx, dy, dx**2 + dy**2


def _search_over_anchors(anchors: Array, points: Array, share: Array, plan: KernelPlan) -> tuple[Array, Array, Array]:
    def chunk(some: Array) -> tuple[Array, Array, Array]:
        _, _, square = _offsets(some, points)
        mean = jnp.sum(share[:, None] * jnp.sqrt(square), -1)
        return jnp.argmin(square, -1).astype(jnp.int32), jnp.argmax(square, -1).astype(jnp.int32), mean

    return chunked(chunk, anchors, share.size, plan)


def _inverse(square: Array) -> Array:
    """1 / distance, and 0 where it is 0 (differences are zero there too)."""
    return lax.rsqrt(jnp.maximum(square, jnp.finfo(square.dtype).tiny))


def push_mean(anchors: Array, points: Array, share: Array, step: Array, plan: KernelPlan) -> Array:
    """(P, A) change of the mean distances when points move by ``step`` (P, N, 2). A product of matrices, so that many steps at once cost little."""

    def chunk(some: Array) -> Array:
        dx, dy, square = _offsets(some, points)
        slope = share[:, None] * _inverse(square)
        direction = jnp.concatenate([slope * dx, slope * dy], -1)
        return jnp.einsum(
            "pak,pk->pa", direction, jnp.concatenate([step[..., 0], step[..., 1]], -1), precision="highest"
        )

    return chunked(chunk, anchors, share.size, plan)


def pull_mean(anchors: Array, points: Array, share: Array, cotangent: Array, plan: KernelPlan) -> Array:
    """(P, N, 2) gradient of Σ cotangent · mean."""
    if not plan.running:
        return _pull_over_anchors(anchors, points, share, cotangent, plan)
    # The mirror image of the search: a loop over blocks of anchors, with running results of shape (P, N).
    missing = -anchors.shape[0] % plan.block
    blocked = jnp.pad(anchors, ((0, missing), (0, 0))).reshape(-1, plan.block, 2)
    given = jnp.pad(cotangent, ((0, 0), (0, missing))).T.reshape(-1, plan.block, cotangent.shape[0])
    x, y = points[..., 0], points[..., 1]

    def step(total: Array, block: tuple[Array, Array]) -> tuple[Array, None]:
        q, c = block
        for k in range(plan.block):
            dx, dy = x - q[k, 0], y - q[k, 1]
            slope = c[k][:, None] * _inverse(dx**2 + dy**2)
            # One complex sum instead of two real ones: XLA would compute the slopes for each.
            total = total + lax.complex(slope * dx, slope * dy)
        return total, None

    total, _ = lax.scan(step, lax.complex(jnp.zeros_like(x), jnp.zeros_like(x)), (blocked, given))
    return jnp.stack([total.real, total.imag], -1) * share[..., None]


def _pull_over_anchors(anchors: Array, points: Array, share: Array, cotangent: Array, plan: KernelPlan) -> Array:
    n = anchors.shape[0]
    size = max(1, min(n, plan.pairs // share.size))
    count = -(-n // size)
    padded = jnp.concatenate([anchors, jnp.broadcast_to(anchors[-1:], (count * size - n, 2))]).reshape(count, size, 2)
    given = jnp.pad(cotangent, ((0, 0), (0, count * size - n))).reshape(cotangent.shape[0], count, size).swapaxes(0, 1)

    def step(total: Array, chunk: tuple[Array, Array]) -> tuple[Array, None]:
        dx, dy, square = _offsets(chunk[0], points)
        slope = chunk[1][..., None] * _inverse(square)
        return total + jnp.stack([jnp.sum(slope * dx, 1), jnp.sum(slope * dy, 1)], -1), None

    total, _ = lax.scan(step, jnp.zeros_like(points), (padded, given))
    return total * share[..., None]
