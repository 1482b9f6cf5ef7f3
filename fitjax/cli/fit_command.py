"""``fitjax fit``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from fitjax.cli.jobs import Job, find_landmarks, find_photos, make_jobs, output_names
from fitjax.cli.main import Fit
from fitjax.detect import Detector, default_detector
from fitjax.errors import FitjaxError, LandmarkError, ParamsError
from fitjax.files.params import load_params
from fitjax.files.result import write_result
from fitjax.fit import Solution, default_losses, default_stages, fit_batch
from fitjax.landmark_files import read_landmarks
from fitjax.model.linear import LinearModel
from fitjax.model.load import load_basis
from fitjax.model.params import check_params
from fitjax.observation.observation import Observation, neutral_observation

#: One compiled program serves every batch; a single photo is a batch of one.
SINGLE = 1


@dataclass
class Row:
    """A line of the summary table."""

    job: Job
    solution: Solution | None = None
    error: str | None = None


def run_fit(options: Fit) -> int:
    """Fit all inputs; 0 only if every face was fitted.

    Raises:
        FitjaxError: nothing can be fitted at all (no input, no model, no detector, an unusable start).
    """
    if options.batch_size < 1:
        raise FitjaxError(f"--batch-size: expected at least 1, found {options.batch_size}")
    if options.focal is not None and not options.focal > 0:
        raise FitjaxError(f"--focal: expected positive pixels, found {options.focal}")
    photos = find_photos(options.inputs)
    if options.landmarks is not None and not options.landmarks.is_dir() and len(photos) > 1:
        raise LandmarkError(f"--landmarks {options.landmarks}: one file for {len(photos)} photos; give a folder of files")
    model = load_basis(options.model, int(options.level))
    start = None if options.start is None else _load_start(options.start, model)
    single = len(photos) == 1 and not options.all_faces
    size = SINGLE if single else options.batch_size
    rows: list[Row] = []
    with ExitStack() as stack:
        detector = None
        if options.landmarks is None:
            detector = stack.enter_context(default_detector(options.face_mesh_model))
        progress = stack.enter_context(_progress(len(photos)))
        task = progress.add_task("fitting", total=len(photos))
        for batch in _batches(options, photos, detector, size, lambda: progress.advance(task)):
            rows.extend(_fit_batch(batch, size, model, start, options.out, detector))
    _print_summary(rows, options.out)
    return 0 if all(row.error is None for row in rows) else 1


def _load_start(path: Path, model: LinearModel) -> dict[str, Any]:
    """Saved parameters that match the model.

    Raises:
        ParamsError: they belong to another model, or are damaged.
    """
    params, facts = load_params(path)
    try:
        check_params(params, model.init())
    except ParamsError as error:
        raise ParamsError(f"--start {path}: {error} (saved with model {facts.get('model', 'unknown')!r})") from None
    return params


def _progress(count: int) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # A bar for one photo is noise; and in a log file it is litter.
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=count < 2 or not console.is_terminal)


def _batches(options: Fit, photos: list[Path], detector: Detector | None, size: int, advance: Any) -> Iterator[list[Job]]:
    """Jobs in input order, ``size`` at a time; a failed photo keeps its slot."""
    pending: list[Job] = []
    for path, name in zip(photos, output_names(photos)):
        pending.extend(
            make_jobs(
                path,
                name,
                detector=detector,
                landmarks=options.landmarks,
                all_faces=options.all_faces,
                camera_kind=options.camera,
                focal=options.focal,
            )
        )
        advance()
        while len(pending) >= size:
            yield pending[:size]
            pending = pending[size:]
    if pending:
        yield pending


def _fit_batch(
    batch: list[Job], size: int, model: LinearModel, start: Any, out: Path, detector: Detector | None
) -> list[Row]:
    """Fit one batch of fixed size and write its results."""
    rows = {id(job): Row(job, error=job.error) for job in batch}
    # Landmark files may hold different sets; each kind of observation is one batch of the same fixed size.
    kinds: dict[Any, list[Job]] = {}
    for job in batch:
        if job.observation is not None:
            kinds.setdefault(_kind(job.observation), []).append(job)
    for jobs in kinds.values():
        members = {id(job) for job in jobs}
        template = jobs[0].observation
        assert template is not None
        neutral = neutral_observation(template)
        slots = [job.observation if id(job) in members and job.observation else neutral for job in batch]
        slots += [neutral] * (size - len(slots))
        solutions = fit_batch(
            slots,
            model=model,
            losses=default_losses(template),
            stages=default_stages(template),
            start=_repeat(start, size),
        )
        for job, solution in zip(batch, solutions):
            if id(job) in members:
                rows[id(job)] = _finish(job, solution, out, detector)
    return list(rows.values())


def _kind(observation: Observation) -> Any:
    return tuple(sorted(observation.landmarks)), observation.camera.kind


def _repeat(start: Any, size: int) -> Any:
    """The same start for every slot; the pose belongs to another photo and is found anew."""
    if start is None:
        return None
    import jax
    import jax.numpy as jnp

    codes = {k: v for k, v in start.items() if k in ("identity", "expression")}
    return jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x), (size, *jnp.shape(x))), codes)


def _finish(job: Job, solution: Solution, out: Path, detector: Detector | None) -> Row:
    assert job.photo is not None
    if not solution.ok:
        return Row(job, solution, f"{job.source}: {solution.reason}")
    warnings = list(job.warnings)
    if not solution.reliable:
        warnings.append(f"{job.source}: not reliable: {'; '.join(solution.unreliable_because)}")
    solution = solution.with_warnings(*warnings)
    try:
        name = None if detector is None else detector.name
        write_result(out / job.name, solution, job.photo, job.timings, name)
    except FitjaxError as error:
        return Row(job, solution, str(error))
    return Row(job, solution)


def _print_summary(rows: list[Row], out: Path) -> None:
    console = Console()
    table = Table("face", "status", "reliable", "residual %", "yaw °", "solve ms", "result")
    for row in rows:
        s = row.solution
        if row.error is not None:
            table.add_row(row.job.name, "[red]failed[/red]", "", "", "", "", "see below")
        else:
            assert s is not None
            reliable = "yes" if s.reliable else "[yellow]no[/yellow]"
            figures = (f"{100 * s.landmark_residual:.2f}", f"{s.yaw_degrees:.0f}", f"{1e3 * s.seconds:.1f}")
            table.add_row(row.job.name, s.status.name.lower(), reliable, *figures, str(out / row.job.name))
    console.print(table)
    for row in rows:
        for warning in row.solution.warnings if row.solution is not None and row.error is None else ():
            print(f"warning: {warning}", file=sys.stderr)
    failed = [row for row in rows if row.error is not None]
    for row in failed:
        print(f"fitjax: {row.error}", file=sys.stderr)
    if failed:
        print(f"fitjax: {len(failed)} of {len(rows)} not fitted", file=sys.stderr)
