"""Batch sizes: what memory holds, and what happens when it holds less."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from fixtures_images import face68

import fitjax as fj
import fitjax.cli.fit_command as command
from fitjax.cli import memory
from fitjax.cli.main import main
from fitjax.files.pack import read_shard, shard_path

OPTIONS = ("--pack", "--level", "0", "--image-size", "500", "500")


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    path = tmp_path_factory.mktemp("memory") / "faces.npz"
    np.savez(path, landmarks=np.stack([face68() + np.random.default_rng(i).normal(scale=3, size=(68, 2)) for i in range(5)]))
    return path


@pytest.mark.parametrize("limit", [2, 0])
def test_out_of_memory_halves_the_batch(faces, tmp_path, monkeypatch, capsys, limit):
    """A device that holds so many faces; the results are those of small batches."""
    real, tried = command.fit_batch, []

    def tight(observations, **options):
        tried.append(len(observations))
        if len(observations) > limit:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes.")
        return real(observations, **options)

    with monkeypatch.context() as patch:
        patch.setattr(command, "fit_batch", tight)
        code = main(["fit", str(faces), "-o", str(tmp_path / "tight"), "--batch-size", "8", *OPTIONS])
    said = capsys.readouterr()
    if limit == 0:
        assert code == 2 and tried == [8, 4, 2, 1] and "no memory for a single face" in said.err
        return
    assert code == 0 and tried == [8, 4, 2, 2, 2]
    assert "going on with batches of 4" in said.err and "going on with batches of 2" in said.err
    assert main(["fit", str(faces), "-o", str(tmp_path / "small"), "--batch-size", "2", *OPTIONS]) == 0
    tight_shard, small_shard = (read_shard(shard_path(tmp_path / name / "packed", 0)) for name in ("tight", "small"))
    assert tight_shard.names == small_shard.names
    for key, array in small_shard.arrays.items():
        np.testing.assert_array_equal(tight_shard.arrays[key], array)
    capsys.readouterr()


def test_other_errors_of_the_device_are_not_memory():
    assert memory.is_out_of_memory(MemoryError()) and memory.is_out_of_memory(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: x"))
    assert not memory.is_out_of_memory(jax.errors.JaxRuntimeError("INTERNAL: x")) and not memory.is_out_of_memory(ValueError("RESOURCE_EXHAUSTED"))


def test_sizes_follow_memory():
    assert [memory.power_of_two(x) for x in (0.2, 1, 3.9, 4, 1000)] == [1, 1, 2, 4, 512]
    gigabyte = 1 << 30
    assert memory.fitting_batch_size(80 * gigabyte, 0.1 * gigabyte, 8, True, 10**6) == memory.MOST_PHOTOS
    assert memory.fitting_batch_size(16 * gigabyte, 0.1 * gigabyte, 8, True, 10**6) == 64
    assert memory.fitting_batch_size(16 * gigabyte, 0.1 * gigabyte, 8, True, 20) == 16
    assert memory.fitting_batch_size(gigabyte, gigabyte, 8, True, 20) == 1
    assert memory.fitting_batch_size(None, gigabyte, 8, True, 20) == 8


def test_the_machines_memory(tmp_path, monkeypatch):
    for folder in ("proc", "sys/fs/cgroup/memory"):
        (tmp_path / folder).mkdir(parents=True)
    assert memory._free_ram(tmp_path) is None
    (tmp_path / "proc/meminfo").write_text("MemTotal: 100 kB\nMemAvailable:   2000 kB\n")
    assert memory._free_ram(tmp_path) == 2000 * 1024
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("max\n")
    (tmp_path / "sys/fs/cgroup/memory.current").write_text("5\n")
    assert memory._free_ram(tmp_path) == 2000 * 1024
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("1005\n")
    assert memory._free_ram(tmp_path) == 1000
    monkeypatch.setattr(memory, "_free_ram", lambda: 4 << 30)
    device = jax.local_devices()[:1]
    assert memory.first_batch_size(False, device) == memory.BATCH_OF_LANDMARKS and memory.first_batch_size(True, device) == 8
    monkeypatch.setattr(memory, "_free_ram", lambda: 1 << 30)
    assert memory.first_batch_size(True, device) == 2 and memory.first_batch_size(True, device * 4) == 1


def test_the_compiler_counts_what_a_face_takes(faces):
    """Twice the faces take about twice the arguments and results; the model is not counted."""
    model = fj.load_basis(level=0)
    observation = fj.make_observation({"ibug68": face68()}, fj.make_camera(500, 500))
    losses, stages = fj.default_losses(observation), fj.default_stages(observation)
    each = memory.bytes_per_face(model, fj.stack_observations([observation] * 2), losses, stages, None)
    assert 2e3 < each < 5e6  # landmarks and codes, and the Jacobian of the one face that is being fitted


def test_what_an_accelerator_says_it_has_left():
    def device(stats):
        def memory_stats():
            if isinstance(stats, Exception):
                raise stats
            return stats

        return SimpleNamespace(platform="gpu", memory_stats=memory_stats)

    assert memory.free_memory(device({"bytes_limit": 1000, "bytes_in_use": 300})) == 700
    assert memory.free_memory(device({"bytes_limit": 1000, "bytes_reservable_limit": 900, "bytes_in_use": 950})) == 0
    assert memory.free_memory(device(None)) is None and memory.free_memory(device(jax.errors.JaxRuntimeError("UNIMPLEMENTED"))) is None
