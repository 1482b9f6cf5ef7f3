"""Time of one step on landmarks and pixels together, of compiling it, and of whole fits of a photo.

A step is the gradient of all losses (478 landmarks, priors, photometric) in pose, identity, expression, albedo and light at 224², and Adam's move;
what is in front of what is taken anew once per stage, as in any stage. The photo is synthetic: the time depends on the number of pixels that
show the face, not on what they show.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import fitjax as fj
from benchmarks.photometric_scenes import photograph, random_truth, textured
from benchmarks.report import Report, Table, Target
from benchmarks.shared_data import Unavailable
from benchmarks.timing import take_turns
from fitjax.fit.run import run_one
from fitjax.model.textured import TexturedModel

STEPS = 300
EVERYTHING = {"pose": 1.0, "identity": 1.0, "expression": 1.0, "albedo": 1.0, "light": 1.0}

#: Structure of a compiled fit: one object, so that all stages here share a program.
_ADAM = optax.adam(0.01)

_COMPILE = """
import json, sys
from benchmarks.photometric_step import compile_once
print(json.dumps(compile_once(int(sys.argv[1]), sys.argv[2])))
"""


@cache
def model_of(level: int, part: str = "head") -> TexturedModel:
    """The textured model; with ``part`` = front, its 22,288 triangles nearest to the tip of the nose (as in benchmarks.rasterize)."""
    model = textured(level)
    if part == "head":
        return model
    from fitjax.pytree import replace

    shape = model.shape
    points, triangles = np.asarray(shape.mean), np.asarray(shape.triangles)
    tip = points[points[:, 2].argmax()]
    front = np.sort(np.argsort(((points[triangles].mean(1) - tip) ** 2).sum(1))[:22_288])
    cut = {name: getattr(shape, name)[front] for name in ("triangles", "uv_triangles", "triangle_region")}
    return replace(model, shape=replace(shape, **cut))


@cache
def observation() -> fj.Observation:
    """A face drawn at level 0, with landmarks that are 2 pixels off."""
    rng = np.random.default_rng(3)
    model = textured(0)
    return photograph(model, random_truth(model, rng), "mediapipe478", rng).observation


def step_stage(steps: int = STEPS) -> fj.Stage:
    names = [*fj.default_losses(observation()), "photometric"]
    adam = fj.FirstOrder(_ADAM, max_steps=steps, patience=10 * steps, rates={"pose": 0.05, "identity": 0.5})
    return fj.Stage(EVERYTHING, adam, dict.fromkeys(names, 1.0), name="adam", budget=True)


def compile_once(level: int, part: str = "head") -> dict[str, float]:
    """Seconds of tracing, of lowering and of compiling 300 steps, in this process; JAX's own events tell what the cache gave."""
    from fitjax.cli.main import configure_jax

    configure_jax()
    model, seen = model_of(level, part), observation()
    losses, stages = fj.photometric_losses(seen), [step_stage()]
    start = fj.fit(seen, model=model, losses=losses, stages=fj.photometric_stages(seen, "landmarks"), throw=False).params
    began = time.perf_counter()
    traced = run_one.trace(model, seen, losses, stages, start)
    after_trace = time.perf_counter()
    lowered = traced.lower()
    after_lower = time.perf_counter()
    lowered.compile()
    return {"trace": after_trace - began, "lower": after_lower - after_trace, "compile": time.perf_counter() - after_lower}


