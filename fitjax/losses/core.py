"""Losses that compose.

A loss is a pure function ``(prediction, observation, **arguments)``. With :func:`residual` it returns residuals, with :func:`value` a
number. A fit takes a plain dict of named losses and minimises

    Σ_losses weight · ½ · mean(ρ(|r|²))   +   ½ · λ · Σ prior²

with residuals in units of the face size. The mean is over the valid residuals, so a weight does not change its meaning with the number
of points. Weights, targets and other arguments are array leaves: changing them recompiles nothing. Names and other text are structure.

    @fj.residual
    def flat_brow(pred, obs):
        return pred.landmarks[17:22, 1] - pred.landmarks[17:22, 1].mean()

    losses = fj.default_losses(obs) | {"brow": 0.1 * flat_brow()}
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fitjax.errors import FitjaxError
from fitjax.losses.robust import Kernel, make_kernel
from fitjax.observation.observation import Observation
from fitjax.prediction import Prediction
from fitjax.pytree import pytree, replace, static

LossKind = Literal["residual", "value", "prior", "smooth"]


@pytree
class Residuals:
    """Residuals with a weight each.

    Attributes:
        values: (N, d) or (N,): N residuals of d components; components share one robust kernel argument |r|².
        weight: (N,) confidences ≥ 0; zero removes a residual (its value and gradient must still be finite).
    """

    values: Float[Array, "N d"]
    weight: Float[Array, "N"] | None = None


@pytree
class Loss:
    """A weighted loss; multiply it by a number to scale it, :meth:`robust` gives it a kernel.

    Attributes:
        weight: () scales the cost.
        arguments: array arguments of the function (leaves).
        kernel: robust kernel or None.
        function, options: the function and its text arguments (structure).
    """

    weight: Any
    arguments: dict[str, Any]
    kernel: Kernel | None
    function: Callable[..., Any] = static(default=None)
    options: tuple[tuple[str, Any], ...] = static(default=())
    kind: LossKind = static(default="residual")

    def __mul__(self, scale: Any) -> Loss:
        return replace(self, weight=self.weight * scale)

    __rmul__ = __mul__

    def robust(self, name: str, scale: float) -> Loss:
        """The loss with a robust kernel: ``huber``, ``cauchy``, ``geman_mcclure`` or ``charbonnier``, ``scale`` in face sizes.

        Raises:
            FitjaxError: the kernel is unknown or the loss returns a value instead of residuals.
        """
        if self.kind != "residual":
            raise FitjaxError(f"robust kernel: expected a loss of residuals, found one of kind {self.kind!r}")
        return replace(self, kernel=make_kernel(name, scale))

    def __call__(self, prediction: Prediction, observation: Observation) -> Any:
        """What the function returns: residuals or a value, before weight and kernel."""
        return self.function(prediction, observation, **self.arguments, **dict(self.options))


def _is_static(value: Any) -> bool:
    """Text, booleans, None and tuples of them choose code paths; everything else is data."""
    if isinstance(value, tuple):
        return all(_is_static(v) or isinstance(v, int) for v in value)
    return value is None or isinstance(value, str | bool)


def _factory(function: Callable[..., Any], kind: LossKind) -> Callable[..., Loss]:
    @functools.wraps(function)
    def make(**arguments: Any) -> Loss:
        data = {k: jnp.asarray(v) for k, v in arguments.items() if not _is_static(v)}
        options = tuple(sorted((k, v) for k, v in arguments.items() if _is_static(v)))
        return Loss(np.float32(1.0), data, None, function, options, kind)

    return make


def residual(function: Callable[..., Any]) -> Callable[..., Loss]:
    """Make a function of (prediction, observation, **arguments) that returns residuals into a loss factory.

    It may return an array (N,) or (N, d), or :class:`Residuals` with a weight per residual. Keyword arguments of the factory that are numbers
    or arrays become leaves; text, booleans and tuples are structure.
    """
    return _factory(function, "residual")


def value(function: Callable[..., Any]) -> Callable[..., Loss]:
    """As :func:`residual` for functions that return one number; only first-order solvers take such losses."""
    return _factory(function, "value")


def residual_arrays(loss: Loss, prediction: Prediction, observation: Observation) -> tuple[Array, Array]:
    """(N, d) residuals and (N,) confidences, before the loss's weight and kernel."""
    result = loss(prediction, observation)
    if not isinstance(result, Residuals):
        result = Residuals(jnp.asarray(result))
    values = result.values
    if values.ndim == 0 or values.ndim > 2:
        raise FitjaxError(f"loss {_name(loss)}: expected residuals of shape (N,) or (N, d), found {values.shape}")
    values = values.reshape(values.shape[0], -1)
    if result.weight is None:
        weight = jnp.ones(values.shape[0], values.dtype)
    else:
        weight = jnp.asarray(result.weight, values.dtype)
        if weight.shape != values.shape[:1]:
            raise FitjaxError(f"loss {_name(loss)}: expected weights of shape {values.shape[:1]}, found {weight.shape}")
    return values, jax.lax.stop_gradient(weight)


def weighted_residuals(loss: Loss, prediction: Prediction, observation: Observation) -> tuple[Array, Array]:
    """(N, d) residuals and (N,) coefficients that sum to one (all zero if nothing is valid: an empty loss is exactly zero)."""
    values, weight = residual_arrays(loss, prediction, observation)
    total = jnp.sum(weight)
    return values, jnp.where(total > 0, weight / jnp.where(total > 0, total, 1), 0)


def _name(loss: Loss) -> str:
    return repr(getattr(loss.function, "__name__", "?"))


def loss_cost(loss: Loss, prediction: Prediction, observation: Observation) -> Float[Array, ""]:
    """weight · ½ · mean(ρ(|r|²)), or weight · value, or weight · ½ · Σ prior²."""
    if loss.kind == "value":
        result = jnp.asarray(loss(prediction, observation))
        if result.shape != ():
            raise FitjaxError(f"loss {_name(loss)}: expected one number, found shape {result.shape}; use fj.residual for arrays")
        return loss.weight * result
    if loss.kind == "prior":
        return loss.weight * loss(prediction, observation)
    values, coefficient = weighted_residuals(loss, prediction, observation)
    square = jnp.sum(values**2, -1)
    rho = square if loss.kernel is None else loss.kernel(square)
    return jnp.asarray(loss.weight, values.dtype) * 0.5 * jnp.sum(coefficient * rho)


def loss_rows(loss: Loss, prediction: Prediction, observation: Observation) -> Float[Array, "R"]:
    """Residuals scaled so that ½ |rows|² has the loss's gradient (and its cost, without a kernel): rows for Gauss-Newton."""
    if loss.kind != "residual":
        raise FitjaxError(
            f"loss {_name(loss)}: returns one number, but Levenberg-Marquardt needs residuals; write it with fj.residual or use a "
            "first-order solver such as fj.FirstOrder(optax.adam(1e-2))"
        )
    values, coefficient = weighted_residuals(loss, prediction, observation)
    scale = coefficient * jnp.asarray(loss.weight, values.dtype)
    if loss.kernel is not None:
        scale = scale * loss.kernel.slope(jnp.sum(values**2, -1))
    # sqrt has no gradient at zero; the scale is data here.
    scale = jax.lax.stop_gradient(scale)
    return (jnp.sqrt(scale)[:, None] * values).reshape(-1)
