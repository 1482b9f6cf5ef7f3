"""The image network by branch and fused: held-out renders of ICT by yaw and by occluded share, photos, parts, confidences, time.

    python -m benchmarks --only image_net

ICT-FaceKit's identities and expressions, registered to the embedded mesh (`benchmarks/ict_faces.py`), are drawn with the synthetic engine; the
network was trained on the embedded model alone. Crops of renders are those of the true landmarks, of photos those of FaceMesh's landmarks or of the
true box. Renders are kept beside the cache of compiled programs, for they take longer than all else.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fitjax as fj
from benchmarks.dev_photos import FACEMESH68, detect_all
from benchmarks.ict_faces import ict_model
from benchmarks.report import Report, Table, Target
from benchmarks.shared_data import Unavailable, dev_photos, require
from fitjax.cli.looking import BESIDE, weighed
from fitjax.cli.main import compilation_cache_folder
from fitjax.evaluate.nme import binned_mean, box_size, geodesic_degrees, nme, yaw_bin
from fitjax.evaluate.pose import degrees_from_rotation, rotation_from_degrees
from fitjax.image.photo import photo_from_array, read_photo
from fitjax.initial.image_face import LOOKS, image_face, in_photo, load_looker, load_mirror, run_network, solve_branches
from fitjax.initial.image_network import LAPLACE, SIGMA_UNIT
from fitjax.initial.image_observe import find_observed, has_failed, with_image_landmarks
from fitjax.observation.observe import observe_detected, photo_camera
from fitjax.pytree import replace
from fitjax.synth.draw import SynthModel, load_synth
from fitjax.train.image_augment import Crops, crops
from fitjax.train.image_pool import POOL, Pool, draw_pool, portraits_in

BINS = ((0, 30), (30, 60), (60, 90))
BRANCHES = ("model", "image", "marks", "refined", "fused")
NAMES = {"model": "model space", "image": "image space", "marks": "solve of the landmarks", "refined": "refined landmarks", "fused": "fused"}
#: Of the face below its brows and to its jaw; of each render a share is hidden by pieces of another.
HIDDEN = (0.0, 0.1, 0.2, 0.3, 0.4)
#: Nothing in front, uniform yaw: bins of equal size.
ICT_SETTINGS = dataclasses.replace(POOL, bend=1.0, pitch=30.0, roll=30.0, glasses=0.0, mask=0.0, hand=0.0, thing=0.0)
_BATCH = 25


def ict_synth() -> SynthModel:
    """The engine with ICT's heads, moved without scaling to where the embedded mean head lies, so that poses mean the same."""
    synth = load_synth()
    shape = replace(ict_model(synth.shape), sampled={})
    ours, theirs = (np.asarray(m.mean, np.float64) for m in (synth.shape, shape))
    skin = np.unique(np.asarray(shape.triangles)[np.asarray(shape.triangle_region) == 0])
    a, b = ours[skin].mean(0), theirs[skin].mean(0)
    u, _, vt = np.linalg.svd((ours[skin] - a).T @ (theirs[skin] - b))
    turn = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt
    modes = np.asarray(shape.modes, np.float64).reshape(len(shape.modes), -1, 3) @ turn.T
    shape = replace(
        shape, mean=jnp.asarray((theirs - b) @ turn.T + a, jnp.float32), modes=jnp.asarray(modes.reshape(len(modes), -1), jnp.float32)
    )
    for name in ("aflw68", "mediapipe478"):
        shape = shape.with_samples(name)
    return replace(synth, shape=shape)


def ict_pool(count: int) -> Pool:
    """Portraits of ICT's heads, drawn where they are missing.

    Raises:
        Unavailable: the data is absent.
    """
    folder = compilation_cache_folder().parent / "ict_portraits"
    if portraits_in(folder) < count:
        draw_pool(ict_synth(), ICT_SETTINGS, folder, count, seed=77, size=125, batch=25)
    return Pool(folder)


def yaw_of(rotation: np.ndarray) -> np.ndarray:
    return degrees_from_rotation(rotation)[..., 1]


