"""Statistics of the distances from anchors to parts: nearest, furthest, mean, without ever making the matrix of pairs.

P parts of N weighted points each, A anchors. On a CPU a loop runs over blocks of points and keeps running results of shape (P, A); the gradient is
a loop over blocks of anchors with running results of shape (P, N). On an accelerator, where hundreds of small steps would wait for their launches, a
loop runs over large chunks of anchors.

Derivatives are with respect to points alone; anchors and weights are data. Nearest and furthest are differentiated through the one point that
attains them, the first of several that tie, so a tie never counts twice. The mean's derivative has a rule of its own for each direction: forwards
(Levenberg-Marquardt pushes all parameters at once) a product of matrices per chunk of anchors, backwards (gradients) the loop above.
At an anchor that coincides with a point the distance has no derivative; zero is used, one of its subgradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from fitjax.errors import FitjaxError

#: The statistics of Wang et al. (CVPR 2024), in the order of their paper.
NAMED = ("nearest", "furthest", "mean")

#: A statistic of one's own: distances (…, N) and weights (…, N), zero for points that do not count, → (…). The weights sum to one.
Statistic = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class KernelPlan:
    """What depends on the device.

    Attributes:
        running: loops with running results and without a matrix of pairs; otherwise chunks of anchors, each with its matrix.
        block: points (or anchors) per step of such a loop, a multiple of 8.
        pairs: pairs, all parts together, that a chunk of anchors may have.
    """

    running: bool
    block: int
    pairs: int


#: Points of a block among which the nearest is looked up once more.
_FEW = 8

CPU = KernelPlan(running=True, block=32, pairs=1 << 18)
ACCELERATOR = KernelPlan(running=False, block=32, pairs=1 << 24)


def for_platform(function: Callable[..., Any], *arrays: Any) -> Any:
    """``function(*arrays, plan)`` for the platform that the surrounding program is lowered for: the one place that chooses."""
    return lax.platform_dependent(*arrays, cpu=partial(function, plan=CPU), default=partial(function, plan=ACCELERATOR))


def part_statistics(
    anchors: Float[Array, "A 2"],
    points: Float[Array, "P N 2"],
    weight: Float[Array, "P N"],
    statistics: tuple[str | Statistic, ...] = NAMED,
    *,
    plan: KernelPlan | None = None,
) -> Float[Array, "P S A"]:
    """S statistics of the Euclidean distances from each anchor to the points of each part, in the unit of the coordinates.

    Args:
        weight: 0 or more; the mean is weighted, and a point of weight zero does not exist (it may hold anything, NaN included). A part without points
            gives zeros, and no gradient.
        statistics: names of :data:`NAMED`, or functions (:data:`Statistic`), which are slower.
        plan: instead of the one for the platform; changes the speed only.

    Raises:
        FitjaxError: an unknown statistic, or shapes that do not go together.
    """
    check_statistics(statistics)
    anchors, points, weight = jnp.asarray(anchors), jnp.asarray(points), jnp.asarray(weight)
    if (
        anchors.ndim != 2
        or anchors.shape[1] != 2
        or points.ndim != 3
        or points.shape[2] != 2
        or weight.shape != points.shape[:2]
    ):
        raise FitjaxError(
            f"part statistics: expected anchors (A, 2), points (P, N, 2) and weights (P, N), found {anchors.shape}, {points.shape}, {weight.shape}"
        )
    n_parts, n_points, n_anchors = *weight.shape, len(anchors)
    if 0 in (n_parts, n_points, n_anchors):
        return jnp.zeros((n_parts, len(statistics), n_anchors), points.dtype)
    run = for_platform if plan is None else partial(_with_plan, plan)
    exists = weight > 0
    present = exists.any(1)
    # Points that do not exist repeat one that does: they change neither minimum nor maximum, and their share of the mean is zero. So no pair needs a mask.
    stand_in = jnp.take_along_axis(points, jnp.argmax(exists, 1)[:, None, None], 1)
    points = jnp.where(exists[..., None], points, jnp.where(present[:, None, None], stand_in, 0))
    share = jnp.where(exists, weight, 0)
    share = lax.stop_gradient(share / jnp.where(present, share.sum(1), 1)[:, None]).astype(points.dtype)
    anchors = lax.stop_gradient(anchors).astype(points.dtype)
    results: dict[Any, Array] = {}
    if any(s in NAMED for s in statistics):
        nearest, furthest, mean = run(_search, anchors, lax.stop_gradient(points), share)
        # What is not asked for is dropped from the compiled program.
        results["nearest"] = _distance_to(anchors, points, nearest)
        results["furthest"] = _distance_to(anchors, points, furthest)
        results["mean"] = _with_derivative(run, points, anchors, share, mean)
    for statistic in statistics:
        if callable(statistic):
            results[statistic] = _custom(statistic, anchors, points, share)
    found = jnp.stack([results[s] for s in statistics], 1)
    return jnp.where(present[:, None, None], found, 0)


def check_statistics(statistics: Any) -> None:
    """Raises :class:`FitjaxError` unless each is a known name or a function."""
    bad = (
        [s for s in statistics if not callable(s) and s not in NAMED] if isinstance(statistics, tuple) else [statistics]
    )
    if bad or not statistics:
        raise FitjaxError(
            f"statistics: expected a tuple of {', '.join(NAMED)} or functions of (distances, weights), found {bad or statistics!r}"
        )


def _with_plan(plan: KernelPlan, function: Callable[..., Any], *arrays: Any) -> Any:
    return function(*arrays, plan=plan)


# --- Which point is nearest and furthest, and the mean: values without derivatives ---


def _search(anchors: Array, points: Array, share: Array, plan: KernelPlan) -> tuple[Array, Array, Array]:
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

    def within(few: Array, pick: Callable[..., Array]) -> Array:
        index = jnp.minimum(few[..., None] * _FEW + jnp.arange(_FEW, dtype=jnp.int32), points.shape[1] - 1)
        chosen = jnp.take_along_axis(points, index.reshape(shape[0], -1, 1), 1, mode="clip")
        square = jnp.sum((chosen.reshape(*index.shape, 2) - anchors[None, :, None]) ** 2, -1)
        return jnp.take_along_axis(index, pick(square, axis=-1, keepdims=True), -1, mode="clip")[..., 0]

    return within(low_few, jnp.argmin), within(high_few, jnp.argmax), total


def _chunked(function: Callable[[Array], Any], anchors: Array, pairs_per_anchor: int, plan: KernelPlan) -> Any:
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

    return _chunked(chunk, anchors, share.size, plan)


# --- Derivatives ---


def _safe_norm(vector: Array) -> Array:
    square = jnp.sum(vector**2, -1)
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


def _distance_to(anchors: Array, points: Array, index: Int[Array, "P A"]) -> Float[Array, "P A"]:
    """Distance of each anchor from the chosen point of each part; differentiable."""
    return _safe_norm(jnp.take_along_axis(points, index[..., None], 1, mode="clip") - anchors[None])


def _inverse(square: Array) -> Array:
    """1 / distance, and 0 where it is 0 (differences are zero there too)."""
    return lax.rsqrt(jnp.maximum(square, jnp.finfo(square.dtype).tiny))


def _with_derivative(run: Callable[..., Any], points: Array, anchors: Array, share: Array, mean: Array) -> Array:
    """``mean`` (P, A) with its derivative in ``points``."""

    @jax.custom_jvp
    def attach(points: Array, anchors: Array, share: Array, mean: Array) -> Array:
        return mean

    @attach.defjvp
    def rule(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
        points, anchors, share, mean = primals
        known = (anchors, points, share)
        change = _linear_map(
            partial(run, _push_mean, *known), partial(run, _pull_mean, *known), tangents[0], jnp.zeros_like(mean)
        )
        return mean, change

    return attach(points, anchors, share, mean)


def _linear_map(push: Callable[[Array], Array], pull: Callable[[Array], Array], step: Array, zero: Array) -> Array:
    """``push(step)``, a linear function whose transpose is ``pull``, in all transformations.

    Of what JAX offers, only linear solves may bring their own transpose and yet be differentiated both ways and mapped over. So this is one: with
    J = push, (step, push(step)) solves [[1, 0], [-J, 1]] x = (step, 0), by one product and not by iterating.
    """
    shape, n = step.shape, step.size

    def parts(vector: Array) -> tuple[Array, Array]:
        return vector[:n].reshape(shape), vector[n:].reshape(zero.shape)

    def whole(first: Array, second: Array) -> Array:
        return jnp.concatenate([first.reshape(-1), second.reshape(-1)])

    def matrix(x: Array) -> Array:
        moved, change = parts(x)
        return whole(moved, change - push(moved))

    def solve(_: Any, b: Array) -> Array:
        moved, change = parts(b)
        return whole(moved, change + push(moved))

    def transpose_solve(_: Any, b: Array) -> Array:
        moved, change = parts(b)
        return whole(moved + pull(change), change)

    return parts(lax.custom_linear_solve(matrix, jnp.pad(step.reshape(-1), (0, zero.size)), solve, transpose_solve))[1]


def _push_mean(anchors: Array, points: Array, share: Array, step: Array, plan: KernelPlan) -> Array:
    """(P, A) change of the mean distances when points move by ``step`` (P, N, 2). A product of matrices, so that many steps at once cost little."""

    def chunk(some: Array) -> Array:
        dx, dy, square = _offsets(some, points)
        slope = share[:, None] * _inverse(square)
        direction = jnp.concatenate([slope * dx, slope * dy], -1)
        return jnp.einsum(
            "pak,pk->pa", direction, jnp.concatenate([step[..., 0], step[..., 1]], -1), precision="highest"
        )

    return _chunked(chunk, anchors, share.size, plan)


def _pull_mean(anchors: Array, points: Array, share: Array, cotangent: Array, plan: KernelPlan) -> Array:
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


def _custom(statistic: Statistic, anchors: Array, points: Array, share: Array) -> Float[Array, "P A"]:
    """Any statistic, over chunks of anchors that are computed again on the way back."""

    @jax.checkpoint
    def chunk(some: Array) -> Array:
        difference = points[:, None] - some[None, :, None]
        distance = _safe_norm(difference)
        return statistic(distance, jnp.broadcast_to(share[:, None], distance.shape))

    return _chunked(chunk, anchors, share.size, CPU)
