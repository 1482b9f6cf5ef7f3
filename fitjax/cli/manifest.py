"""What a run knows of the runs before it: ``OUT/manifest.jsonl``, one row per face, and the thread that writes it and the results."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jaxlib

from fitjax.cli.hosts import MANIFEST as MANIFEST
from fitjax.cli.hosts import SHARDS_PER_PART, Part, manifests
from fitjax.cli.main import Fit
from fitjax.files.atomic import clear_leftovers
from fitjax.files.manifest import ManifestWriter, Row, hold, manifest_line, scan_manifest
from fitjax.files.pack import PackWriter, Place, Record, shard_path
from fitjax.version import __version__

PACK = "packed"

#: Options that say where, how fast or how often, not what comes out. The files that go with photos count with the photos.
_NOT_THE_RESULT = {"inputs", "out", "batch_size", "workers", "again", "pack", "landmarks", "mask", "labels"}
_NOT_THE_RESULT |= {"processes", "process_id", "coordinator", "distributed"}


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

    Of a run on several processes each has its own manifest, and reads the others': photos that another number of processes has fitted are done.

    Args:
        out: folder of the results. config: hash of the configuration. packed: whether results go into shards rather than folders.
        again: everything is done again. part: this process's.

    Raises:
        WriteError: a manifest cannot be read, or another run is writing into the folder.
    """

    def __init__(self, out: Path, config: str, packed: bool, again: bool = False, part: Part | None = None) -> None:
        self.out, self.config, self._packed, self._again, self._part = out, config, packed, again, part or Part()
        self._photos: dict[str, dict[int, _Known]] = {}
        own, whole, self.damaged = out / self._part.manifest, 0, 0
        siblings = {Part(i, self._part.count).manifest for i in range(self._part.count)} - {own.name}
        self._held_files: list[Any] = []
        self._others: list[Path] = []
        self._own: set[str] = set()
        try:
            for path in manifests(out):
                if path != own and path.name not in siblings:
                    self._others.append(path)
                    self._held_files.append(hold(path, shared=self._part.count > 1))
                size, damaged = scan_manifest(path, self._remember_own if path == own else self._remember)
                whole = size if path == own else whole
                self.damaged += 0 if path.name in siblings else damaged  # a sibling may be writing its last line
            self._writer = ManifestWriter(own, whole)
        except BaseException:
            self._release()
            raise
        self._held: list[Row] = []
        self.added = 0  # faces with a result
        self._shards: dict[int, bool] = {}

    def _remember_own(self, row: Row, line: str) -> None:
        self._own.add(str(row.get("photo")))
        self._remember(row, line)

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
        """The last face of the pack that the manifest knows, of a run on several processes among this one's shards."""
        first = self._part.first_shard
        numbers = range(first, first + SHARDS_PER_PART) if self._part.count > 1 else range(sys.maxsize)
        places = (row.place for rows in self._photos.values() for row in rows.values() if row.place is not None)
        there = ((place.shard, place.row) for place in places if place.shard in numbers and self._has_shard(place.shard))
        last = max(there, default=None)
        return None if last is None else Place(*last)

    def add(self, rows: Sequence[Row]) -> None:
        """Append rows; failures that come before anything is fitted wait, so that a run without any result leaves no file, unless it is part of one:
        merging asks what became of each input.

        Raises:
            WriteError: they cannot be written.
        """
        for row in rows:
            self._remember_own(row, manifest_line(row))
        self._held.extend(rows)
        if self._part.count > 1 or self._writer.path.exists() or any(row["status"] != "failed" for row in rows):
            self._writer.append(self._held)
            self.added += sum(row["status"] != "failed" for row in self._held)
            self._held = []

    def finish(self, photos: Iterable[str], inputs: Callable[[str], list[int]] | None = None) -> None:
        """Write the manifest anew, one row per face: this run's photos in their order, then those of other runs. On one process that is all that is
        known of the folder, and manifests of several processes are gone afterwards.

        Args:
            inputs: of part of a run: number of a photo among all inputs, and how many there are.

        Raises:
            WriteError: it cannot be written.
        """
        ours = dict.fromkeys(photos)
        rest = self._own if self._part.count > 1 else self._photos
        ordered = list(dict.fromkeys([*ours, *(p for p in self._photos if p in rest)]))
        if not self._writer.path.exists() and not any(path.name != MANIFEST for path in self._others):
            return
        if self._part.count == 1:  # the manifests are locked: nobody else is writing
            for folder in (self.out, self.out / PACK):
                clear_leftovers(folder)

        def rows() -> Iterable[Row]:
            for photo in ordered:
                for row in self.rows(photo):
                    row.pop("input", None)  # it belongs to another run
                    yield row | {"input": inputs(photo)} if inputs is not None and photo in ours else row

        self._writer.replace(rows())
        if self._part.count == 1:
            for path in self._others:
                path.unlink(missing_ok=True)

    def _release(self) -> None:
        for file in self._held_files:
            file.close()
        self._held_files.clear()

    def close(self) -> None:
        self._writer.close()
        self._release()


#: What is still to be written of a face: called in the thread that writes, it gives the face's row and, for a pack, its arrays.
Told = Callable[[], tuple[Row, Record | None]]


class WritingThread:
    """Writes results and the manifest while the next faces are fitted. It knows NumPy and files only: compiled programs run in one thread.

    Whoever has left the ``with`` block without an exception knows that everything is on the disk.

    Args:
        ahead: how many calls of `put` may wait; it bounds the memory.
    """

    def __init__(self, ledger: Ledger, pack: PackWriter | None, ahead: int = 4) -> None:
        self._ledger, self._pack = ledger, pack
        self._queue: queue.Queue[list[Told] | None] = queue.Queue(ahead)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="fitjax-writing", daemon=True)

    def __enter__(self) -> WritingThread:
        self._thread.start()
        return self

    def put(self, faces: list[Told]) -> None:
        """Have faces written, and then their rows. Waits while too much is waiting.

        Raises:
            WriteError: earlier faces could not be written.
        """
        if self._error is not None:
            raise self._error
        self._queue.put(faces)

    def _run(self) -> None:
        while (faces := self._queue.get()) is not None:
            if self._error is not None:
                continue  # what follows a failure is not written: rows of a pack would move
            try:
                self._write(faces)
            except BaseException as error:
                self._error = error

    def _write(self, faces: list[Told]) -> None:
        told: list[tuple[Row, Record | None]] = []
        try:
            for face in faces:
                told.append(face())
        finally:  # what is written is told, whatever stops the rest
            packed = [(row, record) for row, record in told if record is not None]
            if packed and self._pack is not None:
                places = self._pack.add([(str(row["name"]), record) for row, record in packed])
                for (row, _), place in zip(packed, places):
                    row |= {"shard": place.shard, "row": place.row}
            self._ledger.add([row for row, _ in told])

    def __exit__(self, kind: Any, *_: Any) -> None:
        self._queue.put(None)
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error
