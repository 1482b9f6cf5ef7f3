"""Small pictures and files for the tests of reading and detecting; nothing is read from the network."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SHARED = Path(__file__).parents[2] / "shared"


def picture(width: int = 64, height: int = 48) -> np.ndarray:
    """(H, W, 3) uint8 without any symmetry: red grows to the right, green downwards, blue marks the top-left."""
    y, x = np.mgrid[0:height, 0:width]
    blue = np.where((x < width // 2) & (y < height // 2), 200, 40)
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), blue], axis=-1).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of an image file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def exif_with(orientation: int | None = None, **sub: Any) -> Image.Exif:
    """EXIF with an orientation and, by number like ``tag_0xA405=50``, entries of the EXIF sub-directory."""
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    ifd = exif.get_ifd(0x8769)
    for key, value in sub.items():
        ifd[int(key.removeprefix("tag_"), 16)] = value
    return exif


def as_recorded(upright: np.ndarray, orientation: int) -> np.ndarray:
    """What a camera stores for this upright picture with an EXIF orientation, in numpy terms only."""
    return {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation](upright)


def png_header(width: int, height: int) -> bytes:
    """A PNG file of this claimed size whose pixels are missing."""
    import struct
    import zlib

    ihdr = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + ihdr + struct.pack(">I", zlib.crc32(ihdr))
    idat = b"IDAT" + zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", len(idat) - 4) + idat + struct.pack(">I", zlib.crc32(idat))


def face68() -> np.ndarray:
    """(68, 2) a plausible frontal ibug-68 face in pixels, about 200 wide, centred near (250, 250)."""
    jaw = [(250 - 100 * np.cos(t), 230 + 120 * np.sin(t)) for t in np.linspace(0, np.pi, 17)]
    brows = [(170 + 15 * i, 190 - 4 * (i % 4)) for i in range(5)] + [
        (270 + 15 * i, 190 - 4 * (i % 4)) for i in range(5)
    ]
    nose = [(250, 210 + 15 * i) for i in range(4)] + [(230 + 10 * i, 275) for i in range(5)]
    ring = [(np.cos(t), np.sin(t)) for t in np.linspace(np.pi, 3 * np.pi, 7)[:-1]]
    eyes = [(200 + 15 * x, 215 + 6 * y) for x, y in ring] + [(300 + 15 * x, 215 + 6 * y) for x, y in ring]
    lips = [(250 + 35 * np.cos(t), 305 + 15 * np.sin(t)) for t in np.linspace(np.pi, 3 * np.pi, 13)[:-1]]
    inner = [(250 + 25 * np.cos(t), 305 + 7 * np.sin(t)) for t in np.linspace(np.pi, 3 * np.pi, 9)[:-1]]
    return np.array(jaw + brows + nose + eyes + lips + inner, dtype=np.float64)
