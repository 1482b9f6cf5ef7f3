"""The camera: pixel-centre rule, variants, degenerate depth, errors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fitjax as fj
from fitjax.geometry.camera import default_focal, project, scale_focal, to_crop
from fitjax.pytree import replace


def test_projection_is_K_times_point():
    camera = fj.make_camera(640, 480, focal=(500.0, 510.0), centre=(300.0, 200.0))
    points = np.random.default_rng(0).normal(size=(20, 3)) + np.array([0, 0, 4])
    homogeneous = points @ np.asarray(camera.K).T
    expected = homogeneous[:, :2] / homogeneous[:, 2:]
    np.testing.assert_allclose(project(camera, jnp.asarray(points), jnp.asarray(4.0)), expected, rtol=1e-5)


def test_optical_axis_hits_the_middle_of_the_image():
    # Pixel centres are integers, so the middle of four pixels is 1.5.
    camera = fj.make_camera(4, 4)
    np.testing.assert_array_equal(project(camera, jnp.array([0.0, 0.0, 1.0]), jnp.array(1.0)), [1.5, 1.5])


def test_weak_perspective_divides_by_the_depth_of_the_origin():
    weak = fj.make_camera(640, 480, kind="weak_perspective")
    near, far = (project(weak, jnp.array([0.1, 0.05, z]), jnp.array(2.0)) for z in (1.9, 2.1))
    np.testing.assert_array_equal(near, far)
    strong = fj.make_camera(640, 480)
    at_origin_depth = project(strong, jnp.array([0.1, 0.05, 2.0]), jnp.array(2.0))
    np.testing.assert_allclose(near, at_origin_depth)


def test_default_field_of_view():
    focal = default_focal(800, 600)
    assert np.degrees(2 * np.arctan(400 / focal)) == pytest.approx(40.0)
    assert default_focal(600, 800) == focal


@pytest.mark.parametrize("z", [0.0, -1.0, 1e-6])
def test_points_at_and_behind_the_camera_stay_finite(z):
    camera = fj.make_camera(640, 480)
    point = jnp.array([0.1, 0.2, z])
    value, gradient = jax.value_and_grad(lambda p: project(camera, p, jnp.array(1.0)).sum())(point)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_crop_is_a_map_on_top():
    camera = fj.make_camera(640, 480)
    crop = replace(camera, crop_from_image=jnp.array([[0.5, 0.0, -10.0], [0.0, 0.5, -20.0]]))
    np.testing.assert_array_equal(crop.K, camera.K)
    np.testing.assert_allclose(to_crop(crop, jnp.array([100.0, 100.0])), [40.0, 30.0])


def test_scale_focal():
    camera = fj.make_camera(640, 480, focal=500)
    np.testing.assert_allclose(scale_focal(camera, jnp.log(2.0)).focal, [1000, 1000], rtol=1e-6)


def test_camera_from_K():
    k = np.array([[500.0, 0, 320], [0, 505, 240], [0, 0, 1]])
    np.testing.assert_allclose(fj.camera_from_K(k).K, k)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: fj.make_camera(0, 480), "size"),
        (lambda: fj.make_camera(640, 480, focal=-1), "focal length"),
        (lambda: fj.make_camera(640, 480, focal=np.nan), "focal length"),
        (lambda: fj.make_camera(640, 480, centre=(np.nan, 1)), "principal point"),
        (lambda: fj.make_camera(640, 480, kind="fisheye"), "kind"),
        (lambda: fj.camera_from_K(np.eye(4)), "K: expected a finite 3×3"),
        (lambda: fj.camera_from_K([[500, 3, 0], [0, 500, 0], [0, 0, 1]]), "no skew"),
        (lambda: fj.camera_from_K([[-500, 0, 0], [0, 500, 0], [0, 0, 1]]), "positive focal"),
    ],
)
def test_errors_name_the_field(call, words):
    with pytest.raises(fj.FitjaxError, match=words):
        call()
