"""Losses: oracles, gradients in float64 against finite differences, masks, kernels, composition."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scenes import scene
from toy import toy_basis

import fitjax as fj
from fitjax import prediction as predictions
from fitjax.losses import core
from fitjax.losses.core import loss_rows
from fitjax.losses.robust import KERNELS, make_kernel
from fitjax.model.load import linear_model
from fitjax.model.params import retract, zero_tangent
from fitjax.pytree import replace

# Compiled as wholes: eagerly each of their operations is a program of its own.
predict, freeze, loss_cost = jax.jit(predictions.predict), jax.jit(predictions.freeze), jax.jit(core.loss_cost)


@fj.residual
def flat_brow(pred, obs):
    return pred.landmarks[17:22, 1] - pred.landmarks[17:22, 1].mean()


@fj.value
def small_jaw(pred, obs):
    return jnp.sum(pred.params["expression"][2] ** 2)


DEPTH = 20 * np.random.default_rng(0).normal(size=68)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return linear_model(toy_basis(tmp_path_factory.mktemp("toy")))


def every_loss(names):
    return {
        "landmarks": fj.landmarks("aflw68"),
        "visible": fj.landmarks("aflw68", visible_only=True),
        "outline": fj.landmarks("aflw68", contour=True),
        "huber": fj.landmarks("aflw68").robust("huber", 0.01),
        "cauchy": fj.landmarks("aflw68").robust("cauchy", 0.01),
        "geman": fj.landmarks("aflw68").robust("geman_mcclure", 0.01),
        "charbonnier": fj.landmarks("aflw68").robust("charbonnier", 0.01),
        "distances": 1e4 * fj.landmark_distances("aflw68", np.array([[37, 41], [62, 66], [43, 47]])),
        "symmetry": fj.expression_symmetry(names),
        "prior": fj.prior(0.1, identity=0.5),
        "brow": 100 * flat_brow(),
        "jaw": small_jaw(),
        "depth": fj.landmark_depth("aflw68"),
    }


LOSSES = ("landmarks", "visible", "outline", "huber", "cauchy", "geman", "charbonnier", "distances", "symmetry", "prior", "brow", "jaw", "depth")


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_match_finite_differences(toy, name):
    with jax.enable_x64(True):
        model = toy.astype(np.float64)
        truth, observation = scene(model, np.random.default_rng(3), noise=2.0, relative_depth=DEPTH, dtype=np.float64)
        loss = every_loss(model.expression_names)[name]
        zero = zero_tangent(truth)
        flat, unravel = ravel_pytree(zero)
        frozen = freeze(model, truth)

        @jax.jit
        def cost(step):
            return loss_cost(loss, predict(model, retract(truth, unravel(step)), observation, frozen), observation)

        start = jnp.asarray(np.random.default_rng(4).normal(size=flat.size)) * 0.02
        gradient = jax.jit(jax.grad(cost))(start)
        assert gradient.dtype == jnp.float64
        h = 1e-5
        difference = np.array([(cost(start + h * e) - cost(start - h * e)) / (2 * h) for e in np.eye(flat.size)])
        assert np.abs(gradient - difference).max() <= 1e-6 * np.abs(difference).max()


@pytest.mark.parametrize("name", [n for n in LOSSES if n not in ("prior", "jaw")])
def test_rows_have_the_gradient_of_the_cost(toy, name):
    with jax.enable_x64(True):
        model = toy.astype(np.float64)
        truth, observation = scene(model, np.random.default_rng(5), noise=3.0, relative_depth=DEPTH, dtype=np.float64)
        loss = every_loss(model.expression_names)[name]
        flat, unravel = ravel_pytree(zero_tangent(truth))
        frozen = freeze(model, truth)

        def prediction(step):
            return predict(model, retract(truth, unravel(step)), observation, frozen)

        gradient = jax.jit(jax.grad(lambda s: loss_cost(loss, prediction(s), observation)))(flat)

        def row(step):
            return loss_rows(loss, prediction(step), observation)

        rows, jacobian = jax.jit(lambda s: (row(s), jax.jacfwd(row)(s)))(flat)
        np.testing.assert_allclose(jacobian.T @ rows, gradient, rtol=1e-9, atol=1e-12)


def test_landmark_cost_is_the_documented_formula(toy):
    truth, observation = scene(toy, np.random.default_rng(6), noise=2.0)
    prediction = predict(toy, truth, observation)
    seen = np.asarray(observation.landmarks["aflw68"].points)
    low, high = seen.min(0), seen.max(0)
    size = np.sqrt((high - low).prod())
    r = (np.asarray(prediction.pixels["aflw68"]) - seen) / size
    expected = 1e4 * 0.5 * (r**2).sum(1).mean()
    assert float(loss_cost(fj.landmarks("aflw68"), prediction, observation)) == pytest.approx(expected, rel=1e-5)


def test_confidence_counts_as_often(toy):
    truth, observation = scene(toy, np.random.default_rng(7), noise=2.0)
    seen = observation.landmarks["aflw68"]
    prediction = predict(toy, truth, observation)
    square = np.sum((np.asarray(prediction.pixels["aflw68"]) - np.asarray(seen.points)) ** 2, 1) / float(observation.face_size) ** 2
    confidence = np.random.default_rng(7).uniform(0.1, 1, 68).astype(np.float32)
    weighted = replace(observation, landmarks={"aflw68": replace(seen, confidence=jnp.asarray(confidence))})
    expected = 0.5e4 * (confidence * square).sum() / confidence.sum()
    assert float(loss_cost(fj.landmarks("aflw68"), prediction, weighted)) == pytest.approx(expected, rel=1e-5)


def cost_of_identity(model, params, observation, loss):
    return lambda i: loss_cost(loss, predict(model, params | {"identity": i}, observation), observation)


def test_point_weights_are_confidences_of_the_loss(toy):
    """They multiply those of the observation, are data, and by default tell FaceMesh's features from its bare skin."""
    truth, observation = scene(toy, np.random.default_rng(3), noise=2.0)
    prediction = predict(toy, truth, observation)
    weight = np.random.default_rng(4).uniform(0, 2, 68)
    doubled = replace(observation.landmarks["aflw68"], confidence=jnp.asarray(weight * np.asarray(observation.landmarks["aflw68"].confidence)))
    told = loss_cost(fj.landmarks("aflw68"), prediction, replace(observation, landmarks={"aflw68": doubled}))
    mine = fj.landmarks("aflw68", point_weight=weight)
    np.testing.assert_allclose(loss_cost(mine, prediction, observation), told, rtol=1e-6)
    assert jax.tree.structure(mine) == jax.tree.structure(fj.landmarks("aflw68", point_weight=np.ones(68)))
    assert fj.landmarks("aflw68").arguments == {}

    default = np.asarray(fj.landmarks("mediapipe478").arguments["point_weight"])
    assert default.shape == (478,) and default.mean() == pytest.approx(1, abs=1e-6)
    # Corner of the mouth, lid, iris; brow, chin; cheek, forehead.
    np.testing.assert_allclose(default[[61, 159, 468, 70, 152, 50, 151]] / default[50], np.array([30, 30, 30, 20, 10, 3, 3]) / 3, rtol=1e-5)


