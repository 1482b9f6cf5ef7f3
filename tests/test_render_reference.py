"""The reference rasteriser against brute force, ray casting and counting."""

from fractions import Fraction

import numpy as np
import pytest

from fitjax.errors import FitjaxError
from fitjax.render.reference import rasterize_reference, vertex_normals
from fitjax.render.shading import shade_reference


def brute_force(vertices, triangles, height, width, cull_back, perspective):
    """The documented rule, one triangle and one pixel at a time, in exact rational arithmetic."""
    exact = [[Fraction(float(c)) for c in vertex] for vertex in vertices]
    ids = np.full((height, width), -1)
    depths = np.full((height, width), np.inf)
    for index, (i, j, k) in enumerate(triangles):
        a, b, c = exact[i], exact[j], exact[k]
        area = (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])
        if area == 0 or (cull_back and area > 0) or min(a[2], b[2], c[2]) <= 0:
            continue
        if area < 0:  # walk round so that the interior has positive edge functions
            b, c, area = c, b, -area
        for y in range(height):
            for x in range(width):
                weights, inside = [], True
                for start, end in ((b, c), (c, a), (a, b)):
                    dx, dy = end[0] - start[0], end[1] - start[1]
                    value = dx * (y - start[1]) - dy * (x - start[0])
                    inside &= value > 0 or (value == 0 and (dy < 0 or (dy == 0 and dx > 0)))
                    weights.append(value / area)
                if not inside:
                    continue
                if perspective:
                    depth = float(1 / sum(w / p[2] for w, p in zip(weights, (a, b, c))))
                else:
                    depth = float(sum(w * p[2] for w, p in zip(weights, (a, b, c))))
                if depth < depths[y, x] - 1e-12:
                    ids[y, x], depths[y, x] = index, depth
    return ids, depths


@pytest.mark.parametrize("lattice", [False, True])
@pytest.mark.parametrize("cull_back", [False, True])
@pytest.mark.parametrize("perspective", [False, True])
def test_against_brute_force(lattice, cull_back, perspective):
    rng = np.random.default_rng(5 + lattice)
    for _ in range(3):
        vertices = np.concatenate([rng.uniform(-4, 18, (24, 2)), rng.uniform(0.5, 2, (24, 1))], 1)
        if lattice:  # vertices and edges on pixel centres: every tie rule at work
            vertices[:, :2] = np.round(vertices[:, :2])
        triangles = rng.integers(0, 24, (14, 3))  # some have repeated vertices: zero area
        result = rasterize_reference(vertices, triangles, 13, 15, cull_back, perspective)
        ids, depths = brute_force(vertices, triangles, 13, 15, cull_back, perspective)
        np.testing.assert_array_equal(result.triangle_id, ids)
        np.testing.assert_allclose(result.depth, depths, rtol=1e-12)
        assert (ids >= 0).sum() > 30
        assert np.isinf(result.depth[ids < 0]).all() and (result.barycentric[ids < 0] == 0).all()
    assert result.triangle_id.dtype == np.int32 and result.barycentric.dtype == np.float64


def test_barycentrics_against_ray_casting():
    """Perspective-correct weights name the 3-D point where the pixel's ray meets the triangle's plane."""
    rng = np.random.default_rng(0)
    K = np.array([[60.0, 0, 19], [0, 55.0, 14], [0, 0, 1]])
    points_camera = rng.uniform([-0.4, -0.4, 0.8], [0.4, 0.4, 2.5], (30, 3))
    triangles = rng.integers(0, 30, (25, 3))
    projected = points_camera @ K.T
    vertices = np.concatenate([projected[:, :2] / projected[:, 2:], projected[:, 2:]], 1)
    result = rasterize_reference(vertices, triangles, 30, 40, cull_back=False)
    rows, columns = np.nonzero(result.triangle_id >= 0)
    assert len(rows) > 300
    for row, column in zip(rows, columns):
        corners = points_camera[triangles[result.triangle_id[row, column]]]
        ray = np.linalg.solve(K, [column, row, 1.0])
        normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
        hit = ray * (normal @ corners[0]) / (normal @ ray)
        weights = result.barycentric[row, column]
        np.testing.assert_allclose(weights @ corners, hit, atol=1e-9)
        assert result.depth[row, column] == pytest.approx(hit[2], rel=1e-9)
        assert weights.sum() == pytest.approx(1) and weights.min() >= -1e-9


