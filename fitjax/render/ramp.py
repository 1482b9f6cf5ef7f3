"""Soft thresholds."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array


def ramp(x: Array, low: float, high: float) -> Array:
    """0 below ``low``, 1 above ``high``, smooth between."""
    t = jnp.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)
