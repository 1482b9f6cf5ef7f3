"""What proxies buy: pairing, robustness and identity of the nonlinear model. ``python -m benchmarks.nonlinear_effects FOLDER``.

FOLDER is that of ``python -m basis.train_nonlinear FOLDER``, for its held-out people. Photos are drawn: held-out MakeHuman heads on the linear basis
with its linear expressions, and albedo of a seed that nothing was trained on, so that neither model has drawn its own test.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

import fitjax as fj
from basis.geometry import similarity
from benchmarks import report
from benchmarks.nonlinear_scenes import CONDITIONS, people, person_scene, spoiled, truth_model
from benchmarks.photometric_scenes import Scene, _face_vertices, draw
from benchmarks.report import Report, Table, Target
from fitjax.fit.photometric import photometric_losses
from fitjax.losses.proxies import paired_photometric
from fitjax.model.light_prior import light_from_code
from fitjax.model.textured import TexturedModel
from fitjax.pytree import replace
from fitjax.render.lighting import diffuse_shading
from fitjax.solve.stages import Stage

PARTS = ["robustness", "identity", "pairing"]
SPOILED = ("clean", "half grey", "half noise", "noisy")
#: Steps of Adam per outer step and outer steps, at half the crop's size, of the experiment on pairing.
_STEPS, _OUTER = 100, 4


def models() -> dict[str, TexturedModel]:
    return {"linear": fj.load_textured(level=0), "nonlinear": fj.load_textured("nonlinear", level=0)}


def fitted(model: TexturedModel, observation: Any) -> dict[str, Any]:
    """Parameters by codes alone, as ``fitjax fit --stages photometric`` finds them."""
    losses, stages = photometric_losses(observation, model), fj.photometric_stages(observation, "photometric")
    return fj.fit(observation, model=model, losses=losses, stages=stages, throw=False).params


def vertex_error(found: Any, truth: Any) -> float:
    """Mean distance of the face's vertices after the best similarity, millimetres."""
    face = _face_vertices(len(found))
    a, b = np.asarray(found, np.float64)[face], np.asarray(truth, np.float64)[face]
    scale, rotation, shift = similarity(a, b)
    return 1000 * float(np.linalg.norm(scale * a @ rotation.T + shift - b, axis=1).mean())


def robustness(report: Report, folder: Path, count: int, conditions: tuple[str, ...] = SPOILED, components: bool = False) -> None:
    """Vertex errors of linear, proxy and full shape on photos that are clean, half covered and noisy; of components too if asked for: the lift
    without its gates, principal components with as many codes and the closed-form proxy."""
    truth, candidates = truth_model(), models()
    lifted, off = candidates["nonlinear"], np.float32(0)
    if components:
        candidates["components"] = replace(lifted, shape=replace(lifted.shape, gate=off), albedo=replace(lifted.albedo, gate=off))
    persons = people(folder, count)
    found: dict[str, dict[str, list[float]]] = {}
    for k, person in enumerate(persons):
        rng = np.random.default_rng([11, k])
        clean = person_scene(truth, person, rng, "everything")
        actual = truth.decode(clean.truth).vertices
        for condition in conditions:
            scene = clean if condition == "clean" else spoiled(clean, condition, np.random.default_rng([12, k]))
            for name, model in candidates.items():
                face = model.decode(fitted(model, scene.observation))
                row = found.setdefault(condition, {})
                row.setdefault(f"{name} full", []).append(vertex_error(face.vertices, actual))
                row.setdefault(f"{name} proxy", []).append(vertex_error(face.proxy_vertices, actual))
            print(condition, k, {name: round(v[-1], 3) for name, v in found[condition].items()}, file=sys.stderr, flush=True)
    rows: list[list[Any]] = []
    names = ["linear full", "nonlinear proxy", "nonlinear full"] + ["components proxy", "components full"] * components
    for condition, each in found.items():
        linear, proxy, full, *others = (float(np.mean(each[name])) for name in names)
        worse = [100 * (x / linear - 1) for x in (proxy, full)]
        rows.append([condition, linear, proxy, full, *worse, *others])
        if condition != "clean":
            report.targets.append(Target(f"{condition}: proxy's vertex error above the linear model's", 0.0, worse[0], "%"))
            report.targets.append(Target(f"{condition}: full shape's vertex error above the linear model's", 10.0, worse[1], "%"))
    columns = ["photos", "linear, mm", "proxy, mm", "full, mm", "proxy worse by %", "full worse by %"]
    columns += ["components: proxy, mm", "full, mm"] * components
    note = f"Mean distance of the face's vertices after the best similarity; {count} people, level 0, 478 landmarks."
    report.tables.append(Table("Robustness", columns, rows, note))
    report.facts["robustness"] = found


