"""`fitjax train landmarks`: the landmark network, minutes on a CPU.

The state depends on the settings and the number of steps alone: faces are drawn from the step's number, so a run that was killed and goes on computes
what an uninterrupted one does.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from fitjax.errors import FitjaxError
from fitjax.geometry.rotation import geodesic_angle
from fitjax.initial.faces import SETS, Faces, random_faces
from fitjax.initial.linear_start import STEPS, apply_step, linear_start, project_points
from fitjax.initial.network import LandmarkNet, features, n_features, units
from fitjax.initial.points import PointTable, View, table_of
from fitjax.initial.weights import write_landmark_net
from fitjax.model.load import EMBEDDED, load_basis
from fitjax.networks import run
from fitjax.pytree import pytree, static
from fitjax.train.checkpoint import Metrics, load_checkpoint, save_checkpoint

#: (network, step, metrics); called after each interval.
Progress = Callable[[str, int, dict[str, float]], Any]
_HELD_OUT_BATCHES, _HELD_OUT_SEED = 6, 1_000_003


@pytree
class LandmarkSettings:
    """All structure. ``hidden``, ``depth``: of the network; ``steps``, ``batch``, ``rate``, ``warmup``: of Adam, cosine to a hundredth;
    ``interval``: steps between checkpoints; ``seed``: of faces and weights."""

    hidden: int = static(default=256)
    depth: int = static(default=2)
    steps: int = static(default=6000)
    batch: int = static(default=64)
    rate: float = static(default=1e-3)
    warmup: int = static(default=200)
    interval: int = static(default=500)
    seed: int = static(default=0)


PRESETS = {"full": LandmarkSettings(steps=12_000), "small": LandmarkSettings(steps=1500, interval=250)}


@pytree
class LandmarkState:
    """Weights, the optimiser's state, and the number of steps taken."""

    weights: Any
    optimiser: Any
    step: Any


def _transform(settings: LandmarkSettings) -> optax.GradientTransformation:
    warmup = min(settings.warmup, max(settings.steps // 10, 1))
    schedule = optax.warmup_cosine_decay_schedule(0.0, settings.rate, warmup, settings.steps, 0.01 * settings.rate)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule, b2=0.99))


def network(settings: LandmarkSettings, n_codes: int) -> LandmarkNet:
    """The module."""
    return LandmarkNet(STEPS + n_codes, settings.hidden, settings.depth)


def start_training(settings: LandmarkSettings, n_codes: int) -> LandmarkState:
    """The state before the first step."""
    weights = network(settings, n_codes).init(jax.random.key(settings.seed), jnp.zeros((1, n_features(n_codes))))
    return LandmarkState(weights, _transform(settings).init(weights), jnp.zeros((), jnp.int32))


def _measures(net: LandmarkNet, weights: Any, faces: Faces) -> dict[str, Array]:
    """Means over a batch: ``objective`` (log of what a fit minimises, where no point is far off), ``points`` (percent of the face size, hidden
    ones too), ``degrees``, ``codes`` (whitened, squared)."""
    table = faces.table

    def one(view: View, truth: Array, rotation: Array, codes: Array, plain: Array) -> tuple[Array, ...]:
        found = jax.lax.stop_gradient(linear_start(table, view))
        correction = run(net, weights, features(table, view, found))
        turned, moved, fitted = apply_step(table, found.place, found.step + units(table) * correction)
        points = project_points(table, turned, moved, fitted)
        weight = view.weight / jnp.maximum(view.weight.sum(), 1e-6)
        data = 0.5e4 * jnp.sum(weight * jnp.sum((points - view.points) ** 2, -1)) / view.size**2
        objective = data + 0.5 * table.prior * jnp.sum((fitted / table.sigma) ** 2)
        error = 100 * jnp.mean(jnp.sqrt(jnp.sum((points - truth) ** 2, -1) + 1e-12)) / view.size
        off = jnp.mean(((fitted - codes) / table.sigma) ** 2)
        return jnp.where(plain, jnp.log(objective + 0.05), 0), error, jnp.degrees(geodesic_angle(turned, rotation)), off

    return dict(
        zip(
            ("objective", "points", "degrees", "codes"),
            (x.mean() for x in jax.vmap(one)(faces.view, faces.truth, faces.rotation, faces.codes, faces.plain)),
        )
    )


