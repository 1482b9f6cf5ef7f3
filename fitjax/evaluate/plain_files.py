"""Small readers for arrays and tables that other tools write: ``.npy``, ``.npz``, ``.txt``, ``.csv``, ``.json``. Nothing is ever unpickled."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from fitjax.errors import FitjaxError
from fitjax.importers import safe

#: No results file of numbers comes near this.
MAX_BYTES = 1 << 31


def read_bytes(path: Path, expected: str) -> bytes:
    """The whole file.

    Raises:
        FitjaxError: no such file, a folder, empty, unreadable or absurdly large.
    """
    if path.is_dir():
        raise FitjaxError(f"{path}: is a folder; expected {expected}")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise FitjaxError(f"{path}: larger than {MAX_BYTES >> 30} GiB; expected {expected}")
        data = path.read_bytes()
    except FileNotFoundError:
        raise FitjaxError(f"{path}: no such file; expected {expected}") from None
    except OSError as error:
        raise FitjaxError(f"{path}: cannot be read ({error.strerror or error}); expected {expected}") from None
    if not data:
        raise FitjaxError(f"{path}: the file is empty (0 bytes); expected {expected}; write it again")
    return data


def _damaged(path: Path, expected: str, error: BaseException) -> FitjaxError:
    text = " ".join((str(error) or type(error).__name__).split())[:160]
    return FitjaxError(f"{path}: cannot be read ({text}); expected {expected}")


def read_npy(path: Path, expected: str = "an array of numbers") -> np.ndarray:
    """An array of numbers or booleans.

    Raises:
        FitjaxError: no such file, no .npy, damaged, or text or objects instead of numbers.
    """
    array = safe.read_npy(path, expected)
    if array.dtype.kind not in "biuf":
        raise FitjaxError(f"{path}: holds {array.dtype}; expected {expected}")
    return array


def read_npz(path: Path, expected: str) -> dict[str, np.ndarray]:
    """Named arrays of numbers or text; arrays of objects, which are pickles, are left out.

    Raises:
        FitjaxError: no such file, no .npz, or a damaged one.
    """
    return safe.read_npz(path, expected)


def read_json(path: Path, expected: str) -> Any:
    """Any JSON.

    Raises:
        FitjaxError: no such file, or no JSON.
    """
    data = read_bytes(path, expected)
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, expected, error) from None


def read_text_numbers(path: Path, expected: str = "lines of numbers") -> np.ndarray:
    """(rows, columns) of a text file: numbers parted by blanks, commas or semicolons; ``#`` starts a comment.

    Raises:
        FitjaxError: no such file, a word that is no number (with its line), or rows of different lengths.
    """
    data = read_bytes(path, expected)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise FitjaxError(f"{path}: not a text file; expected {expected}") from None
    rows: list[list[float]] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#")[0].replace(",", " ").replace(";", " ").split()
        if not words:
            continue
        try:
            rows.append([float(word) for word in words])
        except ValueError:
            raise FitjaxError(
                f"{path}, line {number}: cannot understand {line.strip()[:60]!r}; expected {expected}"
            ) from None
        if len(rows[-1]) != len(rows[0]):
            raise FitjaxError(
                f"{path}, line {number}: {len(rows[-1])} numbers where earlier lines have {len(rows[0])}; expected {expected}"
            )
    if not rows:
        raise FitjaxError(f"{path}: holds no numbers; expected {expected}")
    return np.array(rows)


def read_csv(path: Path, expected: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a CSV.

    Raises:
        FitjaxError: no such file, no text, no rows, or a row of another length (with its line).
    """
    data = read_bytes(path, expected)
    try:
        lines = [row for row in csv.reader(io.StringIO(data.decode("utf-8-sig"))) if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise _damaged(path, expected, error) from None
    if len(lines) < 2:
        raise FitjaxError(f"{path}: expected {expected}, found {len(lines)} lines")
    header, rows = [cell.strip() for cell in lines[0]], lines[1:]
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise FitjaxError(
                f"{path}, line {number}: {len(row)} cells where the header names {len(header)}; expected {expected}"
            )
    return header, rows
