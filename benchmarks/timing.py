"""Timing on a machine that others use too: repeats of all contenders take turns, and medians are compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def take_turns(
    contenders: Mapping[str, Callable[[int], Any]], rounds: int, warm: bool = False
) -> dict[str, np.ndarray]:
    """Seconds (rounds,) per contender. Each is called with the round's number, once outside the clock, then once per round.

    A contender must not return before its work is done.

    Args:
        warm: one more call outside the clock in each turn, where what another contender leaves behind (a cold cache, threads that still spin) would
            count.
    """
    for run in contenders.values():
        run(0)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for index in range(rounds):
        for name, run in contenders.items():
            if warm:
                run(index)
            began = time.perf_counter()
            run(index)
            seconds[name].append(time.perf_counter() - began)
    return {name: np.array(values) for name, values in seconds.items()}
