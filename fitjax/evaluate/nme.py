"""AFLW2000-3D sparse alignment: normalised mean error, its yaw bins, and angles between head poses.

The protocol of Zhu et al., "Face alignment in full pose range: a 3D total solution" (PAMI 2019): x and y of all 68 points, those of the hidden
side included; the error of a face is the mean distance in percent of sqrt(width · height) of the tight box of its true landmarks;
faces are binned by |yaw|, and the headline figure is the unweighted mean of the three bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: |yaw| in degrees: at most 30, above 30 and at most 60, above 60.
YAW_EDGES = (30.0, 60.0)
YAW_BINS = ("≤30", "30–60", ">60")


def box_size(truth: np.typing.ArrayLike) -> np.ndarray:
    """sqrt(w h) of the tight box of landmarks (…, N, 2), in their own unit: the unit of all errors."""
    points = np.asarray(truth, np.float64)
    extent = points.max(-2) - points.min(-2)
    return np.sqrt(extent.prod(-1))


def nme(points: np.typing.ArrayLike, truth: np.typing.ArrayLike, only: np.typing.ArrayLike | None = None) -> np.ndarray:
    """Percent: mean distance between ``points`` and ``truth`` (…, N, 2), over sqrt(w h) of the box of ``truth``.

    Args:
        only: indices of the points that count (held-out ones, say); the box is that of all points of ``truth``.

    Raises:
        ValueError: the shapes differ, or a box has no area.
    """
    p, g = np.asarray(points, np.float64), np.asarray(truth, np.float64)
    if p.shape != g.shape or p.ndim < 2 or p.shape[-1] != 2:
        raise ValueError(f"nme: expected two arrays (…, N, 2) of one shape, found {p.shape} and {g.shape}")
    size = box_size(g)
    if not (size > 0).all():
        raise ValueError("nme: the true landmarks of a face span no area")
    distance = np.linalg.norm(p - g, axis=-1)
    if only is not None:
        distance = distance[..., np.asarray(only)]
    return 100 * distance.mean(-1) / size


def yaw_bin(yaw_degrees: np.typing.ArrayLike) -> np.ndarray:
    """Index into :data:`YAW_BINS`: 0 for |yaw| ≤ 30, 1 for ≤ 60, 2 beyond."""
    return np.searchsorted(YAW_EDGES, np.abs(np.asarray(yaw_degrees, np.float64)), side="left")


@dataclass(frozen=True)
class BinnedMean:
    """Means of one error over faces.

    Attributes:
        bins, counts: mean and number of faces per bin of :data:`YAW_BINS`; NaN where a bin is empty.
        mean_of_bins: the headline figure, the unweighted mean of the three bins; NaN when one is empty.
        mean_of_faces: every face counts once.
    """

    bins: tuple[float, float, float]
    counts: tuple[int, int, int]
    mean_of_bins: float
    mean_of_faces: float


def binned_mean(errors: np.typing.ArrayLike, yaw_degrees: np.typing.ArrayLike) -> BinnedMean:
    """Both means of ``errors`` (N,), and the mean of each yaw bin."""
    e, index = np.asarray(errors, np.float64), yaw_bin(yaw_degrees)
    if e.ndim != 1 or e.shape != index.shape or not e.size:
        raise ValueError(f"binned_mean: expected one error and one yaw per face, found {e.shape} and {index.shape}")
    groups = [e[index == k] for k in range(3)]
    a, b, c = (float(g.mean()) if g.size else float("nan") for g in groups)
    return BinnedMean((a, b, c), (groups[0].size, groups[1].size, groups[2].size), (a + b + c) / 3, float(e.mean()))


def geodesic_degrees(a: np.typing.ArrayLike, b: np.typing.ArrayLike) -> np.ndarray:
    """Angle in degrees of the rotation from ``a`` to ``b`` (…, 3, 3); by the chord, so that small angles keep their digits."""
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    half_chord = np.sqrt((difference**2).sum((-1, -2)) / 8)
    return np.degrees(2 * np.arcsin(np.clip(half_chord, 0, 1)))


#: What an error is divided by, by name: sqrt(w h) of the tight box of the true points; the diagonal of that box; the distance of the outer corners
#: of the eyes ("inter-ocular"); the distance of the eyes' centres, each the mean of its six points ("inter-pupil"). The last two need 68 points.
NORMALISATIONS = ("box", "diagonal", "interocular", "interpupil")

_OUTER_CORNERS = (36, 45)
_RIGHT_EYE, _LEFT_EYE = slice(36, 42), slice(42, 48)


def face_scale(truth: np.typing.ArrayLike, normalisation: str = "box") -> np.ndarray:
    """Pixels, (…,): what errors at the true points (…, N, 2) are divided by. Points that are NaN are left out of boxes.

    Raises:
        ValueError: an unknown normalisation, or one that needs 68 points where there are not 68 or its own are missing.
    """
    points = np.asarray(truth, np.float64)
    if normalisation in ("box", "diagonal"):
        seen = np.isfinite(points)
        extent = np.where(seen, points, -np.inf).max(-2) - np.where(seen, points, np.inf).min(-2)
        return np.sqrt(extent.prod(-1)) if normalisation == "box" else np.linalg.norm(extent, axis=-1)
    if normalisation not in NORMALISATIONS:
        raise ValueError(f"normalisation: expected one of {', '.join(NORMALISATIONS)}, found {normalisation!r}")
    if points.shape[-2] != 68:
        raise ValueError(
            f"normalisation {normalisation!r}: needs the 68 points of ibug's order, found {points.shape[-2]}"
        )
    if normalisation == "interocular":
        right, left = (points[..., k, :] for k in _OUTER_CORNERS)
    else:
        right, left = points[..., _RIGHT_EYE, :].mean(-2), points[..., _LEFT_EYE, :].mean(-2)
    return np.linalg.norm(right - left, axis=-1)
