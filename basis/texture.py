"""Texture coordinates: the source's charts laid out anew so that the face fills the square.

MakeHuman's layout serves a whole body and gives the face about 6 % of the square. The head's chart is turned upright and each of
its two axes is stretched by a monotonic function (so no triangle folds) that gives width and height where the face has its area.
"""

import numpy as np
from scipy.interpolate import PchipInterpolator

from basis.geometry import triangle_areas
from basis.head_mesh import HeadMesh

# Chart to (left, bottom, right, top) in the unit square.
_BOXES = {
    "head": (0.005, 0.205, 0.995, 0.995),
    "neck": (0.005, 0.135, 0.995, 0.195),
    "eye_right": (0.005, 0.005, 0.125, 0.125),
    "eye_left": (0.135, 0.005, 0.255, 0.125),
    "eye_right_back": (0.265, 0.07, 0.32, 0.125),
    "eye_left_back": (0.265, 0.005, 0.32, 0.06),
    "socket_right": (0.33, 0.005, 0.43, 0.125),
    "socket_left": (0.44, 0.005, 0.54, 0.125),
    "mouth": (0.55, 0.005, 0.71, 0.125),
    "tongue": (0.72, 0.005, 0.78, 0.125),
    "teeth_upper": (0.79, 0.07, 0.95, 0.125),
    "teeth_lower": (0.79, 0.005, 0.95, 0.06),
}
_STRETCH = 0.75
_KNOTS = 24


def lay_out(mesh: HeadMesh, base: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """New texture coordinates (T, 2) for `mesh.texture_triangles`; `importance` (V,) says where texture is wanted."""
    texture = mesh.texture.copy()
    charts = _with_backs_of_eyes(mesh, base)
    for chart, (left, bottom, right, top) in _BOXES.items():
        used = np.unique(mesh.texture_triangles[charts == chart])
        points = texture[used]
        if chart == "head":
            points = _upright(points)
            points = _stretched(points, _texture_weight(mesh, base, importance, used))
        low, high = points.min(0), points.max(0)
        texture[used] = (points - low) / (high - low) * [right - left, top - bottom] + [left, bottom]
    return texture


def _with_backs_of_eyes(mesh: HeadMesh, base: np.ndarray) -> np.ndarray:
    """Chart names with each eyeball's back, a disc of its own, told from its front."""
    charts = mesh.chart.astype("U16")
    depth = base[mesh.triangles].mean(1)[:, 2]
    for chart in ("eye_right", "eye_left"):
        eye = mesh.chart == chart
        charts[eye & (depth < 0.5 * (depth[eye].min() + depth[eye].max()))] = f"{chart}_back"
    return charts


def _upright(points: np.ndarray) -> np.ndarray:
    """Turn the head's chart by a quarter: its chin points to +u, and the subject's left lies at large v."""
    return np.stack([points[:, 1], -points[:, 0]], 1)


def _texture_weight(mesh: HeadMesh, base: np.ndarray, importance: np.ndarray, used: np.ndarray) -> np.ndarray:
    """How much texture each texture vertex of the head deserves: surface area times importance per area."""
    head = mesh.chart == "head"
    per_triangle = triangle_areas(base, mesh.triangles[head]) * importance[mesh.triangles[head]].mean(1)
    weight = np.zeros(len(mesh.texture))
    np.add.at(weight, mesh.texture_triangles[head].ravel(), np.repeat(per_triangle, 3))
    return weight[used]


def _stretched(points: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Blend each axis with the cumulative weight along it, through a smooth monotonic interpolant."""
    result = np.empty_like(points)
    for axis in range(2):
        value = points[:, axis]
        knots = np.linspace(value.min(), value.max(), _KNOTS)
        order = np.argsort(value)
        cumulative = np.interp(knots, value[order], np.cumsum(weight[order]) / weight.sum())
        straight = np.linspace(0, 1, _KNOTS)
        if axis == 0:  # the chart is symmetric, so keep the stretch symmetric
            cumulative = 0.5 * (cumulative + 1 - cumulative[::-1])
        mapped = _STRETCH * (cumulative - cumulative[0]) / (cumulative[-1] - cumulative[0]) + (1 - _STRETCH) * straight
        result[:, axis] = PchipInterpolator(knots, mapped)(value)
    return result
