"""How many faces make a batch: what the device's memory holds, and what to do when it holds less than it seemed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from fitjax.fit.run import faces_one_by_one, run_batch

#: Faces per batch and device where memory does not say otherwise. Pixels take memory; of landmarks alone a batch is quickly done.
BATCH_OF_PHOTOS, BATCH_OF_LANDMARKS = 8, 64

#: An accelerator gains little from more faces at once than these.
MOST_PHOTOS, MOST_LANDMARKS = 256, 2048

#: The share of the free memory that a batch may take: other programs, and what the allocator cannot use, need the rest.
SHARE = 0.6

#: What a face of a batch takes of a CPU's memory while it waits: a photo of 24 million pixels read and drawn; landmarks and results.
PHOTO_BYTES, LANDMARK_BYTES = 300 << 20, 1 << 20


def free_memory(device: jax.Device) -> int | None:
    """Bytes that a device can still give: of an accelerator as its allocator counts, of a CPU the machine's or, if less, the control group's."""
    if device.platform == "cpu":
        return _free_ram()
    try:
        stats = device.memory_stats() or {}
    except jax.errors.JaxRuntimeError:  # a plugin that cannot say
        return None
    limit = stats.get("bytes_reservable_limit") or stats.get("bytes_limit")
    return None if limit is None else max(int(limit) - int(stats.get("bytes_in_use", 0)), 0)


def _free_ram(root: Path = Path("/")) -> int | None:
    found = []
    try:
        lines = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines() if ":" in line)
        found.append(1024 * int(lines["MemAvailable"].split()[0]))
    except (OSError, KeyError, ValueError):
        pass
    for limit, used in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        try:
            folder = root / "sys/fs/cgroup"
            found.append(max(int((folder / limit).read_text()) - int((folder / used).read_text()), 0))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return min(found, default=None)


def bytes_per_face(model: Any, observations: Any, losses: Any, stages: Any, start: Any) -> float:
    """What the compiled program of a batch takes per face, as the compiler counts: its temporaries, arguments and results.

    Args:
        observations: a stacked batch. The others as `run_batch` takes them.
    """
    compiled = run_batch.lower(model, observations, losses, stages, start, faces_one_by_one()).compile()
    counted, count = compiled.memory_analysis(), len(observations.ok)
    if counted is None:  # a backend that does not count
        return 0.0
    model_bytes = sum(x.nbytes for x in jax.tree.leaves(model) if hasattr(x, "nbytes"))
    arguments = max(counted.argument_size_in_bytes - model_bytes, 0)
    return (counted.temp_size_in_bytes + arguments + counted.output_size_in_bytes) / count


def first_batch_size(pixels: bool, devices: Sequence[jax.Device]) -> int:
    """Faces per device to begin with: the usual number, less where a CPU's memory does not hold it."""
    usual = BATCH_OF_PHOTOS if pixels else BATCH_OF_LANDMARKS
    free = free_memory(devices[0]) if devices[0].platform == "cpu" else None
    each = PHOTO_BYTES if pixels else LANDMARK_BYTES
    return usual if free is None else power_of_two(min(SHARE * free / (each * len(devices)), usual))


def fitting_batch_size(free: int | None, each: float, size: int, pixels: bool, left: int) -> int:
    """Faces per accelerator whose batch its memory holds.

    Args:
        free: bytes, None: unknown. each: bytes per face. size: what it is now. left: faces still to be fitted on each device.
    """
    if free is None or each <= 0:
        return size
    most = min(MOST_PHOTOS if pixels else MOST_LANDMARKS, max(left, 1))
    return power_of_two(min(SHARE * free / each, most))


def power_of_two(number: float) -> int:
    """The largest power of two up to ``number``, at least 1: few sizes, so that programs compiled earlier are found again."""
    return 1 << max(int(number).bit_length() - 1, 0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine, had no memory left."""
    return isinstance(error, MemoryError) or (isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error))
