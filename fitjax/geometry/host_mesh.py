"""Geometry on triangle meshes in numpy, on the host: normals, nearest surface points, Laplacians, similarity alignment."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree

#: Points handled at a time by :meth:`SurfaceIndex.closest`: bounds memory at some 50 MB.
_CHUNK = 16384


def vertex_normals(vertices: Float[np.ndarray, "V 3"], triangles: Int[np.ndarray, "F 3"]) -> Float[np.ndarray, "V 3"]:
    """Unit normals, weighted by area; zero where a vertex has no triangle."""
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    face = np.cross(b - a, c - a)
    normals = np.zeros_like(vertices)
    for k in range(3):
        np.add.at(normals, triangles[:, k], face)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-20)


def triangle_areas(vertices: Float[np.ndarray, "V 3"], triangles: Int[np.ndarray, "F 3"]) -> Float[np.ndarray, "F"]:
    """Areas, in squared units of the vertices."""
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    return 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1)


def triangle_normals(vertices: Float[np.ndarray, "V 3"], triangles: Int[np.ndarray, "F 3"]) -> Float[np.ndarray, "F 3"]:
    """Unit normals of triangles; zero without area."""
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    face = np.cross(b - a, c - a)
    return face / np.maximum(np.linalg.norm(face, axis=1, keepdims=True), 1e-20)


def edges(triangles: Int[np.ndarray, "F 3"]) -> Int[np.ndarray, "F3 2"]:
    """The undirected edges, smaller index first, one row per triangle side."""
    return np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1)


def boundary_vertices(triangles: Int[np.ndarray, "F 3"]) -> Int[np.ndarray, "B"]:
    """Vertices on sides that belong to a single triangle."""
    unique, count = np.unique(edges(triangles), axis=0, return_counts=True)
    return np.unique(unique[count == 1])


def graph_laplacian(triangles: Int[np.ndarray, "F 3"], count: int) -> sp.csr_matrix:
    """Row-normalised uniform Laplacian (count, count): a vertex minus the mean of its neighbours."""
    pair = np.unique(edges(triangles), axis=0)
    pair = pair[pair[:, 0] != pair[:, 1]]
    one = np.ones(len(pair))
    adjacency = sp.coo_matrix((one, (pair[:, 0], pair[:, 1])), (count, count))
    adjacency = (adjacency + adjacency.T).tocsr()
    degree = np.asarray(adjacency.sum(1)).ravel()
    return (sp.diags((degree > 0).astype(float)) - sp.diags(1 / np.maximum(degree, 1)) @ adjacency).tocsr()


def vertex_components(vertices: Float[np.ndarray, "V 3"], triangles: Int[np.ndarray, "F 3"]) -> Int[np.ndarray, "V"]:
    """Number of the connected piece of each vertex. Vertices at the same place count as one: seams of textures double them."""
    grid = np.rint((vertices - vertices.min(0)) / max(float(np.ptp(vertices)), 1e-30) * 2**20).astype(np.int64)
    welded = np.unique(grid, axis=0, return_inverse=True)[1].reshape(-1)
    sides = edges(welded[triangles])
    count = int(welded.max()) + 1
    graph = sp.coo_matrix((np.ones(len(sides)), (sides[:, 0], sides[:, 1])), (count, count))
    return sp.csgraph.connected_components(graph, directed=False)[1][welded]


def closest_on_triangles(
    points: Float[np.ndarray, "*b 3"], corners: Float[np.ndarray, "*b 3 3"]
) -> Float[np.ndarray, "*b 3"]:
    """Barycentrics of the point of each triangle that is nearest to ``points``."""
    a, b, c = corners[..., 0, :], corners[..., 1, :], corners[..., 2, :]

    def on_segment(start: np.ndarray, end: np.ndarray) -> np.ndarray:
        side = end - start
        t = ((points - start) * side).sum(-1) / np.maximum((side * side).sum(-1), 1e-30)
        return np.clip(t, 0, 1)

    ab, ac, ap = b - a, c - a, points - a
    d00, d01, d11 = (ab * ab).sum(-1), (ab * ac).sum(-1), (ac * ac).sum(-1)
    d20, d21 = (ap * ab).sum(-1), (ap * ac).sum(-1)
    area = np.maximum(d00 * d11 - d01 * d01, 1e-30)
    v, w = (d11 * d20 - d01 * d21) / area, (d00 * d21 - d01 * d20) / area
    plane = np.stack([1 - v - w, v, w], -1)
    zero = np.zeros_like(v)
    s, t, u = on_segment(a, b), on_segment(b, c), on_segment(c, a)
    candidates = np.stack(
        [plane, np.stack([1 - s, s, zero], -1), np.stack([zero, 1 - t, t], -1), np.stack([u, zero, 1 - u], -1)], -2
    )
    distance = np.linalg.norm(np.einsum("...qk,...kc->...qc", candidates, corners) - points[..., None, :], axis=-1)
    distance[..., 0] = np.where((plane >= 0).all(-1), distance[..., 0], np.inf)
    best = distance.argmin(-1)
    return np.take_along_axis(candidates, best[..., None, None], -2)[..., 0, :]


class SurfaceIndex:
    """Nearest points on one mesh, or on some triangles of it.

    Only the triangles with the nearest centroids are looked at, which is exact enough on even meshes.
    """

    def __init__(
        self,
        vertices: Float[np.ndarray, "V 3"],
        triangles: Int[np.ndarray, "F 3"],
        chosen: Bool[np.ndarray, "F"] | None = None,
    ):
        self._chosen = np.arange(len(triangles)) if chosen is None else np.flatnonzero(chosen)
        self._corners = vertices[triangles[self._chosen]]
        self._normals = triangle_normals(vertices, triangles[self._chosen])
        middle = self._corners.mean(1)
        self._radius = np.linalg.norm(self._corners - middle[:, None], axis=2).max(1)
        self._tree = cKDTree(middle)

    def closest(
        self,
        points: Float[np.ndarray, "P 3"],
        normals: Float[np.ndarray, "P 3"] | None = None,
        *,
        neighbours: int = 16,
        agreement: float = 0.0,
    ) -> tuple[Int[np.ndarray, "P"], Float[np.ndarray, "P 3"], Float[np.ndarray, "P"]]:
        """Triangle (an index into all triangles of the mesh), barycentrics, distance.

        With unit ``normals``, triangles whose own normal has a cosine of less than ``agreement`` to them count only where no other is a candidate:
        of two lips that touch, the point of the upper one is found on the upper one.
        """
        neighbours = min(neighbours, len(self._chosen))
        parts = [self._closest(points[:0], None, neighbours, agreement)]
        for k in range(0, len(points), _CHUNK):
            rows = slice(k, k + _CHUNK)
            parts.append(self._closest(points[rows], None if normals is None else normals[rows], neighbours, agreement))
        triangle, barycentric, distance = (np.concatenate(x) for x in zip(*parts))
        return triangle, barycentric, distance

    def _closest(
        self, points: np.ndarray, normals: np.ndarray | None, neighbours: int, agreement: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        away, near = (x.reshape(len(points), neighbours) for x in self._tree.query(points, k=neighbours))
        # Triangles that face another way count as farther than any other candidate.
        penalty = np.zeros_like(away)
        if normals is not None:
            against = np.einsum("pkc,pc->pk", self._normals[near], normals) < agreement
            penalty = against * 4 * (away.max(initial=0) + self._radius.max(initial=0))
        # The centroid is on the surface: what lies farther than the best one by more than its own size cannot be nearest.
        bound = away + penalty
        row, column = np.nonzero(bound - self._radius[near] <= bound.min(1, keepdims=True))
        corners = self._corners[near[row, column]]
        weights = closest_on_triangles(points[row], corners)
        distance = np.linalg.norm(np.einsum("pj,pjc->pc", weights, corners) - points[row], axis=-1)
        order = np.lexsort((distance + penalty[row, column], row))
        best = order[np.searchsorted(row[order], np.arange(len(points)))]
        return self._chosen[near[row[best], column[best]]], weights[best], distance[best]


def closest_point(
    points: Float[np.ndarray, "P 3"],
    vertices: Float[np.ndarray, "V 3"],
    triangles: Int[np.ndarray, "F 3"],
    neighbours: int = 16,
) -> tuple[Int[np.ndarray, "P"], Float[np.ndarray, "P 3"], Float[np.ndarray, "P"]]:
    """Nearest point on a mesh: triangle, barycentric, distance. See :class:`SurfaceIndex`, which serves many calls."""
    return SurfaceIndex(vertices, triangles).closest(points, neighbours=neighbours)


def surface_points(
    vertices: Float[np.ndarray, "V C"],
    triangles: Int[np.ndarray, "F 3"],
    triangle: Int[np.ndarray, "S"],
    barycentric: Float[np.ndarray, "S 3"],
) -> Float[np.ndarray, "S C"]:
    """Positions of samples given as (triangle, barycentric); ``vertices`` may hold anything that is interpolated."""
    return np.einsum("sk,skc->sc", barycentric, vertices[triangles[triangle]])


def similarity(
    source: Float[np.ndarray, "N 3"], target: Float[np.ndarray, "N 3"]
) -> tuple[float, np.ndarray, np.ndarray]:
    """Scale, rotation and translation with ``scale * source @ rotation.T + translation`` nearest to ``target``."""
    source_mean, target_mean = source.mean(0), target.mean(0)
    a, b = source - source_mean, target - target_mean
    u, s, vt = np.linalg.svd(b.T @ a)
    flip = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ np.diag(flip) @ vt
    scale = float((s * flip).sum() / (a * a).sum())
    return scale, rotation, target_mean - scale * rotation @ source_mean


def fit_sphere(points: Float[np.ndarray, "N 3"]) -> tuple[np.ndarray, float, float]:
    """Centre, radius and root mean square distance from it, of the best sphere through points (in the algebraic sense)."""
    centred = points - points.mean(0)
    system = np.concatenate([2 * centred, np.ones((len(points), 1))], 1)
    solved = np.linalg.lstsq(system, (centred**2).sum(1), rcond=None)[0]
    radius = float(np.sqrt(max(solved[3] + (solved[:3] ** 2).sum(), 0.0)))
    off = np.linalg.norm(centred - solved[:3], axis=1) - radius
    return solved[:3] + points.mean(0), radius, float(np.sqrt((off**2).mean()))
