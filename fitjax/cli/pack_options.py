"""The options of ``fitjax unpack``; light, so that ``--help`` answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro


@dataclass
class Unpack:
    """Write folders of results from a pack of `fitjax fit --pack`: all that `fitjax fit` writes where the photo is still there, else no pictures."""

    packed: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The folder that `fitjax fit --pack` wrote."""
    names: Annotated[list[str], tyro.conf.Positional, tyro.conf.arg(metavar="NAME...")] = field(default_factory=list)
    """Faces, by their names in OUT/manifest.jsonl; default all."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder for the results; default OUT itself."""
    model: str | None = None
    """Name or file of the model of the fit; default the one of the models that `fitjax info` lists."""
    photos: Path | None = None
    """Folder of the photos, where they are no longer where they were fitted."""
