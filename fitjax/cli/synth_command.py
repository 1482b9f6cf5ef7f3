"""``fitjax synth``."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Annotated

import tyro

from fitjax.errors import FitjaxError


@dataclasses.dataclass
class Synth:
    """Draw random portraits of the embedded model with complete truth: a PNG and an .npz each, and a contact sheet. No photograph is used."""

    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder to write; one that holds part of the same dataset is completed."""
    count: int = 64
    """How many."""
    size: int = 192
    """Side of the pictures, pixels; a multiple of 8."""
    seed: int = 0
    """Of everything."""
    yaw: float = 90.0
    """Largest yaw to either side, degrees; uniform."""
    pitch: float = 45.0
    """Largest pitch, degrees."""
    roll: float = 45.0
    """Largest roll, degrees."""
    plain: bool = False
    """Nothing in front of the face: no hair, glasses, masks, hands or other things."""


def run_synth(options: Synth) -> int:
    """Write the dataset; returns the exit code.

    Raises:
        FitjaxError: settings that cannot be drawn, or a folder that holds something else.
    """
    # Imported here: `fitjax --help` needs no JAX.
    from fitjax.synth import SynthSettings, load_synth
    from fitjax.synth.settings import check_settings
    from fitjax.synth.write import write_dataset

    if options.out.exists() and not options.out.is_dir():
        raise FitjaxError(f"--out {options.out}: expected a folder, found a file; choose another place")
    nothing = dict.fromkeys(("hair", "glasses", "mask", "hand", "thing"), 0.0) if options.plain else {}
    settings = SynthSettings(size=options.size, yaw=options.yaw, pitch=options.pitch, roll=options.roll, **nothing)  # type: ignore[arg-type]
    check_settings(settings)
    began = time.perf_counter()

    def progress(done: int) -> None:
        if done % 64 == 0 or done == options.count:
            print(f"{done}/{options.count} ({time.perf_counter() - began:.0f} s)", flush=True)

    print(write_dataset(load_synth(), settings, options.out, options.count, seed=options.seed, progress=progress))
    return 0
