"""Stage 1 of the lifted decoder: coefficients of faces → code → coefficients of full and proxy face, with no maps in the loop: errors are those of
coefficients and, where asked for, of a few texels per step, drawn anew each time, which are rows of the components.

The state is a pytree that depends on the seed and the number of steps alone: batches are drawn from the step's number, so a run that is
interrupted and resumed computes what an uninterrupted one does.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from fitjax.networks import run
from fitjax.networks.lift import LiftDecoder, LiftEncoder, LiftScales
from fitjax.pytree import pytree, static
from fitjax.train.devices import spread

#: Texels drawn per step.
TEXELS = 512


@pytree
class LiftSettings:
    """What is trained and how; all structure.

    Attributes:
        code_length: k. hidden, depth: of both trunks. steps, batch, rate, warmup: of Adam (β₂ 0.99, clipped at norm 1), cosine to a hundredth.
        proxy_weight: of the proxy head's loss. seed: of weights and batches. local: components of each local path; none for a global lift.
        texel_weight: of the mean absolute error of TEXELS texels per step, next to the root mean square one of the coefficients.
    """

    code_length: int = static(default=64)
    hidden: int = static(default=512)
    depth: int = static(default=3)
    steps: int = static(default=10_000)
    batch: int = static(default=256)
    rate: float = static(default=1e-3)
    warmup: int = static(default=200)
    proxy_weight: float = static(default=0.25)
    seed: int = static(default=0)
    local: tuple[int, ...] = static(default=())
    texel_weight: float = static(default=0.0)


@pytree
class LiftState:
    """Weights of decoder and encoder, the optimiser's state, and the number of steps taken."""

    weights: Any
    optimiser: Any
    step: Any


def modules(settings: LiftSettings, rank: int) -> tuple[LiftDecoder, LiftEncoder]:
    """The two networks; ``rank`` counts local components."""
    decoder = LiftDecoder(rank - sum(settings.local), settings.hidden, settings.depth, settings.local)
    return decoder, LiftEncoder(settings.code_length, settings.hidden, settings.depth)


def transform(settings: LiftSettings) -> optax.GradientTransformation:
    """Adam with warm-up, cosine decay and clipping."""
    warmup = min(settings.warmup, settings.steps // 10)
    schedule = optax.warmup_cosine_decay_schedule(0.0, settings.rate, warmup, settings.steps, 0.01 * settings.rate)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule, b2=0.99))


def start(settings: LiftSettings, scales: LiftScales) -> LiftState:
    """The state before the first step."""
    rank = len(scales.sigma)
    decoder, encoder = modules(settings, rank)
    keys = jax.random.split(jax.random.key(settings.seed))
    code, coefficients = jnp.zeros((1, settings.code_length)), jnp.zeros((1, rank))
    weights = {"decoder": decoder.init(keys[0], code, scales), "encoder": encoder.init(keys[1], coefficients, scales)}
    return LiftState(weights, transform(settings).init(weights), jnp.zeros((), jnp.int32))


def losses(settings: LiftSettings, weights: Any, scales: LiftScales, c: Float[Array, "B R"], key: Any = None) -> dict[str, Array]:
    """Root of the square error per face, averaged over the batch: of the full and of the proxy coefficients, in the units of ``sigma``; of the
    full ones in the scales' own metric, if they have one; and the mean absolute error at texels, if the scales have those.

    Args:
        key: draws the texels; None for the first key of all.
    """
    decoder, encoder = modules(settings, c.shape[-1])
    code = run(encoder, weights["encoder"], c, scales)
    full, proxy = run(decoder, weights["decoder"], code, scales)
    local = sum(settings.local)
    wanted = jnp.pad(jnp.matmul(c[:, : c.shape[-1] - local], scales.filter), [(0, 0), (0, local)])
    norm = lambda x: jnp.mean(jnp.sqrt(jnp.sum(x**2, -1) + 1e-12))  # noqa: E731
    parts = {"full": norm(full - c), "proxy": norm(proxy - wanted)}
    if scales.metric is not None:
        parts |= {"weighted": norm(jnp.matmul(full - c, scales.metric))}
    if settings.texel_weight:
        rows = jax.random.randint(jax.random.key(0) if key is None else key, (TEXELS,), 0, len(scales.texels))
        away = jnp.abs(jnp.einsum("br,tcr->btc", full - c, scales.texels[rows]))
        parts |= {"texels": jnp.mean(away * scales.texel_weight[rows][:, None])}
    return parts