def _fresh_process(cache_folder: str, level: int, part: str) -> dict[str, float]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment |= {"FITJAX_CACHE": cache_folder, "XDG_CACHE_HOME": cache_folder}
    command = [sys.executable, "-c", _COMPILE, str(level), part]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root, check=False)
    if done.returncode != 0:
        raise Unavailable(f"a fresh process failed: {done.stderr.strip()[-400:]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _compiling(report: Report, repeats: int) -> None:
    rows: list[list[Any]] = []
    for what, level, part in (("level 1", 1, "head"), ("level 0", 0, "head")):
        runs: dict[str, list[dict[str, float]]] = {"cold": [], "cached": []}
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as folder:
                for name in runs:
                    runs[name].append(_fresh_process(folder, level, part))
        for name, each in runs.items():
            parts = {k: float(np.median([one[k] for one in each])) for k in ("trace", "lower", "compile")}
            rows.append([f"{what}, {name}", *parts.values(), sum(parts.values())])
            limit = 2.5 if name == "cold" else 0.3
            report.targets += [
                Target(f"compile {name}, {what}: XLA alone", limit, parts["compile"], "s"),
                Target(f"compile {name}, {what}: with tracing and lowering", limit, sum(parts.values()), "s"),
            ]
    report.tables.append(Table("Compiling 300 steps in a fresh process, s", ["", "trace", "lower", "compile or read", "sum"], rows))


def _stepping(report: Report, rounds: int) -> None:
    seen = observation()
    losses = fj.photometric_losses(seen)
    contenders = {}
    few = 30
    for what, level, part in (("level 1", 1, "head"), ("22 k triangles of level 1", 1, "front"), ("level 0", 0, "head")):
        model = model_of(level, part)
        stages = fj.photometric_stages(seen, "landmarks")
        start = fj.fit(seen, model=model, losses=losses, stages=stages, throw=False).params
        for steps in (few, STEPS):
            stage = [step_stage(steps)]

            def solve(_: int, model: Any = model, stage: Any = stage, start: Any = start) -> Any:
                return jax.block_until_ready(run_one(model, seen, losses, stage, start).params)

            contenders[f"{what}: {steps}"] = solve
    seconds = take_turns(contenders, rounds)
    rows: list[list[Any]] = []
    for what in dict.fromkeys(k.split(":")[0] for k in contenders):
        whole, short = seconds[f"{what}: {STEPS}"], seconds[f"{what}: {few}"]
        total = float(np.median(whole))
        # What is done once (rasterising, freezing, the figures at the end) drops out of the difference.
        step = float(np.median(whole - short)) / (STEPS - few)
        triangles = len(model_of(*{"level 1": (1, "head"), "level 0": (0, "head")}.get(what, (1, "front"))).triangles)
        rows.append([what, triangles, 1e3 * step, total, float(whole.min())])
        report.targets += [Target(f"a step, {what}", 6.0, 1e3 * step, "ms"), Target(f"300 steps, {what}", 2.0, total, "s")]
    columns = ["mesh", "triangles", "one step, ms", "300 steps, s", "the fastest round, s"]
    report.tables.append(Table("Landmarks and pixels, value and gradient and Adam", columns, rows, f"Medians of {rounds} rounds in turns."))


def _whole(report: Report, rounds: int) -> None:
    """Fits as ``fj.fit`` does them, warm, and the model stage by linearisation."""
    seen = observation()
    model = textured(1)
    losses = fj.photometric_losses(seen)
    recipes = {"full": fj.photometric_stages(seen), "fast": fj.photometric_stages(seen, fast=True)}
    start = fj.fit(seen, model=model, losses=losses, stages=recipes["full"][:1], throw=False).params
    contenders: dict[str, Any] = {}
    for name, stages in recipes.items():
        contenders[name] = lambda _, stages=stages: fj.fit(seen, model=model, losses=losses, stages=stages, throw=False)
        for stage in stages[1:2]:
            contenders[f"{name}: stage {stage.name}"] = lambda _, stage=stage: jax.block_until_ready(run_one(model, seen, losses, [stage], start))
    seconds = {k: float(np.median(v)) for k, v in take_turns(contenders, rounds).items()}
    rows: list[list[Any]] = [[name, value] for name, value in seconds.items()]
    for name, stages in recipes.items():
        stage = stages[1]
        steps = int(run_one(model, seen, losses, [stage], start).reports[0].steps)
        # Each outer step evaluates its start, too.
        each = seconds[f"{name}: stage {stage.name}"] / (steps + stage.outer_steps)
        rows.append([f"{name}: one linearisation of Levenberg-Marquardt at {224 >> stage.halvings}², of {steps + stage.outer_steps}", each])
    report.tables.append(Table("Whole fits, warm, level 1, s", ["", "s"], rows, f"Medians of {rounds} rounds in turns."))
    report.targets += [Target("fit of a photo, full, warm", 20.0, seconds["full"], "s"), Target("fast, warm", 5.0, seconds["fast"], "s")]


def run(quick: bool = False) -> Report:
    """The benchmark."""
    report = Report("photometric_step", "Photometric fit: times")
    _stepping(report, 2 if quick else 7)
    _whole(report, 1 if quick else 3)
    try:
        _compiling(report, 1 if quick else 3)
    except Unavailable as error:
        report.skipped.append(str(error))
    return report
