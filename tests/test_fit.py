"""Fits of the embedded model: round trips, uncertainty, batches, sharing."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scenes import render_landmarks, scene

import fitjax as fj
import fitjax.fit.fit
from fitjax.geometry.rotation import geodesic_angle, rotation_log
from fitjax.losses.core import loss_cost
from fitjax.observation import neutral_observation
from fitjax.prediction import freeze, predict
from fitjax.pytree import replace

# By way of sys.modules: the function fitjax.fit hides the package of the same name.
fit_module = sys.modules["fitjax.fit.fit"]


@pytest.fixture(scope="module")
def model():
    # Landmarks are read from sliced bases, so the density of the mesh does not matter here.
    return fj.load_basis(level=0)


@pytest.mark.parametrize("name", ["aflw68", "mediapipe478"])
def test_round_trip_of_200_faces(model, name):
    rng = np.random.default_rng(0)
    scenes = [scene(model, rng, name, angles=(30.0, 60.0, 30.0)) for _ in range(200)]
    losses = {"landmarks": fj.landmarks(name), "prior": fj.prior(1e-6)}
    solutions = fj.fit_batch([o for _, o in scenes], model=model, losses=losses)
    wrong = np.array([np.abs(s.landmarks(name) - np.asarray(o.landmarks[name].points)).max() for s, (_, o) in zip(solutions, scenes)])
    assert (wrong <= 0.05).mean() >= 0.99
    trusted = np.array([s.reliable for s in solutions])
    assert not (trusted & (wrong > 0.5)).any()
    assert trusted.mean() > 0.7
    turned = [abs(s.yaw_degrees) > 50 for s in solutions]
    assert not (trusted & np.array(turned)).any()


def test_pose_is_recovered(model):
    rng = np.random.default_rng(1)
    scenes = [scene(model, rng, "mediapipe478") for _ in range(20)]
    losses = {"landmarks": fj.landmarks("mediapipe478"), "prior": fj.prior(1e-6)}
    solutions = fj.fit_batch([o for _, o in scenes], model=model, losses=losses)
    angles = [float(geodesic_angle(s.rotation, t["pose"]["rotation"])) for s, (t, _) in zip(solutions, scenes)]
    assert np.degrees(np.median(angles)) < 0.1
    assert np.degrees(np.max(angles)) < 0.5


@pytest.mark.slow
def test_intervals_cover(model):
    """95 % intervals of pose and of the first 10 identity coefficients, 500 noisy fits."""
    rng = np.random.default_rng(2)
    scenes = [scene(model, rng, "aflw68", noise=1.0, angles=(20.0, 40.0, 20.0)) for _ in range(500)]
    losses = {"landmarks": fj.landmarks("aflw68"), "prior": fj.prior(0.015)}
    inside, noise = [], []
    for solution, (truth, _) in zip(fj.fit_batch([o for _, o in scenes], model=model, losses=losses), scenes):
        uncertainty = solution.covariance()
        sd, pose = uncertainty.standard_deviation, solution.params["pose"]
        turn = rotation_log(jnp.asarray(np.asarray(truth["pose"]["rotation"]) @ solution.rotation.T))
        t, s = np.asarray(truth["pose"]["translation"]), np.asarray(pose["translation"])
        shift = np.array([(t[0] - s[0]) / s[2], (t[1] - s[1]) / s[2], np.log(t[2] / s[2])])
        code = (np.asarray(truth["identity"]) - np.asarray(solution.params["identity"]))[:10]
        error = np.concatenate([turn, shift, code])
        deviation = np.concatenate([sd["pose"]["rotation"], sd["pose"]["translation"], sd["identity"][:10]])
        inside.append(np.abs(error) <= 1.96 * deviation)
        noise.append(uncertainty.noise_pixels)
    coverage = np.mean(inside, axis=0)
    assert (coverage >= 0.90).all(), coverage
    assert (coverage <= 0.98).all(), coverage
    assert np.median(noise) == pytest.approx(1.0, rel=0.15)


def test_vertex_deviation_is_that_of_samples_from_the_covariance(model):
    _, observation = scene(model, np.random.default_rng(3), "aflw68", noise=1.0)
    losses = {"landmarks": fj.landmarks("aflw68"), "prior": fj.prior(0.015)}
    solution = fj.fit(observation, model=model, losses=losses)
    uncertainty = solution.covariance()
    found = uncertainty.vertex_standard_deviation()
    assert found.shape == (model.n_vertices,)
    # The same from draws: tangents with the covariance's factor, codes only.
    rng = np.random.default_rng(3)
    values, vectors = np.linalg.eigh(uncertainty.matrix)
    draws = rng.normal(size=(400, len(values))) * np.sqrt(np.maximum(values, 0)) @ vectors.T
    from jax.flatten_util import ravel_pytree

    from fitjax.model.params import zero_tangent

    _, unravel = ravel_pytree(zero_tangent(solution.params, ("pose", "identity", "expression")))
    decode = jax.jit(lambda i, e: model.decode({"identity": i, "expression": e}).vertices)
    meshes = []
    for draw in draws:
        step = unravel(jnp.asarray(draw, jnp.float32))
        meshes.append(decode(solution.params["identity"] + step["identity"], solution.params["expression"] + step["expression"]))
    sampled = np.sqrt(np.var(np.stack(meshes), axis=0).sum(-1))
    assert np.median(np.abs(sampled / found - 1)) < 0.06


@pytest.mark.parametrize("one_by_one", [True, False])
def test_batch_equals_single(model, one_by_one, monkeypatch):
    monkeypatch.setattr(fit_module, "faces_one_by_one", lambda: one_by_one)
    rng = np.random.default_rng(4)
    observations = [scene(model, rng, "aflw68", noise=1.0)[1] for _ in range(4)]
    for together, observation in zip(fj.fit_batch(observations, model=model), observations):
        alone = fj.fit(observation, model=model)
        assert together.status == alone.status
        np.testing.assert_allclose(together.landmarks("aflw68"), alone.landmarks("aflw68"), atol=0.02)
        assert sum(together.costs().values()) == pytest.approx(sum(alone.costs().values()), rel=1e-4)


@pytest.mark.parametrize("one_by_one", [True, False])
def test_a_failed_face_never_harms_the_others(model, one_by_one, monkeypatch):
    """In the loop over faces that CPUs use and under the vmap of accelerators."""
    monkeypatch.setattr(fit_module, "faces_one_by_one", lambda: one_by_one)
    rng = np.random.default_rng(5)
    observations = [scene(model, rng, "aflw68", noise=1.0)[1] for _ in range(9)]
    good, spare = observations[:8], observations[8]
    poisoned = replace(spare, landmarks={"aflw68": replace(spare.landmarks["aflw68"], points=spare.landmarks["aflw68"].points * jnp.nan)})
    failures = {
        fj.Status.NO_INPUT: neutral_observation(spare),
        fj.Status.NOT_FINITE: poisoned,
    }
    reference = fj.fit_batch(good, model=model)
    for status, bad in failures.items():
        mixed = fj.fit_batch([*good[:3], bad, *good[4:]], model=model)
        assert mixed[3].status == status
        assert not mixed[3].ok
        for i in (0, 1, 2, 4, 5, 6, 7):
            for a, b in zip(jax.tree.leaves(mixed[i].params), jax.tree.leaves(reference[i].params)):
                np.testing.assert_array_equal(a, b)
            assert mixed[i].status == reference[i].status
            assert mixed[i].costs() == reference[i].costs()


def test_three_photos_of_one_person_share_an_identity(model):
    rng = np.random.default_rng(6)
    alone_error, shared_error = [], []
    decode = jax.jit(lambda codes: model.decode_samples(codes, "mediapipe478").position)
    for _ in range(6):
        person = None
        observations = []
        for _ in range(3):
            truth, _ = scene(model, rng, "aflw68", angles=(20.0, 45.0, 10.0))
            person = truth["identity"] if person is None else person
            camera = fj.make_camera(640, 480)
            points = render_landmarks(model, truth | {"identity": person}, "aflw68", camera) + rng.normal(size=(68, 2))
            observations.append(fj.make_observation({"aflw68": points}, camera))
        together = fj.fit_shared(observations, model=model)
        for solution in together[1:]:
            np.testing.assert_array_equal(solution.params["identity"], together[0].params["identity"])
        alone = [fj.fit(o, model=model) for o in observations]

        def error(params, person=person):
            # Over the face: nothing in a photo tells the skull.
            neutral = {"expression": jnp.zeros(model.n_expression)}
            codes = ({"identity": jnp.asarray(i), **neutral} for i in (params["identity"], person))
            a, b = (decode(c) for c in codes)
            return float(jnp.sqrt(jnp.mean((a - b) ** 2)))

        shared_error.append(error(together[0].params))
        alone_error.append(np.mean([error(s.params) for s in alone]))
    assert np.mean(shared_error) < 0.85 * np.mean(alone_error)


def test_two_persons_keep_their_own_identity(model):
    rng = np.random.default_rng(7)
    observations = [scene(model, rng, "aflw68", noise=0.5)[1] for _ in range(3)]
    solutions = fj.fit_shared(observations, [0, 1, 0], model=model)
    np.testing.assert_array_equal(solutions[0].params["identity"], solutions[2].params["identity"])
    assert np.abs(np.asarray(solutions[0].params["identity"]) - np.asarray(solutions[1].params["identity"])).max() > 0.1


def test_sharing_one_photo_is_the_trivial_case(model):
    _, observation = scene(model, np.random.default_rng(8), "aflw68", noise=0.5)
    shared = fj.fit_shared([observation], model=model)[0]
    alone = fj.fit(observation, model=model)
    np.testing.assert_allclose(shared.landmarks("aflw68"), alone.landmarks("aflw68"), atol=0.02)


def test_weak_perspective_is_a_variant(model):
    rng = np.random.default_rng(9)
    truth, observation = scene(model, rng, "aflw68")
    # On the optical axis: weak perspective measures rotation against the ray through the face.
    truth["pose"]["translation"] = jnp.array([0.0, 0.0, 3.0])
    points = render_landmarks(model, truth, "aflw68", observation.camera)
    observation = fj.make_observation({"aflw68": points}, observation.camera)
    weak = replace(observation, camera=replace(observation.camera, kind="weak_perspective"))
    losses = {"landmarks": fj.landmarks("aflw68"), "prior": fj.prior(1e-4)}
    a, b = (fj.fit(o, model=model, losses=losses) for o in (observation, weak))
    assert b.status == fj.Status.CONVERGED
    # From three metres the two cameras nearly agree.
    assert float(np.degrees(geodesic_angle(a.rotation, b.rotation))) < 4
    assert np.abs(a.landmarks() - b.landmarks()).max() < 0.5


def test_float64_in_float64_out(model):
    with jax.enable_x64(True):
        double = model.astype(np.float64)
        _, observation = scene(double, np.random.default_rng(10), "aflw68", dtype=np.float64)
        losses = {"landmarks": fj.landmarks("aflw68"), "prior": fj.prior(1e-6)}
        stages = [fj.Stage({"pose": 1.0, "identity": 1.0, "expression": 1.0}, fj.LevenbergMarquardt(max_steps=60, tolerance=1e-9))]
        solution = fj.fit(observation, model=double, losses=losses, stages=stages)
        assert {x.dtype for x in jax.tree.leaves(solution.params)} == {np.dtype("float64")}
        seen = np.asarray(observation.landmarks["aflw68"].points)
        assert np.abs(solution.landmarks() - seen).max() < 0.02
        assert solution.status == fj.Status.CONVERGED


def test_residual_and_yaw_decide_reliability(model):
    _, observation = scene(model, np.random.default_rng(11), "aflw68")
    good = fj.fit(observation, model=model)
    assert good.reliable
    assert good.unreliable_because == ()
    noisy = observation.landmarks["aflw68"].points + 12 * jax.random.normal(jax.random.key(0), (68, 2))
    bad = fj.fit(replace(observation, landmarks={"aflw68": replace(observation.landmarks["aflw68"], points=noisy)}), model=model, throw=False)
    assert not bad.reliable
    assert "landmark residual" in bad.unreliable_because[-1]


def test_ibug_outline_fit(model):
    """2-D annotations whose jaw follows the visible outline: better with the outline than with fixed points."""
    from fitjax.prediction import freeze, predict

    rng = np.random.default_rng(12)
    with_outline, without = [], []
    for _ in range(5):
        truth, observation = scene(model, rng, "ibug68", angles=(5.0, 1.0, 5.0))
        from fitjax.geometry.rotation import rotation_from_aflw2000

        rotation = rotation_from_aflw2000(jnp.asarray([0.0, np.radians(rng.choice([-35, 35])), 0.0]))
        truth["pose"]["rotation"] = jnp.asarray(rotation, jnp.float32)
        frozen = freeze(model, truth)
        prediction = predict(model, truth, observation, frozen)
        lines = np.asarray(prediction.pixels["contour68"]).reshape(17, 9, 2)
        points = np.asarray(prediction.pixels["ibug68"]).copy()
        points[:17] = lines[np.arange(17), np.asarray(frozen.contour)]
        annotated = fj.make_observation({"ibug68": points}, observation.camera)
        for contour, errors in ((True, with_outline), (False, without)):
            losses = {"landmarks": fj.landmarks("ibug68", contour=contour), "prior": fj.prior(0.015)}
            stages = fj.default_stages(annotated)
            solution = fj.fit(annotated, model=model, losses=losses, stages=stages)
            errors.append(np.degrees(float(geodesic_angle(solution.rotation, rotation))))
    assert np.mean(with_outline) < 0.7 * np.mean(without)


@fj.residual
def _far(pred, obs):
    return pred.landmarks[:3, 0] - 0.5


@fj.residual
def _near(pred, obs):
    return pred.landmarks[3:7, 1] - 0.25


@pytest.mark.parametrize("own_losses", [False, True])
def test_history_has_each_cost_under_its_own_name(model, own_losses):
    """Losses in an order that is not that of their names, which is the order in which ``jit`` hands a dict over."""
    _, observation = scene(model, np.random.default_rng(12), "aflw68", noise=1.0)
    losses = {"prior": fj.prior(0.02), "zeta": 3.0 * _far(), "landmarks": fj.landmarks("aflw68"), "alpha": 50.0 * _near()}
    assert list(losses) != sorted(losses)
    factors = {"zeta": 1.0, "prior": 2.0, "alpha": 0.5, "landmarks": 1.0} if own_losses else None
    stage = fj.Stage({"pose": 1.0, "identity": 1.0}, fj.LevenbergMarquardt(max_steps=4), factors, name="one", budget=True)
    rows = {}

    def callback(name, step, costs, params):
        rows[step] = costs, params

    for options in ({}, {"callback": callback}):
        solution = fj.fit(observation, model=model, losses=losses, stages=[stage], **options)
        history = solution.history["one"]
        assert set(history) == set(losses)
        final, frozen = solution.params, freeze(model, solution.params)
        prediction = predict(model, final, observation, frozen)
        for name, loss in losses.items():
            factor = 1.0 if factors is None else factors[name]
            if name == "prior":
                code = np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(dict(model.prior(final)))])
                expected = 0.5 * 0.02 * float(code @ code)
            else:
                expected = float(loss_cost(loss, prediction, observation))
            assert history[name][-1] == pytest.approx(factor * expected, rel=1e-3), name
            assert solution.costs()[name] == history[name][-1]
    # Rows of the callback carry the same names; no two losses cost the same, so that a mix-up would show.
    for step, (costs, _) in rows.items():
        assert costs == pytest.approx({name: values[step] for name, values in history.items()}, rel=1e-5)
    last = sorted(values[-1] for values in history.values())
    assert (np.diff(last) > 0.02 * np.array(last[:-1])).all()
