"""The eight parts of the part re-projection loss: a mask in texture space and area-uniform samples of each part.

Skin parts are polygons of MediaPipe contours in texture space. The eyes are what the mean face shows of the eyeballs between its lids.
The skin part ends at the brows, as in the PRDL paper: the forehead is left out on both sides of the comparison.
"""

import numpy as np
from matplotlib.path import Path as Polygon

from basis import landmark_sets as sets
from basis.geometry import triangle_areas
from basis.head_mesh import HeadMesh
from basis.look import rasterise
from basis.surface import Samples, Surface
from fitjax.model.subdivision import refine_uv

NAMES = ("right_eye", "left_eye", "right_brow", "left_brow", "nose", "upper_lip", "lower_lip", "skin")
SIZES = (512, 512, 512, 512, 512, 512, 512, 1024)
_MIRROR_LABEL = np.array([0, 2, 1, 4, 3, 5, 6, 7, 8])
# Dense candidates per part before thinning: more give evener samples and take longer.
_CANDIDATES = 12


class Parts:
    """Classifies points of the mean face's surface into parts."""

    def __init__(self, mesh: HeadMesh, mean: np.ndarray, texture: np.ndarray, surface: Surface, mediapipe: Samples):
        self.surface, self.mesh = surface, mesh
        self.refined = surface.refine(mean)
        self.texture, self.texture_triangles = refine_uv(texture, mesh.texture_triangles)
        uv = np.einsum("sk,skc->sc", mediapipe.barycentric, texture[mesh.texture_triangles[mediapipe.triangle]])
        self._polygons = {
            3: Polygon(uv[list(sets.RIGHT_BROW)]),
            5: Polygon(uv[list(sets.NOSE)]),
            6: Polygon(uv[list(sets.OUTER_UPPER_LIP + sets.INNER_UPPER_LIP[::-1])]),
            7: Polygon(uv[list(sets.OUTER_LOWER_LIP + sets.INNER_LOWER_LIP[::-1])]),
            8: Polygon(uv[list(sets.FACE_OVAL)]),
        }
        self._right_lids = Polygon(uv[list(sets.RIGHT_UPPER_LID + sets.RIGHT_LOWER_LID[::-1])])
        upper, lower = surface.rim("socket_right", self.refined)
        self._right_aperture = Polygon(np.concatenate([upper, lower[::-1]])[:, :2])
        brow = uv[list(sets.RIGHT_BROW)]
        inner, outer = brow[brow[:, 0].argmax()], brow[brow[:, 0].argmin()]
        self._brow_line = (np.array([0.0, outer[0], inner[0], 0.5]), np.array([outer[1], outer[1], inner[1], inner[1]]))

    def label(self, refined_triangle: np.ndarray, uv: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Part (0 to 8) of surface points; the left side is labelled as the mirror image of the right one."""
        chart = self.surface.chart[refined_triangle]
        left = position[:, 0] > 0
        uv = np.where(left[:, None], [1, 0] + uv * [-1, 1], uv)
        place = np.where(left[:, None], position[:, :2] * [-1, 1], position[:, :2])
        head = chart == "head"
        label = np.zeros(len(uv), int)
        below_brows = uv[:, 1] < np.interp(uv[:, 0], *self._brow_line)
        label[head & self._polygons[8].contains_points(uv) & below_brows] = 8
        for part in (5, 3, 6, 7):
            label[head & self._polygons[part].contains_points(uv)] = part
        label[head & self._right_lids.contains_points(uv)] = 1  # the lids' margins belong to the eye
        front = np.char.startswith(chart, "eye_") & (position[:, 2] > self._eye_depth(chart))
        label[front & self._right_aperture.contains_points(place)] = 1
        return np.where(left, _MIRROR_LABEL[label], label)

    def _eye_depth(self, chart: np.ndarray) -> np.ndarray:
        """Depth of the middle of the eyeballs."""
        eyes = self.refined[np.unique(self.surface.triangles[self.surface.eyeballs])]
        return np.full(len(chart), 0.5 * (eyes[:, 2].min() + eyes[:, 2].max()))

    def mask(self, size: int) -> np.ndarray:
        """(size, size) uint8 labels in texture space, row 0 at v = 1."""
        screen = np.concatenate([self.texture * [size, -size] + [0, size], np.zeros((len(self.texture), 1))], 1)
        triangle, weight = rasterise(screen, self.texture_triangles, size, size)
        hit = triangle >= 0
        result = np.zeros((size, size), np.uint8)
        uv = np.einsum("pk,pkc->pc", weight[hit], self.texture[self.texture_triangles[triangle[hit]]])
        position = np.einsum("pk,pkc->pc", weight[hit], self.refined[self.surface.triangles[triangle[hit]]])
        result[hit] = self.label(triangle[hit], uv, position)
        return result

    def samples(self, seed: int = 0) -> dict[str, Samples]:
        """Area-uniform, evenly spaced, mirror-symmetric samples of each part."""
        random = np.random.default_rng(seed)
        area = triangle_areas(self.refined, self.surface.triangles)
        right = self.refined[self.surface.triangles].mean(1)[:, 0] < 0
        result: dict[str, Samples] = {}
        for label, (name, size) in enumerate(zip(NAMES, SIZES), start=1):
            if name.startswith("left_"):
                result[f"part_{name}"] = self.surface.mirrored(result[f"part_right_{name.removeprefix('left_')}"])
                continue
            wanted = size if name.startswith("right_") else size // 2
            triangle, barycentric, position = self._candidates(random, area * right, label, wanted * _CANDIDATES)
            chosen = _farthest_points(position, wanted)
            samples = self.surface.to_coarse(triangle[chosen], barycentric[chosen])
            if not name.startswith("right_"):
                samples = Samples.join([samples, self.surface.mirrored(samples)])
            result[f"part_{name}"] = samples
        return result

    def _candidates(self, random: np.random.Generator, area: np.ndarray, label: int, count: int):
        """Random points of one part on the right half, uniform by area."""
        found = []
        probability = area / area.sum()
        likely = self._triangles_near(label)
        probability = np.where(likely, probability, 0)
        probability /= probability.sum()
        while sum(len(f[0]) for f in found) < count:
            triangle = random.choice(len(area), 4 * count, p=probability)
            r, s = np.sqrt(random.random(4 * count)), random.random(4 * count)
            barycentric = np.stack([1 - r, r * (1 - s), r * s], 1)
            uv = np.einsum("pk,pkc->pc", barycentric, self.texture[self.texture_triangles[triangle]])
            position = np.einsum("pk,pkc->pc", barycentric, self.refined[self.surface.triangles[triangle]])
            keep = (self.label(triangle, uv, position) == label) & (position[:, 0] <= 0)
            found.append((triangle[keep], barycentric[keep], position[keep]))
        return tuple(np.concatenate(parts)[:count] for parts in zip(*found))

    def _triangles_near(self, label: int) -> np.ndarray:
        """Refined triangles with a corner, edge middle or centre in the part."""
        near = np.zeros(len(self.surface.triangles), bool)
        every = np.arange(len(near))
        for weight in (*np.eye(3), *(1 - np.eye(3)) / 2, np.full(3, 1 / 3)):
            uv = np.einsum("k,pkc->pc", weight, self.texture[self.texture_triangles])
            position = np.einsum("k,pkc->pc", weight, self.refined[self.surface.triangles])
            near |= self.label(every, uv, position) == label
        return near


def _farthest_points(points: np.ndarray, count: int) -> np.ndarray:
    """Indices of `count` points chosen greedily, each farthest from those before."""
    chosen = np.empty(count, int)
    distance = np.full(len(points), np.inf)
    chosen[0] = 0
    for k in range(1, count):
        distance = np.minimum(distance, ((points - points[chosen[k - 1]]) ** 2).sum(1))
        chosen[k] = distance.argmax()
    return chosen
