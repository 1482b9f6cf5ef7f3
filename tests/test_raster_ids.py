"""Triangle ids: the same as the NumPy reference's, pixel for pixel, whatever the mesh, the zoom, the batch and the plan."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fitjax as fj
from fitjax.errors import FitjaxError
from fitjax.render.platform import ACCELERATOR, CPU
from fitjax.render.rasterize import rasterize
from fitjax.render.reference import rasterize_reference

ids_of = jax.jit(
    rasterize, static_argnums=(2, 3), static_argnames=("height", "width", "cull_back", "perspective", "plan")
)


def project_mesh(points, size, yaw=0.0, zoom=1.0, shift=(0.0, 0.0)):
    """A mesh in head space, 0.7 m away, turned by ``yaw`` degrees; at zoom 1 a head fills the image."""
    points = np.asarray(points, np.float64)
    points = points - (points.min(0) + points.max(0)) / 2
    c, s = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
    camera = points @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]).T * [1, -1, -1] + [0, 0, 0.7]
    pixels = camera[:, :2] / camera[:, 2:] * size * 0.7 / 0.3 * zoom + (size - 1) / 2 + np.asarray(shift)
    return np.concatenate([pixels, camera[:, 2:]], 1).astype(np.float32)


def soup(rng, n, size, spread):
    """Triangles of all shapes and sizes, many through the image's border, at random depths: they cut each other."""
    centre = rng.uniform(-0.2 * size, 1.2 * size, (n, 1, 2))
    corners = centre + rng.normal(size=(n, 3, 2)) * spread * 10 ** rng.uniform(-1, 0.7, (n, 1, 1))
    vertices = np.concatenate([corners, rng.uniform(0.5, 2, (n, 3, 1))], 2).reshape(-1, 3).astype(np.float32)
    return vertices, np.arange(3 * n, dtype=np.int32).reshape(n, 3)


def check(vertices, triangles, height, width, plan=None, **options):
    """Wrong pixels; the reference's ids."""
    found = np.asarray(ids_of(vertices, triangles, height, width, plan=plan, **options))
    expected = rasterize_reference(vertices, triangles, height, width, snap=True, **options).triangle_id
    assert found.dtype == np.int32
    assert np.count_nonzero(found != expected) == 0
    return expected


@pytest.mark.parametrize("size", [224, 512])
def test_embedded_mesh_at_every_zoom_and_yaw(size):
    model = fj.load_basis(level=1)
    points, triangles = np.asarray(model.mean), np.asarray(model.triangles)
    assert len(triangles) > 1 << 15
    rng = np.random.default_rng(size)
    snapped = covered = 0
    for zoom, yaw in zip(10 ** np.linspace(np.log10(0.2), 1, 7), (0, 15, 30, 45, 60, 75, 90)):
        vertices = project_mesh(points, size, yaw, zoom, rng.uniform(-0.3, 0.3, 2) * size)
        ids = check(vertices, triangles, size, size)
        exact = rasterize_reference(vertices, triangles, size, size).triangle_id
        snapped, covered = snapped + np.count_nonzero(ids != exact), covered + np.count_nonzero(ids >= 0)
    # Rounding positions to 1/256 pixel moves few pixels to a neighbouring triangle.
    assert snapped < 1.5e-3 * covered and covered > 3 * size**2


@pytest.mark.parametrize(
    ("n", "height", "width", "spread"), [(5_000, 224, 224, 4.0), (20_000, 200, 260, 6.0), (60_000, 512, 512, 3.0)]
)
def test_random_soups(n, height, width, spread):
    rng = np.random.default_rng(n)
    vertices, triangles = soup(rng, n, max(height, width), spread)
    ids = check(vertices, triangles, height, width)
    assert (ids >= 0).mean() > 0.5 and (n < 1 << 15 or ids.max() > 1 << 15)


@pytest.mark.parametrize(
    ("plan", "cull_back", "perspective"),
    [(CPU, True, True), (CPU, False, False), (ACCELERATOR, True, False), (ACCELERATOR, False, True)],
)
def test_hard_cases(plan, cull_back, perspective):
    """Huge triangles, slivers, vertices and edges on pixel centres, repeated triangles, vertices that cannot be drawn."""
    rng = np.random.default_rng(1)
    n = 500
    options = {"plan": plan, "cull_back": cull_back, "perspective": perspective}
    triangles = np.arange(3 * n, dtype=np.int32).reshape(n, 3)
    a = rng.uniform(0, 100, (n, 2))
    b = a + rng.normal(0, 30, (n, 2))
    thin = a + (b - a) * rng.uniform(0, 1, (n, 1)) + rng.normal(size=(n, 2)) * 10 ** rng.uniform(-3, 0, (n, 1))
    z = rng.uniform(0.5, 2, (n, 3, 1))
    slivers = np.concatenate([np.stack([a, b, thin], 1), z], 2).reshape(-1, 3).astype(np.float32)
    assert (check(slivers, triangles, 90, 101, **options) >= 0).sum() > 150

    reach = 10 ** rng.uniform(0, 4.4, (n, 1, 1))
    huge = np.concatenate([rng.normal(size=(n, 3, 2)) * reach, rng.uniform(0.01, 50, (n, 3, 1))], 2)
    huge = huge.reshape(-1, 3).astype(np.float32)
    few = np.arange(150, dtype=np.int32).reshape(50, 3).repeat(10, 0)  # each ten times: ties go to the smaller id
    ids = check(huge, few, 90, 101, **options)
    assert (ids[ids >= 0] % 10 == 0).all() and (ids >= 0).mean() > 0.5

    lattice = np.concatenate([np.round(slivers[:, :2]), slivers[:, 2:]], 1)
    check(lattice, rng.integers(0, 300, (n, 3)).astype(np.int32), 90, 101, **options)

    bad = slivers.copy()
    values = np.array([np.nan, np.inf, -np.inf, -1, 0, 1e20, 1e-30, 4e4], np.float32)
    bad[rng.integers(0, len(bad), 300), rng.integers(0, 3, 300)] = rng.choice(values, 300)
    check(bad, triangles, 90, 101, **options)


