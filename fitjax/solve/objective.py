"""The objective that every solver minimises, as a function of a tangent at the current parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fitjax.losses.core import Loss, loss_cost, loss_rows
from fitjax.model.params import Params, Tangent, retract
from fitjax.model.protocol import Model
from fitjax.observation.observation import Observation
from fitjax.prediction import Frozen, freeze, mesh_of, predict
from fitjax.pytree import pytree, replace
from fitjax.solve.sharing import Sharing
from fitjax.solve.smoothness import smooth_cost, smooth_residuals

#: Kinds of losses that no photo has by itself.
BETWEEN = ("prior", "smooth")

Losses = Mapping[str, Loss]


@pytree
class Problem:
    """What stays constant during a stage.

    With ``sharing``, the leaves of ``observation`` and ``frozen`` have a leading axis of photos and parameters are shared ones.
    """

    model: Model
    observation: Observation
    losses: dict[str, Loss]
    frozen: Frozen | None = None
    sharing: Sharing | None = None

    def refreeze(self, params: Params) -> Problem:
        """The problem with visibility and contour choices taken at ``params``."""
        params = jax.lax.stop_gradient(params)
        names = frozen_sets(self.losses)
        pixels = reads_pixels(self.losses)

        def one(params: Params, observation: Observation) -> Frozen:
            frozen = hide_occluded(self.model, params, observation, freeze(self.model, params, names), self.losses)
            return freeze_pixels(self.model, params, observation, frozen) if pixels else frozen

        if self.sharing is None:
            frozen = one(params, self.observation)
        else:
            frozen = jax.vmap(one)(self.sharing.gather(params), self.observation)
        return Problem(self.model, self.observation, self.losses, frozen, self.sharing)


def frozen_sets(losses: Losses) -> set[str] | None:
    """Sample sets whose visibility the losses may read; None for all. Losses say so by their options; one of yours may take ``visible_sets``."""
    names: set[str] = set()
    for loss in losses.values():
        options = dict(loss.options)
        if loss.kind in BETWEEN:
            continue
        if "visible_sets" in options:
            names |= set(options["visible_sets"])
            continue
        if "name" not in options:
            return None
        names |= {options["name"]} if options.get("visible_only") else set()
        names |= {"contour68"} if options.get("contour") else set()
    return names


def reads_pixels(losses: Losses) -> bool:
    """Whether any loss compares pixels: fitjax's own say so, a custom one may by its option ``reads_pixels=True``."""
    return any(dict(loss.options).get("reads_pixels", False) for loss in losses.values())


def hide_occluded(model: Model, params: Params, observation: Observation, frozen: Frozen, losses: Losses) -> Frozen:
    """The frozen choices less the samples that the head hides, of the sets for which a loss asks: options ``visible_sets`` and ``occlusion``."""
    asked = [dict(loss.options) for loss in losses.values()]
    names = sorted({name for options in asked if options.get("occlusion") for name in options["visible_sets"]})
    if not names:
        return frozen
    # Imported here, as for pixels.
    from fitjax.render.part_visibility import unhidden

    free = unhidden(model, predict(model, params, observation), names)
    return replace(frozen, visible={**frozen.visible, **{name: frozen.visible[name] * free[name] for name in names}})


def freeze_pixels(model: Model, params: Params, observation: Observation, frozen: Frozen) -> Frozen:
    """The frozen choices with what each pixel of the face shows, and which pixels to trust."""
    # Imported here: rendering is for fits that read pixels.
    from fitjax.losses.photometric import trust_pixels
    from fitjax.render.face import rasterize_face
    from fitjax.render.frozen_face import freeze_face

    if observation.image is None or mesh_of(model) is None:
        return frozen
    textured: Any = model
    prediction = predict(model, params, observation, frozen)
    triangle_id = rasterize_face(prediction, *observation.image.shape[:2])
    frozen = replace(frozen, triangle_id=triangle_id, face=freeze_face(prediction, textured.albedo, triangle_id))
    return replace(frozen, pixels=trust_pixels(replace(prediction, frozen=frozen), observation))


def _photo_costs(problem: Problem, params: Params, obs: Observation, frozen: Frozen | None) -> dict[str, Array]:
    prediction = predict(problem.model, params, obs, frozen)
    return {name: loss_cost(loss, prediction, obs) for name, loss in problem.losses.items() if loss.kind not in BETWEEN}


def _photo_rows(problem: Problem, params: Params, obs: Observation, frozen: Frozen | None) -> Array:
    prediction = predict(problem.model, params, obs, frozen)
    rows = [loss_rows(loss, prediction, obs) for loss in problem.losses.values() if loss.kind not in BETWEEN]
    return jnp.concatenate(rows) if rows else jnp.zeros(0, params["pose"]["translation"].dtype)


def _over_photos(function: Any, problem: Problem, params: Params) -> Any:
    if problem.sharing is None:
        return function(problem, params, problem.observation, problem.frozen)
    gathered = problem.sharing.gather(params)
    return jax.vmap(lambda p, o, f: function(problem, p, o, f))(gathered, problem.observation, problem.frozen)


