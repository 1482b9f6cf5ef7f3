"""Recovery from pixels: random faces of the model under random light, drawn at 224², fitted from landmarks that are 2 pixels off.

Three questions: what pixels add to landmarks; whether residual maps harm or help what lies under them, on faces that have none and on faces with
wrinkles and blotches; and whether errors depend on the tone of the skin.
"""

from __future__ import annotations

from dataclasses import astuple, fields
from typing import Any

import jax.numpy as jnp
import numpy as np

import fitjax as fj
from benchmarks.photometric_scenes import (
    MELANIN,
    Errors,
    Scene,
    errors,
    photograph,
    picture_row,
    random_residuals,
    random_truth,
    textured,
    without_detail,
)
from benchmarks.report import Report, Table, Target
from fitjax.model.params import Params
from fitjax.model.textured import TexturedModel

COLUMNS = ["vertices, mm", "normals °", "light", "light*", "albedo", "albedo*"]
NOTE = "Medians. Light and albedo are relative RMS over the pixels of skin; `*` up to the best single factor."

#: Steps of the tables: landmark sets, and the mesh's level.
SETS = ("ibug68", "mediapipe478")


def fit_model(model: TexturedModel, scene: Scene) -> tuple[Params, Params]:
    """Parameters after the landmarks and after the pixels."""
    seen = scene.observation
    losses = fj.photometric_losses(seen)
    stages = fj.photometric_stages(seen, "photometric")
    points = fj.fit(seen, model=model, losses=losses, stages=stages[:1], throw=False)
    pixels = fj.fit(seen, model=model, losses=losses, stages=stages[1:], start=points.params, throw=False)
    return points.params, pixels.params


def fit_detail(model: TexturedModel, scene: Scene, start: Params) -> Params:
    """Parameters with residual maps."""
    seen = scene.observation
    stages = fj.photometric_stages(seen, "detail")[-1:]
    return fj.fit(seen, model=model, losses=fj.photometric_losses(seen), stages=stages, start=start, throw=False).params


def medians(found: list[Errors]) -> Errors:
    return Errors(*(float(np.median([getattr(e, f.name) for e in found])) for f in fields(Errors)))


def _recovery(report: Report, n: int) -> None:
    model = textured(0)
    rows: list[list[Any]] = []
    for name in SETS:
        rng = np.random.default_rng(0)
        before, after = [], []
        for _ in range(n):
            scene = photograph(model, random_truth(model, rng), name, rng)
            points, pixels = fit_model(model, scene)
            before.append(errors(model, points, scene))
            after.append(errors(model, pixels, scene))
        a, b = medians(before), medians(after)
        rows.append([f"{name}: landmarks alone", a.vertex, a.normal, *[None] * 4])
        rows.append([f"{name}: with pixels", *astuple(b)])
        worse = sum(y.vertex > x.vertex for x, y in zip(before, after))
        report.notes.append(f"{name}: pixels made the vertices worse on {worse} of {n} faces.")
        report.targets += [
            Target(f"vertex error with pixels / landmarks alone, {name}", 0.5, b.vertex / a.vertex, "×"),
            Target(f"light up to one factor, {name}", 10.0, 100 * b.light_scaled, "%"),
            Target(f"light, unscaled, {name}", 10.0, 100 * b.light, "%"),
        ]
        report.facts[f"recovery {name}"] = {"landmarks": [astuple(e) for e in before], "pixels": [astuple(e) for e in after]}
    report.tables.append(Table(f"Recovery from pixels, {n} faces, level 0, landmarks 2 px off", ["fit", *COLUMNS], rows, NOTE))


def _detail(report: Report, n: int) -> None:
    model = textured(1)
    rows: list[list[Any]] = []
    name = "mediapipe478"
    pictures = []
    for what in ("no residual", "wrinkles of 0.3 mm, freckles, blotches"):
        rng = np.random.default_rng(1)
        without, with_maps = [], []
        for k in range(n):
            truth = random_truth(model, rng)
            if what != "no residual":
                truth |= random_residuals(model, rng)
            scene = photograph(model, truth, name, rng)
            _, pixels = fit_model(model, scene)
            full = fit_detail(model, scene, pixels)
            without.append(errors(model, pixels, scene))
            with_maps.append(errors(model, full, scene))
            if k < 2:
                pictures += [picture_row(model, without_detail(pixels), scene), picture_row(model, full, scene)]
        a, b = medians(without), medians(with_maps)
        rows += [[f"truth has {what}: model only", *astuple(a)], [f"truth has {what}: with residual maps", *astuple(b)]]
        report.targets += [
            Target(f"albedo* with / without residual maps, truth: {what}", 1.0, b.albedo_scaled / a.albedo_scaled, "×"),
            Target(f"normals with / without residual maps, truth: {what}", 1.0, b.normal / a.normal, "×"),
        ]
        report.facts[f"detail, {what}"] = {"model": [astuple(e) for e in without], "maps": [astuple(e) for e in with_maps]}
    report.tables.append(Table(f"Residual maps, {n} faces each, level 1, 478 points 2 px off", ["fit", *COLUMNS], rows, NOTE))
    report.pictures["synthetic_detail"] = np.concatenate(pictures)


def _tones(report: Report, heads: int) -> None:
    """The same heads, lights, landmarks and noise at each tone."""
    model = textured(0)
    found: dict[float, list[Errors]] = {}
    pictures = []
    for melanin in MELANIN:
        rng = np.random.default_rng(2)
        for k in range(heads):
            truth = random_truth(model, rng)
            truth["albedo"] = jnp.asarray(truth["albedo"]).at[0].set(melanin)
            scene = photograph(model, truth, "mediapipe478", rng)
            _, pixels = fit_model(model, scene)
            found.setdefault(melanin, []).append(errors(model, pixels, scene))
            if not k:
                pictures.append(picture_row(model, pixels, scene))
    middle = {level: medians(e) for level, e in found.items()}
    rows: list[list[Any]] = [[f"{level:+g}", *astuple(m)] for level, m in middle.items()]
    values = np.array([astuple(m) for m in middle.values()])
    ratio = values.max(0) / values.min(0)
    rows.append(["largest / smallest", *ratio.tolist()])
    report.tables.append(Table(f"Tone of the skin: melanin code, {heads} heads, level 0", ["melanin", *COLUMNS], rows, NOTE))
    for column, limit in ((2, "light, unscaled"), (3, "light up to one factor"), (4, "albedo, unscaled"), (5, "albedo up to one factor")):
        report.targets.append(Target(f"largest / smallest over six tones: {limit}", 1.2, float(ratio[column]), "×"))
    report.facts["tones"] = {level: [astuple(e) for e in each] for level, each in found.items()}
    report.pictures["synthetic_tones"] = np.concatenate(pictures)


def run(quick: bool = False) -> Report:
    """The benchmark."""
    report = Report("photometric_synthetic", "Photometric fit: synthetic recovery")
    _recovery(report, 6 if quick else 30)
    _detail(report, 2 if quick else 4)
    _tones(report, 2 if quick else 4)
    return report
