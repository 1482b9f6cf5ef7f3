"""What the generators know of each texel: where it lies on the mean face, and how it lies to brows, lids, lips and folds.

All of it comes from the model's own texture layout and its MediaPipe landmarks; nothing is drawn by hand.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fitjax.errors import BasisError
from fitjax.render.uv import uv_points

# MediaPipe's indices on the subject's right side.
BROW_TOP, BROW_BOTTOM = (70, 63, 105, 66, 107), (46, 53, 52, 65, 55)
LID_UPPER, LID_LOWER = (33, 246, 161, 160, 159, 158, 157, 173, 133), (33, 7, 163, 144, 145, 153, 154, 155, 133)
LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
FOLD = (129, 203, 206, 216, 212)
CHEEK, NOSE_TIP, MOUTH_CORNER, CANTHUS, FOREHEAD, CHIN, GLABELLA = 50, 4, 61, 33, 151, 199, 9

#: Side of the square map on which texels are located before they are sampled at the wanted size.
_FINE = 256


class Texels(NamedTuple):
    """The texels of a map of H rows and W columns, in row order (P = H · W). Lengths in millimetres.

    Attributes:
        uv: (P, 2) of the centres, origin bottom-left. position: (P, 3) on the mean face, head space; gutters repeat their neighbours.
        skin: (P,) 1 on skin, 0 on eyes, teeth and mouth. face: (P,) 1 in front, 0 at the back of the head and on the neck.
        brow: (P, 2) position along the nearer brow, 0 outside to 1 inside and a little beyond, and height above its middle line.
        lid: (P, 2) distance to the nearer upper lid's margin, and height above it. canthus: (P, 2) from the nearer outer corner of the eye,
            outwards and upwards. fold: (P,) distance to the nearer fold between nose and mouth. lips: (P,) distance inside the lips' border.
        centres: (10, 3) of landmarks that regions are drawn around, x ≥ 0.
    """

    uv: np.ndarray
    position: np.ndarray
    skin: np.ndarray
    face: np.ndarray
    brow: np.ndarray
    lid: np.ndarray
    canthus: np.ndarray
    fold: np.ndarray
    lips: np.ndarray
    centres: dict[str, np.ndarray]
    height: int
    width: int

    def mirrored(self) -> np.ndarray:
        """(P, 3) positions with x folded to the subject's right side's |x|."""
        return self.position * [0, 1, 1] + np.abs(self.position[:, :1]) * [1, 0, 0]


def texel_centres(height: int, width: int) -> np.ndarray:
    """(H W, 2) texture coordinates of the centres, row 0 at v = 1."""
    u, v = np.meshgrid((np.arange(width) + 0.5) / width, 1 - (np.arange(height) + 0.5) / height)
    return np.stack([u, v], -1).reshape(-1, 2).astype(np.float32)


def _sampled(maps: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """(P, C) of square maps (S, S, C) at texture coordinates, bilinear."""
    from scipy.ndimage import map_coordinates

    size = maps.shape[0]
    at = np.stack([(1 - uv[:, 1]) * size - 0.5, uv[:, 0] * size - 0.5])
    return np.stack([map_coordinates(maps[..., k], at, order=1, mode="nearest") for k in range(maps.shape[-1])], -1)


def _nearest_on_line(points: np.ndarray, line: np.ndarray, count: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """Index (P,) into a densified polyline (count, 3) and the line itself."""
    from scipy.spatial import cKDTree

    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    along = np.linspace(0, length[-1], count)
    dense = np.stack([np.interp(along, length, line[:, k]) for k in range(3)], -1)
    return cKDTree(dense).query(points)[1], dense


def _inside(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """Distance (P,) to a polygon's border in a plane, positive inside."""
    a, b = polygon, np.roll(polygon, -1, 0)
    edge = b - a
    share = np.clip(((points[:, None] - a) * edge).sum(-1) / np.maximum((edge**2).sum(-1), 1e-12), 0, 1)
    distance = np.linalg.norm(points[:, None] - a - share[..., None] * edge, axis=-1).min(1)
    x, y = points[:, :1], points[:, 1:]
    spans = (a[:, 1] > y) != (b[:, 1] > y)
    height = np.where(np.abs(edge[:, 1]) > 1e-12, edge[:, 1], 1e-12)
    crossings = (spans & (x < a[:, 0] + (y - a[:, 1]) / height * edge[:, 0])).sum(1)
    return np.where(crossings % 2 == 1, distance, -distance)