def _prior_scales(problem: Problem, loss: Loss, group: str, dtype: Any) -> Array:
    """() or (P,): λ of one group, divided by the number of photos that share it."""
    scale = jnp.asarray(loss.weight * loss.arguments.get(group, 1.0), dtype)
    if problem.sharing is not None:
        scale = scale / problem.sharing.photos_per_entity(group).astype(dtype)
    return scale


def _codes(problem: Problem, params: Params) -> dict[str, Any]:
    if problem.sharing is None:
        return dict(problem.model.prior(params))
    return jax.vmap(lambda p: dict(problem.model.prior(p)))(problem.sharing.gather(params))


def prior_cost(problem: Problem, loss: Loss, params: Params) -> Float[Array, ""]:
    """½ λ Σ of the squared whitened codes; each person, photo or global group counted once."""
    dtype = params["pose"]["translation"].dtype
    total: Array = jnp.zeros((), dtype)
    for group, code in _codes(problem, params).items():
        scale = _prior_scales(problem, loss, group, dtype)
        for leaf in jax.tree.leaves(code):
            shaped = scale.reshape(scale.shape + (1,) * (leaf.ndim - scale.ndim))
            total = total + 0.5 * jnp.sum(shaped * leaf**2)
    return total


def costs(problem: Problem, params: Params) -> dict[str, Float[Array, ""]]:
    """Cost per loss."""
    parts = _over_photos(_photo_costs, problem, params)
    result = {name: jnp.sum(value) for name, value in parts.items()}
    for name, loss in problem.losses.items():
        if loss.kind == "prior":
            result[name] = prior_cost(problem, loss, params)
        elif loss.kind == "smooth":
            result[name] = smooth_cost(problem.sharing, loss, params)
    return {name: result[name] for name in problem.losses}


def rows(problem: Problem, params: Params) -> Float[Array, "R"]:
    """Weighted residuals of all losses but the priors, as Gauss-Newton wants them."""
    found = _over_photos(_photo_rows, problem, params).reshape(-1)
    between = [loss for loss in problem.losses.values() if loss.kind == "smooth"]
    if problem.sharing is None or not between:
        return found
    more = [jnp.ravel(x) for loss in between for x in jax.tree.leaves(smooth_residuals(problem.sharing, loss, params))]
    return jnp.concatenate([found, *more])


def prior_gradient_and_diagonal(problem: Problem, params: Params, zero: Tangent) -> tuple[Tangent, Tangent]:
    """Gradient and diagonal Hessian of all priors in the tangent space.

    A model's prior is elementwise, so one forward derivative along ones gives all slopes at once.
    """
    losses = [loss for loss in problem.losses.values() if loss.kind == "prior"]
    gradient = jax.tree.map(jnp.zeros_like, zero)
    diagonal = dict(gradient)
    if not losses:
        return gradient, diagonal
    ones = {g: jax.tree.map(jnp.ones_like, part) for g, part in zero.items()}
    code, slope = jax.jvp(lambda d: _codes(problem, retract(params, d)), (zero,), (ones,))
    for group in code:
        if group not in zero:
            continue
        scale = sum(_prior_scales(problem, loss, group, jax.tree.leaves(code[group])[0].dtype) for loss in losses)

        def scaled(a: Array, b: Array, scale: Any = scale) -> Array:
            return jnp.reshape(scale, jnp.shape(scale) + (1,) * (a.ndim - jnp.ndim(scale))) * a * b

        g = jax.tree.map(scaled, code[group], slope[group])
        h = jax.tree.map(scaled, slope[group], slope[group])
        if problem.sharing is not None:
            # Per-photo contributions add up in the shared parameters: the transpose of the gather.
            transpose = _gather_transpose(problem.sharing, group, zero[group])
            g, h = transpose(g), transpose(h)
        gradient[group], diagonal[group] = g, h
    return gradient, diagonal


def _gather_transpose(sharing: Sharing, group: str, zero: Any) -> Callable[[Any], Any]:
    _, pull = jax.vjp(lambda part: sharing.gather({group: part})[group], zero)
    return lambda cotangent: pull(cotangent)[0]


def bounds(problem: Problem, params: Params, zero: Tangent) -> tuple[Tangent, Tangent] | None:
    """How far each tangent coordinate may go down and up, or None when the model bounds nothing that is free."""
    limits = {g: b for g, b in problem.model.bounds().items() if g in zero}
    if not limits:
        return None
    lower = jax.tree.map(lambda x: jnp.full_like(x, -jnp.inf), zero)
    upper = jax.tree.map(lambda x: jnp.full_like(x, jnp.inf), zero)
    for group, (low, high) in limits.items():
        lower[group] = jax.tree.map(lambda x, b: jnp.broadcast_to(b, x.shape).astype(x.dtype) - x, params[group], low)
        upper[group] = jax.tree.map(lambda x, b: jnp.broadcast_to(b, x.shape).astype(x.dtype) - x, params[group], high)
    return lower, upper


def clip_to_bounds(model: Model, params: Params) -> Params:
    """Parameters inside the model's box: rounding can leave a bounded coefficient an ulp outside."""
    clipped = dict(params)
    for group, (low, high) in model.bounds().items():
        if group in params:
            clipped[group] = jax.tree.map(lambda x, a, b: jnp.clip(x, a, b), params[group], low, high)
    return clipped
