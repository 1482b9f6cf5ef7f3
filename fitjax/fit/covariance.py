"""How certain a fit is: covariances from the Gauss-Newton Hessian.

The estimate minimises ½ |W^½ r|² + ½ Σ λ a². With residual noise of variance σ² per coordinate and codes drawn from their prior, the error of the
estimate is to first order A⁻¹ (Jᵀ W ε − Λ a), A = Jᵀ W J + Λ, and its covariance the sandwich A⁻¹ (σ² Jᵀ W² J + Λ²) A⁻¹. When λ is the noise level
this is the Bayesian posterior; for any other λ it stays honest about the bias of the prior.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from fitjax.losses.core import Loss, weighted_residuals
from fitjax.model.params import Params, Tangent, free_mask, retract, zero_tangent
from fitjax.model.protocol import Model
from fitjax.observation.observation import Observation
from fitjax.prediction import predict
from fitjax.solve.levenberg_marquardt import gauss_newton
from fitjax.solve.objective import Problem, bounds


@dataclass(frozen=True)
class Covariance:
    """Covariance over the flat tangent.

    Attributes:
        matrix: (n, n). Coordinates follow the tangent: codes in their own units; ``pose/rotation`` axis-angle in radians (camera axes),
            ``pose/translation`` relative to the depth.
        standard_deviation: the same tree as the tangent, one standard deviation per coordinate; zero where a bound is active.
        noise_pixels: standard deviation of a landmark coordinate that was assumed or estimated.
    """

    matrix: np.ndarray
    standard_deviation: dict[str, Any]
    noise_pixels: float
    _vertex_jacobian: Any = field(repr=False, default=None)

    def vertex_standard_deviation(self) -> np.ndarray:
        """(V,) metres: root of the trace of each vertex's 3×3 covariance in head space (shape and expression, not pose)."""
        values, vectors = np.linalg.eigh(self.matrix)
        factors = vectors * np.sqrt(np.maximum(values, 0))
        return np.asarray(self._vertex_jacobian(jnp.asarray(factors.T)))


def covariance(
    model: Model,
    observation: Observation,
    losses: dict[str, Loss],
    params: Params,
    free: tuple[str, ...],
    noise_pixels: float | None = None,
    masks: Mapping[str, Any] | None = None,
) -> Covariance:
    """Covariance of the free groups.

    Args:
        masks: as a stage's ``free``; where they are zero, a coordinate was held and is certain. Default: none was.
        noise_pixels: standard deviation of the noise of one observed coordinate; by default estimated from the residuals, corrected
            for the degrees of freedom that the fit used and for the residual that the prior's bias leaves.
    """
    zero = zero_tangent(params, free)
    problem = _freeze(Problem(model, observation, losses), params)
    system = jax.device_get(_system(problem, params, zero))
    rows, jacobian_t, diagonal, row_weight, code_variance = (np.asarray(x, np.float64) for x in system[:5])
    n = len(diagonal)
    keep = ~system[5]
    if masks is not None:
        keep &= np.asarray(ravel_pytree(free_mask(zero, {g: masks.get(g, 1.0) for g in zero}))[0]) != 0
    jacobian = jacobian_t[keep].T
    prior = diagonal[keep]
    hessian = jacobian.T @ jacobian + np.diag(prior)
    # A tiny ridge: without a prior some directions may be unobserved.
    inverse = np.linalg.inv(hessian + 1e-12 * np.trace(hessian) / len(hessian) * np.eye(len(hessian)))
    size = float(observation.face_size)
    # Λ² Var(a): the diagonal over whitened codes is λ, in the code's own units λ / s², and the variance there is s².
    code_variance = code_variance[keep]
    if noise_pixels is None:
        variance = _estimate_variance(rows, jacobian, prior, code_variance, inverse, row_weight)
    else:
        variance = (noise_pixels / size) ** 2
    # Rows are sqrt(w) r: noise in a row has variance σ² w, so Jᵀ W² J comes from rows scaled once more.
    scaled = jacobian * np.sqrt(row_weight)[:, None]
    middle = variance * scaled.T @ scaled + np.diag(prior**2 * code_variance)
    full = np.zeros((n, n))
    full[np.ix_(keep, keep)] = inverse @ middle @ inverse
    flat_zero, unravel = ravel_pytree(zero)
    deviation = jax.tree.map(np.asarray, unravel(jnp.asarray(np.sqrt(np.maximum(np.diag(full), 0)), flat_zero.dtype)))

    def vertex_deviation(directions: jax.Array) -> jax.Array:
        def vertices(flat: jax.Array) -> jax.Array:
            return model.decode(retract(params, unravel(flat))).vertices

        def one(total: jax.Array, direction: jax.Array) -> tuple[jax.Array, None]:
            moved = jax.jvp(vertices, (flat_zero,), (direction.astype(flat_zero.dtype),))[1]
            return total + jnp.sum(moved**2, -1), None

        start = jnp.zeros(vertices(flat_zero).shape[0], flat_zero.dtype)
        return jnp.sqrt(jax.lax.scan(one, start, directions)[0])

    return Covariance(full, deviation, float(np.sqrt(variance) * size), jax.jit(vertex_deviation))


