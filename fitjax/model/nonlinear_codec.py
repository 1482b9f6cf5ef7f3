"""Packing the components of maps: rotated colours, block cosine transform, one common step in the units of the face, and LZMA.

A component is stored times its spread: what a unit of it changes on a face is rounded to the same step for all, so that faint ones take few bits
and none is more exact than it matters.
"""

from __future__ import annotations

import lzma

import numpy as np

_BLOCK = 8
#: Brightness and two differences of colour, orthonormal; the differences are rounded twice as coarsely.
_COLOURS = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3.0], [2.0], [6.0]])
_COARSER = np.array([1.0, 2.0, 2.0])
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 0, "pb": 0}]


def _blocks(maps: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) → (3, 8, 8, N, rows, columns) of blocks, padded by repetition."""
    height, width = maps.shape[1:3]
    pad = (-height % _BLOCK, -width % _BLOCK)
    padded = np.pad(maps, ((0, 0), (0, pad[0]), (0, pad[1]), (0, 0)), mode="edge")
    n, h, w, _ = padded.shape
    return padded.reshape(n, h // _BLOCK, _BLOCK, w // _BLOCK, _BLOCK, 3).transpose(5, 2, 4, 0, 1, 3)


def encode_maps(maps: np.ndarray, step: float) -> np.ndarray:
    """Bytes (uint8) of maps (N, H, W, 3): values are rounded to about ``step``."""
    from scipy.fft import dctn

    coefficients = dctn(_blocks(maps @ _COLOURS.T), axes=(1, 2), norm="ortho")
    steps = np.round(coefficients / (step * _COARSER[:, None, None, None, None, None])).clip(-32768, 32767).astype(np.int16)
    # Negative numbers folded between the positive ones: the high byte is then nearly always zero.
    folded = ((steps.astype(np.int32) << 1) ^ (steps.astype(np.int32) >> 31)).astype(np.uint16).ravel()
    planes = np.stack([folded & 255, folded >> 8]).astype(np.uint8)
    return np.frombuffer(lzma.compress(planes.tobytes(), lzma.FORMAT_RAW, filters=_FILTERS), np.uint8)


def decode_maps(packed: np.ndarray, count: int, height: int, width: int, step: float) -> np.ndarray:
    """The inverse: (count, height, width, 3) float32.

    Raises:
        ValueError: the bytes are damaged or belong to maps of another size.
    """
    from scipy.fft import idctn

    rows, columns = -(-height // _BLOCK), -(-width // _BLOCK)
    shape = (3, _BLOCK, _BLOCK, count, rows, columns)
    try:
        raw = lzma.decompress(packed.tobytes(), lzma.FORMAT_RAW, filters=_FILTERS)
    except lzma.LZMAError as error:
        raise ValueError(f"packed maps are damaged ({error})") from None
    if len(raw) != 2 * int(np.prod(shape)):
        raise ValueError(f"packed maps: expected {count} of {height} × {width}, found {len(raw)} bytes")
    low, high = np.frombuffer(raw, np.uint8).reshape(2, -1).astype(np.int32)
    folded = low | (high << 8)
    steps = ((folded >> 1) ^ -(folded & 1)).reshape(shape).astype(np.float32)
    coefficients = steps * (step * _COARSER).astype(np.float32)[:, None, None, None, None, None]
    blocks = idctn(coefficients, axes=(1, 2), norm="ortho")
    padded = blocks.transpose(3, 4, 1, 5, 2, 0).reshape(count, rows * _BLOCK, columns * _BLOCK, 3)
    return np.ascontiguousarray((padded @ _COLOURS.astype(np.float32))[:, :height, :width], np.float32)
