"""`fitjax train decoder`: faces from the generators → coefficients → lifted albedo and identity → a model file.

Everything follows from settings and seeds. What takes long is kept in the folder: the faces' coefficients once made, a checkpoint per interval
of steps. Running again continues from there and ends with the same numbers as an uninterrupted run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from fitjax.errors import FitjaxError
from fitjax.files.atomic import atomic_write_bytes
from fitjax.model.albedo import default_albedo
from fitjax.model.load import EMBEDDED, load_basis
from fitjax.model.nonlinear_file import STEP, pack_albedo, pack_local, write_nonlinear
from fitjax.model.nonlinear_weights import flatten_weights
from fitjax.model.tensor_file import read_tensor_file
from fitjax.networks.lift import LiftScales
from fitjax.render.lighting import srgb_from_linear
from fitjax.train.albedo_data import albedo_data, check_albedo, texel_weights
from fitjax.train.checkpoint import FORMAT, Metrics, load_checkpoint, save_checkpoint
from fitjax.train.coefficients import components, folding_of
from fitjax.train.generator import albedo_batch, albedo_generator, generator_hash
from fitjax.train.generator_shape import random_identities
from fitjax.train.lift import LiftSettings, LiftState, advance, evaluate, start
from fitjax.train.shapes import identity_components
from fitjax.train.texels import texels_of

#: (network, step, metrics); called after each interval.
Progress = Callable[[str, int, dict[str, float]], Any]

#: Faces of the held-out seed, for metrics.
HELD_OUT = 256

#: Least number of random identities: unlike faces they cost nothing, and few thousands are learned by heart.
IDENTITIES = 60_000


@dataclass(frozen=True)
class DecoderSettings:
    """What `fitjax train decoder` makes.

    Attributes:
        height, width: of the albedo maps. analysed: faces for the components. faces: to train on. rank: components to keep.
        albedo, shape: of the two lifts. interval: steps between checkpoints. seed: of the faces.
        feature_weight: how much more texels around eyes, brows and mouth count in the albedo's errors: for codes of 16 or 32 numbers, which would
            spend little on them. mirrored: half of the albedo's batches are mirrored faces. local: components of each local region of the albedo
            (:mod:`fitjax.train.local`), 0 for a global lift.
    """

    height: int = 192
    width: int = 224
    analysed: int = 3000
    faces: int = 48_000
    rank: int = 400
    albedo: LiftSettings = field(default_factory=lambda: LiftSettings(code_length=160))
    shape: LiftSettings = field(default_factory=lambda: LiftSettings(code_length=80, hidden=192, steps=4000))
    interval: int = 500
    seed: int = 0
    feature_weight: float = 0.0
    mirrored: bool = False
    local: int = 0


PRESETS = {
    "full": DecoderSettings(),
    "small": DecoderSettings(
        height=96, width=112, analysed=600, faces=4000, rank=128, interval=250,
        albedo=LiftSettings(code_length=32, hidden=192, steps=2000),
        shape=LiftSettings(code_length=32, hidden=96, steps=2000),
    ),
}  # fmt: skip


#: Settings of a lift that files made before them do not name.
_LATER = ("local", "texel_weight")


def _about(settings: DecoderSettings, *, part: str) -> dict[str, Any]:
    """What a kept file belongs to."""
    whole = {"generator": generator_hash(), "seed": settings.seed, "map": [settings.height, settings.width], "rank": settings.rank}
    whole |= {"analysed": settings.analysed, "faces": settings.faces}
    if part != "faces":
        lift = getattr(settings, part)
        fields = {name: getattr(lift, name) for name in LiftSettings.__dataclass_fields__ if name not in _LATER or getattr(lift, name)}
        whole |= {f"{part}_{name}": list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
    if part == "albedo" and (settings.feature_weight or settings.mirrored):
        whole |= {"feature_weight": settings.feature_weight, "mirrored": settings.mirrored}
    if part == "albedo" and settings.local:
        whole |= {"local_components": settings.local}
    return whole


def check_settings(settings: DecoderSettings) -> None:
    """Raises FitjaxError, naming the setting, for one that cannot work."""
    least = {"height": 16, "width": 16, "analysed": 2, "faces": 2, "rank": 1, "interval": 1}
    for name, low in least.items():
        if getattr(settings, name) < low:
            raise FitjaxError(f"train decoder: {name}: expected at least {low}, found {getattr(settings, name)}")
    if not settings.feature_weight >= 0:
        raise FitjaxError(f"train decoder: feature_weight: expected 0 or more, found {settings.feature_weight}")
    if settings.rank > settings.analysed:
        raise FitjaxError(f"train decoder: rank {settings.rank}: expected at most the number of analysed faces, {settings.analysed}")
    check_albedo(settings)
    for name, limit in (("albedo", settings.rank), ("shape", None)):
        part: LiftSettings = getattr(settings, name)
        for key in ("code_length", "hidden", "depth", "steps", "batch"):
            if getattr(part, key) < 1:
                raise FitjaxError(f"train decoder: {name} {key}: expected at least 1, found {getattr(part, key)}")
        if limit is not None and part.code_length > limit:
            raise FitjaxError(f"train decoder: albedo code of {part.code_length}: expected at most the rank, {limit}")


def make_faces(settings: DecoderSettings, folder: Path, say: Callable[[str], Any] = print) -> dict[str, np.ndarray]:
    """Components of the generator's albedo and the coefficients of all training faces: read if the folder has them, else made and kept.

    Raises:
        FitjaxError: the folder's are of other settings.
    """
    path, about = folder / "faces.safetensors", _about(settings, part="faces")
    if path.is_file():
        tensors, metadata, _ = read_tensor_file(path, "faces", FORMAT, remedy="delete it to start over")
        found = json.loads(metadata["about"])
        differs = [name for name in about if found.get(name) != about[name]]
        if differs:
            name = differs[0]
            raise FitjaxError(f"faces {path}: {name} was {found.get(name)!r}, is {about[name]!r}; give the same settings or another folder")
        return tensors
    model = load_basis(EMBEDDED, 0, sample_sets=())
    height, width = settings.height, settings.width
    texels, folding = texels_of(model, height, width), folding_of(model, height, width)
    generator = albedo_generator(default_albedo().at(jnp.asarray(texels.uv)), texels)
    weight = texel_weights(texels.face.reshape(height, width), folding.rows)

    def maps(first: int, count: int, seed: int = settings.seed) -> jax.Array:
        linear = albedo_batch(generator, seed, first, count)[1]
        return srgb_from_linear(linear).reshape(count, height, width, 3)

    say(f"generator {generator_hash()[:16]}: components of {settings.analysed} faces")
    found = components(maps, settings.analysed, settings.rank, weight, folding)
    project = jax.jit(found.coefficients)
    batch = 64

    def coefficients(count: int, seed: int) -> np.ndarray:
        # Whole batches, so that one program serves all.
        parts = [np.asarray(project(maps(first, batch, seed))) for first in range(0, count, batch)]
        return np.concatenate(parts)[:count]

    say(f"coefficients of {settings.faces} faces")
    tensors = {
        "coefficients": coefficients(settings.faces, settings.seed),
        "held_out": coefficients(HELD_OUT, settings.seed + 1),
        "mean": found.mean,
        "modes": found.modes,
        "sigma": found.sigma,
        "is_odd": found.is_odd.astype(np.uint8),
        "weight": found.weight,
        "rows": np.array([folding.rows], np.int32),
    }
    contiguous = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    atomic_write_bytes(path, safetensors.numpy.save(contiguous, {"format": FORMAT, "about": json.dumps(about)}))
    return tensors


def train_lift(
    settings: LiftSettings,
    scales: LiftScales,
    data: np.ndarray,
    held_out: np.ndarray,
    checkpoint: Path,
    metrics: Path,
    about: dict[str, Any],
    interval: int,
    progress: Progress | None = None,
) -> LiftState:
    """Train to the end of the settings' steps, from the checkpoint if there is one."""
    name = checkpoint.name.removesuffix(".checkpoint.safetensors")
    state = start(settings, scales)
    if checkpoint.is_file():
        state = load_checkpoint(checkpoint, state, about)
    rows, others = jnp.asarray(data), jnp.asarray(held_out)
    record = Metrics(metrics, name, int(state.step))
    while int(state.step) < settings.steps:
        count = min(interval - int(state.step) % interval, settings.steps - int(state.step))
        state, parts = advance(settings, state, scales, rows, count)
        measured = {f"train_{k}": float(v) for k, v in parts.items()}
        measured |= {f"held_out_{k}": float(v) for k, v in evaluate(settings, state.weights, scales, others).items()}
        step = int(state.step)
        record.add(step, measured)
        save_checkpoint(checkpoint, state, about)
        if progress is not None and progress(name, step, measured) is True:
            break
    return state


