"""Held-out data that no generator of ours made: ICT's identities on our mesh, textures unwrapped from photos. The shipped lift against components.

``python -m benchmarks.representation FOLDER --only foreign [--textures RESULTS]``: RESULTS of ``fitjax fit PHOTOS -o RESULTS`` with the linear model.
Also components of the logarithm of albedo, and what each model holds in numbers.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

import fitjax as fj
from basis.geometry import similarity
from benchmarks.ict_faces import IDENTITIES, ict_model
from benchmarks.photometric_scenes import _face_vertices
from benchmarks.report import Table, Target
from benchmarks.representation import fit_codes
from benchmarks.representation_conv import halved
from fitjax.model.albedo import default_albedo
from fitjax.model.load import load_basis
from fitjax.model.occlusion import default_occlusion
from fitjax.networks import run
from fitjax.networks.lift import LiftEncoder
from fitjax.render.lighting import linear_from_srgb, srgb_from_linear
from fitjax.train.conv_run import albedo_faces
from fitjax.train.generator import albedo_batch, albedo_generator
from fitjax.train.run import PRESETS, make_faces
from fitjax.train.texels import texels_of

LENGTHS, SHAPE_LENGTHS = (16, 32, 64, 160), (16, 32, 80)
#: Generated faces; heads of ICT and the spread of their codes, as elsewhere in the benchmarks; faces for log components; steps of the fits of codes.
COUNT, HEADS, SPREAD, LOG_FACES, STEPS = 16, 64, 0.8, 1200, 300


def unwrapped(results: Path, height: int, width: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, textures (N, H, W, 3) in sRGB without occlusion, and how well the photos show each texel (N, H, W)."""
    names, maps, weights = [], [], []
    for folder in sorted(p.parent for p in results.glob("*/texture.png")):
        with Image.open(folder / "texture.png") as image, Image.open(folder / "texture_confidence.png") as seen:
            size = image.size[0]
            colour = np.asarray(linear_from_srgb(jnp.asarray(np.asarray(image.convert("RGB"), np.float32) / 255)))
            confidence = np.asarray(seen.convert("L"), np.float32) / 255
        dark = np.asarray(Image.fromarray(default_occlusion()).resize((size, size), Image.Resampling.BILINEAR))
        bare = colour / np.maximum(dark, 0.3)[..., None]
        resize = lambda x: np.asarray(Image.fromarray(np.ascontiguousarray(x, np.float32)).resize((width, height), Image.Resampling.BOX))  # noqa: E731
        maps.append(np.asarray(srgb_from_linear(jnp.asarray(np.stack([resize(bare[..., k]) for k in range(3)], -1)))))
        weights.append(resize(confidence))
        names.append(folder.name)
    return names, np.stack(maps), np.stack(weights)


