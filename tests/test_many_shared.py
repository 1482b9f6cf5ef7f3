"""Several photos of one person: the arrow against the dense system, smoothness over time, a shared focal length."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scenes import random_truth, render_landmarks
from toy import toy_basis

import fitjax as fj
from fitjax.cli.main import Fit
from fitjax.cli.person import of_person
from fitjax.fit.defaults import OTHER_PRIOR_WEIGHT
from fitjax.geometry.rotation import geodesic_angle
from fitjax.losses.core import loss_cost
from fitjax.losses.smoothness import smooth_over_time
from fitjax.model.load import linear_model
from fitjax.model.params import retract, zero_tangent
from fitjax.pytree import replace
from fitjax.solve.arrow import Arrow, Pair, box_quadratic_arrow
from fitjax.solve.gauss_newton import Layout
from fitjax.solve.levenberg_marquardt import _linearise, _solve_step, box_quadratic
from fitjax.solve.objective import Problem, costs
from fitjax.solve.sharing import DEFAULT_LEVELS, make_sharing

SET, SIZE = "aflw68", (640, 480)
EVERYTHING = {"pose": 1.0, "identity": 1.0, "expression": 1.0}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return linear_model(toy_basis(tmp_path_factory.mktemp("toy")))


def _dense(arrow: Arrow) -> np.ndarray:
    """Shared coordinates first, then those of each photo."""
    count, (photos, own) = len(arrow.shared), arrow.own.shape[:2]
    full = np.zeros((count + photos * own,) * 2)
    full[:count, :count] = arrow.shared
    for p in range(photos):
        block, at = np.arange(own) + count + p * own, np.asarray(arrow.at[p])
        full[np.ix_(block, block)] = arrow.own[p]
        full[np.ix_(at, block)], full[np.ix_(block, at)] = arrow.border[p], arrow.border[p].T
        if arrow.coupling is not None and p:
            full[block - own, block] = full[block, block - own] = arrow.coupling[p - 1]
    return full


def _flat(pair: Pair) -> np.ndarray:
    return np.concatenate([pair.shared, np.ravel(pair.own)])


@pytest.mark.parametrize("video", [False, True])
def test_arrow_against_numpy(video):
    rng = np.random.default_rng(0)
    photos, seen, own, count = 6, 3, 4, 5
    n = count + photos * own

    def pair(x) -> Pair:
        return Pair(jnp.asarray(x[:count]), jnp.asarray(x[count:]).reshape(photos, own))

    with jax.enable_x64(True):
        blocks, corner = rng.normal(size=(photos, own, own)), rng.normal(size=(count, count))
        arrow = Arrow(
            jnp.asarray(corner @ corner.T + 9 * np.eye(count)),
            jnp.asarray(0.3 * rng.normal(size=(photos, seen, own))),
            jnp.asarray(blocks @ blocks.swapaxes(1, 2) + 4 * np.eye(own)),
            jnp.asarray([rng.choice(count, seen, replace=False) for _ in range(photos)]),
            jnp.asarray(rng.uniform(-0.3, 0, (photos - 1, own))) if video else None,
        )
        full, x = _dense(arrow), rng.normal(size=n)
        assert np.linalg.eigvalsh(full)[0] > 1
        bounded = rng.random(n) < 0.6
        low, high = np.where(bounded, -rng.uniform(0, 0.05, n), -np.inf), np.where(bounded, rng.uniform(0, 0.05, n), np.inf)

        @jax.jit
        def every(arrow, x, low, high, full, flat):
            boxed = box_quadratic_arrow(arrow, x, low, high, 20), box_quadratic(full, *flat, 20)
            return arrow.times(x), arrow.diagonal(), arrow.solve(x), *boxed

        times, diagonal, solved, found, expected = every(arrow, pair(x), pair(low), pair(high), full, (x, low, high))
        np.testing.assert_allclose(_flat(times), full @ x, atol=1e-12)
        np.testing.assert_allclose(_flat(diagonal), np.diag(full))
        np.testing.assert_allclose(_flat(solved), np.linalg.solve(full, x), atol=1e-12)
        found = _flat(found)
        assert (found[bounded] == low[bounded]).any() and (found[bounded] == high[bounded]).any()
        np.testing.assert_allclose(found, expected, atol=1e-12)


def _photos(model, rng, count: int, noise: float, focal: float = 1.0, turned: bool = False, dtype=np.float64) -> tuple[list, list]:
    """Truth and observations of one person, drifting slowly or in any pose (``turned``); seen with ``focal`` times the focal length that is known."""
    known = fj.make_camera(*SIZE, dtype=dtype)
    camera = replace(known, focal=known.focal * focal)
    first, last = (random_truth(model, rng, depth=(0.35, 0.6), dtype=dtype) for _ in range(2))
    truths, observations = [], []
    for t in np.linspace(0, 1, count):
        step = random_truth(model, rng, depth=(0.35, 0.6), dtype=dtype) if turned else None
        codes = {"identity": first["identity"], "expression": (1 - t) * first["expression"] + t * last["expression"]}
        pose = {"rotation": first["pose"]["rotation"], "translation": (1 - t) * first["pose"]["translation"] + t * last["pose"]["translation"]}
        truths.append(codes | {"pose": pose if step is None else step["pose"]})
        points = render_landmarks(model, truths[-1], SET, camera)
        observations.append(fj.make_observation({SET: points + noise * rng.normal(size=points.shape)}, known, dtype=dtype))
    return truths, observations


def _losses(**more) -> dict:
    return {"landmarks": fj.landmarks(SET), "prior": fj.prior(5e-3)} | more


def test_normal_equations_and_steps_are_those_of_the_dense_system(toy):
    """Two persons in four photos, one focal length of all, expressions linked over time, one identity coefficient held fixed."""
    with jax.enable_x64(True):
        model = toy.astype(np.float64)
        rng = np.random.default_rng(1)
        photos = [_photos(model, rng, 2, 0.5, turned=True) for _ in range(2)]
        stacked = fj.stack_observations([o for _, observations in photos for o in observations])
        sharing = make_sharing([0, 0, 1, 1], {"identity": "person", "camera": "global"})
        truths = [t for truth, _ in photos for t in truth]
        params = jax.tree.map(lambda *x: jnp.stack(x), *truths)  # some expressions are 0: at their bound
        params |= {"identity": params["identity"][::2] + 0.3 * rng.normal(size=(2, model.n_identity)), "camera": {"log_focal": jnp.asarray(0.1)}}
        zero = zero_tangent(params, ("pose", "identity", "expression", "camera"))
        mask = jax.tree.map(jnp.ones_like, zero)
        mask["identity"] = mask["identity"].at[:, 0].set(0)

        @jax.jit
        def systems(params, losses, damping):
            problem = Problem(model, stacked, losses, None, sharing).refreeze(params)
            exact = jax.grad(lambda d: sum(costs(problem, retract(params, d)).values()))(zero)
            found = []
            for arrow in (True, False):
                solver = fj.LevenbergMarquardt(arrow=arrow)
                here = _linearise(solver, problem, params, mask, zero)
                state = replace(solver.init(problem, params, mask, zero), params=params, here=here, damping=damping)
                found.append((here, *_solve_step(solver, problem, mask, zero, state)))
            return *found, ravel_pytree(exact)[0]

        layout = Layout(sharing, zero)
        order = np.concatenate([layout.shared, layout.own.ravel()])
        assert sorted(order) == list(range(layout.size))
        at_low = np.flatnonzero(ravel_pytree({"expression": params["expression"]})[0] == 0)
        for damping in (1e-4, 1e-1):
            losses = _losses(smooth=0.05 * smooth_over_time(expression=1.0, pose=0.0))
            (arrow, step, promise), (dense, dense_step, dense_promise), exact = systems(params, losses, damping)
            np.testing.assert_allclose(_dense(arrow.hessian), np.asarray(dense.hessian)[np.ix_(order, order)], rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(arrow.parts, dense.parts, rtol=1e-12)
            np.testing.assert_allclose(arrow.gradient, dense.gradient, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(step, dense_step, atol=1e-6)
            np.testing.assert_allclose(promise, dense_promise, rtol=1e-6)
            taken = np.asarray(step)[: len(ravel_pytree(params["expression"])[0]) + 1][1:][at_low]  # after the focal length
            assert (taken >= 0).all() and (taken == 0).any() and (taken > 0).any() and float(jnp.abs(step).max()) > 0.1
        # With links between poses too the gradient is still that of the cost, the Hessian nearly.
        turned = losses | {"smooth": 1.0 * smooth_over_time(expression=1.0, pose=30.0)}
        (arrow, _, _), (dense, _, _), exact = systems(params, turned, damping)
        np.testing.assert_allclose(arrow.gradient, exact * ravel_pytree(mask)[0], rtol=1e-7, atol=1e-7)
        scale = np.sqrt(np.diag(dense.hessian))[order]
        expected = np.asarray(dense.hessian)[np.ix_(order, order)]
        np.testing.assert_allclose(_dense(arrow.hessian) / scale / scale[:, None], expected / scale / scale[:, None], atol=0.1)


def _fit_frames(toy, observations: list, strength: float, focal: float) -> list:
    """One program for both tests: numbers choose what is free and what is linked."""
    stages = [fj.Stage(EVERYTHING | {"camera": focal}, fj.LevenbergMarquardt(max_steps=40))]
    losses = _losses(smooth=strength * smooth_over_time(pose=100.0, expression=1.0))
    return fj.fit_shared(observations, model=toy, levels={"identity": "person", "camera": "person"}, losses=losses, stages=stages)


def test_a_video_shakes_less(toy):
    """Twelve frames with 2 px of noise: linked over time the poses are nearer to the truth, frame by frame and from one to the next."""
    truths, observations = _photos(toy, np.random.default_rng(2), 12, 2.0, dtype=np.float32)

    def errors(strength: float) -> np.ndarray:
        found = _fit_frames(toy, observations, strength, 0.0)
        assert all(s.status == fj.Status.CONVERGED for s in found)
        away = [geodesic_angle(jnp.asarray(s.rotation), t["pose"]["rotation"]) for s, t in zip(found, truths)]
        turns = [geodesic_angle(jnp.asarray(a.rotation), jnp.asarray(b.rotation)) for a, b in pairwise(found)]
        return np.degrees([np.mean(away), np.mean(turns)])  # the true head does not turn

    loose, tied = errors(0.0), errors(1.0)
    assert loose[1] > 0.5 and tied[1] < 0.5 * loose[1] and tied[0] < 0.8 * loose[0]


def test_a_shared_focal_length_is_found(toy):
    """Photos from near, all with 1.3 times the focal length that the camera says."""
    _, observations = _photos(toy, np.random.default_rng(3), 12, 0.2, focal=1.3, turned=True, dtype=np.float32)
    found = _fit_frames(toy, observations, 0.0, 1.0)
    factors = np.exp([float(s.params["camera"]["log_focal"]) for s in found])
    assert np.ptp(factors) == 0 and abs(factors[0] - 1.3) < 0.05


def test_what_the_options_of_the_command_line_ask_for(toy):
    """A focal length that is free and held once per person, frames that are linked, in the stages that move the pose."""
    observation = _photos(toy, np.random.default_rng(4), 1, 0.0, dtype=np.float32)[1][0]
    maps = fj.Stage({"detail_shape": 1.0}, losses={"landmarks": 1.0})
    named = fj.Stage(EVERYTHING, losses={"landmarks": 1.0})
    asked = of_person(Fit([], same_person=True, shared_focal=True, smooth=2.0), _losses(), [fj.Stage(EVERYTHING), named, maps], 4)
    assert asked["levels"] == {**DEFAULT_LEVELS, "camera": "person"} and list(asked["losses"]) == ["landmarks", "prior", "focal", "smooth"]
    assert [sorted(s.free) for s in asked["stages"]] == [sorted([*EVERYTHING, "camera"])] * 2 + [["detail_shape"]]
    assert [s.losses if s.losses is None else sorted(s.losses) for s in asked["stages"]] == [None, ["focal", "landmarks", "smooth"], ["landmarks"]]
    assert float(asked["losses"]["smooth"].weight) == 2.0
    # Four photos whose focal length is one standard deviation off cost what one code of the prior does there.
    prediction = SimpleNamespace(params={"camera": {"log_focal": jnp.asarray(0.3)}})
    assert 4 * float(loss_cost(asked["losses"]["focal"], prediction, observation)) == pytest.approx(0.5 * OTHER_PRIOR_WEIGHT)
    plain = of_person(Fit([], same_person=True), _losses(), [named], 4)
    assert list(plain["losses"]) == ["landmarks", "prior"] and plain["levels"] == DEFAULT_LEVELS and plain["stages"][0].losses == named.losses
