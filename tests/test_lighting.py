"""Spherical harmonics against integrals over the sphere, lights, the specular lobe, sRGB."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from fitjax.render import shading
from fitjax.render.lighting import (
    DIFFUSE,
    ambient_light,
    diffuse_shading,
    directional_light,
    harmonics,
    linear_from_srgb,
    shade,
    specular,
    srgb_from_linear,
)


def sphere(count):
    """Directions (N, 3) and weights that integrate over the sphere: Gauss-Legendre in z, uniform in angle."""
    z, w = np.polynomial.legendre.leggauss(count)
    angle = 2 * np.pi * np.arange(2 * count) / (2 * count)
    r = np.sqrt(1 - z**2)
    points = np.stack(
        [r[:, None] * np.cos(angle), r[:, None] * np.sin(angle), np.broadcast_to(z[:, None], (count, 2 * count))], -1
    )
    return points.reshape(-1, 3), np.repeat(w * np.pi / count, 2 * count)


def random_directions(count, seed=0):
    n = np.random.default_rng(seed).normal(size=(count, 3))
    return n / np.linalg.norm(n, axis=1, keepdims=True)


def test_basis_is_orthonormal():
    points, weights = sphere(8)
    basis = np.asarray(harmonics(points.astype(np.float32)), np.float64)
    np.testing.assert_allclose((basis * weights[:, None]).T @ basis, np.eye(9), atol=2e-6)
    # the constants printed by Ramamoorthi and Hanrahan
    x = np.array([[0.6, 0.48, 0.64]], np.float32)
    expected = [0.282095, 0.488603 * 0.48, 0.488603 * 0.64, 0.488603 * 0.6, 1.092548 * 0.288, 1.092548 * 0.3072]
    expected += [0.315392 * (3 * 0.64**2 - 1), 1.092548 * 0.384, 0.546274 * (0.36 - 0.2304)]
    np.testing.assert_allclose(harmonics(x)[0], expected, atol=2e-6)


def test_shading_is_the_integral_over_the_environment():
    """albedo / π ∫ L(ω) max(0, n·ω) dω for environments that the nine functions describe exactly."""
    rng = np.random.default_rng(1)
    light, normals = rng.normal(size=(9, 3)), random_directions(20)
    points, weights = sphere(300)
    radiance = np.asarray(harmonics(points.astype(np.float32)), np.float64) @ light
    cosine = np.maximum(normals @ points.T, 0)
    expected = (cosine * weights) @ radiance / np.pi
    found = diffuse_shading(normals.astype(np.float32), light.astype(np.float32))
    np.testing.assert_allclose(found, expected, atol=2e-4)
    albedo = rng.random((20, 3)).astype(np.float32)
    np.testing.assert_allclose(
        shade(albedo, normals.astype(np.float32), light.astype(np.float32)), found * albedo, atol=1e-6
    )
    np.testing.assert_allclose(DIFFUSE * np.pi, [np.pi] + [2 * np.pi / 3] * 3 + [np.pi / 4] * 5)


def test_ambient_and_directional():
    normals = random_directions(2000, 2).astype(np.float32)
    white = diffuse_shading(normals, ambient_light(np.array([0.2, 0.5, 1.0], np.float32)))
    np.testing.assert_allclose(white, np.broadcast_to([0.2, 0.5, 1.0], white.shape), atol=1e-6)
    towards = np.array([0.0, -3.0, -4.0], np.float32)  # from above and in front
    light = directional_light(towards, np.ones(3, np.float32))
    cosine = normals @ (towards / 5)
    shown = np.asarray(diffuse_shading(normals, light))[:, 0]
    error = shown - np.maximum(cosine, 0)
    assert error.max() < 0.0939 and error.min() > -0.0397
    facing = diffuse_shading((towards / 5)[None], light)[0, 0]
    assert facing == pytest.approx(1.0625, abs=1e-5)
    assert diffuse_shading(-(towards / 5)[None], light)[0, 0] == pytest.approx(0.0625, abs=1e-5)
    both = directional_light(towards, np.ones(3, np.float32), np.full(3, 0.3, np.float32))
    np.testing.assert_allclose(diffuse_shading(normals, both)[:, 0], shown + 0.3, atol=1e-5)


def test_specular():
    towards = np.array([0.0, 0.0, -1.0], np.float32)
    position = np.array([[0.0, 0, 1], [0, 0, 1], [0, 0, 1]], np.float32)
    tilted = np.array([0, np.sin(0.3), -np.cos(0.3)])
    normals = np.stack([[0, 0, -1], tilted, [0, 0, 1]]).astype(np.float32)
    shown = np.asarray(specular(normals, position, towards, np.ones(3, np.float32), np.float32(20)))
    assert shown[0, 0] == pytest.approx(28 / (8 * np.pi), rel=1e-5)
    assert shown[1, 0] == pytest.approx(28 / (8 * np.pi) * np.cos(0.3) ** 21, rel=1e-4)
    assert (shown[2] == 0).all()
    # a mirror's highlight sits where the normal halves the angle between light and viewer
    side = np.array([1.0, 0, -1], np.float32) / np.sqrt(2)
    fan = np.stack([[np.sin(a), 0, -np.cos(a)] for a in np.linspace(0, 1, 101)]).astype(np.float32)
    lobe = specular(fan, np.broadcast_to(position[0], fan.shape), side, np.ones(3, np.float32), np.float32(200))
    assert np.linspace(0, 1, 101)[int(lobe[:, 0].argmax())] == pytest.approx(np.pi / 8, abs=0.011)
    gradient = jax.grad(lambda n, s: jnp.sum(specular(n, position, towards, np.ones(3, np.float32), s)), (0, 1))(
        normals, 20.0
    )
    assert all(np.isfinite(g).all() for g in gradient)


def test_srgb():
    values = np.linspace(0, 1, 1001).astype(np.float32)
    np.testing.assert_allclose(linear_from_srgb(values), shading.linear_from_srgb(values.astype(np.float64)), atol=1e-6)
    np.testing.assert_allclose(srgb_from_linear(values), shading.srgb_from_linear(values.astype(np.float64)), atol=1e-6)
    np.testing.assert_allclose(srgb_from_linear(linear_from_srgb(values)), values, atol=1e-6)
    points = np.array([-1.0, 0.0, 1e-30, 0.0031308, 0.04045, 1.0, 4.0], np.float32)
    for curve, slope in ((srgb_from_linear, 12.92), (linear_from_srgb, 1 / 12.92)):
        gradient = np.asarray(jax.vmap(jax.grad(curve))(points))
        assert np.isfinite(gradient).all() and (gradient > 0).all()
        np.testing.assert_allclose(gradient[:3], slope, rtol=1e-6)


def test_gradients():
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        light, normals = jnp.asarray(rng.normal(size=(9, 3))), jnp.asarray(random_directions(5, 4))
        albedo, position = jnp.asarray(rng.random((5, 3))), jnp.asarray(rng.normal(size=(5, 3)) - [0, 0, -3])

        def loss(light, normals, albedo, shininess):
            glossy = specular(normals, position, jnp.array([0.3, -0.5, -1.0]), jnp.ones(3), shininess)
            return jnp.sum(srgb_from_linear(jnp.abs(shade(albedo, normals, light)) + glossy) ** 2)

        check_grads(loss, (light, normals, albedo, 15.0), order=1, modes=("rev",), atol=1e-5, rtol=1e-5)