def train_decoder(
    settings: DecoderSettings,
    folder: Path,
    identities: tuple[np.ndarray, np.ndarray] | None = None,
    progress: Progress | None = None,
    say: Callable[[str], Any] = print,
) -> Path | None:
    """Make or continue everything in ``folder``; returns the model file, or None if ``progress`` stopped the training.

    Args:
        identities: (N, K) identity coefficients and (N,) ages to train on, default standard normal ones.
        progress: called after each interval; True stops, and the next call goes on.

    Raises:
        FitjaxError: settings that cannot work, or a folder of other settings.
    """
    check_settings(settings)
    faces = make_faces(settings, folder, say)
    model = load_basis(EMBEDDED, 0, sample_sets=())
    learned = albedo_data(settings, faces, model, folder, say=say)
    if learned.local is not None:
        settings = replace(settings, albedo=replace(settings.albedo, local=learned.local.counts))
    if identities is None:
        identities = random_identities(model.n_identity, max(settings.faces, IDENTITIES), settings.seed)
    shapes = identity_components(model, *identities)
    if settings.shape.code_length > len(shapes.sigma):
        raise FitjaxError(f"train decoder: shape code of {settings.shape.code_length}: expected at most {len(shapes.sigma)}")
    others = random_identities(model.n_identity, HELD_OUT, settings.seed + 1)
    shape_data, shape_others = (np.concatenate([i, a[:, None]], 1) @ shapes.from_modes for i, a in (identities, others))
    every = {
        "albedo": learned.scales,
        "shape": LiftScales(jnp.asarray(shapes.sigma), jnp.asarray(shapes.filter)),
    }
    filters = {part: np.asarray(scales.filter) for part, scales in every.items()}
    data = {"albedo": (learned.data, learned.held_out), "shape": (shape_data, shape_others)}
    people = hashlib.sha256(b"".join(np.ascontiguousarray(x, np.float32).tobytes() for x in identities)).hexdigest()
    abouts = {"albedo": _about(settings, part="albedo"), "shape": _about(settings, part="shape") | {"identities": people}}
    states: dict[str, LiftState] = {}
    for part in ("albedo", "shape"):
        lift: LiftSettings = getattr(settings, part)
        checkpoint = folder / f"{part}.checkpoint.safetensors"
        metrics = folder / "metrics.jsonl"
        state = train_lift(lift, every[part], *data[part], checkpoint, metrics, abouts[part], settings.interval, progress)
        if int(state.step) < lift.steps:
            return None
        states[part] = state
    path = folder / "model.safetensors"
    _write(path, settings, faces, learned.local, shapes, filters, states, model, abouts)
    return path


