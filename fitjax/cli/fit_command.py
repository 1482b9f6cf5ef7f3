"""``fitjax fit``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fitjax.cli.compile_time import compile_seconds, start_measuring
from fitjax.cli.jobs import Job, find_photos, make_jobs, output_names
from fitjax.cli.label_maps import read_table
from fitjax.cli.main import OK, SOME_FAILED, Fit
from fitjax.cli.summary import Row, fitted_row, print_summary
from fitjax.detect import Detector, FaceMeshDetector, TasksDetector, default_detector
from fitjax.errors import FitjaxError, ParamsError
from fitjax.files.atomic import WriteError
from fitjax.files.params import load_params
from fitjax.files.result import write_result
from fitjax.fit import Solution, default_losses, default_stages, fit_batch
from fitjax.fit.defaults import with_joints
from fitjax.fit.photometric import Depth, photometric_losses, photometric_stages
from fitjax.losses.core import Loss
from fitjax.losses.parts import with_part_samples
from fitjax.model.load import load_basis
from fitjax.model.params import check_params
from fitjax.model.textured import has_albedo, load_textured
from fitjax.observation.observation import Observation, neutral_observation
from fitjax.observation.part_tables import LabelTable
from fitjax.solve.stages import Stage

#: One compiled program serves every batch; a single photo is a batch of one.
SINGLE = 1


@dataclass(frozen=True)
class _Recipe:
    """How far to go, and how fast."""

    until: Depth
    fast: bool

    @property
    def pixels(self) -> bool:
        return self.until != "landmarks"

    def losses(self, observation: Observation, model: Any) -> dict[str, Loss]:
        return photometric_losses(observation, model) if self.pixels else default_losses(observation)

    def stages(self, observation: Observation) -> list[Stage]:
        return photometric_stages(observation, self.until, self.fast) if self.pixels else default_stages(observation)


class _Clock:
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


def run_fit(options: Fit, began: float | None = None) -> int:
    """Fit all inputs; 0 only if every face was fitted.

    Raises:
        FitjaxError: nothing can be fitted at all (no input, no model, no detector, an unusable start, nowhere to write).
    """
    start_measuring()
    clock = _Clock(time.perf_counter() if began is None else began)
    _check(options)
    photos = find_photos(options.inputs)
    for option, given in (("--landmarks", options.landmarks), ("--mask", options.mask), ("--labels", options.labels)):
        if given is not None and not given.is_dir() and len(photos) > 1:
            raise FitjaxError(f"{option} {given}: one file for {len(photos)} photos; give a folder of files")
    loading = time.perf_counter()
    table = None if options.labels is None else read_table(options.label_table)
    model, until = _model(options)
    if options.mask is not None and until == "landmarks":
        raise FitjaxError("--mask: landmarks read no pixels, and this fit stops after them; give --stages photometric or detail")
    start = None if options.start is None else _load_start(options.start, model)
    clock.once["load_model"] = time.perf_counter() - loading
    single = len(photos) == 1 and not options.all_faces
    size = SINGLE if single else options.batch_size
    rows: list[Row] = []
    with ExitStack() as stack:
        stack.enter_context(_output_folder(options.out))
        detector: Detector | None = None
        if options.landmarks is None:
            loading = time.perf_counter()
            own = _detector(options)
            stack.callback(own.close)
            detector = own
            clock.once["load_detector"] = time.perf_counter() - loading
        progress = stack.enter_context(_progress(len(photos)))
        task = progress.add_task("fitting", total=len(photos))

        def more_faces(extra: int) -> None:
            progress.update(task, total=(progress.tasks[task].total or 0) + extra)

        recipe = _Recipe(until, options.fast)
        for batch in _batches(options, photos, detector, size, recipe.pixels, table, more_faces):
            for row in _fit_batch(batch, size, model, recipe, start, options.out, detector, clock):
                rows.append(row)
                progress.advance(task)
    print_summary(rows)
    return OK if all(row.error is None for row in rows) else SOME_FAILED


def _model(options: Fit) -> tuple[Any, Depth]:
    """The model, with albedo where pixels are to be fitted, and the last stage.

    Raises:
        BasisError: no such model, or pixels are asked of one that has no albedo.
    """
    textured = has_albedo(options.model)
    until: Depth = options.stages or ("detail" if textured else "landmarks")
    load = load_basis if until == "landmarks" else load_textured
    model: Any = load(options.model, int(options.level))
    return (model if options.labels is None else with_part_samples(model)), until


def _check(options: Fit) -> None:
    if options.batch_size < 1:
        raise FitjaxError(f"--batch-size: expected at least 1, found {options.batch_size}")
    if options.focal is not None and not 0 < options.focal < float("inf"):
        raise FitjaxError(f"--focal: expected positive pixels, found {options.focal}")
    if options.landmarks is not None and options.all_faces:
        raise FitjaxError("--landmarks and --all-faces: a landmark file describes one face; give one of the two")


def _detector(options: Fit) -> FaceMeshDetector | TasksDetector:
    own = default_detector(options.face_mesh_model)
    # Who asks for every face of a group wants the small ones beside a large one too; looking in tiles takes a second.
    return FaceMeshDetector(thorough=True) if options.all_faces and isinstance(own, FaceMeshDetector) else own


@contextmanager
def _output_folder(out: Path) -> Iterator[None]:
    """Make OUT before anything is fitted, and leave none behind that stayed empty."""
    missing = [p for p in (out, *out.parents) if not p.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise WriteError(out, "a file of that name exists") from None
    except OSError as error:
        raise WriteError(out, error.strerror or type(error).__name__) from None
    try:
        yield
    finally:
        for folder in missing:
            try:
                folder.rmdir()
            except OSError:  # it holds results
                break


def _load_start(path: Path, model: Any) -> dict[str, Any]:
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


def _batches(
    options: Fit,
    photos: list[Path],
    detector: Detector | None,
    size: int,
    pixels: bool,
    table: LabelTable | None,
    more_faces: Callable[[int], None],
) -> Iterator[list[Job]]:
    """Jobs in input order, ``size`` at a time; a failed photo keeps its slot."""
    pending: list[Job] = []
    for path, name in zip(photos, output_names(photos)):
        jobs = list(
            make_jobs(
                path,
                name,
                out=options.out,
                detector=detector,
                landmarks=options.landmarks,
                all_faces=options.all_faces,
                camera_kind=options.camera,
                focal=options.focal,
                pixels=pixels,
                mask=options.mask,
                labels=options.labels,
                table=table,
            )
        )
        more_faces(len(jobs) - 1)
        pending.extend(jobs)
        while len(pending) >= size:
            yield pending[:size]
            pending = pending[size:]
    if pending:
        yield pending


def _fit_batch(
    batch: list[Job],
    size: int,
    model: Any,
    recipe: _Recipe,
    start: Any,
    out: Path,
    detector: Detector | None,
    clock: _Clock,
) -> Iterator[Row]:
    """Fit one batch of fixed size, write its results, and give its rows in order."""
    # Landmark files may hold different sets; each kind of observation is one batch of the same fixed size.
    kinds: dict[Any, list[int]] = {}
    for slot, job in enumerate(batch):
        if job.observation is not None:
            kinds.setdefault(_kind(job.observation), []).append(slot)
    solved: dict[int, tuple[Solution, float] | str] = {}
    for slots in kinds.values():
        template = batch[slots[0]].observation
        assert template is not None
        used: dict[int, Observation | None] = {i: batch[i].observation for i in slots}
        # Made only where a slot is free: its dozen tiny programs cost a single photo 50 ms.
        neutral = neutral_observation(template) if len(used) < size else template
        observations = [used.get(i) or neutral for i in range(size)]
        began = time.perf_counter()
        try:
            solutions = fit_batch(
                observations,
                model=model,
                losses=recipe.losses(template, model),
                stages=with_joints(recipe.stages(template), model),
                start=_repeat(start, size),
            )
        except FitjaxError as error:
            solved.update({i: f"{batch[i].source}: {error}" for i in slots})
            continue
        seconds = (time.perf_counter() - began - compile_seconds(began)) / size
        solved.update({i: (solutions[i], seconds) for i in slots})
    for slot, job in enumerate(batch):
        result = job.error or solved[slot]
        yield Row(job.name, result) if isinstance(result, str) else _finish(job, *result, out, detector, clock)


def _kind(observation: Observation) -> Any:
    return tuple(sorted(observation.landmarks)), observation.camera.kind


def _repeat(start: Any, size: int) -> Any:
    """The same start for every slot; the pose belongs to another photo and is found anew."""
    if start is None:
        return None
    codes = {k: v for k, v in start.items() if k in ("identity", "expression", "joints", "albedo")}
    return jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x), (size, *jnp.shape(x))), codes)


def _finish(job: Job, solution: Solution, seconds: float, out: Path, detector: Detector | None, clock: _Clock) -> Row:
    """Write the folder of a fitted face."""
    photo, job.photo = job.photo, None  # the pixels are not needed after this
    assert photo is not None
    if not solution.ok:
        return Row(job.name, f"{job.source}: not fitted: {solution.reason}; check the landmarks or the photo")
    warnings = list(job.warnings)
    if not solution.reliable:
        warnings.append(f"{job.source}: not reliable: {'; '.join(solution.unreliable_because)}")
    solution = solution.with_warnings(*warnings)
    try:
        name = None if detector is None else detector.name
        write_result(out / job.name, solution, photo, lambda: clock.timings(job, seconds), name)
    except FitjaxError as error:
        return Row(job.name, f"{job.source}: {error}")
    return fitted_row(job.name, out / job.name, solution, seconds)
