"""Extreme expressions under bad landmarks: landmarks only, parts only, both. ``python -m benchmarks --only prdl_expressions``.

Faces of ICT-FaceKit (:mod:`benchmarks.ict_faces`) open the jaw, pucker, close the eyes and smile on one side. The landmarks are either noisy (3
pixels of a 224² crop) or biased: those of lids, lips and jaw lie half-way to where the neutral face has them, as detectors' do. The label maps
are the rendered truth with outlines off by 0.75 pixels along
either axis and one part in ten missing. Nothing of a fit's setting was chosen on these faces but
where a table says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fitjax as fj
from benchmarks.prdl_scenes import (
    EVERYTHING,
    Scene,
    make_scene,
    models,
    regions,
    shown,
    solve,
    spoil,
    vertex_errors,
    with_labels,
)
from benchmarks.report import Report, Table, Target
from fitjax.evaluate.parts import SCORED, part_iou
from fitjax.fit.defaults import ROBUST_BESIDE_PARTS
from fitjax.model.params import Params
from fitjax.observation.crop import CROP_SIDE
from fitjax.observation.part_tables import PARTS
from fitjax.observation.parts import GRID
from fitjax.prediction import predict

EXPRESSIONS: dict[str, dict[str, float]] = {
    "jaw": {"jawOpen": 1.0, "mouthFunnel": 0.3},
    "pucker": {"mouthPucker": 1.0},
    "blink": {"eyeBlink_L": 0.85, "eyeBlink_R": 0.85},
    "one-sided smile": {"mouthSmile_L": 1.0, "mouthLeft": 0.4},
}
BAD = ("noisy", "biased")
SETS = {"mediapipe478": "478", "ibug68": "68"}
NOISE_PIXELS, TOWARDS_NEUTRAL = 3.0, 0.5

#: Parts with fewer true pixels are not scored: a closed eye's last pixels say nothing.
_FEWEST_PIXELS = 15

#: Scale of the robust kernel on landmarks, face sizes: chosen among 0.01, 0.02 and 0.03 on people that no table but the last shows.
ROBUST = ROBUST_BESIDE_PARTS

#: Of many landmarks: at least this many times their median residual, chosen on other people as well.
NOISE_WIDTH = 2.5

_ADAM = optax.adam(optax.cosine_decay_schedule(0.02, 200))


def prior_of(name: str) -> Any:
    return fj.default_losses(_blank(name))["prior"]


def _blank(name: str) -> fj.Observation:
    return fj.make_observation({name: np.random.default_rng(0).uniform(100, 300, (478 if "478" in name else 68, 2))})


def spoiled_landmarks(scene: Scene, name: str, how: str, rng: np.random.Generator) -> np.ndarray:
    """Noisy or biased landmarks of a scene, pixels."""
    truth = np.asarray(scene.observation.landmarks[name].points, np.float64)
    if how == "noisy":
        return truth + NOISE_PIXELS * CROP_SIDE * scene.size / GRID * rng.normal(size=truth.shape)
    _, ict = models()
    calm = {**scene.truth, "expression": jnp.zeros(ict.n_expression, jnp.float32)}
    neutral = np.asarray(predict(ict, calm, scene.observation).pixels[name])
    # A pixel of noise besides: exact landmarks elsewhere would be a gift.
    noise = CROP_SIDE * scene.size / GRID * rng.normal(size=truth.shape)
    return truth + TOWARDS_NEUTRAL * (neutral - truth) + noise


def observe(scene: Scene, name: str, how: str, seed: int, **options: Any) -> fj.Observation:
    """What a fit sees of a scene: bad landmarks of one set, and a parser's label map."""
    rng = np.random.default_rng([seed, *how.encode()])
    seen = fj.make_observation({name: spoiled_landmarks(scene, name, how, rng)}, scene.observation.camera)
    return with_labels(seen, spoil(scene.labels, rng), scene.observation, **options)


def score(params: Params, scene: Scene) -> tuple[float, float, float]:
    """Error of mouth and eyes and of the face (mm), mean part IoU (percent)."""
    expected = scene.labels.copy()
    for k in range(1, len(PARTS) + 1):
        if (expected == k).sum() < _FEWEST_PIXELS:
            expected[expected == k] = 0
    inner, face = vertex_errors(params, scene)
    return inner, face, 100 * part_iou(shown(params, scene), expected, SCORED)["mean"]


