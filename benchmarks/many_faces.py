"""Many faces from the command line: faces per second, memory, kill -9 at random instants, bad faces among good ones, photos of one person.

Everything runs as users run it, ``fitjax fit`` in a process of its own with a warm cache of compiled programs; start-up counts.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image

import fitjax as fj
from benchmarks.report import Report, Table, Target
from benchmarks.shared_data import IMAGE_SIZE, Unavailable, require
from fitjax.cli.packed_landmarks import packed_jobs, read_packed_landmarks
from fitjax.geometry.rotation import rotation_from_aflw2000
from fitjax.prediction import predict

SET = "aflw68_original"
COMMON = ("--level", "0", "--image-size", *map(str, IMAGE_SIZE), "--landmark-set", SET)


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "fitjax", "fit", *map(str, arguments)]


def _timed(command: list[str]) -> tuple[float, float, int, float]:
    """(wall seconds, CPU seconds, exit code, peak megabytes) of a process and what it started."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = sum(getattr(after, k) - getattr(before, k) for k in ("ru_utime", "ru_stime"))
    return wall, cpu, process.returncode, used.ru_maxrss / 1024


def _speed(report: Report, folder: Path, rounds: int) -> None:
    """The 992 annotated faces, landmarks only."""
    source = require("aflw2000/landmarks.npz")
    given = read_packed_landmarks(source, SET)
    observations = [job.observation for job in packed_jobs(source, given, IMAGE_SIZE, "perspective", None) if job.observation is not None]
    model, size = fj.load_basis(level=0), 64
    fj.fit_batch(observations[:size], model=model)
    solver = []
    for _ in range(rounds):
        began = time.perf_counter()
        for i in range(0, len(observations) - size + 1, size):
            fj.fit_batch(observations[i : i + size], model=model)
        solver.append((len(observations) // size) * size / (time.perf_counter() - began))
    runs = []
    for i in range(rounds + 1):  # the first one compiles
        runs.append(_timed(_command(source, "--pack", "-o", folder / f"speed{i}", *COMMON)))
    if any(code != 0 for _, _, code, _ in runs):
        raise Unavailable("fitjax fit --pack failed: its time means nothing; run it by hand to see why")
    runs = runs[1:]
    wall, cpu = min(r[0] for r in runs), min(r[1] for r in runs)
    count = len(given.points)
    report.tables.append(
        Table(
            f"{count} faces, 68 landmarks ({SET}), level 0",
            ["what", "faces/s"],
            [["solver, batches of 64", max(solver)], ["fitjax fit --pack, wall", count / wall], ["the same, per CPU second", count / cpu]],
            f"best of {rounds}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        )
    )
    report.targets.append(Target("faces/s in the solver", 600, max(solver), "faces/s", at_least=True))
    report.targets.append(Target("faces/s from the command line with --pack", 200, count / wall, "faces/s", at_least=True))


def _faces(folder: Path, count: int) -> Path:
    """An .npz of so many of the annotated faces."""
    with np.load(require("aflw2000/landmarks.npz"), allow_pickle=False) as data:
        np.savez(folder / "faces.npz", aflw68_original=data["landmarks"][:count, :2].swapaxes(1, 2))
    return folder / "faces.npz"


def _shards(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (out / "packed").iterdir()}


def _kills(report: Report, folder: Path, kills: int) -> None:
    """kill -9 at random instants, one after the other into the same folder, each run going on from the last."""
    source = _faces(folder, 400)
    rng = random.Random(0)
    command = _command(source, "--pack", "--batch-size", "4", *COMMON)
    wall = _timed([*command, "-o", str(folder / "whole")])[0]
    expected = _shards(folder / "whole")
    rows = (folder / "whole" / "manifest.jsonl").read_bytes().count(b"\n")
    done, differing, rounds, repeated = 0, 0, 0, 0
    while done < kills:
        out = folder / f"killed{rounds}"
        rounds += 1
        while done < kills:
            process = subprocess.Popen([*command, "-o", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            manifest = out / "manifest.jsonl"
            size = manifest.stat().st_size if manifest.exists() else 0
            limit = time.monotonic() + 10 * wall
            # One in four falls into the start; the others into the fits, when the manifest has begun to grow.
            if rng.random() < 0.25:
                time.sleep(rng.uniform(0, 0.5 * wall))
            else:
                while process.poll() is None and time.monotonic() < limit and (manifest.stat().st_size if manifest.exists() else 0) == size:
                    time.sleep(0.002)
                time.sleep(rng.uniform(0, 0.1 * wall))
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
            process.wait()
            done += 1
        _timed([*command, "-o", str(out)])
        differing += _shards(out) != expected or (out / "manifest.jsonl").read_bytes().count(b"\n") != rows
        repeated += any(p.name.startswith(".") for p in out.rglob("*"))
    report.tables.append(
        Table(
            "kill -9 at random instants, gone on from each",
            ["kills", "folders", "folders that differ from an uninterrupted run", "folders with litter"],
            [[done, rounds, differing, repeated]],
            "400 faces in batches of 4; shards compared byte by byte, rows counted",
        )
    )
    report.targets.append(Target("interrupted runs that end otherwise", 0, float(differing + repeated), "runs"))


def _records(out: Path) -> dict[str, tuple[str, dict[str, np.ndarray]]]:
    """Status and arrays of each face, in the manifest's order."""
    from fitjax.files.pack import read_shard, shard_path

    shards: dict[int, Any] = {}
    found = {}
    for row in map(json.loads, (out / "manifest.jsonl").read_text().splitlines()):
        record = {}
        if "shard" in row:
            number = row["shard"]
            shards[number] = shards.get(number) or read_shard(shard_path(out / "packed", number))
            record = shards[number].record(row["row"])
        found[row["name"]] = row["status"], record
    return found


def _hosts(report: Report, folder: Path, numbers: tuple[int, ...]) -> None:
    """The same faces on several processes that meet over loopback; one of them is killed in the middle and started again, alone."""
    source = _faces(folder, 400)
    options = ("--pack", "--batch-size", 4, *COMMON)
    _timed(_command(source, *options, "-o", folder / "hosts1"))
    one = _records(folder / "hosts1")
    rows, worst = [], 0
    for number in numbers:
        out = folder / f"hosts{number}"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        command = _command(source, *options, "-o", out, "--processes", number)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        running = [subprocess.Popen([*command, "--process-id", str(i), "--coordinator", address], **quiet) for i in range(number)]  # type: ignore[call-overload]
        mine, lost = out / f"manifest-{1:05d}-of-{number:05d}.jsonl", running[1]
        limit = time.monotonic() + 300
        while lost.poll() is None and time.monotonic() < limit and (not mine.exists() or mine.read_bytes().count(b"\n") < 20):
            time.sleep(0.002)
        lost.send_signal(signal.SIGKILL)
        lost.wait()
        before = mine.read_bytes().count(b"\n") if mine.exists() else 0
        codes = [process.wait() for process in running]
        refused = subprocess.run([sys.executable, "-m", "fitjax", "merge", str(out)], capture_output=True).returncode
        again = _timed([*command, "--process-id", "1"])[2]
        merged = subprocess.run([sys.executable, "-m", "fitjax", "merge", str(out)], capture_output=True).returncode
        found = _records(out)
        differ = sum(
            name not in found or found[name][0] != status or any(not np.array_equal(v, found[name][1][k]) for k, v in record.items())
            for name, (status, record) in one.items()
        ) + (list(found) != list(one))
        worst += differ
        rows.append([number, before, ", ".join(map(str, codes)), refused, again, merged, differ])
    columns = ["processes", "faces done by the killed one", "exit codes", "merging then", "started again", "merging", "faces that differ"]
    note = "batches of 4; order, statuses and bits against one process"
    report.tables.append(Table("400 faces on several processes over loopback, process 1 killed", columns, rows, note))
    report.targets.append(Target("faces that differ from those of one process", 0, float(worst), "faces"))


def _bad(report: Report, folder: Path) -> None:
    """Three bad faces among a hundred."""
    source = _faces(folder, 100)
    good = _timed(_command(source, "--pack", "-o", folder / "good", *COMMON))[2]
    with np.load(source) as data:
        points = data["aflw68_original"].copy()
    points[10, 5], points[50], points[77] = np.nan, 3.0, points[77][:, ::-1] * (1, 0)
    np.savez(source, aflw68_original=points)
    bad = _timed(_command(source, "--pack", "-o", folder / "bad", *COMMON))[2]
    from fitjax.files.pack import read_shard, shard_path

    shards = [read_shard(shard_path(folder / name / "packed", 0)) for name in ("good", "bad")]
    at = {name: i for i, name in enumerate(shards[0].names)}
    same = sum(
        all(np.array_equal(v, shards[0].record(at[name])[k]) for k, v in shards[1].record(i).items()) for i, name in enumerate(shards[1].names)
    )
    failed = [json.loads(line) for line in (folder / "bad" / "manifest.jsonl").read_text().splitlines()]
    named = sum(row["status"] == "failed" and bool(row["reason"]) for row in failed)
    report.tables.append(
        Table("3 bad faces among 100", ["fitted with the same bits", "named with reasons", "exit codes"], [[same, named, f"{good}, {bad}"]])
    )
    report.targets.append(Target("faces with the same bits beside 3 bad ones", 97, float(same), "faces", at_least=True))


def _memory(report: Report, folder: Path, few: int, many: int) -> None:
    """Peak of the process that fits, for photos of its own landmarks."""
    (folder / "marks").mkdir()
    with np.load(require("aflw2000/landmarks.npz"), allow_pickle=False) as data:
        points = data["landmarks"][:, :2].swapaxes(1, 2)
    peaks = []
    for count in (8, few, many):  # the first compiles
        photos = folder / f"photos{count}"
        photos.mkdir()
        for i in range(count):
            Image.fromarray(np.full((450, 450, 3), i % 250, np.uint8)).save(photos / f"{i:05d}.png", compress_level=1)
            np.save(folder / "marks" / f"{i:05d}.npy", points[i % len(points)])
        options = ("--landmarks", folder / "marks", "--pack", "--stages", "landmarks", "--level", "0")
        done = _timed(_command(photos, *options, "-o", folder / f"out{count}"))
        peaks.append(done[3])
        shutil.rmtree(photos)
    peaks = peaks[1:]
    report.tables.append(Table("peak memory", ["photos", "megabytes"], [[few, peaks[0]], [many, peaks[1]]]))
    report.targets.append(Target(f"peak memory of {many} photos over that of {few}", 1.1, peaks[1] / peaks[0], "×"))


def _person(report: Report, persons: int) -> None:
    """Three synthetic photos of one person against the frontal one."""
    model = fj.load_basis(level=0)
    camera, name = fj.make_camera(640, 480), "mediapipe478"
    anything = fj.make_observation({name: np.random.default_rng(0).uniform(0, 100, (478, 2))}, camera)
    rng = np.random.default_rng(0)

    def face(code: object) -> np.ndarray:
        params = {"identity": jnp.asarray(code), "expression": jnp.zeros(model.n_expression)}
        return np.asarray(model.decode_samples(params, name).position)

    rows = []
    for _ in range(persons):
        identity = jnp.asarray(rng.normal(size=model.n_identity), jnp.float32)
        seen = []
        for yaw in (0, -30, 30):
            expression = rng.uniform(0, 0.8, model.n_expression) * (rng.random(model.n_expression) < 0.25)
            rotation = rotation_from_aflw2000(jnp.radians(jnp.array([rng.uniform(-10, 10), yaw, rng.uniform(-10, 10)])))
            pose = {"rotation": rotation.astype(jnp.float32), "translation": jnp.array([0.02, -0.02, rng.uniform(0.5, 0.8)], jnp.float32)}
            truth = {"identity": identity, "expression": jnp.asarray(expression, jnp.float32), "pose": pose}
            points = np.asarray(predict(model, truth, anything).pixels[name])
            seen.append(fj.make_observation({name: points + rng.normal(size=points.shape)}, camera))
        fits = [fj.fit(seen[0], model=model), fj.fit_shared(seen, model=model)[0]]
        rows.append([1000 * np.linalg.norm(face(s.params["identity"]) - face(identity), axis=1).mean() for s in fits])
    one, three = np.mean(rows, 0)
    report.tables.append(
        Table(
            "identity of one person, mm over the face, head frame, no alignment",
            ["photos", "mean error mm"],
            [["1, frontal", float(one)], ["3, yaw 0 and ±30°", float(three)]],
            f"{persons} persons of the prior, 478 landmarks with 1 px of noise on 640 × 480",
        )
    )
    report.targets.append(Target("identity error lower with 3 photos", 30, 100 * (1 - three / one), "%", at_least=True))


def run(quick: bool) -> Report:
    report = Report("many_faces", "Many faces from the command line")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = (
            lambda: _speed(report, folder, 1 if quick else 5),
            lambda: _kills(report, folder, 3 if quick else 20),
            lambda: _hosts(report, folder, (2,) if quick else (2, 4)),
            lambda: _bad(report, folder),
            lambda: _memory(report, folder, *((50, 100) if quick else (500, 5000))),
            lambda: _person(report, 2 if quick else 20),
        )
        for part in parts:
            try:
                part()
            except Unavailable as error:
                report.skipped.append(str(error))
    return report
