"""Linearised residuals of one problem; of several photos photo by photo, put together to an arrow."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from fitjax.model.params import APPEARANCE, Params, Tangent, retract
from fitjax.pytree import replace
from fitjax.solve.arrow import Arrow, Pair
from fitjax.solve.objective import BETWEEN, Problem, costs, prior_cost, prior_gradient_and_diagonal, rows
from fitjax.solve.sharing import Sharing
from fitjax.solve.smoothness import links, smooth_cost


def gauss_newton(problem: Problem, params: Params, zero: Tangent) -> tuple[Array, Array, Array, Array, Array]:
    """Residual rows r (R,), transposed Jacobian (n, R) over the flat tangent, and the priors' gradient and diagonal (n,), costs per loss."""
    parts = costs(problem, params)
    residuals = rows(problem, params)
    # Appearance apart from the rest, so that light never passes through the basis, nor pose through the albedo.
    blocks: list[tuple[str, ...]] = [(group,) for group in sorted(zero) if group in APPEARANCE]
    blocks.append(tuple(group for group in sorted(zero) if group not in APPEARANCE))
    columns: dict[str, Array] = {}
    for block in filter(None, blocks):
        flat, unravel = ravel_pytree({group: zero[group] for group in block})

        def at(flat: Array, unravel: Any = unravel) -> Array:
            return rows(problem, retract(params, unravel(flat)))

        _, push = jax.linearize(at, flat)
        jacobian_t = jax.vmap(push)(jnp.eye(flat.size, dtype=flat.dtype))
        sizes = np.cumsum([ravel_pytree(zero[group])[0].size for group in block])[:-1]
        columns.update(zip(block, jnp.split(jacobian_t, sizes)))
    gradient, diagonal = prior_gradient_and_diagonal(problem, params, zero)
    stacked = jnp.stack([parts[k] for k in problem.losses])
    # In the order in which a dict is flattened.
    jacobian_t = jnp.concatenate([columns[group] for group in sorted(zero)])
    return residuals, jacobian_t, ravel_pytree(gradient)[0], ravel_pytree(diagonal)[0], stacked

