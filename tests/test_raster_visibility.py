"""Visibility against ray casting by brute force, and what an image shows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_raster_ids import ids_of, project_mesh

import fitjax as fj
from fitjax.geometry.surface import make_samples
from fitjax.render.visibility import (
    fit_to_square,
    points_visible,
    sample_points_image,
    sample_visibility,
    seen,
    seen_vertices,
    vertex_visibility,
)


def cast(vertices, triangles, points, ignored):
    """Whether each point (N, 3) is the first that its ray meets, leaving out the triangles ``ignored(n)``."""
    a, b, c = vertices[triangles].astype(np.float64).transpose(1, 0, 2)
    d1, d2 = b - a, c - a
    area = d1[:, 0] * d2[:, 1] - d2[:, 0] * d1[:, 1]
    inverse = 1 / np.where(area == 0, np.inf, area)
    free = np.ones(len(points), bool)
    for n, point in enumerate(points.astype(np.float64)):
        x, y = point[0] - a[:, 0], point[1] - a[:, 1]
        b1, b2 = (x * d2[:, 1] - d2[:, 0] * y) * inverse, (d1[:, 0] * y - x * d1[:, 1]) * inverse
        hit = (area != 0) & (b1 >= 0) & (b2 >= 0) & (b1 + b2 <= 1)
        depth = 1 / ((1 - b1 - b2) / a[:, 2] + b1 / b[:, 2] + b2 / c[:, 2])[hit]
        free[n] = not ((depth < point[2] * (1 - 1e-5)) & ~ignored(n)[hit]).any()
    return free


@pytest.fixture(scope="module")
def head():
    model = fj.load_basis(level=1)
    return np.asarray(model.mean), np.asarray(model.triangles)


def front_facing(vertices, triangles):
    a, b, c = vertices[triangles].astype(np.float64).transpose(1, 0, 2)
    return (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (c[:, 0] - a[:, 0]) * (b[:, 1] - a[:, 1]) < 0


def test_accuracy_on_the_default_mesh(head):
    points, triangles = head
    rng = np.random.default_rng(0)
    vertex_right, sample_right = [], []
    see_vertices, see_samples = jax.jit(vertex_visibility), jax.jit(sample_visibility)
    for yaw in (0, 30, 60, 90):
        vertices = project_mesh(points, 512, yaw)
        facing = front_facing(vertices, triangles)
        rows = rng.choice(np.unique(triangles), 250, replace=False)
        around = np.zeros(len(vertices), bool)
        around[triangles[facing]] = True
        truth = cast(vertices, triangles, vertices[rows], lambda n: (triangles == rows[n]).any(1)) & around[rows]  # noqa: B023
        vertex_right.append(np.asarray(see_vertices(vertices, triangles))[rows] == truth)

        owner = rng.integers(0, len(triangles), 250)
        samples = make_samples(owner, rng.dirichlet(np.ones(3), 250).astype(np.float32), len(triangles))
        at = np.asarray(sample_points_image(samples, jnp.asarray(vertices), triangles))
        truth = cast(vertices, triangles, at, lambda n: np.arange(len(triangles)) == owner[n]) & facing[owner]  # noqa: B023
        sample_right.append(np.asarray(see_samples(samples, vertices, triangles))[...] == truth)
    # Whole-mesh figures of docs/rendering.md: 96.9 to 99.1 % per view.
    assert np.mean(vertex_right) > 0.97 and np.mean(vertex_right, 1).min() > 0.95
    assert np.mean(sample_right) > 0.97 and np.mean(sample_right, 1).min() > 0.95


def test_one_triangle_hides_another():
    vertices = np.array([[0, 0, 1], [0, 40, 1], [40, 0, 1], [0, 0, 2], [0, 20, 2], [20, 0, 2], [60, 60, 2]], np.float32)
    triangles = np.array([[0, 1, 2], [3, 4, 5]])
    visible = np.asarray(vertex_visibility(vertices, triangles))
    np.testing.assert_array_equal(visible, [1, 1, 1, 0, 0, 0, 0])  # the last belongs to no triangle
    np.testing.assert_array_equal(vertex_visibility(vertices, triangles[:, ::-1]), np.zeros(7, bool))  # from behind
    ids = ids_of(vertices, triangles, 48, 48)
    np.testing.assert_array_equal(seen(ids, 2), [True, False])
    np.testing.assert_array_equal(seen_vertices(ids, triangles, 7), [1, 1, 1, 0, 0, 0, 0])
    assert not np.asarray(seen(jnp.full((3, 3), -1), 2)).any()
    queries = np.array([[5, 5, 1.5], [5, 5, 0.5], [90, 5, 9], [np.nan, 0, 1]], np.float32)
    np.testing.assert_array_equal(points_visible(queries, vertices, triangles, ids), [False, True, True, False])
    fitted = np.asarray(fit_to_square(vertices, 128))
    assert fitted[:, :2].min() == 1 and fitted[:, :2].max() == pytest.approx(126)


def test_does_not_depend_on_the_photo(head):
    points, triangles = head
    near, far = (
        vertex_visibility(project_mesh(points, 512, 40, zoom, shift), triangles)
        for zoom, shift in ((3.0, (900, 0)), (0.1, (0, 0)))
    )
    assert (np.asarray(near) == np.asarray(far)).mean() > 0.999


def test_weak_perspective_samples():
    vertices = np.array([[0, 0, 1], [0, 40, 2], [40, 0, 3]], np.float32)
    samples = make_samples([0], [[0.5, 0.25, 0.25]], 1)
    np.testing.assert_allclose(
        sample_points_image(samples, vertices, np.array([[0, 1, 2]]), perspective=False), [[10, 10, 1.75]]
    )
    found = sample_points_image(samples, vertices, np.array([[0, 1, 2]]))
    np.testing.assert_allclose(found, [[0.25 * 3 * 40 / 1.75, 0.25 * 2 * 40 / 1.75, 1.75]], rtol=1e-6)
