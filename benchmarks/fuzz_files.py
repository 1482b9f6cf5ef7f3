"""Damaged files of every kind that the importers open: nothing but fitjax's own error, no crash, at most 5 s and 2 GB each.

    python -m benchmarks.fuzz_files --count 100000          # a night's work: some hours on one core
    python -m benchmarks.fuzz_files --count 2200 --seed 7   # as in the tests

Small valid files are mutated (bits, bytes, numbers at their limits, cuts, copies, splices of two files) and read in a worker process, whose death,
if it dies, names the file. Matlab and HDF5 files go to a forked child that runs the same code as the real one; one in fifty goes to the real one,
which starts a program. The same seed gives the same files.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import scipy.sparse as sp

from fitjax.errors import FitjaxError
from fitjax.importers.landmark_tables import parse_table
from fitjax.importers.safe import child, foreign
from fitjax.importers.safe.arrays import read_npy, read_npz
from fitjax.importers.safe.cereal import read_eos_blendshapes, read_eos_model
from fitjax.importers.safe.fields import Fields
from fitjax.importers.safe.foreign import read_hdf5, read_mat
from fitjax.importers.safe.kinds import sniff
from fitjax.importers.safe.pickle_reader import read_pickle
from fitjax.model.basis_file import read_basis
from fitjax.model.basis_writer import serialise

#: Seconds of processor time: the clock on the wall goes on while a busy machine does other things. And a bound on that clock, for who sleeps.
SECONDS, STUCK, BYTES = 5.0, 60.0, 2 << 30
#: One in so many Matlab and HDF5 files goes through a program of its own, as for users.
REAL_CHILD = 50

Reader = Callable[[Path], Any]


def _fields(value: Any) -> None:
    """What importers do with what they have read."""
    fields = Fields("fuzz", value)
    for name in fields:
        with contextlib.suppress(FitjaxError):
            fields.floats(name)
        with contextlib.suppress(FitjaxError):
            fields.indices(name, 100)
        with contextlib.suppress(FitjaxError):
            fields.names(name)


def _mat(path: Path) -> None:
    _fields(read_mat(path).arrays)


def _hdf5(path: Path) -> None:
    _fields(read_hdf5(path).arrays)


def _npz(path: Path) -> None:
    _fields(read_npz(path, objects=True))


def _pickle(path: Path) -> None:
    found = read_pickle(path)
    if isinstance(found, dict):
        _fields(found)


def seeds(folder: Path) -> list[tuple[str, bytes, Reader]]:
    """(ending, content, reader) of small valid files of all kinds."""
    rng = np.random.default_rng(0)
    values = {
        "v": rng.normal(size=(6, 3)), "f": np.arange(9, dtype=np.uint32).reshape(3, 3), "names": np.array(["a", "bc"]), "x": np.float32(2),
        "J": sp.csc_matrix(np.eye(4)), "K": sp.coo_matrix(np.eye(3)), "o": np.array({"a": np.ones(2)}, object), "t": ("x", 1, 2.5, None, True, 2**70),
    }  # fmt: skip
    found: list[tuple[str, bytes, Reader]] = [(".pkl", pickle.dumps(values, protocol=p), _pickle) for p in range(6)]
    state = b"T\x01\x00\x00\x00x" + pickle.dumps(np.ones(3), protocol=2)[2:-1]
    found.append(
        (
            ".pkl",
            b"\x80\x02}(U\x01vcchumpy.ch\nCh\n)\x81}("
            + state
            + b"ubU\x01scchumpy.reordering\nSelect\n)\x81}(U\x01aNubu.",
            _pickle,
        )
    )
    plain = {k: v for k, v in values.items() if isinstance(v, np.ndarray) and v.dtype != object}
    for name, array in plain.items():
        np.save(folder / name, array)
        found.append((".npy", (folder / f"{name}.npy").read_bytes(), lambda p: read_npy(p, objects=True)))
    np.save(folder / "object", np.array({"a": np.ones(2)}, object), allow_pickle=True)
    found.append((".npy", (folder / "object.npy").read_bytes(), lambda p: read_npy(p, objects=True)))
    content = {name: (folder / f"{name}.npy").read_bytes() for name in (*plain, "object")}
    found += [(".npz", _archive(content, method), _npz) for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)]
    matrices = {
        "shapeMU": rng.normal(size=(18, 1)).astype(np.float32),
        "tl": np.eye(3),
        "s": {"a": np.arange(3)},
        "t": "text",
        "c": values["J"],
    }
    for squeeze in (False, True):
        scipy.io.savemat(folder / "a.mat", matrices, do_compression=squeeze)
        raw = (folder / "a.mat").read_bytes()
        found += [(".mat", b"MATLAB 5.0 MAT-file, without a date".ljust(116) + raw[116:], _mat)] * 2
    with contextlib.suppress(ImportError):
        found += _hdf5_seeds(folder, values)
    matrix = lambda a: struct.pack("<ii", *a.shape) + a.astype("<f4").tobytes(order="F")  # noqa: E731
    pca = matrix(np.ones((6, 1))) + matrix(np.ones((6, 2))) + matrix(np.ones((2, 1))) + struct.pack("<Q3i", 1, 0, 1, 1)
    found.append((".bin", struct.pack("<I", 1) + pca + pca + struct.pack("<Q4d", 2, 0, 0, 1, 1), read_eos_model))
    shapes = b"".join(struct.pack("<Q", 2) + name + matrix(np.ones((6, 1))) for name in (b"aa", b"bb"))
    newer = (
        struct.pack("<I", 4)
        + pca
        + pca
        + b"\x00\x01\x00\x00\x00"
        + struct.pack("<Q", 2)
        + shapes
        + b"\x00"
        + struct.pack("<Q", 1)
    )
    newer += (
        struct.pack("<Q", 4)
        + b"nose"
        + struct.pack("<i", 1)
        + struct.pack("<Q2d", 1, 0, 1)
        + struct.pack("<Q3i", 1, 0, 0, 0)
    )
    found += [(".bin", newer, read_eos_model), (".bin", struct.pack("<Q", 2) + shapes, read_eos_blendshapes)]
    found.append((".safetensors", _basis(), read_basis))
    found.append(
        (".txt", b"[landmark_mappings]\n" + b"".join(b"%d = %d # x\n" % (k, 3 * k) for k in range(1, 20)), parse_table)
    )
    found.append((".json", json.dumps([None, *range(67)]).encode(), parse_table))
    found += [
        (".pkl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", _pickle),
        (".npz", b"<!DOCTYPE html><html></html>", _npz),
    ]
    return found


def _hdf5_seeds(folder: Path, values: dict[str, Any]) -> list[tuple[str, bytes, Reader]]:
    import h5py

    with h5py.File(folder / "a.h5", "w") as file:
        file["shape/model/mean"] = values["v"]
        file.create_dataset("shape/model/pcaBasis", data=values["v"], compression="gzip")
        file["shape/representer/cells"] = values["f"]
        file["metadata/landmarks/json"] = "[]"
        file["link"] = h5py.SoftLink("/shape")
    raw = (folder / "a.h5").read_bytes()
    matlab = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + raw
    return [(".h5", raw, _hdf5)] * 4 + [(".mat", matlab, _mat)]


def _basis() -> bytes:
    zeros = {name: np.zeros(1, np.float32) for name in ("expression_sigma", "expression_lower", "expression_upper")}
    tensors = {
        "mean": np.eye(3, dtype=np.float32), "triangles": np.array([[0, 1, 2]], np.int32), "uv": np.eye(3, 2, dtype=np.float32),
        "uv_triangles": np.array([[0, 1, 2]], np.int32), "identity": np.ones((1, 3, 3), np.int16), "identity_scale": np.ones(1, np.float32),
        "expression": np.ones((1, 3, 3), np.float32), **zeros, "samples.a.triangle": np.zeros(1, np.int32),
        "samples.a.barycentric": np.array([[1, 0, 0]], np.float32),
    }  # fmt: skip
    tensors["expression_sigma"] = np.ones(1, np.float32)
    metadata = {"format": "fitjax-basis/1", "name": "x", "expression_names": '["a"]', "provenance": "{}"}
    return serialise(tensors, metadata)


def _archive(arrays: dict[str, bytes], method: int) -> bytes:
    """An `.npz` without the time of day: the same seed has to give the same files."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in arrays.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), data, method)
    return out.getvalue()


