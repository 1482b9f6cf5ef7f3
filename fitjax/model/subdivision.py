"""Loop subdivision as a sparse matrix.

A basis is stored coarse. Refinement is linear in the vertices, so one matrix carries the mean and every mode; samples, UVs and the
mirror map follow by rules on the topology alone. Child order of triangle f: 4f, 4f+1, 4f+2 hold corners 0, 1, 2, and 4f+3 is the middle.

C. Loop, "Smooth subdivision surfaces based on triangles", 1987; boundary rules of Hoppe et al. 1994.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse


@dataclass(frozen=True)
class Subdivision:
    """One refinement step.

    Attributes:
        matrix: sparse (V', V), rows sum to one; refined vertices = matrix @ vertices. The first V rows are the old vertices.
        triangles: (4 F, 3) refined triangles.
        edges: (E, 2) old vertices whose edge became vertex V + row.
    """

    matrix: sparse.csr_matrix
    triangles: np.ndarray
    edges: np.ndarray


def unique_edges(triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges (E, 2) sorted, the edge of each side 01, 12, 20 of each triangle (F, 3), and the number of triangles per edge."""
    sides = np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    edges, inverse, count = np.unique(sides, axis=0, return_inverse=True, return_counts=True)
    return edges, inverse.reshape(-1, 3), count


def split_triangles(triangles: np.ndarray, side_edge: np.ndarray, n_vertices: int) -> np.ndarray:
    """Each triangle into four, in the order of the module's docstring."""
    m01, m12, m20 = (side_edge[:, k] + n_vertices for k in range(3))
    v0, v1, v2 = triangles.T
    children = np.stack([[v0, m01, m20], [v1, m12, m01], [v2, m20, m12], [m01, m12, m20]], 0)
    return np.ascontiguousarray(children.transpose(2, 0, 1).reshape(-1, 3)).astype(np.int32)


def loop_subdivision(triangles: np.ndarray, n_vertices: int) -> Subdivision:
    """Loop's scheme; edges without exactly two triangles are treated as boundary."""
    edges, side_edge, count = unique_edges(triangles)
    n_edges = len(edges)
    inner = count == 2

    # New vertices: 3/8 of both ends and 1/8 of both opposite corners inside, the midpoint on a boundary.
    opposite = triangles[:, [2, 0, 1]].reshape(-1)
    edge_of_opposite = side_edge.reshape(-1)
    keep = inner[edge_of_opposite]
    end_weight = np.where(inner, 3 / 8, 1 / 2)
    rows = [np.repeat(np.arange(n_edges), 2) + n_vertices, edge_of_opposite[keep] + n_vertices]
    columns = [edges.reshape(-1), opposite[keep]]
    values = [np.repeat(end_weight, 2), np.full(keep.sum(), 1 / 8)]

    # Old vertices: pulled towards their neighbours; on a boundary only along it.
    boundary_edges = edges[~inner]
    on_boundary = np.zeros(n_vertices, bool)
    on_boundary[boundary_edges.reshape(-1)] = True
    # A vertex where not exactly two boundary edges meet is a corner and stays.
    n_boundary = np.bincount(boundary_edges.reshape(-1), minlength=n_vertices)
    valence = np.bincount(edges.reshape(-1), minlength=n_vertices)
    n = np.maximum(valence, 1)
    beta = (5 / 8 - (3 / 8 + np.cos(2 * np.pi / n) / 4) ** 2) / n
    both = np.concatenate([edges, edges[:, ::-1]])
    inside = ~on_boundary[both[:, 0]] & (valence[both[:, 0]] > 0)
    along = np.concatenate([~inner, ~inner]) & (n_boundary[both[:, 0]] == 2)
    weight = np.where(inside, beta[both[:, 0]], np.where(along, 1 / 8, 0.0))
    used = weight > 0
    rows.append(both[used, 0])
    columns.append(both[used, 1])
    values.append(weight[used])
    rows.append(np.arange(n_vertices))
    columns.append(np.arange(n_vertices))
    values.append(1 - np.bincount(both[:, 0], weights=weight, minlength=n_vertices))

    shape = (n_vertices + n_edges, n_vertices)
    matrix = sparse.csr_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=shape)
    matrix.sum_duplicates()
    return Subdivision(matrix, split_triangles(triangles, side_edge, n_vertices), edges)


def refine_uv(uv: np.ndarray, uv_triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Texture coordinates of the refined mesh: midpoints on the UV topology, so that seams stay where they are."""
    edges, side_edge, _ = unique_edges(uv_triangles)
    return np.concatenate([uv, uv[edges].mean(1)]).astype(uv.dtype), split_triangles(uv_triangles, side_edge, len(uv))


def refine_mirror(mirror: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The mirror map of the refined vertices; an edge without a mirrored twin maps to itself."""
    n = len(mirror)
    key = edges[:, 0].astype(np.int64) * n + edges[:, 1]
    twin = np.sort(mirror[edges], axis=1)
    position = np.searchsorted(key, twin[:, 0].astype(np.int64) * n + twin[:, 1])
    position = np.minimum(position, len(edges) - 1)
    found = (edges[position] == twin).all(1)
    return np.concatenate([mirror, n + np.where(found, position, np.arange(len(edges)))]).astype(np.int32)


def refine_samples(triangle: np.ndarray, barycentric: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The child triangle and barycentrics of samples: the same point of the parametric surface."""
    corner = np.argmax(barycentric, axis=1)
    in_corner = barycentric[np.arange(len(corner)), corner] >= 0.5
    # Corner children start at their own corner and go round in the parent's order.
    rolled = np.stack([np.take_along_axis(barycentric, ((corner + k) % 3)[:, None], 1)[:, 0] for k in range(3)], 1)
    corner_weights = np.stack([2 * rolled[:, 0] - 1, 2 * rolled[:, 1], 2 * rolled[:, 2]], 1)
    a, b, c = barycentric.T
    middle_weights = np.stack([a + b - c, b + c - a, c + a - b], 1)
    child = 4 * triangle.astype(np.int64) + np.where(in_corner, corner, 3)
    return child.astype(np.int32), np.where(in_corner[:, None], corner_weights, middle_weights).astype(barycentric.dtype)
