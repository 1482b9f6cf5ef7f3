"""Nonlinear models behind the one model protocol: decode, samples, maps at points, proxies, arcs, gradients, and a fit of codes."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nonlinear_scenes import CODES, conv_model, lifted_albedo, lifted_model
from toy import toy_basis

import fitjax as fj
from fitjax.fit.defaults import for_model
from fitjax.geometry.surface import points_from_corners
from fitjax.losses.proxies import paired_photometric
from fitjax.model.linear import vertex_uvs
from fitjax.model.load import linear_model, load_basis
from fitjax.model.nonlinear import project_linear
from fitjax.model.nonlinear_arcs import arcs_of
from fitjax.model.nonlinear_shape import ConvShape, extended_shape, sampled_offsets
from fitjax.model.params import frontal_pose
from fitjax.model.protocol import Model
from fitjax.model.textured import TexturedModel, textured_model
from fitjax.networks.lift import LiftScales
from fitjax.prediction import predict
from fitjax.pytree import replace
from fitjax.render.frozen_face import _reflected

KINDS = ("lift", "conv")


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    return linear_model(toy_basis(tmp_path_factory.mktemp("toy")))


@pytest.fixture(scope="module")
def models(linear):
    return {"lift": lifted_model(linear), "conv": conv_model(linear)}


def random_params(model, seed: int, size: float = 1.0) -> dict:
    rng = np.random.default_rng(seed)
    init = model.init()
    draws = {k: jnp.asarray(size * rng.normal(size=v.shape), v.dtype) for k, v in init.items()}
    return draws | {"expression": jnp.asarray(rng.uniform(0, 0.8, init["expression"].shape), jnp.float32)}


decode = jax.jit(lambda model, params: model.decode(params))


@pytest.mark.parametrize("kind", KINDS)
def test_answers_the_protocol(models, kind):
    model = models[kind]
    assert isinstance(model, Model) and isinstance(model, TexturedModel)
    params = random_params(model, 0)
    face = decode(model, params)
    assert params["identity"].shape == params["albedo"].shape == (CODES,)
    assert face.vertices.shape == face.proxy_vertices.shape == (model.shape.n_vertices, 3)
    assert face.albedo.shape == face.proxy_albedo.shape == (32, 32, 3)
    assert float(face.albedo.min()) > 0 and float(face.albedo.max()) < 1
    assert float(jnp.abs(face.vertices - face.proxy_vertices).max()) > 1e-4
    assert float(jnp.abs(face.albedo - face.proxy_albedo).max()) > 1e-3
    prior = model.prior(params)
    np.testing.assert_array_equal(prior["identity"], params["identity"])
    assert set(model.bounds()) == {"expression", "albedo", "detail_shape"}


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_points_on_the_decoded_vertices(models, kind):
    model = models[kind]
    params = random_params(model, 1)
    points = jax.jit(lambda p: model.decode_samples(p, "mediapipe478"))(params)
    samples = model.shape.sampled["mediapipe478"].samples
    corners = decode(model, params).vertices[model.triangles[samples.triangle]]
    expected = points_from_corners(corners, samples.barycentric)
    np.testing.assert_allclose(points.position, expected.position, atol=2e-6)
    np.testing.assert_allclose(points.normal, expected.normal, atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_expression_and_identity_are_separate_codes(models, linear, kind):
    """The change by an expression is that of the linear basis, whatever the identity: the proxy has no wrinkles, and the jaw, which moves on an
    arc, is fully open."""
    model = models[kind]
    params = random_params(model, 2)
    params["expression"] = params["expression"].at[linear.expression_names.index("jawOpen")].set(1.0)
    neutral = {**params, "expression": jnp.zeros_like(params["expression"])}
    change = decode(model, params).proxy_vertices - decode(model, neutral).proxy_vertices
    start = linear.init()
    expected = linear.decode({**start, "expression": params["expression"]}).vertices - linear.decode(start).vertices
    np.testing.assert_allclose(change, expected, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_albedo_at_points_is_the_map_there(kind, models):
    albedo = replace(models[kind].albedo, size=16 if kind == "lift" else 32)
    code = jnp.asarray(np.random.default_rng(3).normal(size=CODES), jnp.float32)
    side = albedo.size
    v, u = np.meshgrid(1 - (np.arange(side) + 0.5) / side, (np.arange(side) + 0.5) / side, indexing="ij")
    there = albedo.at(jnp.asarray(np.stack([u, v], -1).reshape(-1, 2), jnp.float32))
    for whole, points in ((albedo.decode, there.decode), (albedo.decode_proxy, there.decode_proxy)):
        np.testing.assert_allclose(jax.jit(points)(code).reshape(side, side, 3), jax.jit(whole)(code), atol=2e-6)
    assert there.shape == (side * side,)


def test_encoding_inverts_principal_components():
    """Without the gate the code of a decoded face is the one it came from."""
    albedo = replace(lifted_albedo(), gate=0.0)
    code = jnp.asarray([0.2, -0.3, 0.1, 0.25, -0.1])
    np.testing.assert_allclose(jax.jit(lambda z: albedo.encode(albedo.decode(z)))(code), code, atol=0.06)
    with pytest.raises(ValueError, match="encoder"):
        albedo.at(jnp.zeros((3, 2))).encode(jnp.zeros((16, 16, 3)))


def test_offsets_are_sampled_as_textures_are(models):
    shape = models["conv"].shape
    assert isinstance(shape, ConvShape)
    maps = jnp.asarray(np.random.default_rng(4).normal(size=(1, 32, 32, 3)), jnp.float32)
    expected = sampled_offsets(maps[0], jnp.asarray(vertex_uvs(shape)))
    np.testing.assert_allclose(shape._at_vertices(maps)[0], expected, atol=1e-5)


@pytest.fixture(scope="module")
def embedded():
    return load_basis(level=0, sample_sets=("ibug68",))


def test_jaw_and_lids_move_on_arcs(embedded):
    """At both ends the face is the linear one; half-way, what turns keeps its distance from the hinge or the eyeball's centre."""
    shape = extended_shape(embedded)
    rest = shape.init()
    for name, axis in (("jawOpen", [0, 1, 1]), ("eyeBlinkLeft", [1, 1, 1])):
        k = embedded.expression_names.index(name)
        faces = []
        for e in (0.0, 0.5, 1.0):
            params = {**rest, "expression": rest["expression"].at[k].set(e), "identity": rest["identity"].at[-1].set(-9)}
            faces.append([np.asarray(m.decode({**params, "identity": p}).vertices) for m, p in (
                (shape, params["identity"]), (embedded, jnp.zeros(embedded.n_identity))
            )])  # fmt: skip
        # A trace of wrinkles is left of the youngest.
        for end in (0, 2):
            assert np.abs(faces[end][0] - faces[end][1]).max() < 2e-6
        if name == "jawOpen":
            points = np.asarray(embedded.decode_samples(embedded.init(), "ibug68").position)
            chin = np.argmin(np.linalg.norm(np.asarray(embedded.mean) - points[8], axis=1))
            cut = np.linalg.norm(faces[1][0] - faces[1][1], axis=1)
            assert 3e-4 < cut[chin] < 5e-3
            samples = embedded.sample_library["mediapipe478"]
            corners = np.asarray(embedded.mean)[np.asarray(embedded.triangles)[np.asarray(samples.triangle)]]
            hinge = np.einsum("skc,sk->sc", corners, np.asarray(samples.barycentric))[[93, 323]].mean(0) - [0, 0, 0.01]
        else:
            ball = np.unique(np.asarray(embedded.triangles)[np.asarray(embedded.triangle_region) == 1])
            left = np.asarray(embedded.mean)[ball[np.asarray(embedded.mean)[ball, 0] > 0]]
            hinge = 0.5 * (left.min(0) + left.max(0))
            chin = np.argmax(np.linalg.norm(faces[2][1] - faces[0][1], axis=1))
        radius = [np.linalg.norm((pair[0][chin] - hinge) * axis) for pair in faces]
        assert abs(radius[1] - (radius[0] + radius[2]) / 2) < 1e-6
        straight = np.linalg.norm((faces[1][1][chin] - hinge) * axis)
        assert straight < radius[1] - 2e-4


