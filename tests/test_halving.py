"""Halved crops: means of linear light, pixels where they were, and what is no photo stays that."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

import fitjax as fj
from fitjax.geometry.camera import to_crop
from fitjax.observation.halving import halve_image
from fitjax.pytree import replace


def observed(height, width, seed=0, valid=None):
    """An observation with a random crop and a random map into it."""
    rng = np.random.default_rng(seed)
    observation = fj.make_observation({"aflw68": rng.uniform(20, 80, (68, 2))}, image_size=(120, 100))
    affine = jnp.asarray([[0.7, 0.1, -12.5], [-0.1, 0.7, 4.25]], jnp.float32)
    image = jnp.asarray(rng.uniform(size=(height, width, 3)), jnp.float32)
    mask = jnp.ones((height, width), bool) if valid is None else jnp.asarray(valid)
    camera = replace(observation.camera, crop_from_image=affine)
    return replace(observation, camera=camera, image=image, image_valid=mask)


def test_means_over_four_pixels_in_linear_light():
    observation = observed(8, 12)
    half = halve_image(observation)
    image = np.asarray(observation.image)
    expected = (image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2]) / 4
    assert half.image.shape == (4, 6, 3) and half.image_valid.shape == (4, 6)
    np.testing.assert_allclose(half.image, expected, atol=1e-6)
    assert half.image_valid.all()
    # A mean of sRGB values would be another picture: black and white in equal parts are half the light, not sRGB ½ (light 0.21).
    stripes = jnp.zeros((8, 12, 3)).at[:, ::2].set(1.0)
    np.testing.assert_allclose(halve_image(replace(observation, image=stripes)).image, 0.5, atol=1e-6)


def test_pixels_stay_where_they_are():
    """The centre of a pixel of the half lies midway between those of the four that it is made of."""
    observation = observed(8, 12)
    half = halve_image(observation)
    a = np.asarray(observation.camera.crop_from_image, np.float64)
    for row, column in ((0, 0), (3, 5), (1, 2)):
        four = np.array([2 * column + 0.5, 2 * row + 0.5])
        in_photo = np.linalg.solve(a[:, :2], four - a[:, 2])
        found = to_crop(half.camera, jnp.asarray(in_photo, jnp.float32))
        np.testing.assert_allclose(found, [column, row], atol=1e-4)
    twice = halve_image(half)
    in_photo = np.linalg.solve(a[:, :2], np.array([5.5, 5.5]) - a[:, 2])  # between pixels 4 to 7
    np.testing.assert_allclose(to_crop(twice.camera, jnp.asarray(in_photo, jnp.float32)), [1, 1], atol=1e-4)
    # Only the map into the crop changes; landmarks are of the photo and stay.
    np.testing.assert_array_equal(half.camera.K, observation.camera.K)
    np.testing.assert_array_equal(half.landmarks["aflw68"].points, observation.landmarks["aflw68"].points)


def test_pixels_that_are_no_photo():
    valid = np.ones((6, 6), bool)
    valid[0, 0] = False
    valid[2:4, 2:4] = False
    observation = observed(6, 6, valid=valid)
    # What lies there must not matter.
    bright = replace(observation, image=jnp.where(valid[..., None], observation.image, 1e3))
    half = halve_image(bright)
    expected = np.ones((3, 3), bool)
    expected[0, 0] = expected[1, 1] = False
    np.testing.assert_array_equal(half.image_valid, expected)
    image = np.asarray(observation.image)
    np.testing.assert_allclose(half.image[0, 0], (image[0, 1] + image[1, 0] + image[1, 1]) / 3, atol=1e-6)
    np.testing.assert_array_equal(half.image[1, 1], 0)


def test_odd_last_rows_and_columns_are_left_out():
    observation = observed(7, 9)
    half, even = halve_image(observation), observed(6, 8)
    assert half.image.shape == (3, 4, 3)
    cut = replace(even, image=observation.image[:6, :8], image_valid=observation.image_valid[:6, :8])
    np.testing.assert_array_equal(half.image, halve_image(cut).image)


def test_batches_are_halved_photo_by_photo():
    valid = np.ones((6, 8), bool)
    valid[:2, :2] = False
    several = [observed(6, 8, seed=1), observed(6, 8, seed=2, valid=valid)]
    half = halve_image(fj.stack_observations(several))
    assert half.image.shape == (2, 3, 4, 3) and half.camera.crop_from_image.shape == (2, 2, 3)
    for k, one in enumerate(several):
        alone = halve_image(one)
        np.testing.assert_array_equal(half.image[k], alone.image)
        np.testing.assert_array_equal(half.image_valid[k], alone.image_valid)
        np.testing.assert_array_equal(half.camera.crop_from_image[k], alone.camera.crop_from_image)


def test_without_a_crop_nothing_changes():
    observation = fj.make_observation({"aflw68": np.random.default_rng(0).uniform(20, 80, (68, 2))}, image_size=(120, 100))
    assert observation.image is None and halve_image(observation) is observation


def test_a_stage_reads_half_the_pixels():
    """``Stage.halvings`` is what asks for it."""
    seen = []

    @fj.residual
    def size(pred, obs):
        seen.append(obs.image.shape)
        return pred.landmarks[:, 0]

    observation = observed(16, 16)
    stage = fj.Stage({"pose": 1.0}, fj.LevenbergMarquardt(max_steps=1), halvings=2)
    fj.fit(observation, model=fj.load_basis(level=0, sample_sets=("aflw68",)), losses={"size": size()}, stages=[stage], throw=False)
    assert set(seen[:1]) == {(4, 4, 3)} == {s for s in seen if s[0] < 16}
