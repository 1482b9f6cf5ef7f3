"""From the command line's inputs to a list of photos and output names: folders, list files, patterns, archives."""

from __future__ import annotations

import glob
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fitjax.cli.archives import Member, is_archive, read_index
from fitjax.errors import ImageError

PHOTO_ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".jp2", ".avif", ".tga", ".mpo"),
)
LIST_ENDINGS = (".txt", ".lst")


def find_photos(inputs: list[Path]) -> list[Path | Member]:
    """Photos in the order given; folders and patterns contribute theirs sorted by name, a list file the paths on its lines, an archive its members
    in their order.

    Raises:
        ImageError: nothing was given, or a folder, list, pattern or archive holds no photo, or an archive is damaged. A missing photo is left to
            its own job.
    """
    photos: list[Path | Member] = []
    for path in inputs:
        if path.is_dir():
            photos.extend(_inside(path, _photos_inside(path), "the folder holds"))
        elif path.suffix.lower() in LIST_ENDINGS and path.is_file():
            photos.extend(_inside(path, _listed(path), "the list names"))
        elif is_archive(path) and not (glob.has_magic(str(path)) and not path.exists()):
            photos.extend(_inside(path, read_index(path, PHOTO_ENDINGS), "the archive holds"))
        elif glob.has_magic(str(path)) and not path.exists():
            found = [Path(p) for p in sorted(glob.glob(str(path), recursive=True))]
            photos.extend(_inside(path, [p for p in found if p.suffix.lower() in PHOTO_ENDINGS and p.is_file()], "the pattern finds"))
        else:
            photos.append(path)
    if not photos:
        raise ImageError("inputs: expected at least one photo or folder; see fitjax fit --help")
    return photos


def _inside(path: Path, photos: Sequence[Path | Member], what: str) -> Sequence[Path | Member]:
    if not photos:
        raise ImageError(f"{path}: {what} no photo; expected files ending in {', '.join(PHOTO_ENDINGS)}; name another")
    return photos


def _photos_inside(folder: Path) -> list[Path]:
    """Hidden files are left out: macOS leaves ``._photo.jpg`` beside each photo on foreign disks."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise ImageError(f"{folder}: the folder cannot be read ({error.strerror}); check its permissions") from None
    return [p for p in entries if p.suffix.lower() in PHOTO_ENDINGS and not p.name.startswith(".") and p.is_file()]


def _listed(path: Path) -> list[Path]:
    """A path per line, relative to the list's own folder; empty lines and those that begin with # say nothing."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: cannot be read as a list ({error}); expected the path of a photo per line") from None
    return [path.parent / line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _safe(stem: str) -> str:
    """A stem as the name of one folder: an archive may hold any characters, and a name on a disk need not be UTF-8."""
    name = "".join("_" if c in "/\\" or unicodedata.category(c) in ("Cc", "Cs") else c for c in stem)
    return "photo" if name.strip(". ") == "" else name


def output_names(photos: Sequence[Path | Member]) -> list[str]:
    """A folder name per photo: its stem, with the ending or a number added where two photos share it."""
    names: list[str] = []
    taken: set[str] = set()
    stems = [_safe(p.stem).casefold() for p in photos]
    count = Counter(stems)
    next_number: dict[str, int] = {}
    for path, stem in zip(photos, stems):
        name = _safe(path.stem)
        if count[stem] > 1:
            name = f"{name}_{path.suffix.lstrip('.').lower()}"
        candidate, number = name, next_number.get(name.casefold(), 2)
        # Some file systems ignore case, so the comparison does too.
        while candidate.casefold() in taken:
            candidate, number = f"{name}_{number}", number + 1
        next_number[name.casefold()] = number
        taken.add(candidate.casefold())
        names.append(candidate)
    return names
