"""The embedded basis seen from its texture: where on the mean head each texel lies, and distances to curves on it."""

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import splev, splprep
from scipy.ndimage import binary_erosion, distance_transform_edt, gaussian_filter, map_coordinates
from scipy.spatial import cKDTree

from basis.look import rasterise
from fitjax.model.linear import LinearModel

SIZE = 256
_FINE = 4  # polygons are drawn this much finer than the maps


@dataclass(frozen=True)
class TextureSurface:
    """Texels of the mean head. Rows run from the top (v = 1); left-right symmetric in the skin's charts.

    Attributes:
        position: (H, W, 3) mm with x folded to |x|; gutters hold their nearest texel.
        region: (H, W) region of the triangle; gutters as above.
        covered: (H, W) texels with a triangle.
        skin_rows: number of rows from the top that hold skin charts only.
        millimetres: (H, W) size of a texel on the head (root of its area).
        landmark: (478, 3) MediaPipe points in mm, x folded and sides averaged; landmark_uv: (478, 2) likewise on the right half.
    """

    position: np.ndarray
    region: np.ndarray
    covered: np.ndarray
    skin_rows: int
    millimetres: np.ndarray
    landmark: np.ndarray
    landmark_uv: np.ndarray


def texture_surface(model: LinearModel, size: int = SIZE) -> TextureSurface:
    """Rasterise the mean head into its texture."""
    uv, uv_triangles = np.asarray(model.uv, float), np.asarray(model.uv_triangles)
    vertices, triangles = np.asarray(model.mean, float) * 1000, np.asarray(model.triangles)
    screen = np.stack([uv[:, 0] * size, (1 - uv[:, 1]) * size, 0 * uv[:, 0]], 1)
    index, weight = rasterise(screen, uv_triangles, size, size)
    position = np.einsum("hwk,hwkc->hwc", weight, vertices[triangles[index]])
    covered = index >= 0
    region = np.asarray(model.triangle_region)[index].astype(int)
    near = distance_transform_edt(~covered, return_distances=False, return_indices=True)
    position, region = position[tuple(near)], region[tuple(near)]
    position[..., 0] = np.abs(position[..., 0])
    corner_v = uv[uv_triangles][np.asarray(model.triangle_region) == 0].reshape(-1, 2)[:, 1]
    skin_rows = int(np.floor((1 - corner_v.min()) * size)) + 1
    position[:skin_rows] = 0.5 * (position[:skin_rows] + position[:skin_rows, ::-1])

    unfolded = position * np.stack([np.where(np.arange(size) < size // 2, -1.0, 1.0), np.ones(size), np.ones(size)], -1)
    along_row, along_column = np.gradient(unfolded, axis=1), np.gradient(unfolded, axis=0)
    millimetres = np.sqrt(np.linalg.norm(np.cross(along_row, along_column), axis=-1))
    # Next to a gutter the difference is one-sided or nil: take the size from further inside.
    inner = distance_transform_edt(~binary_erosion(covered, iterations=2), return_distances=False, return_indices=True)
    millimetres = gaussian_filter(millimetres[tuple(inner)].clip(0.2, 4), size / 64)

    samples = model.sample_library["mediapipe478"]
    triangle, barycentric = np.asarray(samples.triangle), np.asarray(samples.barycentric, float)[..., None]
    landmark = (vertices[triangles[triangle]] * barycentric).sum(1)
    landmark_uv = (uv[uv_triangles[triangle]] * barycentric).sum(1)
    # The mirrored point of each landmark is the nearest one in the mirrored set.
    partner = cKDTree(landmark).query(landmark * [-1, 1, 1])[1]
    folded = np.abs(landmark[:, :1]), landmark[:, 1:]
    landmark = 0.5 * (np.hstack(folded) + np.hstack(folded)[partner])
    right_half = np.stack([0.5 - np.abs(landmark_uv[:, 0] - 0.5), landmark_uv[:, 1]], 1)
    in_skin = (landmark_uv[:, 1] > 1 - skin_rows / size)[:, None]
    landmark_uv = np.where(in_skin, 0.5 * (right_half + right_half[partner]), landmark_uv)
    return TextureSurface(position, region, covered, skin_rows, millimetres, landmark, landmark_uv)


def bump(surface: TextureSurface, centre: np.ndarray, width: float | tuple[float, float, float]) -> np.ndarray:
    """Gaussian (H, W) of 3-D distance about ``centre`` (3,) mm with standard deviations in mm; one at its centre."""
    return np.exp(-0.5 * (((surface.position - centre) / width) ** 2).sum(-1))


def curve(points: np.ndarray, count: int = 200) -> np.ndarray:
    """A smooth curve (count, C) through points (N, C)."""
    spline, _ = splprep(points.T, s=0, k=min(3, len(points) - 1))
    return np.stack(splev(np.linspace(0, 1, count), spline), -1)


def distance_to_curve(surface: TextureSurface, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distance (H, W) mm to a curve through points (N, 3), the position along it in [0, 1], and the height above it in y."""
    line = curve(points)
    distance, nearest = cKDTree(line).query(surface.position)
    return distance, nearest / (len(line) - 1), surface.position[..., 1] - line[nearest, 1]


def inside_polygon(surface: TextureSurface, polygon: np.ndarray) -> np.ndarray:
    """Signed distance (H, W) in mm, positive inside a polygon (N, 2) of UVs on the right half and inside its mirror image.

    The distance is that in the texture times the local size of a texel: right near the border, where it is used.
    """
    from PIL import Image, ImageDraw

    size = surface.region.shape[0]
    fine = size * _FINE
    canvas = Image.new("L", (fine, fine))
    for sign in (1, -1):
        points = polygon if sign > 0 else np.stack([1 - polygon[:, 0], polygon[:, 1]], 1)
        ImageDraw.Draw(canvas).polygon([(u * fine - 0.5, (1 - v) * fine - 0.5) for u, v in points], fill=1)
    mask = np.asarray(canvas) > 0
    mask = mask | mask[:, ::-1]
    signed = distance_transform_edt(mask) - distance_transform_edt(~mask)
    grid = (np.arange(size) + 0.5) * _FINE - 0.5
    coarse = map_coordinates(signed, np.meshgrid(grid, grid, indexing="ij"), order=1, mode="nearest") / _FINE
    return coarse * surface.millimetres


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Logistic function."""
    return 1 / (1 + np.exp(-np.clip(x, -40, 40)))
