"""The options of ``fitjax export``; light, so that ``--help`` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass
class Export:
    """Convert the result of a fit to what another tool reads."""

    results: Annotated[list[Path], tyro.conf.Positional, tyro.conf.arg(metavar="RESULT...")]
    """Folders that `fitjax fit` has written; several only for a .csv of ARKit weights."""
    to: Literal["arkit", "deca", "3ddfa"]
    """ARKit's expression weights (.json, .csv), DECA's dictionary of FLAME parameters (.npz), or 3DDFA's 62 numbers (.npz)."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The file to write."""
    model: str | None = None
    """Name or file of the model of the fit; default the one of the models that `fitjax info` lists."""
    box: tuple[float, float, float, float] | None = None
    """Crop of the other tool in the photo: left, top, right, bottom in pixels; default a square about the head."""
