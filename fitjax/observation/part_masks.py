"""Masks of parts from FaceMesh's 478 landmarks: what is used where no face parser is at hand.

They carry nothing that the landmarks do not. They exist so that everything that takes parts works without another model, not as evidence.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import ConvexHull, QhullError

from fitjax.observation import part_tables as tables


def inside(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """(M,) whether points (M, 2) lie in a polygon (V, 2), by the even-odd rule."""
    result = np.zeros(len(points), bool)
    x, y = points[:, 0], points[:, 1]
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0)):
        if y0 == y1:
            continue
        crosses = (y0 > y) != (y1 > y)
        result ^= crosses & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return result


def hull(points: np.ndarray) -> np.ndarray:
    """(V, 2) corners of the convex hull; the points themselves where they lie on one line."""
    try:
        return points[ConvexHull(points).vertices]
    except QhullError:
        return points


def below_brows(points: np.ndarray, ends: np.ndarray, down: np.ndarray) -> np.ndarray:
    """(M,) whether points lie below the line through the brows: the forehead above it belongs to no part, as on the model.

    Args:
        ends: (4, 2) outer and inner end of the right brow, inner and outer end of the left one. Beyond the outer ends the line goes on across the
            face, as it does in the model's texture space.
        down: (2,) from the brows to the mouth.
    """
    down = down / np.linalg.norm(down)
    across = np.array([down[1], -down[0]])
    along, depth = ends @ across, ends @ down
    order = np.argsort(along)
    # Beyond the ends interpolation keeps the depth of the outermost point.
    return points @ down > np.interp(points @ across, along[order], depth[order])


def contour_parts(landmarks: np.ndarray, grid: np.ndarray) -> dict[str, np.ndarray]:
    """Part → (M,) mask over the points ``grid`` (M, 2), from the 478 landmarks in the same coordinates.

    Skin is what is in view: the hull of all landmarks (those on the side that faces away lie inside it) below the line of the brows, without the
        other
    parts and the opening of the mouth. The nose is its contour and, where it stands out in profile, its ridge.
    """

    def area(*indices: tuple[int, ...]) -> np.ndarray:
        return inside(grid, landmarks[[i for line in indices for i in line]])

    found = {
        "right_eye": area(tables.RIGHT_UPPER_LID, tables.RIGHT_LOWER_LID[-2:0:-1]),
        "left_eye": area(tables.LEFT_UPPER_LID, tables.LEFT_LOWER_LID[-2:0:-1]),
        "right_brow": area(tables.RIGHT_BROW),
        "left_brow": area(tables.LEFT_BROW),
        "upper_lip": area(tables.OUTER_UPPER_LIP, tables.INNER_UPPER_LIP[::-1]),
        "lower_lip": area(tables.OUTER_LOWER_LIP, tables.INNER_LOWER_LIP[::-1]),
        "nose": area(tables.NOSE) | inside(grid, hull(landmarks[list(tables.NOSE_RIDGE)])),
    }
    mouth = area(tables.INNER_UPPER_LIP, tables.INNER_LOWER_LIP[-2:0:-1])
    skin = inside(grid, hull(landmarks[:468])) & ~mouth
    for mask in found.values():
        skin &= ~mask
    found["skin"] = skin & below_brows(grid, *brow_line({"mediapipe478": landmarks}))  # type: ignore[misc]
    return found


def brow_line(landmarks: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """(4, 2) ends of the brows and (2,) the direction down the face, from a set that has them; None without one.

    Args:
        landmarks: set → (N, 2) points, NaN where not observed.
    """
    for name, indices in tables.BROW_LINE.items():
        if name not in landmarks:
            continue
        points = landmarks[name]
        ends = points[list(indices)]
        low = points[[61, 291]] if name == "mediapipe478" else points[[48, 54]]
        if np.isfinite(ends).all() and np.isfinite(low).all():
            return ends, low.mean(0) - ends.mean(0)
    return None


def eye_centres(landmarks: dict[str, np.ndarray]) -> np.ndarray | None:
    """(2, 2) centres of the subject's right and left eye, or None where no set has both."""
    for name, sides in tables.EYES.items():
        if name in landmarks:
            centres = np.stack([landmarks[name][list(side)].mean(0) for side in sides])
            if np.isfinite(centres).all():
                return centres
    return None
