"""Solvers: against SciPy, statuses, bounds, recompilation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from scenes import scene
from scipy.optimize import least_squares, lsq_linear, minimize
from toy import toy_basis

import fitjax as fj
from fitjax.fit.run import run_one
from fitjax.model.load import linear_model
from fitjax.model.params import retract, zero_tangent
from fitjax.prediction import predict
from fitjax.pytree import replace
from fitjax.solve.levenberg_marquardt import box_quadratic, gauss_newton, partly_bounded_quadratic
from fitjax.solve.objective import Problem, costs

EVERYTHING = {"pose": 1.0, "identity": 1.0, "expression": 1.0}
ADAM = optax.adam(1e-2)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return linear_model(toy_basis(tmp_path_factory.mktemp("toy")))


def test_box_quadratic_matches_scipy():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        solve = jax.jit(lambda s, b, low, high: box_quadratic(s, b, low, high, 50))
        for _ in range(40):
            a = rng.normal(size=(40, 20))
            a /= np.linalg.norm(a, axis=0)
            target = rng.normal(size=40) * 3
            low = np.where(rng.random(20) < 0.6, -rng.uniform(0, 0.5, 20) * (rng.random(20) < 0.7), -np.inf)
            high = np.where(rng.random(20) < 0.6, rng.uniform(0.01, 0.5, 20), np.inf)
            expected = lsq_linear(a, target, (low, high), tol=1e-14).x
            found = solve(a.T @ a, a.T @ target, low, high)
            np.testing.assert_allclose(found, expected, atol=2e-6)


def test_partly_bounded_quadratic_matches_scipy():
    rng = np.random.default_rng(1)
    bounded = np.arange(20) % 3 == 0
    with jax.enable_x64(True):
        solve = jax.jit(lambda s, b, low, high: partly_bounded_quadratic(s, b, low, high, bounded, 50))
        for _ in range(20):
            a = rng.normal(size=(40, 20))
            a /= np.linalg.norm(a, axis=0)
            target = rng.normal(size=40) * 3
            low = np.where(bounded, -rng.uniform(0, 0.3, 20), -np.inf)
            high = np.where(bounded, rng.uniform(0.01, 0.3, 20), np.inf)
            expected = lsq_linear(a, target, (low, high), tol=1e-14).x
            np.testing.assert_allclose(solve(a.T @ a, a.T @ target, low, high), expected, atol=2e-6)


def test_levenberg_marquardt_reaches_the_minimum_that_scipy_finds(toy):
    with jax.enable_x64(True):
        model = toy.astype(np.float64)
        truth, observation = scene(model, np.random.default_rng(1), noise=2.0, dtype=np.float64)
        losses = {"landmarks": fj.landmarks("aflw68").robust("cauchy", 0.05), "prior": fj.prior(0.01)}
        solver = fj.LevenbergMarquardt(max_steps=200, tolerance=1e-13)
        solution = fj.fit(observation, model=model, losses=losses, stages=[fj.Stage(EVERYTHING, solver)])
        problem = Problem(model, observation, losses)
        flat, unravel = ravel_pytree(zero_tangent(truth))
        low, high = np.full(flat.size, -np.inf), np.full(flat.size, np.inf)
        zero = zero_tangent(truth)
        index = ravel_pytree({k: jax.tree.map(lambda x, k=k: jnp.full(x.shape, float(k == "expression")), v) for k, v in zero.items()})[0]
        expression = np.flatnonzero(np.asarray(index))
        base = dict(truth, expression=jnp.full(6, 0.5))
        low[expression], high[expression] = -0.5, 0.5

        @jax.jit
        @jax.value_and_grad
        def cost(step):
            return sum(costs(problem, retract(base, unravel(step))).values())

        options = {"maxiter": 3000, "ftol": 1e-14, "gtol": 1e-10}
        best = minimize(cost, flat, jac=True, bounds=list(zip(low, high)), method="L-BFGS-B", options=options)
        ours = sum(solution.costs().values())
        assert ours <= best.fun * (1 + 1e-6)
        assert solution.status == fj.Status.CONVERGED


def test_gauss_newton_jacobian_is_that_of_the_rows(toy):
    with jax.enable_x64(True):
        model = toy.astype(np.float64)
        truth, observation = scene(model, np.random.default_rng(2), noise=1.0, dtype=np.float64)
        losses = {"landmarks": fj.landmarks("aflw68"), "prior": fj.prior(0.3)}
        zero = zero_tangent(truth)
        system = jax.jit(lambda p: gauss_newton(p, truth, zero))
        rows, jacobian_t, gradient, diagonal, parts = system(Problem(model, observation, losses))
        flat, unravel = ravel_pytree(zero)
        problem = Problem(model, observation, losses)

        def total(step):
            return sum(costs(problem, retract(truth, unravel(step))).values())

        np.testing.assert_allclose(jacobian_t @ rows + gradient, jax.jit(jax.grad(total))(flat), rtol=1e-9, atol=1e-10)
        slopes = {"expression": jnp.full(6, 4.0), "identity": jnp.ones(12), "pose": zero["pose"]}
        oracle = 0.3 * np.asarray(ravel_pytree(slopes)[0])
        np.testing.assert_allclose(diagonal, oracle)
        assert float(parts.sum()) == pytest.approx(float(total(flat)))


def test_both_solvers_agree(toy):
    _, observation = scene(toy, np.random.default_rng(3), noise=1.0)
    losses = {"landmarks": fj.landmarks("aflw68"), "prior": fj.prior(0.05)}
    lm = fj.fit(observation, model=toy, losses=losses, stages=[fj.Stage(EVERYTHING, fj.LevenbergMarquardt(max_steps=100))])
    descent = fj.FirstOrder(ADAM, max_steps=3000, tolerance=0.0, rates={"pose": 0.3})
    adam = fj.fit(observation, model=toy, losses=losses, stages=[fj.Stage(EVERYTHING, descent)])
    assert sum(adam.costs().values()) == pytest.approx(sum(lm.costs().values()), rel=2e-3)
    assert np.abs(lm.landmarks("aflw68") - adam.landmarks("aflw68")).max() < 1.0


def test_bounds_hold_and_are_active(toy):
    _, observation = scene(toy, np.random.default_rng(4), noise=3.0)
    solution = fj.fit(observation, model=toy, losses={"landmarks": fj.landmarks("aflw68"), "prior": fj.prior(1e-3)})
    expression = np.asarray(solution.params["expression"])
    assert (expression >= 0).all()
    assert (expression <= 1).all()
    assert (expression == 0).any()


def test_masks_hold_groups_still(toy):
    _, observation = scene(toy, np.random.default_rng(5), noise=1.0)
    half = jnp.where(jnp.arange(12) < 6, 1.0, 0.0)
    stages = [fj.Stage({"pose": 1.0, "identity": half, "expression": 0.0})]
    solution = fj.fit(observation, model=toy, stages=stages)
    identity = np.asarray(solution.params["identity"])
    assert (identity[6:] == 0).all()
    assert (identity[:6] != 0).all()
    assert (np.asarray(solution.params["expression"]) == 0).all()


def test_nothing_recompiles_when_data_changes(toy):
    @fj.residual
    def towards(pred, obs, target):
        return pred.params["identity"][:3] - target

    def run(seed, weight, target, mask, tolerance):
        _, observation = scene(toy, np.random.default_rng(seed), noise=1.0)
        losses = fj.default_losses(observation) | {"towards": weight * towards(target=target)}
        solver = fj.LevenbergMarquardt(max_steps=5, tolerance=tolerance)
        fj.fit(observation, model=toy, losses=losses, stages=[fj.Stage({"pose": 1.0, "identity": mask}, solver)], throw=False)

    run(0, 0.1, np.zeros(3), 1.0, 1e-4)
    compiled = run_one._cache_size()
    run(1, 0.7, np.ones(3), 1.0, 1e-3)
    run(2, 100.0, np.ones(3) * 2, 0.0, 1e-6)
    assert run_one._cache_size() == compiled


def test_status_not_finite(toy):
    _, observation = scene(toy, np.random.default_rng(6))

    @fj.residual
    def poison(pred, obs, value):
        return pred.params["identity"] * value

    losses = fj.default_losses(observation) | {"poison": poison(value=np.nan)}
    solution = fj.fit(observation, model=toy, losses=losses, throw=False)
    assert solution.status == fj.Status.NOT_FINITE
    assert not solution.ok
    assert not solution.reliable
    with pytest.raises(fj.FitError, match="not finite"):
        fj.fit(observation, model=toy, losses=losses)


def test_status_max_steps(toy):
    _, observation = scene(toy, np.random.default_rng(7), noise=1.0)
    stage = fj.Stage(EVERYTHING, fj.LevenbergMarquardt(max_steps=1))
    solution = fj.fit(observation, model=toy, stages=[stage])
    assert solution.status == fj.Status.MAX_STEPS
    assert solution.steps == {"stage": 1}
    assert len(solution.history["stage"]["landmarks"]) == 2


def test_status_diverged(toy):
    _, observation = scene(toy, np.random.default_rng(8), noise=1.0)

    @jax.custom_jvp
    def lying(x):
        return x

    # A loss whose derivative points the wrong way: no step along it lowers the objective.
    lying.defjvp(lambda primals, tangents: (primals[0], -tangents[0]))

    @fj.residual
    def uphill(pred, obs):
        return lying(pred.params["identity"] + 3.0)

    stage = fj.Stage({"identity": 1.0}, fj.LevenbergMarquardt(max_steps=200))
    solution = fj.fit(observation, model=toy, losses={"uphill": uphill()}, stages=[stage], throw=False)
    assert solution.status == fj.Status.DIVERGED
    assert "diverged" in solution.reason


def test_callback_sees_every_step_and_can_stop(toy):
    _, observation = scene(toy, np.random.default_rng(9), noise=1.0)
    seen = []
    solution = fj.fit(observation, model=toy, callback=lambda stage, step, parts, params: seen.append((stage, step, parts)) or step == 3)
    assert [s[1] for s in seen] == [1, 2, 3]
    assert solution.status == fj.Status.STOPPED
    assert set(seen[0][2]) == {"landmarks", "prior"}
    free = fj.fit(observation, model=toy, callback=lambda *_: None)
    plain = fj.fit(observation, model=toy)
    assert free.status == plain.status == fj.Status.CONVERGED
    np.testing.assert_allclose(free.landmarks("aflw68"), plain.landmarks("aflw68"), atol=0.01)


def test_continuing_from_saved_parameters(toy):
    _, observation = scene(toy, np.random.default_rng(10), noise=1.0)
    short = fj.fit(observation, model=toy, stages=[fj.Stage(EVERYTHING, fj.LevenbergMarquardt(max_steps=1))])
    rest = fj.fit(observation, model=toy, start=short.params)
    assert rest.costs(before=True)["landmarks"] == pytest.approx(short.costs()["landmarks"], rel=1e-5)
    assert sum(rest.costs().values()) <= sum(short.costs().values())


def test_stage_and_loss_errors(toy):
    _, observation = scene(toy, np.random.default_rng(11))
    with pytest.raises(fj.FitError, match="free groups"):
        fj.fit(observation, model=toy, stages=[fj.Stage({"joints": 1.0})])
    with pytest.raises(fj.FitError, match="unknown losses"):
        fj.fit(observation, model=toy, stages=[fj.Stage(EVERYTHING, losses={"nose": 1.0})])
    with pytest.raises(fj.FitError, match="reads landmarks 'mediapipe478'"):
        fj.fit(observation, model=toy, losses={"a": fj.landmarks("mediapipe478")})
    with pytest.raises(fj.FitError, match="expected a Loss"):
        fj.fit(observation, model=toy, losses={"a": fj.landmarks})
    with pytest.raises(fj.FitError, match="empty dict"):
        fj.fit(observation, model=toy, losses={})
    with pytest.raises(fj.ParamsError, match="shape"):
        fj.fit(observation, model=toy, start={"identity": jnp.zeros(3)})


def test_free_focal_length(toy):
    # A wrong focal length in the observation is corrected when the camera group is free.
    rng = np.random.default_rng(12)
    _, observation = scene(toy, rng, depth=(0.3, 0.35), angles=(5.0, 30.0, 5.0))
    wrong = replace(observation, camera=replace(observation.camera, focal=observation.camera.focal * 1.3))
    losses = {"landmarks": fj.landmarks("aflw68"), "prior": fj.prior(1e-4)}
    stages = [fj.Stage(EVERYTHING | {"camera": 1.0}, fj.LevenbergMarquardt(max_steps=100, tolerance=1e-7))]
    free = fj.fit(wrong, model=toy, losses=losses, stages=stages)
    fixed = fj.fit(wrong, model=toy, losses=losses)
    assert free.costs()["landmarks"] < 0.2 * fixed.costs()["landmarks"]
    assert float(jnp.exp(free.params["camera"]["log_focal"])) == pytest.approx(1 / 1.3, rel=0.1)
    assert float(predict(toy, free.params, wrong).camera.focal[0]) == pytest.approx(float(observation.camera.focal[0]), rel=0.1)


def test_linear_problem_in_one_step_without_damping():
    # least_squares on a quadratic: one undamped step is exact. Guards the sign and scaling of the step itself.
    rng = np.random.default_rng(13)
    a, b = rng.normal(size=(30, 8)), rng.normal(size=30)
    expected = least_squares(lambda x: a @ x - b, np.zeros(8)).x
    with jax.enable_x64(True):
        s = 1 / np.sqrt(np.diag(a.T @ a))
        found = s * box_quadratic(jnp.asarray(a.T @ a * np.outer(s, s)), jnp.asarray(a.T @ b * s), jnp.full(8, -np.inf), jnp.full(8, np.inf), 5)
    np.testing.assert_allclose(found, expected, atol=1e-7)