def identity(report: Report, folder: Path, count: int) -> None:
    """Distances between fits of one person under changes, against those between people."""
    truth, candidates = truth_model(), models()
    persons = people(folder, count)
    params: dict[str, list[list[Any]]] = {name: [] for name in candidates}
    for k, person in enumerate(persons):
        scenes = [person_scene(truth, person, np.random.default_rng([21, k, j]), change) for j, change in enumerate(CONDITIONS)]
        for name, model in candidates.items():
            params[name].append([fitted(model, scene.observation) for scene in scenes])
        print("person", k, file=sys.stderr, flush=True)
    actual = [np.asarray(truth.shape.decode({"identity": p.identity, "expression": jnp.zeros(truth.shape.n_expression)}).vertices) for p in persons]
    rows: list[list[Any]] = []
    for name, model in candidates.items():
        for what in ("identity codes", "albedo codes", "neutral shapes, mm", "neutral proxies, mm"):
            if what == "neutral proxies, mm" and name == "linear":
                continue
            rows.append([f"{name}, {what}", *_identity_row([[_described(model, p, what) for p in one] for one in params[name]], "mm" in what)])
    true = [[np.asarray(shape)] for shape in actual]
    between = [vertex_error(a[0], b[0]) for i, a in enumerate(true) for b in true[:i]]
    changes = len(CONDITIONS)
    columns = ["", *[f"same person, {c} changed" for c in CONDITIONS[1:]], "different people", "different / same", "nearest fit is right, %"]
    note = (
        f"Mean distances to the fit of the plain photo (neutral, frontal, even light); {count} people × {len(CONDITIONS)} photos. Codes in units of"
        f" their priors. True heads are {np.mean(between):.2f} mm apart. Nearest: by chance {100 * (changes - 1) / (count * changes - 1):.0f} %."
    )
    report.tables.append(Table("Identity: one person under changed pose, light and expression", columns, rows, note))
    report.facts["identity"] = {row[0]: row[1:] for row in rows}


def _described(model: TexturedModel, params: Any, what: str) -> np.ndarray:
    if what == "identity codes":
        return np.asarray(params["identity"])
    if what == "albedo codes":
        return np.asarray(model.prior(params)["albedo"])
    neutral = {**params, "expression": jnp.zeros_like(params["expression"])}
    face = model.shape.decode(neutral)
    return np.asarray(face.vertices if "shapes" in what else face.proxy_vertices)


def _identity_row(found: list[list[np.ndarray]], shapes: bool) -> list[Any]:
    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return vertex_error(a, b) if shapes else float(np.linalg.norm(a - b))

    flat = [(person, fit) for person, fits in enumerate(found) for fit in fits]
    table = np.array([[distance(a, b) if i != j else np.inf for j, (_, b) in enumerate(flat)] for i, (_, a) in enumerate(flat)])
    who = np.array([person for person, _ in flat])
    changes = len(found[0])
    plain = np.arange(0, len(flat), changes)
    same = [float(np.mean(table[plain, plain + k])) for k in range(1, changes)]
    others = table[np.ix_(plain, plain)]
    different = float(others[np.isfinite(others)].mean())
    hit = 100 * float((who[table.argmin(1)] == who).mean())
    return [*same, different, different / float(np.mean(same)), hit]


