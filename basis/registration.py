"""Non-rigid registration of one face mesh to another, to carry landmarks over.

Optimal-step non-rigid ICP (Amberg, Romdhani and Vetter, CVPR 2007) in its simplest form: per-vertex displacements, a
Laplacian smoothness whose weight falls from round to round, nearest surface points, and a few known pairs that fade out.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from basis.geometry import boundary_vertices, closest_point, graph_laplacian, similarity, surface_points, vertex_normals


@dataclass(frozen=True)
class Round:
    """One round of the registration."""

    stiffness: float
    """Weight of the smoothness of the displacements."""
    pairs: float
    """Weight of the known pairs."""
    steps: int = 4


SCHEDULE = (
    Round(1000, 40), Round(300, 40), Round(100, 30), Round(30, 20), Round(10, 10), Round(3, 5), Round(1, 3), Round(0.3, 2),
)  # fmt: skip


def register(
    source: np.ndarray,
    source_triangles: np.ndarray,
    target: np.ndarray,
    target_triangles: np.ndarray,
    pair_index: np.ndarray,
    pair_point: np.ndarray,
    *,
    schedule: tuple[Round, ...] = SCHEDULE,
    reach: float = 0.02,
    aligned_normals: float = 0.5,
) -> np.ndarray:
    """Deform `source` (N, 3) onto the target surface; `pair_index` are source vertices whose place `pair_point` is known.

    Nearest points farther than `reach` metres, with normals more than acos(`aligned_normals`) apart, or on the target's
    boundary are not trusted.
    """
    scale, rotation, translation = similarity(source[pair_index], pair_point)
    start = scale * source @ rotation.T + translation
    count = len(source)
    laplacian = graph_laplacian(source_triangles, count)
    smoothness = laplacian.T @ laplacian + 0.15 * laplacian.T @ sp.identity(count) @ laplacian
    target_normals = vertex_normals(target, target_triangles)
    on_boundary = np.zeros(len(target), bool)
    on_boundary[boundary_vertices(target_triangles)] = True
    known = np.zeros(count)
    known[pair_index] = 1
    goal = np.zeros_like(source)
    goal[pair_index] = pair_point
    position = start.copy()
    for stage in schedule:
        for _ in range(stage.steps):
            triangle, barycentric, distance = closest_point(position, target, target_triangles)
            corners = target_triangles[triangle]
            normal = np.einsum("pk,pkc->pc", barycentric, target_normals[corners])
            agrees = (normal * vertex_normals(position, source_triangles)).sum(1) > aligned_normals
            edge = (on_boundary[corners] & (barycentric > 0.01)).any(1)
            trusted = (agrees & (distance < reach) & ~edge).astype(float)
            nearest = surface_points(target, target_triangles, triangle, barycentric)
            weight = trusted + stage.pairs * known
            system = sp.diags(weight + 1e-9) + stage.stiffness * smoothness
            pull = trusted[:, None] * (nearest - start) + stage.pairs * known[:, None] * (goal - start)
            position = start + splu(system.tocsc()).solve(pull)
    return position
