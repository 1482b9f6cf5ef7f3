"""``fitjax fit --same-person``: all photos in one solve."""

from __future__ import annotations

import time
from typing import Any

from fitjax.cli.compile_time import compile_seconds
from fitjax.cli.finishing import Run, finish_face
from fitjax.cli.jobs import Job
from fitjax.cli.main import Fit
from fitjax.errors import FitjaxError
from fitjax.fit import Solution, fit_shared
from fitjax.fit.defaults import OTHER_PRIOR_WEIGHT, for_model
from fitjax.losses.focal import focal_prior
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
        losses, stages = run.recipe.losses(first, run.model), for_model(run.recipe.stages(first), run.model)
        solutions = fit_shared(observations, model=run.model, **of_person(run.options, losses, stages, len(observations)))
        seconds = (time.perf_counter() - began - compile_seconds(began)) / len(good)
        results |= {id(job): (solution, seconds) for job, solution in zip(good, solutions)}
    for job in every:
        finish_face(run, job, results[id(job)])()


def of_person(options: Fit, losses: dict[str, Any], stages: list[Any], photos: int) -> dict[str, Any]:
    """Losses, stages and what is shared, with the focal length and the smoothness that were asked for."""
    levels: dict[str, Any] = dict(DEFAULT_LEVELS)
    more: dict[str, Any] = {}
    if options.shared_focal:
        levels["camera"] = "person"
        more["focal"] = focal_prior(OTHER_PRIOR_WEIGHT / photos)
        stages = [replace(stage, free=stage.free | {"camera": 1.0}) if "pose" in stage.free else stage for stage in stages]
    if options.smooth is not None:
        more["smooth"] = options.smooth * smooth_over_time()
    factors = dict.fromkeys(more, 1.0)
    stages = [replace(s, losses=s.losses | factors) if "pose" in s.free and s.losses is not None else s for s in stages]
    return {"losses": losses | more, "stages": stages, "levels": levels}
