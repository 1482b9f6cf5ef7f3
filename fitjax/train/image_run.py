"""`fitjax train image`: the image network. Draws its pool of portraits, then trains on it; both go on where they were stopped.

The state depends on settings, pool and number of steps alone: which portraits a step takes and how they are spoilt follow from its number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from fitjax.errors import FitjaxError
from fitjax.initial.image_mirror import Mirror, mirror_of
from fitjax.initial.image_network import ImageNet, folded_weights
from fitjax.initial.image_tables import DENSE, MARKS, ImageTables, image_tables
from fitjax.initial.image_weights import write_image_net
from fitjax.initial.network import LandmarkNet
from fitjax.initial.weights import load_landmark_net
from fitjax.model.load import EMBEDDED, load_basis
from fitjax.model.tensor_file import read_tensor_file
from fitjax.networks import run
from fitjax.pytree import pytree, replace, static
from fitjax.synth.draw import load_synth
from fitjax.train.checkpoint import FORMAT as CHECKPOINT
from fitjax.train.checkpoint import Metrics, load_checkpoint, save_checkpoint
from fitjax.train.image_augment import Crops, crops, mirrored_crops
from fitjax.train.image_cycle import disagreement
from fitjax.train.image_loss import loss, measures, wing
from fitjax.train.image_pool import POOL, Pool, draw_pool, portraits_in

#: (network, step, metrics); called after each interval; True stops.
Progress = Callable[[str, int, dict[str, float]], Any]


@pytree
class ImageSettings:
    """All structure. ``side``, ``channels``, ``blocks``, ``width``, ``hidden``: of the network; ``portraits``, ``held_out``: of the pool, the first
    of which are never trained on; ``steps``, ``batch``, ``rate``, ``warmup``, ``decay``: of AdamW, cosine to a hundredth; ``average``: of the
    weights; ``agreement``: weight of self-consistency (:mod:`fitjax.train.image_cycle`); ``interval``: steps between checkpoints; ``seed``."""

    side: int = static(default=96)
    channels: tuple[int, int, int, int] = static(default=(24, 48, 96, 160))
    blocks: tuple[int, int, int, int] = static(default=(0, 1, 1, 2))
    width: int = static(default=48)
    hidden: int = static(default=256)
    portraits: int = static(default=10_000)
    held_out: int = static(default=250)
    steps: int = static(default=6000)
    batch: int = static(default=16)
    rate: float = static(default=1.2e-3)
    warmup: int = static(default=200)
    decay: float = static(default=0.02)
    average: float = static(default=0.998)
    agreement: float = static(default=0.0)
    interval: int = static(default=200)
    seed: int = static(default=0)


PRESETS = {
    "full": ImageSettings(),
    "small": ImageSettings(side=64, channels=(8, 16, 24, 32), blocks=(0, 1, 1, 1), width=24, hidden=64, portraits=1000, steps=600),
}


@pytree
class ImageState:
    """Weights (P,) in one row, so that the optimiser is a handful of operations; their moving average, the optimiser's state, the number of steps."""

    weights: Float[Array, "P"]
    average: Float[Array, "P"]
    optimiser: Any
    step: Any


def network(settings: ImageSettings) -> ImageNet:
    """The module as it is trained."""
    return ImageNet(settings.side, settings.channels, settings.blocks, settings.width, settings.hidden)


def _transform(settings: ImageSettings) -> optax.GradientTransformation:
    warmup = min(settings.warmup, max(settings.steps // 10, 1))
    schedule = optax.warmup_cosine_decay_schedule(0.0, settings.rate, warmup, settings.steps, 0.01 * settings.rate)
    return optax.chain(optax.clip_by_global_norm(3.0), optax.adamw(schedule, b2=0.99, weight_decay=settings.decay))


def _shapes(settings: ImageSettings, tables: ImageTables) -> Any:
    """The weights' tree without their values."""
    example = jnp.zeros((1, settings.side, settings.side, 3))
    return jax.eval_shape(lambda: network(settings).init(jax.random.key(0), example, tables))


def _first_values(path: str, shape: tuple[int, ...], normal: np.ndarray) -> np.ndarray:
    """Of one tensor from standard normal numbers: what its module's own initialiser does. Those compile for longer than a small training takes."""
    module, name = path.split(".")[-2:]
    if name == "kernel":
        small, fan = module in ("pose", "codes", "maps", "mark2"), np.prod(shape[:-1])
        return normal * np.sqrt((0.01 if small else 2.0 if len(shape) == 4 else 1.0) / fan)
    return {"bias": 0 * normal, "gain": 1 + 0 * normal, "share": 0.3 + 0 * normal, "known": 0.5 * normal}[name]


def _row(tree: Any) -> Float[Array, "P"]:
    return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(tree)])


