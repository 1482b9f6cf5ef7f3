"""Several photos of one person in one solve: the arrow against the dense system, in time and in what comes out."""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fitjax as fj
from benchmarks.report import Report, Table, Target
from fitjax.fit.defaults import default_losses
from fitjax.fit.run import run_joint
from fitjax.geometry.rotation import geodesic_angle, rotation_from_aflw2000
from fitjax.losses.smoothness import smooth_over_time
from fitjax.prediction import predict
from fitjax.solve.sharing import make_sharing

SET = "aflw68"
STEPS = 6

#: Above this the dense system is left out: of 100 photos one step multiplies matrices of 6000 × 13600 and holds gigabytes.
LARGEST_DENSE = 30


def _truth(model: Any, count: int, dtype: type, video: bool) -> dict[str, Any]:
    """One synthetic person, from all sides; or in a video of one second that turns and moves the face smoothly."""
    rng = np.random.default_rng(count)
    identity = jnp.asarray(rng.normal(size=model.n_identity), dtype)
    angles = rng.uniform(-1, 1, (count, 3)) * (15, 40, 10)
    expression = rng.uniform(0, 0.8, (count, model.n_expression)) * (rng.random((count, model.n_expression)) < 0.25)
    place = rng.uniform((-0.02, -0.02, 0.5), (0.02, 0.02, 0.8), (count, 3))
    if video:
        turn = 2 * np.pi * np.linspace(0, 1, count)[:, None]
        angles, place = np.sin(turn + np.array([0, 1, 2])) * (8, 25, 5), np.sin(turn + np.array([2, 1, 0])) * (0.02, 0.02, 0.05) + (0, 0, 0.6)
        expression = expression[0] * (1 + np.sin(turn)) / 2
    return {
        "identity": jnp.tile(identity, (count, 1)),
        "expression": jnp.asarray(expression, dtype),
        "pose": {
            "rotation": jax.vmap(rotation_from_aflw2000)(jnp.asarray(np.radians(angles))).astype(dtype),
            "translation": jnp.asarray(place, dtype),
        },
    }


def _photos(model: Any, truth: dict[str, Any], dtype: type) -> fj.Observation:
    """Landmarks of each photo with 1 px of noise."""
    rng = np.random.default_rng(0)
    camera = fj.make_camera(640, 480, dtype=dtype)
    anything = fj.make_observation({SET: rng.uniform(0, 100, (68, 2))}, camera, dtype=dtype)
    points = np.asarray(jax.jit(jax.vmap(lambda t: predict(model, t, anything).pixels[SET]))(truth))
    points = points + rng.normal(size=points.shape)
    return fj.stack_observations([fj.make_observation({SET: p}, camera, dtype=dtype) for p in points])


def _video(report: Report, model: Any) -> None:
    """What linking frames does to a video: errors against the truth, by strength."""
    truth = _truth(model, 30, np.float32, True)
    observations, sharing = _photos(model, truth, np.float32), make_sharing([0] * 30)
    decode = jax.jit(jax.vmap(lambda i, e: model.decode_samples({"identity": i, "expression": e}, SET).position))
    seen = decode(truth["identity"], truth["expression"])
    stage = fj.Stage({"pose": 1.0, "identity": 1.0, "expression": 1.0}, fj.LevenbergMarquardt(max_steps=30))
    rows = []
    for strength in (0.0, 0.1, 0.3, 1.0, 3.0, 10.0):
        losses = default_losses(observations) | {"smooth": strength * smooth_over_time()}
        params = run_joint(model, observations, losses, [stage], None, sharing).params
        turned = np.degrees(np.asarray(geodesic_angle(params["pose"]["rotation"], truth["pose"]["rotation"])))
        found = decode(jnp.tile(params["identity"], (30, 1)), params["expression"])
        away = 1e3 * np.linalg.norm(np.asarray(found - seen), axis=-1)
        shakes = 1e3 * np.linalg.norm(np.diff(np.asarray(found - seen), axis=0), axis=-1)
        rows.append([strength, float(turned.mean()), float(away.mean()), float(shakes.mean())])
    columns = ["--smooth", "rotation error, degrees", "landmarks' error in the head, mm", "the same from frame to frame, mm"]
    report.tables.append(Table("A synthetic video of 30 frames", columns, rows, "yaw ±25° in a second, 68 landmarks with 1 px of noise on 640 × 480"))


def _outcome(model: Any, observations: fj.Observation, arrow: bool, smooth: bool) -> object:
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
        observations = _photos(model, _truth(model, count, np.float32, False), np.float32)
        arrows[count] = _seconds(partial(_outcome, model, observations, True, False), 2 if quick else 5)
        video = _seconds(partial(_outcome, model, observations, True, True), 2 if quick else 5)
        dense = _seconds(partial(_outcome, model, observations, False, False), 1 if count > 10 else 2) if count <= LARGEST_DENSE else None
        print(count, arrows[count], dense, video, file=sys.stderr, flush=True)
        row = [1e3 * x / STEPS if x is not None else None for x in (arrows[count], dense, video)]
        rows.append([count, row[0], row[0] / count, row[1], None if dense is None else dense / arrows[count], row[2]])
    columns = ["photos", "arrow, ms per step", "per photo", "dense, ms per step", "dense / arrow", "arrow with frames linked"]
    coordinates = f"{model.n_identity} shared and {model.n_expression + 6} own coordinates per photo"
    note = f"CPU ms, float32, {coordinates}, 68 landmarks, {STEPS} steps, best of several"
    report.tables.append(Table("Time of a step by the photos of one person", columns, rows, note))
    few, many = counts[0], counts[-1]
    report.targets.append(Target(f"time per photo, {many} photos over {few}", 1.5, arrows[many] / many / (arrows[few] / few), "×"))
    _video(report, model)
    compared = []
    with jax.enable_x64(True):
        double = model.astype(np.float64)
        for count in counts[:2]:
            observations = _photos(double, _truth(double, count, np.float64, False), np.float64)
            found = [_outcome(double, observations, arrow, True).params for arrow in (True, False)]
            compared.append([count, max(float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, found)))])
    title = f"Largest difference of any parameter after {STEPS} steps, float64, frames linked"
    report.tables.append(Table(title, ["photos", "arrow - dense"], compared))
    report.targets.append(Target("arrow against dense, float64", 1e-6, max(row[1] for row in compared), "any parameter"))
    return report
