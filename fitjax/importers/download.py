"""Downloads of the models that anyone may have: ICT-FaceKit (MIT) and GNM Head (Apache-2.0), file by file, with hashes.

Hashes that were measured on the original files (ICT), or that several projects publish for the pinned revision (GNM), stand in
``fitjax/data/downloads.json``. Files without one there are trusted at first sight: their
hash is recorded beside them (``downloaded.json``), and a later download has to agree with it.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

from fitjax.errors import BasisError
from fitjax.files.atomic import atomic_write_bytes
from fitjax.importers.safe.kinds import FileKind, sniff
from fitjax.model.load import user_models_folder

RECORD = "downloaded.json"
_SECONDS = 30
_MAX_BYTES = 2 << 30
_STEP = 1 << 20

#: Opens a URL for reading in chunks; tests give another one.
Opener = Callable[[str], Any]


def downloads() -> dict[str, dict[str, Any]]:
    """What can be downloaded: kind → ``base`` URL, ``files``, ``sha256`` of those that are known, and ``kind`` of the files."""
    text = (resources.files("fitjax") / "data" / "downloads.json").read_text(encoding="utf-8")
    return {kind: entry for kind, entry in json.loads(text).items() if not kind.startswith("_")}


def download_folder(kind: str) -> Path:
    """Where downloaded files lie, beside the models."""
    return user_models_folder() / "downloads" / kind


def _open(url: str) -> Any:
    request = urllib.request.Request(url, headers={"User-Agent": "fitjax"})
    return urllib.request.urlopen(request, timeout=_SECONDS)


def download(
    kind: str, folder: Path | None = None, *, progress: Callable[[str], None] = print, opener: Opener = _open
) -> Path:
    """Fetch the files of a kind into a folder; those that are there already and agree with their hash are kept.

    Returns:
        What ``fitjax basis import KIND`` takes: the folder, or the file if it is a single one.

    Raises:
        BasisError: the kind cannot be downloaded, no connection, a file that is not what it should be, or one whose hash differs.
        WriteError: a file cannot be written.
    """
    known = downloads()
    if kind not in known:
        raise BasisError(
            f"download {kind!r}: expected one of {', '.join(known)}; the others have to be asked for, see docs/models"
        )
    entry = known[kind]
    folder = download_folder(kind) if folder is None else folder
    names = [name for text in entry["files"] for name in _expanded(text)]
    recorded = _recorded(folder)
    for number, name in enumerate(names):
        target, expected = folder / name, entry["sha256"].get(name) or recorded.get(name)
        if target.is_file() and expected is not None and hashlib.sha256(target.read_bytes()).hexdigest() == expected:
            continue
        progress(f"{name} ({number + 1} of {len(names)})")
        data = _fetch(entry["base"] + name, opener)
        # First what it is: of a web page under a model's name nobody wants to read a hash.
        _check_kind(name, data, FileKind[entry["kind"]])
        found = hashlib.sha256(data).hexdigest()
        if expected is not None and found != expected:
            raise BasisError(
                f"{entry['base']}{name}: expected sha256 {expected[:16]}…, found {found[:16]}…; the file has changed, nothing was written"
            )
        atomic_write_bytes(target, data)
        recorded[name] = found
        atomic_write_bytes(folder / RECORD, json.dumps(recorded, indent=1, sort_keys=True).encode())
    return folder / names[0] if len(names) == 1 else folder


def _expanded(text: str) -> list[str]:
    """``identity[000-099].obj`` stands for a hundred names."""
    match = re.search(r"\[(\d+)-(\d+)\]", text)
    if match is None:
        return [text]
    low, high = match.groups()
    return [
        text[: match.start()] + str(k).zfill(len(low)) + text[match.end() :] for k in range(int(low), int(high) + 1)
    ]


def _recorded(folder: Path) -> dict[str, str]:
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def _fetch(url: str, opener: Opener) -> bytes:
    by_hand = "download it by hand and give it to `fitjax basis import`"
    try:
        with opener(url) as response:
            parts, size = [], 0
            while part := response.read(_STEP):
                size += len(part)
                if size > _MAX_BYTES:
                    raise BasisError(f"{url}: larger than expected; the address leads to something else")
                parts.append(part)
            return b"".join(parts)
    except urllib.error.HTTPError as error:
        raise BasisError(f"{url}: the server answers {error.code} ({error.reason}); {by_hand}") from None
    except (urllib.error.URLError, OSError, TimeoutError) as error:
        reason = getattr(error, "reason", None) or error
        raise BasisError(
            f"{url}: cannot be reached ({str(reason)[:100]}); is there a connection? Else {by_hand}"
        ) from None
    except ValueError as error:  # http.client trusts what servers say
        raise BasisError(f"{url}: the answer is damaged ({str(error)[:80]}); try again, or {by_hand}") from None


def _check_kind(name: str, data: bytes, expected: FileKind) -> None:
    """A page or a pointer under a model's name must not stay."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / name
        path.write_bytes(data)
        found = sniff(path)
    if found is not expected:
        raise BasisError(f"{name}: expected {expected}, the server sent {found}; download it by hand and give it to `fitjax basis import`")
