"""Writing `fitjax-basis/1` files (docs/basis_format.md): int16 modes, and the same bytes for the same content."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int16

_LARGEST_STEP = 32767
_DTYPES = {"float32": "F32", "int32": "I32", "int16": "I16", "uint8": "U8"}


def quantise(modes: Float[np.ndarray, "K V 3"]) -> tuple[Int16[np.ndarray, "K V 3"], Float[np.ndarray, "K"]]:
    """int16 steps and metres per step; a mode's largest displacement uses the whole range."""
    scale = np.abs(modes).max((1, 2)) / _LARGEST_STEP
    steps = np.rint(modes / np.maximum(scale, 1e-30)[:, None, None]).astype(np.int16)
    return steps, scale.astype(np.float32)


def serialise(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file with names in order. The library's own writer orders metadata at random, so hashes would differ.

    Raises:
        KeyError: a dtype other than float32, int32, int16, uint8.
    """
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    blocks, offset = [], 0
    # Wide types first, as the library does, so that every tensor is aligned.
    for name in sorted(tensors, key=lambda key: (-tensors[key].dtype.itemsize, key)):
        value = np.ascontiguousarray(tensors[name])
        block = value.tobytes()
        header[name] = {
            "dtype": _DTYPES[value.dtype.name], "shape": list(value.shape), "data_offsets": [offset, offset + len(block)],
        }  # fmt: skip
        blocks.append(block)
        offset += len(block)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(blocks)
