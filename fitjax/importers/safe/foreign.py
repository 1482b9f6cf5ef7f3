"""Matlab and HDF5 files, read by a child process with limits on time and memory (:mod:`.child`); its answer is checked like a file."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from fitjax.errors import BasisError
from fitjax.importers.safe.kinds import FileKind, expect

#: What a child may take: address space, and processor time by the size of the file.
MEMORY = 2 << 30
_SECONDS, _SECONDS_PER_BYTE = 4, 1 / (20 << 20)
# The clock on the wall goes on while a busy machine does other things: factor on processor time, and seconds to start.
_PATIENCE = (3, 20)
_MAX_ANSWER = 3 << 29
_MAX_LINE = 1 << 22
_DTYPES = {f"{o}{k}" for o in "<|" for k in ("b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")}


@dataclass(frozen=True)
class Foreign:
    """What a Matlab or HDF5 file holds: arrays by name (``shape/model/mean``, ``struct.field``), and texts."""

    arrays: dict[str, np.ndarray]
    texts: dict[str, list[str]]


def read_mat(path: str | os.PathLike[str], what: str = "a face model") -> Foreign:
    """A Matlab file of version 5, or 7.3, which is HDF5 (there the axes are turned back to Matlab's order).

    Raises:
        BasisError: not such a file, a damaged one, one that takes too long or too much memory, or h5py is missing.
    """
    kind = expect(path, FileKind.MAT5, FileKind.MAT73, what=what)
    if kind is FileKind.MAT5:
        return _child("mat", Path(path))
    found = _child("hdf5", Path(path))
    return Foreign({name: value.T for name, value in found.arrays.items()}, found.texts)


def read_hdf5(path: str | os.PathLike[str], what: str = "a face model") -> Foreign:
    """An HDF5 file; names are paths without the leading slash.

    Raises:
        BasisError: as for :func:`read_mat`.
    """
    expect(path, FileKind.HDF5, what=what)
    return _child("hdf5", Path(path))


def _child(kind: str, path: Path) -> Foreign:
    seconds = math.ceil(_SECONDS + path.stat().st_size * _SECONDS_PER_BYTE)
    program = str(Path(__file__).with_name("child.py"))
    command = [sys.executable, "-P", program, kind, str(path.resolve()), str(_MAX_ANSWER), str(seconds), str(MEMORY)]
    # Threads of BLAS would reserve address space; plug-ins of HDF5 are code.
    calm = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HDF5_PLUGIN_PRELOAD": "::"}
    environment = {**os.environ, **calm, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with tempfile.TemporaryFile() as out:
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.DEVNULL,
                env=environment,
                timeout=_PATIENCE[0] * seconds + _PATIENCE[1],
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BasisError(f"{path}: reading takes too long; the file is damaged, download it again") from None
        except OSError as error:
            raise BasisError(f"{path}: no process could be started to read it ({error.strerror})") from None
        if done.returncode != 0:
            raise BasisError(
                f"{path}: the library that reads such files failed on it; the file is damaged, download it again"
            )
        out.seek(0)
        return _answer(path, out)


def _answer(path: Path, out: IO[bytes]) -> Foreign:
    try:
        head = json.loads(out.readline(_MAX_LINE))
    except (ValueError, RecursionError):
        head = None
    if not isinstance(head, dict):
        raise BasisError(f"{path}: could not be read; the file is damaged, download it again")
    if "missing" in head:
        raise BasisError(
            f"{path}: reading it needs the package {str(head['missing'])[:40]}; install it with `pip install 'fitjax[models]'`"
        )
    if "error" in head:
        raise BasisError(f"{path}: {str(head['error'])[:200]}; download it again")
    arrays = {}
    try:
        for name, code, shape in head["arrays"]:
            if code not in _DTYPES or not all(type(n) is int and n >= 0 for n in shape):
                raise ValueError
            dtype = np.dtype(code)
            size = math.prod(shape) * dtype.itemsize
            data = out.read(size) if size <= _MAX_ANSWER else b""
            arrays[str(name)] = np.frombuffer(data, dtype).reshape(shape)
        texts = {str(name): [str(x) for x in values] for name, values in head["texts"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise BasisError(f"{path}: could not be read; the file is damaged, download it again") from None
    return Foreign(arrays, texts)
