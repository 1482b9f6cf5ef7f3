"""A small NumPy rasteriser: the oracle that fast rasterisers are tested against, and the one that draws pictures.

**The rule**, exact in float64:

1. A pixel (column i, row j) is sampled at its centre, the point (i, j): the centre of the top-left pixel is (0, 0).
2. With y down, a triangle seen from its front (counter-clockwise from outside) has a *negative* area
   ``(x1 - x0)(y2 - y0) - (x2 - x0)(y1 - y0)``. ``cull_back=True`` drops the others; zero area is always dropped.
3. A triangle with a vertex that is not finite or not in front of the camera (z <= 0) is dropped whole: no clipping.
4. A centre inside a triangle is covered. A centre exactly on an edge belongs to the triangle for which that edge is a
   *top* edge (horizontal, interior below) or a *left* edge (interior to the right), as on GPUs, so a surface without
   holes covers each centre exactly once. Both triangles of an edge evaluate it from the same end: no cracks.
5. The smallest depth wins; of equal depths (as float64) the smallest triangle id wins.
6. ``perspective=True``: 1/z is affine over the image, barycentrics are those on the 3-D triangle. ``False`` (weak
   perspective): depth and barycentrics are affine over the image.

With ``snap=True`` ids follow the rule of the fast rasteriser instead (`fitjax.render.raster_fixed_point` states it): positions rounded to
1/256 pixel, edge functions in integers, depth codes of 28 bits compared as integers, ties to the smaller id. Barycentrics and depth are
then those of the unrounded triangle at the pixel's centre, up to 1/362 pixel outside of it.
"""

from typing import NamedTuple

import numpy as np

from fitjax.errors import FitjaxError

_CANDIDATES_PER_CHUNK = 1 << 19  # bounds memory at about 100 MB, whatever the mesh and the zoom


class ReferenceRaster(NamedTuple):
    """``triangle_id`` (H, W) int32; ``barycentric`` (H, W, 3), ``depth`` (H, W) float64. Empty pixels: -1, 0, inf."""

    triangle_id: np.ndarray
    barycentric: np.ndarray
    depth: np.ndarray


# The fast rasteriser's rule; the same numbers stand in raster_fixed_point.py, which the tests hold this file against.
_SUBPIXELS, _GUARD_PIXELS, _DEPTH_BITS, _STEEPEST, _CERTAIN = 256, 32768, 28, 2.0**29, 2.0**30


class _Edges(NamedTuple):
    """Edge functions of N triangles, (N, 3): edge k lies opposite vertex k; positive inside. Integers where positions are snapped."""

    x: np.ndarray
    y: np.ndarray
    dx: np.ndarray
    dy: np.ndarray
    sign: np.ndarray
    owned: np.ndarray

    def at(self, rows: np.ndarray, pixel_x: np.ndarray, pixel_y: np.ndarray) -> np.ndarray:
        """Edge functions (M, 3) of triangles ``rows`` at M points."""
        x, y = pixel_x[:, None], pixel_y[:, None]
        return (self.dx[rows] * (y - self.y[rows]) - self.dy[rows] * (x - self.x[rows])) * self.sign[rows]


