"""Timing on a machine that others use too: repeats of all contenders take turns, and medians are compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def take_turns(contenders: Mapping[str, Callable[[int], Any]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds (rounds,) per contender. Each is called with the round's number, once outside the clock, then once per round.

    A contender must not return before its work is done.
    """
    for run in contenders.values():
        run(0)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for index in range(rounds):
        for name, run in contenders.items():
            began = time.perf_counter()
            run(index)
            seconds[name].append(time.perf_counter() - began)
    return {name: np.array(values) for name, values in seconds.items()}
