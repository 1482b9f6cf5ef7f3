"""Barycentrics, attributes and covered pixels: values against the reference, gradients against finite differences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_raster_ids import ids_of, project_mesh, soup

import fitjax as fj
from fitjax.errors import FitjaxError
from fitjax.geometry.surface import vertex_normals
from fitjax.render.interpolate import covered_pixels, fragments, interpolate, scatter_pixels
from fitjax.render.lighting import directional_light, shade
from fitjax.render.raster_sums import sum_over_covered
from fitjax.render.rasterize import rasterize
from fitjax.render.reference import rasterize_reference
from fitjax.render.texture import sample_texture


@pytest.mark.parametrize("perspective", [True, False])
def test_barycentrics_and_depth_are_the_references(perspective):
    vertices, triangles = soup(np.random.default_rng(0), 300, 60, 8.0)
    reference = rasterize_reference(vertices, triangles, 50, 60, perspective=perspective, snap=True)
    with jax.enable_x64(True):
        v, t, ids = jnp.asarray(vertices, jnp.float64), jnp.asarray(triangles), jnp.asarray(reference.triangle_id)
        where = fragments(v, t, ids, perspective=perspective)
    # Where the unrounded triangle does not reach the centre, weights are clipped; the reference continues the plane.
    inside = (reference.barycentric > -0.2).all(-1)
    assert (reference.triangle_id >= 0).sum() > 1000 and inside.mean() > 0.995
    np.testing.assert_allclose(
        where.barycentric[inside & where.covered], reference.barycentric[inside & where.covered], atol=1e-9
    )
    np.testing.assert_allclose(where.depth[inside & where.covered], reference.depth[inside & where.covered], rtol=1e-9)
    np.testing.assert_array_equal(where.covered, reference.triangle_id >= 0)
    assert (np.asarray(where.barycentric) <= 1.5).all() and (np.asarray(where.barycentric) >= -0.6).all()
    single = fragments(vertices, triangles, reference.triangle_id, perspective=perspective)
    # float32: a few of the soup's slivers amplify rounding.
    assert np.quantile(np.abs(np.asarray(single.barycentric) - np.asarray(where.barycentric)), 0.99) < 1e-4


def test_interpolation_reproduces_positions():
    """With pixel · depth as attribute, perspective-correct weights give back the pixel."""
    vertices, triangles = soup(np.random.default_rng(1), 200, 40, 9.0)
    ids = ids_of(vertices, triangles, 40, 40)
    with jax.enable_x64(True):
        v = jnp.asarray(vertices, jnp.float64)
        where = fragments(v, triangles, ids)
        rays = interpolate(jnp.concatenate([v[:, :2] * v[:, 2:], v[:, 2:]], 1), triangles, where)
        pixel = np.asarray(rays[..., :2] / rays[..., 2:])
    rows, columns = np.nonzero(np.asarray(ids) >= 0)
    inner = (np.abs(np.asarray(where.barycentric) - 0.5) < 0.6).all(-1)[rows, columns]
    difference = np.abs(pixel[rows, columns] - np.stack([columns, rows], 1)).max(1)[inner]
    assert inner.mean() > 0.98 and difference.max() < 1e-9
    assert (np.asarray(rays)[np.asarray(ids) < 0] == 0).all()


def test_corner_attributes():
    """One row per corner and triangles of their own: each triangle has its own colours, though vertices are shared."""
    vertices, triangles = (
        np.array([[0, 0, 1], [0, 8, 1], [8, 0, 1], [8, 8, 1]], np.float32),
        np.array([[0, 1, 2], [2, 1, 3]]),
    )
    ids = ids_of(vertices, triangles, 8, 8)
    corner_value = np.array([[1.0]] * 3 + [[2.0]] * 3, np.float32)
    image = interpolate(corner_value, np.arange(6).reshape(2, 3), fragments(vertices, triangles, ids))
    np.testing.assert_allclose(image[..., 0], np.asarray(ids) + 1, rtol=1e-6)


def test_covered_pixels():
    rng = np.random.default_rng(2)
    ids = np.where(rng.random((31, 17)) < 0.3, 5, -1)
    expected = np.flatnonzero(ids >= 0)
    for capacity in (None, len(expected), len(expected) - 7, len(expected) + 3):
        pixels = jax.jit(covered_pixels, static_argnums=1)(ids, capacity)
        size = ids.size if capacity is None else capacity
        kept = expected[:size]
        assert pixels.pixel.shape == pixels.valid.shape == (size,) and int(pixels.count) == len(expected)
        np.testing.assert_array_equal(pixels.pixel[: len(kept)], kept)
        np.testing.assert_array_equal(pixels.valid, np.arange(size) < len(expected))
        assert (np.asarray(pixels.pixel[len(kept) :]) == 0).all()
    image = scatter_pixels(jnp.ones((ids.size, 2)), covered_pixels(ids), 31, 17)
    np.testing.assert_array_equal(image[..., 1], ids >= 0)
    assert not covered_pixels(np.full((3, 3), -1)).valid.any()
    with pytest.raises(FitjaxError, match="expected 1 to 9"):
        covered_pixels(np.full((3, 3), -1), 10)


def test_compact_form_gives_the_same_loss_and_gradient():
    vertices, triangles = soup(np.random.default_rng(3), 60, 48, 4.0)
    target = jnp.asarray(np.random.default_rng(4).random((48, 48, 3)), jnp.float32)
    colours = jnp.asarray(np.random.default_rng(5).random((len(vertices), 3)), jnp.float32)
    ids = ids_of(vertices, triangles, 48, 48)
    share = float((ids >= 0).mean())
    assert 0.2 < share < 0.8

    def dense(v, c):
        where = fragments(v, triangles, ids)
        return jnp.sum(jnp.abs(interpolate(c, triangles, where) - target) * where.covered[..., None])

    def at(pixels, v, c):
        where = fragments(v, triangles, ids, pixels)
        wanted = target.reshape(-1, 3)[pixels.pixel]
        return jnp.sum(jnp.abs(interpolate(c, triangles, where) - wanted) * where.covered[..., None])

    expected = jax.jit(jax.value_and_grad(dense, (0, 1)))(vertices, colours)

    def thrice(v, c):
        return 3 * sum_over_covered(lambda p: at(p, v, c), ids, 100)

    found = jax.jit(jax.value_and_grad(thrice, (0, 1)))(vertices, colours)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, 3 * b, rtol=2e-4, atol=1e-4)

    def ids_sum(image):
        return sum_over_covered(lambda p: jnp.sum(jnp.where(p.valid, image.reshape(-1)[p.pixel], 0) * 1.0), image, 1000)

    both = jnp.stack([ids, -ids - 1])
    found = jax.jit(jax.vmap(ids_sum))(both)
    np.testing.assert_array_equal(found, np.maximum(both, 0).sum((1, 2)))


def test_gradients_of_a_rendered_face_against_finite_differences():
    """Positions (through projection, weights and normals), attributes, texture and light, in float64."""
    model = fj.load_basis(level=0)
    points, triangles, uv_triangles = (np.asarray(a) for a in (model.mean, model.triangles, model.uv_triangles))
    size = 48
    rng = np.random.default_rng(6)
    pixels = project_mesh(points, size, yaw=25.0, zoom=1.3).astype(np.float64)
    focal = size * 0.7 / 0.3 * 1.3
    with jax.enable_x64(True):
        camera = np.concatenate([(pixels[:, :2] - (size - 1) / 2) / focal * pixels[:, 2:], pixels[:, 2:]], 1)
        inputs = {
            "positions": jnp.asarray(camera),
            "attributes": jnp.asarray(rng.random((len(points), 3))),
            "texture": jnp.asarray(rng.random((9, 12, 3))),
            "light": directional_light(np.array([-1.0, -1, -2]), np.ones(3))
            + 0.1 * jnp.asarray(rng.normal(size=(9, 3))),
        }
        weight = jnp.asarray(rng.normal(size=(size, size, 3)))
        uv = jnp.asarray(model.uv, jnp.float64)

        def picture(p):
            x = p["positions"]
            image = jnp.concatenate([focal * x[:, :2] / x[:, 2:] + (size - 1) / 2, x[:, 2:]], 1)
            ids = rasterize(image, triangles, size, size)
            where = fragments(image, triangles, ids)
            normal = interpolate(vertex_normals(x, triangles), triangles, where)
            albedo = interpolate(p["attributes"], triangles, where)
            albedo = albedo * sample_texture(p["texture"], interpolate(uv, uv_triangles, where))
            return shade(albedo, normal, p["light"]) * weight, ids

        def loss_ids(p):
            image, ids = picture(p)
            return jnp.sum(image), ids

        compiled = jax.jit(jax.value_and_grad(loss_ids, has_aux=True))
        (_, ids), gradient = compiled(inputs)

        def loss(p):
            return compiled(p)[0][0]

        assert (ids >= 0).sum() > 700
        for name, value in inputs.items():
            largest = np.abs(gradient[name]).max()
            assert largest > 1e-3
            entries = np.argsort(np.abs(gradient[name]).ravel())[:: -max(1, value.size // 400)][:12]
            step = 1e-7 if name == "positions" else 1e-4
            for entry in entries:
                moved = [
                    {**inputs, name: value.reshape(-1).at[entry].add(s * step).reshape(value.shape)} for s in (-1, 1)
                ]
                numeric = (loss(moved[1]) - loss(moved[0])) / (2 * step)
                assert abs(numeric - gradient[name].ravel()[entry]) <= 1e-5 * max(largest, 1.0), (name, entry)


def test_no_nan_from_slivers_and_empty_images():
    rng = np.random.default_rng(7)
    corners = np.repeat(rng.uniform(0, 30, (200, 1, 2)), 3, 1) + rng.normal(size=(200, 3, 2)) * [1e-3, 5]
    vertices = np.concatenate([corners, rng.uniform(0.1, 5, (200, 3, 1))], 2).reshape(-1, 3).astype(np.float32)
    triangles = np.arange(600).reshape(200, 3)

    @jax.jit
    @partial(jax.value_and_grad, argnums=(1, 2))
    def compiled(ids, v, c):
        where = fragments(v, triangles, ids)
        return jnp.sum(interpolate(c, triangles, where)) + jnp.sum(where.depth)

    for v in (vertices, np.zeros_like(vertices), np.full_like(vertices, np.nan)):
        ids = ids_of(v, triangles, 30, 30, cull_back=False)
        value, (dv, dc) = compiled(ids, jnp.asarray(v), jnp.ones((600, 2)))
        assert np.isfinite(value) and np.isfinite(dc).all()
        assert np.isfinite(dv).all() or np.isnan(v).any()
        if not (np.asarray(ids) >= 0).any():
            assert value == 0 and (np.asarray(dc) == 0).all()
