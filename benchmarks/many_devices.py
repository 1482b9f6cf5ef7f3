"""A batch shared out between simulated devices of a CPU: the same bits, and what sharing out costs.

All devices live on one core, so that they cannot gain anything by working at once: what N devices take beyond N times what one takes is overhead.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time

from benchmarks.report import Report, Table, Target
from benchmarks.shared_data import IMAGE_SIZE, Unavailable, require

NUMBERS = (1, 2, 4, 8)
PER_DEVICE = 16


def _child(rounds: int) -> None:
    """In a process with 8 simulated devices: JSON with seconds of CPU and wall, and a hash of each face's parameters, by number of devices."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    import jax
    import numpy as np

    import fitjax as fj
    from fitjax.cli.main import configure_jax
    from fitjax.cli.packed_landmarks import packed_jobs, read_packed_landmarks

    configure_jax()
    source = require("aflw2000/landmarks.npz")
    jobs = packed_jobs(source, read_packed_landmarks(source, "aflw68_original"), IMAGE_SIZE, "perspective", None)
    faces = [job.observation for job in jobs if job.observation is not None][: PER_DEVICE * max(NUMBERS)]
    model, devices = fj.load_basis(level=0), jax.local_devices()
    assert len(devices) == max(NUMBERS)

    def fit(number: int) -> list[fj.Solution]:
        size = number * PER_DEVICE
        return [s for i in range(0, len(faces), size) for s in fj.fit_batch(faces[i : i + size], model=model, devices=devices[:number])]

    def hashed(solution: fj.Solution) -> str:
        return hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(solution.params))).hexdigest()

    hashes = {number: [hashed(s) for s in fit(number)] for number in NUMBERS}
    plain = [s for i in range(0, len(faces), PER_DEVICE) for s in fj.fit_batch(faces[i : i + PER_DEVICE], model=model)]
    hashes[0] = [hashed(s) for s in plain]
    seconds: dict[int, list[tuple[float, float]]] = {number: [] for number in NUMBERS}
    for _ in range(rounds):  # taking turns: all have the same neighbours
        for number in NUMBERS:
            began = time.process_time(), time.perf_counter()
            fit(number)
            seconds[number].append((time.process_time() - began[0], time.perf_counter() - began[1]))
    print(json.dumps({"hashes": hashes, "seconds": seconds}))


def run(quick: bool) -> Report:
    report = Report("many_devices", "Batches over simulated devices")
    require("aflw2000/landmarks.npz")
    flags = f"--xla_force_host_platform_device_count={max(NUMBERS)} --xla_cpu_multi_thread_eigen=false"
    code = f"from benchmarks.many_devices import _child; _child({3 if quick else 30})"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"simulated devices: {done.stderr.strip().splitlines()[-1:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    batches = len(found["hashes"]["1"]) // PER_DEVICE
    one = [min(pair[k] for pair in found["seconds"]["1"]) / batches for k in (0, 1)]
    rows, worst, differ = [], 0.0, 0
    for number in NUMBERS:
        # All did the same faces; per batch of one device, whoever did it.
        cpu, wall = (min(pair[k] for pair in found["seconds"][str(number)]) / batches for k in (0, 1))
        other = sum(a != b for a, b in zip(found["hashes"][str(number)], found["hashes"]["1"]))
        rows.append([number, number * PER_DEVICE, 1e3 * cpu, 100 * (cpu / one[0] - 1), 1e3 * wall, other])
        worst, differ = max(worst, 100 * (cpu / one[0] - 1)), differ + other
    plain = sum(a != b for a, b in zip(found["hashes"]["0"], found["hashes"]["1"]))
    each = f"ms per {PER_DEVICE} faces"
    columns = ["devices", "faces per batch", f"CPU {each}", "more than one device, %", f"wall {each}", "faces with other bits"]
    turns = len(found["seconds"]["1"])
    note = f"landmarks only, level 0, all devices on one core, best of {turns} turns; {plain} faces differ from a fit without devices"
    report.tables.append(Table(f"{batches * PER_DEVICE} faces, {PER_DEVICE} per device", columns, rows, note))
    report.targets.append(Target("overhead of sharing out, per batch", 10, worst, "%"))
    report.targets.append(Target("faces with other bits than on one device", 0, float(differ), "faces"))
    return report
