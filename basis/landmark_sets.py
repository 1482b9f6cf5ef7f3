"""Index tables of the landmark sets: contours of MediaPipe's face mesh, ibug-68, and mirror partners."""

import numpy as np

# Of eyes and brows the right ones; the left ones follow from the mirror map of the canonical face.
from fitjax.observation.part_tables import (  # noqa: F401
    FACE_OVAL,
    INNER_LOWER_LIP,
    INNER_UPPER_LIP,
    NOSE,
    OUTER_LOWER_LIP,
    OUTER_UPPER_LIP,
    RIGHT_BROW,
    RIGHT_LOWER_LID,
    RIGHT_UPPER_LID,
)

# The FaceMesh points that stand for ibug-68's 48 to 59.
IBUG68_OUTER_LIPS = (61, 39, 37, 0, 267, 269, 291, 321, 314, 17, 84, 91)
# Iris points of the refined mesh: centre and ring (the subject's left, top, right, bottom of the ring differ by eye).
RIGHT_IRIS, LEFT_IRIS = (468, 469, 470, 471, 472), (473, 474, 475, 476, 477)

IBUG68_MIRROR = np.array(
    [16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 27, 28, 29, 30,
     35, 34, 33, 32, 31, 45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40, 54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55,
     64, 63, 62, 61, 60, 67, 66, 65]
)  # fmt: skip
HELD_OUT = np.array([2, 4, 8, 10, 11, 16, 18, 19, 20, 23, 30, 35, 36, 43, 44, 46, 47, 51, 55, 58, 62, 64, 67])
