"""Batched Levenberg-Marquardt fits of pose, identity and expression to 2-D landmarks, under weak perspective.

Minimises  sum |r|^2 + lambda^2 sum a^2  with r in percent of the face box and a the coefficients in units of their prior spread.
Small and only for calibration and evaluation; the library has its own solver.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_factor, cho_solve

from fitjax.geometry.rotation import rotation_exp

BATCH = 124


@dataclass(frozen=True)
class Fits:
    """Fitted faces; image coordinates have y up and are in percent of the face box, centred on it."""

    points: np.ndarray
    """(B, L, 2) projected landmarks."""
    rotation: np.ndarray
    """(B, 3, 3) from head space to an image frame with x right, y up, z towards the viewer."""
    scale: np.ndarray
    """(B,) percent of the box per metre."""
    coefficients: np.ndarray
    """(B, P) in units of the prior's spread."""
    head: np.ndarray
    """(B, L, 3) landmarks in head space, metres."""


def normalise(landmarks: np.ndarray) -> np.ndarray:
    """Annotated points (B, 2 or 3, 68), y down in pixels, to (B, 68, 2) with y up, in percent of sqrt(w h) of their own box."""
    points = np.swapaxes(landmarks[:, :2], 1, 2).astype(np.float64)
    low, high = points.min(1, keepdims=True), points.max(1, keepdims=True)
    size = np.sqrt(np.prod(high - low, -1, keepdims=True))
    return (points - 0.5 * (low + high)) / size * 100 * [1, -1]


def fit(
    target: np.ndarray,
    mean: np.ndarray,
    modes: np.ndarray,
    strength: float,
    weight: np.ndarray | None = None,
    iterations: int = 25,
) -> Fits:
    """Fit landmarks `mean + coefficients @ modes` (L, 3), (P, L, 3) in metres to targets (B, L, 2) in percent.

    `strength` is lambda; `weight` (L,) is 0 for held-out points.
    """
    weight = np.ones(len(mean)) if weight is None else weight
    centre = mean.mean(0)
    size = np.abs(mean - centre).max()
    local = jnp.asarray((mean - centre) / size, jnp.float32)
    basis = jnp.asarray(modes / size, jnp.float32)
    count = len(target)
    padded = np.concatenate([target, np.repeat(target[-1:], -count % BATCH, 0)]).astype(np.float32)
    parts = [
        _fit_batch(
            padded[i : i + BATCH], local, basis, jnp.float32(strength), jnp.asarray(weight, jnp.float32), iterations
        )
        for i in range(0, len(padded), BATCH)
    ]
    points, rotation, scale, coefficients = (
        np.concatenate([np.asarray(p[k]) for p in parts])[:count] for k in range(4)
    )
    head = mean + np.einsum("bp,plc->blc", coefficients, modes)
    return Fits(points, rotation, scale / size, coefficients, head)


@partial(jax.jit, static_argnums=5)
def _fit_batch(target, mean, modes, strength, weight, iterations):
    return jax.vmap(lambda y: _fit_one(y, mean, modes, strength, weight, iterations))(target)


def _start(target, mean, weight):
    """Rotation, log scale and translation from the affine camera that fits the mean best."""
    columns = jnp.concatenate([mean, jnp.ones((len(mean), 1))], 1) * weight[:, None]
    affine = jnp.linalg.solve(columns.T @ columns + 1e-6 * jnp.eye(4), columns.T @ (target * weight[:, None]))
    row_x, row_y = affine[:3, 0], affine[:3, 1]
    scale = 0.5 * (jnp.linalg.norm(row_x) + jnp.linalg.norm(row_y))
    x, y = row_x / jnp.linalg.norm(row_x), row_y / jnp.linalg.norm(row_y)
    u, _, vt = jnp.linalg.svd(jnp.stack([x, y, jnp.cross(x, y)]))
    flip = jnp.array([1.0, 1.0, jnp.sign(jnp.linalg.det(u @ vt))])
    return (u * flip) @ vt, jnp.log(scale), affine[3]


def _fit_one(target, mean, modes, strength, weight, iterations):
    count = len(modes)
    prior = jnp.concatenate([jnp.full(count, strength**2), jnp.zeros(6)])

    def project(state):
        coefficients, rotation, log_scale, translation = state
        shape = mean + jnp.tensordot(coefficients, modes, 1)
        return shape, jnp.exp(log_scale) * shape @ rotation[:2].T + translation

    def cost(state):
        residual = (project(state)[1] - target) * weight[:, None]
        return (residual**2).sum() + strength**2 * (state[0] ** 2).sum()

    def moved(state, step):
        coefficients, rotation, log_scale, translation = state
        turn = rotation_exp(step[count : count + 3])
        return (
            coefficients + step[:count], turn @ rotation, log_scale + step[count + 3], translation + step[count + 4 :]
        )  # fmt: skip

    def iterate(_, carry):
        state, damping, value = carry
        coefficients, rotation, log_scale, translation = state
        shape, image = project(state)
        scale = jnp.exp(log_scale)
        turned = shape @ rotation.T
        zero = jnp.zeros(len(mean))
        # d(exp(w) R X) / dw = -[R X]_x, first two rows.
        turn = scale * jnp.stack(
            [jnp.stack([zero, turned[:, 2], -turned[:, 1]], -1), jnp.stack([-turned[:, 2], zero, turned[:, 0]], -1)], 1
        )
        jacobian = jnp.concatenate(
            [
                scale * jnp.einsum("plc,kc->lkp", modes, rotation[:2]),
                turn,
                (image - translation)[..., None],
                jnp.broadcast_to(jnp.eye(2), (len(mean), 2, 2)),
            ],
            -1,
        )
        jacobian = (jacobian * weight[:, None, None]).reshape(-1, count + 6)
        residual = ((image - target) * weight[:, None]).reshape(-1)
        gradient = jacobian.T @ residual + prior * jnp.concatenate([coefficients, jnp.zeros(6)])
        hessian = jacobian.T @ jacobian + jnp.diag(prior)
        hessian = hessian + damping * jnp.diag(jnp.diag(hessian)) + 1e-6 * jnp.eye(count + 6)
        trial = moved(state, cho_solve(cho_factor(hessian), -gradient))
        trial_value = cost(trial)
        better = trial_value < value
        state = jax.tree.map(lambda new, old: jnp.where(better, new, old), trial, state)
        return state, jnp.where(better, damping * 0.3, damping * 4.0), jnp.where(better, trial_value, value)

    state = (jnp.zeros(count), *_start(target, mean, weight))
    state = jax.lax.fori_loop(0, iterations, iterate, (state, jnp.float32(1e-2), cost(state)))[0]
    return project(state)[1], state[1], jnp.exp(state[2]), state[0]
