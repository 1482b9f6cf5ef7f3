"""Articulated models: skinning against NumPy, gradients, samples, refinement, fits, files."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from articulated import NAMES, articulated_basis, observed, oracle, write_articulated

import fitjax as fj
from fitjax.files.textured import split_expression
from fitjax.fit.defaults import default_stages, with_joints
from fitjax.geometry.surface import evaluate_samples
from fitjax.model.basis_file import read_basis
from fitjax.model.load import linear_model, refine
from fitjax.model.protocol import Model
from fitjax.model.skinned import SkinnedModel
from fitjax.pytree import replace


@pytest.fixture(scope="module")
def basis(tmp_path_factory):
    return articulated_basis(tmp_path_factory.mktemp("articulated"))


@pytest.fixture(scope="module")
def model(basis) -> SkinnedModel:
    return linear_model(basis)


def random_params(model, seed=0, size=0.4, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {
        "identity": jnp.asarray(rng.normal(size=model.n_identity), dtype),
        "expression": jnp.asarray(rng.uniform(0, 1, model.n_expression), dtype),
        "joints": jnp.asarray(size * rng.normal(size=(4, 3)), dtype),
    }


def as_numpy(params):
    return [np.asarray(params[k], float) for k in ("identity", "expression", "joints")]


def test_skinning_equals_the_oracle(model, basis):
    assert isinstance(model, Model) and isinstance(model, SkinnedModel) and model.joint_names == NAMES[1:]
    decode = jax.jit(lambda p: model.decode(p).vertices)
    for seed, size in ((0, 0.4), (1, 1.5), (2, 0.0)):
        params = random_params(model, seed, size)
        np.testing.assert_allclose(decode(params), oracle(basis, *as_numpy(params)), atol=1e-6)
    np.testing.assert_allclose(decode(model.init()), basis.mean, atol=1e-7)
    # It is no small effect that is compared.
    assert np.abs(decode(random_params(model)) - model.linear_at(model.init()).decode(random_params(model)).vertices).max() > 0.01


def test_one_joint_by_hand(model, basis):
    """A quarter turn of the jaw about x: what hangs on it alone goes around its centre; y becomes z, z becomes -y."""
    part = model.skeleton
    bare = replace(model, skeleton=replace(part, correctives=part.correctives[:0]))
    joints = np.zeros((4, 3), np.float32)
    joints[1] = (np.pi / 2, 0, 0)
    moved = np.asarray(bare.decode(model.init() | {"joints": jnp.asarray(joints)}).vertices)
    whole = np.flatnonzero(basis.rig.weights[:, 2] > 0.999)
    arm = basis.mean[whole] - basis.rig.joint_mean[2]
    np.testing.assert_allclose(moved[whole] - basis.rig.joint_mean[2], np.stack([arm[:, 0], -arm[:, 2], arm[:, 1]], 1), atol=1e-4)
    still = basis.rig.weights[:, 2] < 1e-7
    assert len(whole) > 5 and still.sum() > 50
    np.testing.assert_allclose(moved[still], basis.mean[still], atol=1e-7)


def test_samples_are_those_of_the_surface(model):
    params = random_params(model)
    everything = evaluate_samples(model.sample_library["aflw68"], model.decode(params).vertices, model.triangles)
    part = model.decode_samples(params, "aflw68")
    np.testing.assert_allclose(part.position, everything.position, atol=1e-6)
    np.testing.assert_allclose(part.normal, everything.normal, atol=2e-4)
    more = model.with_samples("again", model.sample_library["aflw68"])
    np.testing.assert_array_equal(more.decode_samples(params, "again").position, part.position)
    with pytest.raises(fj.BasisError, match="not sliced"):
        model.decode_samples(params, "again")


def test_samples_cost_nothing_of_the_mesh(model):
    """Sixteen times the vertices, the same operations."""

    def flops(model) -> float:
        compiled = jax.jit(lambda m, p: m.decode_samples(p, "aflw68").position).lower(model, model.init()).compile()
        return compiled.cost_analysis()["flops"]

    part = model.skeleton
    part = replace(part, weights=jnp.tile(part.weights, (16, 1)), correctives=jnp.tile(part.correctives, (1, 16)))
    big = replace(model, mean=jnp.tile(model.mean, (16, 1)), modes=jnp.tile(model.modes, (1, 16)), skeleton=part)
    assert flops(big) == pytest.approx(flops(model), rel=0.01)


@pytest.mark.parametrize("size", [0.0, 0.3])
def test_gradients_are_those_of_finite_differences(basis, size):
    """In float64, at rest too, where Rodrigues' formula divides zero by zero."""
    with jax.enable_x64(True):
        model = linear_model(basis).astype(np.float64)
        params = random_params(model, 3, size, np.float64)
        direction = jnp.asarray(np.random.default_rng(0).normal(size=(68, 3)))

        @jax.jit
        def value(params):
            return jnp.sum(direction * model.decode_samples(params, "aflw68").position) + jnp.sum(model.decode(params).vertices[::7] ** 2)

        gradient = jax.grad(value)(params)
        for group, leaf in params.items():
            assert np.isfinite(gradient[group]).all()
            for index in list(np.ndindex(leaf.shape))[:: 1 if group == "joints" else 3]:
                step = 1e-6
                high, low = (value(params | {group: leaf.at[index].add(s)}) for s in (step, -step))
                assert float(gradient[group][index]) == pytest.approx(float(high - low) / (2 * step), rel=1e-6, abs=1e-8)


