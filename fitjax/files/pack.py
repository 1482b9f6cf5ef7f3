"""Parameters of many faces in a few files, `fitjax-pack/1`: safetensors shards of a fixed number of faces, every array with one row per face.

The last shard grows: it is written anew, atomically, with each batch, so whatever is killed, each shard is whole. Which row belongs to which
face says the manifest, and each shard's own list of names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fitjax.errors import ParamsError
from fitjax.files.atomic import atomic_write_bytes
from fitjax.files.params import flatten_params, nested_params, safetensors_header, sorted_header

FORMAT = "fitjax-pack/1"

#: A shard holds as many faces as fit into this, between the two counts: small enough to be written anew with each batch.
SHARD_BYTES = 1 << 22
FEWEST, MOST = 8, 1024

#: One face: array name → array. Names begin with ``params/``, ``camera/``, ``landmarks/``; see `face_record`.
Record = dict[str, np.ndarray]


@dataclass(frozen=True)
class Place:
    """Where a face lies: number of the shard, row in it."""

    shard: int
    row: int


@dataclass(frozen=True)
class Shard:
    """One file.

    Attributes:
        names: of the faces, by row. arrays: (faces, …) by name. facts: what holds for all of them, such as the model and its hash.
    """

    names: tuple[str, ...]
    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]

    def record(self, row: int) -> Record:
        """The arrays of one face.

        Raises:
            ParamsError: no such row.
        """
        if not 0 <= row < len(self.names):
            raise ParamsError(f"shard: expected row 0 to {len(self.names) - 1}, found {row}; the manifest belongs to another pack")
        return {k: v[row] for k, v in self.arrays.items()}


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.safetensors"


def face_record(
    params: Mapping[str, Any], camera: Mapping[str, Any], landmarks: Mapping[str, Mapping[str, Any]], image_size: tuple[int, int]
) -> Record:
    """One face as named arrays.

    Args:
        params: fitted parameters. camera: ``focal`` (2,), ``centre`` (2,) pixels: as given, without the fitted change of the focal length.
        landmarks: observed sets, each with ``points`` (N, 2) pixels, ``confidence`` (N,), ``valid`` (N,).
        image_size: (width, height) of the photo in pixels; (0, 0) where it is unknown.
    """
    tree = {"params": dict(params), "camera": dict(camera), "landmarks": {k: dict(v) for k, v in landmarks.items()}}
    return {**flatten_params(tree), "image_size": np.array(image_size, np.int32)}


def record_params(record: Record) -> dict[str, Any]:
    """The nested parameters of a face."""
    return nested_params({k.removeprefix("params/"): v for k, v in record.items() if k.startswith("params/")})


def faces_per_shard(record: Record) -> int:
    """How many faces like this one make a shard: it depends on the kind of fit alone, so an interrupted run goes on with the same."""
    return int(np.clip(SHARD_BYTES // max(sum(a.nbytes for a in record.values()), 1), FEWEST, MOST))


def write_shard(path: Path, shard: Shard) -> None:
    """
    Raises:
        WriteError: nowhere to write; an earlier file of the name is still whole then.
    """
    text = json.dumps({"names": list(shard.names), **shard.facts}, sort_keys=True, allow_nan=False)
    arrays = {k: np.ascontiguousarray(v) for k, v in shard.arrays.items()}
    atomic_write_bytes(path, sorted_header(save(arrays, {"format": FORMAT, "metadata": text})))


def read_shard(path: Path) -> Shard:
    """
    Raises:
        ParamsError: a missing, damaged or foreign file, or arrays whose rows do not go with its names.
    """
    try:
        data = path.read_bytes()
        arrays = load(data)
        found = safetensors_header(data)[0].get("__metadata__", {})
        facts = json.loads(found.get("metadata", "null"))
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read ({error.strerror}); expected a shard of `fitjax fit --pack`") from None
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise ParamsError(f"{path}: not a whole safetensors file ({error}); fit its faces again") from None
    if found.get("format") != FORMAT or not isinstance(facts, dict):
        raise ParamsError(f"{path}: format {found.get('format')!r}; expected {FORMAT!r}, as `fitjax fit --pack` writes")
    names = tuple(facts.pop("names", ()))
    wrong = [k for k, v in arrays.items() if len(v) != len(names)]
    if wrong:
        raise ParamsError(f"{path}: {wrong[0]} has {len(arrays[wrong[0]])} rows for {len(names)} faces; fit its faces again")
    return Shard(names, arrays, facts)


class PackWriter:
    """Adds faces to the shards of a folder.

    Args:
        folder: of the shards. facts: what holds for all faces; another run's last shard is continued only if it says the same.
        last: place of the last face that the manifest knows, or None; rows behind it were written by a run that was killed before it could say so.
        first: number of the first shard where there is no last one.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], last: Place | None = None, first: int = 0) -> None:
        self.folder = folder
        self.facts = json.loads(json.dumps(dict(facts)))
        self._names: list[str] = []
        self._records: list[Record] = []
        self._number = first if last is None else last.shard
        if last is None:
            return
        tail = read_shard(shard_path(folder, last.shard))
        if tail.facts != self.facts:
            self._number += 1
            return
        self._names = list(tail.names[: last.row + 1])
        self._records = [tail.record(i) for i in range(last.row + 1)]
        if len(self._records) >= faces_per_shard(self._records[0]):
            self._next_shard()

    def _next_shard(self) -> None:
        self._number, self._names, self._records = self._number + 1, [], []

    def add(self, faces: Sequence[tuple[str, Record]]) -> list[Place]:
        """Write faces, given by name and arrays, and wait until the disk has them.

        Raises:
            WriteError: nowhere to write. ParamsError: faces of one run with different parameters.
        """
        places = []
        for name, record in faces:
            self._names.append(name)
            self._records.append(record)
            places.append(Place(self._number, len(self._records) - 1))
            if len(self._records) == faces_per_shard(self._records[0]):
                self._write()
                self._next_shard()
        if faces and self._records:
            self._write()
        return places

    def _write(self) -> None:
        arrays = _stack(self._records)
        write_shard(shard_path(self.folder, self._number), Shard(tuple(self._names), arrays, self.facts))


def _stack(records: Sequence[Record]) -> dict[str, np.ndarray]:
    """(faces, …) arrays; landmark sets that some faces lack are filled with zeros there, valid nowhere."""
    shapes: dict[str, np.ndarray] = {}
    for record in records:
        for name, array in record.items():
            if shapes.setdefault(name, array).shape != array.shape:
                raise ParamsError(f"pack: {name} has shapes {shapes[name].shape} and {array.shape}; expected one kind of fit in a pack")
    stacked = {}
    for name in sorted(shapes):
        like = shapes[name]
        rows = np.zeros((len(records), *like.shape), like.dtype)
        for i, record in enumerate(records):
            if name in record:
                rows[i] = record[name]
            elif not name.startswith("landmarks/"):
                raise ParamsError(f"pack: a face has no {name}; expected one kind of fit in a pack")
        stacked[name] = rows
    return stacked
