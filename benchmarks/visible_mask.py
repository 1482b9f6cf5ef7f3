"""What the image network's mask of the visible face is worth to a photometric fit: with it, without it, and with the true one.

    python -m benchmarks --only visible_mask

Five FFHQ photos with half of the face painted over (the experiment of ``photometric_photos``), and portraits of the synthetic engine with a thing or
a hand in front, drawn a second time without it. Landmarks are those of the clean picture: only what becomes of the pixels is asked.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from scipy import ndimage

import fitjax as fj
from basis.geometry import similarity
from benchmarks.photometric_photos import MARGIN, Case, load, occluded, over_crop, psnr, shown
from benchmarks.photometric_scenes import textured, without_detail
from benchmarks.report import Report, Table, Target
from benchmarks.shared_data import Unavailable, require
from fitjax.image.photo import Photo, photo_from_array
from fitjax.initial.image_observe import find_observed, visible_mask
from fitjax.model.params import Params
from fitjax.model.textured import TexturedModel
from fitjax.synth.draw import Sample, draw, load_synth
from fitjax.synth.settings import SynthSettings

PHOTOS = ("00000", "00001", "00002", "00003", "00004")
MASKS = ("none", "network", "true")
#: What half of a face is painted with.
HOWS = ("grey", "noise")
#: Portraits with nothing but hair in front; the others differ by what is set there alone, so that everything else is drawn alike.
CLEAN = SynthSettings(
    size=256, yaw=30.0, pitch=15.0, roll=15.0, share_low=0.5, share_high=0.65, jitter=0.03, view_low=15.0, view_high=40.0, hair=0.5,
    glasses=0.0, mask=0.0, hand=0.0, thing=0.0, expression=0.2, blur=0.8, noise=0.01, quality=80.0,
)  # fmt: skip
#: Vertices of the face, whose error is measured: in front of the ears.
FRONT = 0.0


def fit(model: TexturedModel, observation: fj.Observation) -> Params:
    return fj.fit(observation, model=model, throw=False).params


def network_mask(observation: fj.Observation, photo: Photo) -> np.ndarray:
    """(height, width) of the photo: what the network takes for the face with nothing in front."""
    return visible_mask(photo, find_observed(observation, photo))


def painted_photo(case: Case, how: str) -> Photo:
    """The photo of :func:`benchmarks.photometric_photos.occluded`."""
    (points,) = (np.asarray(seen.points) for seen in case.observation.landmarks.values())
    low, high = np.floor(points.min(0)).astype(int).clip(0), np.ceil(points.max(0)).astype(int) + 1
    painted = np.zeros(case.photo.rgb.shape[:2], bool)
    painted[low[1] : high[1], low[0] : (low[0] + high[0]) // 2] = True
    rgb = case.photo.rgb.copy()
    rgb[painted] = np.random.default_rng(0).integers(0, 256, (int(painted.sum()), 3)) if how == "noise" else 128
    return dataclasses.replace(case.photo, rgb=rgb)


def _growth(now: np.ndarray, before: np.ndarray, target: np.ndarray, where: np.ndarray) -> float:
    """Of the RMS error, percent."""
    return 100 * (10 ** ((psnr(before, target, where) - psnr(now, target, where)) / 20) - 1)


def photos(report: Report, names: tuple[str, ...]) -> None:
    """FFHQ.

    Raises:
        Unavailable: the photos are absent.
    """
    model = textured(1)
    rows: list[list[Any]] = []
    for name in names:
        case = load(require(f"ffhq/{name}.png"))
        before = fit(model, case.observation)
        plain = [shown(model, p, case) for p in (without_detail(before), before)]
        face = case.skin & (plain[0]["trusted"] > 0.5)
        for how in HOWS:
            photo, (observation, painted) = painted_photo(case, how), occluded(case, how)
            mask = network_mask(case.observation, photo)
            seen = {"none": observation, "network": fj.with_image(case.observation, photo, mask=mask)}
            kept = over_crop(mask, observation) > 0.5
            if how == "grey":
                seen["true"] = occluded(case, "masked")[0]
            free = face & ~painted
            for which, one in seen.items():
                params = fit(model, one)
                pictures = [shown(model, p, case)["srgb"] for p in (without_detail(params), params)]
                shares = [100 * (x & kept).sum() / x.sum() for x in (free, face & painted)] if which == "network" else [None, None]
                # Residual maps leave the last pixels beside what is masked to the model.
                away = free & ~ndimage.binary_dilation(painted, iterations=MARGIN)
                growth = [_growth(w, p["srgb"], case.target, x) for w, p, x in zip((*pictures, pictures[1]), (*plain, plain[1]), (free, free, away))]
                rows.append([name, how, which, *shares, *growth, psnr(pictures[1], case.target, face & painted)])
    columns = ["photo", "painted", "mask", "kept of the free skin, %", "let through of the painted, %", "model, %", "with residual, %"]
    columns += [f"with residual, {MARGIN} pixels off it, %", "hidden half, dB"]
    note = "Growth of the RMS error on the free half's skin over the fit of the clean photo; the render's PSNR on the hidden half."
    report.tables.append(Table("Half of the face painted over: five FFHQ photos", columns, rows, note))
    means = []
    for how in HOWS:
        for which in MASKS:
            some = [r[3:] for r in rows if r[1:3] == [how, which]]
            if some:
                means.append([how, which, *(None if v[0] is None else float(np.mean(v)) for v in zip(*some))])
    report.tables.append(Table("Their means", columns[1:], means))
    values = {(r[0], r[1]): r for r in means}
    for how in HOWS:
        for what, k in (("model", 4), (f"with residual, {MARGIN} pixels off it", 6), ("hidden half, dB", 7)):
            gain = (values[how, "none"][k] - values[how, "network"][k]) * (-1 if k == 7 else 1)
            report.targets.append(Target(f"FFHQ, {how}: gain by the network's mask, {what}", 0.0, gain, "", True))


def _crop(sample: Sample, rng: np.random.Generator) -> tuple[fj.Observation, Photo]:
    """Landmarks of the clean portrait with noise of a percent, before any pixels; the portrait as a photo."""
    points = np.asarray(sample.pixels["mediapipe478"], np.float64)
    noisy = points + 0.01 * np.sqrt(np.ptp(points, axis=0).prod()) * rng.normal(size=points.shape)
    camera = fj.make_camera(CLEAN.size, CLEAN.size, focal=float(sample.camera.focal[0]))
    return fj.make_observation({"mediapipe478": noisy}, camera), photo_from_array(np.round(np.asarray(sample.image) * 255).astype(np.uint8))


def _vertex_error(model: TexturedModel, params: Params, truth: Params) -> float:
    """Millimetres, the face after the best similarity."""
    mean = np.asarray(model.shape.mean)
    front = mean[:, 2] > FRONT
    found, true = (np.asarray(model.shape.decode(p).vertices, np.float64)[front] for p in (params, truth))
    scale, rotation, shift = similarity(found, true)
    return float(1e3 * np.linalg.norm(scale * found @ rotation.T + shift - true, axis=1).mean())


def portraits(report: Report, count: int) -> None:
    """The synthetic engine's things and hands."""
    synth, model = load_synth(), textured(0)
    one = jax.jit(draw, static_argnames="settings")
    kinds = {"thing": dataclasses.replace(CLEAN, thing=1.0), "hand": dataclasses.replace(CLEAN, hand=1.0)}
    found: dict[tuple[str, str], list[list[float]]] = {}
    for k in range(count):
        key = jax.random.fold_in(jax.random.key(1234), k)
        clean = jax.device_get(one(synth, key, CLEAN))
        observation, photo = _crop(clean, np.random.default_rng(k))
        case = Case(str(k), photo, fj.with_image(observation, photo, mask=clean.visible), np.ones((224, 224), bool))
        before = fit(model, case.observation)
        plain = [shown(model, p, case) for p in (without_detail(before), before)]
        visible = over_crop(clean.visible.astype(float), case.observation) > 0.5
        for what, settings in kinds.items():
            covered = jax.device_get(one(synth, key, settings))
            picture = _crop(covered, np.random.default_rng(k))[1]
            free = visible & (over_crop(covered.visible.astype(float), case.observation) > 0.5) & (plain[0]["trusted"] > 0.5)
            hidden = 1 - covered.visible.sum() / clean.visible.sum()
            if not 0.1 < hidden < 0.7:
                continue
            # Hair is masked in all cases; without the network's mask only what was put in front stays.
            hair = clean.visible | (covered.visible != clean.visible)
            masks = {"none": hair, "network": network_mask(observation, picture), "true": covered.visible}
            for which in MASKS:
                params = fit(model, fj.with_image(observation, picture, mask=masks[which]))
                pictures = [shown(model, p, case)["srgb"] for p in (without_detail(params), params)]
                growth = [_growth(w, p["srgb"], case.target, free) for w, p in zip(pictures, plain)]
                kept = np.asarray(masks[which], float) > 0.5
                shares = [100 * (kept & x).sum() / x.sum() for x in (covered.visible, clean.visible & ~covered.visible)]
                errors = [_vertex_error(model, p, clean.params) for p in (params, before)]
                found.setdefault((what, which), []).append([100 * hidden, *shares, *growth, *errors])
    rows = [[*key, len(v), *map(float, np.mean(v, 0))] for key, v in found.items()]
    columns = ["in front", "mask", "portraits", "hidden, %", "kept of the free face, %", "let through of what is in front, %"]
    columns += ["model, %", "with residual, %"]
    note = "Growth of the RMS error on free skin over the fit of the clean portrait; means. Hair is masked in all of them."
    report.tables.append(Table("Things and hands of fitjax.synth", [*columns, "shape, mm", "shape of the clean fit, mm"], rows, note))


def run(quick: bool = False) -> Report:
    """The benchmark."""
    report = Report("visible_mask", "The network's mask of the visible face in photometric fits")
    try:
        photos(report, PHOTOS[1:2] if quick else PHOTOS)
    except Unavailable as reason:
        report.skipped.append(f"FFHQ: {reason}")
    portraits(report, 2 if quick else 4)
    return report
