"""The eight parts on another mesh: labels carried over from ours, then samples and a map in texture space.

Labels are asked of points of the surface, so nothing depends on how dense either mesh is.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from fitjax.geometry.host_mesh import SurfaceIndex, surface_points, triangle_areas, triangle_normals
from fitjax.model.basis_file import Basis
from fitjax.observation.part_tables import LEFT_LOWER_LID, LEFT_UPPER_LID, PARTS, RIGHT_LOWER_LID, RIGHT_UPPER_LID
from fitjax.render.reference import rasterize_reference

#: Samples per part, as in the embedded basis.
SAMPLES = {part: 1024 if part == "skin" else 512 for part in PARTS}

#: Points to choose each sample from: more give evener samples and take longer.
_CANDIDATES = 12

#: Points of the target farther than this (metres) from ours belong to no part.
_REACH = 0.006

#: Points farther from any labelled point of ours are not looked at: the search for nearest points takes most of the time.
_NEAR = 0.015

_SKIN_PART = PARTS.index("skin") + 1

#: (triangle, barycentric) of points of a mesh → their parts, 0 to 8.
Labeller = Callable[[Int[np.ndarray, "P"], Float[np.ndarray, "P 3"]], Int[np.ndarray, "P"]]


def covered_map(
    parts: UInt8[np.ndarray, "H W"], uv: Float[np.ndarray, "T 2"], uv_triangles: Int[np.ndarray, "F 3"]
) -> UInt8[np.ndarray, "H W"]:
    """A map of parts with the texels that no triangle covers filled from their nearest: at a seam, nothing would outvote the part."""
    height, width = parts.shape
    covered, _ = _texels(uv, uv_triangles, height, width)
    rows, columns = distance_transform_edt(covered < 0, return_distances=False, return_indices=True)
    return parts[rows, columns]


def part_at(parts: UInt8[np.ndarray, "H W"], uv: Float[np.ndarray, "P 2"]) -> Int[np.ndarray, "P"]:
    """Parts at texture coordinates, origin bottom-left, by a bilinear vote: outlines finer than texels."""
    height, width = parts.shape
    x = np.clip(uv[:, 0] * width - 0.5, 0, width - 1)
    y = np.clip((1 - uv[:, 1]) * height - 0.5, 0, height - 1)
    left, top = np.minimum(x.astype(int), width - 2), np.minimum(y.astype(int), height - 2)
    fx, fy = x - left, y - top
    votes = np.zeros((len(uv), len(PARTS) + 1))
    for row, column, weight in (
        (0, 0, (1 - fy) * (1 - fx)),
        (0, 1, (1 - fy) * fx),
        (1, 0, fy * (1 - fx)),
        (1, 1, fy * fx),
    ):
        np.add.at(votes, (np.arange(len(uv)), parts[top + row, left + column]), weight)
    return votes.argmax(1)


def labeller(
    vertices: Float[np.ndarray, "V 3"],
    triangles: Int[np.ndarray, "F 3"],
    region: Int[np.ndarray, "F"],
    ours: Float[np.ndarray, "N 3"],
    our_triangles: Int[np.ndarray, "G 3"],
    our_corner_uv: Float[np.ndarray, "G 3 2"],
    parts: UInt8[np.ndarray, "H W"],
    contours: Float[np.ndarray, "478 3"],
) -> Labeller:
    """Which part points of a mesh belong to, given our surface laid upon it.

    Skin has the part of the nearest point of our skin that faces the same way. An eye is what shows of the eyeball between the mesh's *own* lids,
    from the front; of a mesh without eyeballs, all that shows there.

    Args:
        vertices, triangles, region: the mesh, in our frame. ours, our_triangles, our_corner_uv: our skin, deformed. parts: our map, from
            :func:`covered_map`. contours: FaceMesh's points on the mesh.
    """
    normals = triangle_normals(vertices, triangles)
    index = SurfaceIndex(ours, our_triangles)
    middle = our_corner_uv.mean(1)
    known = cKDTree(ours[our_triangles[part_at(parts, middle) > 0]].mean(1))
    eyeball, side = region == 1, np.sign(vertices[triangles].mean(1)[:, 0])
    lids = (
        (1, contours[[*RIGHT_UPPER_LID, *RIGHT_LOWER_LID[::-1]]], eyeball & (side < 0)),
        (2, contours[[*LEFT_UPPER_LID, *LEFT_LOWER_LID[::-1]]], eyeball & (side > 0)),
    )

    def label(triangle: np.ndarray, barycentric: np.ndarray) -> np.ndarray:
        points = surface_points(vertices, triangles, triangle, barycentric)
        result = np.zeros(len(points), int)
        skin = np.flatnonzero(region[triangle] == 0)
        skin = skin[known.query(points[skin], distance_upper_bound=_NEAR)[0] < _NEAR]
        found, weight, distance = index.closest(points[skin], normals[triangle[skin]])
        here = part_at(parts, np.einsum("pk,pkc->pc", weight, our_corner_uv[found]))
        # The rim of a lid may have a texel of eye; what eye is, is asked below.
        here[(here == 1) | (here == 2)] = _SKIN_PART
        result[skin] = np.where(distance < _REACH, here, 0)
        for number, outline, ball in lids:
            allowed = ball[triangle] if ball.any() else region[triangle] == 0
            # The back of the ball lies behind the same opening.
            front = (normals[triangle, 2] > 0) & (points[:, 2] > outline[:, 2].min() - 0.01)
            chosen = np.flatnonzero(allowed & front)
            result[chosen[_inside(points[chosen, :2], outline[:, :2])]] = number
        return result

    return label


def _inside(points: Float[np.ndarray, "P 2"], polygon: Float[np.ndarray, "N 2"]) -> Bool[np.ndarray, "P"]:
    """Whether points lie in a polygon: a ray to +x crosses its sides an odd number of times."""
    start, end = polygon, np.roll(polygon, -1, 0)
    across = (start[:, 1] > points[:, None, 1]) != (end[:, 1] > points[:, None, 1])
    rise = np.where(start[:, 1] == end[:, 1], 1.0, end[:, 1] - start[:, 1])
    at = start[:, 0] + (points[:, None, 1] - start[:, 1]) / rise * (end[:, 0] - start[:, 0])
    return ((across & (points[:, None, 0] < at)).sum(1) % 2).astype(bool)


def part_map(
    label: Labeller, uv: Float[np.ndarray, "T 2"], uv_triangles: Int[np.ndarray, "F 3"], size: int
) -> UInt8[np.ndarray, "S S"]:
    """Parts in texture space, row 0 at v = 1; zero where no triangle lies."""
    triangle, barycentric = _texels(uv, uv_triangles, size, size)
    hit = triangle >= 0
    result = np.zeros((size, size), np.uint8)
    result[hit] = label(triangle[hit], barycentric[hit])
    return result


def texture_map(
    vertices: Float[np.ndarray, "V 3"],
    triangles: Int[np.ndarray, "F 3"],
    region: Int[np.ndarray, "F"],
    uv: Float[np.ndarray, "T 2"],
    uv_triangles: Int[np.ndarray, "F 3"],
    ours: Float[np.ndarray, "N 3"],
    basis: Basis,
    size: int,
) -> Float[np.ndarray, "S S 2"]:
    """Where on our texture each texel of another mesh's lies, row 0 at v = 1: skin on skin, eyeball on eyeball. Texels that no triangle covers have
    the place of their nearest.

    Args:
        vertices, triangles, region, uv, uv_triangles: the mesh, in our frame. ours: our vertices, deformed; ``basis``: their triangles and texture.
    """
    triangle, barycentric = _texels(uv, uv_triangles, size, size)
    hit = triangle >= 0
    chosen, weight = triangle[hit], barycentric[hit]
    points = surface_points(vertices, triangles, chosen, weight)
    normals = triangle_normals(vertices, triangles)[chosen]
    place = np.zeros((len(points), 2))
    for kind in np.unique(region[chosen]):
        rows = np.flatnonzero(region[chosen] == kind)
        same = basis.triangle_region == kind
        index = SurfaceIndex(ours, basis.triangles, same if same.any() else basis.triangle_region == 0)
        found, inside, _ = index.closest(points[rows], normals[rows])
        place[rows] = np.einsum("pk,pkc->pc", inside, basis.uv[basis.uv_triangles[found]].astype(float))
    result = np.zeros((size, size, 2))
    result[hit] = place
    nearest = distance_transform_edt(~hit, return_distances=False, return_indices=True)
    return result[tuple(nearest)]


def _texels(uv: np.ndarray, uv_triangles: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Triangle (H, W), -1 for none, and barycentrics (H, W, 3) at the middle of each texel."""
    screen = np.concatenate([uv * [width, -height] + [-0.5, height - 0.5], np.ones((len(uv), 1))], 1)
    raster = rasterize_reference(screen, uv_triangles, height, width, perspective=False, cull_back=False)
    return raster.triangle_id, raster.barycentric


