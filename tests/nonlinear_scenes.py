"""Tiny nonlinear models over the toy basis, for tests."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from toy import N_IDENTITY

import fitjax as fj
from fitjax.geometry.rotation import rotation_from_aflw2000
from fitjax.model.nonlinear import NonlinearModel, nonlinear_model
from fitjax.model.nonlinear_albedo import ConvAlbedo, LiftedAlbedo
from fitjax.model.nonlinear_shape import conv_shape, extended_shape
from fitjax.networks.conv import GlobalLocalDecoder
from fitjax.networks.lift import LiftDecoder, LiftEncoder, LiftScales
from fitjax.prediction import predict
from fitjax.pytree import replace
from fitjax.render.face import rasterize_face, render_face

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


@jax.jit
def _drawn(model: Any, params: Any, observation: Any) -> Any:
    prediction = predict(model, params, observation)
    return render_face(prediction, rasterize_face(prediction, *observation.image.shape[:2]))


@jax.jit
def _points(model: Any, params: Any, observation: Any) -> Any:
    return predict(model, params, observation).pixels["aflw68"]


def photographed(model: NonlinearModel, seed: int, size: int = 40, turned: float = 25.0) -> tuple[dict, fj.Observation]:
    """Random true codes, and an observation whose crop of ``size``² pixels is their own full render; the head turned by up to ``turned`` degrees."""
    rng = np.random.default_rng(seed)
    init = model.init()
    truth = {k: jnp.asarray(0.7 * rng.normal(size=v.shape), jnp.float32) for k, v in init.items()}
    truth["expression"] = jnp.asarray(rng.uniform(0, 0.4, init["expression"].shape), jnp.float32)
    angles = np.radians([5 * rng.normal(), turned, 5 * rng.normal()])
    truth["pose"] = {"rotation": jnp.asarray(rotation_from_aflw2000(jnp.asarray(angles)), jnp.float32), "translation": jnp.array([0.0, 0.0, 0.8])}
    camera = fj.make_camera(320, 240)
    blank = fj.make_observation({"aflw68": rng.uniform(0, 100, (68, 2))}, camera)
    observation = fj.make_observation({"aflw68": np.asarray(_points(model, truth, blank))}, camera)
    scale = size / (1.5 * float(observation.face_size))
    low = np.asarray(observation.face_centre) - size / (2 * scale)
    affine = np.array([[scale, 0, -low[0] * scale - 0.5], [0, scale, -low[1] * scale - 0.5]], np.float32)
    camera = replace(observation.camera, crop_from_image=jnp.asarray(affine))
    observation = replace(observation, camera=camera, image=jnp.zeros((size, size, 3)), image_valid=jnp.ones((size, size), bool))
    face = _drawn(model, truth, observation)
    place = jnp.where(face.covered, face.pixel, size * size)
    image = jnp.full((size * size + 1, 3), 0.1).at[place].set(jnp.clip(face.colour, 0, 1))[:-1]
    return truth, replace(observation, image=image.reshape(size, size, 3))
