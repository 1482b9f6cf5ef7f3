"""Symmetric systems in the shape of an arrow: some coordinates are shared by all photos, the others are each photo's own.

    | C    B₁   B₂   … |      C  (S, S)   shared
    | B₁ᵀ  A₁   D₁     |      Bₚ (s, o)   shared coordinates that photo p sees × its own
    | B₂ᵀ  D₁   A₂   … |      Aₚ (o, o)   its own
    | …                |      Dₚ diagonal between neighbours (video), or none

Own coordinates are eliminated photo by photo (Schur complement), with neighbours coupled by block elimination along the row, so that the cost grows
linearly with the photos. Triggs et al., "Bundle adjustment - a modern synthesis" (2000), section 6. Vectors are pairs (shared (S,), own (P, o)).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Float, Int

from fitjax.pytree import pytree, replace


class Pair(NamedTuple):
    """A vector over shared and own coordinates."""

    shared: Float[Array, "S"]
    own: Float[Array, "P o"]

    def map(self, function: Callable[..., Array], *others: Pair) -> Pair:
        return Pair(function(self.shared, *(x.shared for x in others)), function(self.own, *(x.own for x in others)))

    def any(self) -> Array:
        return self.shared.any() | self.own.any()


@pytree
class Arrow:
    """The matrix; ``at`` (P, s) says which shared coordinates a photo sees."""

    shared: Float[Array, "S S"]
    border: Float[Array, "P s o"]
    own: Float[Array, "P o o"]
    at: Int[Array, "P s"]
    coupling: Float[Array, "P-1 o"] | None = None

    def diagonal(self) -> Pair:
        return Pair(jnp.diagonal(self.shared), jnp.diagonal(self.own, axis1=1, axis2=2))

    def plus_diagonal(self, more: Pair) -> Arrow:
        own = self.own + more.own[:, :, None] * jnp.eye(more.own.shape[1], dtype=self.own.dtype)
        return replace(self, shared=self.shared + jnp.diag(more.shared), own=own)

    def scaled(self, by: Pair) -> Arrow:
        """Rows and columns times ``by``."""
        seen = by.shared[self.at]
        coupling = None if self.coupling is None else self.coupling * by.own[:-1] * by.own[1:]
        return Arrow(
            self.shared * by.shared[:, None] * by.shared[None, :],
            self.border * seen[:, :, None] * by.own[:, None, :],
            self.own * by.own[:, :, None] * by.own[:, None, :],
            self.at,
            coupling,
        )

    def times(self, x: Pair) -> Pair:
        seen = x.shared[self.at]
        shared = jnp.matmul(self.shared, x.shared, precision="highest")
        shared = shared.at[self.at].add(jnp.einsum("pso,po->ps", self.border, x.own, precision="highest"))
        own = jnp.einsum("pso,ps->po", self.border, seen, precision="highest")
        own = own + jnp.einsum("pij,pj->pi", self.own, x.own, precision="highest")
        if self.coupling is not None:
            own = own.at[:-1].add(self.coupling * x.own[1:]).at[1:].add(self.coupling * x.own[:-1])
        return Pair(shared, own)

    def solve(self, right: Pair) -> Pair:
        """x with A x = right, for A positive definite."""
        # Columns: the border, then the right-hand side.
        columns = jnp.concatenate([jnp.swapaxes(self.border, 1, 2), right.own[:, :, None]], 2)
        if self.coupling is None:
            solved = jax.vmap(lambda a, b: cho_solve(cho_factor(a), b))(self.own, columns)
            inverse, alone = solved[:, :, :-1], solved[:, :, -1]
            pairs = jnp.einsum("pso,pot->pst", self.border, inverse, precision="highest")
            schur = self.shared.at[self.at[:, :, None], self.at[:, None, :]].add(-pairs)
            rest = right.shared.at[self.at].add(-jnp.einsum("pso,po->ps", self.border, alone, precision="highest"))
            shared = cho_solve(cho_factor(schur), rest)
            return Pair(shared, alone - jnp.einsum("pot,pt->po", inverse, shared[self.at], precision="highest"))
        # Neighbours are coupled, so a photo's own coordinates depend on shared ones that only others see: columns over all of them.
        count, size = right.shared.shape[0], self.own.shape[0]
        wide = jnp.zeros((size, self.own.shape[1], count + 1), self.own.dtype)
        every = jnp.arange(size)[:, None]
        wide = wide.at[every, :, self.at].set(self.border).at[:, :, -1].set(right.own)
        solved = solve_chain(self.own, self.coupling, wide)
        inverse, alone = solved[:, :, :-1], solved[:, :, -1]
        schur = self.shared.at[self.at].add(-jnp.einsum("pso,pot->pst", self.border, inverse, precision="highest"))
        rest = right.shared.at[self.at].add(-jnp.einsum("pso,po->ps", self.border, alone, precision="highest"))
        shared = cho_solve(cho_factor(schur), rest)
        return Pair(shared, alone - jnp.matmul(inverse, shared, precision="highest"))

    def pinned(self, pins: Pair) -> Arrow:
        """Rows and columns of pinned coordinates replaced by those of the identity."""
        keep = pins.map(lambda x: jnp.where(x, 0, 1).astype(self.shared.dtype))
        return self.scaled(keep).plus_diagonal(keep.map(lambda x: 1 - x))


def solve_chain(own: Float[Array, "P o o"], coupling: Float[Array, "P-1 o"], right: Float[Array, "P o c"]) -> Float[Array, "P o c"]:
    """x with a block tridiagonal matrix x = right: ``own`` on the diagonal, diagonal matrices ``coupling`` beside it. Block elimination forward,
    substitution backward."""

    def forward(carry: tuple[Array, Array, Array], block: tuple[Array, Array, Array]) -> tuple[Any, Any]:
        # What is left of this block after those before it are eliminated.
        inverse_coupling, solved, link = carry
        a, b, following = block
        a = a - link[:, None] * inverse_coupling
        b = b - link[:, None] * solved
        factor = cho_factor(a)
        both = cho_solve(factor, jnp.concatenate([jnp.diag(following), b], 1))
        here = both[:, : a.shape[0]], both[:, a.shape[0] :]
        return (*here, following), here

    size, columns = own.shape[1], right.shape[2]
    nothing = jnp.zeros((size, size), own.dtype), jnp.zeros((size, columns), own.dtype), jnp.zeros(size, own.dtype)
    following = jnp.concatenate([coupling, jnp.zeros((1, size), own.dtype)])
    _, (inverse_coupling, solved) = jax.lax.scan(forward, nothing, (own, right, following))

    def backward(after: Array, block: tuple[Array, Array]) -> tuple[Array, Array]:
        x = block[1] - jnp.matmul(block[0], after, precision="highest")
        return x, x

    _, x = jax.lax.scan(backward, jnp.zeros((size, columns), own.dtype), (inverse_coupling, solved), reverse=True)
    return x


def box_quadratic_arrow(system: Arrow, right: Pair, low: Pair, high: Pair, passes: int) -> Pair:
    """argmin ½ x'Sx - x'b over low ≤ x ≤ high: `fitjax.solve.levenberg_marquardt.box_quadratic` for an arrow."""

    def solve(at_low: Pair, at_high: Pair) -> Pair:
        pins = at_low.map(jnp.logical_or, at_high)
        value = at_low.map(lambda a, b, l, h: jnp.where(a, l, jnp.where(b, h, 0)), at_high, low, high)
        rest = right.map(jnp.subtract, system.times(value))
        x = system.pinned(pins).solve(rest.map(lambda r, p: jnp.where(p, 0, r), pins))
        return x.map(lambda y, p, v: jnp.where(p, v, y), pins, value)

    def body(carry: tuple[Pair, Pair, Pair, Array, Array]) -> tuple[Pair, Pair, Pair, Array, Array]:
        x, at_low, at_high, _, count = carry
        force = right.map(jnp.subtract, system.times(x))
        next_low = at_low.map(lambda a, f, y, l: jnp.where(a, f < 0, y < l), force, x, low)
        next_high = at_high.map(lambda a, f, y, h: jnp.where(a, f > 0, y > h), force, x, high)
        changed = next_low.map(jnp.not_equal, at_low).any() | next_high.map(jnp.not_equal, at_high).any()
        return solve(next_low, next_high), next_low, next_high, changed, count + 1

    at_low = low.map(lambda l, b: (l >= 0) & (b < 0), right)
    at_high = high.map(lambda h, b: (h <= 0) & (b > 0), right)
    start = (solve(at_low, at_high), at_low, at_high, jnp.asarray(True), jnp.zeros((), jnp.int32))
    x = jax.lax.while_loop(lambda c: c[3] & (c[4] < passes), body, start)[0]
    return x.map(jnp.clip, low, high)
