"""Whether fits end in different optima, and whether starting twice helps: few landmarks, near a plane, and half a face in profile.

    python -m benchmarks --only multi_start

Points near a plane look the same for two poses as long as perspective tells nothing (reversal of depth). Fits start from the closed form, from the
landmark network, from the closed form with its depth reversed, and from the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

import fitjax as fj
from benchmarks.initialiser import METHODS, SIDE, SUCCESS, _stack, compare, face
from benchmarks.report import Report, Table

#: Which of the 68 points are there: of all; of those that a profile shows; and far away, where perspective tells nothing.
AMBIGUOUS = {"5 points": 5, "6 points": 6, "8 points": 8, "12 points": 12, "half a face in profile": 0}
#: Eye corners, nose tip, mouth corners: what the simplest detectors give, nearly a plane.
FIVE = np.array([36, 45, 30, 48, 54])


def reversed_depth(params: Any) -> Any:
    """The pose that looks the same for points in a plane: turned the other way about both axes in that plane."""
    flip = jnp.array([1.0, 1, -1])
    rotation = params["pose"]["rotation"] * flip[:, None] * flip
    return params | {"pose": params["pose"] | {"rotation": rotation}}


def measure_ambiguous(model: Any, kind: str, far: bool, count: int, seed: int) -> dict[str, dict[str, Any]]:
    """Fits of few points from several starts."""
    rng, observations, truths = np.random.default_rng(seed), [], []
    camera = fj.make_camera(SIDE, SIDE, focal=20.0 * SIDE if far else None)
    for _ in range(count):
        yaw = rng.choice([-1, 1]) * (rng.uniform(60, 90) if AMBIGUOUS[kind] == 0 else rng.uniform(0, 90))
        _, truth = face(model, rng, "aflw68", yaw, "noise 1 %")
        part, R = model.sampled["aflw68"], np.asarray(truth["pose"]["rotation"], np.float64)
        codes = np.concatenate([truth["identity"], truth["expression"]]).astype(np.float64)
        points = np.asarray(part.mean, np.float64) + (codes @ np.asarray(part.modes, np.float64)).reshape(-1, 3)
        side = points[:, 0] * np.sign(yaw)
        depth = 20.0 * SIDE / (SIDE / 0.35) if far else float(truth["pose"]["translation"][2])
        posed = points @ R.T + np.array([0, 0, depth])
        pixels = np.asarray(camera.focal) * posed[:, :2] / posed[:, 2:] + np.asarray(camera.centre)
        pixels += 0.01 * np.sqrt(np.ptp(pixels, axis=0).prod()) * rng.normal(size=pixels.shape)
        valid = np.zeros(68, bool)
        few = AMBIGUOUS[kind]
        shown = np.flatnonzero(side > np.quantile(side, 0.5)) if few == 0 else FIVE if few == 5 else rng.permutation(68)[:few]
        valid[shown] = True
        observations.append(fj.make_observation({"aflw68": pixels}, camera, valid={"aflw68": valid}))
        truths.append(truth | {"pose": {"rotation": jnp.asarray(R, jnp.float32), "translation": jnp.array([0, 0, depth], jnp.float32)}})
    stacked, truth = fj.stack_observations(observations), _stack(truths)
    starts: dict[str, Callable[[], Any]] = {m: lambda m=m: fj.initialise(stacked, model=model, method=m) for m in METHODS}
    starts["reversed"] = lambda: reversed_depth(fj.initialise(stacked, model=model, method="closed_form"))
    return compare(model, stacked, starts | {"truth": lambda: truth}, truth["pose"]["rotation"])


def run(quick: bool = False) -> Report:
    """The benchmark."""
    report = Report("multi_start", "Few points: which start finds the lowest objective")
    model, count = fj.load_basis(level=0, sample_sets=("aflw68", "mediapipe478")), 20 if quick else 200
    rows: list[list[Any]] = []
    for far in (False, True):
        for k, kind in enumerate(AMBIGUOUS):
            found = measure_ambiguous(model, kind, far, count, k)
            ends = {m: found[m]["end_ratio"] for m in (*METHODS, "reversed", "truth")}
            best_of = np.minimum(ends["closed_form"], ends["reversed"])
            row = [100 * float((e > SUCCESS).mean()) for e in (*ends.values(), best_of)]
            pose = [found[m]["degrees"][1] for m in ("closed_form", "reversed")]
            chosen = np.where(ends["reversed"] < ends["closed_form"], pose[1], pose[0])
            rows.append([kind, "far" if far else "40°", *row, float(np.median(pose[0])), float(pose[0].mean()), float(chosen.mean())])
    columns = ["landmarks", "camera", *(f"{m}: missed, %" for m in (*METHODS, "depth reversed", "truth", "better of closed form and reversed"))]
    columns += ["pose error ° from closed form: median", "mean", "mean, lower objective of both"]
    note = f"{count} random faces a row. Missed: fits that end more than {100 * (SUCCESS - 1):.0f} % above the lowest objective of all four."
    report.tables.append(Table("68 landmarks, few of them there", columns, rows, note))
    return report