def test_nan_in_a_masked_point_reaches_neither_cost_nor_gradient(toy):
    truth, observation = scene(toy, np.random.default_rng(8), noise=1.0)
    seen = observation.landmarks["aflw68"]
    valid = np.ones(68, bool)
    valid[[3, 40]] = False
    poisoned = jnp.where(jnp.asarray(valid)[:, None], seen.points, jnp.nan)
    broken = replace(observation, landmarks={"aflw68": replace(seen, points=poisoned, valid=jnp.asarray(valid))})
    losses = {"a": fj.landmarks("aflw68"), "b": 1e4 * fj.landmark_distances("aflw68", np.array([[3, 5], [40, 41], [1, 2]]))}
    for loss in losses.values():
        value, gradient = jax.jit(jax.value_and_grad(cost_of_identity(toy, truth, broken, loss)))(truth["identity"])
        assert np.isfinite(value)
        assert value > 0
        assert np.isfinite(gradient).all()


def test_nothing_valid_is_exactly_zero(toy):
    truth, observation = scene(toy, np.random.default_rng(9))
    seen = observation.landmarks["aflw68"]
    empty = replace(observation, landmarks={"aflw68": replace(seen, valid=jnp.zeros(68, bool), points=seen.points * jnp.nan)})
    value, gradient = jax.jit(jax.value_and_grad(cost_of_identity(toy, truth, empty, fj.landmarks("aflw68"))))(truth["identity"])
    assert float(value) == 0.0
    np.testing.assert_array_equal(gradient, np.zeros(len(gradient)))


def test_outline_points_move_to_the_visible_candidate(toy):
    truth, observation = scene(toy, np.random.default_rng(10))
    frozen = freeze(toy, truth)
    prediction = predict(toy, truth, observation, frozen)
    residuals = fj.landmarks("aflw68", contour=True)(prediction, observation).values
    lines = np.asarray(prediction.pixels["contour68"]).reshape(17, 9, 2)
    chosen = lines[np.arange(17), np.asarray(frozen.contour)]
    seen = np.asarray(observation.landmarks["aflw68"].points)
    np.testing.assert_allclose(residuals[:17], (chosen - seen[:17]) / float(observation.face_size), atol=1e-6)
    facing = np.asarray(freeze(toy, truth).visible["contour68"]).reshape(17, 9)
    for line, index in zip(facing, np.asarray(frozen.contour)):
        assert (line[index] == 1 and (line[:index] == 0).all()) or (line.max() == 0 and index == 8)


