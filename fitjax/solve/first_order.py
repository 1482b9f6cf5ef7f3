"""Any optax transform over the same losses, stepping in the tangent space."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from fitjax.model.params import Params, Tangent, polish, retract
from fitjax.pytree import pytree, replace, static
from fitjax.solve.objective import Problem, clip_to_bounds, costs
from fitjax.solve.status import Status


@pytree
class FirstOrder:
    """Gradient descent with an optax transform, for example ``FirstOrder(optax.adam(1e-2), max_steps=300)``.

    The transform sees gradients with respect to the tangent at the current parameters and returns the step to take. It is structure: another
    transform object compiles anew (keep it in a variable). Bounds are kept by projection. The best parameters seen are returned.

    Attributes:
        transform: the optax transform.
        tolerance: converged when the best objective falls by less than this fraction over ``patience`` steps.
        rates: group → factor on the step (data), e.g. ``{"pose": 0.3}``.
    """

    transform: optax.GradientTransformation = static(default=None)
    max_steps: int = static(default=300)
    patience: int = static(default=20)
    tolerance: Any = 1e-5
    rates: dict[str, Any] | None = None

    def init(self, problem: Problem, params: Params, mask: Tangent, zero: Tangent) -> FirstOrderState:
        params = clip_to_bounds(problem.model, params)
        dtype = jnp.result_type(*jax.tree.leaves(zero))
        infinite = jnp.asarray(jnp.inf, dtype)
        history = jnp.full((self.max_steps + 1, len(problem.losses)), jnp.nan, dtype)
        inner = self.transform.init(zero)
        count, running = jnp.full((), -1, jnp.int32), jnp.asarray(Status.RUNNING, jnp.int32)
        return FirstOrderState(params, params, infinite, infinite, inner, count, running, history)

    def resume(self, problem: Problem, state: FirstOrderState, mask: Tangent, zero: Tangent) -> FirstOrderState:
        """The transform keeps its moments; the best so far is measured anew, because the objective changed."""
        fresh = self.init(problem, state.params, mask, zero)
        return replace(fresh, inner=state.inner)

    def step(self, problem: Problem, mask: Tangent, zero: Tangent, state: FirstOrderState) -> FirstOrderState:
        """Evaluate where we are, then move: one evaluation a step, and the last move is not taken."""

        def objective(tangent: Tangent) -> tuple[Array, Array]:
            parts = _parts(problem, retract(state.current, tangent))
            return jnp.sum(parts), parts

        (cost, parts), gradient = jax.value_and_grad(objective, has_aux=True)(zero)
        steps = state.steps + 1
        finite = jnp.isfinite(cost)
        better = finite & (cost < state.best_cost)
        best_cost = jnp.where(better, cost, state.best_cost)
        params = jax.tree.map(lambda a, b: jnp.where(better, a, b), state.current, state.params)
        checkpoint = (steps > 0) & (steps % self.patience == 0)
        slow = checkpoint & (state.reference - best_cost <= self.tolerance * jnp.abs(state.reference))
        reference = jnp.where(checkpoint | (steps == 0), best_cost, state.reference)
        status = jnp.where(
            ~finite,
            Status.NOT_FINITE,
            jnp.where(slow, Status.CONVERGED, jnp.where(steps >= self.max_steps, Status.MAX_STEPS, Status.RUNNING)),
        )
        history = state.history.at[steps].set(parts)

        gradient = jax.tree.map(jnp.multiply, gradient, mask)
        update, inner = self.transform.update(gradient, state.inner, zero)
        update = jax.tree.map(jnp.multiply, update, mask)
        if self.rates:
            factor = {g: self.rates.get(g, 1.0) for g in update}
            update = {g: jax.tree.map(partial(jnp.multiply, factor[g]), part) for g, part in update.items()}
        current = clip_to_bounds(problem.model, polish(retract(state.current, update)))
        return FirstOrderState(
            params, current, best_cost, reference, inner, steps, status.astype(jnp.int32), history
        )


@pytree
class FirstOrderState:
    """``params`` are the best so far; ``current`` is evaluated by the next step. ``steps`` is -1 until the start is evaluated."""

    params: Params
    current: Params
    best_cost: Float[Array, ""]
    reference: Float[Array, ""]
    inner: Any
    steps: Int[Array, ""]
    status: Int[Array, ""]
    history: Float[Array, "T L"]


def _parts(problem: Problem, params: Params) -> Float[Array, "L"]:
    parts = costs(problem, params)
    return jnp.stack([parts[k] for k in problem.losses])
