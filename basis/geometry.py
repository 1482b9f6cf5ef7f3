"""Geometry on triangle meshes in numpy: what the package has, and the alignment of many shapes at once."""

import numpy as np

from fitjax.geometry.host_mesh import (
    boundary_vertices,
    closest_on_triangles,
    closest_point,
    edges,
    graph_laplacian,
    similarity,
    surface_points,
    triangle_areas,
    vertex_normals,
)

__all__ = [
    "batched_similarity",
    "boundary_vertices",
    "closest_on_triangles",
    "closest_point",
    "edges",
    "graph_laplacian",
    "similarity",
    "surface_points",
    "triangle_areas",
    "vertex_normals",
]


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
