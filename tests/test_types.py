"""The types that everything plugs into: other kinds of models, observations, solutions."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scenes import scene
from toy import toy_basis

import fitjax as fj
from fitjax.fit.run import predict_final
from fitjax.geometry.rotation import rotation_exp
from fitjax.geometry.surface import SurfacePoints, SurfaceSamples, evaluate_samples
from fitjax.model.linear import LinearModel
from fitjax.model.load import linear_model
from fitjax.model.protocol import Face, Model
from fitjax.observation import neutral_observation
from fitjax.pytree import pytree, replace, static


@pytree
class JawModel:
    """A linear model with one joint: the smallest skinned model."""

    linear: LinearModel
    weight: jax.Array

    @property
    def triangles(self):
        return self.linear.triangles

    @property
    def sample_sets(self):
        return self.linear.sample_sets

    def init(self):
        return self.linear.init() | {"joints": jnp.zeros((1, 3), self.weight.dtype)}

    def decode(self, params) -> Face:
        rest = self.linear.decode(params).vertices
        turned = rest @ rotation_exp(params["joints"][0]).T
        vertices = rest + self.weight[:, None] * (turned - rest)
        return Face(vertices, vertices)

    def decode_samples(self, params, name) -> SurfacePoints:
        return evaluate_samples(self.linear.sample_library[name], self.decode(params).vertices, self.triangles)

    def prior(self, params):
        return dict(self.linear.prior(params)) | {"joints": params["joints"] / 0.2}

    def bounds(self):
        return dict(self.linear.bounds()) | {"joints": (-0.5, 0.5)}


class Decoder(nn.Module):
    n_vertices: int

    @nn.compact
    def __call__(self, code):
        return nn.Dense(self.n_vertices * 3)(nn.tanh(nn.Dense(32)(code))).reshape(-1, 3)


@pytree
class NeuralModel:
    """A small network as a face model: proxy and full shape from one latent code."""

    mean: jax.Array
    weights: Any
    triangles: jax.Array
    samples: dict[str, SurfaceSamples]
    size: int = static(default=8)

    @property
    def sample_sets(self):
        return tuple(self.samples)

    def init(self):
        return {"identity": jnp.zeros(self.size)}

    def decode(self, params) -> Face:
        offset = 0.01 * Decoder(self.mean.shape[0]).apply(self.weights, params["identity"])
        return Face(self.mean + offset, self.mean + 0.5 * offset)

    def decode_samples(self, params, name) -> SurfacePoints:
        return evaluate_samples(self.samples[name], self.decode(params).vertices, self.triangles)

    def prior(self, params):
        return {"identity": params["identity"]}

    def bounds(self):
        return {}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return linear_model(toy_basis(tmp_path_factory.mktemp("toy")))


def models(toy):
    jaw = JawModel(toy, jnp.clip(-toy.mean[:, 1] / 0.1, 0, 1))
    network = Decoder(toy.n_vertices).init(jax.random.key(0), jnp.zeros(8))
    neural = NeuralModel(toy.mean, network, toy.triangles, {"aflw68": toy.sample_library["aflw68"]})
    return {"linear": toy, "skinned": jaw, "neural": neural}


@pytest.mark.parametrize("kind", ["linear", "skinned", "neural"])
def test_every_kind_of_model_is_fitted_alike(toy, kind):
    model = models(toy)[kind]
    assert isinstance(model, Model)
    rng = np.random.default_rng(0)
    truth, placeholder = scene(toy, rng, "aflw68")
    codes = {k: jnp.asarray(0.7 * rng.normal(size=np.shape(v)), jnp.float32) for k, v in model.init().items()}
    if "expression" in codes:
        codes["expression"] = jnp.clip(codes["expression"], 0.05, 0.95)
    if "joints" in codes:
        codes["joints"] = jnp.array([[0.2, 0.0, 0.0]])
    truth = codes | {"pose": truth["pose"]}
    points = np.asarray(predict_final(model, truth, placeholder).pixels["aflw68"])
    observation = fj.make_observation({"aflw68": points}, placeholder.camera)
    losses = {"landmarks": fj.landmarks("aflw68"), "prior": fj.prior(1e-6)}
    free = dict.fromkeys(truth, 1.0)
    solver = fj.LevenbergMarquardt(max_steps=100)
    solution = fj.fit(observation, model=model, losses=losses, stages=[fj.Stage(free, solver)])
    assert np.abs(np.asarray(solution.prediction.pixels["aflw68"]) - points).max() < 0.1
    assert set(solution.params) == set(truth)
    face = solution.prediction.face
    assert face.vertices.shape == face.proxy_vertices.shape
    assert (kind == "neural") == bool(jnp.abs(face.vertices - face.proxy_vertices).max() > 0)
    if kind == "skinned":
        assert (np.abs(np.asarray(solution.params["joints"])) <= 0.5).all()


def test_another_model_of_the_same_shape_recompiles_nothing(toy):
    from fitjax.fit.run import run_one

    _, observation = scene(toy, np.random.default_rng(1), noise=1.0)
    fj.fit(observation, model=toy)
    compiled = run_one._cache_size()
    fj.fit(observation, model=replace(toy, mean=toy.mean * 1.01))
    assert run_one._cache_size() == compiled


def test_landmark_losses_never_decode_all_vertices(toy):
    """What no loss reads is dropped: the compiled cost of a landmark fit does not grow with the mesh."""
    from fitjax.fit.run import solve_one

    def flops(model):
        _, observation = scene(toy, np.random.default_rng(2), noise=1.0)
        losses, stages = fj.default_losses(observation), fj.default_stages(observation)
        compiled = jax.jit(solve_one).lower(model, observation, losses, stages, None).compile()
        return compiled.cost_analysis()["flops"]

    big = replace(toy, mean=jnp.tile(toy.mean, (20, 1)), modes=jnp.tile(toy.modes, (1, 20)))
    assert flops(big) == pytest.approx(flops(toy), rel=0.01)


def test_observation_masks_and_partial_sets():
    points = np.random.default_rng(3).uniform(10, 90, (51, 2))
    observation = fj.make_observation({"ibug51": points}, image_size=(100, 100))
    seen = observation.landmarks["ibug68"]
    np.testing.assert_array_equal(np.asarray(seen.valid), np.arange(68) >= 17)
    np.testing.assert_allclose(seen.points[17:], points, rtol=1e-6)
    box = points.max(0) - points.min(0)
    assert float(observation.face_size) == pytest.approx(np.sqrt(box.prod()), rel=1e-5)


def test_neutral_slots_are_finite_and_not_ok():
    points = np.random.default_rng(4).uniform(10, 90, (68, 2))
    neutral = neutral_observation(fj.make_observation({"aflw68": points}))
    assert not bool(neutral.ok)
    assert all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(neutral))
    assert not np.asarray(neutral.landmarks["aflw68"].valid).any()


@pytest.mark.parametrize(
    ("landmarks", "options", "words"),
    [
        ({}, {}, "at least one named set"),
        ({"ibug68": np.zeros((67, 2))}, {}, "expected 68 points, found 67"),
        ({"ibug68": np.zeros((68, 3))}, {}, r"expected shape \(N, 2\)"),
        ({"ibug68": np.full((68, 2), np.nan)}, {}, "point 0 is not finite"),
        ({"ibug68": np.ones((68, 2))}, {}, "all valid points lie in one place"),
        ({"ibug68": np.random.default_rng(0).normal(size=(68, 2))}, {"valid": {"ibug68": np.arange(68) < 3}}, "at least 4 valid"),
        ({"ibug68": np.zeros((68, 2))}, {"confidence": {"ibug68": -np.ones(68)}}, "not negative"),
        ({"ibug68": np.zeros((68, 2))}, {"confidence": {"ibug68": np.ones(3)}}, r"shape \(68,\)"),
    ],
)
def test_observation_errors(landmarks, options, words):
    with pytest.raises(fj.LandmarkError, match=words):
        fj.make_observation(landmarks, **options)


def test_batches_of_different_sets_are_refused():
    rng = np.random.default_rng(5)
    a = fj.make_observation({"aflw68": rng.normal(size=(68, 2))})
    b = fj.make_observation({"ibug68": rng.normal(size=(68, 2))})
    with pytest.raises(fj.LandmarkError, match="face 1 has landmark sets"):
        fj.stack_observations([a, b])


def test_importing_has_no_side_effects():
    """No global JAX settings, no random state, no I/O at import."""
    import subprocess
    import sys

    code = (
        "import numpy as np, random, jax\n"
        "before = (random.getstate(), np.random.get_state()[1].tolist(), jax.config.jax_enable_x64, jax.config.jax_compilation_cache_dir)\n"
        "import fitjax, fitjax.fit, fitjax.solve, fitjax.losses\n"
        "after = (random.getstate(), np.random.get_state()[1].tolist(), jax.config.jax_enable_x64, jax.config.jax_compilation_cache_dir)\n"
        "assert before == after\n"
        "import sys\n"
        "assert 'mediapipe' not in sys.modules and 'cv2' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