def test_screen_space_barycentrics_reproduce_the_pixel():
    rng = np.random.default_rng(1)
    vertices = np.concatenate([rng.uniform(0, 40, (30, 2)), rng.uniform(1, 2, (30, 1))], 1)
    triangles = rng.integers(0, 30, (20, 3))
    result = rasterize_reference(vertices, triangles, 40, 40, cull_back=False, perspective=False)
    covered = result.triangle_id >= 0
    corners = vertices[triangles[result.triangle_id[covered]]]
    point = np.einsum("nk,nkc->nc", result.barycentric[covered], corners)
    rows, columns = np.nonzero(covered)
    np.testing.assert_allclose(point, np.stack([columns, rows, result.depth[covered]], 1), atol=1e-9)


@pytest.mark.parametrize("snap", [1.0, 0.5, 1e-6])
def test_shared_edges_are_covered_exactly_once(snap):
    """A tessellated quad: every pixel centre by exactly one triangle, with edges and vertices through pixel centres."""
    rng = np.random.default_rng(2)
    count = 9
    x, y = np.meshgrid(np.arange(count) * 3.0, np.arange(count) * 3.0)
    inner = (x > 0) & (x < 24) & (y > 0) & (y < 24)
    x, y = (a + inner * np.round(rng.uniform(-1, 1, a.shape) / snap) * snap for a in (x, y))
    grid = np.arange(count * count).reshape(count, count)
    a, b, c, d = (g.ravel() for g in (grid[:-1, :-1], grid[:-1, 1:], grid[1:, :-1], grid[1:, 1:]))
    flip = rng.random(len(a)) < 0.5
    triangles = np.where(
        flip[:, None, None],
        np.stack([np.stack([a, c, b], 1), np.stack([b, c, d], 1)], 1),
        np.stack([np.stack([a, c, d], 1), np.stack([a, d, b], 1)], 1),
    ).reshape(-1, 3)
    vertices = np.stack([x.ravel(), y.ravel(), np.ones(x.size)], 1)
    times = np.zeros((28, 28), int)
    for triangle in triangles:
        times += rasterize_reference(vertices, triangle[None], 28, 28, cull_back=False).triangle_id >= 0
    expected = np.zeros((28, 28), int)
    expected[:24, :24] = 1  # top and left borders owned, bottom and right (24) not
    np.testing.assert_array_equal(times, expected)


def test_no_cracks_on_edges_through_pixel_centres():
    """Edges through many centres with ends that are not representable: both triangles must evaluate them alike."""
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[:60, :60]
    on_edges = 0
    for _ in range(100):
        step = rng.integers(1, 7, 2) * rng.choice([-1, 1], 2)
        centre = rng.integers(25, 35, 2)
        a, b = centre + step * rng.uniform(2, 9), centre - step * rng.uniform(2, 9)
        away = np.array([-step[1], step[0]]) * 9.7
        vertices = np.concatenate([np.array([a, b, centre + away, centre - away]), np.ones((4, 1))], 1)
        times = np.zeros((60, 60), int)
        for triangle in ([0, 1, 2], [1, 0, 3]):
            times += rasterize_reference(vertices, np.array([triangle]), 60, 60, cull_back=False).triangle_id >= 0
        along, offset = b - a, np.stack([columns, rows], -1) - a
        position = offset @ along / (along @ along)
        distance = np.abs(offset[..., 0] * along[1] - offset[..., 1] * along[0]) / np.linalg.norm(along)
        on_edge = (distance < 1e-9) & (position > 0.01) & (position < 0.99)
        assert (times[on_edge] == 1).all()
        on_edges += on_edge.sum()
    assert on_edges > 500  # evaluating each edge from its own first vertex gets several hundred of them wrong


def test_ties_and_dropped_triangles():
    vertices = np.array([[0, 0, 1.0], [0, 9, 1], [9, 0, 1], [0, 0, -1], [0, 9, np.nan]])
    front = [0, 1, 2]
    twice = rasterize_reference(vertices, np.array([front, front]), 5, 5)
    assert (twice.triangle_id[1:4, 1:4] == 0).all()  # equal depth: the smaller id
    reverse = rasterize_reference(vertices, np.array([[0, 2, 1], front]), 5, 5)
    assert (reverse.triangle_id[1:4, 1:4] == 1).all()  # the back face is culled
    for bad in ([3, 1, 2], [0, 4, 2], [0, 0, 2]):
        assert (rasterize_reference(vertices, np.array([bad]), 5, 5).triangle_id == -1).all()
    empty = rasterize_reference(vertices, np.zeros((0, 3), int), 4, 6)
    assert empty.triangle_id.shape == (4, 6) and (empty.triangle_id == -1).all()


