"""What a fresh process costs: imports, model load, compilation with and without the persistent cache, and the command line end to end.

Every figure comes from a subprocess of its own with a temporary cache folder; repeats take turns.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Report, Table, Target
from benchmarks.shared_data import Unavailable

_IMPORT = """
import time; began = time.perf_counter()
import fitjax as fj
fj.fit
print(time.perf_counter() - began)
"""

_LOAD = """
import sys, time, fitjax as fj
fj.load_basis
began = time.perf_counter(); model = fj.load_basis(level=int(sys.argv[1])); model.mean.block_until_ready()
print(time.perf_counter() - began)
"""

# The default fit of 478 points of the mean face; the first call traces, lowers, and compiles or reads the cache.
_COMPILE = """
import sys, time, numpy as np, fitjax as fj
from fitjax.cli.main import configure_jax
configure_jax()
model = fj.load_basis()
mean = np.asarray(model.sampled["mediapipe478"].mean)
observation = fj.make_observation({"mediapipe478": mean[:, :2] * [2000, -2000] + 225}, image_size=(450, 450))
began = time.perf_counter(); fj.fit(observation, model=model)
print(time.perf_counter() - began)
"""

# The command line, with JAX's own events summed: tracing, lowering, and compiling or reading the cache.
_COMMAND = """
import json, sys, time
began = time.perf_counter()
import jax
spent = {}
def note(event, seconds, **_):
    for part in ("jaxpr_trace_duration", "jaxpr_to_mlir_module_duration", "backend_compile_duration", "cache_retrieval_time_sec"):
        if event.endswith(part):
            spent[part] = spent.get(part, 0.0) + seconds
jax.monitoring.register_event_duration_secs_listener(note)
from fitjax.cli.main import main
code = main(["fit", "--stages", "landmarks", sys.argv[1], "-o", sys.argv[2]])
print(json.dumps({"code": code, "inside": time.perf_counter() - began, **spent}))
"""


def _python(code: str, *arguments: str, cache: str) -> tuple[str, float]:
    """The last line a fresh interpreter prints, and its wall time.

    Raises:
        Unavailable: it failed; the text holds the end of its error.
    """
    began = time.perf_counter()
    environment = {**os.environ, "FITJAX_CACHE": cache, "XDG_CACHE_HOME": cache}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).resolve().parents[1],
        check=False,
    )
    seconds = time.perf_counter() - began
    if done.returncode != 0 or not done.stdout.strip():
        raise Unavailable(f"a fresh process failed: {done.stderr.strip()[-400:]}")
    return done.stdout.strip().splitlines()[-1], seconds


def _astronaut(folder: Path) -> Path:
    try:
        from skimage import data
    except ImportError as error:
        raise Unavailable(f"the astronaut photo: {error}; pip install scikit-image") from None
    import imageio.v3 as imageio

    path = folder / "astronaut.png"
    imageio.imwrite(path, data.astronaut())
    return path


def _median(values: list[float]) -> float:
    return float(np.median(values))


def _library(report: Report, repeats: int, levels: tuple[int, ...]) -> dict[str, float]:
    """Import, load and compile."""
    seconds: dict[str, list[float]] = {}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:
            inside, wall = _python(_IMPORT, cache=cache)
            seconds.setdefault("import fitjax, JAX included", []).append(float(inside))
            seconds.setdefault("interpreter start, import and exit", []).append(wall)
            for level in levels:
                found, _ = _python(_LOAD, str(level), cache=cache)
                seconds.setdefault(f"load_basis(level={level})", []).append(float(found))
            for name in ("first fit in a process, empty cache", "first fit in a process, warm cache"):
                seconds.setdefault(name, []).append(float(_python(_COMPILE, cache=cache)[0]))
    median = {name: _median(values) for name, values in seconds.items()}
    rows: list[list[Any]] = [[name, value, min(seconds[name]), max(seconds[name])] for name, value in median.items()]
    report.tables.append(Table("In a fresh process, s", ["", "median", "least", "most"], rows))
    return median


def _command_line(report: Report, repeats: int) -> dict[str, float]:
    """`fitjax fit` of the astronaut photo."""
    runs: dict[str, list[dict[str, float]]] = {"first run, empty cache": [], "second run": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            photo = _astronaut(folder)
            for name in runs:
                line, wall = _python(_COMMAND, str(photo), str(folder / "out"), cache=str(folder / "cache"))
                figures = json.loads(line)
                if figures.pop("code") != 0:
                    raise Unavailable("fitjax fit of the astronaut photo failed")
                saved = json.loads((folder / "out" / "astronaut" / "report.json").read_text())
                for part, value in saved["timings_seconds"].items():
                    figures[f"report: {part}"] = value
                runs[name].append({"wall": wall, **figures})
    parts = list(dict.fromkeys(k for run in runs.values() for one in run for k in one))
    median = {name: {p: _median([one.get(p, 0.0) for one in run]) for p in parts} for name, run in runs.items()}
    table: list[list[Any]] = [[part, *(median[name][part] for name in runs)] for part in parts]
    report.tables.append(
        Table(
            "`fitjax fit astronaut.png`, s, medians",
            ["part", *runs],
            table,
            "`wall` is the process from start to exit. `inside` leaves out the interpreter. The rows named `…duration` are JAX's own events, summed "
            "over all programs; `backend_compile` includes reading the cache. `report:` rows are the timings in `report.json`.",
        )
    )
    return median["second run"]


def run(quick: bool = False) -> Report:
    """The benchmark."""
    report = Report("startup", "Start-up and compilation")
    repeats = 1 if quick else 5
    library = _library(report, repeats, (1,) if quick else (0, 1, 2))
    try:
        second = _command_line(report, repeats)
        compiling = sum(
            v for k, v in second.items() if k.startswith(("jaxpr_trace", "jaxpr_to_mlir", "backend_compile"))
        )
        wall: float | None = second["wall"]
    except Unavailable as error:
        report.skipped.append(str(error))
        compiling, wall = float("nan"), None
    report.targets += [
        Target("`fitjax fit` of one photo, second run in a fresh process", 6.0, wall, "s"),
        Target("of which tracing, lowering and compiling", 1.5, compiling, "s"),
    ]
    report.facts.update(library_seconds=library)
    return report
