"""Stages as data, and the loop that runs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fitjax.errors import FitError
from fitjax.losses.core import Loss
from fitjax.model.params import Params, Tangent, free_mask, zero_tangent
from fitjax.observation.halving import halve_image
from fitjax.pytree import pytree, replace, static
from fitjax.solve.levenberg_marquardt import LevenbergMarquardt
from fitjax.solve.objective import Problem
from fitjax.solve.status import Status


class Solver(Protocol):
    """What a stage needs of a solver; its state has ``params``, ``steps``, ``status`` and ``history``."""

    @property
    def max_steps(self) -> int: ...

    def init(self, problem: Problem, params: Params, mask: Tangent, zero: Tangent) -> Any: ...

    def step(self, problem: Problem, mask: Tangent, zero: Tangent, state: Any) -> Any: ...

    def resume(self, problem: Problem, state: Any, mask: Tangent, zero: Tangent) -> Any:
        """Go on from an earlier state after the frozen choices changed, and with them the objective."""
        ...


@pytree
class Stage:
    """One stage of a fit.

    Attributes:
        free: group → mask (a number or an array that broadcasts to the group). Groups not named are held fixed and cost nothing; a
            group at 0 is held fixed without recompiling when it is set to 1.
        solver: :class:`LevenbergMarquardt` or :class:`FirstOrder`.
        losses: name → factor on the loss's weight in this stage; None uses all losses as they are.
        name: for reports. outer_steps: how often visibility and contours are taken anew.
        halvings: how often the crop is halved before the stage reads its pixels: coarse to fine.
        budget: ``max_steps`` is what the stage is meant to spend, so that reaching it is no failure to converge.
    """

    free: dict[str, Any]
    solver: Any = LevenbergMarquardt()
    losses: dict[str, Any] | None = None
    name: str = static(default="stage")
    outer_steps: int = static(default=1)
    halvings: int = static(default=0)
    budget: bool = static(default=False)


@pytree
class StageReport:
    """What a stage did: status and steps () int, costs per step and loss (T, L), NaN after the last step."""

    status: Int[Array, ""]
    steps: Int[Array, ""]
    history: Float[Array, "T L"]


def select_losses(stage: Stage, losses: Mapping[str, Loss]) -> dict[str, Loss]:
    """The losses of a stage with their weights.

    Raises:
        FitError: the stage names a loss that the fit does not have.
    """
    if stage.losses is None:
        return dict(losses)
    unknown = [k for k in stage.losses if k not in losses]
    if unknown:
        raise FitError(f"stage {stage.name!r}: unknown losses {unknown}; the fit has {', '.join(losses)}")
    return {k: replace(losses[k], weight=losses[k].weight * factor) for k, factor in stage.losses.items()}


def loss_names(stage: Stage, losses: Mapping[str, Any]) -> list[str]:
    """Names of a stage's losses in the order of its costs: jit hands dicts over with their keys sorted."""
    return sorted(losses if stage.losses is None else stage.losses)


def stage_setup(stage: Stage, params: Params) -> tuple[Tangent, Tangent]:
    """Zero tangent and mask of a stage.

    Raises:
        FitError: the stage frees a group that the parameters do not have, or none.
    """
    unknown = [g for g in stage.free if g not in params]
    if unknown or not stage.free:
        raise FitError(f"stage {stage.name!r}: free groups {list(stage.free)}; the parameters have {', '.join(params)}")
    zero = zero_tangent(params, tuple(stage.free))
    return zero, free_mask(zero, stage.free)


def run_stage(stage: Stage, problem: Problem, params: Params) -> tuple[Params, StageReport]:
    """Run one stage inside a compiled function."""
    zero, mask = stage_setup(stage, params)
    solver = stage.solver
    observation = problem.observation
    for _ in range(stage.halvings):
        observation = halve_image(observation)
    problem = replace(problem, observation=observation, losses=select_losses(stage, problem.losses))
    if stage.outer_steps == 1:
        problem = problem.refreeze(params)
    running = jnp.asarray(Status.RUNNING, jnp.int32)

    def solve(problem: Problem, state: Any) -> Any:
        return jax.lax.while_loop(lambda s: s.status == running, lambda s: solver.step(problem, mask, zero, s), state)

    state = solver.init(problem, params, mask, zero)
    if stage.outer_steps == 1:
        state = solve(problem, state)
        return state.params, StageReport(_ended(stage, state), state.steps, state.history)

    def outer(state: Any, _: None) -> tuple[Any, tuple[Array, Array]]:
        again = problem.refreeze(state.params)
        state = solve(again, solver.resume(again, state, mask, zero))
        return state, (state.steps, state.history)

    # A scan, so that the solver is compiled once for all outer steps.
    last, (steps, histories) = jax.lax.scan(outer, state, None, length=stage.outer_steps)
    return last.params, StageReport(_ended(stage, last), steps.sum(), histories.reshape(-1, histories.shape[-1]))


def _ended(stage: Stage, state: Any) -> Int[Array, ""]:
    """Why a stage ended; one that has spent its budget did what it was meant to."""
    spent = jnp.asarray(stage.budget) & (state.status == Status.MAX_STEPS)
    return jnp.where(spent, Status.CONVERGED, state.status).astype(jnp.int32)


def run_stages(stages: Sequence[Stage], problem: Problem, params: Params) -> tuple[Params, list[StageReport]]:
    """All stages, one after the other."""
    reports = []
    for stage in stages:
        params, report = run_stage(stage, problem, params)
        reports.append(report)
    return params, reports
