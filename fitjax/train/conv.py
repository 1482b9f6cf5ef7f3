"""Stage 1 of the convolutional albedo decoder (Tran, Liu, Liu, CVPR 2019): generated faces → coefficients → code → full and proxy maps.

The full map is compared with the face by L1; the proxy as well, under the paper's strong regularisers (symmetry, smoothness); an L1 tie holds the two
together. With ``pairing`` off, the regularisers act on the full map, as in a model without proxies.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from fitjax.losses.proxies import residual_cost, smoothness_cost, symmetry_cost
from fitjax.networks import run
from fitjax.networks.conv import GlobalLocalDecoder, Region
from fitjax.networks.lift import LiftEncoder, LiftScales
from fitjax.pytree import pytree, static
from fitjax.render.lighting import srgb_from_linear
from fitjax.train.generator import AlbedoGenerator, albedo_batch


@pytree
class ConvSettings:
    """All structure.

    Attributes:
        code_length, regions, first, local_first, channels, local_channels: of the network. scale: sRGB per unit of its map.
        steps, batch, rate: of Adam. proxies: two heads as in the paper; False regularises the full map itself. seed: of weights and batches.
    """

    code_length: int = static(default=160)
    regions: tuple[Region, ...] = static(default=())
    first: int = static(default=160)
    local_first: int = static(default=128)
    channels: tuple[int, ...] = static(default=(128, 96, 64, 32, 16))
    local_channels: tuple[int, ...] = static(default=(64, 32, 16))
    scale: float = static(default=0.6)
    steps: int = static(default=2000)
    batch: int = static(default=16)
    rate: float = static(default=1e-3)
    proxies: bool = static(default=True)
    symmetry: float = static(default=0.5)
    smoothness: float = static(default=50.0)
    tie: float = static(default=0.1)
    seed: int = static(default=0)


def networks(settings: ConvSettings, height: int, width: int) -> tuple[GlobalLocalDecoder, LiftEncoder]:
    """Decoder and encoder."""
    decoder = GlobalLocalDecoder(
        height, width, settings.regions, settings.first, settings.local_first, settings.channels, settings.local_channels
    )
    return decoder, LiftEncoder(settings.code_length, 256, 2)


def _transform(settings: ConvSettings) -> optax.GradientTransformation:
    warmup = max(min(100, settings.steps // 10), 1)
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adam(optax.warmup_cosine_decay_schedule(0.0, settings.rate, warmup, settings.steps, 0.01 * settings.rate), b2=0.99),
    )


def start_conv(settings: ConvSettings, height: int, width: int, scales: LiftScales) -> tuple[Any, Any, Any]:
    """Weights, the optimiser's state and step 0."""
    decoder, encoder = networks(settings, height, width)
    keys = jax.random.split(jax.random.key(settings.seed))
    weights = {
        "decoder": jax.jit(decoder.init)(keys[0], jnp.zeros((1, settings.code_length))),
        "encoder": jax.jit(encoder.init)(keys[1], jnp.zeros((1, len(scales.sigma))), scales),
    }
    return weights, _transform(settings).init(weights), jnp.zeros((), jnp.int32)


def conv_losses(settings: ConvSettings, weights: Any, scales: LiftScales, mean: Array, c: Array, maps: Float[Array, "B H W 3"], weight: Array) -> Any:
    """Each term, and the full map's mean absolute error."""
    decoder, encoder = networks(settings, *mean.shape[:2])
    code = run(encoder, weights["encoder"], c, scales)
    full, proxy = (mean + settings.scale * x for x in run(decoder, weights["decoder"], code))
    mask = weight / jnp.mean(weight)
    error = lambda x: jnp.mean(mask[..., None] * jnp.abs(x - maps))  # noqa: E731
    strong = proxy if settings.proxies else full
    terms = {
        "full": error(full),
        "symmetry": settings.symmetry * symmetry_cost(strong, mask),
        "smooth": settings.smoothness * smoothness_cost(strong, mask),
    }
    if settings.proxies:
        terms |= {"proxy": error(proxy), "tie": settings.tie * residual_cost(full, proxy, mask)}
    return terms


@partial(jax.jit, static_argnames=("settings",), donate_argnames=("state",))
def advance_conv(
    settings: ConvSettings, state: Any, scales: LiftScales, mean: Array, modes: Array, weight: Array, maps: Float[Array, "B H W 3"]
) -> tuple[Any, Any]:
    """One step on a batch of sRGB maps; ``modes`` (R, 3 P) and ``weight`` (H, W) give their coefficients. Returns the state and the terms."""
    optimiser = _transform(settings)
    weights, memory, step = state
    c = jnp.matmul(((maps - mean) * weight[..., None]).reshape(len(maps), -1), modes.T)

    def objective(weights: Any) -> tuple[Array, Any]:
        terms = conv_losses(settings, weights, scales, mean, c, maps, weight)
        return sum(terms.values(), jnp.zeros(())), terms

    gradient, terms = jax.grad(objective, has_aux=True)(weights)
    change, memory = optimiser.update(gradient, memory, weights)
    return (optax.apply_updates(weights, change), memory, step + 1), terms


def fresh_faces(generator: AlbedoGenerator, settings: ConvSettings, step: int) -> Float[Array, "B H W 3"]:
    """The batch of a step: faces of the generator that no other step sees."""
    linear = albedo_batch(generator, settings.seed, step * settings.batch, settings.batch)[1]
    return srgb_from_linear(linear).reshape(settings.batch, generator.height, generator.width, 3)
