"""What ``fitjax fit`` needs before the first face: checked options, the model, the start, somewhere to write."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from fitjax.cli.main import Fit
from fitjax.cli.packed_landmarks import ENDING
from fitjax.errors import FitjaxError, ParamsError
from fitjax.files.atomic import WriteError
from fitjax.files.params import load_params
from fitjax.fit import default_losses, default_stages
from fitjax.fit.photometric import Depth, photometric_losses, photometric_stages
from fitjax.losses.core import Loss
from fitjax.losses.parts import with_part_samples
from fitjax.model.load import load_basis
from fitjax.model.params import check_params
from fitjax.model.textured import has_albedo, load_textured
from fitjax.observation.observation import Observation
from fitjax.solve.stages import Stage


@dataclass(frozen=True)
class Recipe:
    """How far to go, and how fast."""

    until: Depth
    fast: bool

    @property
    def pixels(self) -> bool:
        return self.until != "landmarks"

    def losses(self, observation: Observation, model: Any) -> dict[str, Loss]:
        return photometric_losses(observation, model) if self.pixels else default_losses(observation)

    def stages(self, observation: Observation) -> list[Stage]:
        return photometric_stages(observation, self.until, self.fast) if self.pixels else default_stages(observation)


def has_packed_landmarks(options: Fit) -> bool:
    """Whether the inputs are landmarks without photos."""
    return any(path.suffix.lower() == ENDING for path in options.inputs)


def check_options(options: Fit) -> None:
    """
    Raises:
        FitjaxError: an option out of range, or two that do not go together.
    """
    if options.batch_size is not None and options.batch_size < 1:
        raise FitjaxError(f"--batch-size: expected at least 1, found {options.batch_size}")
    if options.workers is not None and options.workers < 0:
        raise FitjaxError(f"--workers: expected 0 or more, found {options.workers}")
    if options.focal is not None and not 0 < options.focal < float("inf"):
        raise FitjaxError(f"--focal: expected positive pixels, found {options.focal}")
    if options.landmarks is not None and options.all_faces:
        raise FitjaxError("--landmarks and --all-faces: a landmark file describes one face; give one of the two")
    if options.same_person and (options.all_faces or options.pack):
        raise FitjaxError("--same-person: goes neither with --all-faces nor with --pack; give it alone")
    if (options.shared_focal or options.smooth is not None) and not options.same_person:
        raise FitjaxError("--shared-focal and --smooth: are for several photos of one person; give --same-person too")
    if options.smooth is not None and not 0 <= options.smooth < float("inf"):
        raise FitjaxError(f"--smooth: expected 0 or more, found {options.smooth}")
    if options.same_person and (options.processes or 1) > 1:
        raise FitjaxError("--same-person: is one solve, and --processes shares inputs out; give one of the two")
    if options.box is not None and (options.landmarks is not None or options.all_faces or options.same_person):
        raise FitjaxError("--box: goes neither with --landmarks, --all-faces nor --same-person; give one of them")
    if options.parse is not None and (options.labels is not None or options.same_person):
        raise FitjaxError("--parse: goes neither with --labels nor with --same-person; give one of them")
    if options.init != "closed_form" and (options.start is not None or options.same_person):
        raise FitjaxError(f"--init {options.init}: goes neither with --start nor with --same-person; give one of them")
    if not has_packed_landmarks(options):
        return
    inputs = ", ".join(map(str, options.inputs))
    if not all(path.suffix.lower() == ENDING for path in options.inputs):
        raise FitjaxError(f"inputs: expected photos or landmarks of many faces ({ENDING}), found both: {inputs}; fit them one after the other")
    if not options.pack:
        raise FitjaxError(f"{inputs}: landmarks without photos go into a pack; give --pack, and get meshes from it with `fitjax unpack`")
    if options.stages not in (None, "landmarks"):
        raise FitjaxError(f"--stages {options.stages}: reads pixels, and {inputs} holds landmarks only; give --stages landmarks")
    if options.init == "image_net":
        raise FitjaxError(f"--init image_net: reads pixels, and {inputs} holds landmarks only; give landmark_net, closed_form or auto")
    for name in ("landmarks", "labels", "mask", "box", "parse"):
        if getattr(options, name) is not None:
            raise FitjaxError(f"--{name}: belongs to photos, and {inputs} holds landmarks; leave it out")
    if options.image_size is not None and min(options.image_size) < 1:
        raise FitjaxError(f"--image-size: expected positive width and height, found {options.image_size}")


def load_model(options: Fit) -> tuple[Any, Depth]:
    """The model, with albedo where pixels are to be fitted, and the last stage.

    Raises:
        BasisError: no such model, or pixels are asked of one that has no albedo.
    """
    textured = not has_packed_landmarks(options) and has_albedo(options.model)
    until: Depth = options.stages or ("detail" if textured else "landmarks")
    load = load_basis if until == "landmarks" else load_textured
    model: Any = load(options.model, int(options.level))
    return (model if options.labels is None and options.parse is None else with_part_samples(model)), until


@contextmanager
def output_folder(out: Path, alone: bool = True) -> Iterator[None]:
    """Make OUT before anything is fitted, and leave none behind that stayed empty, unless other processes (not ``alone``) may be about to write.

    Raises:
        WriteError: it cannot be made, or nothing can be written there.
    """
    missing = [p for p in (out, *out.parents) if not p.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise WriteError(out, "a file of that name exists") from None
    except OSError as error:
        raise WriteError(out, error.strerror or type(error).__name__) from None
    if not os.access(out, os.W_OK | os.X_OK):
        raise WriteError(out, "no permission")
    try:
        yield
    finally:
        for folder in missing if alone else ():
            try:
                folder.rmdir()
            except OSError:  # it holds results
                break


def load_start(path: Path, model: Any) -> dict[str, Any]:
    """Saved parameters that match the model.

    Raises:
        ParamsError: they belong to another model, or are damaged.
    """
    params, facts = load_params(path)
    try:
        check_params(params, model.init())
    except ParamsError as error:
        raise ParamsError(f"--start {path}: {error} (saved with model {facts.get('model', 'unknown')!r})") from None
    return params


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f} faces/s")


def progress_bar(count: int) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn())
    # A bar for one photo is noise; and in a log file it is litter.
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=count < 2 or not console.is_terminal)
