"""Photometric losses: exact on their own render, gradients, occluders, and what they buy in a fit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from scenes import scene
from scipy import ndimage
from toy import toy_basis

import fitjax as fj
from fitjax.image.photo import photo_from_array
from fitjax.losses.core import loss_cost
from fitjax.losses.photometric import _of_skin_colour as skin_colour
from fitjax.losses.photometric import beyond_noise, compare, photometric, pixel_trust, rendered, trust_pixels
from fitjax.model.albedo import LinearAlbedo
from fitjax.model.load import linear_model
from fitjax.model.params import retract, zero_tangent
from fitjax.model.textured import textured_model
from fitjax.observation.crop import with_image
from fitjax.prediction import freeze, predict
from fitjax.pytree import replace
from fitjax.render.face import rasterize_face, render_face
from fitjax.solve.objective import freeze_pixels

SIZE = 48
ADAM = optax.adam(0.02)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    rng = np.random.default_rng(0)
    v, u = np.meshgrid(np.linspace(0, 1, 32), np.linspace(0, 1, 32), indexing="ij")
    waves = [np.sin(2 * np.pi * (a * u + b * v) + c) for a, b, c in rng.uniform(-3, 3, (12, 3))]
    basis = np.stack(waves).reshape(4, 3, 32, 32).transpose(0, 2, 3, 1)
    albedo = LinearAlbedo(jnp.full((32, 32, 3), 0.45), jnp.asarray(basis, jnp.float32), jnp.full(4, 0.05))
    return textured_model(linear_model(toy_basis(tmp_path_factory.mktemp("toy"))), albedo)


def pictured(model, seed: int, dtype=np.float32):
    """True parameters and an observation whose crop is their own render."""
    rng = np.random.default_rng(seed)
    truth, observation = scene(model.shape, rng, "aflw68", angles=(10.0, 20.0, 10.0), dtype=dtype)
    truth = {**truth, "albedo": jnp.asarray(rng.normal(size=4), dtype), "light": jnp.asarray(0.5 * rng.normal(size=27), dtype)}
    side = float(observation.face_size) * 1.5
    scale = SIZE / side
    low = np.asarray(observation.face_centre) - side / 2
    affine = np.array([[scale, 0, -low[0] * scale - 0.5], [0, scale, -low[1] * scale - 0.5]])
    camera = replace(observation.camera, crop_from_image=jnp.asarray(affine, dtype))
    blank = replace(
        observation, camera=camera, image=jnp.zeros((SIZE, SIZE, 3), dtype), image_valid=jnp.ones((SIZE, SIZE), bool)
    )
    face = _shown(model, truth, blank)
    image = jnp.full((SIZE * SIZE, 3), 0.1, dtype).at[face.pixel].set(jnp.where(face.covered[:, None], face.colour, 0.1))
    return truth, replace(blank, image=image.reshape(SIZE, SIZE, 3))


@jax.jit
def _shown(model, params, observation):
    prediction = predict(model, params, observation)
    return render_face(prediction, rasterize_face(prediction, SIZE, SIZE))


@jax.jit
def frozen_at(model, params, observation):
    return freeze_pixels(model, params, observation, freeze(model, params))


def test_zero_on_its_own_render(toy):
    truth, observation = pictured(toy, 1)
    frozen = frozen_at(toy, truth, observation)
    face = rendered(predict(toy, truth, observation, frozen), observation)
    assert int(face.covered.sum()) > 500
    assert float(pixel_trust(face, observation).sum()) > 200
    # Pixel 0 of unused places may be overwritten by the background; covered pixels are exact.
    assert float(loss_cost(photometric(), predict(toy, truth, observation, frozen), observation)) < 1e-6
    # Nothing hides it: every pixel keeps the weight that its place on the face gives it.
    np.testing.assert_allclose(
        frozen.pixels.weight, pixel_trust(face, observation), atol=0.01
    )


@pytest.mark.parametrize("pair", [("full", "full"), ("proxy", "full"), ("full", "proxy")])
def test_gradients_match_finite_differences(toy, pair):
    with jax.enable_x64(True):
        model = jax.tree.map(lambda x: x.astype(np.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, toy)
        model = replace(model, detail_size=8)
        truth, observation = pictured(model, 2, np.float64)
        rng = np.random.default_rng(2)
        detail = {k: jnp.asarray(1e-3 * rng.normal(size=v.shape)) for k, v in model.no_detail().items()}
        detail["detail_albedo"] = jnp.asarray(0.1 * rng.normal(size=(32, 32, 3)))
        params = truth | detail
        frozen = frozen_at(model, params, observation)
        loss = photometric(*pair)
        flat, unravel = ravel_pytree(zero_tangent(params))
        picked = rng.choice(flat.size, 40, replace=False)

        @jax.jit
        def cost(step):
            return loss_cost(loss, predict(model, retract(params, unravel(step)), observation, frozen), observation)

        start = jnp.asarray(1e-3 * rng.normal(size=flat.size))
        gradient = np.asarray(jax.jit(jax.grad(cost))(start))
        h = 1e-6
        difference = []
        for i in picked:
            step = np.zeros(flat.size)
            step[i] = h
            difference.append(float(cost(start + step) - cost(start - step)) / (2 * h))
        assert np.abs(gradient).max() > 0
        assert np.abs(gradient[picked] - difference).max() <= 1e-5 * np.abs(gradient).max()


def test_occluders_lose_their_weight(toy):
    truth, observation = pictured(toy, 3)
    rng = np.random.default_rng(3)
    noisy = observation.image * (1 + 0.05 * jnp.asarray(rng.normal(size=observation.image.shape), jnp.float32))
    frozen = frozen_at(toy, truth, observation)
    prediction = predict(toy, truth, observation, frozen)
    rows, columns = np.nonzero(np.asarray(frozen.triangle_id) >= 0)
    y, x = int(np.median(rows)), int(np.median(columns))
    hand = jnp.zeros((SIZE, SIZE), bool).at[y : y + 12, x : x + 12].set(True)
    noisy_only = replace(observation, image=noisy)
    covered = replace(observation, image=jnp.where(hand[..., None], jnp.array([0.02, 0.6, 0.9]), noisy))
    def picture(trust):
        used = np.asarray(frozen.face.used)
        image = np.zeros(SIZE * SIZE)
        image[np.asarray(frozen.face.pixel)[used]] = np.asarray(trust)[used]
        return image.reshape(SIZE, SIZE)

    weight, plain = picture(trust_pixels(prediction, covered).weight), picture(trust_pixels(prediction, noisy_only).weight)
    assert float(weight[y + 3 : y + 9, x + 3 : x + 9].max()) < 0.1
    away = np.asarray(plain) > 0.5
    away[y - 6 : y + 18, x - 6 : x + 18] = False
    assert away.sum() > 50
    assert float(np.median(np.asarray(weight)[away] / np.asarray(plain)[away])) > 0.9


@pytest.mark.parametrize("skin", [(0.4, 0.22, 0.14), (0.28, 0.145, 0.087), (0.1, 0.056, 0.038), (0.5, 0.14, 0.075)])
@pytest.mark.parametrize("share", [0.4, 0.6])
def test_what_hides_half_of_the_face_is_not_skin(skin, share):
    """Fair, medium, dark and warmly lit skin beside grey and beside noise, of which no median says which is which."""
    rng = np.random.default_rng(8)
    hidden = np.arange(SIZE) < share * SIZE
    for other in (np.full((SIZE, SIZE, 3), 0.2), rng.random((SIZE, SIZE, 3))):
        light = np.linspace(0.3, 1.2, SIZE)[:, None, None]
        colour = np.where(hidden[None, :, None], other, light * np.array(skin) * (1 + 0.05 * rng.normal(size=(SIZE, SIZE, 1))))
        weight = jnp.ones(SIZE * SIZE, jnp.float32)
        red, green, blue = np.log(ndimage.uniform_filter(colour, (9, 9, 0)) + 1e-3).reshape(-1, 3).T
        found = skin_colour(weight, jnp.asarray(np.stack([red - green, blue - green], -1), jnp.float32))
        found = np.asarray(found).reshape(SIZE, SIZE)
        edge = int(share * SIZE)
        assert found[:, edge + 5 :].min() > 0.8
        assert np.quantile(found[:, : edge - 5], 0.95) < 0.3


def test_residual_maps_leave_what_has_another_colour_alone(toy, monkeypatch):
    """A good third of the face tinted, in a photo so grainy that the residual's size does not give it away."""
    # The crop is a fifth of the usual one, and so is the window of what may be a feature.
    monkeypatch.setattr("fitjax.losses.photometric._FEATURE", 11)
    truth, observation = pictured(toy, 4)
    frozen = frozen_at(toy, truth, observation)
    prediction = predict(toy, truth, observation, frozen)
    grain = 1 + 0.3 * np.random.default_rng(4).normal(size=(SIZE, SIZE, 1))
    photo = jnp.maximum(observation.image * jnp.asarray(grain, jnp.float32), 0)
    row = np.asarray(frozen.face.pixel) // SIZE
    plain = np.asarray(trust_pixels(prediction, replace(observation, image=photo)).detail_weight)
    face = np.asarray(frozen.face.used) & (np.asarray(frozen.face.detailed) > 0.9)
    edge = int(np.quantile(row[face], 0.3))
    hidden = jnp.arange(SIZE) < edge
    covered = replace(observation, image=jnp.where(hidden[:, None, None], photo * jnp.array([0.6, 1.0, 1.9]), photo))
    found = np.asarray(trust_pixels(prediction, covered).detail_weight)
    clear = face & (plain > 0.5)
    above, below = clear & (row < edge - 3), clear & (row > edge + 6)
    assert above.sum() > 10 and below.sum() > 10
    assert np.quantile(found[above], 0.9) < 0.2
    assert np.median(found[below] / plain[below]) > 0.9


