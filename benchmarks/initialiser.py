"""Where fits start: steps and time of Levenberg-Marquardt to a given objective from the closed form and from the landmark network, by yaw.

    python -m benchmarks --only initialiser

Faces are random ones of the embedded model, in projections with noise; harder ones have a third of the points missing on one side, or smooth
warps as of a detector on a turned head. A start succeeds when its fit ends within 5 % of the lowest objective that any start of that face
reached, the truth included.
"""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fitjax as fj
from benchmarks.report import Report, Table, Target
from fitjax.fit.run import run_batch
from fitjax.geometry.rotation import geodesic_angle, rotation_from_aflw2000

SIDE = 450
BINS = ((0, 30), (30, 60), (60, 90))
SETS = ("mediapipe478", "aflw68")
KINDS = ("noise 1 %", "noise 3 %", "a third missing", "warped")
METHODS = ("closed_form", "landmark_net")
#: Objectives that are to be reached, over the lowest.
LEVELS = (2.0, 1.2, 1.01)
SUCCESS = 1.05


def face(model: Any, rng: np.random.Generator, name: str, yaw: float, kind: str) -> tuple[fj.Observation, dict[str, Any]]:
    """A noisy observation and its truth."""
    angles = np.radians([rng.uniform(-30, 30), yaw, rng.uniform(-30, 30)])
    rotation = np.asarray(rotation_from_aflw2000(jnp.asarray(angles)), np.float64)
    expression = rng.uniform(0, 0.8, model.n_expression) * (rng.random(model.n_expression) < 0.25 * rng.random())
    identity = rng.normal(size=model.n_identity)
    translation = np.array([*rng.uniform(-0.05, 0.05, 2), rng.uniform(0.4, 1.2)])
    part = model.sampled[name]
    points = np.asarray(part.mean, np.float64) + (np.concatenate([identity, expression]) @ np.asarray(part.modes, np.float64)).reshape(-1, 3)
    points = points @ rotation.T + translation
    camera = fj.make_camera(SIDE, SIDE)
    pixels = np.asarray(camera.focal) * points[:, :2] / points[:, 2:] + np.asarray(camera.centre)
    size = np.sqrt(np.ptp(pixels, axis=0).prod())
    noise = 0.03 if kind == "noise 3 %" else 0.01
    spoilt = pixels + noise * size * rng.normal(size=pixels.shape)
    valid = np.ones(len(pixels), bool)
    if kind == "a third missing":
        along = pixels @ rng.normal(size=2)
        valid = along < np.quantile(along, 2 / 3)
    if kind == "warped":
        x, y = ((pixels - pixels.mean(0)) / size).T
        spoilt += 0.04 * size * np.stack([x, y, x**2, y**2, x * y], -1) @ rng.normal(size=(5, 2))
    pose = {"rotation": jnp.asarray(rotation, jnp.float32), "translation": jnp.asarray(translation, jnp.float32)}
    truth = {"identity": jnp.asarray(identity, jnp.float32), "expression": jnp.asarray(expression, jnp.float32), "pose": pose}
    return fj.make_observation({name: spoilt}, camera, valid={name: valid}), truth


