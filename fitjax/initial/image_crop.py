"""The square of a photo that the image network sees."""

from __future__ import annotations

import numpy as np
from PIL import Image

from fitjax.errors import FitjaxError
from fitjax.image.photo import Photo

#: Side of the crop over the face's size √(w · h).
CROP_OVER_FACE = 1.7


def cut_crop(photo: Photo, centre: np.ndarray, face_size: float, side: int, angle: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """(side, side, 3) float32 sRGB, 0 to 1, and the map (2, 3) from crop coordinates (-1 to 1) to pixels of the photo.

    Args:
        centre: (2,) pixels of the face's middle. face_size: pixels. angle: radians that the crop is turned by in the photo, clockwise.

    Raises:
        FitjaxError: a size that is not positive, or a face whose crop does not touch the photo.
    """
    half = 0.5 * CROP_OVER_FACE * face_size
    if not (np.isfinite(half) and half > 0 and np.isfinite(centre).all()):
        raise FitjaxError(f"{photo.path}: expected a face of positive size, found {face_size} pixels at {np.asarray(centre).tolist()}")
    if not ((np.asarray(centre) > -half) & (np.asarray(centre) < np.array([photo.width, photo.height]) + half)).all():
        raise FitjaxError(f"{photo.path}: the face's box around {np.round(centre).tolist()} lies outside the photo; check the landmarks or --box")
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    photo_from_crop = np.concatenate([half * turn, np.asarray(centre, np.float64)[:, None]], 1)
    # The photo is shrunk first where the crop has fewer pixels, so that nothing aliases.
    scale = 2 * half / side
    reach = half * (abs(np.cos(angle)) + abs(np.sin(angle))) + 2 * scale
    x0, y0, x1, y1 = (int(v) for v in (*np.floor(centre - reach), *np.ceil(centre + reach)))
    a, b, c, d = max(x0, 0), max(y0, 0), min(x1 + 1, photo.width), min(y1 + 1, photo.height)
    part = Image.fromarray(np.ascontiguousarray(photo.rgb[b:d, a:c]))
    factor = max(int(scale), 1)
    if factor > 1:
        part = part.reduce(factor)
    # Pixel i of the reduced part covers pixels a + factor · i to a + factor · (i + 1) of the photo.
    pixels = np.asarray(part, np.float32) / 255
    line = (2 * np.arange(side) + 1) / side - 1
    grid = np.stack(np.meshgrid(line, line), -1) @ photo_from_crop[:, :2].T + photo_from_crop[:, 2]
    at = (grid + 0.5 - [a, b]) / factor - 0.5
    height, width = pixels.shape[:2]
    x, y = np.clip(at[..., 0], 0, width - 1), np.clip(at[..., 1], 0, height - 1)
    column, row = np.minimum(x.astype(int), max(width - 2, 0)), np.minimum(y.astype(int), max(height - 2, 0))
    right, down = (x - column)[..., None], (y - row)[..., None]
    next_column, next_row = np.minimum(column + 1, width - 1), np.minimum(row + 1, height - 1)
    top = pixels[row, column] * (1 - right) + pixels[row, next_column] * right
    bottom = pixels[next_row, column] * (1 - right) + pixels[next_row, next_column] * right
    return (top * (1 - down) + bottom * down).astype(np.float32), photo_from_crop