def check_mesh(vertices: np.ndarray, triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices as (V, 3) float64 and triangles as (F, 3) int64.

    Raises:
        FitjaxError: another shape, indices that are not integers, or an index out of range.
    """
    vertices, triangles = np.asarray(vertices, np.float64), np.asarray(triangles)
    if vertices.ndim != 2 or vertices.shape[1] != 3:
        raise FitjaxError(f"mesh: vertices have shape {vertices.shape}; expected (V, 3)")
    if triangles.ndim != 2 or triangles.shape[1] != 3 or triangles.dtype.kind not in "iu":
        raise FitjaxError(f"mesh: triangles are {triangles.dtype} {triangles.shape}; expected integers (F, 3)")
    if triangles.size and not (triangles.min() >= 0 and triangles.max() < len(vertices)):
        found = f"{triangles.min()} to {triangles.max()}"
        raise FitjaxError(f"mesh: triangles refer to vertices {found}; expected 0 to {len(vertices) - 1}")
    return vertices, triangles.astype(np.int64)


def _edges(corners_xy: np.ndarray, area: np.ndarray) -> _Edges:
    """Edge functions of triangles with ``corners_xy`` (N, 3, 2) and twice the signed area (N,)."""
    start, end = corners_xy[:, [1, 2, 0]], corners_xy[:, [2, 0, 1]]
    direction = (end - start) * np.sign(area)[:, None, None]  # interior on the side where the function is positive
    owned = (direction[..., 1] < 0) | ((direction[..., 1] == 0) & (direction[..., 0] > 0))  # left or top, y down
    # The same floating-point operations for both triangles of an edge: start at its lower end (by x, then y).
    swap = (end[..., 0] < start[..., 0]) | ((end[..., 0] == start[..., 0]) & (end[..., 1] < start[..., 1]))
    low, high = np.where(swap[..., None], end, start), np.where(swap[..., None], start, end)
    sign = np.where(swap, -1.0, 1.0) * np.sign(area)[:, None]
    along = high - low
    return _Edges(low[..., 0], low[..., 1], along[..., 0], along[..., 1], sign, owned)


def _weights(edge_values: np.ndarray, corners_z: np.ndarray, perspective: bool) -> tuple[np.ndarray, np.ndarray]:
    """Barycentrics (M, 3) and depth (M,) from edge functions (M, 3) and the depths of the corners (M, 3)."""
    screen = edge_values / edge_values.sum(1, keepdims=True)
    if not perspective:
        return screen, (screen * corners_z).sum(1)
    weighted = screen / corners_z
    inverse_depth = weighted.sum(1, keepdims=True)
    return weighted / inverse_depth, 1 / inverse_depth[:, 0]


class _DepthCodes(NamedTuple):
    """Affine integer depth of N triangles: value at the pixel nearest to corner 0, changes per pixel, range of the corners."""

    at: np.ndarray
    step: np.ndarray
    pixel: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def of(self, rows: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        offset = np.stack([x, y], 1) - self.pixel[rows]
        code = self.at[rows] + (self.step[rows] * offset).sum(1)
        return np.clip(code.astype(np.int32), self.low[rows], self.high[rows])  # int32: wraps like the fast one


def _snap(vertices: np.ndarray, perspective: bool) -> tuple[np.ndarray, np.ndarray]:
    """Positions (V, 2) in 1/256 pixel and depth codes (V,), both int64; code -1 for a vertex that is not drawn."""
    z = vertices[:, 2].astype(np.float32)
    with np.errstate(invalid="ignore"):
        usable = np.asarray((np.abs(vertices[:, :2]) <= _GUARD_PIXELS).all(1) & (z >= 2.0**-60) & (z <= 2.0**60))
    position = np.rint(np.where(usable[:, None], vertices[:, :2], 0) * _SUBPIXELS).astype(np.int64)
    z = np.where(usable, z, np.float32(1))
    scaled = np.float32(1) / z if perspective else z
    largest = np.max(scaled, initial=np.float32(2.0**-60), where=usable)
    code = np.rint(np.ldexp(scaled, _DEPTH_BITS - np.frexp(largest)[1])).astype(np.int64)
    return position, np.where(usable, 2**_DEPTH_BITS - code if perspective else code, -1)


def _depth_codes(position: np.ndarray, code: np.ndarray, area: np.ndarray) -> _DepthCodes:
    """Depth planes of triangles with corners ``position`` (N, 3, 2) and ``code`` (N, 3), every float32 operation rounded alone."""
    side = (position[:, 1:] - position[:, :1]).astype(np.float32)
    rise = (code[:, 1:] - code[:, :1]).astype(np.float32)
    dx1, dy1, dx2, dy2 = side[:, 0, 0], side[:, 0, 1], side[:, 1, 0], side[:, 1, 1]
    estimate = dx1 * dy2 - dx2 * dy1
    divisor = np.where(np.abs(estimate) > _CERTAIN, estimate, area.astype(np.float32))
    slope = np.stack([rise[:, 0] * dy2 - rise[:, 1] * dy1, rise[:, 1] * dx1 - rise[:, 0] * dx2], 1) / divisor[:, None]
    per_pixel = slope * np.float32(_SUBPIXELS)
    steep: np.ndarray = np.asarray((np.abs(per_pixel) >= _STEEPEST).any(1))
    low, high = code.min(1), code.max(1)
    pixel = (position[:, 0] + _SUBPIXELS // 2) >> 8
    offset = (slope * ((pixel << 8) - position[:, 0]).astype(np.float32)).sum(1, dtype=np.float32)
    at = np.where(steep, (low + high) >> 1, code[:, 0] + np.rint(np.where(steep, 0, offset)).astype(np.int64))
    step = np.rint(np.where(steep[:, None], 0, per_pixel)).astype(np.int64)
    return _DepthCodes(at, step, pixel, low, high)


def rasterize_reference(
    vertices_pixels_depth: np.ndarray,
    triangles: np.ndarray,
    height: int,
    width: int,
    cull_back: bool = True,
    perspective: bool = True,
    snap: bool = False,
) -> ReferenceRaster:
    """Which triangle each pixel shows, by the rule at the top of this file.

    Args:
        vertices_pixels_depth: (V, 3) x and y in pixels, z = camera depth > 0 in metres.
        triangles: (F, 3) vertex indices, counter-clockwise from outside.
        perspective: perspective-correct barycentrics and depth; ``False`` gives those affine in the image.
        snap: the ids of `fitjax.render.rasterize`, pixel for pixel.

    Raises:
        FitjaxError: wrong shapes, or an index out of range.
    """
    vertices, triangles = check_mesh(vertices_pixels_depth, triangles)
    corners = vertices[triangles]
    exact, position, code, unit = corners[..., :2], corners[..., :2], None, 1
    if snap:
        snapped, codes = _snap(vertices, perspective)
        position, code, unit = snapped[triangles], codes[triangles], _SUBPIXELS
    side_1, side_2 = position[:, 1] - position[:, 0], position[:, 2] - position[:, 0]
    with np.errstate(invalid="ignore", over="ignore"):
        area = side_1[:, 0] * side_2[:, 1] - side_2[:, 0] * side_1[:, 1]
        usable = np.isfinite(corners).all((1, 2)) & (corners[..., 2] > 0).all(1) & np.isfinite(area)
        usable &= (area < 0) if cull_back else (area != 0)
        low = np.ceil(np.maximum(position.min(1) / unit, 0))  # NaN stays NaN and fails the comparison below
        high = np.floor(np.minimum(position.max(1) / unit, [width - 1, height - 1]))
        usable &= (high >= low).all(1)
    if code is not None:
        usable &= (code >= 0).all(1)
    kept = np.flatnonzero(usable)  # ascending, and so are ids below
    corners, exact, low_xy, size_xy = (
        corners[kept],
        exact[kept],
        low[kept].astype(int),
        (high - low)[kept].astype(int) + 1,
    )
    edges = _edges(position[kept], area[kept])
    planes = None if code is None else _depth_codes(position[kept], code[kept], area[kept])

    depth_of = np.full(height * width, np.inf)
    row_of = np.full(height * width, len(kept))
    first = 0
    ends = np.cumsum(size_xy.prod(1))
    while first < len(kept):
        done = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + _CANDIDATES_PER_CHUNK, "right")))
        # One row per (triangle, pixel of its bounding box).
        counts = size_xy[first:last].prod(1)
        rows = np.repeat(np.arange(first, last), counts)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        x = low_xy[rows, 0] + within % size_xy[rows, 0]
        y = low_xy[rows, 1] + within // size_xy[rows, 0]
        values = edges.at(rows, x * unit, y * unit)
        inside = ((values > 0) | ((values == 0) & edges.owned[rows])).all(1)
        rows, pixel = rows[inside], (y * width + x)[inside]
        if planes is None:
            depth = _weights(values[inside], corners[rows, :, 2], perspective)[1]
        else:
            depth = planes.of(rows, x[inside], y[inside])
        before = depth_of[pixel]
        np.minimum.at(depth_of, pixel, depth)
        nearest = depth_of[pixel]
        row_of[pixel[nearest < before]] = len(kept)
        wins = depth == nearest
        np.minimum.at(row_of, pixel[wins], rows[wins])
        first = last

    triangle_id = np.full(height * width, -1, np.int32)
    barycentric, depth_image = np.zeros((height * width, 3)), np.full(height * width, np.inf)
    pixel = np.flatnonzero(row_of < len(kept))
    rows = row_of[pixel]
    triangle_id[pixel] = kept[rows]
    if snap:  # the unrounded triangle; where that has no area, its first corner
        side_1, side_2 = exact[:, 1] - exact[:, 0], exact[:, 2] - exact[:, 0]
        area_exact = side_1[:, 0] * side_2[:, 1] - side_2[:, 0] * side_1[:, 1]
        edges = _edges(exact, area_exact)
    values = edges.at(rows, pixel % width, pixel // width)
    if snap:
        values[values.sum(1) == 0] = 1, 0, 0
    barycentric[pixel], depth_image[pixel] = _weights(values, corners[rows, :, 2], perspective)
    return ReferenceRaster(
        triangle_id.reshape(height, width), barycentric.reshape(height, width, 3), depth_image.reshape(height, width)
    )


def vertex_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Unit vertex normals (V, 3), area-weighted; (0, 0, 1) for a vertex without any area around it.

    Raises:
        FitjaxError: wrong shapes, or an index out of range.
    """
    vertices, triangles = check_mesh(vertices, triangles)
    corners = vertices[triangles]
    # Twice the area times the normal: large triangles count more, and zero-area ones add exactly nothing.
    face = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.stack(
        [np.bincount(triangles.ravel(), np.repeat(face[:, axis], 3), len(vertices)) for axis in range(3)], -1
    )
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    usable = np.isfinite(length) & (length > 1e-300)
    return np.where(usable, normals / np.where(usable, length, 1.0), [0.0, 0.0, 1.0])
