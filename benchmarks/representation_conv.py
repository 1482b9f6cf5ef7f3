"""The paper's convolutional network next to components and the lift: ``python -m benchmarks.representation FOLDER --only conv``.

The network is that of ``python -m basis.train_nonlinear FOLDER --network conv``; variants without local paths or proxies are trained here on equal,
smaller budgets. All are compared on its maps, 96 × 112, with codes fitted from an encoder's by the same L1 and optimiser.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors

import fitjax as fj
from benchmarks.report import Table, Target
from benchmarks.representation import fit_codes
from fitjax.model.albedo import default_albedo
from fitjax.model.load import load_basis
from fitjax.model.nonlinear_albedo import LiftedAlbedo
from fitjax.networks import run
from fitjax.networks.lift import LiftEncoder
from fitjax.pytree import replace
from fitjax.render.lighting import srgb_from_linear
from fitjax.train.albedo_data import feature_texels
from fitjax.train.checkpoint import load_checkpoint
from fitjax.train.conv import ConvSettings, MapFaces, decode, encode, start_conv, train_conv
from fitjax.train.conv_run import albedo_faces, network_settings, paper_at_half
from fitjax.train.generator import albedo_batch, albedo_generator, generator_hash
from fitjax.train.heldout import heldout_albedo
from fitjax.train.run import PRESETS, make_faces
from fitjax.train.texels import texels_of

#: Faces per kind, steps of the fit of codes, faces at once; steps of a variant's training.
COUNT, FIT_STEPS, TOGETHER, VARIANT_STEPS = 8, 40, 8, 250


def halved(maps: Any) -> np.ndarray:
    """Maps (..., H, W, 3) at half the size, the means of four texels."""
    x = np.asarray(maps)
    return 0.25 * (x[..., ::2, ::2, :] + x[..., 1::2, ::2, :] + x[..., ::2, 1::2, :] + x[..., 1::2, 1::2, :])


def last_steps(folder: Path, name: str) -> int:
    """How far a network has come, by its metrics."""
    path = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return max((row["step"] for row in rows if row["network"] == name), default=0)


def trained_conv(folder: Path, faces: dict[str, Any], maps: MapFaces) -> tuple[dict[str, tuple[ConvSettings, Any]], dict[str, int]]:
    """Settings and weights by name: the paper's network as far as it has come, and the variants; and the steps of each."""
    base = network_settings(paper_at_half(1, 1), load_basis(level=0, sample_sets=()))["albedo"]
    networks: dict[str, tuple[ConvSettings, Any]] = {}
    steps = {}
    checkpoint = folder / "conv_albedo.checkpoint.safetensors"
    if checkpoint.is_file():
        with safetensors.safe_open(str(checkpoint), "np") as handle:
            about = json.loads(handle.metadata()["about"])
        networks["global-local, proxy"] = base, load_checkpoint(checkpoint, start_conv(base, maps), about)[0]
        steps["global-local, proxy"] = last_steps(folder, "conv_albedo")
    for name, changes in {
        "global-local, proxy, short": {},
        "global, proxy, short": {"regions": ()},
        "global-local, no proxy, short": {"proxies": False},
        "global, no proxy, short": {"regions": (), "proxies": False},
    }.items():
        settings = replace(base, steps=VARIANT_STEPS, **changes)
        place = folder / "representation"
        place.mkdir(parents=True, exist_ok=True)
        key = "conv_" + "".join(c if c.isalnum() else "_" for c in name)
        about = {"generator": generator_hash(), "settings": repr(settings)}

        def progress(name: str, step: int, measured: dict[str, float]) -> None:
            print(f"  {name} {step}", {k: round(255 * v, 3) for k, v in measured.items()}, file=sys.stderr, flush=True)

        files = place / f"{key}.checkpoint.safetensors", place / "metrics.jsonl"
        state = train_conv(settings, maps, faces["coefficients"], faces["held_out"], *files, about, 100, progress)
        networks[name], steps[name] = (settings, state[0]), settings.steps
    return networks, steps


