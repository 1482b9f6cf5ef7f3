"""Several photos of one person in one solve: the arrow against the dense system, in time and in what comes out."""

from __future__ import annotations

import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import fitjax as fj
from benchmarks.report import Report, Table, Target
from fitjax.fit.defaults import default_losses
from fitjax.fit.run import run_joint
from fitjax.geometry.rotation import rotation_from_aflw2000
from fitjax.losses.smoothness import smooth_over_time
from fitjax.prediction import predict
from fitjax.solve.sharing import make_sharing

SET = "aflw68"
STEPS = 6

#: Above this the dense system is left out: of 100 photos one step multiplies matrices of 6000 × 13600 and holds gigabytes.
LARGEST_DENSE = 30


def _photos(model: fj.Model, count: int, dtype: type) -> fj.Observation:
    """Photos of one synthetic person from all sides, 1 px of noise."""
    rng = np.random.default_rng(count)
    camera = fj.make_camera(640, 480, dtype=dtype)
    anything = fj.make_observation({SET: rng.uniform(0, 100, (68, 2))}, camera, dtype=dtype)
    identity = jnp.asarray(rng.normal(size=model.n_identity), dtype)
    angles = np.radians(rng.uniform(-1, 1, (count, 3)) * (15, 40, 10))
    truths = {
        "identity": jnp.tile(identity, (count, 1)),
        "expression": jnp.asarray(rng.uniform(0, 0.8, (count, model.n_expression)) * (rng.random((count, model.n_expression)) < 0.25), dtype),
        "pose": {
            "rotation": jax.vmap(rotation_from_aflw2000)(jnp.asarray(angles)).astype(dtype),
            "translation": jnp.asarray(rng.uniform((-0.02, -0.02, 0.5), (0.02, 0.02, 0.8), (count, 3)), dtype),
        },
    }
    points = np.asarray(jax.jit(jax.vmap(lambda t: predict(model, t, anything).pixels[SET]))(truths))
    points = points + rng.normal(size=points.shape)
    return fj.stack_observations([fj.make_observation({SET: p}, camera, dtype=dtype) for p in points])


def _outcome(model: fj.Model, observations: fj.Observation, arrow: bool, smooth: bool) -> object:
    losses = default_losses(observations) | ({"smooth": smooth_over_time(expression=1.0)} if smooth else {})
    # A fixed number of steps, so that both do the same work.
    solver = fj.LevenbergMarquardt(max_steps=STEPS, tolerance=0.0, arrow=arrow)
    stage = fj.Stage({"pose": 1.0, "identity": 1.0, "expression": 1.0}, solver)
    sharing = make_sharing([0] * len(observations.ok))
    return jax.block_until_ready(run_joint(model, observations, losses, [stage], None, sharing))


def _seconds(run: partial, rounds: int) -> float:
    run()
    best = np.inf
    for _ in range(rounds):
        began = time.process_time()
        run()
        best = min(best, time.process_time() - began)
    return best


def run(quick: bool) -> Report:
    report = Report("shared_person", "Several photos of one person")
    model = fj.load_basis(level=0)
    counts = (3, 10) if quick else (3, 10, 30, 100)
    rows, arrows = [], {}
    for count in counts:
        observations = _photos(model, count, np.float32)
        arrows[count] = _seconds(partial(_outcome, model, observations, True, False), 2 if quick else 5)
        video = _seconds(partial(_outcome, model, observations, True, True), 2 if quick else 5)
        dense = _seconds(partial(_outcome, model, observations, False, False), 1 if count > 10 else 2) if count <= LARGEST_DENSE else None
        row = [1e3 * x / STEPS if x is not None else None for x in (arrows[count], dense, video)]
        rows.append([count, row[0], row[0] / count, row[1], None if dense is None else dense / arrows[count], row[2]])
    columns = ["photos", "arrow, ms per step", "per photo", "dense, ms per step", "dense / arrow", "arrow with frames linked"]
    coordinates = f"{model.n_identity} shared and {model.n_expression + 6} own coordinates per photo"
    note = f"CPU ms, float32, {coordinates}, 68 landmarks, {STEPS} steps, best of several"
    report.tables.append(Table("Time of a step by the photos of one person", columns, rows, note))
    few, many = counts[0], counts[-1]
    report.targets.append(Target(f"time per photo, {many} photos over {few}", 1.5, arrows[many] / many / (arrows[few] / few), "×"))
    compared = []
    with jax.enable_x64(True):
        double = model.astype(np.float64)
        for count in counts[:2]:
            for smooth in (False, True):
                found = [_outcome(double, _photos(double, count, np.float64), arrow, smooth).params for arrow in (True, False)]
                worst = max(float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, found)))
                compared.append([count, "linked" if smooth else "not linked", worst])
    report.tables.append(Table("Largest difference of any parameter after the same steps, float64", ["photos", "frames", "arrow - dense"], compared))
    report.targets.append(Target("arrow against dense, float64", 1e-6, max(row[2] for row in compared), "any parameter"))
    return report
