"""Nonlinear models and pixels: the losses of proxies inside a fit, and stage 2 of training, reconstruction from images."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nonlinear_scenes import CODES, lifted_model, photographed
from toy import toy_basis

import fitjax as fj
from fitjax.losses import proxies
from fitjax.losses.photometric import rendered
from fitjax.model.light_prior import light_from_code
from fitjax.model.load import linear_model
from fitjax.prediction import predict
from fitjax.pytree import replace
from fitjax.render.lighting import shade, srgb_from_linear
from fitjax.solve.objective import Problem, costs
from fitjax.solve.stages import Stage
from fitjax.train.images import ImageFace, ImageSettings, train_images, weights_of

ADAM = optax.adam(0.03)


def edges(picture):
    """Features for the perceptual slot: brightness across and down."""
    grey = picture.mean(-1)
    return grey[:, 1:] - grey[:, :-1], grey[1:] - grey[:-1]


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    return linear_model(toy_basis(tmp_path_factory.mktemp("toy")))


@pytest.fixture(scope="module")
def model(linear):
    return replace(lifted_model(linear), detail_size=32)


@pytest.fixture(scope="module")
def seen(model):
    return photographed(model, 1)


def losses_of(model):
    hidden = proxies.occluded_symmetry(model, 300.0, size=32)
    # The toy's triangles have no twins; its texture mirrors at u = 1/2.
    u, v = np.meshgrid((np.arange(32) + 0.5) / 32, 1 - (np.arange(32) + 0.5) / 32)
    hidden = replace(hidden, arguments={**hidden.arguments, "mirror": jnp.asarray(np.stack([1 - u, v], -1), jnp.float32)})
    return {
        "tie": proxies.tie_heads(3.0),
        "white": proxies.white_shading(100.0),
        "hidden": hidden,
        "features": proxies.perceptual(edges, 300.0),
    }


@pytest.fixture(scope="module")
def frozen(model, seen):
    """A problem with all four losses at the true codes, and what it costs there."""
    truth, observation = seen

    @jax.jit
    def measure(params):
        problem = Problem(model, observation, losses_of(model)).refreeze(params)
        pred = predict(model, params, observation, problem.frozen)
        proxy, mixed = rendered(pred, observation, "proxy", "proxy"), rendered(pred, observation, "full", "proxy")
        return problem, pred.face, proxy, mixed, costs(problem, params)

    return measure(truth)


def test_values_in_a_fit_are_those_of_plain_arrays(model, seen, frozen):
    """Each loss at the true codes against NumPy on the decoded face, the render and the photo."""
    truth, observation = seen
    problem, face, proxy, mixed, found = frozen
    albedo = np.log(np.asarray(face.albedo) / np.asarray(face.proxy_albedo))
    rounded = lambda x, tip: np.sqrt(x**2 + tip**2) - tip  # noqa: E731
    on = np.asarray(model.detail_map)
    moved = 1000 * np.asarray(face.vertices - face.proxy_vertices)
    expected = (on * rounded(albedo, 1e-3).mean(-1)).sum() / on.sum() + rounded(moved, 0.01).mean()
    assert float(found["tie"]) == pytest.approx(3 * expected, rel=1e-4) and expected > 0.05
    weight = np.asarray(problem.frozen.pixels.weight)
    shading = np.asarray(shade(jnp.ones_like(proxy.normal), proxy.normal, light_from_code(truth["light"])))
    mean = (weight[:, None] * shading).sum(0) / weight.sum()
    assert float(found["white"]) == pytest.approx(100 * ((mean - 0.99) ** 2).mean(), rel=1e-4)
    photo = np.array(observation.image).reshape(-1, 3)
    drawn = photo.copy()
    share = weight * np.asarray(mixed.covered)
    np.add.at(drawn, np.asarray(mixed.pixel), share[:, None] * (np.asarray(mixed.colour) - photo[np.asarray(mixed.pixel)]))
    both = [[np.asarray(x) for x in edges(srgb_from_linear(jnp.asarray(p.reshape(observation.image.shape))))] for p in (drawn, photo)]
    expected = 300 * np.mean([((a - b) ** 2).mean() for a, b in zip(*both)])
    assert float(found["features"]) == pytest.approx(expected, rel=1e-3) and expected > 3e-4


def test_the_hidden_side_pays_for_its_residual_alone(model, seen, frozen):
    """With residual maps that take the decoder's residual away, nothing is left to mirror; a residual on one side alone costs."""
    truth, _ = seen
    problem, face, _, _, found = frozen
    assert float(found["hidden"]) > 1e-3
    residual = jnp.log(face.albedo / face.proxy_albedo)
    side = jnp.where(jnp.arange(32)[None, :, None] < 16, 0.5, 0.0) * jnp.ones((32, 32, 3))
    flat = {**truth, "detail_albedo": -residual, "detail_shape": jnp.zeros((32, 32))}
    hidden = jax.jit(lambda p: costs(problem, p)["hidden"])
    assert float(hidden(flat)) < 1e-4 * float(found["hidden"])
    assert float(hidden({**flat, "detail_albedo": side - residual})) > 0.1


def test_a_fit_lowers_all_of_them(model, seen):
    """Adam over codes and light from the wrong ones: each loss of proxies ends below where it began."""
    truth, observation = seen
    losses = losses_of(model)
    stage = Stage({"albedo": 1.0, "light": 1.0, "identity": 1.0}, fj.FirstOrder(ADAM, max_steps=60, patience=100), name="proxies", budget=True)
    wrong = {**truth, "albedo": 2 * truth["albedo"], "light": -truth["light"]}
    solution = fj.fit(observation, model=model, losses=losses, stages=[stage], start=wrong)
    before, after = solution.costs(before=True), solution.costs()
    for name in losses:
        assert after[name] < 0.9 * before[name], (name, before, after)


SETTINGS = ImageSettings(steps=24, batch=2, rate=2e-3, code_rate=3e-2, keep=1.0, pairing=False, hidden=0, constancy=0)


def test_images_teach_a_decoder(model, linear, tmp_path):
    """Photos of another decoder's faces: renders come closer, random codes keep their faces nearly, and a killed run ends with the same numbers."""
    other = lifted_model(linear, seed=5)
    faces = []
    for k in range(3):
        truth, observation = photographed(other, 20 + k)
        start = {**model.init(), "pose": truth["pose"]}
        faces.append(ImageFace(f"photo{k}", observation, start))

    def train(folder, progress=None):
        files = folder / "images.checkpoint.safetensors", folder / "metrics.jsonl"
        return train_images(SETTINGS, model, faces, *files, {"start": "toy"}, 6, progress)

    trained, state = train(tmp_path / "whole")
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [6, 12, 18, 24]
    assert rows[-1]["off"] < 0.8 * rows[0]["off"]
    assert state.params["albedo"].shape == (3, CODES)
    change = [float(jnp.abs(a - b).max()) for a, b in zip(*(jax.tree.leaves(weights_of(m)) for m in (trained, model)))]
    assert max(change) > 1e-3
    _, stopped = train(tmp_path / "again", lambda name, step, measured: step == 12)
    assert int(stopped.step) == 12
    _, again = train(tmp_path / "again")
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(again)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    with pytest.raises(fj.FitjaxError, match="photos was"):
        train_images(SETTINGS, model, faces[:2], tmp_path / "again" / "images.checkpoint.safetensors", tmp_path / "m.jsonl", {"start": "toy"})
    with pytest.raises(fj.FitjaxError, match="at least one fitted photo"):
        train_images(SETTINGS, model, [], tmp_path / "c", tmp_path / "m", {})
