"""Non-rigid registration of one face mesh to another, to carry landmarks and parts over.

Optimal-step non-rigid ICP (Amberg, Romdhani and Vetter, CVPR 2007) in its simplest form: per-vertex displacements, a Laplacian smoothness whose
weight falls from round to round, nearest surface points, and a few known pairs that fade out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int
from scipy.sparse.linalg import splu

from fitjax.geometry.host_mesh import (
    SurfaceIndex,
    boundary_vertices,
    graph_laplacian,
    similarity,
    surface_points,
    vertex_normals,
)


@dataclass(frozen=True)
class Round:
    """One round of the registration.

    Attributes:
        stiffness: weight of the smoothness of the displacements. pairs: weight of the known pairs. steps: searches for nearest points.
    """

    stiffness: float
    pairs: float
    steps: int = 4


#: Scale, rotation (3, 3), translation (3,).
Similarity = tuple[float, np.ndarray, np.ndarray]

SCHEDULE = (
    Round(1000, 40), Round(300, 40), Round(100, 30), Round(30, 20), Round(10, 10), Round(3, 5), Round(1, 3), Round(0.3, 2),
)  # fmt: skip


def register(
    start: Float[np.ndarray, "N 3"],
    source_triangles: Int[np.ndarray, "G 3"],
    target: Float[np.ndarray, "V 3"],
    target_triangles: Int[np.ndarray, "F 3"],
    pairs: sp.spmatrix,
    pair_point: Float[np.ndarray, "S 3"],
    *,
    schedule: tuple[Round, ...] = SCHEDULE,
    reach: float = 0.02,
    aligned_normals: float = 0.5,
    neighbours: int = 16,
) -> Float[np.ndarray, "N 3"]:
    """Deform ``start``, which lies roughly on the target already, onto the target's surface. Metres.

    Args:
        pairs: sparse (S, N) weights; ``pairs @ vertices`` are points of the source that belong at ``pair_point``.
        reach, aligned_normals: nearest points farther than this, with normals more than acos(``aligned_normals``) apart, or on the target's
            boundary are not trusted. neighbours: triangles among which the nearest is looked for.
    """
    count = len(start)
    laplacian = graph_laplacian(source_triangles, count)
    smoothness = laplacian.T @ laplacian + 0.15 * laplacian.T @ sp.identity(count) @ laplacian
    index = SurfaceIndex(target, target_triangles)
    target_normals = vertex_normals(target, target_triangles)
    on_boundary = np.zeros(len(target), bool)
    on_boundary[boundary_vertices(target_triangles)] = True
    known, pulled = (pairs.T @ pairs).tocsr(), pairs.T @ (pair_point - pairs @ start)
    position = start.copy()
    for stage in schedule:
        for _ in range(stage.steps):
            triangle, barycentric, distance = index.closest(position, neighbours=neighbours)
            corners = target_triangles[triangle]
            normal = np.einsum("pk,pkc->pc", barycentric, target_normals[corners])
            agrees = (normal * vertex_normals(position, source_triangles)).sum(1) > aligned_normals
            edge = (on_boundary[corners] & (barycentric > 0.01)).any(1)
            trusted = (agrees & (distance < reach) & ~edge).astype(float)
            nearest = surface_points(target, target_triangles, triangle, barycentric)
            system = sp.diags(trusted + 1e-9) + stage.pairs * known + stage.stiffness * smoothness
            pull = trusted[:, None] * (nearest - start) + stage.pairs * pulled
            position = start + _solve(system, pull)
    return position


def _solve(system: sp.spmatrix, right: np.ndarray) -> np.ndarray:
    """Symmetric, positive definite: an ordering made for that, and no pivots, take a fraction of the default's time."""
    symmetric = {"SymmetricMode": True}
    return splu(system.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=symmetric).solve(right)


#: Where trimmed ICP starts: nose tips together, then heads shifted up and down (metres) and nodding (degrees).
_SHIFTS, _PITCHES = (-0.02, 0.0, 0.02), (-10.0, 0.0, 10.0)


def align_surfaces(
    source: Float[np.ndarray, "N 3"],
    normals: Float[np.ndarray, "N 3"],
    target: Float[np.ndarray, "V 3"],
    target_triangles: Int[np.ndarray, "F 3"],
    *,
    keep: float = 0.7,
) -> tuple[float, np.ndarray, np.ndarray]:
    """Similarity (scale, rotation, translation) that lays a face on another without any known pair: trimmed ICP (Chetverikov et al., ICPR 2002).

    Both look along +z with +y up, so that the nose is what is farthest in front; sizes differ by a third at most. Several starts are followed for
    a few steps with every eighth point, the best one to the end.

    Args:
        keep: the share of points, those nearest, that counts.
    """
    index = SurfaceIndex(target, target_triangles)
    tip, goal = source[source[:, 2].argmax()], target[target_triangles].reshape(-1, 3)
    goal = goal[goal[:, 2].argmax()]

    def follow(start: Similarity, rows: np.ndarray, steps: int) -> tuple[float, Similarity]:
        (scale, rotation, translation), left = start, np.inf
        for _ in range(steps):
            placed = scale * source[rows] @ rotation.T + translation
            triangle, barycentric, distance = index.closest(
                placed, normals[rows] @ rotation.T, neighbours=8, agreement=0.5
            )
            chosen = distance <= np.quantile(distance, keep)
            nearest = surface_points(target, target_triangles, triangle[chosen], barycentric[chosen])
            scale, rotation, translation = similarity(source[rows][chosen], nearest)
            left = float(distance[chosen].mean()) / scale
        return left, (scale, rotation, translation)

    few, found = np.arange(0, len(source), 8), []
    for shift in _SHIFTS:
        for pitch in np.radians(_PITCHES):
            rotation = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
            found.append(follow((1.0, rotation, goal - rotation @ tip + [0, shift, 0]), few, 12))
    return follow(min(found, key=lambda f: f[0])[1], np.arange(len(source)), 60)[1]
