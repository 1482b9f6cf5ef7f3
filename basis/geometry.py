"""Geometry on triangle meshes in numpy: normals, nearest surface points, Laplacians, similarity alignment."""

import numpy as np
import scipy.sparse as sp
from scipy.spatial import cKDTree


def vertex_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Unit normals (V, 3), weighted by area; zero where a vertex has no triangle."""
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    face = np.cross(b - a, c - a)
    normals = np.zeros_like(vertices)
    for k in range(3):
        np.add.at(normals, triangles[:, k], face)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-20)


def triangle_areas(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Areas (F,)."""
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    return 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1)


def edges(triangles: np.ndarray) -> np.ndarray:
    """The undirected edges (3F, 2), smaller index first, one row per triangle side."""
    return np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1)


def boundary_vertices(triangles: np.ndarray) -> np.ndarray:
    """Vertices on sides that belong to a single triangle."""
    unique, count = np.unique(edges(triangles), axis=0, return_counts=True)
    return np.unique(unique[count == 1])


def graph_laplacian(triangles: np.ndarray, count: int) -> sp.csr_matrix:
    """Row-normalised uniform Laplacian (count, count): a vertex minus the mean of its neighbours."""
    pair = np.unique(edges(triangles), axis=0)
    pair = pair[pair[:, 0] != pair[:, 1]]
    one = np.ones(len(pair))
    adjacency = sp.coo_matrix((one, (pair[:, 0], pair[:, 1])), (count, count))
    adjacency = (adjacency + adjacency.T).tocsr()
    degree = np.asarray(adjacency.sum(1)).ravel()
    return (sp.diags((degree > 0).astype(float)) - sp.diags(1 / np.maximum(degree, 1)) @ adjacency).tocsr()


def closest_on_triangles(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Barycentrics (..., 3) of the point of each triangle (..., 3, 3) that is nearest to `points` (..., 3)."""
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


def closest_point(
    points: np.ndarray, vertices: np.ndarray, triangles: np.ndarray, neighbours: int = 16
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nearest point on a mesh: triangle (P,), barycentric (P, 3), distance (P,).

    Only the `neighbours` triangles with the nearest centroids are looked at, which is exact enough on even meshes.
    """
    tree = cKDTree(vertices[triangles].mean(1))
    near = tree.query(points, k=min(neighbours, len(triangles)))[1]
    corners = vertices[triangles[near]]
    barycentric = closest_on_triangles(np.repeat(points[:, None], near.shape[1], 1), corners)
    distance = np.linalg.norm(np.einsum("pkj,pkjc->pkc", barycentric, corners) - points[:, None], axis=-1)
    best, row = distance.argmin(1), np.arange(len(points))
    return near[row, best], barycentric[row, best], distance[row, best]


def surface_points(
    vertices: np.ndarray, triangles: np.ndarray, triangle: np.ndarray, barycentric: np.ndarray
) -> np.ndarray:
    """Positions (S, 3) of samples given as (triangle, barycentric)."""
    return np.einsum("sk,skc->sc", barycentric, vertices[triangles[triangle]])


def similarity(source: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Scale, rotation and translation with `scale * source @ rotation.T + translation` nearest to `target`."""
    source_mean, target_mean = source.mean(0), target.mean(0)
    a, b = source - source_mean, target - target_mean
    u, s, vt = np.linalg.svd(b.T @ a)
    flip = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ np.diag(flip) @ vt
    scale = float((s * flip).sum() / (a * a).sum())
    return scale, rotation, target_mean - scale * rotation @ source_mean


def batched_similarity(shapes: np.ndarray, reference: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Align every shape (N, V, 3) to the reference (V, 3) on the `chosen` vertices."""
    target = reference[chosen]
    target_mean = target.mean(0)
    source = shapes[:, chosen]
    source_mean = source.mean(1, keepdims=True)
    a, b = source - source_mean, target - target_mean
    u, s, vt = np.linalg.svd(np.einsum("vi,nvj->nij", b, a))
    flip = np.ones_like(s)
    flip[:, 2] = np.sign(np.linalg.det(u @ vt))
    rotation = (u * flip[:, None]) @ vt
    scale = (s * flip).sum(1) / (a * a).sum((1, 2))
    return scale[:, None, None] * np.einsum("nvj,nij->nvi", shapes - source_mean, rotation) + target_mean