def weights_of(settings: ImageSettings, tables: ImageTables, row: Float[Array, "P"]) -> Any:
    """The network's weights from their row."""
    leaves, structure = jax.tree.flatten(_shapes(settings, tables))
    ends = np.cumsum([leaf.size for leaf in leaves])
    return jax.tree.unflatten(structure, [row[end - leaf.size : end].reshape(leaf.shape) for leaf, end in zip(leaves, ends)])


def start_training(settings: ImageSettings, tables: ImageTables) -> ImageState:
    """The state before the first step."""
    rng, values = np.random.default_rng(settings.seed), []
    for path, leaf in jax.tree_util.tree_flatten_with_path(_shapes(settings, tables))[0]:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        values.append(_first_values(name, leaf.shape, rng.standard_normal(leaf.size)))
    row = np.concatenate(values).astype(np.float32)
    # Copies: a step gives the memory of its arguments to its results.
    return ImageState(jnp.array(row), jnp.array(row), _transform(settings).init(jnp.array(row)), jnp.zeros((), jnp.int32))


def _read(checkpoint: Path) -> bytes:
    try:
        return checkpoint.read_bytes()
    except OSError as error:
        raise FitjaxError(f"train image: start {checkpoint}: cannot be read ({error.strerror}); give the checkpoint of a run") from None


def continue_training(settings: ImageSettings, tables: ImageTables, checkpoint: Path) -> ImageState:
    """The state before the first step of a run that begins with another's average of weights.

    Raises:
        FitjaxError: the file is no checkpoint, or its network is another.
    """
    tensors, _, _ = read_tensor_file(checkpoint, "checkpoint", CHECKPOINT, remedy="give the checkpoint of another run of this command")
    row, new = tensors.get(".average", np.zeros(0)), start_training(settings, tables)
    if row.shape != new.weights.shape:
        raise FitjaxError(
            f"train image: start {checkpoint}: expected {new.weights.size} weights, found {row.size}; give its run's settings"
        )
    return replace(new, weights=jnp.array(row), average=jnp.array(row))