@pytest.mark.parametrize(("noise", "ratio"), [(0.01, 4.0), (0.03, 2.0), (0.02, 1.0)])
def test_noise_of_a_photo_is_not_detail(noise, ratio):
    """White noise in a photo: residuals ``ratio`` times as large hold a share 1 - 2 / ratio² beyond it; those of its own size none."""
    rng = np.random.default_rng(0)
    gradient = np.linspace(0.2, 0.6, 96)[:, None, None] * np.ones((96, 96, 3))
    weight = np.zeros((96, 96))
    weight[20:80, 20:80] = 1
    picture = gradient + noise * rng.normal(size=gradient.shape)
    picture[:20] = rng.uniform(size=picture[:20].shape)  # Off the face: must not count.
    size = np.full((96, 96), ratio * noise * np.linalg.norm(rng.normal(size=(100000, 3)), axis=1).mean())
    share = np.asarray(beyond_noise(jnp.asarray(size), jnp.asarray(picture), jnp.asarray(weight)))
    assert share == pytest.approx(max(1 - 2 / ratio**2, 0.01), abs=0.04)


def test_only_the_face_is_displaced():
    """The skin inside the oval, neither eyeballs and teeth nor the back of the head."""
    model = fj.load_textured(level=0, sample_sets=["mediapipe478"])
    vertex_uv = np.asarray(model.vertex_uv)
    row, column = ((1 - vertex_uv[:, 1]) * 256).astype(int).clip(0, 255), (vertex_uv[:, 0] * 256).astype(int).clip(0, 255)
    oval = np.asarray(model.face_map)[row, column]
    movable = np.asarray(model.detail_vertices)
    skin = np.unique(np.asarray(model.triangles)[np.asarray(model.triangle_region) == 0])
    others = np.unique(np.asarray(model.triangles)[np.asarray(model.triangle_region) != 0])
    assert movable[others].max() == 0
    assert np.median(movable[skin][oval[skin] > 0.99]) > 0.95
    back = np.asarray(model.shape.mean)[skin, 2] < -0.1
    assert back.sum() > 100 and movable[skin][back].max() == 0