def _write(path: Path, settings: DecoderSettings, faces: Any, local: Any, shapes: Any, filters: Any, states: Any, model: Any, abouts: Any) -> None:
    rows = int(faces["rows"][0])
    tensors = pack_albedo(faces["mean"], faces["modes"], faces["sigma"], faces["is_odd"].astype(bool), faces["weight"], rows)
    if local is not None:
        tensors |= pack_local(local.modes, local.sigma, tensors["albedo.sigma"])
    tensors |= {"shape.sigma": shapes.sigma, "shape.to_modes": shapes.to_modes}
    for part, state in states.items():
        length = getattr(settings, part).code_length
        tensors[f"{part}.filter"] = filters[part][:length].astype(np.float16)
        tensors |= flatten_weights(state.weights["decoder"]["params"], f"{part}.decoder")
    tensors |= flatten_weights(states["albedo"].weights["encoder"]["params"], "albedo.encoder")
    about: dict[str, Any] = {"basis": EMBEDDED, "basis_sha256": model.basis_sha256, "rows": rows, "step": STEP}
    for part in ("albedo", "shape"):
        lift = getattr(settings, part)
        about[part] = {name: getattr(lift, name) for name in ("code_length", "hidden", "depth")}
    if local is not None:
        about["albedo"] |= {"regions": local.regions, "local": local.counts}
    provenance: dict[str, Any] = abouts | {"command": "fitjax train decoder", "hardware": f"{jax.device_count()} × {jax.devices()[0].device_kind}"}
    write_nonlinear(path, tensors, about, provenance)


def with_steps(settings: DecoderSettings, steps: int | None, seed: int | None) -> DecoderSettings:
    """The settings with another number of steps of both networks, or another seed."""
    if steps is not None:
        settings = replace(settings, albedo=replace(settings.albedo, steps=steps), shape=replace(settings.shape, steps=steps))
    if seed is not None:
        lifts = {part: replace(getattr(settings, part), seed=seed) for part in ("albedo", "shape")}
        settings = replace(settings, seed=seed, **lifts)
    return settings