def losses_of(name: str, parts: Any = None) -> dict[str, Any]:
    return {
        "landmarks": fj.landmarks(name, contour=name == "ibug68"),
        "parts": fj.part_reprojection() if parts is None else parts,
        "prior": prior_of(name),
    }


def robust(losses: dict[str, Any], scale: float = ROBUST) -> dict[str, Any]:
    """The losses with landmarks that lose their say where they are far off, as biased ones are."""
    return losses | {"landmarks": losses["landmarks"].robust("geman_mcclure", np.float32(scale))}


def adam_stages(with_landmarks: float, with_parts: float) -> list[fj.Stage]:
    """Landmarks, then 200 steps of Adam on both; factors on the two weights in the second stage are data."""
    weights = {"landmarks": np.float32(with_landmarks), "parts": np.float32(with_parts), "prior": np.float32(1)}
    solver = fj.FirstOrder(_ADAM, max_steps=50, patience=1000)
    return [
        fj.Stage(EVERYTHING, fj.LevenbergMarquardt(max_steps=40), {"landmarks": 1.0, "prior": 1.0}, name="landmarks"),
        fj.Stage(EVERYTHING, solver, weights, name="parts", outer_steps=4, budget=True),
    ]


def landmarks_only() -> list[fj.Stage]:
    return [
        fj.Stage(
            EVERYTHING,
            fj.LevenbergMarquardt(max_steps=40),
            {"landmarks": 1.0, "prior": 1.0},
            name="landmarks",
            outer_steps=4,
        )
    ]


def parts_stages(with_landmarks: float = 1.0, with_parts: float = 1.0) -> list[fj.Stage]:
    """Landmarks, then what a fit does with parts by default; factors on the two weights in the second stage are data."""
    weights = {"landmarks": np.float32(with_landmarks), "parts": np.float32(with_parts), "prior": np.float32(1)}
    solver = fj.LevenbergMarquardt(max_steps=10, initial_damping=1e-3)
    return [*landmarks_only(), fj.Stage(EVERYTHING, solver, weights, name="parts", outer_steps=3, budget=True)]


Method = Callable[[fj.Observation, str], Params]


def method(stages: list[fj.Stage], change: Callable[[dict[str, Any]], dict[str, Any]] = dict) -> Method:
    """A fit with these stages and the losses as changed."""
    return lambda seen, name: solve(models()[0], seen, change(losses_of(name)), stages)


@jax.jit
def _landmarks_of(model: Any, params: Params, seen: fj.Observation) -> dict[str, Any]:
    pixels = predict(model, params, seen).pixels
    return {name: pixels[name] for name in SETS}


def as_wide_as_the_noise(seen: fj.Observation, name: str) -> Params:
    """The robust kernel of many landmarks is at least as wide as their residuals say: 2.5 times the median after a fit to them alone."""
    model, scale = models()[0], ROBUST
    if name == "mediapipe478":
        found = np.asarray(_landmarks_of(model, method(landmarks_only())(seen, name), seen)[name])
        off = np.linalg.norm(found - np.asarray(seen.landmarks[name].points), axis=1) / float(seen.face_size)
        scale = max(scale, NOISE_WIDTH * float(np.median(off)))
    return method(parts_stages(), lambda losses: robust(losses, scale))(seen, name)


METHODS: dict[str, Method] = {
    "landmarks": method(landmarks_only()),
    "parts": method(parts_stages(with_landmarks=0)),
    "both": method(parts_stages()),
    "both, robust landmarks (default)": method(parts_stages(), lambda losses: robust(losses)),
    "both, kernel as wide as the noise": as_wide_as_the_noise,
}
SHOWN = "both, kernel as wide as the noise"


@fj.residual
def _vertices(pred: Any, obs: Any, *, target: Any, chosen: Any, visible_sets: tuple[str, ...]) -> Any:
    return pred.vertices_camera[chosen] - target


def best_of_the_model(scene: Scene) -> Params:
    """The fit that sees the true vertices of the face in three dimensions: what the model can show at all."""
    model, ict = models()
    face = regions()[0]
    truth = np.asarray(predict(ict, scene.truth, scene.observation).vertices_camera)[face]
    losses = {"vertices": 1e6 * _vertices(target=truth, chosen=face, visible_sets=()), "prior": fj.prior(1e-4)}
    return solve(model, scene.observation, losses, [fj.Stage(EVERYTHING, fj.LevenbergMarquardt(max_steps=60))])