def test_pixels_improve_a_landmark_fit(toy):
    truth, observation = pictured(toy, 4)
    rng = np.random.default_rng(4)
    seen = observation.landmarks["aflw68"]
    points = seen.points + jnp.asarray(2.0 * rng.normal(size=seen.points.shape), jnp.float32)
    observation = replace(observation, landmarks={"aflw68": replace(seen, points=points)})
    base = {"landmarks": fj.landmarks("aflw68"), "prior": fj.prior(0.01)}
    start = fj.fit(observation, model=toy, losses=base)
    free = {"pose": 1.0, "identity": 1.0, "expression": 1.0, "albedo": 1.0, "light": 1.0}
    solver = fj.FirstOrder(ADAM, max_steps=60, patience=1000, rates={"pose": 0.05, "identity": 0.5})
    stage = fj.Stage(free, solver, name="photometric", outer_steps=4)
    losses = base | {"photometric": photometric()}
    both = fj.fit(observation, model=toy, losses=losses, stages=[stage], start=start.params)

    def vertex_error(params):
        a, b = (toy.decode({**toy.init(), **p}).vertices for p in (params, truth))
        return float(jnp.sqrt(jnp.mean((a - b) ** 2)))

    assert vertex_error(both.params) < 0.8 * vertex_error(start.params)
    face = rendered(predict(toy, both.params, observation, frozen_at(toy, both.params, observation)), observation)
    trust = pixel_trust(face, observation)
    error = float(jnp.sqrt(jnp.sum(trust[:, None] * compare(face, observation) ** 2) / (3 * trust.sum())))
    assert error < 0.05


