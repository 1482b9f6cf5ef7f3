"""Levenberg-Marquardt: diagonal (Marquardt) damping, box bounds by an active set; dense, of several photos an arrow.

Per step one linearisation at the candidate: its residuals give the cost that decides, its Jacobian the next system. Stopping and damping are data
per face, so that a batch is one program under ``vmap``.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Float, Int

from fitjax.model.params import Params, Tangent, polish, retract
from fitjax.pytree import pytree, replace, static
from fitjax.solve.arrow import Arrow, box_quadratic_arrow
from fitjax.solve.gauss_newton import Layout, empty_arrow, gauss_newton_shared
from fitjax.solve.gauss_newton import gauss_newton as gauss_newton
from fitjax.solve.objective import Problem, bounds, clip_to_bounds
from fitjax.solve.status import Status

#: Above this damping no step can be had; what it would have promised, relative to the objective, tells rounding from failure.
_STUCK_DAMPING = 1e4
_ROUNDING_PROMISE = 1e-3


@pytree
class LevenbergMarquardt:
    """Settings; all but the structure fields may change without recompiling.

    Attributes:
        max_steps: upper limit of steps (structure).
        tolerance: stop when an accepted step lowers the objective by less than this fraction.
        initial_damping, decrease, increase: Marquardt's factor on the diagonal and its change on success and failure.
        active_set_passes: limit of the active-set iterations within a step (structure).
        arrow: solve several photos by their structure, at a cost that grows linearly with them; False: as one dense system (structure).
    """

    tolerance: Any = 1e-5
    initial_damping: Any = 1e-4
    decrease: Any = 0.3
    increase: Any = 4.0
    max_steps: int = static(default=30)
    active_set_passes: int = static(default=6)
    arrow: bool = static(default=True)

    def init(self, problem: Problem, params: Params, mask: Tangent, zero: Tangent) -> LMState:
        """The state before the start is evaluated: the first step does that, so that the linearisation is compiled once."""
        params = clip_to_bounds(problem.model, params)
        flat, _ = ravel_pytree(zero)
        n, dtype = flat.size, flat.dtype
        infinite = jnp.asarray(jnp.inf, dtype)
        hessian = empty_arrow(problem, zero) if self.arrow and problem.sharing is not None else jnp.eye(n, dtype=dtype)
        nothing = Linearisation(infinite, jnp.full(len(problem.losses), jnp.nan, dtype), flat, hessian)
        history = jnp.full((self.max_steps + 1, len(problem.losses)), jnp.nan, dtype)
        start = jnp.asarray(self.initial_damping, dtype)
        running = jnp.asarray(Status.RUNNING, jnp.int32)
        return LMState(params, nothing, start, jnp.full((), -1, jnp.int32), running, history)

    def resume(self, problem: Problem, state: LMState, mask: Tangent, zero: Tangent) -> LMState:
        """The damping goes on: what the last objective needed, the next one needs too."""
        fresh = self.init(problem, state.params, mask, zero)
        return replace(fresh, damping=jnp.maximum(state.damping, fresh.damping))

    def step(self, problem: Problem, mask: Tangent, zero: Tangent, state: LMState) -> LMState:
        here = state.here
        first = state.steps < 0
        _, unravel = ravel_pytree(zero)
        still = jnp.zeros_like(here.gradient), jnp.zeros((), here.gradient.dtype)
        delta, predicted = jax.lax.cond(first, lambda: still, lambda: _solve_step(self, problem, mask, zero, state))
        candidate = polish(retract(state.params, unravel(delta)))
        candidate = clip_to_bounds(problem.model, candidate)
        there = _linearise(self, problem, candidate, mask, zero)

        finite = jnp.isfinite(there.cost) & jnp.isfinite(there.gradient).all() & jnp.isfinite(delta).all()
        accept = finite & (there.cost < here.cost)
        factor = jnp.where(first, 1.0, jnp.where(accept, self.decrease, self.increase))
        damping = state.damping * factor.astype(state.damping.dtype)
        damping = jnp.maximum(damping, jnp.finfo(damping.dtype).eps)
        steps = state.steps + 1

        tiny_gain = accept & (here.cost - there.cost <= self.tolerance * here.cost)
        # A heavily damped step promises little because it is short; what counts is what a full step would promise.
        promise = predicted * (1 + state.damping)
        nothing_left = ~accept & (promise <= self.tolerance * here.cost)
        # Where rounding decides between steps (a noise-free fit in float32) only a promise worth having is a failure.
        stuck = ~accept & (damping > _STUCK_DAMPING)
        nothing_left = nothing_left | (stuck & (promise <= _ROUNDING_PROMISE * here.cost))
        status = jnp.where(
            tiny_gain | nothing_left,
            Status.CONVERGED,
            jnp.where(stuck, Status.DIVERGED, jnp.where(steps >= self.max_steps, Status.MAX_STEPS, Status.RUNNING)),
        )
        evaluated = jnp.where(finite, jnp.where(steps >= self.max_steps, Status.MAX_STEPS, Status.RUNNING), Status.NOT_FINITE)
        status = jnp.where(first, evaluated, status)

        accept = accept | first

        def choose(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda a, b: jnp.where(accept, a, b), new, old)

        here = choose(there, here)
        history = state.history.at[steps].set(here.parts)
        return LMState(choose(candidate, state.params), here, damping, steps, status.astype(jnp.int32), history)


@pytree
class Linearisation:
    """Cost, costs per loss, gradient and Gauss-Newton Hessian over the flat tangent."""

    cost: Float[Array, ""]
    parts: Float[Array, "L"]
    gradient: Float[Array, "n"]
    hessian: Float[Array, "n n"] | Arrow


@pytree
class LMState:
    """``steps`` is -1 until the start is evaluated."""

    params: Params
    here: Linearisation
    damping: Float[Array, ""]
    steps: Int[Array, ""]
    status: Int[Array, ""]
    history: Float[Array, "T L"]


def _linearise(solver: LevenbergMarquardt, problem: Problem, params: Params, mask: Tangent, zero: Tangent) -> Linearisation:
    if solver.arrow and problem.sharing is not None:
        system = gauss_newton_shared(problem, params, mask, zero)
        return Linearisation(jnp.sum(system.parts), system.parts, system.gradient, system.hessian)
    residuals, jacobian_t, prior_gradient, prior_diagonal, parts = gauss_newton(problem, params, zero)
    free = ravel_pytree(mask)[0]
    jacobian_t = jacobian_t * free[:, None]
    gradient = jnp.matmul(jacobian_t, residuals, precision="highest") + prior_gradient * free
    hessian = jnp.matmul(jacobian_t, jacobian_t.T, precision="highest")
    # A fixed parameter gets a unit diagonal and a zero gradient: it stays.
    hessian = hessian + jnp.diag(prior_diagonal * free + (1 - free))
    return Linearisation(jnp.sum(parts), parts, gradient, hessian)


def _solve_step(
    solver: LevenbergMarquardt, problem: Problem, mask: Tangent, zero: Tangent, state: LMState
) -> tuple[Array, Array]:
    """The step and the decrease of the objective that the quadratic model predicts."""
    here = state.here
    if isinstance(here.hessian, Arrow):
        return _solve_arrow(solver, problem, mask, zero, state, here.hessian)
    box = bounds(problem, state.params, zero)
    diagonal = jnp.diagonal(here.hessian)
    # Scaling to a unit diagonal first: the codes' and the pose's curvatures differ by many orders, and float32 has seven digits.
    scale = jax.lax.rsqrt(jnp.maximum(diagonal, jnp.finfo(diagonal.dtype).tiny))
    unit = jnp.eye(diagonal.shape[0], dtype=diagonal.dtype)
    system = here.hessian * scale[:, None] * scale[None, :] + state.damping * unit
    right = -here.gradient * scale
    if box is None:
        delta = cho_solve(cho_factor(system), right)
    else:
        low, high = ravel_pytree(box[0])[0] / scale, ravel_pytree(box[1])[0] / scale
        delta = partly_bounded_quadratic(system, right, low, high, bounded_mask(problem, zero), solver.active_set_passes)
    delta = delta * scale * ravel_pytree(mask)[0]
    curvature = jnp.matmul(here.hessian, delta, precision="highest")
    return delta, -(jnp.dot(here.gradient, delta) + 0.5 * jnp.dot(delta, curvature))


def _solve_arrow(
    solver: LevenbergMarquardt, problem: Problem, mask: Tangent, zero: Tangent, state: LMState, hessian: Arrow
) -> tuple[Array, Array]:
    """As `_solve_step`, of several photos."""
    assert problem.sharing is not None
    layout, gradient, box = Layout(problem.sharing, zero), state.here.gradient, bounds(problem, state.params, zero)
    scale = hessian.diagonal().map(lambda d: jax.lax.rsqrt(jnp.maximum(d, jnp.finfo(d.dtype).tiny)))
    system = hessian.scaled(scale).plus_diagonal(scale.map(lambda s: jnp.full_like(s, state.damping)))
    right = layout.pair(-gradient).map(jnp.multiply, scale)
    if box is None:
        delta = system.solve(right)
    else:
        low, high = (layout.pair(ravel_pytree(side)[0]).map(jnp.divide, scale) for side in box)
        delta = box_quadratic_arrow(system, right, low, high, solver.active_set_passes)
    delta = delta.map(lambda x, s, f: x * s * f, scale, layout.pair(ravel_pytree(mask)[0]))
    flat, curvature = layout.flat(delta), layout.flat(hessian.times(delta))
    return flat, -(jnp.dot(gradient, flat) + 0.5 * jnp.dot(flat, curvature))


def bounded_mask(problem: Problem, zero: Tangent) -> np.ndarray:
    """(n,) which flat coordinates the model bounds; known from the structure alone."""
    limits = problem.model.bounds()
    flags = {g: jax.tree.map(lambda x, g=g: np.full(x.shape, g in limits), part) for g, part in zero.items()}
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(flags)])


def partly_bounded_quadratic(
    system: Float[Array, "n n"],
    right: Float[Array, "n"],
    low: Float[Array, "n"],
    high: Float[Array, "n"],
    bounded: np.ndarray,
    passes: int,
) -> Float[Array, "n"]:
    """:func:`box_quadratic` where only some coordinates are bounded: the others are eliminated once (Schur complement), so that each pass of the
    active set solves a system of the bounded ones alone."""
    inner, outer = np.flatnonzero(bounded), np.flatnonzero(~bounded)
    if not len(outer):
        return box_quadratic(system, right, low, high, passes)
    factor = cho_factor(system[np.ix_(outer, outer)], lower=True)
    border = system[np.ix_(outer, inner)]
    solved = cho_solve(factor, jnp.concatenate([border, right[outer][:, None]], 1))
    coupling, alone = solved[:, :-1], solved[:, -1]
    reduced = system[np.ix_(inner, inner)] - jnp.matmul(border.T, coupling, precision="highest")
    rest = right[inner] - jnp.matmul(border.T, alone, precision="highest")
    x_inner = box_quadratic(reduced, rest, low[inner], high[inner], passes)
    x_outer = alone - jnp.matmul(coupling, x_inner, precision="highest")
    return jnp.zeros_like(right).at[inner].set(x_inner).at[outer].set(x_outer)


def box_quadratic(
    system: Float[Array, "n n"], right: Float[Array, "n"], low: Float[Array, "n"], high: Float[Array, "n"], passes: int
) -> Float[Array, "n"]:
    """argmin ½ x'Sx - x'b over low ≤ x ≤ high, for S positive definite and low ≤ 0 ≤ high.

    Primal-dual active set (Hintermüller, Ito, Kunisch 2002): coordinates that leave the box are pinned to its wall, pinned ones whose force
    points inwards are released, and the rest is solved again, so that the free coordinates stay optimal (clipping alone would not).
    """
    unit = jnp.eye(right.shape[0], dtype=right.dtype)

    def solve(at_low: Array, at_high: Array) -> Array:
        pinned = at_low | at_high
        value = jnp.where(at_low, low, jnp.where(at_high, high, 0))
        rest = right - jnp.matmul(system, value, precision="highest")
        keep = ~pinned
        reduced = jnp.where(keep[:, None] & keep[None, :], system, unit)
        return jnp.where(pinned, value, cho_solve(cho_factor(reduced), jnp.where(pinned, 0, rest)))

    def body(carry: tuple[Array, Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array, Array]:
        x, at_low, at_high, _, count = carry
        force = right - jnp.matmul(system, x, precision="highest")
        next_low = jnp.where(at_low, force < 0, x < low)
        next_high = jnp.where(at_high, force > 0, x > high)
        changed = ((next_low != at_low) | (next_high != at_high)).any()
        return solve(next_low, next_high), next_low, next_high, changed, count + 1

    # Start: what sits at a wall and is pushed against it.
    at_low, at_high = (low >= 0) & (right < 0), (high <= 0) & (right > 0)
    start = (solve(at_low, at_high), at_low, at_high, jnp.asarray(True), jnp.zeros((), jnp.int32))
    x = jax.lax.while_loop(lambda c: c[3] & (c[4] < passes), body, start)[0]
    return jnp.clip(x, low, high)