def texture_table(folder: Path, results: Path | None) -> tuple[Table, dict[str, Any]]:
    """Albedo: components in sRGB and in its logarithm, and the shipped lift."""
    full = PRESETS["full"]
    height, width = full.height // 2, full.width // 2
    faces = make_faces(full, folder)
    maps = albedo_faces(faces, 1)
    texels = texels_of(load_basis(level=0), full.height, full.width)
    front = halved(texels.face.reshape(full.height, full.width, 1))[..., 0]
    lifted: Any = fj.load_textured("nonlinear", level=0).albedo
    lift_modes = jnp.asarray(halved(np.asarray(lifted.basis).reshape(-1, full.height, full.width, 3)).reshape(lifted.rank, -1))
    lift_mean = jnp.asarray(halved(np.asarray(lifted.mean).reshape(full.height, full.width, 3)))
    encoder = LiftEncoder(lifted.code_length, lifted.hidden, lifted.depth)
    sigma = np.asarray(faces["sigma"])

    # Components of the logarithm, in linear light, of the same faces.
    root = np.sqrt(np.asarray(maps.weight))[..., None]
    draw = jax.jit(lambda c: jnp.log(jnp.maximum(linear_from_srgb(jnp.clip(maps.draw(c), 0, 1)), 2e-3)))
    logs = np.concatenate([np.asarray(draw(jnp.asarray(c))) for c in np.split(faces["coefficients"][:LOG_FACES], LOG_FACES // 100)])
    middle = logs.mean(0)
    flat = ((logs - middle) * root).reshape(LOG_FACES, -1)
    values, vectors = np.linalg.eigh((flat @ flat.T).astype(np.float64))
    values, vectors = values[::-1][: max(LENGTHS)], vectors[:, ::-1][:, : max(LENGTHS)]
    log_sigma = np.sqrt(values / LOG_FACES).astype(np.float32)
    log_modes = ((vectors / np.sqrt(values)).T.astype(np.float32) @ flat).reshape(-1, height, width, 3) / np.maximum(root, 1e-9)
    logs_flat = jnp.asarray(log_modes.reshape(len(log_modes), -1))

    generator = albedo_generator(default_albedo().at(jnp.asarray(texels.uv)), texels)
    own = srgb_from_linear(albedo_batch(generator, full.seed + 1, 512, COUNT)[1]).reshape(COUNT, full.height, full.width, 3)
    every = np.ones((COUNT, full.height, full.width))
    kinds: dict[str, tuple[np.ndarray, np.ndarray]] = {"held-out faces": (np.asarray(own), every)}
    if results is not None:
        names, photos, seen = unwrapped(results, full.height, full.width)
        kinds[f"{len(names)} photos unwrapped"] = photos, seen
    rows: list[list[Any]] = []
    facts: dict[str, Any] = {}
    modes = maps.modes
    for kind, (whole, shown) in kinds.items():
        # What a photo does not show is the mean's for the start.
        filled = np.where(shown[..., None] > 0.3, whole, faces["mean"])
        away_from_mean = ((filled - faces["mean"]) * faces["weight"][..., None]).reshape(len(whole), -1)
        c = jnp.asarray(away_from_mean @ faces["modes"].reshape(len(sigma), -1).T)
        target, filled = halved(whole), halved(filled)
        goal, share = jnp.asarray(target), jnp.asarray(halved(shown[..., None])[..., 0] * (front > 0.5), jnp.float32)
        linear = np.log(np.maximum(np.asarray(linear_from_srgb(jnp.asarray(np.clip(filled, 0, 1)))), 2e-3))
        log_c = jnp.asarray((((linear - middle) * root**2).reshape(len(target), -1)) @ np.asarray(log_modes).reshape(len(log_modes), -1).T)
        away = lambda x, goal=goal, share=share: 255 * jnp.sum(share * jnp.abs(x - goal).mean(-1), (1, 2)) / jnp.sum(share, (1, 2))  # noqa: E731
        for k in LENGTHS:
            candidates: dict[str, tuple[Any, Any]] = {
                "components": (lambda z, k=k: maps.mean + jnp.matmul(z * sigma[:k], modes[:k]).reshape(-1, height, width, 3), c[:, :k] / sigma[:k]),
                "components of the logarithm": (
                    lambda z, k=k: srgb_from_linear(jnp.exp(middle + jnp.matmul(z * log_sigma[:k], logs_flat[:k]).reshape(-1, height, width, 3))),
                    log_c[:, :k] / log_sigma[:k],
                ),
            }
            if k == lifted.code_length:
                candidates["lift (shipped)"] = (
                    lambda z: lift_mean + jnp.matmul(lifted.coefficients(z)[0], lift_modes).reshape(-1, height, width, 3),
                    run(encoder, lifted.encoder, c, lifted.scales),
                )
            found = {name: float(np.mean(away(f(fit_codes(f, away, start, STEPS))))) for name, (f, start) in candidates.items()}
            base = found["components"]
            lift = found.get("lift (shipped)")
            rows.append([kind, k, base, found["components of the logarithm"], lift, None if lift is None else 100 * (1 - lift / base)])
            facts[f"{kind} {k}"] = found
            print(kind, k, found, file=sys.stderr, flush=True)
    numbers = {
        "components, 160": 161 * 3 * full.height * full.width,
        "lift": lifted.basis.size + lifted.mean.size + sum(x.size for x in jax.tree.leaves((lifted.weights, lifted.encoder))),
    }
    facts["numbers"] = numbers
    note = (
        f"Mean absolute sRGB error, of 255, on maps of {height} × {width}, front of the face, of photos what they show; codes by {STEPS} steps of L1."
        f" Numbers at {full.height} × {full.width}: 160 components and the mean {numbers['components, 160'] / 1e6:.1f} million, the lift with its 400"
        f" {numbers['lift'] / 1e6:.1f} million ({sum(x.size for x in jax.tree.leaves(lifted.weights)) / 1e6:.2f} of them the decoder's weights)."
    )
    columns = ["textures", "codes", "components", "components of the logarithm", "lift (shipped)", "lower by %"]
    return Table("Textures: other data and other components", columns, rows, note), facts


def left_table(folder: Path, results: Path) -> tuple[Table, dict[str, Any]]:
    """What the unwrapped photos have that the generator's components lack, as a bound on fits by codes alone: the light is that of the fit with
    residual maps, and the albedo the best that each family can do."""
    full = PRESETS["full"]
    faces = make_faces(full, folder)
    model = load_basis(level=0)
    front = texels_of(model, full.height, full.width).face.reshape(full.height, full.width) > 0.5
    names, photos, seen = unwrapped(results, full.height, full.width)
    modes, sigma = faces["modes"].reshape(len(faces["modes"]), -1), faces["sigma"]
    rows: list[list[Any]] = []
    for name, photo, shown in zip(names, photos, seen):
        weight = np.where(front & (shown > 0.3), shown, 0.0)
        root = np.repeat(np.sqrt(weight).ravel(), 3)
        away = (photo - faces["mean"]).ravel()

        def fitted(count: int, root: np.ndarray = root, away: np.ndarray = away) -> np.ndarray:
            # Least squares with a weak prior: the photo's texels number tens of thousands.
            a = (modes[:count] * sigma[:count, None] * root).astype(np.float64)
            return (np.linalg.solve(a @ a.T + 0.01 * np.eye(count), a @ (away * root)) * sigma[:count]) @ modes[:count]

        def decibels(error: np.ndarray, weight: np.ndarray = weight) -> float:
            square = (error.reshape(*weight.shape, 3) ** 2).mean(-1)
            return float(-10 * np.log10((weight * square).sum() / weight.sum()))

        def smooth(error: np.ndarray, width: float, weight: np.ndarray = weight) -> np.ndarray:
            blur = lambda x: gaussian_filter(x, width)  # noqa: E731
            share = blur(weight) + 1e-6
            return np.stack([blur(weight * error[..., k]) / share for k in range(3)], -1)

        best = {count: (away - fitted(count)).reshape(photo.shape) for count in (160, len(modes))}
        least = best[len(modes)]
        few, every = (decibels(error) for error in best.values())
        rows.append([name, few, every, *[decibels(least - smooth(least, width)) for width in (16, 4, 1.5)]])
    columns = ["photo", "160 components", f"all {len(modes)}", "and a field of 16 texels", "of 4", "of 1.5"]
    note = (
        "PSNR, dB, of the best albedo of each family on what the photos show of the front of the face, by least squares; then with a free correction"
        " by a blurred field (Gaussian, σ in texels of 192 × 224): light and gloss vary slowly, hair and pores do not."
    )
    return Table("Photos: what the best albedo leaves", columns, rows, note), {str(row[0]): row[1:] for row in rows}


def shape_table() -> tuple[Table, dict[str, Any]]:
    """ICT's identities after the best similarity: the basis's own components, and the shipped lift."""
    model = load_basis(level=0)
    ict = ict_model(model)
    shape: Any = fj.load_textured("nonlinear", level=0).shape
    front = _face_vertices(model.n_vertices)
    mean = np.asarray(model.mean, np.float64)
    codes = SPREAD * np.random.default_rng(3).normal(size=(HEADS, IDENTITIES))
    heads = np.asarray(ict.mean) + (codes @ np.asarray(ict.modes)[:IDENTITIES]).reshape(HEADS, -1, 3)
    aligned = []
    for head in heads:
        scale, rotation, shift = similarity(head[front], mean[front])
        aligned.append(1000 * (scale * head @ rotation.T + shift - mean)[front])
    goal = jnp.asarray(np.stack(aligned), jnp.float32)
    k_id = model.n_identity
    modes = jnp.asarray(1000 * np.asarray(model.modes)[:k_id].reshape(k_id, -1, 3)[:, front].reshape(k_id, -1))
    to_modes = jnp.asarray(shape.to_modes)[:, :k_id]
    basis = jnp.matmul(to_modes, modes)
    sigma = jnp.asarray(shape.scales.sigma)
    distance = lambda x: jnp.sqrt(jnp.sum((x.reshape(goal.shape) - goal) ** 2, -1) + 1e-8).mean(-1)  # noqa: E731
    whole = np.linalg.lstsq(np.asarray(basis, np.float64).T, np.asarray(goal, np.float64).reshape(HEADS, -1).T, rcond=None)[0].T
    rows: list[list[Any]] = [["nothing: the mean face", 0, float(distance(jnp.zeros_like(goal)).mean())]]
    for k in SHAPE_LENGTHS:
        draw = lambda z, k=k: jnp.matmul(z * sigma[:k], basis[:k])  # noqa: E731
        rows.append(["components", k, float(distance(draw(fit_codes(draw, distance, jnp.zeros((HEADS, k)), STEPS))).mean())])
    lift = lambda z: jax.vmap(lambda one: jnp.matmul(shape.identity_coefficients(one)[0][:k_id], modes))(z)  # noqa: E731
    k = shape.code_length
    rows.append(["lift (shipped)", k, float(distance(lift(fit_codes(lift, distance, jnp.zeros((HEADS, k)), STEPS))).mean())])
    rows.append(["all components, least squares", len(sigma), float(distance(jnp.asarray(whole, jnp.float32) @ basis).mean())])
    print(rows, file=sys.stderr, flush=True)
    note = f"Mean distance of the face's vertices, millimetres, after the best similarity to the mean face; {HEADS} random heads of ICT, neutral."
    return Table("Shapes of another model: ICT's identities", ["decoder", "codes", "mm"], rows, note), {str(row[:2]): row[2] for row in rows}


def foreign_report(folder: Path, results: Path | None) -> tuple[list[Table], list[Target], dict]:
    """Both tables."""
    shapes, shape_facts = shape_table()
    textures, facts = texture_table(folder, results)
    left = [] if results is None else [left_table(folder, results)]
    targets = [
        Target(f"{kind}: the shipped lift's error below components'", 0.0, row[5], "%", True)
        for row in textures.rows
        for kind in [str(row[0])]
        if row[5] is not None and "photos" in kind  # type: ignore[operator]
    ]
    tables = [shapes, textures, *[table for table, _ in left]]
    return tables, targets, {"shapes": shape_facts, "textures": facts, "left": [found for _, found in left]}