def _stack(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


def _timed(function: Any, repeats: int) -> tuple[Any, float]:
    """The result, and the best of some repeats in seconds; the first call compiles."""
    best, result = np.inf, jax.block_until_ready(function())
    for _ in range(repeats):
        began = time.perf_counter()
        result = jax.block_until_ready(function())
        best = min(best, time.perf_counter() - began)
    return result, best


def measure(model: Any, name: str, bin_: tuple[int, int], kind: str, count: int, seed: int) -> dict[str, Any]:
    """Figures of one cell, by start."""
    rng = np.random.default_rng(seed)
    faces = [face(model, rng, name, rng.choice([-1, 1]) * rng.uniform(*bin_), kind) for _ in range(count)]
    observations, truth = fj.stack_observations([o for o, _ in faces]), _stack([t for _, t in faces])
    losses, stages = fj.default_losses(observations), fj.default_stages(observations)

    def solve(start: Any) -> Any:
        return run_batch(model, observations, losses, stages, start, True)

    found: dict[str, dict[str, Any]] = {}
    for method in (*METHODS, "truth"):
        start, seconds = (truth, 0.0) if method == "truth" else _timed(lambda m=method: fj.initialise(observations, model=model, method=m), 3)
        outcome, fit_seconds = _timed(lambda s=start: solve(s), 2 if method != "truth" else 1)
        history = np.asarray(outcome.reports[0].history).sum(-1)
        angle = [np.degrees(np.asarray(geodesic_angle(p["pose"]["rotation"], truth["pose"]["rotation"]))) for p in (start, outcome.params)]
        found[method] = {"history": history, "start_ms": 1e3 * seconds / count, "fit_ms": 1e3 * fit_seconds / count, "degrees": angle}
        found[method]["taken"] = np.asarray(outcome.reports[0].steps)
    # A step costs the same wherever it started.
    step_ms = min(f["fit_ms"] / float(f["taken"].mean()) for f in (found[m] for m in METHODS))
    lowest = np.min([np.nanmin(f["history"], 1) for f in found.values()], 0)
    for f in found.values():
        reached = [f["history"] <= level * lowest[:, None] for level in LEVELS]
        # One that never gets there has spent all its steps.
        f["steps"] = [np.where(r.any(1), r.argmax(1), f["history"].shape[1]) for r in reached]
        f["success"] = np.nanmin(f["history"], 1) <= SUCCESS * lowest
        f["step_ms"] = step_ms
        f["start_ratio"] = f["history"][:, 0] / lowest
    return found


def run(quick: bool = False) -> Report:
    """The benchmark."""
    model = fj.load_basis(level=0, sample_sets=SETS)
    count = 8 if quick else 40
    report = Report("initialiser", "Where a fit starts: closed form and landmark network")
    hardest: list[np.ndarray] = []
    totals: dict[str, list[list[np.ndarray]]] = {m: [[] for _ in LEVELS] for m in METHODS}
    times: dict[str, list[list[float]]] = {m: [] for m in METHODS}
    for name in SETS:
        rows: list[list[Any]] = []
        for kind in KINDS[:2] if quick else KINDS:
            for k, bin_ in enumerate(BINS):
                found = measure(model, name, bin_, kind, count, 10 * k + KINDS.index(kind))
                for method in METHODS:
                    f = found[method]
                    steps = [float(s.mean()) for s in f["steps"]]
                    rows.append([kind, f"{bin_[0]}-{bin_[1]}", method, float(np.median(f["start_ratio"])), *steps, float(f["taken"].mean())])
                    rows[-1] += [f["start_ms"], f["step_ms"], 100 * float(f["success"].mean()), *(float(np.median(d)) for d in f["degrees"])]
                    for total, s in zip(totals[method], f["steps"]):
                        total.append(s)
                    # The closed form is part of the fit itself.
                    once = 0.0 if method == "closed_form" else f["start_ms"]
                    times[method].append([once + x * f["step_ms"] for x in steps])
                if bin_[0] == 60:
                    hardest.append(found["landmark_net"]["success"])
        columns = ["landmarks", "yaw", "start", "objective / lowest", *(f"steps to {x:g}" for x in LEVELS), "steps taken"]
        columns += ["start, ms", "a step, ms", "success %", "pose of start °", "pose of fit °"]
        note = f"{count} faces a row; objective, pose: medians; steps: means. Steps to a multiple of the lowest objective that any start reached."
        report.tables.append(Table(name, columns, rows, note))
    for i, level in enumerate(LEVELS):
        closed, net = (float(np.concatenate(totals[m][i]).mean()) for m in METHODS)
        what = f"steps to {level:g} × the lowest objective: closed form ({closed:.2f}) over network ({net:.2f})"
        report.targets.append(Target(what, 2.0, closed / max(net, 0.05), "×", True))
    for i, level in enumerate(LEVELS):
        closed, net = (float(np.mean(times[m], 0)[i]) for m in METHODS)
        what = f"time to {level:g} × the lowest objective: closed form ({closed:.1f} ms) over network ({net:.1f} ms, its own time included)"
        report.targets.append(Target(what, 2.0, closed / net, "×", True))
    report.targets.append(Target("success beyond 60°, all kinds", 99.0, 100 * float(np.concatenate(hardest).mean()), "%", True))
    return report
