"""What a face detector is to fitjax, so that any landmark source fits behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from ..errors import DetectionError

__all__ = ["DetectedFace", "Detector", "as_rgb", "one_line"]


@dataclass(frozen=True, eq=False)
class DetectedFace:
    """One face in an image.

    Attributes:
        landmarks: (N, 2) float64, x and y in pixels of the given image; the **centre** of the top-left pixel is (0, 0).
        confidence: (N,) float64 in [0, 1], per point; 1 where the detector does not tell.
        set_name: the landmark set, such as ``"mediapipe478"``.
        score: the detector's score of the face in [0, 1]; NaN where it gives none.
        box: (x0, y0, x1, y1), the extent of the landmarks in pixels, in the same frame.
        depth: (N,) float64 relative depth, in pixels at the scale of x, smaller is nearer to the camera; or None.
    """

    landmarks: np.ndarray
    confidence: np.ndarray
    set_name: str
    score: float
    box: tuple[float, float, float, float]
    depth: np.ndarray | None = None

    @property
    def area(self) -> float:
        """Area of ``box`` in square pixels."""
        return (self.box[2] - self.box[0]) * (self.box[3] - self.box[1])


@runtime_checkable
class Detector(Protocol):
    """Anything that finds faces with landmarks."""

    @property
    def name(self) -> str:
        """Name and version for reports."""
        ...

    def detect(self, rgb: np.ndarray) -> list[DetectedFace]:
        """Faces in an (H, W, 3) uint8 sRGB image, sorted by box area, largest first; empty when there is none.

        Raises:
            DetectionError: the image has a wrong shape or dtype, or the detector failed.
        """
        ...


def as_rgb(rgb: np.ndarray) -> np.ndarray:
    """The image as a contiguous array, checked to be (H, W, 3) uint8 and not empty."""
    if not isinstance(rgb, np.ndarray) or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or not rgb.size:
        found = f"{rgb.dtype} {rgb.shape}" if isinstance(rgb, np.ndarray) else type(rgb).__name__
        raise DetectionError(
            f"detect expects an (H, W, 3) uint8 image, found {found}; use fitjax.image.photo_from_array"
        )
    return np.ascontiguousarray(rgb)


def one_line(error: BaseException) -> str:
    """The text of an error of MediaPipe's, which may run over many lines, as one of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__
