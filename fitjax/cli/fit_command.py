"""``fitjax fit``."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fitjax.cli.compile_time import compile_seconds, start_measuring
from fitjax.cli.fit_setup import (
    BATCH_OF_LANDMARKS,
    BATCH_OF_PHOTOS,
    Recipe,
    check_options,
    has_packed_landmarks,
    load_model,
    load_start,
    output_folder,
    progress_bar,
)
from fitjax.cli.inputs import find_photos
from fitjax.cli.jobs import Job, Making
from fitjax.cli.label_maps import read_table
from fitjax.cli.main import OK, SOME_FAILED, Fit
from fitjax.cli.manifest import PACK, Ledger, WritingThread, configuration_hash
from fitjax.cli.reading import Beside
from fitjax.cli.sources import PackedSource, PhotoSource, Source
from fitjax.cli.summary import Row, failed_row, fitted_row, known_row, manifest_row, print_summary
from fitjax.cli.workers import DetectorChoice, default_workers
from fitjax.errors import FitjaxError
from fitjax.files.atomic import WriteError
from fitjax.files.pack import PackWriter, Record, face_record
from fitjax.files.result import shape_model, write_result
from fitjax.fit import Solution, fit_batch, fit_shared
from fitjax.fit.defaults import with_joints
from fitjax.observation.observation import Observation, neutral_observation, stack_observations

#: One compiled program serves every batch; a single photo is a batch of one.
SINGLE = 1

#: After these nothing more can be written: what is left is left to another run.
_NO_ROOM = {os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)}


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


@dataclass
class _Run:
    """What stays the same from batch to batch."""

    options: Fit
    model: Any
    recipe: Recipe
    start: Any
    size: int
    detector: str | None
    clock: _Clock
    config: str = ""
    rows: list[Row] = field(default_factory=list)


def run_fit(options: Fit, began: float | None = None) -> int:
    """Fit all inputs; 0 only if every face was fitted.

    Raises:
        FitjaxError: nothing can be fitted at all (no input, no model, no detector, an unusable start, nowhere to write).
    """
    start_measuring()
    clock = _Clock(time.perf_counter() if began is None else began)
    check_options(options)
    packed = has_packed_landmarks(options)
    photos = [] if packed else find_photos(options.inputs)
    for option, given in (("--landmarks", options.landmarks), ("--mask", options.mask), ("--labels", options.labels)):
        if given is not None and not given.is_dir() and len(photos) > 1:
            raise FitjaxError(f"{option} {given}: one file for {len(photos)} photos; give a folder of files")
    loading = time.perf_counter()
    table = None if options.labels is None else read_table(options.label_table)
    model, until = load_model(options)
    if options.mask is not None and until == "landmarks":
        raise FitjaxError("--mask: landmarks read no pixels, and this fit stops after them; give --stages photometric or detail")
    recipe = Recipe(until, options.fast)
    start = None if options.start is None else load_start(options.start, model)
    clock.once["load_model"] = time.perf_counter() - loading
    single = len(photos) == 1 and not options.all_faces
    default_size = BATCH_OF_LANDMARKS if packed else BATCH_OF_PHOTOS
    size = SINGLE if single else options.batch_size or default_size
    with ExitStack() as stack:
        stack.enter_context(output_folder(options.out))
        choice = DetectorChoice(options.landmarks is None and not packed, options.face_mesh_model, options.all_faces)
        loading = time.perf_counter()
        detector = choice.make()
        if detector is not None:
            stack.callback(detector.close)
            clock.once["load_detector"] = time.perf_counter() - loading
        run = _Run(options, model, recipe, start, size, None if detector is None else detector.name, clock)
        making = Making(None if options.pack else options.out, options.all_faces, options.camera, options.focal, recipe.pixels, table)
        beside = Beside(options.landmarks, options.mask, options.labels)
        if packed:
            jobs: Source = PackedSource(options)
        else:
            workers = default_workers(len(photos)) if options.workers is None else options.workers
            jobs = PhotoSource(photos, making, beside, choice, detector, workers)
        progress = stack.enter_context(progress_bar(len(jobs.names)))
        task = progress.add_task("fitting", total=len(jobs.names))

        def advance(more: int = 0, by: int = 0) -> None:
            progress.update(task, total=(progress.tasks[task].total or 0) + more, advance=by)

        if options.same_person:
            _fit_person(run, jobs, advance)
        elif single and not options.pack:
            for batch in _batches(run, jobs, None, advance):
                for job, result in _fit_batch(run, batch):
                    run.rows.append(_finish(run, job, result)[0])
        else:
            _fit_many(run, jobs, advance)
    print_summary(run.rows, options.out)
    return OK if all(row.error is None for row in run.rows) else SOME_FAILED


def _batches(run: _Run, jobs: Source, ledger: Ledger | None, advance: Callable[..., None]) -> Iterator[list[Job]]:
    """Jobs in input order, as many at a time as a batch holds; a failed photo keeps its slot, one that is done takes none."""
    pending: list[Job] = []
    for name, faces in jobs.faces(ledger.done if ledger is not None else lambda _: None):
        if faces is None:
            assert ledger is not None
            known = [known_row(row, run.options.out) for row in ledger.rows(name)]
            run.rows.extend(known)
            advance(len(known) - 1, len(known))
            continue
        advance(len(faces) - 1)
        pending.extend(faces)
        while len(pending) >= run.size:
            yield pending[: run.size]
            advance(by=run.size)
            pending = pending[run.size :]
    if pending:
        yield pending
        advance(by=len(pending))


def _fit_many(run: _Run, jobs: Source, advance: Callable[..., None]) -> None:
    """All faces that have no result yet, and the manifest.

    Raises:
        WriteError: there is no room for more; what was done stays.
    """
    options = run.options
    run.config = configuration_hash(options, run.model, run.recipe.until, run.detector)
    with ledger_of(run, options) as ledger:
        pack = None
        if options.pack:
            shape = shape_model(run.model)
            facts = {"config": run.config, "model": shape.name, "basis_sha256": shape.basis_sha256, "level": shape.level, "camera": options.camera}
            pack = PackWriter(options.out / PACK, facts, ledger.last_place())
        try:
            with WritingThread(ledger, pack) as writing:
                for batch in _batches(run, jobs, ledger, advance):
                    told: list[tuple[dict[str, Any], Record | None]] = []
                    try:
                        for job, result in _fit_batch(run, batch):
                            row, record = _finish(run, job, result)
                            run.rows.append(row)
                            told.append((manifest_row(job, row, result, run.config, run.detector, record is not None), record))
                    finally:  # what is written is told, whatever stops the rest of the batch
                        writing.put([t[0] for t in told], [t[1] for t in told])
        except WriteError as error:
            raise FitjaxError(f"{error}; {ledger.added} faces of this run are done, and the same command goes on from there") from None
        ledger.finish(jobs.names)
    place = {name: i for i, name in enumerate(jobs.names)}
    run.rows.sort(key=lambda row: place[row.owner])


@contextmanager
def ledger_of(run: _Run, options: Fit) -> Iterator[Ledger]:
    """The manifest of OUT, closed at the end."""
    ledger = Ledger(options.out, run.config, options.pack, options.again)
    if ledger.damaged:
        print(f"fitjax: warning: the manifest has {ledger.damaged} damaged lines; their faces are fitted again", file=sys.stderr)
    try:
        yield ledger
    finally:
        ledger.close()


def _fit_batch(run: _Run, batch: list[Job]) -> Iterator[tuple[Job, tuple[Solution, float] | str]]:
    """Fit one batch of fixed size; each face's solution with the seconds it took, or why there is none, in order."""
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
        neutral = neutral_observation(template) if len(used) < run.size else template
        observations = [used.get(i) or neutral for i in range(run.size)]
        began = time.perf_counter()
        try:
            solutions = fit_batch(
                observations,
                model=run.model,
                losses=run.recipe.losses(template, run.model),
                stages=with_joints(run.recipe.stages(template), run.model),
                start=_start(run, observations),
            )
        except FitjaxError as error:
            solved.update({i: f"{batch[i].source}: {error}" for i in slots})
            continue
        seconds = (time.perf_counter() - began - compile_seconds(began)) / run.size
        solved.update({i: (solutions[i], seconds) for i in slots})
    for slot, job in enumerate(batch):
        yield job, job.error or solved[slot]


