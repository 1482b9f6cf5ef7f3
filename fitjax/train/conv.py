"""Stage 1 of the convolutional decoders (Tran, Liu, Liu, CVPR 2019): coefficients of faces → code → full and proxy maps.

Albedo and shape alike are maps, mean + coefficients · components. The full map is compared with the face by L1; the proxy as well, under the
paper's strong regularisers (symmetry, smoothness); an L1 tie holds the two together. With ``proxies`` off, the regularisers act on the full map, as
in a model without proxies. Faces are drawn from the coefficients that the lift trains on: both see the same data, and no generator runs in the loop.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from fitjax.losses.proxies import residual_cost, smoothness_cost, symmetry_cost
from fitjax.networks import run
from fitjax.networks.conv import GLOBAL_CHANNELS, LOCAL_CHANNELS, GlobalLocalDecoder, Region
from fitjax.networks.lift import LiftEncoder, LiftScales
from fitjax.pytree import pytree, static
from fitjax.train.checkpoint import Metrics, load_checkpoint, save_checkpoint
from fitjax.train.devices import spread


@pytree
class ConvSettings:
    """All structure.

    Attributes:
        code_length, regions, first, local_first, channels, local_channels, limit: of the network. scale: of its map, in the unit of the maps.
        steps, batch, rate: of Adam. proxies: two heads as in the paper; False regularises the full map itself. symmetry, smoothness, tie: weights
            of the regularisers, on errors in units of the network's map. seed: of weights and batches.
    """

    code_length: int = static(default=160)
    regions: tuple[Region, ...] = static(default=())
    first: int = static(default=160)
    local_first: int = static(default=128)
    channels: tuple[int, ...] = static(default=GLOBAL_CHANNELS)
    local_channels: tuple[int, ...] = static(default=LOCAL_CHANNELS)
    limit: float = static(default=1.0)
    scale: float = static(default=0.6)
    steps: int = static(default=2000)
    batch: int = static(default=16)
    rate: float = static(default=1e-3)
    proxies: bool = static(default=True)
    symmetry: float = static(default=0.5)
    smoothness: float = static(default=50.0)
    tie: float = static(default=0.1)
    seed: int = static(default=0)


@pytree
class MapFaces:
    """Faces as maps: mean + coefficients · modes.

    Attributes:
        mean: (H, W, 3). modes: (R, 3 H W). weight: (H, W) of a texel's error. sigma: (R,) spreads of the coefficients.
    """

    mean: Float[Array, "H W 3"]
    modes: Float[Array, "R P3"]
    weight: Float[Array, "H W"]
    sigma: Float[Array, "R"]

    def draw(self, c: Float[Array, "B R"]) -> Float[Array, "B H W 3"]:
        """The maps of coefficients."""
        return self.mean + jnp.matmul(c, self.modes).reshape(len(c), *self.mean.shape)


def map_faces(mean: np.ndarray, modes: np.ndarray, weight: np.ndarray, sigma: np.ndarray, halvings: int = 0) -> MapFaces:
    """Faces of components (R, H, W, 3), on maps halved by averaging as often as asked."""
    for _ in range(halvings):
        mean, modes, weight = (
            0.25 * (x[..., ::2, ::2, :] + x[..., 1::2, ::2, :] + x[..., ::2, 1::2, :] + x[..., 1::2, 1::2, :])
            for x in (mean, modes, weight[..., None])
        )
        weight = 4 * weight[..., 0]
    arrays = (mean, modes.reshape(len(modes), -1), weight, sigma)
    return MapFaces(*(jnp.asarray(x, jnp.float32) for x in arrays))


def networks(settings: ConvSettings, height: int, width: int) -> tuple[GlobalLocalDecoder, LiftEncoder]:
    """Decoder and encoder."""
    sizes = (settings.first, settings.local_first, settings.channels, settings.local_channels, settings.limit)
    return GlobalLocalDecoder(height, width, settings.regions, *sizes), LiftEncoder(settings.code_length, 256, 2)


def _scales(faces: MapFaces) -> LiftScales:
    return LiftScales(faces.sigma, None)


def _transform(settings: ConvSettings) -> optax.GradientTransformation:
    warmup = min(100, settings.steps // 10)
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adam(optax.warmup_cosine_decay_schedule(0.0, settings.rate, warmup, settings.steps, 0.01 * settings.rate), b2=0.99),
    )


def start_conv(settings: ConvSettings, faces: MapFaces) -> tuple[Any, Any, Any]:
    """Weights, the optimiser's state and step 0."""
    decoder, encoder = networks(settings, *faces.mean.shape[:2])
    keys = jax.random.split(jax.random.key(settings.seed))
    weights = {
        "decoder": jax.jit(decoder.init)(keys[0], jnp.zeros((1, settings.code_length))),
        "encoder": jax.jit(encoder.init)(keys[1], jnp.zeros((1, len(faces.sigma))), _scales(faces)),
    }
    return weights, _transform(settings).init(weights), jnp.zeros((), jnp.int32)


