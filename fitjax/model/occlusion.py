"""Ambient occlusion of the embedded head: how much of the sky each place of its texture sees past the rest of the head.

Light in spherical harmonics knows normals but not shadows, so nostrils, the mouth and the corners of the eyes come out as bright as a cheek. This
map is the first-order remedy, a factor on shaded colour: the share of a uniform sky, weighted by the cosine to the normal, that is not hidden.
Baked by ``basis/build_occlusion.py``: one map for all faces, of mean faces and moderate expressions.
"""

from __future__ import annotations

import hashlib
import io
import json
from importlib import resources
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from fitjax.errors import BasisError

#: Rows and columns of the map.
SIZE = 256
#: Least value of the map: light between surfaces, which the visibility of the sky leaves out, keeps cavities from going black.
FLOOR = 0.1


def default_occlusion() -> Float[np.ndarray, "256 256"]:
    """The embedded map, float32 in (0, 1], in the texture of the embedded basis: row 0 is the top (v = 1).

    Raises:
        BasisError: the file or its record is missing or damaged, or the two differ.
    """
    return read_occlusion(Path(str(resources.files("fitjax") / "data" / "occlusion.png")))


def read_occlusion(path: Path) -> Float[np.ndarray, "256 256"]:
    """A map from an 8-bit grey PNG, 255 for open sky, checked against the record (`.json`) beside it.

    Raises:
        BasisError: as for `default_occlusion`.
    """
    record = path.with_suffix(".json")
    try:
        raw, expected = path.read_bytes(), json.loads(record.read_text())["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BasisError(
            f"occlusion {path}: cannot read it and its record {record.name} ({error!r}); reinstall fitjax"
        ) from None
    if hashlib.sha256(raw).hexdigest() != expected:
        raise BasisError(f"occlusion {path}: the file differs from its record {record.name}; reinstall or rebuild it")
    try:
        with Image.open(io.BytesIO(raw)) as image:
            mode, levels = image.mode, np.asarray(image)
    except Exception as error:  # decoders raise what they like
        raise BasisError(f"occlusion {path}: not a readable PNG ({error}); reinstall or rebuild it") from None
    if mode != "L" or levels.shape != (SIZE, SIZE) or levels.min() == 0:
        raise BasisError(
            f"occlusion {path}: expected {SIZE} × {SIZE} grey texels above 0, found mode {mode} {levels.shape}"
        )
    return levels.astype(np.float32) / 255