def test_crop_keeps_pixels_where_they_are():
    rng = np.random.default_rng(5)
    smooth = np.clip(np.cumsum(rng.normal(size=(120, 160, 3)), 0).cumsum(1) * 0.2 + 120, 0, 255).astype(np.uint8)
    photo = photo_from_array(smooth)
    observation = fj.make_observation({"aflw68": rng.uniform((60, 40), (100, 80), (68, 2))}, image_size=(160, 120))
    # A crop at the photo's own scale on integer pixels is the photo.
    size = 32
    observation = replace(observation, face_centre=jnp.array([79.5, 59.5]), face_size=jnp.array(float(size)))
    crop = with_image(observation, photo, size=size, side=1.0)
    a = np.asarray(crop.camera.crop_from_image)
    np.testing.assert_allclose(a, [[1, 0, -64], [0, 1, -44]], atol=1e-4)
    from fitjax.render.shading import linear_from_srgb

    expected = linear_from_srgb(smooth[44:76, 64:96] / 255.0)
    np.testing.assert_allclose(np.asarray(crop.image), expected, atol=1e-5)
    assert np.asarray(crop.image_valid).all()


def test_crop_beyond_the_photo_is_invalid_there():
    photo = photo_from_array(np.full((64, 64, 3), 128, np.uint8))
    rng = np.random.default_rng(6)
    observation = fj.make_observation({"aflw68": rng.uniform(-10, 30, (68, 2))}, image_size=(64, 64))
    crop = with_image(observation, photo, size=40)
    valid = np.asarray(crop.image_valid)
    assert 0.1 < valid.mean() < 0.9
    assert np.isfinite(np.asarray(crop.image)).all()
    assert not valid[0, 0]


def test_errors(toy):
    truth, observation = scene(toy.shape, np.random.default_rng(7), "aflw68")
    losses = {"landmarks": fj.landmarks("aflw68"), "photometric": photometric()}
    with pytest.raises(fj.FitjaxError, match="expected a textured model"):
        fj.fit(observation, model=toy.shape, losses=losses)
    with pytest.raises(fj.FitjaxError, match="an observation with pixels"):
        fj.fit(observation, model=toy, losses=losses)
    assert truth


