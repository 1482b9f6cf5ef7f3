"""Weights of networks as tensors of a file: half precision, named by their path."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict


def flatten_weights(weights: Any, prefix: str) -> dict[str, np.ndarray]:
    """Flax weights as half-precision tensors named by their path."""
    return {f"{prefix}.{name}": np.asarray(value, np.float16) for name, value in flatten_dict(weights, sep=".").items()}


def nest_weights(tensors: dict[str, np.ndarray], prefix: str) -> dict[str, Any]:
    """The inverse, in single precision."""
    found = {name.removeprefix(prefix + "."): jnp.asarray(value, jnp.float32) for name, value in tensors.items() if name.startswith(prefix + ".")}
    if not found:
        raise KeyError(prefix)
    nested: dict[str, Any] = unflatten_dict(found, sep=".")
    return nested
