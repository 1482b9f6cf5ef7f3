"""The focal length of a photo in pixels, from its EXIF data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["focal_from_exif"]

FOCAL_LENGTH, PIXEL_X, PIXEL_Y = 0x920A, 0xA002, 0xA003
FOCAL_PLANE_X_RESOLUTION, FOCAL_PLANE_UNIT, FOCAL_LENGTH_35MM = 0xA20E, 0xA210, 0xA405

# CIPA DC-008 defines the 35 mm equivalent by the diagonal of a 36 x 24 mm frame.
DIAGONAL_35MM = math.hypot(36.0, 24.0)
_MM_PER_UNIT = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}
# 35 mm equivalents outside 8 to 1200 mm are fisheye lenses, telescopes or garbage.
_PLAUSIBLE_35MM = (8.0, 1200.0)


def _number(value: Any) -> float | None:
    """A positive finite float, or None (EXIF rationals may be 0/0, tuples or text)."""
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def focal_from_exif(exif: Mapping[int, Any], width: int, height: int) -> tuple[float | None, tuple[str, ...]]:
    """Focal length in pixels of a photo of this size, and warnings.

    ``FocalLengthIn35mmFilm`` is preferred: f = f35 / 43.27 mm x the image's diagonal. Otherwise ``FocalLength`` x
    ``FocalPlaneXResolution``, scaled by the present long side over the recorded one. Both hold for photos that were
    resized. A photo whose aspect differs from the recorded one was cropped: how is unknown, so None is returned.

    Args:
        exif: the EXIF sub-directory, tag to value.
        width, height: size in pixels; the orientation does not matter.

    Returns:
        (focal length in pixels, or None when absent or implausible; warnings).
    """
    diagonal = math.hypot(width, height)
    was_x, was_y = _number(exif.get(PIXEL_X)), _number(exif.get(PIXEL_Y))
    long_side = None
    if was_x and was_y:
        long_side = max(was_x, was_y)
        aspect, now = long_side / min(was_x, was_y), max(width, height) / min(width, height)
        if abs(aspect / now - 1.0) > 0.02:
            return None, (
                f"the EXIF size {was_x:.0f} x {was_y:.0f} has another shape than the photo's {width} "
                f"x {height}: it was cropped, so the EXIF focal length is ignored",
            )
    focal = None
    f35, f_mm = _number(exif.get(FOCAL_LENGTH_35MM)), _number(exif.get(FOCAL_LENGTH))
    resolution = _number(exif.get(FOCAL_PLANE_X_RESOLUTION))
    if f35:
        focal = f35 / DIAGONAL_35MM * diagonal
    elif f_mm and resolution:
        unit = exif.get(FOCAL_PLANE_UNIT, 2)
        mm = _MM_PER_UNIT.get(unit) if isinstance(unit, int) else None
        if mm:
            focal = f_mm * resolution / mm * (max(width, height) / long_side if long_side else 1.0)
    if focal is None:
        return None, ()
    equivalent = focal / diagonal * DIAGONAL_35MM
    if not _PLAUSIBLE_35MM[0] <= equivalent <= _PLAUSIBLE_35MM[1]:
        return None, (f"the EXIF focal length ({equivalent:.3g} mm as 35 mm equivalent) is implausible and ignored",)
    return focal, ()
