"""From MediaPipe's normalised coordinates to pixels, with its two half-pixel rules undone.

Measured with FaceMesh on 15 photos at 5 to 7 sizes each (mirrored against not mirrored, enlarged against not enlarged):

* **Image.** MediaPipe cuts the face out with OpenCV's ``warpPerspective``, which puts pixel centres at whole numbers,
  and hands rectangle edges to it as if they were pixel edges. So ``x * W`` is already in the frame where the centre of
  the top-left pixel is (0, 0): **no half pixel is subtracted.** (Enlarging a photo k times moves ``x * W / k`` by
  0.5 (1 - 1/k): measured 0.23, 0.32, 0.36, 0.40 for k = 2, 3, 4, 6; expected 0.25, 0.33, 0.375, 0.417. The intercept
  of x + mirrored x - W is -0.96; this rule says -1, the other one 0.)
* **Crop.** The network counts its 192-pixel crop from the pixel edge, so every point is off by half a *crop* pixel
  towards the right and bottom of the (rotated) crop: crop side / 384, about 0.4 % of the face's height. Measured
  0.50 +- 0.09 crop pixels in x from mirrored photos; y follows from the same code. It is subtracted here.
"""

from __future__ import annotations

import numpy as np

from .protocol import DetectedFace

__all__ = ["CROP_OFFSET", "face_from_normalised", "face_roll"]

CROP_OFFSET = 0.5
CROP_PIXELS = 192
# Crop side over the longer extent of the landmarks in the face's frame: 1.29 to 1.58, median 1.42 on 15 photos. A guess
# 10 % off leaves an error of 0.05 crop pixels.
CROP_OVER_FACE = 1.42
RIGHT_EYE_OUTER, LEFT_EYE_OUTER = 33, 263


def face_roll(landmarks: np.ndarray) -> float:
    """In-plane rotation in radians of (468 or 478, 2) points: the image direction from the right to the left eye."""
    dx, dy = landmarks[LEFT_EYE_OUTER] - landmarks[RIGHT_EYE_OUTER]
    return float(np.arctan2(dy, dx))


def crop_shift(landmarks: np.ndarray) -> np.ndarray:
    """(2,) the half crop pixel in image pixels by which MediaPipe's points lie too far right and down."""
    roll = face_roll(landmarks)
    c, s = np.cos(roll), np.sin(roll)
    extent = np.ptp(landmarks @ np.array([[c, -s], [s, c]]), axis=0).max()
    offset = CROP_OFFSET * CROP_OVER_FACE * extent / CROP_PIXELS
    return offset * np.array([c - s, s + c])


def face_from_normalised(xyz: np.ndarray, width: int, height: int, score: float) -> DetectedFace:
    """A face from MediaPipe's (N, 3) normalised points in an image of this size.

    Args:
        xyz: x over the width, y over the height, z at the scale of x; N is 468 or 478.
        width, height: pixels.
        score: detection score, or NaN.
    """
    xyz = np.asarray(xyz, dtype=np.float64)
    points = xyz[:, :2] * (width, height)
    points = points - crop_shift(points)
    return make_face(points, xyz[:, 2] * width, score)


def make_face(points: np.ndarray, depth: np.ndarray, score: float) -> DetectedFace:
    """A ``DetectedFace`` of (N, 2) pixel points and (N,) depth; the box is their extent."""
    x0, y0, x1, y1 = (float(v) for v in (*points.min(axis=0), *points.max(axis=0)))
    return DetectedFace(points, np.ones(len(points)), f"mediapipe{len(points)}", float(score), (x0, y0, x1, y1), depth)
