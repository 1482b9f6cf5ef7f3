"""Why a solver stopped."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """Per face; survives ``vmap`` as an integer."""

    CONVERGED = 0
    MAX_STEPS = 1
    DIVERGED = 2
    NOT_FINITE = 3
    NO_INPUT = 4
    STOPPED = 5
    RUNNING = 6

    @property
    def reason(self) -> str:
        return _REASONS[self]


_REASONS = {
    Status.CONVERGED: "converged",
    Status.MAX_STEPS: "stopped at the maximum number of steps before it converged",
    Status.DIVERGED: "diverged: no step lowers the objective, and the gradient is not small",
    Status.NOT_FINITE: "the objective is not finite at the start or became so",
    Status.NO_INPUT: "the input of this face failed; its slot holds neutral data",
    Status.STOPPED: "stopped by the callback",
    Status.RUNNING: "did not run",
}
