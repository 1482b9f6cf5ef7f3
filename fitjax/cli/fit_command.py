"""``fitjax fit``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fitjax.cli.compile_time import compile_seconds, start_measuring
from fitjax.cli.finishing import Clock, Run, finish_face
from fitjax.cli.fit_setup import (
    Recipe,
    check_options,
    has_packed_landmarks,
    load_model,
    load_start,
    output_folder,
    progress_bar,
)
from fitjax.cli.hosts import part_of
from fitjax.cli.inputs import find_photos
from fitjax.cli.jobs import Job, Making
from fitjax.cli.label_maps import read_table
from fitjax.cli.looking import looking_of, starts_of, weighed
from fitjax.cli.main import OK, SOME_FAILED, Fit
from fitjax.cli.manifest import PACK, Ledger, Told, WritingThread, configuration_hash
from fitjax.cli.memory import bytes_per_face, first_batch_size, fitting_batch_size, free_memory, is_out_of_memory
from fitjax.cli.person import fit_person
from fitjax.cli.reading import Beside
from fitjax.cli.sources import PackedSource, PhotoSource, Source
from fitjax.cli.summary import known_row, print_summary
from fitjax.cli.workers import DetectorChoice, default_workers
from fitjax.errors import FitjaxError
from fitjax.files.atomic import WriteError
from fitjax.files.pack import PackWriter
from fitjax.files.result import shape_model
from fitjax.fit import Solution, fit_batch
from fitjax.fit.defaults import for_model
from fitjax.observation.observation import Observation, neutral_observation, stack_observations

#: One compiled program serves every batch; a single photo is a batch of one.
SINGLE = 1

#: How many folders of results may wait to be written, and how many batches of a pack.
FEW, MANY = 2, 4


def run_fit(options: Fit, began: float | None = None) -> int:
    """Fit all inputs; 0 only if every face was fitted.

    Raises:
        FitjaxError: nothing can be fitted at all (no input, no model, no detector, an unusable start, nowhere to write).
    """
    start_measuring()
    clock = Clock(time.perf_counter() if began is None else began)
    check_options(options)
    part = part_of(options)  # before anything touches a device
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
    devices = jax.local_devices()
    start = None if options.start is None else load_start(options.start, model)
    clock.once["load_model"] = time.perf_counter() - loading
    single = len(photos) == 1 and not options.all_faces
    size = SINGLE if single else options.batch_size or first_batch_size(not packed, devices)
    with ExitStack() as stack:
        stack.enter_context(output_folder(options.out, part.count == 1))
        looking = looking_of(options, model, len(photos))
        choice = DetectorChoice(options.landmarks is None and options.box is None and not packed, options.face_mesh_model, options.all_faces)
        loading = time.perf_counter()
        detector = choice.make()
        if detector is not None:
            stack.callback(detector.close)
            clock.once["load_detector"] = time.perf_counter() - loading
        run = Run(options, model, recipe, start, size, None if detector is None else detector.name, clock, part=part)
        run.devices = [] if single or options.same_person or len(devices) == 1 else devices
        run.sized = single or options.batch_size is not None or devices[0].platform == "cpu"
        making = Making(None if options.pack else options.out, options.all_faces, options.camera, options.focal, recipe.pixels, table, looking)
        beside = Beside(options.landmarks, options.mask, options.labels, options.box is not None)
        if packed:
            jobs: Source = PackedSource(options, part)
        else:
            workers = default_workers(len(photos) // part.count) if options.workers is None else options.workers
            jobs = PhotoSource(photos, making, beside, choice, detector, workers, part)
        run.left = len(jobs.names)
        progress = stack.enter_context(progress_bar(len(jobs.names)))
        task = progress.add_task("fitting", total=len(jobs.names))

        def advance(more: int = 0, by: int = 0) -> None:
            progress.update(task, total=(progress.tasks[task].total or 0) + more, advance=by)

        if options.same_person:
            every = [job for batch in _batches(run, jobs, None, advance) for job in batch]
            fit_person(run, every, {_kind(job.observation) for job in every if job.observation is not None})
        elif single and part.count == 1 and not options.pack:
            for batch in _batches(run, jobs, None, advance):
                for job, result in _fit_batch(run, batch):
                    finish_face(run, job, result)()
        else:
            _fit_many(run, jobs, advance)
    print_summary(run.rows, options.out, part.name)
    return OK if all(row.error is None for row in run.rows) else SOME_FAILED


def _batches(run: Run, jobs: Source, ledger: Ledger | None, advance: Callable[..., None]) -> Iterator[list[Job]]:
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
        while len(pending) >= run.batch:
            batch, pending = pending[: run.batch], pending[run.batch :]
            yield batch
            advance(by=len(batch))
            run.left -= len(batch)
    if pending:
        yield pending
        advance(by=len(pending))


def _fit_many(run: Run, jobs: Source, advance: Callable[..., None]) -> None:
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
            pack = PackWriter(options.out / PACK, facts, ledger.last_place(), run.part.first_shard)
        number = {name: i for i, name in enumerate(jobs.inputs)} if run.part.count > 1 else {}
        inputs = (lambda name: [number[name], len(number)]) if number else None
        try:
            # A pack is written anew with each batch; a folder takes memory until it is written, so that few of them may wait.
            with WritingThread(ledger, pack, FEW if pack is None else MANY) as writing:
                for batch in _batches(run, jobs, ledger, advance):
                    told: list[Told] = []
                    for job, result in _fit_batch(run, batch):
                        told.append(finish_face(run, job, result, inputs))
                        if pack is None:
                            writing.put([told.pop()])
                    if told:
                        writing.put(told)
        except WriteError as error:
            raise FitjaxError(f"{error}; {ledger.added} faces of this run are done, and the same command goes on from there") from None
        ledger.finish(jobs.names, inputs)
    place = {name: i for i, name in enumerate(jobs.names)}
    run.rows.sort(key=lambda row: place[row.owner])


@contextmanager
def ledger_of(run: Run, options: Fit) -> Iterator[Ledger]:
    """The manifest of OUT, closed at the end."""
    ledger = Ledger(options.out, run.config, options.pack, options.again, run.part)
    if ledger.damaged:
        print(f"fitjax: warning: the manifest has {ledger.damaged} damaged lines; their faces are fitted again", file=sys.stderr)
    try:
        yield ledger
    finally:
        ledger.close()


def _fit_batch(run: Run, batch: list[Job]) -> Iterator[tuple[Job, tuple[Solution, float] | str]]:
    """Fit one batch; each face's solution with the seconds it took, or why there is none, in order. Where memory runs out, in halves.

    Raises:
        FitjaxError: one face is too much.
    """
    if not run.sized:
        _measure(run, batch)
    while batch:
        chunk, rest = batch[: run.batch], batch[run.batch :]
        try:
            solved = _solve(run, chunk)
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            solved = None
        if solved is not None:
            yield from solved
            batch = rest
            continue
        if run.size == 1:
            raise FitjaxError("the device has no memory for a single face; close what else uses it, or give --fast or --stages landmarks") from None
        run.size //= 2
        print(f"fitjax: out of memory; going on with batches of {run.size}", file=sys.stderr)


def _solve(run: Run, batch: list[Job]) -> list[tuple[Job, tuple[Solution, float] | str]]:
    """At most a batch of fixed size, always filled up."""
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
        losses = weighed(run.recipe.losses(template, run.model), run.options.parse is not None)
        stages = for_model(run.recipe.stages(template), run.model)
        # Made only where a slot is free: its dozen tiny programs cost a single photo 50 ms.
        neutral = neutral_observation(template) if len(used) < run.batch else template
        observations = [used.get(i) or neutral for i in range(run.batch)]
        began = time.perf_counter()
        try:
            solutions = fit_batch(
                observations, model=run.model, losses=losses, stages=stages, devices=run.devices or None,
                start=_start(run, observations, [batch[i].start if i in used else None for i in range(run.batch)]),
            )
        except FitjaxError as error:
            solved.update({i: f"{batch[i].source}: {error}" for i in slots})
            continue
        seconds = (time.perf_counter() - began - compile_seconds(began)) / run.batch
        solved.update({i: (solutions[i], seconds) for i in slots})
    return [(job, job.error or solved[slot]) for slot, job in enumerate(batch)]


def _measure(run: Run, batch: list[Job]) -> None:
    """As many faces to an accelerator as its memory holds, by what the compiler says of a batch of the usual size."""
    template = next((job.observation for job in batch if job.observation is not None), None)
    if template is None or run.left <= run.batch:
        return
    device = (run.devices or jax.local_devices())[0]
    losses, stages = run.recipe.losses(template, run.model), for_model(run.recipe.stages(template), run.model)
    try:
        start = _start(run, [template] * run.size, [None] * run.size)
        each = bytes_per_face(run.model, stack_observations([template] * run.size), losses, stages, start)
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        run.sized = True  # fitting halves the batch
        return
    left = -(-run.left // max(len(run.devices), 1))
    run.sized, run.size = True, fitting_batch_size(free_memory(device), each, run.size, run.recipe.pixels, left)


def _kind(observation: Observation) -> Any:
    """What decides the losses and the compiled program: faces of another kind must not change a face's fit."""
    sets = [(name, bool(np.any(np.asarray(seen.depth_valid)))) for name, seen in sorted(observation.landmarks.items())]
    return tuple(sets), observation.camera.kind, observation.image is None, observation.parts is None


def _start(run: Run, observations: list[Observation], found: list[Any] | None = None) -> Any:
    """Where each face starts, with a leading axis; None: at the mean face. ``found``: what the image network says of each, or None."""
    if run.options.init == "image_net" or run.options.box is not None:
        return starts_of(run.model, stack_observations(observations), found or [])
    if run.options.init == "closed_form":
        return _repeat(run.start, len(observations))
    # Imported here: Flax takes a while, and most fits need no network.
    from fitjax.initial.initialise import initialise

    return initialise(stack_observations(observations), method=run.options.init, model=run.model)


def _repeat(start: Any, size: int) -> Any:
    """The same start for every slot; the pose belongs to another photo and is found anew."""
    if start is None:
        return None
    codes = {k: v for k, v in start.items() if k in ("identity", "expression", "joints", "albedo")}
    return jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x), (size, *jnp.shape(x))), codes)
