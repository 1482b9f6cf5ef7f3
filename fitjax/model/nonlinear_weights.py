"""Weights of networks as tensors of a file: half precision, named by their path."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np


def flatten_weights(weights: Any, prefix: str) -> dict[str, np.ndarray]:
    """Flax weights as half-precision tensors named by their path."""
    found: dict[str, np.ndarray] = {}
    for name, part in weights.items():
        if hasattr(part, "items"):
            found |= flatten_weights(part, f"{prefix}.{name}")
        else:
            found[f"{prefix}.{name}"] = np.asarray(part, np.float16)
    return found


def nest_weights(tensors: dict[str, np.ndarray], prefix: str) -> dict[str, Any]:
    """The inverse, in single precision."""
    root: dict[str, Any] = {}
    for name, value in tensors.items():
        if name.startswith(prefix + "."):
            *path, last = name[len(prefix) + 1 :].split(".")
            at = root
            for key in path:
                at = at.setdefault(key, {})
            at[last] = jnp.asarray(value, jnp.float32)
    if not root:
        raise KeyError(prefix)
    return root
