"""What a run knows of the runs before it: ``OUT/manifest.jsonl``, one row per face, and the thread that writes it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import queue
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jaxlib

from fitjax.cli.main import Fit
from fitjax.files.atomic import clear_leftovers
from fitjax.files.manifest import ManifestWriter, Row, manifest_line, scan_manifest
from fitjax.files.pack import PackWriter, Place, Record, shard_path
from fitjax.version import __version__

MANIFEST = "manifest.jsonl"
PACK = "packed"

#: Options that say where, how fast or how often, not what comes out. The files that go with photos count with the photos.
_NOT_THE_RESULT = {"inputs", "out", "batch_size", "workers", "again", "pack", "landmarks", "mask", "labels"}


def configuration_hash(options: Fit, model: Any, stages: str, detector: str | None) -> str:
    """What decides a result beside the photo: options, model, start, detector and versions. Files count by what they hold."""
    chosen: dict[str, Any] = {
        f.name: _by_content(getattr(options, f.name)) for f in dataclasses.fields(options) if f.name not in _NOT_THE_RESULT
    }
    shape = getattr(model, "shape", model)
    albedo = getattr(getattr(model, "albedo", None), "sha256", None)
    chosen |= {"model": [shape.basis_sha256, albedo], "stages": stages, "detector": detector}
    chosen |= {k: getattr(options, k) is not None for k in ("landmarks", "mask", "labels")}
    chosen |= {"versions": [__version__, jax.__version__, jaxlib.__version__], "platform": jax.default_backend()}
    return hashlib.sha256(json.dumps(chosen, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _by_content(value: Any) -> Any:
    path = value if isinstance(value, Path) else Path(value) if isinstance(value, str) and value.endswith(".json") else None
    if path is None or not path.is_file():
        return value
    return hashlib.sha256(path.read_bytes()).hexdigest()


class _Known(NamedTuple):
    """What is kept of a row in memory: of a million faces, dictionaries would be gigabytes."""

    content: Any
    config: str
    faces: Any
    failed: bool
    folder: str | None
    place: Place | None
    line: str

    @classmethod
    def of(cls, row: Row, line: str) -> _Known:
        place = None if row.get("shard") is None else Place(int(row["shard"]), int(row["row"]))
        folder = None if row.get("folder") is None else str(row["folder"])
        failed = row.get("status") == "failed"
        return cls(row.get("content"), sys.intern(str(row.get("config"))), row.get("faces"), failed, folder, place, line)


class Ledger:
    """The manifest of a folder: which photos have their results already, and what is added.

    Args:
        out: folder of the results. config: hash of the configuration. packed: whether results go into shards rather than folders.
        again: everything is done again.

    Raises:
        WriteError: the manifest cannot be read, or another run is writing into the folder.
    """

    def __init__(self, out: Path, config: str, packed: bool, again: bool = False) -> None:
        self.out, self.config, self._packed, self._again = out, config, packed, again
        self._photos: dict[str, dict[int, _Known]] = {}
        whole, self.damaged = scan_manifest(out / MANIFEST, self._remember)
        self._writer = ManifestWriter(out / MANIFEST, whole)
        self._held: list[Row] = []
        self.added = 0  # faces with a result
        self._shards: dict[int, bool] = {}

    def _remember(self, row: Row, line: str) -> None:
        known = self._photos.setdefault(str(row.get("photo")), {})
        new = _Known.of(row, line)
        other = next(iter(known.values()), new)
        if new[:3] != other[:3]:
            known.clear()
        known[int(row.get("face", 0))] = new

    def done(self, photo: str) -> str | None:
        """The content for which all faces of a photo have their results, of this configuration; None: it has to be done."""
        rows = self._photos.get(photo, {})
        first = next(iter(rows.values()), None)
        if self._again or first is None or first.config != self.config or not first.content:
            return None
        whole = len(rows) == first.faces and all(self._is_there(row) for row in rows.values())
        return str(first.content) if whole else None

    def _is_there(self, row: _Known) -> bool:
        if row.failed:
            return True  # the same photo would fail again
        if self._packed:
            return row.place is not None and self._has_shard(row.place.shard)
        return row.folder is not None and (self.out / row.folder / "report.json").is_file()

    def _has_shard(self, number: int) -> bool:
        """Asked once per shard: a million faces lie in few."""
        if number not in self._shards:
            self._shards[number] = shard_path(self.out / PACK, number).is_file()
        return self._shards[number]

    def rows(self, photo: str) -> list[Row]:
        """What the manifest says of a photo, by face."""
        return [json.loads(row.line) for _, row in sorted(self._photos.get(photo, {}).items())]

    def last_place(self) -> Place | None:
        """The last face of the pack that the manifest knows."""
        places = (row.place for rows in self._photos.values() for row in rows.values() if row.place is not None)
        there = ((place.shard, place.row) for place in places if self._has_shard(place.shard))
        last = max(there, default=None)
        return None if last is None else Place(*last)

    def add(self, rows: Sequence[Row]) -> None:
        """Append rows; failures that come before anything is fitted wait, so that a run without any result leaves no file.

        Raises:
            WriteError: they cannot be written.
        """
        for row in rows:
            self._remember(row, manifest_line(row))
        self._held.extend(rows)
        if self._writer.path.exists() or any(row["status"] != "failed" for row in rows):
            self._writer.append(self._held)
            self.added += sum(row["status"] != "failed" for row in self._held)
            self._held = []

    def finish(self, photos: Iterable[str]) -> None:
        """Write the manifest anew, one row per face: this run's photos in their order, then those of other runs.

        Raises:
            WriteError: it cannot be written.
        """
        if not self._writer.path.exists():
            return
        for folder in (self.out, self.out / PACK):  # the manifest is locked: nobody else is writing
            clear_leftovers(folder)
        ordered = [*photos, *self._photos]
        self._writer.replace(row for photo in dict.fromkeys(ordered) for row in self.rows(photo))

    def close(self) -> None:
        self._writer.close()


class WritingThread:
    """Writes packs and the manifest while the next batch is fitted. It knows NumPy and files only: compiled programs run in one thread.

    Whoever has left the ``with`` block without an exception knows that everything is on the disk.
    """

    def __init__(self, ledger: Ledger, pack: PackWriter | None, ahead: int = 4) -> None:
        self._ledger, self._pack = ledger, pack
        self._queue: queue.Queue[tuple[list[Row], list[Record | None]] | None] = queue.Queue(ahead)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="fitjax-writing", daemon=True)

    def __enter__(self) -> WritingThread:
        self._thread.start()
        return self

    def put(self, rows: list[Row], records: list[Record | None]) -> None:
        """Have a batch written: its rows, and for each the arrays that go into the pack, or None. Waits while too much is waiting.

        Raises:
            WriteError: an earlier batch could not be written.
        """
        if self._error is not None:
            raise self._error
        self._queue.put((rows, records))

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is not None:
                continue  # what follows a failure is not written: rows of a pack would move
            try:
                self._write(*item)
            except BaseException as error:
                self._error = error

    def _write(self, rows: list[Row], records: list[Record | None]) -> None:
        packed = [(row, record) for row, record in zip(rows, records) if record is not None]
        if packed and self._pack is not None:
            places = self._pack.add([(str(row["name"]), record) for row, record in packed])
            for (row, _), place in zip(packed, places):
                row |= {"shard": place.shard, "row": place.row}
        self._ledger.add(rows)

    def __exit__(self, kind: Any, *_: Any) -> None:
        self._queue.put(None)
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error
