"""Rotations: identities, oracles, gradients at the degenerate points."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fitjax.geometry import rotation as rot


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def random_vectors(n: int, seed: int = 0, length: float | None = None) -> np.ndarray:
    v = np.random.default_rng(seed).normal(size=(n, 3))
    return v if length is None else length * v / np.linalg.norm(v, axis=1, keepdims=True)


@pytest.mark.parametrize("length", [0.0, 1e-12, 1e-6, 1e-3, 0.1, 1.0, 3.0, np.pi - 1e-6, np.pi])
def test_exp_matches_scipy(length):
    v = random_vectors(20, length=max(length, 1e-300))
    np.testing.assert_allclose(rot.rotation_exp(jnp.asarray(v)), Rotation.from_rotvec(v).as_matrix(), atol=1e-14)


@pytest.mark.parametrize("length", [1e-9, 1e-5, 0.1, 1.0, 3.0, np.pi - 1e-7])
def test_log_inverts_exp(length):
    v = random_vectors(30, seed=1, length=length)
    np.testing.assert_allclose(rot.rotation_log(rot.rotation_exp(jnp.asarray(v))), v, atol=1e-9)


def test_log_at_half_turn_and_identity():
    np.testing.assert_array_equal(rot.rotation_log(jnp.eye(3)), np.zeros(3))
    half = rot.rotation_log(jnp.diag(jnp.array([1.0, -1.0, -1.0])))
    np.testing.assert_allclose(jnp.abs(half), [np.pi, 0, 0], atol=1e-12)


def test_exp_gradient_at_zero_is_the_cross_matrix():
    jacobian = jax.jacfwd(rot.rotation_exp)(jnp.zeros(3))
    for k in range(3):
        np.testing.assert_allclose(jacobian[:, :, k], rot.cross_matrix(jnp.eye(3)[k]), atol=1e-15)


@pytest.mark.parametrize("scale", [0.0, 1e-9, 1e-4, 3e-4, 0.5, 2.0])
def test_exp_gradient_against_finite_differences(scale):
    v = random_vectors(1, seed=2)[0] * scale
    jacobian = jax.jacrev(rot.rotation_exp)(jnp.asarray(v))
    assert np.isfinite(jacobian).all()
    h = 1e-6
    for k in range(3):
        step = h * np.eye(3)[k]
        difference = (Rotation.from_rotvec(v + step).as_matrix() - Rotation.from_rotvec(v - step).as_matrix()) / (2 * h)
        np.testing.assert_allclose(jacobian[:, :, k], difference, atol=1e-8)


def test_float32_stays_float32_and_accurate():
    v = random_vectors(200, seed=3, length=0.02).astype(np.float32)
    result = rot.rotation_exp(jnp.asarray(v))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, Rotation.from_rotvec(v).as_matrix(), atol=2e-7)


def test_orthonormalise_guards_reflections():
    m = np.random.default_rng(4).normal(size=(50, 3, 3))
    r = np.asarray(rot.orthonormalise(jnp.asarray(m)))
    np.testing.assert_allclose(np.linalg.det(r), 1.0, atol=1e-12)
    np.testing.assert_allclose(r @ r.transpose(0, 2, 1), np.broadcast_to(np.eye(3), r.shape), atol=1e-12)


def test_polish_removes_drift():
    r = Rotation.random(10, random_state=5).as_matrix()
    noisy = r + 1e-4 * np.random.default_rng(5).normal(size=r.shape)
    polished = np.asarray(rot.polish_rotation(jnp.asarray(noisy)))
    np.testing.assert_allclose(polished @ polished.transpose(0, 2, 1), np.broadcast_to(np.eye(3), r.shape), atol=1e-7)


@pytest.mark.parametrize("angle", [0.0, 1e-8, 0.3, 2.0, np.pi])
def test_geodesic_angle(angle):
    base = Rotation.random(10, random_state=6).as_matrix()
    turned = base @ Rotation.from_rotvec(random_vectors(10, seed=6, length=max(angle, 1e-300))).as_matrix()
    np.testing.assert_allclose(rot.geodesic_angle(jnp.asarray(base), jnp.asarray(turned)), angle, atol=3e-8)


def literal_aflw(pitch: float, yaw: float, roll: float) -> np.ndarray:
    """The convention as published, written out."""
    c, s = np.cos, np.sin
    rx = np.array([[1, 0, 0], [0, c(pitch), s(pitch)], [0, -s(pitch), c(pitch)]])
    ry = np.array([[c(yaw), 0, -s(yaw)], [0, 1, 0], [s(yaw), 0, c(yaw)]])
    rz = np.array([[c(roll), s(roll), 0], [-s(roll), c(roll), 0], [0, 0, 1]])
    return rx @ ry @ rz


def test_aflw_convention():
    angles = np.random.default_rng(7).uniform(-1.4, 1.4, (50, 3))
    r = rot.rotation_from_aflw2000(jnp.asarray(angles))
    flip = np.diag([1.0, -1.0, -1.0])
    np.testing.assert_allclose(r, [flip @ literal_aflw(*a) for a in angles], atol=1e-14)
    np.testing.assert_allclose(rot.aflw2000_from_rotation(r), angles, atol=1e-12)
    # Positive yaw turns the nose (+z of the head) to the image's left, positive pitch lifts it (image y is down).
    nose_yaw = rot.rotation_from_aflw2000(jnp.array([0.0, 0.3, 0.0])) @ jnp.array([0.0, 0.0, 1.0])
    nose_pitch = rot.rotation_from_aflw2000(jnp.array([0.3, 0.0, 0.0])) @ jnp.array([0.0, 0.0, 1.0])
    assert nose_yaw[0] < -0.2
    assert nose_pitch[1] < -0.2


def test_rotation_between_rays():
    a, b = random_vectors(2, seed=8, length=1.0)
    r = rot.rotation_between_rays(jnp.asarray(a), jnp.asarray(b))
    np.testing.assert_allclose(r @ a, b, atol=1e-14)
    np.testing.assert_allclose(r @ r.T, np.eye(3), atol=1e-14)


def test_safe_normalise_of_zero_has_zero_gradient():
    value, gradient = jax.value_and_grad(lambda v: rot.safe_normalise(v).sum())(jnp.zeros(3))
    assert value == 0
    np.testing.assert_array_equal(gradient, np.zeros(3))
