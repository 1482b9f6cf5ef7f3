"""``fitjax basis``: face models other than the embedded one. Imports nothing heavy until it runs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fitjax.cli.annotate_options import Annotate

KindName = Literal["ict", "surrey", "bfm2009", "bfm2017", "3ddfa", "flame", "gnm", "npz"]


@dataclass
class Import:
    """Turn a model in its own form into a basis file that is found by name."""

    kind: Annotated[KindName, tyro.conf.Positional]
    """Which model; `fitjax basis list` says what each kind is."""
    path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """Its file or folder."""
    name: str | None = None
    """That `fit --model` takes; default the kind's own."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Another file to write, .safetensors; default NAME.safetensors in your models' folder."""
    landmarks68: Path | None = None
    """The 68 vertices of ibug's points: a JSON list (null for unknown), or eos's table. FLAME: landmark_embedding.npy. Default: the model's own."""
    identity: int | None = None
    """Keep the first so many identity modes; default all."""
    expression: int | None = None
    """Keep the first so many expressions; default all."""
    replace: bool = False
    """Replace a model of that name."""


@dataclass
class List:
    """Show your models, and what can be imported."""


@dataclass
class Show:
    """Show what a model holds and where it comes from."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME_OR_FILE")]
    """Name of a model, or a basis file."""


@dataclass
class Download:
    """Fetch a model that anyone may have, and import it."""

    kind: Annotated[Literal["ict", "gnm"], tyro.conf.Positional]
    """ICT-FaceKit (MIT, 390 MB) or GNM Head (Apache-2.0)."""
    name: str | None = None
    """That `fit --model` takes; default the kind's own."""
    replace: bool = False
    """Replace a model of that name."""


Action = (
    Annotated[Import, tyro.conf.subcommand("import")]
    | Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Show, tyro.conf.subcommand("info")]
    | Annotated[Download, tyro.conf.subcommand("download")]
    | Annotated[Annotate, tyro.conf.subcommand("annotate")]
)


@dataclass
class Basis:
    """Face models other than the embedded one: import, list, info, download, annotate."""

    action: tyro.conf.OmitSubcommandPrefixes[tyro.conf.OmitArgPrefixes[Action]]


def run_basis(command: Basis) -> int:
    """Do it; 0, also with warnings.

    Raises:
        FitjaxError: files that are not what they should be, nowhere to write, no connection.
    """
    action = command.action
    if isinstance(action, Annotate):
        from fitjax.cli.annotate_command import run_annotate

        return run_annotate(action)
    if isinstance(action, Import):
        return _import(action)
    if isinstance(action, Download):
        from fitjax.importers.download import download

        path = download(action.kind, progress=lambda text: print(text, file=sys.stderr))
        print(path)
        return _import(Import(action.kind, path, name=action.name, replace=action.replace))
    return _show(action.name) if isinstance(action, Show) else _list()


def _import(options: Import) -> int:
    from fitjax.cli.annotate_command import say_report
    from fitjax.importers.install import install_model

    found = install_model(
        options.kind,
        options.path,
        name=options.name,
        out=options.out,
        landmarks=options.landmarks68,
        n_identity=options.identity,
        n_expression=options.expression,
        replace=options.replace,
    )
    print(found.path)
    basis = found.basis
    joints = "" if basis.rig is None else f", {len(basis.rig.names)} joints"
    print(
        f"{found.name}: {len(basis.mean)} vertices, {len(basis.identity)} identity, {len(basis.expression)} expression{joints}; {basis.licence}"
    )
    if note := _note(options.kind, basis.provenance):
        print(f"fitjax: {note}", file=sys.stderr)
    say_report(found.report, str(options.path))
    chosen = found.name if options.out is None else str(options.out)
    print(f"use it: fitjax fit PHOTO --model {chosen} --level {0 if len(basis.mean) > 10000 else 1}")
    return 0


def _note(kind: str, provenance: dict) -> str | None:
    """What the user should know of an old version."""
    if kind != "flame":
        return None
    import json

    from fitjax.importers.flame import version_note

    return version_note({"provenance": json.dumps(provenance)})


def _list() -> int:
    from rich.console import Console
    from rich.table import Table

    from fitjax.importers.registry import KINDS
    from fitjax.model.load import find_models, user_models_folder

    console = Console()
    kinds = Table("import KIND", "model", "from", "terms")
    for name, kind in KINDS.items():
        kinds.add_row(name, kind.title, kind.files, kind.licence)
    console.print(kinds)
    # Not through rich, which would break a long line.
    for name, kind in KINDS.items():
        print(f"{name}: {kind.source}")
    print("models that are there (`fitjax basis info NAME` says more):")
    for name, path in find_models().items():
        print(f"  {name}: {path}")
    print(f"your own lie in {user_models_folder()}")
    return 0


def _show(name: str) -> int:
    import json

    from fitjax.model.basis_file import read_basis
    from fitjax.model.load import model_path

    path = model_path(name)
    basis = read_basis(path)
    joints = [] if basis.rig is None else [("joints", ", ".join(basis.rig.names))]
    rows = [
        ("file", str(path)),
        ("sha256", basis.sha256),
        ("licence", basis.licence),
        ("vertices, triangles", f"{len(basis.mean)}, {len(basis.triangles)}"),
        ("identity", str(len(basis.identity))),
        ("expression", f"{len(basis.expression)}: {', '.join(basis.expression_names)}"),
        *joints,
        ("sample sets", ", ".join(f"{k} ({len(v[0])})" for k, v in basis.samples.items()) or "none"),
        ("map of parts", "x".join(map(str, basis.uv_parts.shape)) if basis.uv_parts.size > 1 else "none"),
        ("pose frames", ", ".join(basis.pose_frames) or "none"),
        ("provenance", json.dumps(basis.provenance)),
    ]
    print(basis.name)
    for key, value in rows:
        print(f"  {key}: {value}")
    return 0
