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
#: Fewer fix no similarity.
_FEWEST = 6


def known_table(name: str, n_vertices: int) -> Int[np.ndarray, "68"]:
    """One of the tables in the package (``fitjax/data/landmarks``), -1 for points that it lacks."""
    return parse_table(Path(str(resources.files("fitjax") / "data" / "landmarks" / f"{name}.txt")), n_vertices)


def parse_table(path: Path, n_vertices: int | None = None) -> Int[np.ndarray, "68"]:
    """Vertices of ibug's points from a file, -1 for points that it lacks.

    TOML: ``[landmark_mappings]`` with lines ``31 = 114``, points counted from 1 and vertices from 0. JSON: a list of 68 vertices or null, counted
    from 0, or an object that holds it as ``landmarks68``. ``n_vertices``: of the model, if it is known by then.

    Raises:
        BasisError: not such a file, or vertices that the model does not have.
    """
    expected = "expected a list of 68 vertex indices, counted from 0"
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise BasisError(f"{path}: {expected}, found a far larger file")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BasisError(f"{path}: cannot be read ({error.strerror}); {expected}") from None
    except UnicodeDecodeError:
        raise BasisError(f"{path}: {expected}, found no text") from None
    try:
        found = _toml(text) if "[landmark_mappings]" in text else _json(text)
    except BasisError as error:
        raise BasisError(f"{path}: {expected}, {error}") from None
    if n_vertices is not None and found.max(initial=-1) >= n_vertices:
        raise BasisError(f"{path}: expected vertices in [0, {n_vertices}), found {found.max()}; does it belong to this model?")
    if len(np.unique(found[found >= 0])) < _FEWEST:
        raise BasisError(f"{path}: {expected}, found fewer than {_FEWEST} different ones")
    return found


def _json(text: str) -> np.ndarray:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise BasisError("found a file not readable as JSON") from None
    if isinstance(found, dict):
        found = found.get("landmarks68")
    if not isinstance(found, list) or len(found) != 68:
        raise BasisError(f"found {len(found)} entries" if isinstance(found, list) else f"found {type(found).__name__}")
    for k in found:
        if k is not None and not (type(k) is int and 0 <= k < 1 << 31):
            raise BasisError(f"found {str(k)[:40]!r}")
    return np.array([-1 if k is None else k for k in found], np.int64)


def _toml(text: str) -> np.ndarray:
    try:
        table = tomllib.loads(text)["landmark_mappings"]
    except (ValueError, RecursionError):
        raise BasisError("found a table not readable as TOML") from None
    found = np.full(68, -1, np.int64)
    for point, vertex in table.items() if isinstance(table, dict) else ():
        if not point.isdecimal() or not 1 <= int(point[:9]) <= 68 or type(vertex) is not int or not 0 <= vertex < 1 << 31:
            raise BasisError(f"found {point[:20]!r} = {str(vertex)[:20]!r} in [landmark_mappings], where points count from 1 to 68")
        found[int(point[:9]) - 1] = vertex
    return found
