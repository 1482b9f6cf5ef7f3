"""Spreads of the coefficients from annotated faces: expectation-maximisation of a diagonal Gaussian prior.

The random faces fix the directions of the modes; how far real faces go along each is learnt from the calibration half. Directions
that 68 landmarks do not show keep their spread, because their posterior variance stays what the prior said.
"""

import jax
import jax.numpy as jnp
import numpy as np

from basis.fit_points import BATCH, Fits, fit


def second_moments(fits: Fits, modes: np.ndarray, strength: float) -> np.ndarray:
    """Mean over faces of squared coefficient plus posterior variance (P,), in units of the present spread.

    Pose is marginalised: its six parameters stand in the Hessian without a prior.
    """
    total = np.zeros(len(modes))
    basis = jnp.asarray(modes, jnp.float32)
    for i in range(0, len(fits.scale), BATCH):
        block = slice(i, i + BATCH)
        variance = _posterior_variance(
            jnp.asarray(fits.rotation[block]),
            jnp.asarray(fits.scale[block], jnp.float32),
            jnp.asarray(fits.head[block] - fits.head.mean((0, 1)), jnp.float32),
            basis,
            strength,
        )
        total += (np.asarray(variance) + fits.coefficients[block] ** 2).sum(0)
    return total / len(fits.scale)


@jax.jit
def _posterior_variance(rotation, scale, head, modes, strength):
    def one(rotation, scale, head):
        turned = head @ rotation.T
        zero = jnp.zeros(len(head))
        turn = scale * jnp.stack(
            [jnp.stack([zero, turned[:, 2], -turned[:, 1]], -1), jnp.stack([-turned[:, 2], zero, turned[:, 0]], -1)], 1
        )
        shift = jnp.broadcast_to(jnp.eye(2), (len(head), 2, 2))
        pose = jnp.concatenate([turn, scale * turned[:, :2, None], shift], -1).reshape(-1, 6)
        shape = scale * jnp.einsum("plc,kc->lkp", modes, rotation[:2]).reshape(-1, len(modes))
        q, _ = jnp.linalg.qr(pose)
        shape = (shape - q @ (q.T @ shape)) / strength
        # Woodbury: the data has fewer rows than the prior has coefficients.
        inner = jnp.eye(len(shape)) + shape @ shape.T
        return 1 - (shape * jnp.linalg.solve(inner, shape)).sum(0)

    return jax.vmap(one)(rotation, scale, head)


def spread_factors(
    target: np.ndarray,
    mean: np.ndarray,
    modes: np.ndarray,
    strength: float,
    *,
    rounds: int,
    lowest: np.ndarray,
    highest: np.ndarray,
) -> np.ndarray:
    """Factors (P,) on the spreads of the coefficients, within [lowest, highest]; equal bounds hold a spread fixed."""
    factor = np.ones(len(modes))
    for _ in range(rounds):
        scaled = modes * factor[:, None, None]
        moments = second_moments(fit(target, mean, scaled, strength), scaled, strength)
        factor = np.clip(factor * np.sqrt(moments), lowest, highest)
    return factor
