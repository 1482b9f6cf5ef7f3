"""`.npy` and `.npz` without NumPy's reader: no pickle, no evaluation of the header, and not a byte more than the file declares and holds.

The format is NEP 1 (https://numpy.org/neps/nep-0001-npy-format.html). Arrays of objects, which are pickles inside, are read as such and only if asked
for (:mod:`.pickle_reader`); FLAME's landmark embeddings come like that.
"""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from fitjax.errors import BasisError
from fitjax.importers.safe.kinds import FileKind, expect
from fitjax.importers.safe.pickle_reader import MAX_BYTES as MAX_PICKLE
from fitjax.importers.safe.pickle_reader import parse_pickle

_MAGIC = b"\x93NUMPY"
_HEADER = re.compile(
    rb"\s*\{\s*'descr':\s*'([<>|=]?)([biufcSUO]\d{0,7})',\s*'fortran_order':\s*(True|False),\s*'shape':\s*\(([\d,\sL]*)\),?\s*\}\s*"
)
_MAX_HEADER = 1 << 16
#: Entries of an archive, and how far it may unpack: this many times its size, and a little.
_MAX_ENTRIES, _RATIO, _ALLOWANCE = 512, 64, 1 << 26


class _Damaged(BasisError):
    """Without the name of the file, which the caller adds."""


def read_npy(path: str | os.PathLike[str], what: str = "an array", *, objects: bool = False) -> Any:
    """The array of a `.npy` file, read-only and in the machine's byte order.

    Args:
        objects: read arrays of objects too, as :func:`.pickle_reader.parse_pickle` gives them.

    Raises:
        BasisError: not such a file, a damaged one, or an array of objects unless ``objects``.
    """
    path = Path(path)
    expect(path, FileKind.NPY, what=what)
    try:
        with path.open("rb") as file:
            return _array(file, path.stat().st_size, objects, whole=True)
    except OSError as error:
        raise BasisError(f"{path}: cannot be read ({error.strerror})") from None
    except (BasisError, MemoryError) as error:
        raise BasisError(f"{path}: {error or 'too large'}; download it again") from None


def read_npz(path: str | os.PathLike[str], what: str = "a face model", *, objects: bool = False) -> dict[str, Any]:
    """Name → array of a `.npz` file; see :func:`read_npy`. Without ``objects``, arrays of objects are left out.

    Raises:
        BasisError: not such a file, a damaged one, or one that unpacks to far more than its size.
    """
    path = Path(path)
    expect(path, FileKind.NPZ, what=what)
    found: dict[str, Any] = {}
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len(entries) > _MAX_ENTRIES:
                raise _Damaged(f"{len(entries)} entries, more than any face model has")
            if sum(e.file_size for e in entries) > _RATIO * size + _ALLOWANCE:
                raise _Damaged("it unpacks to far more than its size, which face models never do")
            for entry in entries:
                name = entry.filename.removesuffix(".npy")
                if name in found or not entry.filename.endswith(".npy"):
                    raise _Damaged(f"expected arrays of different names, found {entry.filename[:60]!r}")
                with archive.open(entry) as file:
                    try:
                        value = _array(file, entry.file_size, objects)
                    except BasisError as error:
                        raise _Damaged(f"entry {entry.filename[:60]!r}: {error}") from None
                if value is not _OBJECTS:
                    found[name] = value
    except BasisError as error:
        raise BasisError(f"{path}: {error}; download it again") from None
    except OSError as error:
        raise BasisError(f"{path}: cannot be read ({error.strerror or 'damaged'}); download it again") from None
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        OverflowError,
        MemoryError,
    ) as error:
        raise BasisError(f"{path}: damaged archive ({str(error)[:80]}); download it again") from None
    except Exception as error:  # zipfile trusts its tables: struct.error, LZMAError, UnicodeError, AttributeError ...
        raise BasisError(f"{path}: damaged archive ({type(error).__name__}); download it again") from None
    return found


_OBJECTS = object()


def _array(file: IO[bytes], size: int, objects: bool, whole: bool = False) -> Any:
    """One array from a stream that holds ``size`` bytes. ``whole``: refuse arrays of objects instead of answering ``_OBJECTS``."""
    start = _exactly(file, 8)
    if start[:6] != _MAGIC or start[6] not in (1, 2, 3):
        raise _Damaged("damaged NumPy array: no header")
    wide = 2 if start[6] == 1 else 4
    length = int.from_bytes(_exactly(file, wide), "little")
    if length > _MAX_HEADER:
        raise _Damaged("damaged NumPy array: its header is too long")
    match = _HEADER.fullmatch(_exactly(file, length))
    if match is None:
        raise _Damaged("damaged NumPy array, or one of records: its header is not that of plain numbers")
    order, code, fortran, shape_text = match.groups()
    try:
        shape = tuple(int(n.strip().rstrip(b"L")) for n in shape_text.split(b",") if n.strip())
    except ValueError:  # two numbers without a comma, or thousands of digits
        raise _Damaged("damaged NumPy array: its header holds no shape") from None
    rest = size - 8 - wide - length
    if code[:1] == b"O":
        if not objects:
            if whole:
                raise _Damaged("it holds Python objects, not numbers; fitjax does not run them")
            return _OBJECTS
        return _unwrapped(parse_pickle(_exactly(file, min(rest, MAX_PICKLE))), shape)
    try:
        dtype = np.dtype(code.decode()).newbyteorder(order.decode() if order in (b"<", b">") else "=")  # type: ignore[arg-type]
    except TypeError:
        raise _Damaged(f"damaged NumPy array: no such kind of numbers, {code.decode()!r}") from None
    count = 1
    for n in shape:
        count *= n
    if len(shape) > 16 or max(shape, default=0) >= 1 << 40 or dtype.itemsize == 0 or count * dtype.itemsize != rest:
        raise _Damaged(f"damaged NumPy array: {rest} bytes for shape {shape} of {dtype}")
    found = np.frombuffer(_exactly(file, rest), dtype).reshape(shape, order="F" if fortran == b"True" else "C")
    return found if dtype.isnative else found.astype(dtype.newbyteorder("="))


def _exactly(file: IO[bytes], count: int) -> bytes:
    """Never more than there is: a wrong length must not reserve memory."""
    parts, left = [], count
    while left > 0:
        part = file.read(min(left, 1 << 24))
        if not part:
            raise _Damaged("it is cut short")
        parts.append(part)
        left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _unwrapped(value: Any, shape: tuple[int, ...]) -> Any:
    """The items of an array of objects: a list, or the item itself if the array has no dimension (NumPy pickles the array, old files its item)."""
    if not shape and isinstance(value, list) and len(value) == 1:
        return value[0]
    return value
