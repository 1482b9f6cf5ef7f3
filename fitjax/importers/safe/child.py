"""Runs as a program of its own: opens one Matlab or HDF5 file and writes its arrays to standard output.

Both formats are read by C libraries that damaged files can crash. Here a crash, endless work or a flood of memory ends a child process and nothing
else. Needs NumPy and SciPy or h5py; imports nothing of fitjax. Usage: ``python -P child.py mat|hdf5 FILE BYTES SECONDS MEMORY``, and answers with
one line of JSON (names, dtypes, shapes, texts; or an error) followed by the bytes of the arrays.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

_MAX_ITEMS = 4096


class Unusable(Exception):
    """What is wrong, in words for the user."""


def limit(seconds: int, memory: int) -> None:
    """No more than this much processor time and address space, and no core file; where the system knows such limits."""
    try:
        import resource
    except ImportError:  # Windows: only the time is limited, by the parent
        return
    for name, value in (("RLIMIT_CPU", seconds), ("RLIMIT_AS", memory), ("RLIMIT_CORE", 0)):
        try:
            resource.setrlimit(getattr(resource, name), (value, value))
        except (AttributeError, OSError, ValueError):
            continue


def matlab(path: str, budget: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arrays and texts of a version 5 file; the fields of a structure as ``name.field``."""
    import scipy.io

    # Sizes first: damaged ones would reserve memory.
    listed = {name: shape for name, shape, _ in scipy.io.whosmat(path)}
    if len(listed) > _MAX_ITEMS:
        raise Unusable("more variables than any face model has")
    for name, shape in listed.items():
        count = 1
        for n in shape:
            count *= max(int(n), 0)
        if count > budget:
            raise Unusable(f"variable {name[:60]!r} is larger than any face model")
    arrays: dict[str, Any] = {}
    texts: dict[str, Any] = {}
    for name, value in scipy.io.loadmat(path).items():
        if not name.startswith("__"):
            _collect(name, value, arrays, texts, 0)
    return arrays, texts


def _collect(name: str, value: Any, arrays: dict[str, Any], texts: dict[str, Any], depth: int) -> None:
    if depth > 8 or len(arrays) + len(texts) > _MAX_ITEMS:
        return
    if hasattr(value, "tocsc"):  # a sparse matrix: only the labels of tools are such
        return
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return
    if dtype.names and value.size == 1:
        for field in dtype.names:
            _collect(f"{name}.{field}", value.reshape(-1)[0][field], arrays, texts, depth + 1)
    elif dtype.kind in "biuf":
        arrays[name] = value
    elif dtype.kind == "U":
        texts[name] = [str(x) for x in value.reshape(-1)[:_MAX_ITEMS]]
    elif dtype.kind == "O" and all(
        getattr(x, "dtype", None) is not None and x.dtype.kind == "U" for x in value.reshape(-1)[:_MAX_ITEMS]
    ):
        texts[name] = ["".join(str(y) for y in x.reshape(-1)) for x in value.reshape(-1)[:_MAX_ITEMS]]


def hdf5(path: str, budget: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arrays and texts by path (``shape/model/mean``). Links, external and virtual data are not followed."""
    import h5py

    arrays: dict[str, Any] = {}
    texts: dict[str, Any] = {}
    left = budget
    with h5py.File(path, "r") as file:

        def visit(name: str, item: Any) -> None:
            nonlocal left
            if not isinstance(item, h5py.Dataset):
                return
            if len(arrays) + len(texts) >= _MAX_ITEMS:
                raise Unusable("more datasets than any face model has")
            if item.external or item.is_virtual:
                raise Unusable(f"dataset {name[:60]!r} refers to another file")
            if item.shape is None:
                return
            kind = item.dtype.kind
            left -= item.nbytes
            if left < 0:
                raise Unusable(f"dataset {name[:60]!r} is larger than any face model")
            if kind in "biuf":
                arrays[name] = item[()]
            elif h5py.check_string_dtype(item.dtype) is not None and item.size <= _MAX_ITEMS:
                texts[name] = [_text(x) for x in _flat(item[()])]

        file.visititems(visit)
    return arrays, texts


def _flat(value: Any) -> list[Any]:
    return list(value.reshape(-1)) if hasattr(value, "reshape") else [value]


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def answer(kind: str, path: str, budget: int) -> tuple[dict[str, Any], list[Any]]:
    """The line of JSON and the arrays that follow it."""
    import numpy as np

    try:
        arrays, texts = (matlab if kind == "mat" else hdf5)(path, budget)
    except Unusable as error:
        return {"error": str(error)}, []
    except ModuleNotFoundError as error:
        return {"missing": str(error.name)}, []
    except MemoryError:
        return {"error": "it asks for more memory than any face model takes"}, []
    except BaseException as error:  # whatever the readers raise about damaged files
        return {"error": f"damaged ({type(error).__name__}: {str(error)[:80]})"}, []
    kept = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    kept = {name: value.astype(value.dtype.newbyteorder("<"), copy=False) for name, value in kept.items()}
    if sum(value.nbytes for value in kept.values()) > budget:
        return {"error": "it is larger than any face model"}, []
    listed = [[name, value.dtype.str, list(value.shape)] for name, value in kept.items()]
    return {"arrays": listed, "texts": texts}, list(kept.values())


def main() -> None:
    kind, path, budget, seconds, memory = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
    limit(seconds, memory)
    # A library that prints must not write into the answer.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    head, arrays = answer(kind, path, budget)
    out.write(json.dumps(head).encode() + b"\n")
    for value in arrays:
        out.write(memoryview(value).cast("B") if value.size else b"")
    out.flush()
    os._exit(0)  # damaged libraries may crash while they tidy up


if __name__ == "__main__":
    main()
