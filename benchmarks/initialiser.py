"""Where fits start: steps and time of Levenberg-Marquardt to a given objective from the closed form and from both networks, by yaw and hidden share.

    python -m benchmarks --only initialiser

Faces are random ones of the embedded model, in projections with noise; harder ones have a third of the points missing on one side, or smooth
warps as of a detector on a turned head. Then portraits of ICT's heads, which no network was trained on: noisy landmarks, parts of the face behind a
piece of another portrait, hidden landmarks missing. A start succeeds when its fit ends within 5 % of the lowest objective that any start of that face
reached, the truth (of ICT: its rotation) included.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fitjax as fj
from benchmarks.image_net import hide, ict_pool, yaw_of
from benchmarks.report import Report, Table, Target
from benchmarks.shared_data import Unavailable
from fitjax.fit.run import run_batch
from fitjax.geometry.rotation import geodesic_angle, rotation_from_aflw2000
from fitjax.image.photo import photo_from_array
from fitjax.train.image_pool import VISIBLE_BIT

SIDE = 450
BINS = ((0, 30), (30, 60), (60, 90))
SETS = ("mediapipe478", "aflw68")
KINDS = ("noise 1 %", "noise 3 %", "a third missing", "warped")
METHODS = ("closed_form", "landmark_net")
#: Of ICT's portraits: noise (face sizes) and the share of the visible face that is hidden.
ICT_KINDS = {"noise 1 %": (0.01, 0.0), "noise 3 %": (0.03, 0.0), "20 % hidden": (0.01, 0.2), "40 % hidden": (0.01, 0.4)}
ICT_METHODS = (*METHODS, "image_net")
#: Portraits of :func:`benchmarks.image_net.ict_pool` that are chosen from.
ICT_POOL = 1750
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


def compare(model: Any, observations: fj.Observation, starts: dict[str, Callable[[], Any]], rotation: Any) -> dict[str, dict[str, Any]]:
    """Figures of fits from each start; the lowest objective is of all of them, only those in :data:`ICT_METHODS` are timed."""
    count = len(np.asarray(observations.ok))
    losses, stages = fj.default_losses(observations), fj.default_stages(observations)
    found: dict[str, dict[str, Any]] = {}
    for method, make in starts.items():
        timed = method in ICT_METHODS
        start, seconds = _timed(make, 2 if timed else 0)
        outcome, fit_seconds = _timed(lambda s=start: run_batch(model, observations, losses, stages, s, True), 2 if timed else 0)
        history = np.asarray(outcome.reports[0].history).sum(-1)
        angle = [np.degrees(np.asarray(geodesic_angle(p["pose"]["rotation"], rotation))) for p in (start, outcome.params)]
        found[method] = {"history": history, "start_ms": 1e3 * seconds / count, "fit_ms": 1e3 * fit_seconds / count, "degrees": angle}
        found[method]["taken"] = np.asarray(outcome.reports[0].steps)
    # A step costs the same wherever it started.
    step_ms = min(f["fit_ms"] / max(float(f["taken"].mean()), 1) for m, f in found.items() if m in ICT_METHODS)
    lowest = np.min([np.nanmin(f["history"], 1) for f in found.values()], 0)
    for f in found.values():
        reached = [f["history"] <= level * lowest[:, None] for level in LEVELS]
        # One that never gets there has spent all its steps.
        f["steps"] = [np.where(r.any(1), r.argmax(1), f["history"].shape[1]) for r in reached]
        f["success"] = np.nanmin(f["history"], 1) <= SUCCESS * lowest
        f["step_ms"] = step_ms
        f["start_ratio"] = f["history"][:, 0] / lowest
        f["end_ratio"] = np.nanmin(f["history"], 1) / lowest
    return found


def measure(model: Any, name: str, bin_: tuple[int, int], kind: str, count: int, seed: int) -> dict[str, Any]:
    """Figures of one cell of the embedded model's faces, by start."""
    rng = np.random.default_rng(seed)
    faces = [face(model, rng, name, rng.choice([-1, 1]) * rng.uniform(*bin_), kind) for _ in range(count)]
    observations, truth = fj.stack_observations([o for o, _ in faces]), _stack([t for _, t in faces])
    starts: dict[str, Callable[[], Any]] = {m: lambda m=m: fj.initialise(observations, model=model, method=m) for m in METHODS}
    return compare(model, observations, starts | {"truth": lambda: truth}, truth["pose"]["rotation"])


def ict_faces(chosen: np.ndarray, noise: float, hidden: float, seed: int) -> tuple[fj.Observation, list[Any], Any]:
    """Observations of portraits of ICT's heads, their pictures, and the rotations (B, 3, 3)."""
    batch, rng = ict_pool(ICT_POOL).take(chosen), np.random.default_rng(seed)
    pictures = batch["image"].astype(np.float32) / 255
    covered, _ = hide(pictures, SimpleNamespace(visible=batch["labels"] & VISIBLE_BIT > 0), hidden, seed)  # type: ignore[arg-type]
    side = pictures.shape[1]
    camera, observations = fj.make_camera(side, side), []
    for points, before, after in zip(batch["points"].astype(np.float64), pictures, covered):
        row, column = np.rint(points.T[::-1]).astype(int).clip(0, side - 1)
        valid = ~(before != after).any(-1)[row, column]
        spoilt = points + noise * np.sqrt(np.ptp(points, axis=0).prod()) * rng.normal(size=points.shape)
        observations.append(fj.make_observation({"aflw68": spoilt}, camera, valid={"aflw68": valid}))
    photos = [photo_from_array(np.round(x * 255).astype(np.uint8)) for x in covered]
    return fj.stack_observations(observations), photos, jnp.asarray(batch["rotation"], jnp.float32)


