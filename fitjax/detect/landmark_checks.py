"""Whether landmarks can be those of a face in a photo, before any time goes into a fit."""

from __future__ import annotations

import numpy as np

from ..errors import LandmarkError

__all__ = ["SET_COUNTS", "check_landmarks", "set_for_count"]

SET_COUNTS = {
    "ibug68": 68,
    "ibug51": 51,
    "mediapipe478": 478,
    "mediapipe468": 468,
    "aflw68": 68,
    "aflw68_original": 68,
}
_BY_COUNT = {68: "ibug68", 51: "ibug51", 478: "mediapipe478", 468: "mediapipe468"}

# Point indices of (the subject's right eye, left eye, mouth). ibug51 is ibug68 without the jaw: points 17 to 67.
_IBUG = (list(range(36, 42)), list(range(42, 48)), list(range(48, 68)))
_MEDIAPIPE = ([33, 133, 159, 145], [263, 362, 386, 374], [61, 291, 13, 14])
_GROUPS = {
    68: _IBUG,
    51: tuple([i - 17 for i in group] for group in _IBUG),
    478: _MEDIAPIPE,
    468: _MEDIAPIPE,
}
MIN_VALID = 4
# Root mean square distance from the centroid below this, in pixels: one spot, not a face.
MIN_SPREAD = 1.0
# Second over first singular value of the centred points; the lowest of 992 AFLW2000-3D faces of all poses is 0.55.
MIN_FLATNESS = 1e-3
# (eye vector x down vector) / |down|^2 is about 1 in front, 0 in profile and -1 when mirrored. The lowest of the 992
# faces is -0.35 (a profile with poor annotation), so a mirrored profile goes unnoticed.
MIRRORED = -0.45


def set_for_count(count: int, what: str = "landmarks") -> str:
    """The set with this many points: 68 ibug68, 51 ibug51, 478 mediapipe478, 468 mediapipe468 (no irises).

    Raises:
        LandmarkError: no known set has this count.
    """
    if count not in _BY_COUNT:
        known = ", ".join(f"{n} ({name})" for n, name in _BY_COUNT.items())
        raise LandmarkError(f"{what}: found {count} points; expected one of {known}; give all points of one set")
    return _BY_COUNT[count]


def check_landmarks(
    points: np.ndarray,
    valid: np.ndarray | None,
    set_name: str,
    image_size: tuple[int, int] | None = None,
    *,
    what: str = "landmarks",
) -> None:
    """Raise when landmarks cannot be those of a face; return nothing when they can.

    Args:
        points: (N, 2) pixels, x right and y down, the centre of the top-left pixel at (0, 0).
        valid: (N,) bool, False where a point is missing (its coordinates are ignored); None: all are there.
        set_name: a known set; fixes N and which points are eyes and mouth.
        image_size: (width, height) in pixels, or None to skip the test against the image.
        what: names the landmarks in messages, such as the file.

    Raises:
        LandmarkError: an unknown set, a wrong count or shape, a valid point that is not finite, fewer than 4 valid
            points, points that coincide or lie on one line, left and right swapped, or all far outside the image.
    """
    if set_name not in SET_COUNTS:
        raise LandmarkError(f"{what}: unknown landmark set {set_name!r}; known: {', '.join(SET_COUNTS)}")
    count = SET_COUNTS[set_name]
    points = np.asarray(points, dtype=np.float64)
    if points.shape != (count, 2):
        raise LandmarkError(f"{what}: set {set_name} expects points of shape ({count}, 2), found {points.shape}")
    valid = np.ones(count, bool) if valid is None else np.asarray(valid)
    if valid.shape != (count,) or valid.dtype != np.bool_:
        raise LandmarkError(f"{what}: valid must be bool of shape ({count},), found {valid.dtype} {valid.shape}")
    bad = valid & ~np.isfinite(points).all(axis=1)
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise LandmarkError(
            f"{what}: point {i} is ({points[i, 0]}, {points[i, 1]}); expected finite pixels; mark it as missing instead"
        )
    if (n := int(valid.sum())) < MIN_VALID:
        raise LandmarkError(f"{what}: {n} valid points of {count}; expected at least {MIN_VALID}; give more points")
    _check_spread(points[valid], what)
    if image_size is not None:
        _check_inside(points[valid], image_size, what)
    _check_mirrored(points, valid, count, what)


def _check_spread(points: np.ndarray, what: str) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        centred = points - points.mean(axis=0)
        usable = bool((np.abs(centred) < 1e7).all())
    if not usable:  # also keeps the decomposition below from overflowing
        i = int(np.argmax(np.abs(points).max(axis=1)))
        raise LandmarkError(
            f"{what}: a point is at ({points[i, 0]:.3g}, {points[i, 1]:.3g}); expected pixels of a photo"
        )
    singular = np.linalg.svd(centred, compute_uv=False)
    spread = float(np.sqrt((singular**2).sum() / len(points)))
    if spread < MIN_SPREAD:
        low, high = points.min(), points.max()
        hint = "; they look normalised: multiply by the image's width and height" if low >= -0.5 and high <= 1.5 else ""
        raise LandmarkError(
            f"{what}: all points lie within {spread:.2g} pixels of each other; expected a face of 20 pixels or "
            f"more{hint}"
        )
    if singular[1] < MIN_FLATNESS * singular[0]:
        raise LandmarkError(
            f"{what}: all valid points lie on one line; expected a face; are the x and y columns right?"
        )


def _check_inside(points: np.ndarray, image_size: tuple[int, int], what: str) -> None:
    """At least one point must lie within half an image of the image."""
    size = np.asarray(image_size, dtype=np.float64)
    if ((points >= -0.5 * size) & (points <= 1.5 * size)).all(axis=1).any():
        return
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    raise LandmarkError(
        f"{what}: all points lie far outside the image of {size[0]:.0f} x {size[1]:.0f} pixels: x {x0:.0f} to "
        f"{x1:.0f}, "
        f"y {y0:.0f} to {y1:.0f}; do they belong to another photo, or to one of another size?"
    )


def _check_mirrored(points: np.ndarray, valid: np.ndarray, count: int, what: str) -> None:
    """The subject's right eye must lie on the image's left, seen with the eyes above the mouth."""
    means = []
    for group in _GROUPS[count]:
        there = [i for i in group if valid[i]]
        if 2 * len(there) < len(group):
            return  # too few points of an eye or the mouth to tell
        means.append(points[there].mean(axis=0))
    right, left, mouth = means
    across, down = left - right, mouth - (left + right) / 2
    signed = (across[0] * down[1] - across[1] * down[0]) / max(float(down @ down), 1e-12)
    if signed < MIRRORED:
        raise LandmarkError(
            f"{what}: left and right are swapped: the subject's right eye is on the wrong side of the left (points "
            f"{_GROUPS[count][0][0]} and {_GROUPS[count][1][0]}); expected the order of an unmirrored face with y "
            "pointing "
            "down; flip x or y, or reorder the points"
        )