def conv_report(folder: Path) -> tuple[list[Table], list[Target], dict, dict]:
    """Table of textures, facts and pictures of maps."""
    full = PRESETS["full"]
    height, width = full.height, full.width
    faces = make_faces(full, folder)
    maps = albedo_faces(faces, 1)
    model = load_basis(level=0)
    texels = texels_of(model, height, width)
    base = default_albedo().at(jnp.asarray(texels.uv))
    generator = albedo_generator(base, texels)
    weight = halved(texels.face.reshape(height, width, 1))[..., 0]
    front = weight > 0.5
    features = (feature_texels(model, height // 2, width // 2) & front)[front]
    own = np.asarray(srgb_from_linear(albedo_batch(generator, full.seed + 1, 512, COUNT)[1]).reshape(COUNT, height, width, 3))
    other = np.asarray(srgb_from_linear(jnp.asarray(heldout_albedo(base, texels.face.reshape(height, width), COUNT, 7))))
    weighted = faces["weight"][..., None]
    flat = faces["modes"].reshape(len(faces["modes"]), -1)
    sigma = jnp.asarray(faces["sigma"])
    networks, steps = trained_conv(folder, faces, maps)
    lifted: Any = fj.load_textured("nonlinear", level=0).albedo
    assert isinstance(lifted, LiftedAlbedo)
    length = lifted.code_length
    lift_modes = jnp.asarray(halved(np.asarray(lifted.basis).reshape(-1, height, width, 3)).reshape(lifted.rank, -1))
    lift_mean = jnp.asarray(halved(np.asarray(lifted.mean).reshape(height, width, 3)))
    pca = lambda z: maps.draw(jnp.pad(z * sigma[:length], ((0, 0), (0, len(sigma) - length))))  # noqa: E731
    lift = lambda z: lift_mean + jnp.matmul(lifted.coefficients(z)[0], lift_modes).reshape(-1, *lift_mean.shape)  # noqa: E731
    candidates: dict[str, tuple[Any, Any]] = {"components": (pca, lambda c: c[:, :length] / sigma[:length])}
    # The shipped basis is that of the folder, up to its packing: coefficients serve both.
    encoder = LiftEncoder(length, lifted.hidden, lifted.depth)
    candidates["lift (shipped)"] = lift, lambda c: run(encoder, lifted.encoder, c, lifted.scales)
    for name, (settings, weights) in networks.items():
        candidates[name] = (
            lambda z, s=settings, w=weights: decode(s, w, maps, z)[0],
            lambda c, s=settings, w=weights: encode(s, w, maps, c),
        )
    rows: list[list[Any]] = []
    facts: dict[str, Any] = {}
    pictures: dict[str, np.ndarray] = {}
    for name, (draw, begin) in candidates.items():
        row: list[Any] = [name, steps.get(name), networks[name][0].batch * steps[name] if name in steps else None]
        for kind, photos in (("held-out faces", own), ("held-out generator", other)):
            target = halved(photos)
            c = jnp.asarray(((photos - faces["mean"]) * weighted).reshape(COUNT, -1) @ flat.T)
            errors = []
            for first in range(0, COUNT, TOGETHER):
                seen = jnp.asarray(target[first : first + TOGETHER])
                away = lambda x, t=seen: jnp.mean(jnp.abs(x - t)[:, front], (1, 2)) * 255  # noqa: E731
                codes = fit_codes(draw, away, begin(c[first : first + TOGETHER]), FIT_STEPS)
                drawn = np.asarray(jax.jit(draw)(codes))
                errors.append(255 * np.abs(drawn - np.asarray(seen))[:, front].mean(-1))
                if name == "global-local, proxy" and first == 0:
                    pictures[f"conv_{kind.split()[-1]}"] = _sheet(*networks[name], maps, codes[:4], target[:4])
            error = np.concatenate(errors)
            row += [float(error.mean()), float(error[:, features].mean())]
            facts[f"{name}, {kind}"] = row[-2:]
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    columns = ["network, 160 codes", "steps", "faces seen", "held-out faces", "features", "other generator", "features"]
    note = f"Mean absolute sRGB error, of 255, front of the face on maps of 96 × 112; {COUNT} faces each, codes by {FIT_STEPS} steps of L1."
    return [Table("The paper's network", columns, rows, note)], [], facts, pictures


def _sheet(settings: ConvSettings, weights: Any, maps: MapFaces, codes: Any, target: np.ndarray) -> np.ndarray:
    """A row per face: truth, full, proxy, half-grey plus three times the residual; uint8."""
    full, proxy = (np.asarray(x) for x in jax.jit(lambda z: decode(settings, weights, maps, z))(jnp.asarray(codes)))
    rows = [np.concatenate(tiles, 1) for tiles in zip(target, full, proxy, 0.5 + 3 * (full - proxy))]
    return (np.clip(np.concatenate(rows), 0, 1).repeat(3, 0).repeat(3, 1) * 255).astype(np.uint8)