def texels_of(model: Any, height: int, width: int) -> Texels:
    """Locate the texels of a map on a model's mean face.

    Args:
        model: a linear model with UVs and the sample set ``mediapipe478``.

    Raises:
        BasisError: the model has no ``mediapipe478``.
    """
    if "mediapipe478" not in model.sample_library:
        raise BasisError(
            f"generator of faces: model {model.name!r} lacks the sample set 'mediapipe478'; see `fitjax annotate`"
        )
    vertices, triangles = np.asarray(model.mean, np.float64) * 1000, np.asarray(model.triangles)
    samples = model.sample_library["mediapipe478"]
    landmark = np.einsum(
        "skc,sk->sc", vertices[triangles[np.asarray(samples.triangle)]], np.asarray(samples.barycentric, np.float64)
    )
    fine = uv_points(np.asarray(model.uv), np.asarray(model.uv_triangles), _FINE)
    placed = np.einsum("hwk,hwkc->hwc", fine.barycentric, vertices[triangles[fine.triangle]])
    region = (np.asarray(model.triangle_region)[fine.triangle] == 0).astype(np.float64)
    uv = texel_centres(height, width)
    sampled = _sampled(np.concatenate([placed, region[..., None]], -1), uv)
    position, skin = sampled[:, :3], np.clip(2 * sampled[:, 3] - 1, 0, 1)
    folded = np.abs(position[:, :1]) * [1, 0, 0] + position * [0, 1, 1]

    def right(indices: Any) -> np.ndarray:
        return np.abs(landmark[indices] * [1, 0, 0]) + landmark[indices] * [0, 1, 1]

    axis = 0.5 * (right(list(BROW_TOP)) + right(list(BROW_BOTTOM)))
    # Continued beyond both ends, so that a brow can end before or after.
    axis = np.concatenate([axis[:1] + 0.6 * (axis[:1] - axis[1:2]), axis, axis[-1:] + 0.6 * (axis[-1:] - axis[-2:-1])])
    nearest, line = _nearest_on_line(folded, axis)
    brow = np.stack([-0.15 + 1.3 * nearest / (len(line) - 1), folded[:, 1] - line[nearest, 1]], -1)
    brow[np.linalg.norm(folded - line[nearest], axis=1) > 25, 1] = 99
    nearest, line = _nearest_on_line(folded, right(list(LID_UPPER)))
    lid = np.stack([np.linalg.norm(folded - line[nearest], axis=1), folded[:, 1] - line[nearest, 1]], -1)
    corner = right(CANTHUS)
    canthus = folded[:, :2] - corner[:2]
    canthus[np.abs(folded[:, 2] - corner[2]) > 30] = -99
    nearest, line = _nearest_on_line(folded, right(list(FOLD)))
    fold = np.linalg.norm(folded - line[nearest], axis=1)
    lips = np.full(len(position), -30.0)
    close = (np.abs(position - landmark[0]) < 45).all(1) & (skin > 0)
    lips[close] = _inside(position[close][:, :2], landmark[list(LIPS)][:, :2])
    lowest = landmark[152, 1]
    face = 1 / (1 + np.exp(-(position[:, 2] - landmark[234, 2] - 5) / 6)) / (1 + np.exp(-(position[:, 1] - lowest) / 4))
    names = {
        "cheek": CHEEK, "nose": NOSE_TIP, "mouth": MOUTH_CORNER, "canthus": CANTHUS, "forehead": FOREHEAD, "chin": CHIN, "glabella": GLABELLA
    }  # fmt: skip
    centres = {name: right(index) for name, index in names.items()}
    return Texels(uv, position, skin, face * skin, brow, lid, canthus, fold, lips, centres, height, width)


def smooth_noise(texels: Texels, millimetres: float, count: int, seed: int) -> np.ndarray:
    """(count, P) stationary noise on the mean face, about N(0, 1), correlated over a length: random waves in 3-D (Rahimi and Recht 2007)."""
    random = np.random.default_rng(seed)
    waves = random.normal(0, 1 / millimetres, (count, 64, 3))
    phase = random.uniform(0, 2 * np.pi, (count, 64, 1))
    at = np.einsum("nkc,pc->nkp", waves, texels.position)
    return np.sqrt(2 / 64) * np.cos(at + phase).sum(1)


def to_jax(arrays: dict[str, Any]) -> dict[str, Any]:
    """Host arrays as float32 arrays of JAX."""
    return {name: jnp.asarray(value, jnp.float32) for name, value in arrays.items()}