def part_samples(
    label: Labeller, vertices: Float[np.ndarray, "V 3"], triangles: Int[np.ndarray, "F 3"]
) -> dict[str, tuple[Int[np.ndarray, "S"], Float[np.ndarray, "S 3"]]]:
    """Area-uniform, evenly spaced samples of each part: always the same for the same mesh. A part without area is left out."""
    area = triangle_areas(vertices, triangles)
    every = np.arange(len(triangles))
    probes = (*(np.eye(3) / 2 + 1 / 6), np.full(3, 1 / 3))
    at = np.stack([label(every, np.broadcast_to(w, (len(every), 3))) for w in probes], 1)
    result = {}
    for number, part in enumerate(PARTS, 1):
        inside = (at == number).mean(1) > 0
        share = float(((at == number).mean(1) * area).sum() / max((area * inside).sum(), 1e-30))
        count = SAMPLES[part] * _CANDIDATES
        for _ in range(4):
            if share <= 0:
                break
            triangle, barycentric = uniform_points(area * inside, int(1.2 * count / share))
            chosen = label(triangle, barycentric) == number
            if chosen.sum() >= count // 2:
                triangle, barycentric = triangle[chosen], barycentric[chosen]
                thin = _farthest_points(surface_points(vertices, triangles, triangle, barycentric), SAMPLES[part])
                result[part] = (triangle[thin], barycentric[thin])
                break
            share = share / 3 if chosen.any() else share / 10
    return result


def uniform_points(area: Float[np.ndarray, "F"], count: int) -> tuple[Int[np.ndarray, "S"], Float[np.ndarray, "S 3"]]:
    """Points uniform by area: equal steps along the summed areas choose triangles, the R2 sequence (Roberts 2018) places points in them."""
    total = np.cumsum(area)
    triangle = np.searchsorted(total, (np.arange(count) + 0.5) / count * total[-1])
    golden = 1.32471795724474602596
    r, s = (((np.arange(count) + 1) / golden**k) % 1 for k in (1, 2))
    r = np.sqrt(r)
    return np.minimum(triangle, len(area) - 1), np.stack([1 - r, r * (1 - s), r * s], 1)


def _farthest_points(points: Float[np.ndarray, "P 3"], count: int) -> Int[np.ndarray, "S"]:
    """Points chosen greedily, each farthest from those before."""
    chosen = np.zeros(count, int)
    distance = np.full(len(points), np.inf)
    for k in range(1, count):
        distance = np.minimum(distance, ((points - points[chosen[k - 1]]) ** 2).sum(1))
        chosen[k] = distance.argmax()
    return chosen
