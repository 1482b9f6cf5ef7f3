"""What ``fitjax fit`` carries from batch to batch, and how a fitted face is finished: its folder or its arrays, and its row of the manifest."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax

from fitjax.cli.compile_time import compile_seconds
from fitjax.cli.fit_setup import Recipe
from fitjax.cli.hosts import Part
from fitjax.cli.jobs import Job
from fitjax.cli.main import Fit
from fitjax.cli.manifest import Told
from fitjax.cli.summary import Row, failed_row, fitted_row, manifest_row
from fitjax.errors import FitjaxError
from fitjax.files.atomic import WriteError
from fitjax.files.pack import Record, face_record
from fitjax.files.result import DrawnResult, draw_result
from fitjax.fit import Solution

#: After these nothing more can be written: what is left is left to another run.
_NO_ROOM = {os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)}


class Clock:
    """Seconds per activity since the last face was written; a face's report carries what was spent on the way to it."""

    def __init__(self, began: float) -> None:
        self._since = began
        self.once: dict[str, float] = {"start": time.perf_counter() - began}

    def timings(self, job: Job, solve_seconds: float) -> dict[str, float]:
        """For ``report.json``. ``compile`` is contained in the others, whichever part of the run it fell into."""
        compiling = compile_seconds(self._since)
        self._since = time.perf_counter()
        once, self.once = self.once, {}
        return {**once, **job.timings, "solve": solve_seconds, "compile": compiling}


@dataclass
class Run:
    """What stays the same from batch to batch.

    Attributes:
        size: faces per batch and device; less once memory has run out. sized: whether that is settled. left: faces to come.
    """

    options: Fit
    model: Any
    recipe: Recipe
    start: Any
    size: int
    detector: str | None
    clock: Clock
    config: str = ""
    rows: list[Row] = field(default_factory=list)
    devices: list[jax.Device] = field(default_factory=list)
    part: Part = field(default_factory=Part)
    sized: bool = True
    left: int = 0

    @property
    def batch(self) -> int:
        return self.size * max(len(self.devices), 1)


def finish_face(run: Run, job: Job, result: tuple[Solution, float] | str, inputs: Callable[[str], list[int]] | None = None) -> Told:
    """Draw a fitted face, or make its arrays for the pack; what is returned writes its folder, in any thread, and tells its rows."""
    photo, job.photo = job.photo, None  # the pixels are not needed after this
    if not isinstance(result, str) and not result[0].ok:
        result = f"{job.source}: not fitted: {result[0].reason}; check the landmarks or the photo"
    drawn: DrawnResult | None = None
    record: Record | None = None
    timings: dict[str, float] = {}
    if not isinstance(result, str):
        solution, seconds = result
        warnings = list(job.warnings)
        if not solution.reliable:
            warnings.append(f"{job.source}: not reliable: {'; '.join(solution.unreliable_because)}")
        result = solution.with_warnings(*warnings), seconds
        if run.options.pack:
            record = _record(solution, job)
        else:
            assert photo is not None
            drawn, timings = draw_result(result[0], photo, run.detector), run.clock.timings(job, seconds)

    def tell() -> tuple[dict[str, Any], Record | None]:
        """
        Raises:
            WriteError: the disk has no room for any more.
        """
        said, row = result, None
        folder = None if run.options.pack else run.options.out / job.name
        if drawn is not None and folder is not None:
            try:
                drawn.write(folder, timings)
            except FitjaxError as error:
                if isinstance(error, WriteError) and error.reason in _NO_ROOM and run.config:
                    raise
                job.content = None  # another run may find a place for it
                said = f"{job.source}: {error}"
        row = failed_row(job, said) if isinstance(said, str) else fitted_row(job, folder, *said)
        run.rows.append(row)
        shown = manifest_row(job, row, said, run.config, run.detector, record is not None)
        return shown if inputs is None else shown | {"input": inputs(job.owner)}, record

    return tell


def _record(solution: Solution, job: Job) -> Record:
    observation = solution.observation
    camera = {"focal": observation.camera.focal, "centre": observation.camera.centre}
    seen = {k: {"points": v.points, "confidence": v.confidence, "valid": v.valid} for k, v in observation.landmarks.items()}
    return face_record(solution.params, camera, seen, job.size)