def test_pairs_saturate_and_wrinkles_come_with_age(embedded):
    rule, modes = arcs_of(embedded)
    names = embedded.expression_names
    e = np.zeros((1, len(names)), np.float32)
    e[0, names.index("browInnerUp")] = 1
    young, old = (np.asarray(rule.coefficients(jnp.full(1, a), jnp.asarray(e)))[0] for a in (-3.0, 3.0))
    wrinkles = slice(-rule.wrinkle_mix.shape[0], None)
    assert old[wrinkles][0] > 0.5 > 10 * young[wrinkles][0] and (young[: wrinkles.start] == 0).all()
    height = np.linalg.norm(modes[wrinkles], axis=2).max(1)
    assert (height > 5e-5).all() and (height < 6e-4).all()
    a, b = names.index("jawOpen"), names.index("mouthFunnel")
    place = len(rule.arcs) + rule.pairs.index((a, b))
    linear = np.asarray(embedded.modes)[embedded.n_identity :].reshape(len(names), -1, 3)
    both = linear[a] + linear[b]
    assert (modes[place] * both).sum() < 0


def test_codes_of_landmarks_are_found(models):
    """Levenberg-Marquardt over latents: the landmarks of a random face are met, far closer than by the mean face."""
    model = models["lift"].shape
    truth = random_params(model, 5, 0.7) | {"pose": frontal_pose(depth=0.6)}
    camera = fj.make_camera(320, 240)
    blank = fj.make_observation({"aflw68": np.random.default_rng(0).uniform(0, 100, (68, 2))}, camera)
    pixels = np.asarray(jax.jit(lambda m, p: predict(m, p, blank).pixels["aflw68"])(model, truth))
    solution = fj.fit(fj.make_observation({"aflw68": pixels}, camera), model=model)
    costs = solution.costs(before=True)["landmarks"], solution.costs()["landmarks"]
    assert solution.status.name == "CONVERGED" and costs[1] < 1e-2 * costs[0]
    assert solution.landmark_residual < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_read_off_the_version_asked_for(models, kind):
    """The frozen pixels of a photometric loss: proxy and full albedo where they lie, nothing else."""
    albedo = models[kind].albedo
    rng = np.random.default_rng(6)
    uv = jnp.asarray(rng.uniform(0.1, 0.9, (40, 2)), jnp.float32)
    params = {"albedo": jnp.asarray(rng.normal(size=CODES), jnp.float32)}
    flat = {"used": jnp.ones(40, bool), "occlusion": jnp.ones(40), "slope": jnp.zeros((40, 3, 2)), "proxy_slope": jnp.zeros((40, 3, 2))}

    @jax.jit
    def read(albedo):
        frozen = SimpleNamespace(albedo=albedo.at(uv), uv=uv, **flat)
        seen = [_reflected(SimpleNamespace(params=params), frozen, uv, version) for version in ("full", "proxy")]
        return seen, albedo.at(uv).decode_both(params["albedo"])

    seen, expected = read(albedo)
    for found, one in zip(seen, expected):
        np.testing.assert_allclose(found, one, atol=1e-6)
    assert float(jnp.abs(seen[0] - seen[1]).max()) > 1e-3


