"""Reading a photo: any file that Pillow reads correctly, as upright 8-bit sRGB, with its focal length if recorded."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ImageError
from .decode import array_to_rgb, pillow_to_rgb, upright
from .exif import focal_from_exif
from .sniff import not_a_photo

__all__ = ["MAX_BYTES", "MAX_PIXELS", "MIN_SIDE", "Photo", "downscale_for_detection", "photo_from_array", "photo_from_bytes", "read_photo"]

# Pillow's own threshold for its bomb warning: up to here it stays silent, so no warning filter has to be touched.
MAX_PIXELS = 89_478_485
MIN_SIDE = 32
MAX_BYTES = 1 << 29
# An allow-list: among Pillow's other plugins, EPS starts Ghostscript, and several are barely tested decoders.
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA")


@dataclass(frozen=True, eq=False)
class Photo:
    """One photo in upright orientation.

    Attributes:
        rgb: (H, W, 3) uint8, sRGB encoded, read-only; row 0 is the top.
        path: the file, or the name given to ``photo_from_array``.
        sha256: hex digest of the file's bytes (of the RGB pixels for an array).
        focal_px: focal length in pixels of this image, or None when not recorded or implausible.
        warnings: what a user should know about how the file was read.
    """

    rgb: np.ndarray
    path: str
    sha256: str
    focal_px: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.rgb.shape[1])

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.rgb.shape[0])


def _frozen(rgb: np.ndarray) -> np.ndarray:
    rgb = np.ascontiguousarray(rgb)
    rgb.setflags(write=False)
    return rgb


def _check_size(width: int, height: int, what: str) -> None:
    if min(width, height) < MIN_SIDE:
        raise ImageError(
            f"{what}: the image is {width} x {height} pixels; expected at least {MIN_SIDE} on each side; use a "
            "larger photo"
        )
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{what}: the image is {width} x {height} = {width * height / 1e6:.0f} million pixels; the limit is "
            f"{MAX_PIXELS / 1e6:.0f} million; resize it first"
        )


def _read_bytes(path: Path) -> bytes:
    what = str(path)
    try:
        if path.is_dir():
            raise ImageError(f"{what}: is a folder; expected a photo; name a file inside it")
        if not path.exists():
            where = "" if path.is_absolute() else f" (it is relative to the current folder, {Path.cwd()})"
            raise ImageError(f"{what}: no such file; expected a photo; check the path{where}")
        if not path.is_file():  # reading a pipe or a device might never end
            raise ImageError(f"{what}: is not a regular file; expected a photo; save it to a file first")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ImageError(
                f"{what}: the file has {size / 1e6:.0f} MB; the limit is {MAX_BYTES / 1e6:.0f} MB; resize the photo"
            )
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL inside the path
        raise ImageError(f"{what!r}: cannot be read ({error}); check the path and its permissions") from None


def read_photo(path: str | os.PathLike[str]) -> Photo:
    """Read a photo file as upright 8-bit sRGB.

    Handles the EXIF orientation, grey, alpha (composited on white), CMYK, 16-bit and float grey, 1-bit, palettes, the
    first frame of animations, and embedded colour profiles (converted to sRGB). The size is checked from the header,
    before any pixel is decoded, and Pillow's global settings are left alone.

    Args:
        path: a JPEG, PNG, GIF, WebP, BMP, TIFF, PPM, JPEG 2000, AVIF or TGA file; the content decides, not the name.

    Returns:
        the ``Photo``; ``focal_px`` comes from EXIF (see ``focal_from_exif``).

    Raises:
        ImageError: missing, a folder, empty, truncated, not a photo, unsupported, smaller than 32 pixels on a side, or
            more than ``MAX_PIXELS`` pixels.
    """
    return photo_from_bytes(_read_bytes(Path(path)), str(path))


def photo_from_bytes(data: bytes, what: str) -> Photo:
    """As `read_photo`, of a file's bytes.

    Args:
        what: used in messages and as the photo's ``path``.

    Raises:
        ImageError: as `read_photo`.
    """
    from PIL import Image, UnidentifiedImageError

    if (reason := not_a_photo(data)) is not None:
        raise ImageError(f"{what}: {reason}")
    warnings: list[str] = []
    Image.init()  # registers Pillow's plugins, as its own ``open`` does when the common ones fail
    formats = [name for name in FORMATS if name in Image.OPEN]  # older Pillows lack AVIF
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            _check_size(*image.size, what)
            if getattr(image, "is_animated", False) and image.format != "MPO":
                warnings.append("the file is an animation or has several pages: the first is used")
            image.load()
            turned = upright(image)
            focal, notes = _focal(image, turned.size)
            warnings.extend(notes)
            rgb, notes = pillow_to_rgb(turned, what)
            warnings.extend(notes)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(
            f"{what}: not a photo in a supported format (starts with {data[:8]!r}); expected one of "
            f"{', '.join(FORMATS)}; convert it to JPEG or PNG"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(
            f"{what}: the image is far too large to decode safely; the limit is {MAX_PIXELS / 1e6:.0f} million pixels; "
            "resize it first"
        ) from None
    except MemoryError:
        raise ImageError(f"{what}: not enough memory to decode the image; resize it first") from None
    except Exception as error:  # on damaged files Pillow's plugins raise nearly anything
        text = str(error) or type(error).__name__
        kind = "truncated" if "truncat" in text.lower() or isinstance(error, EOFError) else "damaged"
        raise ImageError(f"{what}: the image file is {kind} ({text}); fetch or export it again") from None
    _check_size(rgb.shape[1], rgb.shape[0], what)
    return Photo(_frozen(rgb), what, hashlib.sha256(data).hexdigest(), focal, tuple(warnings))


def _focal(image: Any, size: tuple[int, int]) -> tuple[float | None, tuple[str, ...]]:
    """Focal length from the EXIF sub-directory 0x8769; broken EXIF counts as none."""
    try:
        exif = dict(image.getexif().get_ifd(0x8769))
    except Exception:  # as in ``upright``
        return None, ()
    return focal_from_exif(exif, *size)


def photo_from_array(array: Any, *, name: str = "array", focal_px: float | None = None) -> Photo:
    """A ``Photo`` from a numpy image; see ``array_to_rgb`` for the shapes and dtypes taken.

    Args:
        array: (H, W), (H, W, 1), (H, W, 2), (H, W, 3) or (H, W, 4); uint8, uint16, bool, or sRGB floats in [0, 1].
        name: used in messages and as ``path``.
        focal_px: focal length in pixels, if known.

    Raises:
        ImageError: a wrong shape, dtype, range or size, NaN, or a focal length that is not positive.
    """
    rgb = array_to_rgb(array, name)
    _check_size(rgb.shape[1], rgb.shape[0], name)
    if focal_px is not None and not (np.isfinite(focal_px) and focal_px > 0):
        raise ImageError(
            f"{name}: focal_px must be a positive number of pixels, found {focal_px}; leave it out if unknown"
        )
    rgb = _frozen(rgb)
    digest = hashlib.sha256(rgb.tobytes()).hexdigest()
    return Photo(rgb, name, digest, None if focal_px is None else float(focal_px))


def downscale_for_detection(rgb: np.ndarray, longest: int) -> tuple[np.ndarray, float]:
    """Shrink an image so that its longer side is at most ``longest`` pixels; smaller ones come back as they are.

    Args:
        rgb: (H, W, 3) uint8.
        longest: pixels, at least 32.

    Returns:
        (the image, scale), scale <= 1 and the same in x and y: a point at (x, y) of the result, with pixel centres at
        whole numbers, lies at ((x + 0.5) / scale - 0.5, (y + 0.5) / scale - 0.5) of ``rgb``.

    Raises:
        ImageError: ``longest`` is below 32.
    """
    if longest < MIN_SIDE:
        raise ImageError(f"longest must be at least {MIN_SIDE} pixels, found {longest}")
    height, width = rgb.shape[:2]
    if max(height, width) <= longest:
        return rgb, 1.0
    from PIL import Image

    scale = longest / max(height, width)
    # Rounding down and resampling from a fractional box keeps the scale exactly equal in x and y.
    size = max(1, int(width * scale + 1e-9)), max(1, int(height * scale + 1e-9))
    box = (0.0, 0.0, min(width, size[0] / scale), min(height, size[1] / scale))
    small = Image.fromarray(np.ascontiguousarray(rgb)).resize(size, Image.Resampling.BILINEAR, box=box)
    return np.asarray(small), scale
