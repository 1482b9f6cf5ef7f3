"""Photos in tar archives, read as bytes; nothing is extracted to the disk, so no name in an archive can lead anywhere.

A member of an uncompressed archive is read where it lies, by whichever process wants it. A compressed one is read through from front to back, once
for the names and once for the photos.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any

from fitjax.errors import ImageError
from fitjax.image.photo import MAX_BYTES

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")

#: More members than this are no set of photos; more bytes in a header are an attack.
MAX_MEMBERS, MAX_HEADER = 20_000_000, 1 << 20

_COMPRESSED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
_DAMAGED = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError, OverflowError)


def is_archive(path: Path) -> bool:
    """Whether a name says that the file is a tar archive."""
    return path.name.lower().endswith(TAR_ENDINGS)


@dataclass(frozen=True)
class Member:
    """A photo in an archive; it has the parts of a path's name that photos are known by.

    Attributes:
        archive, inside: the file, and the name in it. offset, size: where its bytes lie, uncompressed; offset -1: with holes, which are not read.
        data: its bytes, of a compressed archive; they are there only while the photo is read.
    """

    archive: Path
    inside: str
    offset: int
    size: int
    data: bytes | None = None

    def __str__(self) -> str:
        shown = "".join(c if c.isprintable() else "\ufffd" for c in self.inside)
        return f"{self.archive}/{shown}"

    @property
    def name(self) -> str:
        return PurePosixPath(self.inside).name

    @property
    def stem(self) -> str:
        return PurePosixPath(self.inside).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.inside).suffix

    def check(self) -> None:
        """
        Raises:
            ImageError: larger than any photo, or stored with holes.
        """
        if self.offset < 0:
            raise ImageError(f"{self}: is stored with holes (tar --sparse); expected a whole file; pack it again without")
        if self.size > MAX_BYTES:
            raise ImageError(f"{self}: the file has {self.size / 1e6:.0f} MB; the limit is {MAX_BYTES / 1e6:.0f} MB; resize the photo")

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            ImageError: it is too large, or the archive is no longer what it was.
        """
        self.check()
        if self.data is not None:
            return self.data
        try:
            with open(self.archive, "rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise ImageError(f"{self}: cannot be read ({error.strerror}); check the archive and its permissions") from None
        if len(data) < self.size:
            raise ImageError(f"{self}: the archive ends within it; it has changed since it was opened")
        return data


class _Guarded:
    """A file for `tarfile` that refuses what an honest archive never asks for: it takes sizes in headers on trust."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        if offset < 0 or whence:
            raise tarfile.ReadError("a negative size")
        return self._file.seek(offset)


def _open(path: Path) -> tuple[IO[bytes], bool]:
    """The archive, uncompressed, and whether it is compressed."""
    with open(path, "rb") as file:
        first = file.read(6)
    opener = next((opener for magic, opener in _COMPRESSED.items() if first.startswith(magic)), None)
    return (open(path, "rb"), False) if opener is None else (opener(path, "rb"), True)


def read_index(path: Path, endings: tuple[str, ...]) -> list[Member]:
    """The photos of an archive, in its order: regular files with one of the endings, but for hidden ones. Links are left out.

    Raises:
        ImageError: missing, no tar archive, damaged or cut off anywhere, or with sizes that no archive has.
    """
    if not path.is_file():
        raise ImageError(f"{path}: no such file; expected a tar archive of photos; check the path")
    found: list[Member] = []
    try:
        file, compressed = _open(path)
        with file, tarfile.open(fileobj=_Guarded(file), mode="r:", errorlevel=2) as tar:  # type: ignore[arg-type, call-overload]
            count, reached = 0, -1
            while (info := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep all of them
                count += 1
                if count > MAX_MEMBERS or tar.offset <= reached:  # type: ignore[attr-defined]
                    raise tarfile.ReadError(f"more than {MAX_MEMBERS} members, or a negative size")
                reached = tar.offset  # type: ignore[attr-defined]
                name = PurePosixPath(info.name)
                if info.isreg() and name.suffix.lower() in endings and not name.name.startswith("."):
                    whole = not info.issparse()
                    found.append(Member(path, info.name, info.offset_data if whole else -1, info.size, b"" if compressed else None))
            # `tarfile` takes any header that it does not understand for the end.
            file.seek(tar.offset)  # type: ignore[attr-defined]
            if file.read(512).strip(b"\0"):
                raise tarfile.ReadError(f"no header at byte {tar.offset}")  # type: ignore[attr-defined]
            while compressed and file.read(1 << 20):  # the checksum comes at the end
                pass
    except _DAMAGED as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{path}: not a whole tar archive ({text}); expected .tar, .tar.gz, .tar.bz2 or .tar.xz; pack or fetch it again") from None
    return found


class Unpacking:
    """Gives members of compressed archives their bytes, in the order in which they lie there."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file: IO[bytes] | None = None

    def filled(self, member: Member) -> Member:
        """The member with its bytes; one of an uncompressed archive as it is.

        Raises:
            ImageError: the archive has changed since its names were read.
        """
        if member.data is None or member.offset < 0 or member.size > MAX_BYTES:  # what cannot be read says so when it is
            return member
        try:
            if self._file is None or self._path != member.archive or self._file.tell() > member.offset:
                self.close()
                self._path, self._file = member.archive, _open(member.archive)[0]
            self._file.seek(member.offset)
            data = self._file.read(member.size)
        except _DAMAGED as error:
            raise ImageError(f"{member}: cannot be read ({' '.join(str(error).split())}); the archive has changed since it was opened") from None
        if len(data) < member.size:
            raise ImageError(f"{member}: the archive ends within it; it has changed since it was opened")
        return replace(member, data=data)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._path = self._file = None


def find_member(path: Path, endings: tuple[str, ...]) -> Iterator[Member]:
    """The member that a path such as ``photos.tar/a/b.jpg`` names, with its bytes; nothing if there is no such archive or member."""
    archive = next((parent for parent in path.parents if is_archive(parent) and parent.is_file()), None)
    if archive is None:
        return
    unpacking = Unpacking()
    try:
        index = _index(archive, archive.stat().st_mtime_ns, endings)
        yield from (unpacking.filled(member) for member in index if str(member) == str(path))
    finally:
        unpacking.close()


@lru_cache(maxsize=1)
def _index(path: Path, changed: int, endings: tuple[str, ...]) -> list[Member]:
    del changed  # it tells one state of the file from another
    return read_index(path, endings)
