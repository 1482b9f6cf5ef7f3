"""Frozen pixels: the render where they were frozen, an even selection where there are too many, and exact gradients around."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scenes import scene
from test_photometric import SIZE, frozen_at, pictured, toy  # noqa: F401  a fixture

from fitjax.model.params import retract, zero_tangent
from fitjax.model.textured import load_textured
from fitjax.observation.crop import with_image
from fitjax.prediction import predict
from fitjax.pytree import replace
from fitjax.render import frozen_face
from fitjax.render.face import rasterize_face, render_face
from fitjax.render.frozen_face import _select, freeze_face, render_frozen

VERSIONS = ("proxy", "full")


def with_maps(model, truth, seed=0):
    """The same parameters with residual maps."""
    rng = np.random.default_rng(seed)
    side, texels = model.detail_size, model.albedo.shape[0]
    v, u = np.meshgrid(np.linspace(0, 1, texels), np.linspace(0, 1, texels), indexing="ij")
    waves = np.stack([np.sin(2 * np.pi * (a * u + b * v)) for a, b in rng.uniform(-2, 2, (3, 2))], -1)
    dtype = truth["light"].dtype
    return truth | {"detail_albedo": jnp.asarray(0.1 * waves, dtype), "detail_shape": jnp.asarray(2e-4 * rng.normal(size=(side, side)), dtype)}


@pytest.fixture(scope="module")
def shaded(toy):  # noqa: F811
    """The toy model with an occlusion map."""
    v, u = np.meshgrid(np.linspace(0, 1, 32), np.linspace(0, 1, 32), indexing="ij")
    return replace(toy, occlusion=jnp.asarray(0.7 + 0.3 * np.cos(4 * u + 6 * v), jnp.float32))


def at_the_same_pixels(face, frozen):
    """Rows of a whole render at the places of the frozen one."""
    order = np.full(int(np.asarray(face.pixel).max()) + 1, -1)
    order[np.asarray(face.pixel)[np.asarray(face.covered)]] = np.flatnonzero(np.asarray(face.covered))
    used = np.asarray(frozen.used)
    rows = order[np.asarray(frozen.pixel)[used]]
    assert (rows >= 0).all()
    return used, rows


def test_where_it_was_frozen_it_is_the_render(shaded):
    # In float64: a map's slope times the rounding of float32 is more than the difference that may be.
    with jax.enable_x64(True):
        model = jax.tree.map(lambda x: x.astype(np.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, shaded)
        truth, observation = pictured(model, 1, np.float64)
        pairs = tuple((shape, albedo) for shape in VERSIONS for albedo in VERSIONS)

        @jax.jit
        def both(params):
            prediction = predict(model, params, observation)
            triangle_id = rasterize_face(prediction, SIZE, SIZE)
            frozen = freeze_face(prediction, model.albedo, triangle_id)
            fast = [render_frozen(prediction, frozen, SIZE, *pair) for pair in pairs]
            return frozen, fast, [render_face(prediction, triangle_id, *pair) for pair in pairs]

        frozen, faces, renders = jax.device_get(both(with_maps(model, truth)))
    for pair, found, expected in zip(pairs, faces, renders):
        used, rows = at_the_same_pixels(expected, frozen)
        assert used.sum() > 500 and (found.covered == used).all()
        # Where a pixel lies on the maps is taken from the full surface; of the proxy, which lies elsewhere by a fraction of a texel, the albedo
        # goes along to first order, and the weights of a loss stay.
        maps = ("trusted", "detailed") if pair[0] == "full" else ()
        for name in ("triangle", "uv", "normal", *maps):
            np.testing.assert_allclose(getattr(found, name)[used], getattr(expected, name)[rows], atol=1e-9, err_msg=name)
        # exp(bilinear) is not bilinear(exp).
        tolerance = {("full", "proxy"): 1e-6, ("full", "full"): 1e-3}.get(pair, 5e-3)
        np.testing.assert_allclose(found.colour[used], expected.colour[rows], atol=tolerance, err_msg=str(pair))
        if pair[0] == "full":
            np.testing.assert_allclose(found.albedo[used], expected.albedo[rows], atol=tolerance, err_msg=str(pair))


def test_of_the_embedded_model_within_the_curve_of_its_pigments():
    """Pigments are interpolated at the pixel, rendered albedo between texels: of a curve that is not the same."""
    model = load_textured(level=0, sample_sets=("aflw68",))
    from fitjax.image.photo import photo_from_array

    truth, observation = scene(model.shape, np.random.default_rng(2), "aflw68", angles=(5.0, 15.0, 5.0))
    observation = with_image(observation, photo_from_array(np.full((480, 640, 3), 120, np.uint8)), size=112)
    params = {**model.init(), **truth, "light": jnp.asarray(0.3 * np.random.default_rng(2).normal(size=27), jnp.float32)}

    @jax.jit
    def both(params):
        prediction = predict(model, params, observation)
        triangle_id = rasterize_face(prediction, 112, 112)
        frozen = freeze_face(prediction, model.albedo, triangle_id)
        return frozen, render_frozen(prediction, frozen, 112), render_face(prediction, triangle_id)

    frozen, found, expected = jax.device_get(both(params))
    used, rows = at_the_same_pixels(expected, frozen)
    difference = np.abs(found.colour[used] - expected.colour[rows]).max(-1)
    assert used.sum() > 2000
    assert np.median(difference) < 1e-3 and np.quantile(difference, 0.99) < 0.01 and difference.max() < 0.1


@pytest.mark.parametrize("wanted, capacity", [(0, 8), (8, 8), (9, 8), (997, 100), (50000, 22579)])
def test_selection(wanted, capacity):
    rng = np.random.default_rng(wanted)
    size = max(2 * wanted, 20)
    places = np.sort(rng.choice(size, wanted, replace=False))
    mask = np.zeros(size, bool)
    mask[places] = True
    chosen, used = (np.asarray(x) for x in jax.jit(_select, static_argnums=1)(mask, capacity))
    assert chosen.shape == used.shape == (capacity,)
    assert used.sum() == min(wanted, capacity) and used[: used.sum()].all()
    ranks = np.searchsorted(places, chosen[used])
    np.testing.assert_array_equal(places[ranks], chosen[used])  # wanted ones only
    if wanted <= capacity:
        np.testing.assert_array_equal(chosen[used], places)
    else:  # evenly spread: of each stretch of wanted / capacity pixels one, from the first to the last stretch
        steps = np.diff(ranks)
        assert set(steps) <= {wanted // capacity, -(-wanted // capacity)}
        assert ranks[0] == 0 and wanted - ranks[-1] <= -(-wanted // capacity) + 1
    assert len(set(chosen[used].tolist())) == used.sum()


def test_more_face_than_room(shaded, monkeypatch):
    truth, observation = pictured(shaded, 3)

    def frozen_and_shown(part):
        monkeypatch.setattr(frozen_face, "READ_PART", part)

        @jax.jit
        def both(params):
            prediction = predict(shaded, params, observation)
            frozen = freeze_face(prediction, shaded.albedo, rasterize_face(prediction, SIZE, SIZE))
            return frozen, render_frozen(prediction, frozen, SIZE)

        return jax.device_get(both(truth))

    (every, whole), (some, found) = frozen_and_shown(0.45), frozen_and_shown(0.1)
    capacity, count = int(0.1 * SIZE**2), int(every.used.sum())
    assert 2 * capacity < count < every.used.size and some.pixel.shape == (capacity,) and some.used.all()
    assert set(some.pixel.tolist()) <= set(every.pixel[every.used].tolist())
    # Of the whole face: as many above as below any row, as among all.
    rows = [f.pixel[f.used] // SIZE for f in (every, some)]
    np.testing.assert_allclose(*[np.quantile(r, [0.1, 0.5, 0.9]) for r in rows], atol=1.5)
    places = np.searchsorted(every.pixel[:count], some.pixel)
    np.testing.assert_allclose(found.colour, whole.colour[places], atol=1e-6)


@pytest.fixture(scope="module")
def precise(shaded):
    """In float64: a function of the tangent that gives the colours, and what belongs to it."""
    with jax.enable_x64(True):
        model = jax.tree.map(lambda x: x.astype(np.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, shaded)
        model = replace(model, detail_size=8)
        truth, observation = pictured(model, 4, np.float64)
        params = with_maps(model, truth)
        frozen = frozen_at(model, params, observation)
        yield model, params, observation, frozen


@pytest.mark.parametrize("group", ["pose", "albedo", "light"])
def test_gradients_match_finite_differences(precise, group):
    model, params, observation, frozen = precise
    with jax.enable_x64(True):
        rng = np.random.default_rng(4)
        mix = jnp.asarray(rng.normal(size=(*frozen.face.pixel.shape, 3)))
        flat, unravel = ravel_pytree(zero_tangent(params, (group,)))

        @jax.jit
        def mixed(step):
            moved = retract(params, unravel(step))
            prediction = predict(model, moved, observation, frozen)
            face = render_frozen(prediction, frozen.face, SIZE)
            return jnp.sum(jnp.where(face.covered[:, None], mix * face.colour, 0))

        gradient = np.asarray(jax.jit(jax.grad(mixed))(jnp.zeros(flat.size)))
        h = 1e-6
        difference = [float(mixed(h * row) - mixed(-h * row)) / (2 * h) for row in np.eye(flat.size)]
        assert np.abs(gradient).max() > 1
        np.testing.assert_allclose(gradient, difference, atol=1e-5 * np.abs(gradient).max())


def test_a_held_surface_has_no_gradient_in_shape(precise):
    model, params, observation, frozen = precise
    with jax.enable_x64(True):

        def total(params):
            face = render_frozen(predict(model, params, observation, frozen), frozen.face, SIZE, hold_shape=True)
            return jnp.sum(jnp.where(face.covered[:, None], face.colour, 0))

        gradient = jax.jit(jax.grad(total))(params)
        for group in ("pose", "identity", "expression", "detail_shape"):
            assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(gradient[group])), group
        for group in ("albedo", "light", "detail_albedo"):
            assert np.abs(gradient[group]).max() > 1e-3, group
