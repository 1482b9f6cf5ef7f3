"""Head pose as AFLW2000-3D measures it: three angles in one Euler order, and the angle between rotations.

``Pose_Para`` holds (pitch, yaw, roll). R = Rx(pitch) Ry(yaw) Rz(roll), in an image frame with y up and z towards the viewer, with

    Rx = [[1, 0, 0], [0, c, s], [0, -s, c]]   Ry = [[c, 0, -s], [0, 1, 0], [s, 0, c]]   Rz = [[c, s, 0], [-s, c, 0], [0, 0, 1]]

(the sines sit where the transposes of the usual matrices have them). Positive yaw turns the nose to the image's left, positive pitch lifts it.
Rotations that leave this module are R_camera_head in OpenCV's axes (y down, z forward), as everywhere in the package.

The published errors (Yang et al., "FSA-Net", CVPR 2019, and all that compare with it) are plain differences of degrees without wrap-around, over the
faces whose three true angles lie within ±99°. Near profile, pitch and roll of that order are hardly determined one by one and their errors say
little; the geodesic angle has no such place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fitjax.evaluate.nme import geodesic_degrees

#: Faces with a true angle beyond this many degrees are left out of pose errors.
POSE_LIMIT = 99.0

_UP_FROM_OPENCV = np.diag([1.0, -1.0, -1.0])


def rotation_from_degrees(pitch_yaw_roll: np.typing.ArrayLike) -> np.ndarray:
    """(…, 3, 3) R_camera_head in OpenCV's axes of (…, 3) degrees."""
    angles = np.radians(np.asarray(pitch_yaw_roll, np.float64))
    c, s = np.cos(angles), np.sin(angles)
    x, y, z = (np.broadcast_to(np.eye(3), (*angles.shape[:-1], 3, 3)).copy() for _ in range(3))
    x[..., 1, 1] = x[..., 2, 2] = c[..., 0]
    x[..., 1, 2], x[..., 2, 1] = s[..., 0], -s[..., 0]
    y[..., 0, 0] = y[..., 2, 2] = c[..., 1]
    y[..., 0, 2], y[..., 2, 0] = -s[..., 1], s[..., 1]
    z[..., 0, 0] = z[..., 1, 1] = c[..., 2]
    z[..., 0, 1], z[..., 1, 0] = s[..., 2], -s[..., 2]
    return _UP_FROM_OPENCV @ x @ y @ z


def degrees_from_rotation(R_camera_head: np.typing.ArrayLike) -> np.ndarray:
    """(…, 3) pitch, yaw, roll in degrees; yaw within ±90. Inverse of :func:`rotation_from_degrees`."""
    up = _UP_FROM_OPENCV @ np.asarray(R_camera_head, np.float64)
    yaw = np.arcsin(np.clip(-up[..., 0, 2], -1, 1))
    roll = np.arctan2(up[..., 0, 1], up[..., 0, 0])
    pitch = np.arctan2(up[..., 1, 2], up[..., 2, 2])
    return np.degrees(np.stack([pitch, yaw, roll], -1))


def within_limits(pitch_yaw_roll: np.typing.ArrayLike) -> np.ndarray:
    """(…,) whether all three angles (…, 3) are known and within ±99°, the limit included."""
    angles = np.asarray(pitch_yaw_roll, np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray((np.abs(angles) <= POSE_LIMIT).all(-1))


@dataclass(frozen=True)
class PoseErrors:
    """Mean absolute errors in degrees.

    Attributes:
        pitch, yaw, roll: each over the faces that count. mean: of these three, the published MAE.
        geodesic: mean angle between the rotations. faces: how many count.
        each: (N, 4) |pitch|, |yaw|, |roll| errors and geodesic angle of every face, NaN where it does not count.
    """

    pitch: float
    yaw: float
    roll: float
    mean: float
    geodesic: float
    faces: int
    each: np.ndarray


def pose_errors(
    found: np.typing.ArrayLike, truth: np.typing.ArrayLike, excluded: np.typing.ArrayLike | None = None
) -> PoseErrors:
    """Errors of (N, 3) degrees, pitch, yaw, roll.

    Args:
        found: NaN rows are missing predictions: not counted here, count them yourself.
        truth: NaN rows are unknown. excluded: (N,) further faces that do not count.

    Raises:
        ValueError: the shapes differ.
    """
    a, b = np.asarray(found, np.float64), np.asarray(truth, np.float64)
    if a.shape != b.shape or a.ndim != 2 or a.shape[1] != 3:
        raise ValueError(f"pose_errors: expected two arrays (N, 3) of degrees, found {a.shape} and {b.shape}")
    used = within_limits(b) & np.isfinite(a).all(1)
    if excluded is not None:
        used &= ~np.asarray(excluded, bool)
    each = np.full((len(a), 4), np.nan)
    each[used, :3] = np.abs(a[used] - b[used])
    each[used, 3] = geodesic_degrees(rotation_from_degrees(a[used]), rotation_from_degrees(b[used]))
    if not used.any():
        return PoseErrors(*(float("nan"),) * 5, 0, each)
    pitch, yaw, roll, geodesic = (float(x) for x in each[used].mean(0))
    return PoseErrors(pitch, yaw, roll, (pitch + yaw + roll) / 3, geodesic, int(used.sum()), each)
