"""From a decoded Pillow image or a numpy array of any kind to (H, W, 3) uint8 sRGB."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["array_to_rgb", "pillow_to_rgb", "upright"]


def upright(image: Image) -> Image:
    """The image turned as its EXIF orientation (1 to 8) says; other values count as 1.

    TIFF files come out of Pillow's ``load`` already turned and with the tag removed, so call this after ``load``.
    """
    from PIL.Image import Transpose

    try:
        orientation = image.getexif().get(0x0112)
    except Exception:  # broken EXIF raises nearly anything in Pillow; the pixels are still good
        return image
    turn = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }.get(orientation if isinstance(orientation, int) else 1)
    return image if turn is None else image.transpose(turn)


def _to_srgb(image: Image, profile: bytes, warnings: list[str]) -> Image:
    """Apply an embedded ICC profile; a broken or unfitting one is ignored with a warning. Returns mode RGB."""
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        # sRGB to sRGB through a colour engine only adds rounding noise.
        if image.mode == "RGB" and "srgb" in ImageCms.getProfileDescription(source).lower():
            return image
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except Exception as error:  # PyCMSError wraps most, but a damaged profile also raises OSError and others
        warnings.append(
            f"the embedded ICC profile is ignored ({str(error) or type(error).__name__}): colours may be off"
        )
        return image.convert("RGB")
    assert converted is not None  # None only with inPlace=True
    return converted


def _wide_to_uint8(values: np.ndarray, what: str, warnings: list[str]) -> np.ndarray:
    """Samples of mode I or F, range not recorded in the file, to uint8: full scale is 1 (float), 255 or 65535."""
    if not np.isfinite(values).all():
        raise ImageError(f"{what}: the pixels hold NaN or infinity; expected finite values; clean the file first")
    low, high = float(values.min()), float(values.max())
    scales = (1.0, 255.0, 65535.0) if values.dtype.kind == "f" else (255.0, 65535.0)
    full = next((s for s in scales if high <= s), None)
    if low < 0 or full is None:
        raise ImageError(
            f"{what}: grey values run from {low:.4g} to {high:.4g}; expected 0 to "
            f"{', '.join(f'{s:.0f}' for s in scales)}; rescale and save as 8-bit PNG"
        )
    warnings.append(f"{values.dtype} grey values up to {high:.4g} are read with {full:.0f} as white")
    return np.rint(values.astype(np.float64) * (255.0 / full)).astype(np.uint8)


def pillow_to_rgb(image: Image, what: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """A loaded Pillow image of any mode as (H, W, 3) uint8 sRGB, with warnings.

    Transparent parts are composited on white, as browsers' default pages and print show them. An embedded ICC profile
    is converted to sRGB. CMYK without a profile takes Pillow's simple formula (Adobe's inverted JPEGs are righted).

    Raises:
        ImageError: non-finite or out-of-range samples, or a mode that Pillow cannot convert.
    """
    from PIL import Image as Pillow

    warnings: list[str] = []
    profile = image.info.get("icc_profile")
    mode = image.mode
    if mode.startswith("I;16"):
        grey = np.rint(np.asarray(image).astype(np.float64) / 257.0).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2), ()
    if mode in ("I", "F"):
        grey = _wide_to_uint8(np.asarray(image), what, warnings)
        return np.repeat(grey[..., None], 3, axis=2), tuple(warnings)

    alpha = None
    if mode in ("RGBa", "La"):
        image = image.convert("RGBA" if mode == "RGBa" else "LA")
    elif mode in ("P", "PA", "1", "L", "RGB") and ("transparency" in image.info or mode == "PA"):
        image = image.convert("RGBA")
    elif mode == "P":
        image = image.convert("RGB")
    elif mode == "1":
        image = image.convert("L")
    if image.mode in ("RGBA", "LA"):
        alpha = image.getchannel("A")
        image = image.convert("RGB") if image.mode == "RGBA" else image.getchannel("L")
    elif image.mode == "CMYK" and not profile:
        warnings.append("CMYK without a colour profile: colours are approximate")

    if image.mode == "LAB":  # only TIFF; Pillow's own convert does not know it
        from PIL import ImageCms

        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB") or image
    elif isinstance(profile, bytes) and profile and image.mode in ("RGB", "L", "CMYK"):
        image = _to_srgb(image, profile, warnings)
    elif image.mode != "RGB":
        image = image.convert("RGB")
    if alpha is not None and alpha.getextrema()[0] != 255:
        warnings.append("transparent parts are shown on white")
        white = Pillow.new("RGB", image.size, (255, 255, 255))
        white.paste(image, mask=alpha)
        image = white
    return np.array(image, dtype=np.uint8), tuple(warnings)


def array_to_rgb(array: Any, what: str) -> np.ndarray:
    """A numpy image, (H, W), (H, W, 1), (H, W, 2 grey + alpha), (H, W, 3) or (H, W, 4), as (H, W, 3) uint8.

    uint8 is taken as it is, uint16 has 65535 as white, bool has True as white, floats must lie in [0, 1] and are sRGB
    encoded (not linear). Alpha is composited on white.

    Raises:
        ImageError: a wrong shape or dtype, NaN, infinity, or floats outside [0, 1].
    """
    a = np.asarray(array)
    if a.ndim == 2:
        a = a[..., None]
    if a.ndim != 3 or a.shape[2] not in (1, 2, 3, 4):
        hint = ""
        if a.ndim == 3 and a.shape[0] in (1, 3, 4):
            hint = "; it looks channels-first: use array.transpose(1, 2, 0)"
        elif a.ndim == 4:
            hint = "; give one image at a time"
        raise ImageError(f"{what}: expected an image of shape (H, W), (H, W, 3) or (H, W, 4), found {a.shape}{hint}")
    if a.size == 0:
        raise ImageError(f"{what}: the image of shape {a.shape} holds no pixels")
    if a.dtype == np.uint8:
        unit = None
    elif a.dtype == np.uint16:
        unit = a.astype(np.float32) / 65535.0
    elif a.dtype == np.bool_:
        unit = a.astype(np.float32)
    elif a.dtype.kind == "f":
        bad = ~np.isfinite(a)
        if bad.any():
            y, x, _ = np.argwhere(bad)[0]
            raise ImageError(
                f"{what}: pixel x={x}, y={y} is {a[bad][0]}; expected finite values; clean the array first"
            )
        low, high = float(a.min()), float(a.max())
        if low < -1e-6 or high > 1 + 1e-6:
            raise ImageError(
                f"{what}: floats must lie in [0, 1], found {low:.4g} to {high:.4g}; divide by 255 or use dtype uint8"
            )
        unit = np.clip(a.astype(np.float32), 0.0, 1.0)
    else:
        raise ImageError(f"{what}: expected dtype uint8, uint16, bool or float, found {a.dtype}; convert the array")

    channels = a.shape[2]
    if channels in (2, 4):
        unit = a.astype(np.float32) / 255.0 if unit is None else unit
        colour, alpha = unit[..., :-1], unit[..., -1:]
        unit = colour * alpha + (1.0 - alpha)
    out = a if unit is None else np.rint(unit * 255.0).astype(np.uint8)
    return np.repeat(out, 3, axis=2) if out.shape[2] == 1 else np.array(out, dtype=np.uint8)