def hide(images: np.ndarray, truth: Crops, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The crops with this share of each face's visible pixels behind an ellipse or a box that shows pieces of another crop, and the shares hidden."""
    rng = np.random.default_rng(seed)
    result, hidden = images.copy(), np.zeros(len(images))
    if share == 0:
        return result, hidden
    side = images.shape[1]
    y, x = np.mgrid[:side, :side]
    for k in range(len(images)):
        face = np.kron(np.asarray(truth.visible[k]), np.ones((2, 2))) > 0
        rows, columns = np.nonzero(face)
        if not len(rows):
            continue
        pick = rng.integers(len(rows))
        angle, ratio = rng.uniform(0, np.pi), np.exp(rng.uniform(-0.6, 0.6))
        u = (x - columns[pick]) * np.cos(angle) + (y - rows[pick]) * np.sin(angle)
        v = -(x - columns[pick]) * np.sin(angle) + (y - rows[pick]) * np.cos(angle)
        radius = np.hypot(u * ratio, v / ratio) if rng.random() < 0.5 else np.maximum(abs(u * ratio), abs(v / ratio))
        cover = radius <= np.quantile(radius[face], share)
        result[k][cover] = np.roll(images[(k + 1) % len(images)], rng.integers(0, side, 2), (0, 1))[cover]
        hidden[k] = cover[face].mean()
    return result, hidden


def look_all(images: np.ndarray) -> dict[str, Any]:
    """Landmarks (N, 68, 2) and rotations by branch, spreads, of crops of any number."""
    net, weights, tables, _ = load_looker()
    parts = []
    for k in range(0, len(images), _BATCH):
        block = images[k : k + _BATCH]
        padded = np.concatenate([block, np.zeros((_BATCH - len(block), *block.shape[1:]), block.dtype)])
        out = run_network(net, weights, tables, padded, load_mirror())
        faces, shown = jax.device_get(solve_branches(out, tables))
        one = {name: shown[name][..., :68, :2] for name in shown} | {"refined": np.asarray(out.refined[-1])}
        one |= {f"R_{name}": face.rotation for name, face in faces.items()} | {"log_sigma": np.asarray(out.mark_log_sigma)}
        parts.append({n: v[: len(block)] for n, v in one.items()})
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def crops_of(pool: Pool, count: int, side: int) -> Crops:
    """Upright crops of the first portraits, as the network is trained on them but not spoilt."""
    made = jax.jit(lambda key, batch: crops(key, batch, side, spoilt=False))
    parts = [jax.device_get(made(jax.random.key(k), pool.take(np.arange(k, k + _BATCH)))) for k in range(0, count, _BATCH)]
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over faces."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(2000, len(values)))].mean(1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def _cell(values: np.ndarray) -> str:
    low, high = interval(values)
    return f"{values.mean():.2f} [{low:.2f}, {high:.2f}]"


def by_yaw(report: Report, truth: Crops, found: dict[str, Any]) -> None:
    yaw = yaw_of(truth.rotation)
    kind = yaw_bin(yaw)
    rows: list[list[Any]] = []
    for name in BRANCHES:
        error = nme(found[name], truth.points)
        pose = geodesic_degrees(found[f"R_{name}"], truth.rotation) if f"R_{name}" in found else None
        rows.append([NAMES[name], *(_cell(error[kind == k]) for k in range(3)), _cell(error), None if pose is None else f"{np.median(pose):.1f}"])
    counts = np.bincount(kind, minlength=3)
    note = f"{' / '.join(map(str, counts))} faces; mean NME in percent with its 95 % bootstrap interval; last column: median error of rotation."
    report.tables.append(Table("Held-out ICT renders, nothing in front", ["branch", *(f"{a}-{b}°" for a, b in BINS), "all", "pose °"], rows, note))
    error = nme(found["fused"], truth.points)
    for k, limit in enumerate((2.2, 2.6, 3.2)):
        report.targets.append(Target(f"ICT renders, {BINS[k][0]}-{BINS[k][1]}°, fused NME", limit, float(error[kind == k].mean()), "%"))


def by_occlusion(report: Report, truth: Crops) -> None:
    rows: list[list[Any]] = []
    clean, last = {}, {}
    for share in HIDDEN:
        images, hidden = hide(np.asarray(truth.image), truth, share, 5)
        found = look_all(images)
        errors = {name: nme(found[name], truth.points) for name in BRANCHES}
        clean, last = (clean or errors), errors
        rows.append([f"{100 * hidden.mean():.0f} %", *(_cell(errors[name]) for name in BRANCHES)])
    report.tables.append(Table("ICT renders, hidden share of the face", ["hidden", *(NAMES[n] for n in BRANCHES)], rows, "Mean NME, percent."))
    growth = 100 * (last["fused"].mean() / clean["fused"].mean() - 1)
    report.targets.append(Target("40 % of the face hidden: fused NME grows by", 25.0, float(growth), "%"))
    for name in ("model", "image"):
        gain = last[name] - last["fused"]
        low, high = interval(gain)
        what = f"40 % hidden: {NAMES[name]} NME over fused, lower end of the 95 % interval (mean {gain.mean():.2f}, to {high:.2f})"
        report.targets.append(Target(what, 0.0, low, "%", True))


def confidences(report: Report, truth: Crops, found: dict[str, Any]) -> None:
    factor = float(load_looker()[3].get("sigma_factor", 1.0))
    sigma = np.sqrt(LAPLACE) * SIGMA_UNIT * np.exp(found["log_sigma"]) * factor
    off = np.linalg.norm(found["refined"] - truth.points, axis=-1)
    rows: list[list[Any]] = []
    edges = np.quantile(sigma, [0, 0.2, 0.4, 0.6, 0.8, 1])
    size = np.asarray(truth.size)[:, None]
    for low, high in itertools.pairwise(edges):
        here = (sigma >= low) & (sigma <= high)
        rows.append([float(100 * (sigma / size)[here].mean()), float(100 * np.sqrt(((off / size)[here] ** 2).mean() / 2))])
    report.tables.append(Table("Confidences of landmarks on ICT: fifths", ["predicted σ, % of face", "measured (rms per axis)"], rows))




def photos(report: Report) -> None:
    try:
        cases = detect_all()
        truths = [c.truth for c in cases]
    except Unavailable as reason:
        cases, truths = [], dev_photos()
        report.skipped.append(f"FaceMesh: {reason}")
    rows: list[list[Any]] = []
    everything: dict[str, list[float]] = {}
    poses: dict[str, list[float]] = {}
    for k, truth in enumerate(truths):
        photo = read_photo(truth.path)
        camera = photo_camera(photo)
        low, high = truth.reannotated.min(0), truth.reannotated.max(0)
        looked = {"box": image_face(photo, (low + high) / 2, float(box_size(truth.reannotated)), camera)}
        row: list[Any] = [truth.name, f"{truth.yaw:.0f}"]
        if cases:
            seen = cases[k].face.landmarks[FACEMESH68]
            everything.setdefault("FaceMesh", []).append(float(nme(seen, truth.reannotated)))
            row.append(everything["FaceMesh"][-1])
            observation = fj.make_observation({cases[k].face.set_name: cases[k].face.landmarks}, camera)
            looked["FaceMesh's crop"] = image_face(photo, np.asarray(observation.face_centre), float(observation.face_size), camera)
        for where, face in looked.items():
            errors = {name: float(nme(points, truth.reannotated)) for name, points in face.by_branch.items()}
            for name, value in errors.items():
                everything.setdefault(f"{NAMES[name]}, {where}", []).append(value)
            row += [errors["refined"], errors["fused"]]
            if truth.pose is not None:
                true = rotation_from_degrees(np.degrees(truth.pose))
                for name, rotation in face.rotations.items():
                    poses.setdefault(f"{NAMES[name]}, {where}", []).append(float(geodesic_degrees(rotation, true)))
        rows.append(row)
    columns = ["photo", "yaw °", *(["FaceMesh, corrected"] if cases else [])]
    columns += [f"{name}, {where}" for where in looked for name in ("refined", "fused")]
    report.tables.append(Table("Nine AFLW2000-3D photos, re-annotated, NME %", columns, rows))
    yaw = np.array([t.yaw for t in truths])
    means = [[name, *binned_mean(np.array(v), yaw).bins, float(np.mean(v)), float(np.mean(poses[name])) if name in poses else None]
             for name, v in everything.items()]  # fmt: skip
    columns = ["landmarks", "≤30", "30-60", ">60", "faces", "pose °, seven"]
    report.tables.append(Table("Their means", columns, means, "Pose: geodesic, network alone; no offset of any convention is taken out."))
    best = f"{NAMES['refined']}, {'FaceMesh' + chr(39) + 's crop' if cases else 'box'}"
    report.targets.append(Target("nine photos, refined landmarks, mean over faces", 2.4, float(np.mean(everything[best])), "%"))
    turned = float(np.array(everything[best])[np.abs(yaw) > 60].mean())
    report.targets.append(Target("the photo beyond 60°, refined landmarks", 4.0, turned, "%"))
    fused = best.replace(NAMES["refined"], NAMES["fused"])
    report.targets.append(Target("pose on the seven with truth", 5.0, float(np.mean(poses[fused])), "°"))


def in_fits(report: Report) -> None:
    """Fits of landmarks on the nine photos: the detector's alone, the network's beside them, the network's alone, and what a fit takes."""
    try:
        cases = detect_all()
    except Unavailable as reason:
        report.skipped.append(f"fits: {reason}")
        return
    model = fj.load_basis(level=0, sample_sets=("aflw68", "mediapipe478"))
    rows: list[list[Any]] = []
    for case in cases:
        observation = observe_detected(case.photo, case.face, photo_camera(case.photo))
        face = find_observed(observation, case.photo)
        failed = has_failed(observation, face)
        kinds = {"detector": observation}
        kinds |= {name: with_image_landmarks(observation, face, keep=keep) for name, keep in (("beside", True), ("alone", False))}
        errors = {}
        for name, seen in kinds.items():
            solution = fj.fit(seen, model=model, losses=weighed(fj.default_losses(seen)), throw=False)
            errors[name] = float(nme(solution.landmarks("aflw68"), case.truth.reannotated))
        errors["taken"] = errors["alone" if failed else "beside"]
        rows.append([case.truth.name, f"{case.truth.yaw:.0f}", *errors.values(), "yes" if failed else "no"])
    rows.append(["mean", "", *(float(np.mean([r[k] for r in rows])) for k in (2, 3, 4, 5)), ""])
    columns = ["photo", "yaw °", "detector alone", f"network beside it, × {BESIDE:g}", "network alone", "--init image_net", "detector failed"]
    report.tables.append(Table("Fits of landmarks, NME % of the read-out points, re-annotated", columns, rows))


def parts(report: Report) -> None:
    """IoU of what the network takes for the visible face with the parser's mask."""
    rows: list[list[Any]] = []
    folder = require("ffhq")
    for path in sorted(folder.glob("*.png")):
        photo, points = read_photo(path), np.load(path.with_suffix(".npy"))
        with np.load(folder / f"{path.stem}_skin.npz") as stored:
            mask = stored[stored.files[0]] > 7.5
        face = image_face(photo, (points.min(0) + points.max(0)) / 2, float(box_size(points)), photo_camera(photo))
        visible = in_photo(face.visible, face.photo_from_labels, photo) > 0.5
        # Below the brows, where labels tell skin from what is in front of it.
        labels = in_photo(face.labels, face.photo_from_labels, photo)
        brow, chin = points[17:27].mean(0), points[8]
        x, y = np.meshgrid(np.arange(photo.width), np.arange(photo.height))
        below = (np.stack([x, y], -1) - points[17:27].mean(0)) @ (chin - brow) > 0
        named = (labels >= 1) & (labels <= 8)
        pairs = (visible, mask), (visible & below, mask & below), (named & below, mask & below)
        iou = [100 * (a & b).sum() / max((a | b).sum(), 1) for a, b in pairs]
        rows.append([path.stem, *map(float, iou)])
    rows.append(["mean", *(float(np.mean([r[k] for r in rows])) for k in (1, 2, 3))])
    columns = ["photo", "visible face", "visible face below the brows", "labels of the eight parts below the brows"]
    report.tables.append(Table("Five FFHQ photos: IoU with the parser's mask, %", columns, rows))
    report.targets.append(Target("skin IoU on five FFHQ photos (visible face)", 85.0, float(rows[-1][1]), "%", True))


def speed(report: Report) -> None:
    photo = photo_from_array(np.random.default_rng(0).integers(0, 255, (450, 450, 3), np.uint8))
    camera, times = photo_camera(photo), []
    for _ in range(25):
        began = time.perf_counter()
        image_face(photo, (225, 225), 180.0, camera)
        times.append(1e3 * (time.perf_counter() - began))
    what = f"a face: {LOOKS} crops and looks, the solves; median of 20 (least {min(times):.1f})"
    report.targets.append(Target(what, 25.0, float(np.median(times[5:])), "ms"))
    report.facts["ms"] = times


def run(quick: bool = False) -> Report:
    """The benchmark.

    Raises:
        Unavailable: the data is absent.
    """
    report = Report("image_net", "The image network by branch and fused")
    pool = ict_pool(125 if quick else 1750)
    truth = crops_of(pool, 125 if quick else 1750, load_looker()[0].side)
    found = look_all(np.asarray(truth.image))
    by_yaw(report, truth, found)
    few = jax.tree.map(lambda x: x[: 75 if quick else 500], truth)
    by_occlusion(report, few)
    confidences(report, truth, found)
    photos(report)
    in_fits(report)
    parts(report)
    speed(report)
    return report
