"""The one place that knows on which kind of device a program runs, and what that changes in rasterising.

A :class:`Plan` holds every choice that depends on the device; results never do. ``jax.lax.platform_dependent`` keeps only the branch of
the platform that a program is lowered for, so one traced function exports to all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax


@dataclass(frozen=True)
class Plan:
    """How a device rasterises.

    Attributes:
        single_pass: nearest depth and smallest id in one scatter of (depth, id) pairs, kept in complex numbers, whose ``min`` is
            lexicographic. Otherwise one scatter of depths, then one of ids: only 32-bit integers, which accelerators do natively.
        triangles: small triangles per trip of their loop. A CPU wants what they need to stay in its cache, a GPU wants few launches.
        tiles: tiles of large triangles per trip of theirs.
        whole_windows: a trip tests all pixels of the windows at once, otherwise one row or one pixel of each after the other, and stops
            after the last that any of them needs.
        flat_batch: a batch is rasterised as one mesh of all faces; otherwise face by face.
    """

    single_pass: bool
    triangles: int
    tiles: int
    whole_windows: bool
    flat_batch: bool


CPU = Plan(single_pass=True, triangles=1 << 10, tiles=1 << 8, whole_windows=False, flat_batch=False)
ACCELERATOR = Plan(single_pass=False, triangles=1 << 15, tiles=1 << 12, whole_windows=True, flat_batch=True)


def for_platform(function: Callable[..., Any], *arrays: Any) -> Any:
    """``function(*arrays, plan)`` with the plan of the platform that the surrounding program is lowered for."""
    return jax.lax.platform_dependent(
        *arrays, cpu=partial(function, plan=CPU), default=partial(function, plan=ACCELERATOR)
    )
