"""Dense errors on UV position maps, as DSFNet (Li et al., CVPR 2023) and SADRNet before it publish them for AFLW2000-3D.

A position map holds at each texel of the model's texture space the place of that point of the face: x and y in pixels of the picture, z in the same
unit. Both errors are means over the texels of the face mask, and over faces without bins: they compare with no sparse table.
"""

from __future__ import annotations

import numpy as np

#: Texels of the two outer corners of the eyes in the list of 68: what the reconstruction error is divided by.
OUTER_EYE_CORNERS = (36, 45)


def _masked(
    points: np.typing.ArrayLike, truth: np.typing.ArrayLike, mask: np.typing.ArrayLike | None, what: str
) -> tuple[np.ndarray, np.ndarray]:
    """(P, 3) twice: the points that count, of maps (H, W, 3) or lists (P, 3)."""
    p, g = np.asarray(points, np.float64), np.asarray(truth, np.float64)
    if p.shape != g.shape or p.ndim not in (2, 3) or p.shape[-1] != 3:
        raise ValueError(
            f"{what}: expected two maps (H, W, 3) or lists (P, 3) of one shape, found {p.shape} and {g.shape}"
        )
    if mask is None:
        p, g = p.reshape(-1, 3), g.reshape(-1, 3)
    else:
        m = np.asarray(mask) > 0
        if m.shape != p.shape[:-1] or not m.any():
            raise ValueError(
                f"{what}: expected a mask {p.shape[:-1]} with something in it, found {m.shape}, {int(m.sum())} set"
            )
        p, g = p[m], g[m]
    if not (np.isfinite(p).all() and np.isfinite(g).all()):
        raise ValueError(f"{what}: a point of the face is not finite")
    return p, g


def dense_nme(
    points: np.typing.ArrayLike, truth: np.typing.ArrayLike, mask: np.typing.ArrayLike | None = None
) -> float:
    """Percent: mean 3-D distance over sqrt(w h) of the true points' box in the image, each map's mean depth removed first.

    Nothing else is aligned: x, y, scale and pose are part of the error.

    Args:
        points, truth: (H, W, 3) position maps, or (P, 3).
        mask: (H, W), positive on the face; default all.

    Raises:
        ValueError: wrong shapes, an empty mask, values that are not finite, or a face without area.
    """
    p, g = _masked(points, truth, mask, "dense_nme")
    extent = np.ptp(g[:, :2], axis=0)
    if not extent.prod() > 0:
        raise ValueError("dense_nme: the true points span no area")
    difference = p - g
    difference[:, 2] -= difference[:, 2].mean()
    return float(100 * np.linalg.norm(difference, axis=1).mean() / np.sqrt(extent.prod()))


def align_by_reach(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """``source`` (P, 3) turned, scaled and moved onto ``target``, as the published code does it.

    The scale is the ratio of the summed distances from the **first** point, not the least-squares one; the rotation is Kabsch's. Reflections are
    excluded here (the published code lets them pass), and no noise is added to the covariance (it adds 1e-8).
    """
    reach_source = np.linalg.norm(source - source[0], axis=1).sum()
    reach_target = np.linalg.norm(target - target[0], axis=1).sum()
    if not reach_source > 0:
        raise ValueError("align_by_reach: all points of the prediction are in one place")
    scaled = source * (reach_target / reach_source)
    u, _, vt = np.linalg.svd((scaled - scaled.mean(0)).T @ (target - target.mean(0)))
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(vt.T @ u.T))])
    rotation = vt.T @ flip @ u.T
    return (scaled - scaled.mean(0)) @ rotation.T + target.mean(0)


def reconstruction_nme(
    points: np.typing.ArrayLike,
    truth: np.typing.ArrayLike,
    eye_corners: np.typing.ArrayLike,
    mask: np.typing.ArrayLike | None = None,
) -> float:
    """Percent: mean 3-D distance after a similarity alignment (:func:`align_by_reach`), over the distance of the outer corners of the eyes.

    Args:
        points, truth: (H, W, 3) position maps, or (P, 3).
        eye_corners: (2, 3) the true places of landmarks 36 and 45.
        mask: (H, W), positive on the face; default all.

    Raises:
        ValueError: wrong shapes, an empty mask, values that are not finite, or eye corners in one place.
    """
    p, g = _masked(points, truth, mask, "reconstruction_nme")
    corners = np.asarray(eye_corners, np.float64)
    if corners.shape != (2, 3) or not np.linalg.norm(corners[0] - corners[1]) > 0:
        raise ValueError(f"reconstruction_nme: expected two different eye corners (2, 3), found {corners.shape}")
    distance = np.linalg.norm(align_by_reach(p, g) - g, axis=1)
    return float(100 * distance.mean() / np.linalg.norm(corners[0] - corners[1]))