_freeze = jax.jit(Problem.refreeze)


@jax.jit
def _system(problem: Problem, params: Params, zero: Tangent) -> tuple[jax.Array, ...]:
    """Rows, transposed Jacobian, diagonal of the priors, weight of each row, prior variance of each code, active bounds."""
    rows, jacobian_t, _, diagonal, _ = gauss_newton(problem, params, zero)
    box = bounds(problem, params, zero)
    active = jnp.zeros(diagonal.shape, bool)
    if box is not None:
        low, high = (ravel_pytree(b)[0] for b in box)
        active = (low >= 0) | (high <= 0)
    return rows, jacobian_t, diagonal, _row_weights(problem, params), _code_variance(problem, params, zero), active


def _row_weights(problem: Problem, params: Params) -> jax.Array:
    """The weight of each row: rows = sqrt(weight) · residual."""
    prediction = predict(problem.model, params, problem.observation, problem.frozen)
    parts = []
    for loss in problem.losses.values():
        if loss.kind == "prior":
            continue
        values, coefficient = weighted_residuals(loss, prediction, problem.observation)
        weight = coefficient * jnp.asarray(loss.weight, values.dtype)
        if loss.kernel is not None:
            weight = weight * loss.kernel.slope(jnp.sum(values**2, -1))
        parts.append(jnp.repeat(weight, values.shape[1]))
    return jnp.concatenate(parts)


def _code_variance(problem: Problem, params: Params, zero: Tangent) -> jax.Array:
    """(n,) prior variance of each coordinate in its own units: 1 / slope² of the whitening; zero where there is no prior."""
    ones = {g: jax.tree.map(jnp.ones_like, part) for g, part in zero.items()}
    _, slope = jax.jvp(lambda d: dict(problem.model.prior(retract(params, d))), (zero,), (ones,))
    result = jax.tree.map(jnp.zeros_like, zero)
    for group in slope:
        if group in result:
            result[group] = jax.tree.map(lambda s: 1 / jnp.maximum(s**2, 1e-20), slope[group])
    return ravel_pytree(result)[0]


def _estimate_variance(
    rows: np.ndarray,
    jacobian: np.ndarray,
    prior: np.ndarray,
    code_variance: np.ndarray,
    inverse: np.ndarray,
    row_weight: np.ndarray,
) -> float:
    """σ² in face sizes squared from E |rows|² = σ² tr((I-H) W (I-H)ᵀ) + the square of what the prior's bias leaves, J A⁻¹ Λ a."""
    left = jacobian @ inverse
    rest = np.eye(len(rows)) - left @ jacobian.T
    noise_part = max(float(((rest**2) @ row_weight).sum()), 1e-30)
    bias = float(((left**2) @ (prior**2 * code_variance)).sum())
    total = float(rows @ rows)
    # Where the prior explains all that is left, a tenth of the naive figure keeps the answer positive.
    return max((total - bias) / noise_part, 0.1 * total / noise_part, 1e-16)
