"""Writing so that nothing is ever half-written: a hidden neighbour first, then one rename."""

import errno
import os
import re
import shutil
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from fitjax.errors import FitjaxError

# Errors of writing that do not name a file.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
# Litter of file browsers: no reason to refuse a folder.
_LITTER = {".DS_Store", "Thumbs.db", "desktop.ini"}
# As `_hidden_neighbour` names them.
_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}\.(part|old)", re.DOTALL)


class WriteError(FitjaxError):
    """A file or folder cannot be written: no permission, a full disk, a file where a folder is needed."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"cannot write {path}: {reason}; choose another place or free some room")
        self.path = path
        self.reason = reason


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


@contextmanager
def _write_errors(shown: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError(shown, _reason(error)) from None


def _hidden_neighbour(path: Path) -> Path:
    # In the same folder, hence on the same disk: a rename is then atomic.
    return path.parent / f".{path.name[:80]}.{uuid.uuid4().hex[:8]}.part"


def atomic_write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Write a file completely or not at all; an existing one is replaced, missing parent folders are made.

    Raises:
        WriteError: a `FitjaxError` that names ``path`` and the reason.
    """
    shown = Path(path)
    target = Path(os.path.realpath(path))  # a link stays a link: what it points to is replaced
    part = _hidden_neighbour(target)
    with _write_errors(shown):
        if target.is_dir():
            raise WriteError(shown, "it is a folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(part, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # full disks and quotas may only show here
            os.replace(part, target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def atomic_write_text(path: str | os.PathLike, text: str) -> None:
    """`atomic_write_bytes` of UTF-8 with the line ends of ``text``, the same on every system."""
    atomic_write_bytes(path, text.encode("utf-8"))


def clear_leftovers(folder: Path) -> None:
    """Remove what a killed process was writing in ``folder``; only for who knows that no other is writing there now."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if _LEFTOVER.fullmatch(entry.name) is None:
            continue
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def refuse_strangers(shown: Path, target: Path, names: Collection[str]) -> None:
    """Never delete what fitjax did not write."""
    if not target.is_dir():
        raise WriteError(shown, "a file of that name exists")
    strangers = sorted(entry.name for entry in target.iterdir() if entry.name not in {*names, *_LITTER})
    if strangers:
        raise WriteError(shown, f"the folder holds {strangers[0]!r}, which would be deleted")


@contextmanager
def atomic_folder(path: str | os.PathLike, owned: Collection[str] = ()) -> Iterator[Path]:
    """A folder that appears complete or not at all: write into the yielded hidden folder; it is swapped in at the end.

    An existing folder is replaced only if all it holds are names that the new one holds too or that are listed in
    ``owned``; anything else is refused, so nothing of the user's is ever deleted. Where ``owned`` is given, it has to
    list all that may be there, and the refusal comes before the block. If the block raises, the old folder stays.

    Example:
        >>> with atomic_folder(out, owned={"texture.png"}) as folder:
        ...     write_obj(folder / "face.obj", vertices, triangles)

    Raises:
        WriteError: a `FitjaxError` that names ``path``, also for files written inside the block.
    """
    shown, target = Path(path), Path(os.path.realpath(path))
    part = _hidden_neighbour(target)
    old = part.with_suffix(".old")
    try:
        with _write_errors(shown):
            target.parent.mkdir(parents=True, exist_ok=True)
            if owned and os.path.lexists(target):
                refuse_strangers(shown, target, owned)
            part.mkdir()
        try:
            yield part
        except WriteError as error:
            if part not in error.path.parents:
                raise
            # The user knows the folder asked for, not the hidden one.
            raise WriteError(shown / error.path.relative_to(part), error.reason) from None
        except OSError as error:
            # Anything else, such as an input that cannot be read, is not about this folder.
            if error.errno in _DISK_ERRORS or str(part) in str(error.filename):
                raise WriteError(shown, _reason(error)) from None
            raise
        with _write_errors(shown):
            if os.path.lexists(target):
                refuse_strangers(shown, target, {*owned, *(entry.name for entry in part.iterdir())})
                os.rename(target, old)
            os.rename(part, target)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        if old.exists() and not os.path.lexists(target):
            os.rename(old, target)  # stopped between the two renames
        shutil.rmtree(part, ignore_errors=True)
