"""Which vertices the 68 points are: tables in TOML as eos writes them (``ibug_to_sfm.txt``), or JSON lists."""

from __future__ import annotations

import json
import tomllib
from importlib import resources
from pathlib import Path

import numpy as np
from jaxtyping import Int

from fitjax.errors import BasisError

_MAX_BYTES = 1 << 20


def known_table(name: str, n_vertices: int) -> Int[np.ndarray, "68"]:
    """One of the tables in the package (``fitjax/data/landmarks``), -1 for points that it lacks."""
    return parse_table(Path(str(resources.files("fitjax") / "data" / "landmarks" / f"{name}.txt")), n_vertices)


def parse_table(path: Path, n_vertices: int) -> Int[np.ndarray, "68"]:
    """Vertices of ibug's points from a file, -1 for points that it lacks.

    TOML: ``[landmark_mappings]`` with lines ``31 = 114``, points counted from 1 and vertices from 0. JSON: a list of 68 vertices or null, counted
    from 0, or an object that holds it as ``landmarks68``.

    Raises:
        BasisError: not such a file, or vertices that the model does not have.
    """
    expected = (
        "expected a JSON list of 68 vertex indices (or null), counted from 0, or eos's table with [landmark_mappings]"
    )
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise BasisError(f"{path}: {expected}, found a far larger file")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BasisError(f"{path}: cannot be read ({error.strerror}); {expected}") from None
    except UnicodeDecodeError:
        raise BasisError(f"{path}: {expected}, found no text") from None
    try:
        found = _json(text) if text.lstrip()[:1] in ("[", "{") and "landmark_mappings" not in text else _toml(text)
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise BasisError(f"{path}: {expected}, found something else") from None
    if found.max(initial=-1) >= n_vertices or found.min(initial=0) < -1:
        raise BasisError(
            f"{path}: expected vertices in [0, {n_vertices}), found {found.max()}; does it belong to this model?"
        )
    if len(np.unique(found[found >= 0])) < 6:
        raise BasisError(f"{path}: {expected}, found fewer than six different vertices")
    return found


def _json(text: str) -> np.ndarray:
    found = json.loads(text)
    if isinstance(found, dict):
        found = found["landmarks68"]
    if len(found) != 68 or not all(k is None or (type(k) is int and abs(k) < 1 << 31) for k in found):
        raise ValueError
    return np.array([-1 if k is None else k for k in found], np.int64)


def _toml(text: str) -> np.ndarray:
    table = tomllib.loads(text)["landmark_mappings"]
    found = np.full(68, -1, np.int64)
    for point, vertex in table.items():
        if type(vertex) is not int or not 0 <= vertex < 1 << 31 or not 1 <= int(point) <= 68:
            raise ValueError
        found[int(point) - 1] = vertex
    return found
