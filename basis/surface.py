"""The surface that landmarks live on: the coarse mesh, its Loop-refined form, and samples that move between the two."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from basis.geometry import closest_point
from basis.head_mesh import EYE_CAVITY, EYEBALL, MOUTH_CAVITY, SKIN, HeadMesh
from fitjax.model.subdivision import loop_subdivision, refine_samples

# The corners of child k of a triangle in the parent's barycentrics, in the order of fitjax.model.subdivision.
_HALF = 0.5 * np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1]])
_CORNERS = np.eye(3)
_CHILDREN = np.stack(
    [
        np.stack([_CORNERS[0], _HALF[0], _HALF[2]]),
        np.stack([_CORNERS[1], _HALF[1], _HALF[0]]),
        np.stack([_CORNERS[2], _HALF[2], _HALF[1]]),
        _HALF,
    ]
)


@dataclass(frozen=True)
class Samples:
    """Points of a surface as (triangle, barycentric) on the coarse mesh."""

    triangle: np.ndarray
    barycentric: np.ndarray

    def __getitem__(self, rows) -> "Samples":
        return Samples(self.triangle[rows], self.barycentric[rows])

    @staticmethod
    def join(parts: "list[Samples]") -> "Samples":
        """All samples in one set."""
        return Samples(np.concatenate([p.triangle for p in parts]), np.concatenate([p.barycentric for p in parts]))


class Surface:
    """Refined positions and samples of one head mesh (topology only; positions are passed in coarse).

    `chart` names the texture chart of each coarse triangle; without it (a basis read from its file) there are no rims.
    """

    def __init__(self, triangles: np.ndarray, region: np.ndarray, mirror: np.ndarray, chart: np.ndarray | None = None):
        subdivision = loop_subdivision(triangles, len(mirror))
        self.coarse_triangles, self.mirror = triangles, mirror
        self.matrix, self.triangles = subdivision.matrix, subdivision.triangles
        self.region = np.repeat(region, 4)
        self._mirror_triangle, self._mirror_corner = _mirror_triangles(triangles, mirror)
        if chart is not None:
            self.chart = np.repeat(chart, 4)
            self._rims = _rims(triangles, region, chart)

    @staticmethod
    def of(mesh: HeadMesh) -> "Surface":
        """The surface of the cropped head, with its charts."""
        return Surface(mesh.triangles, mesh.region, mesh.mirror, mesh.chart)

    def refine(self, vertices: np.ndarray) -> np.ndarray:
        """Loop-refined positions of coarse vertices (V, 3)."""
        return self.matrix @ vertices

    def sample_matrix(self, samples: Samples) -> sp.csr_matrix:
        """(S, V) weights with `matrix @ coarse vertices` = positions of the samples on the refined surface."""
        triangle, barycentric = refine_samples(samples.triangle, samples.barycentric.astype(np.float64))
        rows = np.repeat(np.arange(len(triangle)), 3)
        columns = self.triangles[triangle].ravel()
        pick = sp.csr_matrix((barycentric.ravel(), (rows, columns)), (len(triangle), self.matrix.shape[0]))
        return (pick @ self.matrix).tocsr()

    def project(self, points: np.ndarray, refined: np.ndarray, allowed: np.ndarray) -> tuple[Samples, np.ndarray]:
        """Nearest samples to `points` among the `allowed` refined triangles, and their distances."""
        chosen = np.flatnonzero(allowed)
        triangle, barycentric, distance = closest_point(points, refined, self.triangles[chosen])
        return self.to_coarse(chosen[triangle], barycentric), distance

    def to_coarse(self, triangle: np.ndarray, barycentric: np.ndarray) -> Samples:
        """Samples of the refined mesh as samples of the coarse one (the inverse of `refine_samples`)."""
        coarse = np.einsum("sk,skj->sj", barycentric, _CHILDREN[triangle % 4])
        coarse = np.clip(coarse, 0, 1)
        return Samples((triangle // 4).astype(np.int32), coarse / coarse.sum(1, keepdims=True))

    def mirrored(self, samples: Samples) -> Samples:
        """The same points on the other side of the head."""
        corner = self._mirror_corner[samples.triangle]
        barycentric = np.zeros_like(samples.barycentric)
        np.put_along_axis(barycentric, corner, samples.barycentric, axis=1)
        return Samples(self._mirror_triangle[samples.triangle], barycentric)

    def symmetric(self, samples: Samples, partner: np.ndarray, vertices: np.ndarray) -> Samples:
        """Make a set mirror-symmetric on the symmetric face `vertices` (V, 3).

        Of each pair the first keeps its place and the second becomes its mirror image; points that are their own partner slide to
        the midline.
        """
        follower = np.flatnonzero(partner < np.arange(len(partner)))
        central = np.flatnonzero(partner == np.arange(len(partner)))
        triangle, barycentric = samples.triangle.copy(), samples.barycentric.copy()
        mirrored = self.mirrored(samples[partner[follower]])
        triangle[follower], barycentric[follower] = mirrored.triangle, mirrored.barycentric
        middle = self._on_midline(self.sample_matrix(samples[central]) @ vertices, self.refine(vertices))
        triangle[central], barycentric[central] = middle.triangle, middle.barycentric
        return Samples(triangle, barycentric)

    def _on_midline(self, points: np.ndarray, refined: np.ndarray) -> Samples:
        """Nearest samples to `points` on the sides of skin triangles that lie in the plane of symmetry."""
        central = np.abs(refined[self.triangles, 0]) < 1e-7
        triangle, corner = np.nonzero(central & np.roll(central, -1, 1) & self.skin[:, None])
        start = refined[self.triangles[triangle, corner]]
        side = refined[self.triangles[triangle, (corner + 1) % 3]] - start
        fraction = ((points[:, None] - start) * side).sum(-1) / (side * side).sum(-1)
        fraction = np.clip(fraction, 0, 1)
        distance = np.linalg.norm(start + fraction[..., None] * side - points[:, None], axis=-1)
        best, row = distance.argmin(1), np.arange(len(points))
        barycentric = np.zeros((len(points), 3))
        barycentric[row, corner[best]] = 1 - fraction[row, best]
        barycentric[row, (corner[best] + 1) % 3] = fraction[row, best]
        return self.to_coarse(triangle[best], barycentric)

    def rim(self, name: str, vertices: np.ndarray, moved: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Upper and lower polyline of an opening (`mouth`, `socket_right`, `socket_left`), from low x to high x.

        `vertices` may be refined: coarse vertices come first there. `moved` are other positions to return for the same lines.
        """
        points = vertices[self._rims[name]]
        first, last = points[:, 0].argmin(), points[:, 0].argmax()
        upper_first = points[(first + 1) % len(points), 1] > points[first - 1, 1]
        points = points if moved is None else moved[self._rims[name]]
        forward = np.roll(points, -first, 0)
        split = (last - first) % len(points)
        one, other = forward[: split + 1], np.concatenate([forward[split:], forward[:1]])[::-1]
        return (one, other) if upper_first else (other, one)

    @property
    def skin(self) -> np.ndarray:
        """Mask of the refined triangles of head and neck."""
        return self.region == SKIN

    @property
    def eyeballs(self) -> np.ndarray:
        """Mask of the refined triangles of the eyeballs."""
        return self.region == EYEBALL


