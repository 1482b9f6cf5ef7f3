"""Packs and manifests as files: round trips, what a killed run leaves, full disks."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from fitjax.errors import FitjaxError, ParamsError
from fitjax.files.manifest import ManifestWriter, read_manifest
from fitjax.files.pack import (
    FEWEST,
    SHARD_BYTES,
    PackWriter,
    Place,
    face_record,
    faces_per_shard,
    read_shard,
    record_params,
    shard_path,
)


def _record(seed: int, width: int = 4, sets: tuple[str, ...] = ("ibug68",)):
    rng = np.random.default_rng(seed)
    params = {"identity": rng.normal(size=width).astype(np.float32), "pose": {"rotation": np.eye(3), "translation": rng.normal(size=3)}}
    seen = {s: {"points": rng.normal(size=(68, 2)), "confidence": np.ones(68), "valid": np.ones(68, bool)} for s in sets}
    return face_record(params, {"focal": [500.0, 501.0], "centre": [10.0, 20.0]}, seen, (640, 480))


# One record fills an eighth of a shard, so that shards are as small as they get.
WIDE = SHARD_BYTES // FEWEST // 4


def test_round_trip_over_shards(tmp_path):
    records = [_record(i, WIDE) for i in range(11)]
    assert faces_per_shard(records[0]) == FEWEST == 8
    writer = PackWriter(tmp_path, {"model": "toy"})
    places = [p for i in range(0, 11, 3) for p in writer.add([(f"face{j}", records[j]) for j in range(i, min(i + 3, 11))])]
    assert places == [Place(i // 8, i % 8) for i in range(11)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["shard-00000.safetensors", "shard-00001.safetensors"]
    for i, place in enumerate(places):
        shard = read_shard(shard_path(tmp_path, place.shard))
        assert shard.names[place.row] == f"face{i}" and shard.facts == {"model": "toy"}
        found = shard.record(place.row)
        assert found.keys() == records[i].keys()
        for name, array in records[i].items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(record_params(found)["pose"]["rotation"], np.eye(3))


@pytest.mark.parametrize("known", [1, 2, 3, 5, 8])
def test_continued_after_a_kill_the_bytes_are_the_same(tmp_path, known):
    """The shard holds faces that the manifest does not know: they are written again, in the same places."""
    records = [(f"face{i}", _record(i, WIDE)) for i in range(11)]
    whole = tmp_path / "whole"
    places = PackWriter(whole, {"config": "a"}).add(records)
    killed = tmp_path / "killed"
    PackWriter(killed, {"config": "a"}).add(records[: known + 1])
    again = PackWriter(killed, {"config": "a"}, places[known - 1])
    assert again.add(records[known:]) == places[known:]
    for number in (0, 1):
        assert shard_path(killed, number).read_bytes() == shard_path(whole, number).read_bytes()


def test_another_configuration_begins_a_shard(tmp_path):
    first = PackWriter(tmp_path, {"config": "a"}).add([("one", _record(0))])
    assert PackWriter(tmp_path, {"config": "b"}, first[-1]).add([("two", _record(1, 6))]) == [Place(1, 0)]
    assert read_shard(shard_path(tmp_path, 0)).names == ("one",)


def test_sets_that_some_faces_lack(tmp_path):
    PackWriter(tmp_path, {}).add([("both", _record(0, sets=("aflw68", "ibug68"))), ("one", _record(1))])
    shard = read_shard(shard_path(tmp_path, 0))
    assert shard.record(0)["landmarks/aflw68/valid"].all() and not shard.record(1)["landmarks/aflw68/valid"].any()
    with pytest.raises(ParamsError, match="expected one kind of fit"):
        PackWriter(tmp_path / "other", {}).add([("a", _record(0, 4)), ("b", _record(1, 5))])


def test_damaged_shards(tmp_path):
    PackWriter(tmp_path, {}).add([("one", _record(0))])
    path = shard_path(tmp_path, 0)
    with pytest.raises(ParamsError, match="expected row 0 to 0, found 1"):
        read_shard(path).record(1)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ParamsError, match="not a whole safetensors file"):
        read_shard(path)
    with pytest.raises(ParamsError, match="cannot be read"):
        read_shard(tmp_path / "absent.safetensors")


def test_manifest_at_every_length(tmp_path):
    """Cut anywhere, the rows before the cut stay, and the next row begins on a line of its own."""
    rows = [{"name": f"Gesicht {i} é", "loss": 0.1 * i} for i in range(3)]
    path = tmp_path / "manifest.jsonl"
    writer = ManifestWriter(path)
    assert not path.exists()
    writer.append(rows)
    writer.close()
    data = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    for length in range(len(data) + 1):
        path.write_bytes(data[:length])
        found, whole, damaged = read_manifest(path)
        expected = sum(end <= length for end in ends)
        assert found == rows[:expected] and damaged == 0 and whole == ([0, *ends])[expected]
        again = ManifestWriter(path, whole)
        again.append([{"name": "next"}])
        again.close()
        assert read_manifest(path) == ([*rows[:expected], {"name": "next"}], path.stat().st_size, 0)


def test_manifest_what_json_cannot_hold_and_damaged_lines(tmp_path):
    path = tmp_path / "manifest.jsonl"
    writer = ManifestWriter(path)
    writer.append([{"loss": float("nan"), "losses": {"a": [float("inf"), 1.5]}}])
    writer.close()
    path.write_bytes(path.read_bytes() + b"\0\0\0\n[1, 2]\n" + b'{"name": "last"}\n')
    assert read_manifest(path)[0] == [{"loss": None, "losses": {"a": [None, 1.5]}}, {"name": "last"}]
    assert read_manifest(path)[2] == 2


def test_manifest_of_a_full_disk(tmp_path, monkeypatch):
    """Rows that do not fit leave no torn line behind, and those before stay."""
    path = tmp_path / "manifest.jsonl"
    writer = ManifestWriter(path)
    writer.append([{"name": "first"}])

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(FitjaxError, match="No space left"):
            writer.append([{"name": "second"}, {"name": "third"}])
    assert read_manifest(path)[:2] == ([{"name": "first"}], path.stat().st_size)
    writer.append([{"name": "second"}])
    writer.replace([{"name": "all"}])
    assert read_manifest(path)[0] == [{"name": "all"}]


def test_two_runs_into_one_folder(tmp_path):
    pytest.importorskip("fcntl")
    writer = ManifestWriter(tmp_path / "manifest.jsonl")
    writer.append([{"name": "first"}])
    with pytest.raises(FitjaxError, match="another run"):
        ManifestWriter(tmp_path / "manifest.jsonl", 17)
    writer.close()
    ManifestWriter(tmp_path / "manifest.jsonl", 18).close()