def test_pairing_is_a_switch():
    """With it each full half meets a proxy, never the other full half; the total weight is the same without."""
    pairs, alone = paired_photometric(), paired_photometric(pairing=False)
    versions = lambda losses: {(dict(x.options)["shape"], dict(x.options)["albedo"]) for x in losses.values()}  # noqa: E731
    assert versions(pairs) == {("proxy", "proxy"), ("proxy", "full"), ("full", "proxy")} and versions(alone) == {("full", "full")}
    assert sum(float(x.weight) for x in pairs.values()) == pytest.approx(sum(float(x.weight) for x in alone.values()))


def test_slopes_of_decoding(models):
    """In float64: vertices and maps, full and proxy, along a random direction of all codes. (Those of the other network: test_networks.py.)"""
    with jax.enable_x64():
        model = jax.tree.map(lambda x: x.astype(np.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, models["lift"])
        assert model.shape.astype(np.float64).gate.dtype == np.float64
        params = jax.tree.map(lambda x: x.astype(np.float64), random_params(model, 7, 0.5))
        rng = np.random.default_rng(8)
        direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), params)
        mixing = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), jax.eval_shape(model.decode, params))
        score = lambda p: sum(jnp.vdot(m, x) for m, x in zip(jax.tree.leaves(mixing), jax.tree.leaves(model.decode(p))))  # noqa: E731
        both = jax.jit(lambda t: jax.value_and_grad(lambda t: score(jax.tree.map(lambda a, b: a + t * b, params, direction)))(t))
        slope = float(both(0.0)[1])
        measured = float(both(1e-6)[0] - both(-1e-6)[0]) / 2e-6
    assert abs(slope) > 1e-3 and abs(slope - measured) <= 1e-5 * abs(slope)