_LIMITS = [0, 1, 2, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**64 - 1]


def mutated(rng: random.Random, raw: bytes, others: list[bytes]) -> bytes:
    """One damaged file."""
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 4, 12))):
        if not data:
            break
        at, end = rng.randrange(len(data)), rng.randrange(len(data))
        # Headers decide: half of the damage falls on the first bytes.
        at = min(at, rng.randrange(160)) if rng.random() < 0.5 else at
        what = rng.randrange(9)
        if what == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif what == 1:
            data[at] = rng.randrange(256)
        elif what == 2:
            width = rng.choice((2, 4, 8))
            number = (rng.choice(_LIMITS) % (1 << 8 * width)).to_bytes(width, rng.choice(("little", "big")))
            data[at : at + width] = number
        elif what == 3:
            del data[at:]
        elif what == 4:
            del data[min(at, end) : min(at, end) + rng.randrange(1, 40)]
        elif what == 5:
            data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 20)))
        elif what == 6:
            data[at:at] = data[end : end + rng.randrange(1, 200)]
        elif what == 7:
            other = rng.choice(others)
            data[at:] = other[rng.randrange(len(other)) :]
        else:
            data[at : at + rng.randrange(1, 40)] = b"\x00" * rng.randrange(1, 40)
    return bytes(data)