@partial(jax.jit, static_argnames=("settings", "count"), donate_argnames=("state",))
def advance(
    settings: LiftSettings, state: LiftState, scales: LiftScales, data: Float[Array, "N R"], count: int
) -> tuple[LiftState, dict[str, Array]]:
    """``count`` steps; returns the mean losses over them."""
    optimiser = transform(settings)

    def objective(weights: Any, c: Array, key: Array) -> tuple[Array, dict[str, Array]]:
        parts = losses(settings, weights, scales, c, key)
        total = parts.get("weighted", parts["full"]) + settings.proxy_weight * parts["proxy"]
        return total + settings.texel_weight * parts.get("texels", 0.0), parts

    def one(state: LiftState, _: None) -> tuple[LiftState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(settings.seed + 1), state.step)
        rows = jax.random.randint(key, (settings.batch,), 0, data.shape[0])
        c = data[rows]
        if scales.parity is not None:
            mirrored = jax.random.bernoulli(jax.random.fold_in(key, 1), shape=(settings.batch, 1))
            c = jnp.where(mirrored, c * scales.parity, c)
        gradient, parts = jax.grad(objective, has_aux=True)(state.weights, spread(c), jax.random.fold_in(key, 2))
        change, memory = optimiser.update(gradient, state.optimiser, state.weights)
        return LiftState(optax.apply_updates(state.weights, change), memory, state.step + 1), parts

    state, parts = jax.lax.scan(one, state, None, length=count)
    return state, {name: jnp.mean(value) for name, value in parts.items()}


@partial(jax.jit, static_argnames=("settings",))
def evaluate(settings: LiftSettings, weights: Any, scales: LiftScales, data: Float[Array, "N R"]) -> dict[str, Array]:
    """Losses on other faces."""
    return losses(settings, weights, scales, data)


def feature_metric(modes: Float[np.ndarray, "R H W C"], weight: Float[np.ndarray, "H W"], features: np.ndarray, more: float) -> np.ndarray:
    """(R, R) factor M such that |c @ M|² is the square error of a map with its texels among ``features`` (H, W bool) weighing ``1 + more`` times as
    much. Modes are orthonormal under ``weight``."""
    chosen = (modes * np.sqrt(weight)[..., None])[:, features].reshape(len(modes), -1).astype(np.float64)
    return np.linalg.cholesky(np.eye(len(modes)) + more * chosen @ chosen.T).astype(np.float32)


def proxy_filter(
    modes: Float[np.ndarray, "R H W C"], is_odd: np.ndarray, weight: Float[np.ndarray, "H W"], symmetry: float = 1.0, smoothness: float = 6.0
) -> np.ndarray:
    """(R, R) the filter c ↦ c @ F whose result is the proxy of a face under strong regularisers, in closed form:

        argmin  ‖A_p - A‖² + symmetry · ‖A_p - flip A_p‖² + smoothness · ‖mean of 4 neighbours - A_p‖²

    (the regularisers of Tran, Liu, Liu, CVPR 2019, with squares for absolute values). Modes are orthonormal under ``weight``.
    """
    padded = np.pad(modes, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    around = (padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]) / 4
    rough = ((around - modes) * np.sqrt(weight)[..., None]).reshape(len(modes), -1)
    system = np.eye(len(modes)) + smoothness * (rough @ rough.T) + 4 * symmetry * np.diag(is_odd.astype(float))
    return np.linalg.inv(system).astype(np.float32)
