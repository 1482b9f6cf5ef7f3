"""Files that belong to a photo: one file for one photo, or a folder with one per photo."""

from __future__ import annotations

from pathlib import Path

from fitjax.cli.archives import Member


def file_of(photo: Path | Member, given: Path, endings: tuple[str, ...]) -> Path | None:
    """``given`` itself, or in a folder the first ``<stem><ending>`` that exists; None if there is none."""
    if not given.is_dir():
        return given
    return next((p for p in (given / f"{photo.stem}{ending}" for ending in endings) if p.is_file()), None)