def _means(scenes: Mapping[tuple[str, int], Scene], name: str, how: str, fit: Method) -> dict[str, np.ndarray]:
    """Expression → (3,) scores, means over identities."""
    result: dict[str, np.ndarray] = {}
    for expression in EXPRESSIONS:
        each = [score(fit(observe(s, name, how, seed), name), s) for (e, seed), s in scenes.items() if e == expression]
        result[expression] = np.mean(each, 0)
    return result


def make_scenes(seeds: range) -> dict[tuple[str, int], Scene]:
    """Extreme expressions of some people."""
    return {(name, seed): make_scene(expression, seed) for name, expression in EXPRESSIONS.items() for seed in seeds}


#: Factors on the default weight of the part loss that are tried.
WEIGHTS = (0.3, 1.0, 3.0)


def _rows(
    scenes: Mapping[tuple[str, int], Scene], names: list[str]
) -> tuple[list[list[Any]], dict[tuple[str, str, str], np.ndarray]]:
    """Rows of the table, and mean scores by landmark set, what is wrong with it, and method."""
    rows: list[list[Any]] = []
    mean: dict[tuple[str, str, str], np.ndarray] = {}
    for name in names:
        for how in BAD:
            for title, fit in METHODS.items():
                found = _means(scenes, name, how, fit)
                average = np.mean(list(found.values()), 0)
                mean[name, how, title] = average
                rows.append(
                    [f"{SETS[name]} {how}", title, *(float(v[0]) for v in found.values()), *map(float, average)]
                )
    return rows, mean


def run(quick: bool) -> Report:
    """The benchmark.

    Raises:
        Unavailable: ICT-FaceKit is absent.
    """
    report = Report("prdl_expressions", "Part re-projection distance loss: extreme expressions under bad landmarks")
    scenes = make_scenes(range(200, 201 if quick else 203))
    rows, mean = _rows(scenes, list(SETS)[: 1 if quick else 2])
    # What the model can show, and what it can reach at all with faces that it did not make.
    exact = method(landmarks_only())
    best = {key: score(exact(s.observation, "mediapipe478"), s) for key, s in scenes.items()}
    shape = {key: score(best_of_the_model(s), s) for key, s in scenes.items()}
    limit = {e: np.mean([b for (x, _), b in shape.items() if x == e], 0) for e in EXPRESSIONS}
    floor = {e: np.mean([b for (x, _), b in best.items() if x == e], 0) for e in EXPRESSIONS}
    rows.append(
        [
            "478 exact",
            "landmarks",
            *(float(v[0]) for v in floor.values()),
            *map(float, np.mean(list(floor.values()), 0)),
        ]
    )
    rows.append(["true vertices", "", *(float(v[0]) for v in limit.values()), *map(float, np.mean(list(limit.values()), 0))])
    labels = [
        part_iou(spoil(s.labels, np.random.default_rng(seed), missing=0), s.labels)["mean"]
        for (_, seed), s in scenes.items()
    ]
    columns = ["landmarks", "fit", *(f"{e}, mm" for e in EXPRESSIONS), "eyes and mouth, mm", "face, mm", "part IoU %"]
    note = f"{len(scenes)} faces. IoU of the spoiled label maps themselves, none missing: {100 * float(np.mean(labels)):.0f} %."
    report.tables.append(Table("Vertex error of eyes and mouth by expression, and means", columns, rows, note))
    for name in dict.fromkeys(k[0] for k in mean):
        for how in BAD:
            alone, both = mean[name, how, "landmarks"], mean[name, how, SHOWN]
            what = f"{SETS[name]} {how} landmarks"
            report.targets += [
                Target(
                    f"eyes and mouth, {what}: lower by", 30, 100 * float(1 - both[0] / alone[0]), "%", at_least=True
                ),
                Target(f"part IoU, {what}: higher by", 8, float(both[2] - alone[2]), "points", at_least=True),
            ]
    if not quick:
        others = make_scenes(range(300, 301))
        rows = []
        for weight in WEIGHTS:
            row: list[Any] = [f"{weight:g}"]
            for how in BAD:
                found = _means(others, "mediapipe478", how, method(parts_stages(with_parts=weight), robust))
                row += [float(x) for x in np.mean(list(found.values()), 0)]
            rows.append(row)
        columns = [
            "weight ×",
            *(f"{how}: {x}" for how in BAD for x in ("eyes and mouth, mm", "face, mm", "part IoU %")),
        ]
        report.tables.append(Table("Weight of the parts next to robust landmarks, another person", columns, rows))
    return report
