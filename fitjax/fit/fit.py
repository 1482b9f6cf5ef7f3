"""``fit``: the one call."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fitjax.errors import FitError
from fitjax.fit.defaults import default_losses, default_stages, for_model
from fitjax.fit.devices import padded, run_on_devices
from fitjax.fit.photometric import photometric_losses, photometric_stages
from fitjax.fit.run import faces_one_by_one, finish, initial_params, run_batch, run_joint, run_one
from fitjax.fit.solution import Solution, make_solution, raise_if_failed
from fitjax.losses.core import Loss
from fitjax.model.linear import LinearModel
from fitjax.model.load import load_basis
from fitjax.model.params import Params, check_params
from fitjax.model.protocol import Model
from fitjax.observation.observation import Observation, stack_observations
from fitjax.prediction import mesh_of
from fitjax.pytree import replace
from fitjax.solve.objective import Problem
from fitjax.solve.sharing import Level, make_sharing
from fitjax.solve.stages import Stage, StageReport, loss_names, select_losses, stage_setup
from fitjax.solve.status import Status

#: Called after each step with (stage name, step, cost per loss, parameters); returning True stops the fit.
Callback = Callable[[str, int, dict[str, float], Params], Any]


@cache
def default_model() -> LinearModel:
    """The embedded basis, read and sliced once per process: it is immutable, and reading it costs more than fifty fits."""
    return load_basis()


def fit(
    image_or_observation: Any,
    *,
    model: Model | None = None,
    losses: Mapping[str, Loss] | None = None,
    stages: Sequence[Stage] | None = None,
    start: Params | None = None,
    callback: Callback | None = None,
    throw: bool = True,
) -> Solution:
    """Fit one face.

    Args:
        image_or_observation: an :class:`Observation`; or a path, a :class:`fitjax.Photo` or an RGB array, in which the largest face is detected.
        model: default the embedded basis. losses: named losses, default landmarks and priors. stages: default one stage of
            Levenberg-Marquardt over pose, identity, expression and, of an articulated model, jaw and eyes. With a textured model and pixels
            (a photo, or an observation from :func:`fitjax.with_image`) :func:`fitjax.photometric_losses` and
            :func:`fitjax.photometric_stages` instead.
        start: parameters to start from, e.g. those of an earlier solution; groups that are absent start at the mean (a missing pose in closed form).
        callback: called after every step; slower, because each step returns to Python.
        throw: raise when the fit fails; False returns the solution with its status.

    Raises:
        FitError: the fit failed (with ``throw``), or stages and losses do not go together.
        ParamsError: ``start`` does not match the model.
        ImageError, DetectionError, LandmarkError: the photo cannot be read, or shows no face.
    """
    warnings: tuple[str, ...] = ()
    if isinstance(image_or_observation, Observation):
        observation = image_or_observation
    else:
        # Imported here: a fit of given landmarks needs neither images nor a detector.
        from fitjax.observation.crop import with_image
        from fitjax.observation.observe import as_photo, observe

        photo = as_photo(image_or_observation)
        observation, warnings = observe(photo)
        if model is not None and mesh_of(model) is not None:
            observation = with_image(observation, photo)
    model = _slice_parts(default_model() if model is None else model, observation, losses)
    losses, chosen = _defaults(model, observation, losses, stages)
    _check(model, observation, losses, chosen, start)
    began = time.perf_counter()
    if callback is None:
        outcome = run_one(model, observation, losses, chosen, start)
        jax.block_until_ready(outcome.params)
    else:
        outcome = _run_with_callback(model, observation, losses, chosen, start, callback)
    seconds = time.perf_counter() - began
    solution = make_solution(outcome, model, observation, losses, chosen, seconds).with_warnings(*warnings)
    if throw:
        raise_if_failed(solution)
    return solution


def fit_batch(
    observations: Sequence[Observation] | Observation,
    *,
    model: Model | None = None,
    losses: Mapping[str, Loss] | None = None,
    stages: Sequence[Stage] | None = None,
    start: Params | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> list[Solution]:
    """Fit independent faces in one compiled program; a failed face never harms the others, its status says why.

    Args:
        observations: a list (stacked here) or one stacked :class:`Observation`. All must hold the same sets.
        start: parameters with a leading axis of faces.
        devices: share the faces out between these, such as ``jax.local_devices()``, in equal parts (the last face is repeated where the number
            does not divide); None: all on the default device.
    """
    if not isinstance(observations, Observation):
        if not observations:
            return []
        observations = stack_observations(observations)
    model = _slice_parts(default_model() if model is None else model, observations, losses)
    losses, chosen = _defaults(model, observations, losses, stages)
    began = time.perf_counter()
    n, host = len(observations.ok), jax.device_get(observations)
    if devices is None:
        solved = run_batch(model, observations, losses, chosen, start, faces_one_by_one())
    else:
        if not devices:
            raise FitError("devices: expected at least one, found none; leave it out for the default device")
        shared_out, start = padded((host, start), len(devices))
        solved = run_on_devices(model, shared_out, losses, chosen, start, faces_one_by_one(), devices)
    outcome = jax.device_get(solved)
    seconds = time.perf_counter() - began
    return [
        make_solution(
            jax.tree.map(lambda x, i=i: x[i], outcome),
            model,
            jax.tree.map(lambda x, i=i: x[i], host),
            losses,
            chosen,
            seconds / n,
        )
        for i in range(n)
    ]


def fit_shared(
    observations: Sequence[Observation],
    person_of_photo: Sequence[int] | None = None,
    *,
    levels: Mapping[str, Level] | None = None,
    model: Model | None = None,
    losses: Mapping[str, Loss] | None = None,
    stages: Sequence[Stage] | None = None,
    start: Params | None = None,
) -> list[Solution]:
    """Fit several photos together, with parameters shared between those of one person, at a cost that grows linearly with the photos.

    For the frames of a video add `fitjax.losses.smoothness.smooth_over_time` to the losses; for a focal length that all share give ``camera`` a
    level, free it in a stage, and hold it by `fitjax.losses.focal.focal_prior`.

    Args:
        person_of_photo: person index of each photo; default: all show one person.
        levels: group → ``photo``, ``person`` or ``global``; default: identity and albedo per person, the rest per photo.
        start: shared parameters (leading axis: persons, photos or none, by group).

    Returns:
        One solution per photo; photos of one person hold the same shared parameters.
    """
    if not observations:
        return []
    sharing = make_sharing([0] * len(observations) if person_of_photo is None else person_of_photo, levels)
    if sharing.person_of_photo.shape[0] != len(observations):
        raise FitError(f"fit_shared: {len(observations)} photos, but {sharing.person_of_photo.shape[0]} person indices")
    stacked = stack_observations(observations)
    model = default_model() if model is None else model
    losses = default_losses(stacked) if losses is None else dict(losses)
    chosen = for_model(default_stages(stacked), model) if stages is None else list(stages)
    began = time.perf_counter()
    outcome = jax.device_get(run_joint(model, stacked, losses, chosen, start, sharing))
    seconds = time.perf_counter() - began
    per_photo = jax.device_get(sharing.gather(outcome.params))
    solutions = []
    for i, observation in enumerate(observations):
        one = replace(
            outcome,
            params=jax.tree.map(lambda x, i=i: x[i], per_photo),
            status=outcome.status[i],
            landmark_residual=outcome.landmark_residual[i],
            yaw=outcome.yaw[i],
        )
        solutions.append(make_solution(one, model, observation, losses, chosen, seconds / len(observations)))
    return solutions


def _slice_parts(model: Model, observation: Observation, losses: Mapping[str, Loss] | None) -> Model:
    """The model with what the default loss on observed parts reads of it."""
    if observation.parts is None or losses is not None:
        return model
    # Imported here: most fits have no parts.
    from fitjax.losses.parts import with_part_samples

    return with_part_samples(model)


def _defaults(
    model: Model, observation: Observation, losses: Mapping[str, Loss] | None, stages: Sequence[Stage] | None
) -> tuple[dict[str, Loss], list[Stage]]:
    """What was asked for, else what suits the model and the observation."""
    pixels = observation.image is not None and mesh_of(model) is not None
    if losses is None:
        losses = photometric_losses(observation, model) if pixels else default_losses(observation)
        if stages is None:
            stages = for_model(photometric_stages(observation) if pixels else default_stages(observation), model)
    # Losses of the caller's own are for stages that use all losses.
    return dict(losses), for_model(default_stages(replace(observation, parts=None)), model) if stages is None else list(stages)


def _check(
    model: Model, observation: Observation, losses: dict[str, Loss], stages: list[Stage], start: Params | None
) -> None:
    """One clear error before anything is traced."""
    if not losses:
        raise FitError("losses: expected at least one, found an empty dict; see fj.default_losses")
    for name, loss in losses.items():
        if not isinstance(loss, Loss):
            raise FitError(
                f"losses[{name!r}]: expected a Loss, found {type(loss).__name__}; call the factory, e.g. flat_brow() instead of flat_brow"
            )
        set_name = dict(loss.options).get("name")
        if isinstance(set_name, str) and set_name not in observation.landmarks:
            raise FitError(f"losses[{name!r}]: reads landmarks {set_name!r}; the observation has {', '.join(observation.landmarks)}")
        if isinstance(set_name, str) and set_name not in model.sample_sets:
            raise FitError(f"losses[{name!r}]: reads sample set {set_name!r}; the model has {', '.join(model.sample_sets)}")
    if not stages:
        raise FitError("stages: expected at least one, found none; see fj.default_stages")
    if start is not None:
        expected = {k: v for k, v in model.init().items() if k in start}
        check_params(start, expected)


_start = jax.jit(initial_params)
_finish = jax.jit(finish)


@jax.jit
def _begin(
    model: Model, observation: Observation, stage: Stage, losses: dict[str, Loss], params: Params, state: Any
) -> Any:
    zero, mask = stage_setup(stage, params)
    problem = Problem(model, observation, losses).refreeze(params)
    if state is None:
        return problem, stage.solver.init(problem, params, mask, zero)
    return problem, stage.solver.resume(problem, state, mask, zero)


@jax.jit
def _advance(stage: Stage, problem: Problem, state: Any) -> Any:
    zero, mask = stage_setup(stage, state.params)
    return stage.solver.step(problem, mask, zero, state)


def _run_with_callback(
    model: Model,
    observation: Observation,
    losses: dict[str, Loss],
    stages: list[Stage],
    start: Params | None,
    callback: Callback,
) -> Any:
    params = _start(model, observation, start, stages)
    reports: list[StageReport] = []
    stopped = False
    for stage in stages:
        used = select_losses(stage, losses)
        histories, total, status = [], 0, int(Status.RUNNING)
        state = None
        for _ in range(stage.outer_steps):
            problem, state = _begin(model, observation, stage, used, params, state)
            while int(state.status) == Status.RUNNING and not stopped:
                state = _advance(stage, problem, state)
                if int(state.steps) == 0:  # the start itself
                    continue
                row = np.asarray(state.history[int(state.steps)])
                stopped = callback(stage.name, int(state.steps), dict(zip(loss_names(stage, losses), row.tolist())), state.params) is True
            params = state.params
            total += int(state.steps)
            status = int(Status.STOPPED) if stopped else int(state.status)
            histories.append(state.history)
            if stopped:
                break
        reports.append(StageReport(jnp.asarray(status), jnp.asarray(total), jnp.concatenate(histories)))
        if stopped:
            break
    # Stages that never ran leave empty reports, so that every stage has one.
    while len(reports) < len(stages):
        names = loss_names(stages[len(reports)], losses)
        empty = jnp.full((1, len(names)), jnp.nan)
        reports.append(StageReport(jnp.asarray(int(Status.STOPPED)), jnp.asarray(0), empty))
    return _finish(model, observation, losses, params, reports)
