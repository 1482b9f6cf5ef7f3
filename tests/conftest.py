"""Shared by all tests: one folder for compiled programs, kept between runs, and the photo of the astronaut."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Most of a first run of these tests is compiling, and what is compiled runs for milliseconds: LLVM's least effort takes a third off the whole.
# Read when JAX starts, and by the processes that tests start; flags of the caller come last, so that they win.
os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false {os.environ.get('XLA_FLAGS', '')}".strip()

import jax
import numpy as np
import pytest
from PIL import Image


def pytest_configure(config: pytest.Config) -> None:
    folder = str(config.cache.mkdir("jax_programs"))
    # The library never touches jax.config; the tests may, and without this they would compile for minutes on each run.
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    # Notebooks run in processes of their own; what they compile is compiled for the tests, too.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    # The command line has a cache of its own choosing: tests must not write into the user's.
    os.environ["FITJAX_CACHE"] = folder
    # Nor may models that the user keeps change what the tests see.
    os.environ["FITJAX_MODELS"] = str(config.cache.mkdir("no_models"))


@pytest.fixture(scope="module", autouse=True)
def _compiled_programs_are_let_go() -> Iterator[None]:
    """Each compiled program maps several pieces of memory, and a process may map 65,530: all tests in two processes came to that and were aborted."""
    yield
    try:
        mapped = Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:  # not Linux
        return
    if mapped > 20_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def astronaut_path() -> Path:
    """The photo that ``fitjax demo`` fits."""
    pytest.importorskip("skimage")
    from fitjax.cli.demo_command import astronaut_photo

    return astronaut_photo()


@pytest.fixture(scope="session")
def astronaut(astronaut_path: Path) -> np.ndarray:
    """(512, 512, 3) uint8."""
    with Image.open(astronaut_path) as image:
        return np.array(image.convert("RGB"))


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of faces that `fitjax fit` fitted in each batch."""
    from fitjax.cli import fit_command as command

    counts: list[int] = []
    real = command.fit_batch

    def counting(observations: Any, **options: Any) -> Any:
        counts.append(sum(bool(np.asarray(o.ok)) for o in observations))
        return real(observations, **options)

    monkeypatch.setattr(command, "fit_batch", counting)
    return counts
