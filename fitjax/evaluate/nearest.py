"""Exact distances from points to a triangle mesh, on the host.

Candidates come from k-d trees of the triangles' centroids, one tree per octave of triangle size. A triangle of radius r (centroid to farthest
corner) can only hold the nearest point if its centroid is nearer than the best distance so far plus r; the number of candidates grows until nothing
that was not looked at can be nearer. So a few large triangles among many small ones cost little and are never missed.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import cKDTree

from fitjax.errors import FitjaxError
from fitjax.geometry.host_mesh import closest_on_triangles

#: Points handled at a time: bounds memory at some 100 MB.
_CHUNK = 16384
_FIRST = 8


class ExactSurface:
    """A mesh to which distances are asked, and where its surface is.

    Args:
        vertices: (V, 3), any unit. triangles: (F, 3) indices; those without area count as the segment or point that they are.

    Raises:
        FitjaxError: no triangles, a vertex that a triangle uses is not finite, or an index out of range.
    """

    def __init__(self, vertices: Float[np.ndarray, "V 3"], triangles: Int[np.ndarray, "F 3"]):
        if not len(triangles):
            raise FitjaxError("mesh: expected at least one triangle, found none; distances are to a surface")
        if triangles.min() < 0 or triangles.max() >= len(vertices):
            raise FitjaxError(
                f"mesh: triangles refer to vertices {triangles.min()} to {triangles.max()}; expected 0 to {len(vertices) - 1}"
            )
        self.corners = np.asarray(vertices, np.float64)[triangles]
        if not np.isfinite(self.corners).all():
            raise FitjaxError("mesh: a vertex of a triangle is not finite")
        middle = self.corners.mean(1)
        self._radius = radius = np.linalg.norm(self.corners - middle[:, None], axis=2).max(1)
        size = np.floor(np.log2(np.maximum(radius, radius.max() * 2.0**-20 + 1e-300))).astype(int)
        self._groups = []
        for value in np.unique(size):
            chosen = np.flatnonzero(size == value)
            self._groups.append((chosen, cKDTree(middle[chosen]), float(radius[chosen].max())))
        # The largest groups first: they bound the distance best.
        self._groups.sort(key=lambda group: -len(group[0]))

    def closest(
        self, points: Float[np.ndarray, "P 3"]
    ) -> tuple[Int[np.ndarray, "P"], Float[np.ndarray, "P 3"], Float[np.ndarray, "P"]]:
        """Triangle, nearest point on it, and distance, of each point."""
        points = np.asarray(points, np.float64)
        triangle, place, best = (
            np.zeros(len(points), np.int64),
            np.zeros((len(points), 3)),
            np.full(len(points), np.inf),
        )
        for start in range(0, len(points), _CHUNK):
            rows = slice(start, start + _CHUNK)
            triangle[rows], place[rows], best[rows] = self._chunk(points[rows])
        return triangle, place, best

    def _chunk(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        state = np.zeros(len(points), np.int64), np.zeros((len(points), 3)), np.full(len(points), np.inf)
        for chosen, tree, reach in self._groups:
            # One centroid first: what it yields rules out most of the others, and of the smaller groups all.
            active, seen, count = np.arange(len(points)), 0, 1
            while len(active):
                away, near = (x.reshape(len(active), count) for x in tree.query(points[active], k=count))
                self._improve(points, active, away[:, seen:], chosen[near[:, seen:]], state)
                if count == len(chosen):
                    break
                active = active[away[:, -1] - reach < state[2][active]]
                seen, count = count, min(_FIRST if count == 1 else 4 * count, len(chosen))
        return state

    def _improve(
        self, points: np.ndarray, active: np.ndarray, away: np.ndarray, near: np.ndarray, state: tuple
    ) -> None:
        """Look at candidates ``near`` (A, k), centroids ``away`` (A, k), of points ``active`` and keep in the state what is nearer."""
        triangle, place, best = state
        row, column = np.nonzero(away - self._radius[near] < best[active][:, None])
        if not len(row):
            return
        candidate = near[row, column]
        corners = self.corners[candidate]
        weights = closest_on_triangles(points[active[row]], corners)
        on = np.einsum("pk,pkc->pc", weights, corners)
        distance = np.linalg.norm(on - points[active[row]], axis=1)
        order = np.lexsort((distance, row))
        winner = order[np.unique(row[order], return_index=True)[1]]
        winner = winner[distance[winner] < best[active[row[winner]]]]
        target = active[row[winner]]
        triangle[target], place[target], best[target] = candidate[winner], on[winner], distance[winner]
