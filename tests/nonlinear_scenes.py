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


def random_weights(module: Any, seed: int, *arguments: Any, dtype: Any = np.float32) -> Any:
    """Weights as after training, without compiling an initialisation: fresh heads are nearly zero, and what multiplies zero cannot be tested."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *arguments)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) / np.sqrt(max(np.prod(x.shape[:-1]), 4)), dtype), shapes)


def lifted_albedo(seed: int = 0, side: int = SIDE) -> LiftedAlbedo:
    rng = np.random.default_rng(seed)
    v, u = np.meshgrid(np.linspace(0, 1, SIDE), np.linspace(0, 1, SIDE), indexing="ij")
    waves = np.stack([np.sin(2 * np.pi * (a * u + b * v) + c) for a, b, c in rng.uniform(-2, 2, (3 * RANK, 3))])
    basis = waves.reshape(RANK, 3, SIDE, SIDE).transpose(0, 2, 3, 1).reshape(RANK, -1)
    basis = np.linalg.qr(basis.T)[0].T.astype(np.float32)
    sigma = (0.8 * 0.8 ** np.arange(RANK)).astype(np.float32)
    scales = LiftScales(jnp.asarray(sigma), jnp.asarray(np.diag(np.linspace(1, 0.2, RANK)), jnp.float32))
    weights = random_weights(LiftDecoder(RANK, 8, 2), seed, jnp.zeros(CODES), scales)
    encoder = jax.tree.map(lambda x: 1e-2 * x, random_weights(LiftEncoder(CODES, 8, 2), seed + 1, jnp.zeros(RANK), scales))
    return LiftedAlbedo(
        mean=jnp.full((SIDE * SIDE, 3), 0.6),
        basis=jnp.asarray(basis),
        scales=scales,
        weights=weights,
        encoder=encoder,
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
    weights = random_weights(LiftDecoder(rank, 8, 2), seed + 1, jnp.zeros(CODES), scales)
    to_modes = np.concatenate([np.eye(N_IDENTITY), np.linspace(0.5, 0, N_IDENTITY)[:, None]], 1).astype(np.float32)
    network = {"weights": weights, "scales": scales, "to_modes": jnp.asarray(to_modes), "code_length": CODES, "hidden": 8, "depth": 2}
    return nonlinear_model(extended_shape(linear, **network), lifted_albedo(seed, 32))


def conv_model(linear: Any, seed: int = 0) -> NonlinearModel:
    """The global-local network over the toy basis, shape and albedo."""
    code = jnp.zeros((1, CODES))
    weights = [random_weights(GlobalLocalDecoder(32, 32, REGIONS, **TINY), seed + k, code) for k in (0, 2)]
    settings = {**TINY, "height": 32, "width": 32, "code_length": CODES}
    shape = conv_shape(linear, weights[0], REGIONS, scale=0.004, **settings)
    albedo = ConvAlbedo(jnp.full((32, 32, 3), 0.6), jnp.float32(0.2), weights[1], code_length=CODES, regions=REGIONS, size=32, **TINY)
    return nonlinear_model(shape, albedo)