def test_a_linear_fit_is_projected_onto_the_codes(models, linear):
    """Without the gates, a linear face within the span of the codes is given back as it was."""
    lifted = models["lift"]
    shape = replace(lifted.shape, gate=0.0, to_modes=jnp.asarray(np.eye(13, dtype=np.float32)), scales=LiftScales(jnp.ones(13), jnp.eye(13)))
    albedo = replace(lifted.albedo, gate=0.0)
    model = replace(lifted, shape=shape, albedo=albedo)
    code = jnp.asarray([0.2, -0.3, 0.1, 0.25, -0.1])
    plain = textured_model(linear, replace(albedo, size=32))
    params = {**plain.init(), "identity": jnp.zeros(12).at[:5].set(code), "albedo": code, "detail_albedo": jnp.zeros((32, 32, 3))}
    found = project_linear(model, plain, params)
    np.testing.assert_allclose(found["identity"], code, atol=1e-6)
    np.testing.assert_allclose(found["albedo"], code, atol=0.05)
    assert "detail_albedo" not in found and found["light"] is params["light"]
    with pytest.raises(fj.FitjaxError, match="encoder"):
        project_linear(replace(model, albedo=replace(albedo, encoder=None)), plain, params)


def test_convolutional_codes_are_found_by_first_order_steps(models, linear):
    """Stages take no Jacobian through the network; landmarks of a random face are met; and the nearest codes to a linear face bring it nearer."""
    model = models["conv"]
    assert model.network_groups == ("identity", "albedo") and models["lift"].network_groups == ()
    params = random_params(model, 5, 0.7) | {"pose": frontal_pose(depth=0.6)}
    camera = fj.make_camera(320, 240)
    blank = fj.make_observation({"aflw68": np.random.default_rng(0).uniform(0, 100, (68, 2))}, camera)
    pixels = np.asarray(jax.jit(lambda m, p: predict(m, p, blank).pixels["aflw68"])(model, params))
    observation = fj.make_observation({"aflw68": pixels}, camera)
    stages = for_model(fj.default_stages(observation), model)
    assert [(type(s.solver).__name__, "identity" in s.free) for s in stages] == [("LevenbergMarquardt", False), ("FirstOrder", True)]
    plain_stages = fj.default_stages(observation)
    assert for_model(plain_stages, models["lift"]) == plain_stages
    solution = fj.fit(observation, model=model)
    costs = solution.costs(before=True)["landmarks"], solution.costs()["landmarks"]
    assert solution.status.name == "CONVERGED" and costs[1] < 0.02 * costs[0] and solution.landmark_residual < 2e-3

    plain = textured_model(linear, model.albedo)
    rng = np.random.default_rng(1)
    started = plain.init() | {"identity": jnp.asarray(rng.normal(size=12), jnp.float32), "albedo": jnp.asarray(rng.normal(size=CODES), jnp.float32)}
    found = project_linear(model, plain, started)
    wanted = decode(plain, started)
    near, far = (decode(model, {**started, **codes}) for codes in (found, model.init()))
    assert float(jnp.abs(near.vertices - wanted.vertices).mean()) < 0.9 * float(jnp.abs(far.vertices - wanted.vertices).mean())
    assert float(jnp.abs(near.albedo - wanted.albedo).mean()) < 0.3 * float(jnp.abs(far.albedo - wanted.albedo).mean())
