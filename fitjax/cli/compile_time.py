"""How much of a run was compiling: tracing, lowering, compiling, or loading what an earlier run compiled."""

from __future__ import annotations

import time

import jax.monitoring

_EVENTS = "/jax/core/compile/"
_intervals: list[tuple[float, float]] = []


def _listen(event: str, duration_secs: float, **_: str | int) -> None:
    if event.startswith(_EVENTS):
        now = time.perf_counter()
        _intervals.append((now - duration_secs, now))


def start_measuring() -> None:
    """Begin to listen to JAX's own timers; calling it again is harmless."""
    # JAX offers no public way to ask whether a listener is there, and two of them would only double the list.
    if not getattr(_listen, "registered", False):
        jax.monitoring.register_event_duration_secs_listener(_listen)
        _listen.registered = True  # type: ignore[attr-defined]


def compile_seconds(since: float, until: float | None = None) -> float:
    """Seconds of compiling between two readings of ``time.perf_counter``.

    The union of the intervals: a function that is traced inside another reports its time twice.
    """
    end = time.perf_counter() if until is None else until
    total, reached = 0.0, since
    for low, high in sorted(_intervals):
        low, high = max(low, reached), min(high, end)
        if high > low:
            total, reached = total + high - low, high
    return total