@partial(jax.jit, static_argnames=("settings", "count", "n_identity"), donate_argnames=("state",))
def advance(
    settings: LandmarkSettings, state: LandmarkState, table: PointTable, n_identity: int, count: int
) -> tuple[LandmarkState, dict[str, Array]]:
    """``count`` steps; returns the mean measures over them."""
    net, optimiser = network(settings, table.sigma.shape[0]), _transform(settings)

    def loss(weights: Any, faces: Faces) -> tuple[Array, dict[str, Array]]:
        parts = _measures(net, weights, faces)
        return parts["objective"] + 0.3 * parts["points"] + 0.05 * parts["degrees"] + 0.1 * parts["codes"], parts

    def one(state: LandmarkState, _: None) -> tuple[LandmarkState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(settings.seed + 1), state.step)
        faces = random_faces(key, table, n_identity, settings.batch)
        gradient, parts = jax.grad(loss, has_aux=True)(state.weights, faces)
        change, memory = optimiser.update(gradient, state.optimiser, state.weights)
        return LandmarkState(optax.apply_updates(state.weights, change), memory, state.step + 1), parts

    state, parts = jax.lax.scan(one, state, None, length=count)
    return state, {name: jnp.mean(value) for name, value in parts.items()}


@partial(jax.jit, static_argnames=("settings", "n_identity"))
def evaluate(settings: LandmarkSettings, weights: Any, table: PointTable, n_identity: int) -> dict[str, Array]:
    """Measures on faces that no training draws."""
    net = network(settings, table.sigma.shape[0])
    keys = jax.random.split(jax.random.key(_HELD_OUT_SEED), _HELD_OUT_BATCHES)
    parts = jax.lax.map(lambda key: _measures(net, weights, random_faces(key, table, n_identity, settings.batch)), keys)
    return {name: jnp.mean(value) for name, value in parts.items()}


def train_landmarks(settings: LandmarkSettings, folder: Path, progress: Progress | None = None) -> Path | None:
    """Train or go on in ``folder``; returns the weights' file, or None if ``progress`` stopped the training by returning True.

    Raises:
        FitjaxError: settings that cannot work, or a folder of other settings.
    """
    for name in ("hidden", "depth", "steps", "batch", "interval"):
        if getattr(settings, name) < 1:
            raise FitjaxError(f"train landmarks: {name}: expected at least 1, found {getattr(settings, name)}")
    folder.mkdir(parents=True, exist_ok=True)
    model = load_basis(EMBEDDED, 0, sample_sets=SETS)
    table = table_of(model, SETS)
    about: dict[str, Any] = {name: getattr(settings, name) for name in LandmarkSettings.__dataclass_fields__ if name != "interval"}
    about |= {"what": "landmarks", "basis_sha256": model.basis_sha256}
    state = start_training(settings, table.sigma.shape[0])
    checkpoint = folder / "landmarks.checkpoint.safetensors"
    if checkpoint.is_file():
        state = load_checkpoint(checkpoint, state, about)
    record = Metrics(folder / "metrics.jsonl", "landmarks", int(state.step))
    measured: dict[str, float] = {}
    while int(state.step) < settings.steps:
        count = min(settings.interval - int(state.step) % settings.interval, settings.steps - int(state.step))
        state, parts = advance(settings, state, table, model.n_identity, count)
        others = evaluate(settings, state.weights, table, model.n_identity)
        measured = {f"train_{k}": float(v) for k, v in parts.items()} | {f"held_out_{k}": float(v) for k, v in others.items()}
        record.add(int(state.step), measured)
        save_checkpoint(checkpoint, state, about)
        if progress is not None and progress("landmarks", int(state.step), measured) is True and int(state.step) < settings.steps:
            return None
    if not measured:
        measured = {k: v for k, v in json.loads(record.lines[-1]).items() if k not in ("network", "step")}
    path = folder / "landmark_net.safetensors"
    weights = jax.tree.map(np.asarray, state.weights)
    write_landmark_net(path, weights["params"], about | {"command": "fitjax train landmarks", "measured": measured})
    return path