def _forked(kind: str, path: Path) -> foreign.Foreign:
    """:func:`fitjax.importers.safe.foreign._child` without starting a program: the libraries are loaded already."""
    with tempfile.TemporaryFile() as out:
        pid = os.fork()
        if pid == 0:
            try:
                child.limit(4, BYTES)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                head, arrays = child.answer(kind, str(path), 1 << 28)
                with os.fdopen(os.dup(out.fileno()), "wb") as answer:
                    answer.write(json.dumps(head).encode() + b"\n" + b"".join(a.tobytes() for a in arrays))
            finally:
                os._exit(0)
        _, status = os.waitpid(pid, 0)
        if status != 0:
            raise FitjaxError("the child died, as it may")
        out.seek(0)
        return foreign._answer(path, out)


def _processor() -> float:
    """Seconds of processor time, children included."""
    return sum(os.times()[:4])


def work(seed: int, first: int, last: int, folder: Path) -> None:
    """Read the files of numbers first to last; a line of JSON on standard output for each that fails, and one at the end."""
    examples = seeds(folder)
    with contextlib.suppress(ImportError):
        import h5py  # noqa: F401
    import scipy.io.matlab  # noqa: F401

    contents = [raw for _, raw, _ in examples]
    real = foreign._child
    slowest, refused = 0.0, 0
    for number in range(first, last):
        rng = random.Random(f"{seed} {number}")
        ending, raw, read = rng.choice(examples)
        path = folder / f"now{ending}"
        path.write_bytes(mutated(rng, raw, contents))
        forked = read in (_mat, _hdf5) and hasattr(os, "fork") and number % REAL_CHILD
        foreign._child = _forked if forked else real
        print(number, ending, file=sys.stderr, flush=True)  # what a crash is known by
        began, problem = (time.monotonic(), _processor()), None
        try:
            sniff(path)
            read(path)
        except FitjaxError as error:
            refused += 1
            if "\n" in str(error) or len(str(error)) > 600:
                problem = f"message: {str(error)[:200]!r}"
        except BaseException as error:
            problem = f"{type(error).__name__}: {str(error)[:200]}"
        waited, took = time.monotonic() - began[0], _processor() - began[1]
        slowest = max(slowest, took)
        if took > SECONDS or waited > STUCK:
            problem = f"took {took:.1f} s of the processor, {waited:.1f} s in all"
        if problem:
            print(json.dumps({"number": number, "ending": ending, "problem": problem}), flush=True)
    import resource

    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
    print(
        json.dumps({"done": last - first, "refused": refused, "slowest_s": round(slowest, 2), "peak_MB": round(peak)}),
        flush=True,
    )


def run(count: int, seed: int = 0, block: int = 2500, keep: Path | None = None) -> dict[str, Any]:
    """Counts and problems of ``count`` damaged files, read in worker processes of ``block`` files each."""
    total: dict[str, Any] = {"files": 0, "refused": 0, "slowest_s": 0.0, "peak_MB": 0, "problems": []}
    first = 0
    while first < count:
        last = min(first + block, count)
        with tempfile.TemporaryDirectory() as folder:
            command = [
                sys.executable,
                "-m",
                "benchmarks.fuzz_files",
                "--work",
                str(seed),
                str(first),
                str(last),
                folder,
            ]
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, cwd=Path(__file__).resolve().parents[1]
            )
            for line in done.stdout.splitlines():
                entry = json.loads(line)
                if "problem" in entry:
                    total["problems"].append(entry)
                    print(entry, file=sys.stderr, flush=True)
                else:
                    total["files"] += entry["done"]
                    total["refused"] += entry["refused"]
                    total["slowest_s"] = max(total["slowest_s"], entry["slowest_s"])
                    total["peak_MB"] = max(total["peak_MB"], entry["peak_MB"])
            if done.returncode != 0:
                at = next((line for line in reversed(done.stderr.splitlines()) if line[:1].isdigit()), f"{first} ?")
                number = int(at.split()[0])
                total["problems"].append(
                    {"number": number, "ending": at.split()[1], "problem": f"the worker ended with {done.returncode}"}
                )
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"seed{seed}_{number}.log").write_text(done.stderr[-4000:])
                last = number + 1  # go on behind it
        first = last
        print(f"{first} of {count}: {len(total['problems'])} problems", file=sys.stderr, flush=True)
    if total["peak_MB"] > BYTES >> 20:
        total["problems"].append({"problem": f"a process took {total['peak_MB']} MB"})
    return total


def main() -> int:
    """Command line; 0 if nothing went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the logs of crashes")
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        seed, first, last, folder = options.work
        work(int(seed), int(first), int(last), Path(folder))
        return 0
    total = run(options.count, options.seed, keep=options.keep)
    print(json.dumps(total, indent=1))
    return 1 if total["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