class Layout:
    """Which coordinates of the flat tangent of several photos are shared, and which are whose.

    Attributes:
        shared: (S,) flat indices. own: (P, o). sees: (n,) of one photo's flat tangent, whether it is shared. at: (P, s) places among the shared.
    """

    def __init__(self, sharing: Sharing, zero: Tangent) -> None:
        persons = sharing.person_of_photo
        photos = persons.shape[0]
        shared: list[np.ndarray] = []
        own: list[np.ndarray] = [np.zeros((photos, 0), int)]
        sees: list[np.ndarray] = []
        at: list[Array] = [jnp.zeros((photos, 0), jnp.int32)]
        first = count = 0
        for group in sorted(zero):
            level = sharing.level(group)
            for leaf in jax.tree.leaves(zero[group]):
                flat = np.arange(first, first + leaf.size).reshape(leaf.shape)
                first += leaf.size
                if level == "photo":
                    own.append(flat.reshape(photos, -1))
                    sees.append(np.zeros(leaf.size // photos, bool))
                    continue
                places = np.arange(count, count + leaf.size).reshape(leaf.shape)
                count += leaf.size
                shared.append(flat.ravel())
                seen = jnp.asarray(places)[persons] if level == "person" else jnp.broadcast_to(places, (photos, *places.shape))
                at.append(seen.reshape(photos, -1).astype(jnp.int32))
                sees.append(np.ones(leaf.size // (sharing.n_persons if level == "person" else 1), bool))
        self.size = first
        self.shared = np.concatenate([np.zeros(0, int), *shared])
        self.own, self.sees, self.at = np.concatenate(own, 1), np.concatenate([np.zeros(0, bool), *sees]), jnp.concatenate(at, 1)

    def pair(self, flat: Array) -> Pair:
        return Pair(flat[self.shared], flat[self.own])

    def flat(self, pair: Pair) -> Array:
        return jnp.zeros(self.size, pair.own.dtype).at[self.shared].set(pair.shared).at[self.own].set(pair.own)


class SharedSystem(NamedTuple):
    """Costs per loss (L,), flat gradient (n,) and Gauss-Newton Hessian of several photos."""

    parts: Float[Array, "L"]
    gradient: Float[Array, "n"]
    hessian: Arrow


def gauss_newton_shared(problem: Problem, params: Params, mask: Tangent, zero: Tangent) -> SharedSystem:
    """The normal equations of several photos: each photo is linearised by itself, in its own and the shared coordinates that it sees."""
    sharing = problem.sharing
    assert sharing is not None
    layout = Layout(sharing, zero)
    alone = {name: loss for name, loss in problem.losses.items() if loss.kind not in BETWEEN}
    smooth = {name: loss for name, loss in problem.losses.items() if loss.kind == "smooth"}
    one_zero = jax.tree.map(lambda x: x[0], sharing.gather(zero))

    def one(photo: tuple[Params, Any, Any]) -> tuple[Array, Array, Array]:
        single = replace(problem, observation=photo[1], losses=alone, frozen=photo[2], sharing=None)
        residuals, jacobian_t, _, _, parts = gauss_newton(single, photo[0], one_zero)
        gradient = jnp.matmul(jacobian_t, residuals, precision="highest")
        return parts, gradient, jnp.matmul(jacobian_t, jacobian_t.T, precision="highest")

    photos = sharing.gather(params), problem.observation, problem.frozen
    free_flat = ravel_pytree(mask)[0]
    if alone:
        # Pixels' Jacobians are large: one at a time. An accelerator does landmarks of all photos at once.
        one_by_one = jax.default_backend() == "cpu" or problem.observation.image is not None
        parts, gradients, hessians = jax.lax.map(one, photos) if one_by_one else jax.vmap(one)(photos)
        costs_alone = dict(zip(alone, parts.sum(0)))
    else:
        size = layout.sees.size
        gradients, hessians = (jnp.zeros((layout.own.shape[0], *(size,) * k), free_flat.dtype) for k in (1, 2))
        costs_alone = {}
    free = layout.pair(free_flat)
    view_free = jnp.zeros_like(gradients).at[:, layout.sees].set(free.shared[layout.at]).at[:, ~layout.sees].set(free.own)
    gradients, hessians = gradients * view_free, hessians * view_free[:, :, None] * view_free[:, None, :]

    sees, own = np.flatnonzero(layout.sees), np.flatnonzero(~layout.sees)
    count = layout.shared.size
    at = layout.at
    shared = jnp.zeros((count, count), free_flat.dtype).at[at[:, :, None], at[:, None, :]].add(hessians[:, sees[:, None], sees[None, :]])
    gradient = Pair(jnp.zeros(count, free_flat.dtype).at[at].add(gradients[:, sees]), gradients[:, own])
    hessian = Arrow(shared, hessians[:, sees[:, None], own[None, :]], hessians[:, own[:, None], own[None, :]], at)

    prior_gradient, prior_diagonal = (layout.pair(ravel_pytree(x)[0]) for x in prior_gradient_and_diagonal(problem, params, zero))
    gradient = gradient.map(lambda g, p, f: g + p * f, prior_gradient, free)
    # A fixed parameter gets a unit diagonal and a zero gradient: it stays.
    hessian = hessian.plus_diagonal(prior_diagonal.map(lambda d, f: d * f + (1 - f), free))
    if smooth:
        linked = links(sharing, smooth, params, zero, free.own)
        gradient = gradient._replace(own=gradient.own + linked.gradient)
        hessian = replace(hessian.plus_diagonal(Pair(jnp.zeros_like(gradient.shared), linked.diagonal)), coupling=linked.coupling)

    def cost(name: str) -> Array:
        loss = problem.losses[name]
        if loss.kind == "prior":
            return prior_cost(problem, loss, params)
        return smooth_cost(sharing, loss, params) if loss.kind == "smooth" else costs_alone[name]

    return SharedSystem(jnp.stack([cost(name) for name in problem.losses]), layout.flat(gradient), hessian)


def empty_arrow(problem: Problem, zero: Tangent) -> Arrow:
    """An identity of the shape that `gauss_newton_shared` gives."""
    assert problem.sharing is not None
    layout = Layout(problem.sharing, zero)
    dtype = ravel_pytree(zero)[0].dtype
    photos, own = layout.own.shape
    coupling = jnp.zeros((max(photos - 1, 0), own), dtype) if any(loss.kind == "smooth" for loss in problem.losses.values()) else None
    blocks = jnp.broadcast_to(jnp.eye(own, dtype=dtype), (photos, own, own))
    border = jnp.zeros((photos, layout.at.shape[1], own), dtype)
    return Arrow(jnp.eye(layout.shared.size, dtype=dtype), border, blocks, layout.at, coupling)
