"""Loop subdivision: against trimesh, and what is carried along."""

from __future__ import annotations

import numpy as np
import pytest

from fitjax.model.subdivision import loop_subdivision, refine_mirror, refine_samples, refine_uv

trimesh = pytest.importorskip("trimesh")


def test_closed_mesh_matches_trimesh():
    ball = trimesh.creation.icosphere(2)
    step = loop_subdivision(np.asarray(ball.faces), len(ball.vertices))
    ours = step.matrix @ ball.vertices
    theirs, _ = trimesh.remesh.subdivide_loop(ball.vertices, ball.faces, iterations=1)
    from scipy.spatial import cKDTree

    distance, index = cKDTree(theirs).query(ours)
    assert distance.max() < 1e-12
    assert len(np.unique(index)) == len(theirs)


def test_rows_sum_to_one_and_planes_stay_planes():
    grid = np.stack(np.meshgrid(np.arange(5.0), np.arange(4.0), indexing="ij"), -1).reshape(-1, 2)
    vertices = np.concatenate([grid, (grid @ [0.3, -0.2])[:, None]], 1)
    index = np.arange(20).reshape(5, 4)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    triangles = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    step = loop_subdivision(triangles, 20)
    np.testing.assert_allclose(np.asarray(step.matrix.sum(1)).ravel(), 1, atol=1e-14)
    refined = step.matrix @ vertices
    np.testing.assert_allclose(refined[:, 2], refined[:, :2] @ [0.3, -0.2], atol=1e-12)
    # The boundary polygon stays straight, and its corners stay where they are (up to the 1/8, 3/4, 1/8 rule along the edge).
    assert refined[:, 0].min() == pytest.approx(0, abs=1e-12) or refined[:, 0].min() > -1e-12
    assert len(step.triangles) == 4 * len(triangles)


def test_orientation_is_kept():
    ball = trimesh.creation.icosphere(1)
    step = loop_subdivision(np.asarray(ball.faces), len(ball.vertices))
    fine = trimesh.Trimesh(step.matrix @ ball.vertices, step.triangles, process=False)
    assert fine.is_watertight
    assert fine.volume > 0


def test_samples_are_the_same_parametric_points():
    # With midpoint positions (no smoothing) a sample and its child are one point in space.
    rng = np.random.default_rng(0)
    ball = trimesh.creation.icosphere(1)
    faces = np.asarray(ball.faces)
    step = loop_subdivision(faces, len(ball.vertices))
    midpoint = np.concatenate([ball.vertices, ball.vertices[step.edges].mean(1)])
    triangle = rng.integers(0, len(faces), 500).astype(np.int32)
    weights = rng.dirichlet([1, 1, 1], 500)
    weights[0], weights[1], weights[2] = (1, 0, 0), (0.5, 0.5, 0), (0, 0.5, 0.5)
    child, child_weights = refine_samples(triangle, weights)
    before = (ball.vertices[faces[triangle]] * weights[..., None]).sum(1)
    after = (midpoint[step.triangles[child]] * child_weights[..., None]).sum(1)
    np.testing.assert_allclose(after, before, atol=1e-12)
    assert child_weights.min() > -1e-12
    np.testing.assert_allclose(child_weights.sum(1), 1)


def test_uv_seams_stay():
    uv = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [0.5, 0.5]], np.float32)
    uv_triangles = np.array([[0, 1, 2], [1, 3, 4]])
    fine, fine_triangles = refine_uv(uv, uv_triangles)
    assert len(fine_triangles) == 8
    np.testing.assert_allclose(fine[:5], uv)
    np.testing.assert_allclose(fine[fine_triangles[3]].mean(0), uv[[0, 1, 2]].mean(0), atol=1e-6)


def test_mirror_is_carried():
    # Two triangles that are mirror images in x.
    triangles = np.array([[0, 1, 2], [0, 2, 3]])
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [-1, 0, 0.0]])
    mirror = np.array([0, 3, 2, 1])
    step = loop_subdivision(triangles, 4)
    fine = refine_mirror(mirror, step.edges)
    refined = step.matrix @ vertices
    np.testing.assert_allclose(refined[fine], refined * (-1, 1, 1), atol=1e-12)