def _kind(observation: Observation) -> Any:
    """What decides the losses and the compiled program: faces of another kind must not change a face's fit."""
    sets = [(name, bool(np.any(np.asarray(seen.depth_valid)))) for name, seen in sorted(observation.landmarks.items())]
    return tuple(sets), observation.camera.kind, observation.image is None, observation.parts is None


def _start(run: _Run, observations: list[Observation]) -> Any:
    """Where each face starts, with a leading axis; None: at the mean face."""
    if run.options.init == "closed_form":
        return _repeat(run.start, run.size)
    # Imported here: Flax takes a while, and most fits need no network.
    from fitjax.initial.initialise import initialise

    return initialise(stack_observations(observations), method=run.options.init, model=run.model)


def _repeat(start: Any, size: int) -> Any:
    """The same start for every slot; the pose belongs to another photo and is found anew."""
    if start is None:
        return None
    codes = {k: v for k, v in start.items() if k in ("identity", "expression", "joints", "albedo")}
    return jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x), (size, *jnp.shape(x))), codes)


def _fit_person(run: _Run, jobs: Source, advance: Callable[..., None]) -> None:
    """All photos in one solve: one identity, and expression, pose and light of each."""
    if run.start is not None:
        raise FitjaxError("--start: belongs to one photo, and --same-person fits several; leave it out")
    every = [job for batch in _batches(run, jobs, None, advance) for job in batch]
    good = [job for job in every if job.observation is not None]
    results: dict[int, tuple[Solution, float] | str] = {id(job): job.error or "" for job in every}
    observations = [job.observation for job in good if job.observation is not None]
    if len({_kind(o) for o in observations}) > 1:
        raise FitjaxError("--same-person: the photos have different sets of landmarks; give them all the same")
    if observations:
        first, began = observations[0], time.perf_counter()
        losses, stages = run.recipe.losses(first, run.model), with_joints(run.recipe.stages(first), run.model)
        solutions = fit_shared(observations, model=run.model, losses=losses, stages=stages)
        seconds = (time.perf_counter() - began - compile_seconds(began)) / len(good)
        results |= {id(job): (solution, seconds) for job, solution in zip(good, solutions)}
    run.rows.extend(_finish(run, job, results[id(job)])[0] for job in every)


