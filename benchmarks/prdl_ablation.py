"""What of the part re-projection loss matters: statistics, anchors, numbers of points. ``python -m benchmarks --only prdl_ablation``.

Each variant is measured twice: from starts displaced by 30 % of the face size and rotated by 30° (:mod:`benchmarks.prdl_basin`), and next to
noisy landmarks on extreme expressions (:mod:`benchmarks.prdl_expressions`). Anchors are also compared with all 224² of the paper by the
direction of the gradient.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

import fitjax as fj
from benchmarks import prdl_basin as basin
from benchmarks import prdl_expressions as expressions
from benchmarks.prdl_scenes import Scene, models, reprojection_error, solve, with_labels
from benchmarks.report import Report, Table
from benchmarks.timing import take_turns
from fitjax.geometry.surface import SurfaceSamples
from fitjax.losses.part_kernel import NAMED
from fitjax.losses.parts import sample_set
from fitjax.model.params import retract, zero_tangent
from fitjax.observation.part_tables import PARTS
from fitjax.solve.objective import Problem, costs

STATISTICS = (
    ("nearest",),
    ("furthest",),
    ("mean",),
    ("nearest", "furthest"),
    ("nearest", "mean"),
    ("furthest", "mean"),
    NAMED,
)
STRIDES = (32, 16, 8, 4)
POINTS = (16, 64, 256)


def thinned(model: Any, count: int) -> Any:
    """The model with at most ``count`` samples per part. Sets are ordered farthest first, halves of symmetric parts one after the other."""
    for part in PARTS:
        samples = model.sample_library[sample_set(part)]
        n = len(samples)
        halves = [np.arange(n)] if part.startswith(("right", "left")) else [np.arange(n // 2), np.arange(n // 2, n)]
        chosen = np.concatenate([h[: max(1, min(count, n) // len(halves))] for h in halves])
        model = model.with_samples(
            sample_set(part), SurfaceSamples(samples.triangle[chosen], samples.barycentric[chosen])
        )
    return model


def _variant(
    model: Any, cases: list[basin.Case], scenes: dict[tuple[str, int], Scene], statistics: Any = NAMED, **options: Any
) -> list[float]:
    """Success % and median error % from far starts; eyes and mouth mm and part IoU % on expressions."""
    loss = fj.part_reprojection(statistics=statistics)
    prior = fj.prior(basin._PRIOR)
    found = []
    for i, case in enumerate(cases):
        seen = with_labels(
            case.observation, case.scene.labels, case.scene.observation, statistics=statistics, **options
        )
        for seed in range(2):
            start = basin.start_from(case.best, case.scene, basin.MOVES[basin.HARD], np.random.default_rng([seed, i]))
            params = solve(model, seen, {"loss": loss, "prior": prior}, [basin.stage(1.0)], start)
            found.append(100 * reprojection_error(params, case.scene))
    scores = []
    for (_, seed), scene in scenes.items():
        seen = expressions.observe(scene, "mediapipe478", "noisy", seed, statistics=statistics, **options)
        losses = expressions.robust(expressions.losses_of("mediapipe478", loss))
        scores.append(expressions.score(solve(model, seen, losses, expressions.adam_stages(1, 1)), scene))
    inner, _, iou = np.mean(scores, 0)
    return [
        100 * float(np.mean(np.array(found) <= 100 * basin.SUCCESS)),
        float(np.median(found)),
        float(inner),
        float(iou),
    ]


@jax.jit
def _gradient(problem: Problem, params: Any) -> Any:
    zero = zero_tangent(params, ("pose", "identity", "expression"))
    return jax.value_and_grad(lambda step: costs(problem, retract(params, step))["loss"])(zero)


def _against_all_anchors(case: basin.Case, strides: tuple[int, ...]) -> list[list[Any]]:
    """Loss, direction of the gradient and time of a step by stride, next to all pixels, from moved starts."""
    model, _ = models()
    starts = [
        basin.start_from(case.best, case.scene, basin.MOVES[m], np.random.default_rng(k))
        for k, m in enumerate(basin.MOVES)
    ]
    found = {}
    for stride in (*strides, 1):
        seen = with_labels(case.observation, case.scene.labels, case.scene.observation, anchors=stride)
        problems = [Problem(model, seen, {"loss": fj.part_reprojection()}).refreeze(s) for s in starts]
        values = [_gradient(p, s) for p, s in zip(problems, starts)]
        flat = np.stack([np.concatenate([np.ravel(x) for x in jax.tree.leaves(v[1])]) for v in values])
        call = {"step": lambda _, p=problems[0]: jax.block_until_ready(_gradient(p, starts[0]))}
        found[stride] = (
            np.array([float(v[0]) for v in values]),
            flat,
            1e3 * float(np.median(take_turns(call, 3, warm=True)["step"])),
        )
    value, gradient, _ = found[1]
    rows: list[list[Any]] = []
    for stride, (other, flat, milliseconds) in found.items():
        cosine = (flat * gradient).sum(1) / np.linalg.norm(flat, axis=1) / np.linalg.norm(gradient, axis=1)
        off = np.abs(other / value - 1).max()
        rows.append(
            [str(stride), len(range(224 // stride)) ** 2, 100 * float(off), f"{cosine.min():.4f}", milliseconds]
        )
    return rows


def run(quick: bool) -> Report:
    """The benchmark.

    Raises:
        Unavailable: ICT-FaceKit is absent.
    """
    report = Report("prdl_ablation", "Part re-projection distance loss: what of it matters")
    model, _ = models()
    cases = [basin.make_case(2000 + k) for k in range(1 if quick else 2)]
    scenes = expressions.make_scenes(range(400, 401))
    columns = ["success %", "median error %", "eyes and mouth, mm", "part IoU %"]
    note = f"{2 * len(cases)} starts: {basin.HARD}; {len(scenes)} extreme expressions with 478 noisy landmarks. 200 steps of Adam."
    chosen = STATISTICS[-1:] if quick else STATISTICS
    rows: list[list[Any]] = [[" + ".join(s), *_variant(model, cases, scenes, s)] for s in chosen]
    report.tables.append(Table("Statistics", ["statistics", *columns], rows, note))
    if quick:
        report.tables.append(_anchor_table(cases[0], (8,)))
        return report
    rows = [[f"stride {s}", *_variant(model, cases, scenes, anchors=s)] for s in STRIDES]
    report.tables.append(Table("Anchors", ["anchors", *columns], rows))
    report.tables.append(_anchor_table(cases[0], STRIDES))
    rows = [[f"{n} samples of the model per part", *_variant(thinned(model, n), cases, scenes)] for n in POINTS]
    rows += [[f"{n} points of the photo per part", *_variant(model, cases, scenes, points=n)] for n in POINTS]
    rows += [["512 and 1,024 samples, 1,024 points (default)", *_variant(model, cases, scenes)]]
    report.tables.append(Table("Numbers of points", ["points", *columns], rows))
    return report


def _anchor_table(case: basin.Case, strides: tuple[int, ...]) -> Table:
    columns = ["stride", "anchors", "loss off by at most %", "cosine of gradients, least", "ms per gradient"]
    return Table(f"Anchors next to all 224², {len(basin.MOVES)} starts", columns, _against_all_anchors(case, strides))
