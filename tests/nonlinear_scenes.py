"""Tiny nonlinear models over the toy basis, for tests."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from toy import N_IDENTITY

from fitjax.model.nonlinear import NonlinearModel, nonlinear_model
from fitjax.model.nonlinear_albedo import ConvAlbedo, LiftedAlbedo
from fitjax.model.nonlinear_shape import conv_shape, extended_shape
from fitjax.networks.conv import GlobalLocalDecoder
from fitjax.networks.lift import LiftDecoder, LiftEncoder, LiftScales

CODES, RANK, SIDE = 5, 9, 16
TINY = {"first": 6, "local_first": 4, "channels": (5, 4), "local_channels": (4,)}
REGIONS = ((8, 8, 16, 8), (16, 16, 8, 16))


def stirred(weights: Any, seed: int, size: float = 0.3) -> Any:
    """Weights as after training: fresh heads are nearly zero, and what multiplies zero cannot be tested."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + jnp.asarray(size * rng.normal(size=x.shape) / np.sqrt(x.shape[0]), x.dtype), weights)


def lifted_albedo(seed: int = 0, side: int = SIDE) -> LiftedAlbedo:
    rng = np.random.default_rng(seed)
    v, u = np.meshgrid(np.linspace(0, 1, SIDE), np.linspace(0, 1, SIDE), indexing="ij")
    waves = np.stack([np.sin(2 * np.pi * (a * u + b * v) + c) for a, b, c in rng.uniform(-2, 2, (3 * RANK, 3))])
    basis = waves.reshape(RANK, 3, SIDE, SIDE).transpose(0, 2, 3, 1).reshape(RANK, -1)
    basis = np.linalg.qr(basis.T)[0].T.astype(np.float32)
    sigma = (0.8 * 0.8 ** np.arange(RANK)).astype(np.float32)
    scales = LiftScales(jnp.asarray(sigma), jnp.asarray(np.diag(np.linspace(1, 0.2, RANK)), jnp.float32))
    keys = jax.random.split(jax.random.key(seed))
    decoder, encoder = LiftDecoder(RANK, 8, 2), LiftEncoder(CODES, 8, 2)
    weights = stirred(jax.jit(decoder.init)(keys[0], jnp.zeros(CODES), scales), seed)
    return LiftedAlbedo(
        mean=jnp.full((SIDE * SIDE, 3), 0.6),
        basis=jnp.asarray(basis),
        scales=scales,
        weights=weights,
        encoder=jax.jit(encoder.init)(keys[1], jnp.zeros(RANK), scales),
        texel_weight=jnp.ones(SIDE * SIDE),
        whitening=jnp.eye(RANK),
        code_length=CODES,
        hidden=8,
        depth=2,
        height=SIDE,
        width=SIDE,
        size=side,
    )


def lifted_model(linear: Any, seed: int = 0) -> NonlinearModel:
    """A lift of the toy basis's identities, and of a tiny albedo."""
    rank = N_IDENTITY
    scales = LiftScales(jnp.asarray(0.9 ** np.arange(rank), jnp.float32), jnp.asarray(0.7 * np.eye(rank), jnp.float32))
    weights = stirred(jax.jit(LiftDecoder(rank, 8, 2).init)(jax.random.key(seed), jnp.zeros(CODES), scales), seed + 1)
    to_modes = np.concatenate([np.eye(N_IDENTITY), np.linspace(0.5, 0, N_IDENTITY)[:, None]], 1).astype(np.float32)
    network = {"weights": weights, "scales": scales, "to_modes": jnp.asarray(to_modes), "code_length": CODES, "hidden": 8, "depth": 2}
    return nonlinear_model(extended_shape(linear, **network), lifted_albedo(seed, 32))


def conv_model(linear: Any, seed: int = 0) -> NonlinearModel:
    """The global-local network over the toy basis, shape and albedo."""
    settings = {**TINY, "height": 32, "width": 32, "code_length": CODES}
    shape = conv_shape(linear, jax.random.key(seed), REGIONS, scale=0.004, **settings)
    shape = shape.__class__(**{n: getattr(shape, n) for n in shape.__dataclass_fields__} | {"weights": stirred(shape.weights, seed)})
    module = GlobalLocalDecoder(32, 32, REGIONS, **TINY)
    weights = stirred(jax.jit(module.init)(jax.random.key(seed + 5), jnp.zeros((1, CODES))), seed + 2)
    albedo = ConvAlbedo(jnp.full((32, 32, 3), 0.6), jnp.float32(0.2), weights, code_length=CODES, regions=REGIONS, size=32, **TINY)
    return nonlinear_model(shape, albedo)