def test_large_triangle_spans_chunks():
    far = [[-9, -9, 2.0], [-9, 3000, 2], [3000, -9, 2]]
    near = [[100.2, 100.2, 1], [100.2, 300.2, 1], [300.2, 100.2, 1]]
    vertices = np.array(far + near)
    result = rasterize_reference(vertices, np.array([[3, 4, 5], [0, 1, 2], [3, 4, 5]]), 900, 900)
    assert (result.triangle_id >= 0).all()
    assert (result.triangle_id == 0).sum() == 199 * 200 // 2  # lattice points with x + y <= 400, x, y >= 101
    assert (result.triangle_id == 2).sum() == 0


def test_errors():
    vertices = np.ones((4, 3))
    with pytest.raises(FitjaxError, match="expected 0 to 3"):
        rasterize_reference(vertices, np.array([[0, 1, 4]]), 4, 4)
    with pytest.raises(FitjaxError, match=r"expected \(V, 3\)"):
        rasterize_reference(vertices[:, :2], np.array([[0, 1, 2]]), 4, 4)
    with pytest.raises(FitjaxError, match="integers"):
        rasterize_reference(vertices, np.array([[0.0, 1, 2]]), 4, 4)
    with pytest.raises(FitjaxError, match="triangle_region"):
        shade_reference(vertices, np.array([[0, 1, 2]]), 4, 4, triangle_region=np.array([7]))


def sphere(radius, count=40):
    theta, phi = np.meshgrid(np.linspace(0, np.pi, count), np.linspace(0, 2 * np.pi, 2 * count))
    points = radius * np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], -1)
    grid = np.arange(points[..., 0].size).reshape(theta.shape)
    a, b, c, d = (g.ravel() for g in (grid[:-1, :-1], grid[1:, :-1], grid[:-1, 1:], grid[1:, 1:]))
    return points.reshape(-1, 3), np.concatenate([np.stack([a, c, b], 1), np.stack([b, c, d], 1)])


def test_vertex_normals():
    points, triangles = sphere(0.1)
    normals = vertex_normals(points, triangles)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-12)
    # the poles' rings contain zero-area triangles; elsewhere the normal is the radius
    inner = np.abs(points[:, 2]) < 0.099
    seam = np.isclose(points[:, 1], 0, atol=1e-9) & (points[:, 0] > 0)  # one-sided there
    assert np.abs((normals - points / 0.1)[inner & ~seam]).max() < 0.02
    lonely = vertex_normals(np.zeros((4, 3)), np.array([[0, 1, 2]]))
    np.testing.assert_array_equal(lonely, np.tile([0.0, 0, 1], (4, 1)))
    # area-weighted: a small triangle tilts the shared vertex by its share
    corner = np.array([[0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 0, 1], [0, 1, 0]], float)
    tilted = vertex_normals(corner, np.array([[0, 1, 2], [0, 4, 3]]))[0]
    np.testing.assert_allclose(tilted, np.array([1, 0, 4]) / 17**0.5)


def test_shading_of_a_sphere():
    points, triangles = sphere(0.1)
    camera = points * [1, -1, -1] + [0, 0, 1.0]
    pixels = np.concatenate([camera[:, :2] / camera[:, 2:] * 400 + 63.5, camera[:, 2:]], 1)
    region = np.where(points[triangles][:, :, 0].mean(1) < 0, 1, 0)
    picture = shade_reference(pixels, triangles, 128, 128, region, camera)
    assert picture.shape == (128, 128, 4) and picture.dtype == np.uint8
    alpha = picture[..., 3]
    radius = 400 * 0.1 / np.sqrt(1 - 0.1**2)
    assert alpha.sum() / 255 == pytest.approx(np.pi * radius**2, rel=0.01)
    assert set(np.unique(alpha)) > {0, 255} and ((alpha > 0) & (alpha < 255)).sum() < 600
    assert (alpha == alpha[:, ::-1]).mean() > 0.99 and (alpha == alpha[::-1]).mean() > 0.99  # centred at 63.5
    left, right = picture[64, 40, :3].astype(int), picture[64, 87, :3].astype(int)
    assert np.ptp(left) < 6 and right[0] - right[2] > 25  # the eyeball's white, the skin's warm tone
    assert picture[64, 70, 0] > picture[64, 100, 0] + 15  # darker towards the outline
    guessed = shade_reference(pixels, triangles, 128, 128, region)
    assert np.abs(guessed[..., :3].astype(int) - picture[..., :3])[alpha == 255].mean() < 8