def measure_ict(model: Any, bin_: tuple[int, int], kind: str, count: int, seed: int) -> dict[str, Any]:
    """Figures of one cell of ICT's faces, by start.

    Raises:
        Unavailable: the data is absent.
    """
    pool = ict_pool(ICT_POOL)
    yaw = np.abs(yaw_of(np.asarray(pool.take(np.arange(ICT_POOL))["rotation"])))
    chosen = np.flatnonzero((yaw >= bin_[0]) & (yaw < bin_[1]))[seed * 17 :][:count]
    observations, photos, rotation = ict_faces(chosen, *ICT_KINDS[kind], seed)
    starts: dict[str, Callable[[], Any]] = {m: lambda m=m: fj.initialise(observations, model=model, method=m) for m in METHODS}
    starts["image_net"] = lambda: fj.initialise(observations, model=model, method="image_net", photo=photos)

    def turned_truly() -> Any:
        plain = fj.initialise(observations, model=model, method="closed_form")
        return plain | {"pose": plain["pose"] | {"rotation": rotation}}

    return compare(model, observations, starts | {"true rotation": turned_truly}, rotation)


COLUMNS = ("objective / lowest", *(f"steps to {x:g}" for x in LEVELS), "steps taken", "start, ms", "a step, ms", "success %")
COLUMNS += ("pose of start °", "pose of fit °")


def _cells(f: dict[str, Any]) -> list[float]:
    steps = [float(s.mean()) for s in f["steps"]]
    row = [float(np.median(f["start_ratio"])), *steps, float(f["taken"].mean()), f["start_ms"], f["step_ms"]]
    return [*row, 100 * float(f["success"].mean()), *(float(np.median(d)) for d in f["degrees"])]


def foreign(report: Report, quick: bool) -> None:
    """Portraits of ICT's heads.

    Raises:
        Unavailable: the data is absent.
    """
    model, count = fj.load_basis(level=0, sample_sets=("aflw68", "mediapipe478")), 8 if quick else 40
    rows: list[list[Any]] = []
    hardest: dict[str, list[np.ndarray]] = {m: [] for m in ICT_METHODS}
    times: dict[str, list[list[float]]] = {m: [] for m in ICT_METHODS}
    steps: dict[str, list[list[float]]] = {m: [] for m in ICT_METHODS}
    for kind in ICT_KINDS:
        for k, bin_ in enumerate(BINS):
            found = measure_ict(model, bin_, kind, count, k + 3 * list(ICT_KINDS).index(kind))
            for method in ICT_METHODS:
                f = found[method]
                rows.append([kind, f"{bin_[0]}-{bin_[1]}", method, *_cells(f)])
                steps[method].append([float(s.mean()) for s in f["steps"]])
                once = 0.0 if method == "closed_form" else f["start_ms"]
                times[method].append([once + x * f["step_ms"] for x in steps[method][-1]])
                if bin_[0] == 60:
                    hardest[method].append(found[method]["success"])
    note = f"{count} faces a row, 68 noisy landmarks. Hidden: of the visible face, by a piece of another portrait; landmarks behind it are missing."
    report.tables.append(Table("Portraits of ICT's heads", ["landmarks", "yaw", "start", *COLUMNS], rows, note))
    summary = [[m, *np.mean(steps[m], 0), *np.mean(times[m], 0)] for m in ICT_METHODS]
    columns = ["start", *(f"steps to {x:g}" for x in LEVELS), *(f"ms to {x:g}, start included" for x in LEVELS)]
    report.tables.append(Table("ICT, all rows", columns, summary))
    for method in ICT_METHODS[1:]:
        share = 100 * float(np.concatenate(hardest[method]).mean())
        report.targets.append(Target(f"ICT: success beyond 60°, all kinds, {method}", 99.0, share, "%", True))


def run(quick: bool = False) -> Report:
    """The benchmark."""
    model = fj.load_basis(level=0, sample_sets=SETS)
    count = 8 if quick else 40
    report = Report("initialiser", "Where a fit starts: closed form and networks")
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
                    rows.append([kind, f"{bin_[0]}-{bin_[1]}", method, *_cells(f)])
                    for total, s in zip(totals[method], f["steps"]):
                        total.append(s)
                    # The closed form is part of the fit itself.
                    once = 0.0 if method == "closed_form" else f["start_ms"]
                    times[method].append([once + x * f["step_ms"] for x in steps])
                if bin_[0] == 60:
                    hardest.append(found["landmark_net"]["success"])
        columns = ["landmarks", "yaw", "start", *COLUMNS]
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
    try:
        foreign(report, quick)
    except Unavailable as reason:
        report.skipped.append(f"ICT: {reason}")
    return report
