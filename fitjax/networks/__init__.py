"""Networks in Flax linen: pure functions of a plain dict of weights."""

from __future__ import annotations

from typing import Any


def run(module: Any, weights: Any, *arguments: Any) -> Any:
    """``module.apply``, whose declared result covers modes (mutable collections) that nothing here uses."""
    return module.apply(weights, *arguments)