def test_shared_edges_are_covered_once():
    """Every centre inside a jittered grid by exactly one triangle: drawn one by one, the counts are all one."""
    rng = np.random.default_rng(2)
    for step in (1.0, 0.25, 1e-3):
        x, y = np.meshgrid(np.arange(9) * 3.0, np.arange(9) * 3.0)
        inner = (x > 0) & (x < 24) & (y > 0) & (y < 24)
        x, y = (a + inner * np.round(rng.uniform(-1, 1, a.shape) / step) * step for a in (x, y))
        grid = np.arange(81).reshape(9, 9)
        a, b, c, d = (g.ravel() for g in (grid[:-1, :-1], grid[:-1, 1:], grid[1:, :-1], grid[1:, 1:]))
        triangles = np.stack([np.stack([a, c, b], 1), np.stack([b, c, d], 1)], 1).reshape(-1, 1, 3).astype(np.int32)
        vertices = np.stack([x.ravel(), y.ravel(), np.ones(81)], 1).astype(np.float32)
        each = ids_of(vertices, triangles, 28, 28, cull_back=False)
        expected = np.zeros((28, 28), int)
        expected[:24, :24] = 1
        np.testing.assert_array_equal((np.asarray(each) >= 0).sum(0), expected)


def expected_ids(vertices, triangles, height=60, width=64):
    """The reference, mesh by mesh; triangles (F, 3) or one set per mesh."""
    each = np.broadcast_to(triangles, (len(vertices), *triangles.shape[-2:]))
    return np.stack([rasterize_reference(v, t, height, width, snap=True).triangle_id for v, t in zip(vertices, each)])


@pytest.mark.parametrize("plan", [CPU, ACCELERATOR])
def test_vmap_equals_loop(plan):
    rng = np.random.default_rng(3)
    meshes = [soup(rng, 400, 64, 5.0) for _ in range(4)]
    vertices, triangles = np.stack([m[0] for m in meshes]), meshes[0][1]
    other = np.stack([triangles, triangles[::-1], np.roll(triangles, 7, 0), np.roll(triangles, 1, 1)])
    one = partial(rasterize, height=60, width=64, plan=plan)
    loop = expected_ids(vertices, triangles)
    assert (loop >= 0).mean() > 0.5 and (loop[0] != loop[1]).any()
    np.testing.assert_array_equal(jax.jit(jax.vmap(one, (0, None)))(vertices, triangles), loop)
    if plan == CPU:  # the two share all but the plan
        np.testing.assert_array_equal(jax.jit(one)(vertices, triangles), loop)  # leading axes
        return
    shared = jax.jit(jax.vmap(one, (None, 0)))(vertices[1], other)
    np.testing.assert_array_equal(shared, expected_ids(np.stack([vertices[1]] * 4), other))
    nested = jax.jit(jax.vmap(jax.vmap(one, (0, None))))(vertices.reshape(2, 2, -1, 3), other[:2])
    np.testing.assert_array_equal(nested.reshape(4, 60, 64), expected_ids(vertices, other[[0, 0, 1, 1]]))


def test_ids_give_no_gradient_and_dtypes_agree():
    vertices, triangles = soup(np.random.default_rng(4), 200, 48, 6.0)

    def total(v):
        return jnp.sum(v) + jnp.sum(rasterize(v, triangles, 48, 48))

    np.testing.assert_array_equal(jax.jit(jax.grad(total))(vertices), 1.0)
    single = ids_of(vertices, triangles, 48, 48)
    with jax.enable_x64(True):
        double = jax.jit(rasterize, static_argnums=(2, 3))(
            vertices.astype(np.float64), triangles.astype(np.int64), 48, 48
        )
    assert double.dtype == np.int32
    np.testing.assert_array_equal(double, single)


def test_empty_and_wrong_input():
    vertices = np.ones((4, 3), np.float32)
    assert (np.asarray(rasterize(vertices, np.zeros((0, 3), np.int32), 3, 4)) == -1).all()
    assert (np.asarray(rasterize(vertices, np.array([[0, 1, 2]]), 3, 4)) == -1).all()
    for v, t, size, words in (
        (vertices[:, :2], np.array([[0, 1, 2]]), (3, 4), r"\(V, 3\)"),
        (vertices, np.array([[0.0, 1, 2]]), (3, 4), "integers"),
        (vertices, np.array([[0, 1, 2]]), (0, 4), "image of 4 × 0"),
        (vertices, np.array([[0, 1, 2]]), (3, 1 << 15), "sides from 1"),
    ):
        with pytest.raises(FitjaxError, match=words):
            rasterize(v, t, *size)
