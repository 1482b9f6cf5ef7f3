"""``fitjax fit --same-person``: all photos in one solve."""

from __future__ import annotations

import time
from typing import Any

from fitjax.cli.compile_time import compile_seconds
from fitjax.cli.finishing import Run, finish_face
from fitjax.cli.jobs import Job
from fitjax.errors import FitjaxError
from fitjax.fit import Solution, fit_shared
from fitjax.fit.defaults import with_joints
from fitjax.losses.smoothness import smooth_over_time
from fitjax.pytree import replace
from fitjax.solve.sharing import DEFAULT_LEVELS


def fit_person(run: Run, every: list[Job], kinds: set[Any]) -> None:
    """One identity, and expression, pose and light of each photo.

    Args:
        kinds: those of the observations.

    Raises:
        FitjaxError: options or landmarks that do not go together.
    """
    if run.start is not None:
        raise FitjaxError("--start: belongs to one photo, and --same-person fits several; leave it out")
    good = [job for job in every if job.observation is not None]
    results: dict[int, tuple[Solution, float] | str] = {id(job): job.error or "" for job in every}
    observations = [job.observation for job in good if job.observation is not None]
    if len(kinds) > 1:
        raise FitjaxError("--same-person: the photos have different sets of landmarks; give them all the same")
    if observations:
        first, began = observations[0], time.perf_counter()
        losses, stages = run.recipe.losses(first, run.model), with_joints(run.recipe.stages(first), run.model)
        solutions = fit_shared(observations, model=run.model, **_of_person(run, losses, stages))
        seconds = (time.perf_counter() - began - compile_seconds(began)) / len(good)
        results |= {id(job): (solution, seconds) for job, solution in zip(good, solutions)}
    for job in every:
        finish_face(run, job, results[id(job)])()


def _of_person(run: Run, losses: dict[str, Any], stages: list[Any]) -> dict[str, Any]:
    """Losses, stages and what is shared, with the focal length and the smoothness that were asked for."""
    levels: dict[str, Any] = dict(DEFAULT_LEVELS)
    if run.options.shared_focal:
        levels["camera"] = "person"
        stages = [replace(stage, free=stage.free | {"camera": 1.0}) if "pose" in stage.free else stage for stage in stages]
    if run.options.smooth is not None:
        losses = losses | {"smooth": run.options.smooth * smooth_over_time()}
        stages = [replace(s, losses=None if s.losses is None else s.losses | {"smooth": 1.0}) if "pose" in s.free else s for s in stages]
    return {"losses": losses, "stages": stages, "levels": levels}
