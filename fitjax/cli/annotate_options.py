"""Options of ``fitjax basis annotate``, and of ``fitjax annotate``, its older name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass
class Annotate:
    """Carry landmarks and facial parts over to another face model; writes a basis file that `fit --model` takes."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """ICT-FaceKit's folder FaceXModel, or a basis file without annotations."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The file to write, .safetensors."""
    name: str | None = None
    """Name of the model; default its own."""
    landmarks68: Path | None = None
    """JSON list of the 68 vertices of ibug's points; default those that the model documents. A model with neither has to be in metres and look along
    +z."""
