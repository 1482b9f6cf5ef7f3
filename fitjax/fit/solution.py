"""The result of a fit."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np

from fitjax.errors import FitError
from fitjax.fit.covariance import Covariance, covariance
from fitjax.fit.run import MAXIMUM_RESIDUAL, MAXIMUM_YAW_DEGREES, Outcome, head_frame, predict_final
from fitjax.geometry.rotation import aflw2000_from_rotation
from fitjax.losses.core import Loss
from fitjax.model.params import APPEARANCE, Params
from fitjax.model.protocol import Model
from fitjax.observation.observation import Observation
from fitjax.prediction import Prediction
from fitjax.solve.objective import reads_pixels
from fitjax.solve.stages import Stage, loss_names
from fitjax.solve.status import Status


@dataclass(frozen=True)
class Solution:
    """One fitted face.

    Attributes:
        params: the fitted parameters, a nested dict of named groups.
        status, steps: why the last stage stopped, and the steps of each stage.
        history: stage name → loss name → (T,) cost per step, the first entry before the stage.
        landmark_residual: mean landmark distance in face sizes. yaw_degrees: AFLW2000-3D convention.
        model, observation, losses, stages: what was fitted with what.
        seconds: wall time of the solve, compilation included on a first call.
    """

    params: Params
    status: Status
    steps: dict[str, int]
    history: dict[str, dict[str, np.ndarray]]
    landmark_residual: float
    yaw_degrees: float
    model: Model = field(repr=False)
    observation: Observation = field(repr=False)
    losses: dict[str, Loss] = field(repr=False)
    stages: list[Stage] = field(repr=False)
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """Why the solver stopped, in words."""
        return self.status.reason

    @property
    def ok(self) -> bool:
        """Whether there is a usable result: finite and fitted, converged or not."""
        return self.status in (Status.CONVERGED, Status.MAX_STEPS, Status.STOPPED)

    @property
    def unreliable_because(self) -> tuple[str, ...]:
        """The reasons for :attr:`reliable` being false."""
        reasons = []
        if self.status != Status.CONVERGED:
            reasons.append(self.reason)
        if not self.landmark_residual <= MAXIMUM_RESIDUAL:
            reasons.append(
                f"landmark residual {100 * self.landmark_residual:.1f} % of the face size is above {100 * MAXIMUM_RESIDUAL:.1f} %"
            )
        if not abs(self.yaw_degrees) <= MAXIMUM_YAW_DEGREES:
            reasons.append(f"yaw {self.yaw_degrees:.0f}° is beyond ±{MAXIMUM_YAW_DEGREES:.0f}°, where detectors fail")
        return tuple(reasons)

    @property
    def reliable(self) -> bool:
        """Converged, with a landmark residual of at most 2.1 % of the face size and |yaw| ≤ 50°."""
        return not self.unreliable_because

    @cached_property
    def prediction(self) -> Prediction:
        """The decoded, posed and projected face."""
        return predict_final(self.model, self.params, self.observation)

    @property
    def rotation(self) -> np.ndarray:
        """R_camera_head (3, 3), OpenCV axes."""
        return np.asarray(self.params["pose"]["rotation"])

    @property
    def pitch_yaw_roll_degrees(self) -> np.ndarray:
        """(3,) degrees in the AFLW2000-3D convention and head frame."""
        rotation = self.params["pose"]["rotation"]
        frame = head_frame(self.model, rotation.dtype)
        return np.degrees(np.asarray(aflw2000_from_rotation(rotation @ frame.T)))

    def landmarks(self, name: str = "aflw68") -> np.ndarray:
        """(N, 2) fitted landmarks of a set, pixels of the original image.

        Raises:
            FitError: the model has no such set.
        """
        if name not in self.prediction.pixels:
            raise FitError(f"landmarks {name!r}: the model has {', '.join(self.prediction.pixels)}")
        return np.asarray(self.prediction.pixels[name])

    def costs(self, before: bool = False) -> dict[str, float]:
        """Cost per loss after the last stage that used it, or before the first."""
        stages = list(self.history.values())
        found: dict[str, float] = {}
        for table in reversed(stages) if before else stages:
            found.update({k: float(v[0 if before else -1]) for k, v in table.items()})
        return found

    def covariance(self, noise_pixels: float | None = None) -> Covariance:
        """Uncertainty from the Gauss-Newton Hessian at the solution; see :func:`fitjax.fit.covariance.covariance`.

        Of a fit to pixels it is what the landmarks alone would leave open: the errors of neighbouring pixels go together, and intervals that took
        them for independent would be far too narrow.
        """
        losses = {k: v for k, v in self.losses.items() if v.kind not in ("value", "smooth") and not reads_pixels({k: v})}
        stage = next((s for s in reversed(self.stages) if "pose" in s.free), self.stages[-1])
        free = tuple(g for g, v in stage.free.items() if g not in APPEARANCE and np.any(np.asarray(jax.tree.leaves(v)) != 0))
        return covariance(self.model, self.observation, losses, self.params, free, noise_pixels, stage.free)

    def with_warnings(self, *warnings: str) -> Solution:
        return replace(self, warnings=(*self.warnings, *warnings))


def make_solution(
    outcome: Outcome,
    model: Model,
    observation: Observation,
    losses: dict[str, Loss],
    stages: list[Stage],
    seconds: float,
) -> Solution:
    """A solution from a compiled outcome on the host."""
    history, steps = {}, {}
    names = []
    for i, stage in enumerate(stages):
        name = stage.name if stage.name not in names else f"{stage.name}_{i + 1}"
        names.append(name)
        report = outcome.reports[i]
        used = loss_names(stage, losses)
        table = np.asarray(report.history)
        table = table[np.isfinite(table).any(1)] if len(used) else table
        history[name] = {k: table[:, j] for j, k in enumerate(used)}
        steps[name] = int(report.steps)
    return Solution(
        params=outcome.params,
        status=Status(int(outcome.status)),
        steps=steps,
        history=history,
        landmark_residual=float(outcome.landmark_residual),
        yaw_degrees=float(np.degrees(outcome.yaw)),
        model=model,
        observation=observation,
        losses=losses,
        stages=stages,
        seconds=seconds,
    )


def raise_if_failed(solution: Solution, label: str = "fit") -> None:
    """
    Raises:
        FitError: the solution is not usable; the message says why.
    """
    if not solution.ok:
        hint: Any = "check the landmarks and the start; fj.fit(..., throw=False) returns the solution with its status instead"
        raise FitError(f"{label}: {solution.reason}; {hint}")
