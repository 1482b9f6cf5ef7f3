"""The one place where shapes, indices and finiteness of what a file brings are checked."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fitjax.errors import BasisError

#: Numbers in one dense array; FLAME's pose blendshapes have half a million, GNM's 30 million, BFM's modes 32 million.
MAX_NUMBERS = 1 << 28


class Fields(Mapping[str, Any]):
    """Values of a file by name, with checks that name file and field.

    Args:
        path: of the file, for messages. values: as the readers give them. what: which model the file is meant to be, for messages.
    """

    def __init__(self, path: str | os.PathLike[str], values: Any, what: str = "the model"):
        if not isinstance(values, Mapping):
            raise BasisError(
                f"{Path(path)}: {what} is expected as arrays by name, found {type(values).__name__}; is it the right file?"
            )
        self.path, self.values_by_name, self.what = Path(path), values, what

    def __getitem__(self, name: str) -> Any:
        if name not in self.values_by_name:
            raise self.wrong(name, "expected, but missing")
        return self.values_by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_by_name)

    def __len__(self) -> int:
        return len(self.values_by_name)

    def __contains__(self, name: object) -> bool:
        return name in self.values_by_name

    def wrong(self, name: str, problem: str) -> BasisError:
        """An error about one field."""
        return BasisError(f"{self.path}: field {name!r} of {self.what}: {problem}; is it the right file, and complete?")

    def first(self, *names: str) -> str:
        """The first of several names that is there.

        Raises:
            BasisError: none is.
        """
        for name in names:
            if name in self:
                return name
        raise self.wrong(
            " or ".join(names), f"expected, but missing; found {', '.join(map(str, list(self)[:12])) or 'nothing'}"
        )

    def _dense(self, name: str, kinds: str, expected: str) -> np.ndarray:
        value = self[name]
        if hasattr(value, "tocsc"):
            if value.shape[0] * value.shape[1] > MAX_NUMBERS:
                raise self.wrong(name, f"a matrix of {value.shape} is larger than any face model's")
            value = value.toarray()
        if isinstance(value, bool | int | float | list | tuple):
            try:
                value = np.asarray(value)
            except ValueError:
                raise self.wrong(name, f"expected {expected}, found lists of different lengths") from None
        if not isinstance(value, np.ndarray | np.generic) or value.dtype.kind not in kinds:
            found = f"{value.dtype}" if isinstance(value, np.ndarray | np.generic) else type(value).__name__
            raise self.wrong(name, f"expected {expected}, found {found}")
        value = np.asarray(value)
        if value.size > MAX_NUMBERS:
            raise self.wrong(name, f"{value.shape} numbers are more than any face model has")
        return value

    def _shaped(self, name: str, value: np.ndarray, shape: tuple[int | None, ...] | None) -> np.ndarray:
        if shape is None:
            return value
        if value.ndim != len(shape) or any(n is not None and n != m for n, m in zip(shape, value.shape)):
            wanted = (
                "(" + ", ".join("any" if n is None else str(n) for n in shape) + ("," if len(shape) == 1 else "") + ")"
            )
            raise self.wrong(name, f"expected shape {wanted}, found {value.shape}")
        return value

    def floats(self, name: str, shape: tuple[int | None, ...] | None = None, dtype: Any = np.float64) -> np.ndarray:
        """Finite numbers of a shape in which None stands for any size; sparse matrices become dense.

        Raises:
            BasisError: the field is missing, no numbers, of another shape, or not finite.
        """
        value = self._shaped(name, self._dense(name, "fiu", "numbers"), shape)
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise self.wrong(name, "holds values that are not finite")
        with np.errstate(over="ignore"):
            found = np.array(value, dtype)
        if not np.isfinite(found).all():
            raise self.wrong(name, f"holds values beyond the range of {np.dtype(dtype)}")
        return found

    def indices(self, name: str, limit: int, shape: tuple[int | None, ...] | None = None, base: int = 0) -> np.ndarray:
        """int64 indices in [0, limit) from a file that counts from ``base``; whole numbers stored as floats are accepted.

        Raises:
            BasisError: the field is missing, of another shape, or points beyond the limit.
        """
        value = self._shaped(name, self._dense(name, "iuf", "indices"), shape)
        if value.dtype.kind == "f" and not (np.isfinite(value).all() and (value == np.floor(value)).all()):
            raise self.wrong(name, "expected whole numbers")
        if value.size and not (value.min() >= base and value.max() < limit + base):
            raise self.wrong(
                name, f"expected indices from {base} to {limit + base - 1}, found {value.min()} to {value.max()}"
            )
        return value.astype(np.int64) - base

    def names(self, name: str, count: int | None = None) -> list[str]:
        """Texts, from an array or a list.

        Raises:
            BasisError: the field is missing, holds something else, or another number of them.
        """
        value = self[name]
        if isinstance(value, np.ndarray) and value.dtype.kind in "US" and value.ndim <= 1:
            value = value.reshape(-1).tolist()
        if not isinstance(value, list | tuple) or not all(isinstance(x, str | bytes) for x in value):
            raise self.wrong(name, "expected names")
        found = [x.decode("utf-8", "replace") if isinstance(x, bytes) else x for x in value]
        if count is not None and len(found) != count:
            raise self.wrong(name, f"expected {count} names, found {len(found)}")
        return found
