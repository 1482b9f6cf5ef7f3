"""Surface samples: oracle, validation, zero-area triangles."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fitjax as fj
from fitjax.geometry.surface import (
    SurfacePoints,
    evaluate_samples,
    facing_camera,
    make_samples,
    triangle_normals,
    vertex_normals,
)

VERTICES = np.array([[0, 0, 0], [2, 0, 0], [0, 2, 0], [2, 2, 0.0]])
TRIANGLES = np.array([[0, 1, 2], [1, 3, 2]])


def test_positions_and_normals():
    samples = make_samples([0, 1], [[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]], 2)
    points = evaluate_samples(samples, jnp.asarray(VERTICES), jnp.asarray(TRIANGLES))
    np.testing.assert_allclose(points.position, [[0.5, 0.5, 0], [2, 2, 0]])
    np.testing.assert_allclose(points.normal, [[0, 0, 1], [0, 0, 1]])


def test_facing_is_a_cosine_towards_the_camera_at_the_origin():
    points = SurfacePoints(jnp.array([[0.0, 0, 2], [0, 0, 2], [0, 0, 2]]), jnp.array([[0.0, 0, -1], [0, 0, 1], [1, 0, 0]]))
    np.testing.assert_allclose(facing_camera(points), [1, -1, 0])


def test_zero_area_triangles_have_zero_normals_and_finite_gradients():
    flat = jnp.zeros((3, 3))
    np.testing.assert_array_equal(triangle_normals(flat), np.zeros(3))
    gradient = jax.grad(lambda v: vertex_normals(v, jnp.array([[0, 1, 2]])).sum())(flat)
    assert np.isfinite(gradient).all()


def test_vertex_normals_of_a_sphere_point_outwards():
    trimesh = pytest.importorskip("trimesh")
    ball = trimesh.creation.icosphere(2)
    normals = vertex_normals(jnp.asarray(ball.vertices), jnp.asarray(ball.faces))
    assert (np.asarray(normals) * ball.vertices).sum(1).min() > 0.999


@pytest.mark.parametrize(
    ("triangle", "barycentric", "words"),
    [
        ([0, 2], [[1, 0, 0], [1, 0, 0]], r"indices in \[0, 2\)"),
        ([0], [[0.5, 0.1, 0.1]], "sum to 1"),
        ([0], [[np.nan, 0, 1]], "finite"),
        ([0, 1], [[1, 0, 0]], "expected triangle"),
    ],
)
def test_invalid_samples(triangle, barycentric, words):
    with pytest.raises(fj.BasisError, match=words):
        make_samples(triangle, barycentric, 2)
