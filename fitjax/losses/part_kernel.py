"""Statistics of the distances from anchors to parts: nearest, furthest, mean, without ever making the matrix of pairs.

P parts of N weighted points each, A anchors. On a CPU a loop runs over blocks of points and keeps running results of shape (P, A); the gradient is
a loop over blocks of anchors with running results of shape (P, N). On an accelerator, where hundreds of small steps would wait for their launches,
a loop runs over large chunks of anchors.

Derivatives are with respect to points alone; anchors and weights are data. Nearest and furthest are differentiated through the one point that
attains them, the first of several that tie, so a tie never counts twice. The mean's derivative has a rule of its own for each direction: forwards
(Levenberg-Marquardt pushes all parameters at once) a product of matrices per chunk of anchors, backwards (gradients) the loop above.
At an anchor that coincides with a point the distance has no derivative; zero is used, one of its subgradients.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from fitjax.errors import FitjaxError
from fitjax.losses.part_loops import CPU, KernelPlan, chunked, for_platform, pull_mean, push_mean, search

#: The statistics of Wang et al. (CVPR 2024), in the order of their paper.
NAMED = ("nearest", "furthest", "mean")

#: A statistic of one's own: distances (…, N) and weights (…, N), zero for points that do not count, → (…). The weights sum to one.
Statistic = Callable[[Array, Array], Array]


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
        weight: 0 or more; the mean is weighted, and a point of weight zero does not exist (it may hold anything, NaN included). A part without
            points gives zeros, and no gradient.
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
    # Points that do not exist repeat one that does: they change neither minimum nor maximum, and their share of the mean is zero. So no pair needs
    # a mask.
    stand_in = jnp.take_along_axis(points, jnp.argmax(exists, 1)[:, None, None], 1)
    points = jnp.where(exists[..., None], points, jnp.where(present[:, None, None], stand_in, 0))
    share = jnp.where(exists, weight, 0)
    share = lax.stop_gradient(share / jnp.where(present, share.sum(1), 1)[:, None]).astype(points.dtype)
    anchors = lax.stop_gradient(anchors).astype(points.dtype)
    results: dict[Any, Array] = {}
    if any(s in NAMED for s in statistics):
        nearest, furthest, mean = run(search, anchors, lax.stop_gradient(points), share)
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


def _safe_norm(vector: Array) -> Array:
    square = jnp.sum(vector**2, -1)
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


def _distance_to(anchors: Array, points: Array, index: Int[Array, "P A"]) -> Float[Array, "P A"]:
    """Distance of each anchor from the chosen point of each part; differentiable."""
    return _safe_norm(jnp.take_along_axis(points, index[..., None], 1, mode="clip") - anchors[None])


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
            partial(run, push_mean, *known), partial(run, pull_mean, *known), tangents[0], jnp.zeros_like(mean)
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


def _custom(statistic: Statistic, anchors: Array, points: Array, share: Array) -> Float[Array, "P A"]:
    """Any statistic, over chunks of anchors that are computed again on the way back."""

    @jax.checkpoint
    def chunk(some: Array) -> Array:
        difference = points[:, None] - some[None, :, None]
        distance = _safe_norm(difference)
        return statistic(distance, jnp.broadcast_to(share[:, None], distance.shape))

    return chunked(chunk, anchors, share.size, CPU)