def decode(settings: ConvSettings, weights: Any, faces: MapFaces, code: Float[Array, "B k"]) -> tuple[Array, Array]:
    """Full and proxy maps (B, H, W, 3)."""
    decoder, _ = networks(settings, *faces.mean.shape[:2])
    full, proxy = run(decoder, weights["decoder"], code)
    return faces.mean + settings.scale * full, faces.mean + settings.scale * proxy


def encode(settings: ConvSettings, weights: Any, faces: MapFaces, c: Float[Array, "B R"]) -> Float[Array, "B k"]:
    """Codes of coefficients."""
    _, encoder = networks(settings, *faces.mean.shape[:2])
    return run(encoder, weights["encoder"], c, _scales(faces))


def conv_losses(settings: ConvSettings, weights: Any, faces: MapFaces, c: Float[Array, "B R"]) -> dict[str, Array]:
    """Each term, in units of the network's map; ``full`` and ``proxy`` are mean absolute errors."""
    maps = faces.draw(c)
    full, proxy = decode(settings, weights, faces, encode(settings, weights, faces, c))
    mask = faces.weight / jnp.mean(faces.weight)
    error = lambda x: jnp.mean(mask[..., None] * jnp.abs(x - maps)) / settings.scale  # noqa: E731
    strong = (proxy if settings.proxies else full) / settings.scale
    terms = {
        "full": error(full),
        "symmetry": settings.symmetry * symmetry_cost(strong, mask),
        "smooth": settings.smoothness * smoothness_cost(strong, mask),
    }
    if settings.proxies:
        terms |= {"proxy": error(proxy), "tie": settings.tie * residual_cost(full / settings.scale, proxy / settings.scale, mask)}
    return terms


@partial(jax.jit, static_argnames=("settings",), donate_argnames=("state",))
def advance_conv(settings: ConvSettings, state: Any, faces: MapFaces, data: Float[Array, "N R"]) -> tuple[Any, Any]:
    """One step on a batch that the step's number draws from the coefficients; returns the state and the terms."""
    optimiser = _transform(settings)
    weights, memory, step = state
    key = jax.random.fold_in(jax.random.key(settings.seed + 1), step)
    c = spread(data[jax.random.randint(key, (settings.batch,), 0, data.shape[0])])

    def objective(weights: Any) -> tuple[Array, Any]:
        terms = conv_losses(settings, weights, faces, c)
        return sum(terms.values(), jnp.zeros(())), terms

    gradient, terms = jax.grad(objective, has_aux=True)(weights)
    change, memory = optimiser.update(gradient, memory, weights)
    return (optax.apply_updates(weights, change), memory, step + 1), terms


@partial(jax.jit, static_argnames=("settings",))
def _held_out(settings: ConvSettings, weights: Any, faces: MapFaces, c: Array) -> dict[str, Array]:
    terms = conv_losses(settings, weights, faces, c)
    return {name: terms[name] for name in ("full", "proxy") if name in terms}


def train_conv(
    settings: ConvSettings,
    faces: MapFaces,
    data: np.ndarray,
    held_out: np.ndarray,
    checkpoint: Path,
    metrics: Path,
    about: dict[str, Any],
    interval: int,
    progress: Any = None,
) -> tuple[Any, Any, Any]:
    """Train to the end of the settings' steps, from the checkpoint if there is one; weights, optimiser's state, step."""
    name = checkpoint.name.removesuffix(".checkpoint.safetensors")
    state = start_conv(settings, faces)
    if checkpoint.is_file():
        state = load_checkpoint(checkpoint, state, about)
    rows, others = jnp.asarray(data), jnp.asarray(held_out[: settings.batch])
    record = Metrics(metrics, name, int(state[2]))
    total: dict[str, float] = {}
    since = 0
    while int(state[2]) < settings.steps:
        state, terms = advance_conv(settings, state, faces, rows)
        total = {key: total.get(key, 0.0) + float(value) for key, value in terms.items()}
        since += 1
        step = int(state[2])
        if step % interval and step < settings.steps:
            continue
        # In the unit of the maps.
        measured = {f"train_{key}": settings.scale * value / since for key, value in total.items()}
        tested = _held_out(settings, state[0], faces, others)
        measured |= {f"held_out_{key}": settings.scale * float(value) for key, value in tested.items()}
        total, since = {}, 0
        record.add(step, measured)
        save_checkpoint(checkpoint, state, about)
        if progress is not None and progress(name, step, measured) is True:
            break
    return state