def test_prior_is_half_lambda_sum_of_squares(toy):
    truth, observation = scene(toy, np.random.default_rng(11))
    prediction = predict(toy, truth, observation)
    a, e = np.asarray(truth["identity"]), np.asarray(truth["expression"]) / 0.5
    expected = 0.3 * 0.5 * ((a**2).sum() + 2 * (e**2).sum())
    assert float(loss_cost(fj.prior(0.3, expression=2.0), prediction, observation)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", KERNELS)
def test_kernels(name):
    with jax.enable_x64(True):
        kernel = make_kernel(name, 0.1)
        s = jnp.asarray([0.0, 1e-12, 1e-4, 0.0099999, 0.0100001, 0.5, 10.0])
        rho, slope = kernel(s), kernel.slope(s)
        assert float(rho[0]) == 0
        assert float(slope[0]) == pytest.approx(1)
        assert (np.asarray(rho) <= np.asarray(s) + 1e-15).all()
        assert (np.diff(slope) <= 1e-12).all()
        h = 1e-7
        inner = s[2:]
        np.testing.assert_allclose(slope[2:], (kernel(inner + h) - kernel(inner - h)) / (2 * h), rtol=2e-5)


def test_weights_scale_and_compose():
    loss = 2 * fj.landmarks("aflw68") * 3
    assert float(loss.weight) == pytest.approx(6e4)
    observation = fj.make_observation({"aflw68": np.random.default_rng(0).normal(size=(68, 2))})
    assert set(fj.default_losses(observation) | {"brow": 0.1 * flat_brow()}) == {"landmarks", "prior", "brow"}


def test_arguments_are_leaves_and_text_is_structure():
    a = fj.landmark_distances("aflw68", np.array([[1, 2]]))
    b = fj.landmark_distances("aflw68", np.array([[3, 4]]))
    c = fj.landmark_distances("ibug68", np.array([[1, 2]]))
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert jax.tree.structure(a) != jax.tree.structure(c)


def test_errors(toy):
    truth, observation = scene(toy, np.random.default_rng(12))
    prediction = predict(toy, truth, observation)

    @fj.residual
    def scalar(pred, obs):
        return pred.landmarks.sum()

    @fj.value
    def array(pred, obs):
        return pred.landmarks

    @fj.residual
    def wrong_weights(pred, obs):
        return fj.Residuals(pred.landmarks, jnp.ones(3))

    with pytest.raises(fj.FitjaxError, match=r"'scalar'.*shape \(N,\)"):
        loss_cost(scalar(), prediction, observation)
    with pytest.raises(fj.FitjaxError, match=r"'array'.*one number"):
        loss_cost(array(), prediction, observation)
    with pytest.raises(fj.FitjaxError, match="expected weights of shape"):
        loss_cost(wrong_weights(), prediction, observation)
    with pytest.raises(fj.FitjaxError, match="first-order"):
        loss_rows(small_jaw(), prediction, observation)
    with pytest.raises(fj.FitjaxError, match="expected one of huber"):
        fj.landmarks("aflw68").robust("l0", 1.0)
    with pytest.raises(fj.FitjaxError, match="of kind 'prior'"):
        fj.prior(1.0).robust("huber", 1.0)


def test_depth_counts_differences_only(toy):
    """A planted depth is found again up to its mean; without an estimate the loss is exactly zero."""
    truth, observation = scene(toy, np.random.default_rng(13))
    prediction = predict(toy, truth, observation)
    camera_z = np.asarray(prediction.points_camera["aflw68"].position)[:, 2]
    pixels = camera_z * float(prediction.camera.focal[0]) / float(truth["pose"]["translation"][2])
    points = np.asarray(observation.landmarks["aflw68"].points)
    exact = fj.make_observation({"aflw68": points}, observation.camera, depth={"aflw68": pixels + 1000})
    loss = fj.landmark_depth("aflw68", every=1)
    assert float(loss_cost(loss, predict(toy, truth, exact), exact)) < 1e-6
    off = fj.make_observation({"aflw68": points}, observation.camera, depth={"aflw68": 1.1 * pixels})
    spread = pixels - pixels.mean()
    expected = 1e3 * 0.5 * np.mean((0.1 * spread / float(off.face_size)) ** 2)
    assert float(loss_cost(loss, predict(toy, truth, off), off)) == pytest.approx(expected, rel=1e-3)
    value, gradient = jax.value_and_grad(
        lambda i: loss_cost(loss, predict(toy, truth | {"identity": i}, observation), observation)
    )(truth["identity"])
    assert float(value) == 0
    np.testing.assert_array_equal(gradient, np.zeros(len(gradient)))
    assert "depth" in fj.default_losses(exact)
    assert "depth" not in fj.default_losses(observation)
