"""A manifest: one JSON object per line, appended as faces are finished; whatever is killed, the lines before stay whole.

A line counts once its newline is there. What a killed run left behind it, a torn last line, is cut off before anything is appended.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from fitjax.files.atomic import WriteError, atomic_write_text

try:
    import fcntl
except ImportError:  # Windows: two runs into one folder are then not told apart
    fcntl = None  # type: ignore[assignment]

Row = dict[str, Any]


def read_manifest(path: str | os.PathLike[str]) -> tuple[list[Row], int, int]:
    """The rows of a manifest.

    Returns:
        (rows, whole, damaged): the rows in the order written, how many bytes up to the end of the last whole line, and how many lines before it
        are no JSON objects (left out; a disk may do that, a killed run does not). A file that is absent has no rows.

    Raises:
        WriteError: it is there but cannot be read.
    """
    rows: list[Row] = []
    whole, damaged = scan_manifest(path, lambda row, _: rows.append(row))
    return rows, whole, damaged


def scan_manifest(path: str | os.PathLike[str], take: Callable[[Row, str], object]) -> tuple[int, int]:
    """Give each row and its line to ``take``, so that the rows of a million faces need not be held at once.

    Returns:
        (whole, damaged), as `read_manifest` does.

    Raises:
        WriteError: it is there but cannot be read.
    """
    path, whole, damaged = Path(path), 0, 0
    try:
        with open(path, "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                try:
                    text = line.decode()
                    row = json.loads(text)
                except ValueError:  # also bytes that are no UTF-8
                    row = None
                if isinstance(row, dict):
                    take(row, text)
                else:
                    damaged += 1
    except FileNotFoundError:
        return 0, 0
    except OSError as error:
        raise WriteError(path, f"the manifest cannot be read ({error.strerror})") from None
    return whole, damaged


def manifest_line(row: Mapping[str, Any]) -> str:
    """One line; numbers that JSON cannot hold become null."""
    return json.dumps(_plain(row), ensure_ascii=False, allow_nan=False, separators=(", ", ": ")) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not -float("inf") < value < float("inf"):
        return None
    # The name of a file need not be UTF-8; the manifest is.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def hold(path: Path, shared: bool) -> Any:
    """Keep other runs from writing a manifest until what is returned is closed.

    Args:
        shared: several may hold it so at once, a writer not.

    Raises:
        WriteError: another process is writing it, or holds it.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115 (held until close)
    except OSError as error:
        raise WriteError(path, f"the manifest cannot be read ({error.strerror})") from None
    _lock(file, path, shared)
    return file


def _lock(file: Any, path: Path, shared: bool = False) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise WriteError(path, "another run is writing into this folder") from None
    except OSError:  # a network disk without locks
        pass


class ManifestWriter:
    """Appends rows to a manifest; one at a time may hold a file.

    Args:
        path: the file; made with the first row. whole: its length as `read_manifest` told it; what lies behind is cut off.

    Raises:
        WriteError: it cannot be written, or another process is writing it.
    """

    def __init__(self, path: Path, whole: int = 0) -> None:
        self.path = path
        self._end = whole
        self._file: Any = None
        if path.exists():
            self._open()

    def _open(self) -> None:
        try:
            self._file = open(self.path, "r+b" if self.path.exists() else "x+b", buffering=0)  # noqa: SIM115 (held until close)
            _lock(self._file, self.path)
            self._file.truncate(self._end)
            self._file.seek(self._end)
        except OSError as error:
            raise WriteError(self.path, error.strerror or type(error).__name__) from None

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows and wait until the disk has them; all of them, or none if the disk is full.

        Raises:
            WriteError: they cannot be written.
        """
        data = "".join(map(manifest_line, rows)).encode()
        if not data:
            return
        if self._file is None:
            self._open()
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            try:
                self._file.truncate(self._end)
                self._file.seek(self._end)
            except OSError:  # then the torn line is cut off by the next run
                pass
            raise WriteError(self.path, error.strerror or type(error).__name__) from None
        self._end += len(data)

    def replace(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """The whole manifest anew, atomically; nothing can be appended afterwards."""
        atomic_write_text(self.path, "".join(map(manifest_line, rows)))
        self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
