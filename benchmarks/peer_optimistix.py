"""optimistix's Levenberg-Marquardt on exactly the residuals that fitjax minimises.

It gets the same closed-form start, the same sliced basis, the same tangent parametrisation and the prior as extra rows, so that only the solver
differs. It knows no bounds, so the model's expression bounds are off on both sides of the comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import fitjax as fj
from benchmarks.shared_data import Unavailable
from fitjax.fit.run import initial_params
from fitjax.model.linear import LinearModel
from fitjax.model.params import retract, zero_tangent
from fitjax.pytree import replace
from fitjax.solve.objective import Problem, rows

#: From loose to tight; the loosest one that reaches the objective is used.
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
FREE = ("expression", "identity", "pose")
MAX_STEPS = 256


@dataclass(frozen=True)
class Peer:
    """A tuned peer.

    Attributes:
        single, batch: compiled (model, observation, losses) → (objective, steps), one face and a leading axis of faces.
        tolerance: its rtol and atol. linear_solver: in words.
    """

    single: Callable[..., tuple[Any, Any]]
    batch: Callable[..., tuple[Any, Any]]
    tolerance: float
    linear_solver: str


def unbounded(model: LinearModel) -> LinearModel:
    """The model without expression bounds."""
    infinite = jnp.full_like(model.expression_lower, jnp.inf)
    return replace(model, expression_lower=-infinite, expression_upper=infinite)


def residuals(flat: jax.Array, args: tuple[Problem, Any]) -> jax.Array:
    """Rows of the losses, then sqrt(λ) times the whitened codes: ½ |…|² is fitjax's objective."""
    problem, params = args
    _, unravel = ravel_pytree(zero_tangent(params, FREE))
    moved = retract(params, unravel(flat))
    code = problem.model.prior(moved)
    whitened = jnp.concatenate([code["identity"], code["expression"]])
    return jnp.concatenate([rows(problem, moved), jnp.sqrt(problem.losses["prior"].weight) * whitened])


def build(tolerance: float, linear_solver: str = "cholesky") -> Peer:
    """Compiled solvers.

    Args:
        linear_solver: ``cholesky`` (lineax, on the normal equations) or ``qr`` (optimistix's own default for least squares).

    Raises:
        Unavailable: optimistix is not installed.
    """
    try:
        import lineax as lx
        import optimistix as optx
    except ImportError as error:
        raise Unavailable(f"optimistix: {error}; pip install 'fitjax[bench]'") from None
    linear: Any = lx.Normal(lx.Cholesky()) if linear_solver == "cholesky" else lx.AutoLinearSolver(well_posed=None)
    solver: Any = optx.LevenbergMarquardt(rtol=tolerance, atol=tolerance, linear_solver=linear)

    def solve(model: LinearModel, observation: fj.Observation, losses: dict[str, fj.Loss]) -> tuple[Any, Any]:
        start = initial_params(model, observation, None, fj.default_stages(observation))
        args = (Problem(model, observation, losses).refreeze(start), start)
        flat, _ = ravel_pytree(zero_tangent(start, FREE))
        solution: Any = optx.least_squares(residuals, solver, flat, args, max_steps=MAX_STEPS, throw=False)
        return 0.5 * jnp.sum(residuals(solution.value, args) ** 2), solution.stats["num_steps"]

    return Peer(jax.jit(solve), jax.jit(jax.vmap(solve, in_axes=(None, 0, None))), tolerance, linear_solver)


def tuned(
    model: LinearModel,
    observations: fj.Observation,
    losses: dict[str, fj.Loss],
    objective: np.ndarray,
    excess: float = 1e-4,
) -> Peer:
    """The peer with the loosest tolerance whose mean objective is within ``excess`` (relative) of ``objective`` (N,)."""
    for tolerance in TOLERANCES:
        peer = build(tolerance)
        reached = np.asarray(peer.batch(model, observations, losses)[0])
        if np.mean(reached) <= (1 + excess) * np.mean(objective):
            return peer
    return peer
