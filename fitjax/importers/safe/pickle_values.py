"""From the stubs of a pickle to plain values: arrays, sparse matrices, dicts and lists."""

from __future__ import annotations

from typing import Any

import numpy as np

from fitjax.importers.safe.pickle_stubs import ArrayStub, DTypeStub, InstanceStub, Name, Refused

#: Models are dicts of arrays, of chumpy objects that hold arrays, or of lists of those.
_MAX_DEPTH = 40


def plain(value: Any, copies: int = 1 << 28) -> Any:
    """The value with NumPy arrays and SciPy matrices in place of stubs.

    An array of objects becomes a list (its only item if it has no dimension). A chumpy object becomes its array if it stores one (``Ch``: ``x``;
    ``Select``: items of another object), else a dict of what it stores.

    Args:
        copies: bytes that selections and sparse matrices, which are copied, may take together.

    Raises:
        Refused: nested too deeply, in a circle, or an object that is damaged.
    """
    return _Values(copies).of(value, 0)


class _Values:
    def __init__(self, copies: int) -> None:
        self.left = copies
        self.done: dict[int, Any] = {}
        self.kept: list[Any] = []  # ids stay taken while these live

    def of(self, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool | int | float | complex | str | bytes | np.generic):
            return value
        if depth > _MAX_DEPTH:
            raise Refused("it is nested more deeply than a face model")
        key = id(value)
        if key in self.done:
            found = self.done[key]
            if found is _OPEN:
                raise Refused("it contains itself")
            return found
        self.done[key] = _OPEN
        self.kept.append(value)
        found = self.done[key] = self.converted(value, depth + 1)
        return found

    def converted(self, value: Any, depth: int) -> Any:
        if isinstance(value, dict):
            return {name: self.of(item, depth) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.of(item, depth) for item in value)
        if isinstance(value, ArrayStub):
            if value.items is not None:
                items = [self.of(item, depth) for item in value.items]
                return items if value.shape else items[0]
            if value.value is None:
                raise Refused("damaged NumPy array: it was never filled")
            return value.value
        if isinstance(value, InstanceStub):
            state = {name: self.of(item, depth) for name, item in value.state.items()}
            # One large array in many objects must not become many large arrays.
            self.left -= sum(4 * item.nbytes for item in state.values() if isinstance(item, np.ndarray))
            if self.left < 0:
                raise Refused("it copies its data more often than a face model does")
            return _instance(value.kind, state)
        if isinstance(value, Name | DTypeStub):
            return str(value) if isinstance(value, Name) else str(value.resolve())
        raise Refused(f"it holds {type(value).__name__!r}, which is no data")


_OPEN = object()


def _instance(kind: Name, state: dict[str, Any]) -> Any:
    if kind.module == "scipy.sparse":
        return _sparse(kind, state)
    if kind.module.startswith("chumpy"):
        return _chumpy(kind, state)
    return state


def _sparse(kind: Name, state: dict[str, Any]) -> Any:
    """Checked by hand: SciPy's C code trusts its indices."""
    import scipy.sparse as sp

    layout = kind.name[:3]
    shape = state.get("_shape", state.get("shape"))
    if not (
        isinstance(shape, tuple)
        and len(shape) == 2
        and all(isinstance(n, int | np.integer) and 0 <= n < 1 << 31 for n in shape)
    ):
        raise Refused(f"damaged {kind.name}: not a shape")
    rows, columns = int(shape[0]), int(shape[1])
    data = _vector(kind, state, "data", "fiub")
    if layout == "coo":
        i, j = _coordinates(kind, state)
        if len(i) != len(data) or len(j) != len(data) or _outside(i, rows) or _outside(j, columns):
            raise Refused(f"damaged {kind.name}: indices beyond its shape")
        return sp.coo_matrix((data, (i, j)), shape=(rows, columns)).tocsc()
    index, start = _vector(kind, state, "indices", "iu"), _vector(kind, state, "indptr", "iu")
    major, minor = (columns, rows) if layout == "csc" else (rows, columns)
    if len(start) != major + 1 or len(index) != len(data) or _outside(index, minor):
        raise Refused(f"damaged {kind.name}: indices beyond its shape")
    if start[0] != 0 or start[-1] != len(data) or (start[1:] < start[:-1]).any():
        raise Refused(f"damaged {kind.name}: its columns are out of order")
    build = sp.csc_matrix if layout == "csc" else sp.csr_matrix
    return build((data, index.astype(np.int64), start.astype(np.int64)), shape=(rows, columns))


def _coordinates(kind: Name, state: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    coords = state.get("coords")
    if isinstance(coords, tuple) and len(coords) == 2:
        state = {"row": coords[0], "col": coords[1]}
    return _vector(kind, state, "row", "iu"), _vector(kind, state, "col", "iu")


def _vector(kind: Name, state: dict[str, Any], name: str, kinds: str) -> np.ndarray:
    value = state.get(name)
    if not isinstance(value, np.ndarray) or value.ndim != 1 or value.dtype.kind not in kinds:
        raise Refused(f"damaged {kind.name}: expected a row of numbers as {name!r}")
    return value.astype(value.dtype.newbyteorder("="))


def _outside(index: np.ndarray, limit: int) -> bool:
    return bool(len(index) and (index.min() < 0 or index.max() >= limit))


def _chumpy(kind: Name, state: dict[str, Any]) -> Any:
    """``Ch`` stores its array as ``x``; ``Select`` takes items of another object, in a shape that may be named."""
    for name in ("x", "_x"):
        if isinstance(state.get(name), np.ndarray):
            return state[name]
    source, index = state.get("a"), state.get("idxs")
    if kind.name == "Select" and isinstance(source, np.ndarray) and isinstance(index, np.ndarray):
        if index.dtype.kind not in "iu" or _outside(index.ravel(), source.size):
            raise Refused("damaged chumpy object: indices beyond its array")
        found = source.ravel()[index.ravel()]
        shape = state.get("preferred_shape")
        if isinstance(shape, np.ndarray):
            shape = tuple(shape.tolist())
        if isinstance(shape, tuple | list) and all(isinstance(n, int | np.integer) for n in shape):
            try:
                return found.reshape([int(n) for n in shape])
            except ValueError:
                raise Refused("damaged chumpy object: its shape does not fit its items") from None
        return found
    return state