@partial(jax.jit, static_argnames=("side",))
def spoilt_crops(side: int, seed: Any, step: Any, batch: Any, mirror: Mirror | None = None) -> Crops:
    """The crops of a step, from the pool's portraits; with a ``mirror`` half of them are turned to their mirror images."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    made = crops(key, batch, side)
    return made if mirror is None else mirrored_crops(made, mirror, jax.random.bernoulli(jax.random.fold_in(key, 1), shape=made.size.shape))


@partial(jax.jit, static_argnames=("settings", "judge"), donate_argnames=("state",))
def train_step(
    settings: ImageSettings, state: ImageState, tables: ImageTables, truth: Crops, judge: LandmarkNet | None = None, judge_weights: Any = None
) -> tuple[ImageState, dict[str, Array]]:
    """One step on a batch of crops; returns the state and the terms of the loss. ``judge``: the landmark network, where ``agreement`` counts."""
    net, optimiser = network(settings), _transform(settings)

    def objective(weights: Any) -> tuple[Array, dict[str, Array]]:
        out = run(net, weights, truth.image, tables)
        total, parts = loss(out, truth, tables)
        if judge is None:
            return total, parts
        apart = jnp.mean(wing(disagreement(judge, judge_weights, tables, out, truth.size)))
        return total + settings.agreement * apart, parts | {"agreement": apart}

    (total, parts), gradient = jax.value_and_grad(objective, has_aux=True)(weights_of(settings, tables, state.weights))
    change, memory = optimiser.update(_row(gradient), state.optimiser, state.weights)
    weights = state.weights + change
    step = state.step + 1
    # Early on the average forgets quickly.
    keep = jnp.minimum(settings.average, step / (step + 10.0))
    average = keep * state.average + (1 - keep) * weights
    return ImageState(weights, average, memory, step), parts | {"loss": total}


@partial(jax.jit, static_argnames=("settings",))
def _measured(settings: ImageSettings, row: Array, tables: ImageTables, truth: Crops) -> dict[str, Array]:
    return measures(run(network(settings), weights_of(settings, tables, row), truth.image, tables), truth)


def evaluate(settings: ImageSettings, row: Array, tables: ImageTables, pool: Pool) -> dict[str, float]:
    """Measures on the pool's held-out portraits, spoilt in a fixed way."""
    count = max(settings.held_out // settings.batch, 1)
    parts = []
    for k in range(count):
        batch = pool.take((k * settings.batch + np.arange(settings.batch)) % settings.held_out)
        parts.append(_measured(settings, row, tables, spoilt_crops(settings.side, 1_000_003, k, batch)))
    return {name: float(np.mean([p[name] for p in jax.device_get(parts)])) for name in parts[0]}


def choose(settings: ImageSettings, step: int, count: int) -> np.ndarray:
    """(B,) which of ``count`` portraits a step takes."""
    return np.random.default_rng((settings.seed, step)).integers(settings.held_out, count, settings.batch)


def check_settings(settings: ImageSettings) -> None:
    """Raises FitjaxError, naming the setting, for one that cannot work."""
    for name in ("hidden", "width", "steps", "batch", "interval", "held_out"):
        if getattr(settings, name) < 1:
            raise FitjaxError(f"train image: {name}: expected at least 1, found {getattr(settings, name)}")
    if settings.side < 16 or settings.side % 16:
        raise FitjaxError(f"train image: side: expected a multiple of 16, found {settings.side}")
    if not 0 < settings.rate < float("inf"):
        raise FitjaxError(f"train image: rate: expected a positive number, found {settings.rate}")
    if settings.portraits <= settings.held_out:
        raise FitjaxError(f"train image: portraits: expected more than the {settings.held_out} that are held out, found {settings.portraits}")


def train_image(
    settings: ImageSettings,
    folder: Path,
    progress: Progress | None = None,
    pool: Path | None = None,
    start: Path | None = None,
) -> Path | None:
    """Draw the pool and train, or go on in ``folder``; returns the weights' file, or None if ``progress`` stopped it by returning True.

    Args:
        pool: folder of the portraits, default ``folder / "pool"``; drawn there as far as they are missing.
        start: another run's ``image.checkpoint.safetensors``, whose average of weights is where this one begins.

    Raises:
        FitjaxError: settings that cannot work, a folder of other settings, or a start of another network.
    """
    check_settings(settings)
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / "pool" if pool is None else pool
    stopped = False

    def drawn(count: int) -> bool:
        nonlocal stopped
        stopped = progress is not None and progress("pool", count, {}) is True
        return stopped

    if portraits_in(place) < settings.portraits:
        draw_pool(load_synth(), POOL, place, settings.portraits, seed=settings.seed, progress=drawn)
    if stopped:
        return None
    portraits = Pool(place)
    model = load_basis(EMBEDDED, 0, sample_sets=(MARKS, DENSE))
    tables = image_tables(model)
    mirror, judge = mirror_of(tables), load_landmark_net()[:2] if settings.agreement else ()
    about: dict[str, Any] = {name: getattr(settings, name) for name in ImageSettings.__dataclass_fields__ if name != "interval"}
    about = json.loads(json.dumps(about | {"what": "image", "mirrored": True, "basis_sha256": model.basis_sha256, "pool": portraits.about}))
    if start is not None:
        about["start_sha256"] = hashlib.sha256(_read(start)).hexdigest()
    checkpoint = folder / "image.checkpoint.safetensors"
    if checkpoint.is_file():
        state = load_checkpoint(checkpoint, jax.eval_shape(lambda: start_training(settings, tables)), about)
    else:
        state = start_training(settings, tables) if start is None else continue_training(settings, tables, start)
    record = Metrics(folder / "metrics.jsonl", "image", int(state.step))
    measured: dict[str, float] = {}
    while (step := int(state.step)) < settings.steps:
        count = min(settings.interval - step % settings.interval, settings.steps - step)
        parts = []
        for k in range(count):
            batch = portraits.take(choose(settings, step + k, settings.portraits))
            state, one = train_step(settings, state, tables, spoilt_crops(settings.side, settings.seed + 1, step + k, batch, mirror), *judge)
            parts.append(one)
        means = {name: float(np.mean([p[name] for p in jax.device_get(parts)])) for name in parts[0]}
        others = evaluate(settings, state.average, tables, portraits)
        measured = {f"train_{k}": v for k, v in means.items()} | {f"held_out_{k}": v for k, v in others.items()}
        record.add(int(state.step), measured)
        save_checkpoint(checkpoint, state, about)
        if progress is not None and progress("image", int(state.step), measured) is True and int(state.step) < settings.steps:
            return None
    if not measured:  # all steps were taken before
        measured = {f"held_out_{k}": v for k, v in evaluate(settings, state.average, tables, portraits).items()}
    path = folder / "image_net.safetensors"
    params = folded_weights(jax.tree.map(np.asarray, weights_of(settings, tables, state.average)["params"]))
    # What the network says of its errors, put right on portraits that it was not trained on.
    factor = round(measured["held_out_spread"] / measured["held_out_sigma"], 3)
    write_image_net(path, params, about | {"command": "fitjax train image", "measured": measured, "sigma_factor": factor})
    return path