def pairing(report: Report, folder: Path, count: int) -> None:
    """Does the recovered albedo residual hold the light? Codes, and residual maps on top, fitted with and without pairing from landmarks on."""
    truth, model = truth_model(), models()["nonlinear"]
    transform = optax.adam(optax.cosine_decay_schedule(0.02, _STEPS * _OUTER, 0.05))
    rates = {"pose": 0.1, "detail_shape": 3e-3, "detail_albedo": 0.25, "expression": 0.5}
    rows: list[list[Any]] = []
    found: dict[str, dict[str, list[float]]] = {}
    scenes = [person_scene(truth, person, np.random.default_rng([31, k]), "light and pose") for k, person in enumerate(people(folder, count))]
    for scene in scenes:
        observation = scene.observation
        losses = {k: v for k, v in photometric_losses(observation, model).items() if k not in ("photometric", "shape_pair", "full")}
        points = fj.fit(observation, model=model, losses=losses, stages=fj.photometric_stages(observation, "landmarks"), throw=False).params
        for paired in (True, False):
            pairs = paired_photometric(paired, region="skin")
            used = losses | {name: 0.4 * loss for name, loss in pairs.items()}
            for what, freed in (("codes alone", 0.0), ("residual maps on top", 1.0)):
                groups = dict.fromkeys(("pose", "identity", "expression", "albedo", "light"), 1.0)
                solver = fj.FirstOrder(transform, max_steps=_STEPS, patience=10 * _STEPS, rates=rates)
                free = groups | {"detail_albedo": freed, "detail_shape": freed}
                stage = Stage(free, solver, dict.fromkeys(used, 1.0), name="pairs", halvings=1, outer_steps=_OUTER, budget=True)
                params = fj.fit(observation, model=model, losses=used, stages=[stage], start=points | model.no_detail(), throw=False).params
                figures = leakage(model, truth, params, scene)
                for name, value in figures.items():
                    found.setdefault(f"{what}, {'pairs' if paired else '(full, full)'}", {}).setdefault(name, []).append(value)
                print(what, paired, {k: round(v, 3) for k, v in figures.items()}, file=sys.stderr, flush=True)
    for name, figures in found.items():
        rows.append([name, *[float(np.mean(v)) for v in figures.values()]])
        asked = Target(f"{name}: correlation of the residual with the true shading", 0.1, rows[-1][1], "")
        report.targets.append(asked if "pairs" in name else Target(asked.what, 0.2, rows[-1][1], "", True))
    columns = ["fit", *next(iter(found.values()))]
    note = f"Means over {count} photos of |Pearson's r| over the pixels of skin, logarithms of luminance. Residual: full / proxy albedo."
    report.tables.append(Table("Pairing: what of the light ends up in the albedo", columns, rows, note))
    report.facts["pairing"] = found


def leakage(model: TexturedModel, truth: TexturedModel, params: Any, scene: Scene) -> dict[str, float]:
    """Correlations with the true shading over the pixels of skin: of the residual, of the error of full and proxy albedo; and their errors."""
    observation = scene.observation
    true = {k: np.asarray(v) for k, v in draw(truth, scene.truth, observation).items()}
    full, proxy = ({k: np.asarray(v) for k, v in draw(model, params, observation, version).items()} for version in ("full", "proxy"))
    skin = (true["trusted"] > 0.5) & (full["trusted"] > 0.5) & (proxy["trusted"] > 0.5)
    shading = np.asarray(diffuse_shading(jnp.asarray(true["normal"][skin]), light_from_code(scene.truth["light"]))).mean(-1)
    bright = {name: np.log(np.maximum(x["albedo"][skin].mean(-1), 1e-3)) for name, x in (("true", true), ("full", full), ("proxy", proxy))}
    light = np.log(np.maximum(shading, 1e-3))
    r = lambda x: abs(float(np.corrcoef(x, light)[0, 1])) if x.std() > 1e-9 else 0.0  # noqa: E731
    spread = lambda x: float((x - x.mean()).std())  # noqa: E731
    return {
        "residual and shading": r(bright["full"] - bright["proxy"]),
        "error of the full albedo and shading": r(bright["full"] - bright["true"]),
        "error of the proxy albedo and shading": r(bright["proxy"] - bright["true"]),
        "spread of the residual": spread(bright["full"] - bright["proxy"]),
        "spread of the full albedo's error": spread(bright["full"] - bright["true"]),
    }


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nonlinear_effects", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of python -m basis.train_nonlinear")
    parser.add_argument("--people", type=int, default=6, help="people per table")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--conditions", nargs="+", choices=SPOILED, default=list(SPOILED), help="photos of the robustness table")
    parser.add_argument("--components", action="store_true", help="principal components in the robustness table, too")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "nonlinear_effects")
    options = parser.parse_args(arguments)
    around, began = report.environment(), time.perf_counter()
    result = Report("nonlinear_effects", "Proxies: pairing, robustness, identity")
    if "robustness" in options.only:
        robustness(result, options.folder, options.people, tuple(options.conditions), options.components)
    for name, measure in (("identity", identity), ("pairing", pairing)):
        if name in options.only:
            measure(result, options.folder, options.people)
    result.facts["seconds"] = round(time.perf_counter() - began)
    print(report.write(options.out, [result], around, f"python -m benchmarks.nonlinear_effects FOLDER --people {options.people}"))
    print(json.dumps(result.facts["seconds"]), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
