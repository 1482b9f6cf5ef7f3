"""The kinds of models that can be imported: who reads them, where they come from, under what terms."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fitjax.errors import BasisError
from fitjax.importers.linear_file import Imported


@dataclass(frozen=True)
class Kind:
    """A kind of model.

    Attributes:
        title: for lists. reader: ``module:function``, called with a path. files: what the user points to. source, licence: where to get it and its
            terms, in short. counts: whether the reader itself takes ``n_identity`` and ``n_expression``. landmarks: whether it takes a file of them.
    """

    title: str
    reader: str
    files: str
    source: str
    licence: str
    counts: bool = False
    landmarks: bool = False

    def read(self) -> Callable[..., Imported]:
        module, function = self.reader.split(":")
        return getattr(importlib.import_module(module), function)


_BASEL = ("https://faces.dmi.unibas.ch/bfm", "non-commercial, on request")

#: By the name that ``fitjax basis import`` takes.
KINDS: dict[str, Kind] = {
    "ict": Kind(
        "ICT-FaceKit light", "fitjax.model.ict:read_ict", "folder FaceXModel of OBJ files", "https://github.com/ICT-VGL/ICT-FaceKit", "MIT"
    ),
    "surrey": Kind(
        "Surrey Face Model, and other archives of eos", "fitjax.importers.surrey:read_surrey",
        "folder with sfm_shape_3448.bin, expression_blendshapes_3448.bin, ibug_to_sfm.txt", "https://github.com/patrikhuber/eos", "non-commercial",
    ),
    "bfm2009": Kind("Basel Face Model 2009", "fitjax.importers.bfm:read_bfm2009", "01_MorphableModel.mat", *_BASEL),
    "bfm2017": Kind("Basel Face Model 2017 or 2019", "fitjax.importers.bfm:read_bfm2017", "model2017-1_bfm_nomouth.h5 and the like", *_BASEL),
    "3ddfa": Kind(
        "Basel Face Model as 3DDFA has it", "fitjax.importers.tddfa:read_tddfa", "folder with u_shp.npy, w_shp_sim.npy ..., or bfm_noneck_v3.pkl",
        "https://github.com/cleardusk/3DDFA_V2", "non-commercial",
    ),
    "flame": Kind(
        "FLAME 2017 to 2023", "fitjax.importers.flame:read_flame", "generic_model.pkl, flame2023.pkl or .npz", "https://flame.is.tue.mpg.de",
        "its own, on registration; 2023 Open: CC BY 4.0", counts=True, landmarks=True,
    ),
    "gnm": Kind(
        "GNM Head v3", "fitjax.importers.gnm:read_gnm", "gnm_head.npz", "https://huggingface.co/google/gnm-v3", "Apache-2.0", counts=True
    ),
    "npz": Kind("plain arrays", "fitjax.importers.plain:read_plain", "a .npz with the fields of docs/models/npz.md", "yourself", "your own"),
}  # fmt: skip


def kind_of(name: str) -> Kind:
    """A kind by name.

    Raises:
        BasisError: there is none of that name.
    """
    if name not in KINDS:
        raise BasisError(f"kind {name!r}: expected one of {', '.join(KINDS)}; `fitjax basis list` says what they are")
    return KINDS[name]


def read_model(
    kind: str,
    path: Path,
    *,
    n_identity: int | None = None,
    n_expression: int | None = None,
    landmarks: Path | None = None,
) -> Imported:
    """A model of a kind, without annotations.

    Args:
        n_identity, n_expression: keep the first so many modes; default all. landmarks: a file of the 68 points, in the form that the kind's own
            tools use (FLAME: ``landmark_embedding.npy``), for kinds that have one.

    Raises:
        BasisError: no such kind, another file, a damaged one, or counts that it does not have.
    """
    chosen = kind_of(kind)
    for option, count in (("identity", n_identity), ("expression", n_expression)):
        if count is not None and count < (1 if option == "identity" else 0):
            raise BasisError(f"{option}: expected a number of modes, found {count}")
    if not path.exists():
        raise BasisError(f"{path}: no such file or folder; expected {chosen.files} ({chosen.source})")
    if not chosen.counts:
        return _cut(chosen.read()(path), path, n_identity, n_expression)
    options = {
        "n_identity": n_identity,
        "n_expression": n_expression,
        "landmarks": landmarks if chosen.landmarks else None,
    }
    return chosen.read()(path, **{name: value for name, value in options.items() if value is not None})


def _cut(found: Imported, path: Path, n_identity: int | None, n_expression: int | None) -> Imported:
    """The first modes of a linear model."""
    import json

    tensors, metadata, marks = found
    per_mode = {
        "identity": ("identity",),
        "expression": ("expression", "expression_sigma", "expression_lower", "expression_upper"),
    }
    for name, count in (("identity", n_identity), ("expression", n_expression)):
        if count is None:
            continue
        if count > len(tensors[name]):
            raise BasisError(f"{path}: has {len(tensors[name])} modes of {name}, not {count}")
        tensors = tensors | {key: tensors[key][:count] for key in per_mode[name]}
    names = json.loads(metadata["expression_names"])[: len(tensors["expression"])]
    return Imported(tensors, metadata | {"expression_names": json.dumps(names)}, marks)