def test_stages_of_a_photometric_fit(toy):
    """Landmarks → model → residual maps on a face that the model cannot draw: pixels are explained better stage by stage."""
    model = replace(toy, detail_size=32)
    truth, observation = pictured(model, 8)
    v, u = np.meshgrid(np.linspace(0, 1, 32), np.linspace(0, 1, 32), indexing="ij")
    spots = jnp.asarray(0.4 * np.sin(30 * u + 3)[..., None] * np.sin(25 * v)[..., None] * np.ones(3), jnp.float32)
    detailed = truth | model.no_detail() | {"detail_albedo": spots}
    face = _shown(model, detailed, observation)
    image = jnp.full((SIZE * SIZE, 3), 0.1).at[face.pixel].set(jnp.where(face.covered[:, None], face.colour, 0.1))
    observation = replace(observation, image=image.reshape(SIZE, SIZE, 3))
    losses = fj.photometric_losses(observation)
    stages = fj.photometric_stages(observation, until="detail", fast=True)
    assert [s.name for s in stages] == ["landmarks", "model", "detail"]
    # A crop of 48 pixels is coarse as it is.
    stages[1] = replace(stages[1], halvings=0)
    solution = fj.fit(observation, model=model, losses=losses, stages=stages)
    assert solution.status == fj.Status.CONVERGED
    # The unit of the residuals, their spread, is taken anew per outer step: costs compare within one, as in the last stage.
    detail = solution.history["detail"]
    assert detail["full"][-1] < 0.5 * detail["full"][0] and detail["shape_pair"][-1] <= detail["shape_pair"][0]
    assert {"detail_albedo", "detail_shape"} <= set(solution.params)

    @jax.jit
    def errors(params):
        frozen = frozen_at(model, params, observation)
        prediction = predict(model, params, observation, frozen)
        weight = frozen.pixels.weight / frozen.pixels.weight.sum()
        differences = [compare(rendered(prediction, observation, version, version), observation) for version in ("proxy", "full")]
        return [jnp.sqrt(jnp.sum(weight * (d**2).mean(-1))) for d in differences]

    proxy, full = (float(x) for x in errors(solution.params))
    assert full < 0.7 * proxy and proxy < 0.1
    # The map holds the spots that the model lacks, where it was read.
    shown = texels_read(model, solution.params, observation)
    found, true = (np.asarray(x)[shown].mean(-1) for x in (solution.params["detail_albedo"], spots))
    assert shown.sum() > 30 and np.corrcoef(found, true)[0, 1] > 0.95


def texels_read(model, params, observation):
    """(32, 32) which texels some pixel shows that the residual maps fully read."""
    frozen = frozen_at(model, params, observation)
    u, v = np.asarray(frozen.face.uv)[np.asarray(frozen.pixels.detail_weight) > 0.5].T
    texels = np.zeros((32, 32), bool)
    texels[np.clip(((1 - v) * 32).astype(int), 0, 31), np.clip((u * 32).astype(int), 0, 31)] = True
    return texels


@pytest.mark.parametrize("until, names", [("landmarks", ["landmarks"]), ("photometric", ["landmarks", "model"])])
def test_stages_go_as_far_as_asked(toy, until, names):
    _, observation = pictured(toy, 9)
    losses = fj.photometric_losses(observation)
    for fast in (False, True):
        stages = fj.photometric_stages(observation, until=until, fast=fast)
        assert [s.name for s in stages] == names
        assert all(set(s.losses) <= set(losses) for s in stages)


def test_stages_until_nowhere(toy):
    _, observation = pictured(toy, 9)
    with pytest.raises(fj.FitError, match="until 'pixels': expected landmarks, photometric or detail"):
        fj.photometric_stages(observation, until="pixels")
    with pytest.raises(fj.FitError, match="the observation has no pixels"):
        fj.photometric_losses(replace(observation, image=None))
