"""Pictures as the bytes of PNG and GIF files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fitjax.errors import FitjaxError


def encode_png(image: np.ndarray, text: Mapping[str, str] | None = None, compress_level: int | None = None) -> bytes:
    """A PNG file.

    Args:
        image: uint8 (H, W), (H, W, 3) or (H, W, 4), or uint16 (H, W).
        text: entries for its tEXt chunks.
        compress_level: of zlib, 0 to 9; by default 3, and 1 for more than four million pixels: larger files, but several times faster.

    Raises:
        FitjaxError: another dtype or shape.
    """
    image = np.asarray(image)
    grey = image.ndim == 2 and image.dtype in (np.uint8, np.uint16)
    if not (grey or (image.ndim == 3 and image.shape[2] in (3, 4) and image.dtype == np.uint8)):
        raise FitjaxError(
            f"PNG: an image of {image.dtype} {image.shape}; expected uint8 (H, W[, 3 or 4]) or uint16 (H, W)"
        )
    if compress_level is None:
        compress_level = 3 if image.shape[0] * image.shape[1] <= 1 << 22 else 1
    info = PngInfo()
    for key, value in (text or {}).items():
        info.add_text(key, value)
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(stream, "PNG", compress_level=compress_level, pnginfo=info)
    return stream.getvalue()


def encode_gif(frames: Sequence[np.ndarray], seconds_per_frame: float = 0.08) -> bytes:
    """A GIF that repeats for ever, all frames over one palette, so that still parts do not flicker.

    Args:
        frames: uint8 (H, W, 3), all of one size.

    Raises:
        FitjaxError: no frames, or frames of different shapes or another dtype.
    """
    if not frames or any(f.shape != frames[0].shape or f.dtype != np.uint8 or f.ndim != 3 for f in frames):
        raise FitjaxError("GIF: expected one or more uint8 frames (H, W, 3) of the same size")
    sample = Image.fromarray(np.concatenate([f[::2, ::2] for f in frames[:: max(1, len(frames) // 6)]]))
    palette = sample.quantize(256, Image.Quantize.MEDIANCUT)
    # Equal frames (the way back of a turntable) are converted once.
    done: dict[bytes, Image.Image] = {}
    pictures = []
    for frame in frames:
        key = frame.tobytes()
        if key not in done:
            done[key] = Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
        pictures.append(done[key])
    stream = io.BytesIO()
    duration = max(20, round(1000 * seconds_per_frame))
    pictures[0].save(
        stream, "GIF", save_all=True, append_images=pictures[1:], duration=duration, loop=0, optimize=False
    )
    return stream.getvalue()


def rgb8(srgb: np.ndarray) -> np.ndarray:
    """sRGB in [0, 1] to uint8, clipped, rounded to the nearest."""
    return np.round(np.clip(srgb, 0, 1) * 255).astype(np.uint8)
