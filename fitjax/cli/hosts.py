"""One run on several processes: which part of the inputs is this one's.

The processes meet through JAX's distributed runtime, learn which of how many each is, and part again: fits need no communication, so that whatever
becomes of one of them harms no other. The runtime is started in a short-lived process beside this one, because it ends the process it runs in
when another one is lost.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fitjax.cli.main import Fit
from fitjax.errors import FitjaxError

T = TypeVar("T")

#: The manifest of a run on one process, and of part of one.
MANIFEST = "manifest.jsonl"
_PART = re.compile(r"manifest-(\d+)-of-(\d+)\.jsonl")

#: Each process numbers the shards of its pack from here on, so that all lie in one folder.
SHARDS_PER_PART = 100_000

#: Seconds to wait for the other processes.
MEETING_TIME = 300

_MEETING = """
import json, sys, jax
jax.config.update("jax_platforms", "cpu")
jax.distributed.initialize(**json.loads(sys.argv[1]))
found = {"index": jax.process_index(), "count": jax.process_count(), "devices": jax.config.values.get("jax_cuda_visible_devices", "all")}
jax.distributed.shutdown()
print("met", json.dumps(found))
"""


@dataclass(frozen=True)
class Part:
    """Process ``index`` of ``count``: input number i is process i mod count's."""

    index: int = 0
    count: int = 1

    def of(self, items: Sequence[T]) -> Sequence[T]:
        return items[self.index :: self.count]

    @property
    def manifest(self) -> str:
        return MANIFEST if self.count == 1 else f"manifest-{self.index:05d}-of-{self.count:05d}.jsonl"

    @property
    def first_shard(self) -> int:
        return self.index * SHARDS_PER_PART

    @property
    def name(self) -> str:
        return "" if self.count == 1 else f"process {self.index} of {self.count}: "


def manifests(out: Path) -> list[Path]:
    """All manifests of a folder, the one written last at the end."""
    found: list[tuple[int, str]] = []
    for path in out.glob("manifest*.jsonl"):
        if path.name == MANIFEST or _PART.fullmatch(path.name):
            with suppress(FileNotFoundError):  # another process has just merged it
                found.append((path.stat().st_mtime_ns, path.name))
    return [out / name for _, name in sorted(found)]


def part_count(path: Path) -> int:
    """How many processes the run had to which a manifest belongs."""
    found = _PART.fullmatch(path.name)
    return 1 if found is None else int(found[2])


def part_of(options: Fit) -> Part:
    """Which part of the inputs this process fits.

    Raises:
        FitjaxError: options that do not go together, or the processes do not find each other.
    """
    count, index = options.processes, options.process_id
    if options.distributed or options.coordinator is not None:
        if not options.distributed and (count is None or index is None):
            raise FitjaxError("--coordinator: needs --processes and --process-id, or --distributed to find them as Slurm or Open MPI tell them")
        _check(count, index)
        return meet(options.coordinator, count, index)
    if (count is None) != (index is None):
        raise FitjaxError("--processes and --process-id: belong together; give both, or --distributed")
    _check(count, index)
    return Part() if count is None or index is None else Part(index, count)


def _check(count: int | None, index: int | None) -> None:
    if count is not None and count < 1:
        raise FitjaxError(f"--processes: expected at least 1, found {count}")
    if index is not None and not 0 <= index < (count or index + 1):
        raise FitjaxError(f"--process-id: expected 0 to {(count or 1) - 1}, found {index}")


def meet(coordinator: str | None, count: int | None, index: int | None, seconds: int = MEETING_TIME) -> Part:
    """Wait until all processes are there.

    Args:
        coordinator: ``host:port`` of process 0; None, as for the others: found as JAX finds it, from what Slurm, Open MPI or a TPU says.
        seconds: how long to wait.

    Raises:
        FitjaxError: the processes do not find each other.
    """
    if coordinator is not None and not re.fullmatch(r".+:\d{1,5}", coordinator):
        raise FitjaxError(f"--coordinator {coordinator}: expected host:port of process 0, such as 10.0.0.1:1234")
    given = {"coordinator_address": coordinator, "num_processes": count, "process_id": index, "initialization_timeout": seconds}
    wanted = {k: v for k, v in given.items() if v is not None} | {"shutdown_timeout_seconds": seconds}
    command = [sys.executable, "-c", _MEETING, json.dumps(wanted)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=2 * seconds + 60)
    except subprocess.TimeoutExpired:
        raise FitjaxError(_alone(f"no answer within {2 * seconds + 60} seconds")) from None
    line = next((line for line in done.stdout.splitlines() if line.startswith("met ")), None)
    if line is None:
        raise FitjaxError(_alone(_reason(done.stderr, coordinator, seconds)))
    found = json.loads(line[4:])
    if found["devices"] != "all":
        # Imported here: without other processes nothing is to be set. Several processes on a machine share out its accelerators, as JAX does.
        import jax

        jax.config.update("jax_cuda_visible_devices", found["devices"])
        jax.config.update("jax_rocm_visible_devices", found["devices"])
    return Part(int(found["index"]), int(found["count"]))


def _reason(said: str, coordinator: str | None, seconds: int) -> str:
    """One line of what a failed meeting says."""
    if "should be defined" in said or "must be defined" in said:
        return "nothing here tells of them, as Slurm, Open MPI or a TPU would"
    if "DEADLINE_EXCEEDED" in said or "Timeout" in said:
        return f"not all of them came to {coordinator or 'process 0'} within {seconds} seconds"
    lines = [line.strip() for line in said.splitlines() if "Error" in line]
    return lines[-1][:300] if lines else "JAX's distributed runtime ended without saying why"


def _alone(why: str) -> str:
    return (
        f"the processes of this run did not find each other ({why}); start all of them with the same --coordinator and --processes; one that was "
        "lost goes on alone with --processes N --process-id I and without --coordinator"
    )