def _finish(run: _Run, job: Job, result: tuple[Solution, float] | str) -> tuple[Row, Record | None]:
    """Write the folder of a fitted face, or make its arrays for the pack.

    Raises:
        WriteError: the disk has no room for any more.
    """
    photo, job.photo = job.photo, None  # the pixels are not needed after this
    if isinstance(result, str):
        return failed_row(job, result), None
    solution, seconds = result
    if not solution.ok:
        return failed_row(job, f"{job.source}: not fitted: {solution.reason}; check the landmarks or the photo"), None
    warnings = list(job.warnings)
    if not solution.reliable:
        warnings.append(f"{job.source}: not reliable: {'; '.join(solution.unreliable_because)}")
    solution = solution.with_warnings(*warnings)
    if run.options.pack:
        return fitted_row(job, None, solution, seconds), _record(solution, job)
    assert photo is not None
    folder = run.options.out / job.name
    try:
        write_result(folder, solution, photo, lambda: run.clock.timings(job, seconds), run.detector)
    except FitjaxError as error:
        if isinstance(error, WriteError) and error.reason in _NO_ROOM and run.config:
            raise
        job.content = None  # another run may find a place for it
        return failed_row(job, f"{job.source}: {error}"), None
    return fitted_row(job, folder, solution, seconds), None


def _record(solution: Solution, job: Job) -> Record:
    observation = solution.observation
    camera = {"focal": observation.camera.focal, "centre": observation.camera.centre}
    seen = {k: {"points": v.points, "confidence": v.confidence, "valid": v.valid} for k, v in observation.landmarks.items()}
    return face_record(solution.params, camera, seen, job.size)