def test_many_at_once(model):
    several = [random_params(model, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *several)
    together = jax.jit(jax.vmap(lambda p: model.decode(p).vertices))(stacked)
    for one, params in zip(together, several):
        np.testing.assert_allclose(one, model.decode(params).vertices, atol=1e-7)


def test_at_fixed_joints_it_is_linear(model):
    params = random_params(model, 1, 0.5)
    linear = model.linear_at(params)
    assert not isinstance(linear, SkinnedModel) and "joints" not in linear.init()
    for seed in (1, 2, 3):
        other = random_params(model, seed) | {"joints": params["joints"]}
        np.testing.assert_allclose(linear.decode(other).vertices, model.decode(other).vertices, atol=1e-6)


def test_morph_targets_move_as_the_model_does(model):
    """What meshes hold of a head with an open jaw: the head without expression, and targets that add up to any other expression."""
    params = random_params(model, 2, 0.5)
    vertices = np.asarray(model.decode(params).vertices)
    neutral, targets = split_expression(SimpleNamespace(shape=model), vertices, params)
    assert list(targets) == list(model.expression_names)
    other = params | {"expression": params["expression"][::-1]}
    mixed = neutral + sum(w * targets[k] for k, w in zip(targets, np.asarray(other["expression"])))
    np.testing.assert_allclose(mixed, model.decode(other).vertices, atol=1e-6)


def test_refinement_subdivides_the_skinning(basis, model):
    """Stored vertices of a flat-weighted region keep their weights, and a refined model bends as the stored one does."""
    fine = refine(basis)
    assert fine.rig.weights.shape == (len(fine.mean), 5) and fine.rig.weights.min() >= 0
    np.testing.assert_allclose(fine.rig.weights.sum(1), 1, atol=1e-6)
    np.testing.assert_array_equal(fine.rig.joint_mean, basis.rig.joint_mean)
    refined = linear_model(fine, 1)
    params = random_params(model, 0, 0.2)
    np.testing.assert_allclose(refined.decode(params).vertices, oracle(fine, *as_numpy(params)), atol=1e-6)
    samples = [m.decode_samples(params | {"joints": 0 * params["joints"]}, "aflw68").position for m in (model, refined)]
    bent = [m.decode_samples(params, "aflw68").position for m in (model, refined)]
    moved = np.linalg.norm(bent[0] - samples[0], axis=1)
    assert np.linalg.norm((bent[1] - samples[1]) - (bent[0] - samples[0]), axis=1).mean() < 0.15 * moved.mean()


def test_a_fit_finds_the_jaw(model):
    """Landmarks of a head with an open jaw, with no stage of ours: joints are free by default, the neck is not."""
    joints = np.zeros((4, 3), np.float32)
    joints[1], joints[2] = (0.35, 0.05, 0.0), (0.1, -0.2, 0.0)
    points, observation = observed(model, np.random.default_rng(0), "mediapipe478", joints)
    losses = {"landmarks": fj.landmarks("mediapipe478"), "prior": fj.prior(1e-6)}
    solution = fj.fit(observation, model=model, losses=losses)
    assert np.abs(solution.landmarks("mediapipe478") - points).max() < 0.2
    found = np.asarray(solution.params["joints"])
    np.testing.assert_allclose(found[1], joints[1], atol=0.03)
    np.testing.assert_array_equal(found[0], 0)
    # The same stage with the joints held is the same program, and does not explain the points.
    (stage,) = solution.stages
    held = fj.fit(observation, model=model, losses=losses, stages=[replace(stage, free=stage.free | {"joints": 0 * stage.free["joints"]})])
    assert held.landmark_residual > 10 * solution.landmark_residual
    np.testing.assert_array_equal(held.params["joints"], 0)


def test_default_stages_free_the_joints_that_a_photo_shows(model, basis):
    points = {"aflw68": np.random.default_rng(0).uniform(0, 100, (68, 2))}
    stages = default_stages(fj.make_observation(points))
    assert with_joints(stages, linear_model(replace(basis, rig=None))) == stages
    (stage,) = with_joints(stages, model)
    np.testing.assert_array_equal(stage.free["joints"][:, 0], [0, 1, 1, 1])
    pose = fj.Stage({"pose": 1.0})
    assert with_joints([pose], model) == [pose]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"joint_parent": np.array([-1, 0, 3, 1, 1], np.int32)}, "'joint_parent': expected -1 for the root"),
        ({"joint_parent": np.array([0, 0, 1, 1, 1], np.int32)}, "'joint_parent': expected -1 for the root"),
        ({"joint_parent": np.array([-1, 0, 1], np.int32)}, "'joint_parent': expected 5 integers"),
        ({"skinning_weights": np.zeros((432, 5), np.float32)}, "sum to 1 per vertex"),
        ({"skinning_weights": np.zeros((432, 4), np.float32)}, r"'skinning_weights': expected shape \(432, 5\)"),
        ({"pose_correctives": np.zeros((35, 432, 3), np.float32)}, r"'pose_correctives': expected \(36, 432, 3\)"),
        ({"joint_sigma": np.zeros((4, 3), np.float32)}, "expected positive spreads"),
        ({"joint_identity": np.zeros((3, 5, 3), np.float32)}, r"'joint_identity': expected shape \(12, 5, 3\)"),
        ({"joint_mean": np.full((5, 3), np.nan, np.float32)}, "not finite"),
        ({"joint_free": None}, "'joint_free' is missing"),
    ],
)
def test_files_that_disagree_with_themselves(tmp_path, changes, words):
    path = write_articulated(tmp_path / "bad.safetensors", **changes)
    with pytest.raises(fj.BasisError, match=words) as caught:
        read_basis(path)
    assert str(path) in str(caught.value)


def test_without_correctives(tmp_path, basis):
    plain = linear_model(read_basis(write_articulated(tmp_path / "plain.safetensors", pose_correctives=None)))
    assert plain.skeleton.correctives.shape == (0, 3 * plain.n_vertices)
    params = random_params(plain)
    params = params | {"joints": params["joints"].at[:].set(0.3)}
    assert np.isfinite(plain.decode(params).vertices).all()
    assert np.abs(plain.decode(params).vertices - linear_model(basis).decode(params).vertices).max() > 1e-3
