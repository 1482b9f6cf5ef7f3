"""What a file is, by its first bytes: extensions lie, and half of the failed downloads are pages or pointers under a model's name."""

from __future__ import annotations

import os
import re
import zipfile
from enum import StrEnum
from pathlib import Path

from fitjax.errors import BasisError

#: No model file is larger; whatever is, is not read.
MAX_FILE_BYTES = 4 << 30

_HEAD = 4096


class FileKind(StrEnum):
    """Kinds of files; the value is how messages call them."""

    PICKLE = "a Python pickle"
    NPY = "a NumPy array (.npy)"
    NPZ = "a NumPy archive (.npz)"
    HDF5 = "an HDF5 file"
    MAT5 = "a Matlab file (version 5)"
    MAT73 = "a Matlab file (version 7.3)"
    SAFETENSORS = "a safetensors file"
    OBJ = "an OBJ mesh"
    JSON = "a JSON text"
    LFS = "a Git-LFS pointer"
    HTML = "a web page (HTML)"
    TORCH = "a PyTorch file"
    ZIP = "a zip archive"
    GZIP = "a gzip archive"
    TAR = "a tar archive"
    SEVEN_ZIP = "a 7-Zip or RAR archive"
    PLY = "a PLY mesh"
    PICTURE = "a picture"
    EMPTY = "an empty file"
    FOLDER = "a folder"
    UNKNOWN = "of no kind that is known here"


# What to do about a file that is never right, whatever model was wanted.
_REMEDIES = {
    FileKind.LFS: "the content itself was not downloaded: run `git lfs pull` in the repository, or download the file from its page",
    FileKind.HTML: "the download ended in a page, often because it needs a login or an accepted licence: download it in the browser",
    FileKind.EMPTY: "the download failed: download it again",
    FileKind.TORCH: "fitjax opens no PyTorch files: in the project that it comes from, write its arrays with numpy.savez",
    FileKind.ZIP: "unpack it and give the file or folder inside",
    FileKind.GZIP: "unpack it and give the file or folder inside",
    FileKind.TAR: "unpack it and give the file or folder inside",
    FileKind.SEVEN_ZIP: "unpack it and give the file or folder inside",
}

_TORCH_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_OBJ_LINE = re.compile(rb"^(?:v|vn|vt|vp|f|o|g|s|usemtl|mtllib)[ \t]+\S")
# Protocols 0 and 1 have no header: an opening that only they have.
_OLD_PICKLE = re.compile(
    rb"^(?:\(dp?\d*|\(lp?\d*|\(i[\w.]+\n|c[\w.]+\n[\w.]+\n|[\]}]q|\(?[\]}]|\(?[NIFSVLJKMTUX(c])", re.S
)


def sniff(path: str | os.PathLike[str]) -> FileKind:
    """The kind of a file by its content.

    Raises:
        BasisError: no such file, not readable, or larger than any model.
    """
    path = Path(path)
    if path.is_dir():
        return FileKind.FOLDER
    try:
        if not path.is_file():
            raise BasisError(f"{path}: no such file")
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_HEAD)
            file.seek(max(0, size - 1))
            last = file.read(1)
    except OSError as error:
        raise BasisError(f"{path}: cannot be read ({error.strerror})") from None
    if size > MAX_FILE_BYTES:
        raise BasisError(f"{path}: {size / 2**30:.1f} GiB, larger than any face model; is it the right file?")
    kind = _of_bytes(head, last)
    return _of_zip(path) if kind is FileKind.ZIP else kind


def _of_bytes(head: bytes, last: bytes) -> FileKind:
    if not head:
        return FileKind.EMPTY
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return FileKind.LFS
    if head.startswith(b"\x93NUMPY"):
        return FileKind.NPY
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return FileKind.ZIP
    if head.startswith(b"MATLAB 7.3 MAT-file"):
        return FileKind.MAT73
    if any(head[at : at + 8] == b"\x89HDF\r\n\x1a\n" for at in (0, 512, 1024, 2048)):
        return FileKind.HDF5
    if head.startswith(b"MATLAB 5.0 MAT-file") or (
        len(head) >= 132 and head[124:128] in (b"\x00\x01IM", b"\x01\x00MI")
    ):
        return FileKind.MAT5
    if head.startswith(b"\x1f\x8b"):
        return FileKind.GZIP
    if head.startswith((b"7z\xbc\xaf\x27\x1c", b"Rar!")):
        return FileKind.SEVEN_ZIP
    if head[257:262] == b"ustar":
        return FileKind.TAR
    if head.startswith((b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM6")):
        return FileKind.PICTURE
    if head.startswith((b"ply\n", b"ply\r")):
        return FileKind.PLY
    if len(head) > 1 and head[0] == 0x80 and head[1] <= 5:
        return FileKind.TORCH if _TORCH_MAGIC in head[:32] else FileKind.PICKLE
    if len(head) > 8 and head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") < 1 << 27:
        return FileKind.SAFETENSORS
    return _of_text(head, last)


def _of_text(head: bytes, last: bytes) -> FileKind:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    low = start[:200].lower()
    if low.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<script", b"<!--")):
        return FileKind.HTML
    lines = [line for line in start.splitlines() if line and not line.startswith(b"#")]
    if lines and _OBJ_LINE.match(lines[0]):
        return FileKind.OBJ
    if last == b"." and _OLD_PICKLE.match(head):
        return FileKind.PICKLE
    if start[:1] in (b"{", b"[") and last.strip() in (b"", b"}", b"]"):
        return FileKind.JSON
    return FileKind.UNKNOWN


def _of_zip(path: Path) -> FileKind:
    """A NumPy archive holds only arrays, a PyTorch file a ``data.pkl``."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # whatever is wrong with it is said by whoever reads it
        return FileKind.ZIP if path.suffix.lower() != ".npz" else FileKind.NPZ
    if any(name.rsplit("/", 1)[-1] == "data.pkl" for name in names):
        return FileKind.TORCH
    if names and all(name.endswith(".npy") for name in names):
        return FileKind.NPZ
    return FileKind.ZIP


def expect(path: str | os.PathLike[str], *kinds: FileKind, what: str = "a face model") -> FileKind:
    """The kind of a file if it is among those that are wanted.

    Args:
        what: who wants it, for the message: "FLAME", "the mean of the 3DDFA form".

    Raises:
        BasisError: it is something else; the message says what it is and what to do.
    """
    found = sniff(path)
    if found in kinds:
        return found
    wanted = " or ".join(str(kind) for kind in kinds)
    remedy = _REMEDIES.get(found, "is it the right file?")
    raise BasisError(f"{Path(path)}: {what} is expected as {wanted}; this is {found}; {remedy}")