def _mirror_triangles(triangles: np.ndarray, mirror: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mirrored triangle of each triangle, and where each of its corners lands. Unpaired ones map to themselves."""
    row = {tuple(t): i for i, t in enumerate(np.sort(triangles, 1))}
    image = mirror[triangles]
    partner = np.array([row.get(tuple(t), -1) for t in np.sort(image, 1)])
    alone = partner < 0
    if alone.any():
        raise ValueError(f"{alone.sum()} triangles have no mirror image")
    corner = (triangles[partner][:, None, :] == image[:, :, None]).argmax(2)
    return partner.astype(np.int32), corner


def _rims(triangles: np.ndarray, region: np.ndarray, chart: np.ndarray) -> dict[str, np.ndarray]:
    """Closed loops of vertices where skin meets the mouth cavity and the eye sockets."""

    def sides(mask: np.ndarray) -> set[tuple[int, int]]:
        t = triangles[mask]
        pairs = np.sort(np.concatenate([t[:, [0, 1]], t[:, [1, 2]], t[:, [2, 0]]]), 1)
        return {tuple(p) for p in pairs.tolist()}

    head = sides(chart == "head")
    loops = {}
    for name, code in (("mouth", MOUTH_CAVITY), ("socket_right", EYE_CAVITY), ("socket_left", EYE_CAVITY)):
        shared = head & sides((chart == name) & (region == code))
        neighbours: dict[int, list[int]] = {}
        for a, b in shared:
            neighbours.setdefault(a, []).append(b)
            neighbours.setdefault(b, []).append(a)
        start = min(neighbours)
        loop, before = [start], -1
        while True:
            after = next((n for n in neighbours[loop[-1]] if n != before and n not in loop[1:]), None)
            if after is None or after == start:
                break
            before = loop[-1]
            loop.append(after)
        loops[name] = np.array(loop)
    return loops
