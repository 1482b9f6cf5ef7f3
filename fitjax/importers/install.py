"""Importing a model: read, annotate, check, and put it where models are found by name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fitjax.errors import BasisError
from fitjax.files.atomic import atomic_write_bytes
from fitjax.importers.landmark_tables import parse_table
from fitjax.importers.registry import kind_of, read_model
from fitjax.model.annotated_file import annotated
from fitjax.model.basis_file import Basis, read_basis
from fitjax.model.load import EMBEDDED, user_models_folder
from fitjax.model.transfer import Report

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")


@dataclass(frozen=True)
class Installed:
    """An imported model: where it is, under what name, what it holds, and how well our head and it met."""

    path: Path
    name: str
    basis: Basis
    report: Report


def check_name(name: str) -> str:
    """A name that a model in the user's folder can have.

    Raises:
        BasisError: it cannot be a file's name, or is taken.
    """
    if not _NAME.fullmatch(name) or name.endswith(".safetensors"):
        raise BasisError(f"name {name[:80]!r}: expected letters, digits, '.', '-' and '_', at most 64")
    if name == EMBEDDED:
        raise BasisError(f"name {name!r}: belongs to the model in the package; choose another")
    return name


def install_model(
    kind: str,
    path: Path,
    *,
    name: str | None = None,
    out: Path | None = None,
    landmarks: Path | None = None,
    n_identity: int | None = None,
    n_expression: int | None = None,
    replace: bool = False,
) -> Installed:
    """Import a model of a kind from its own files.

    Args:
        name: that it is found by; default the kind's. out: the file to write, default ``NAME.safetensors`` in the user's folder.
        landmarks: the 68 vertices as a JSON list or eos's table; for FLAME its ``landmark_embedding.npy``.
        n_identity, n_expression: keep the first so many modes. replace: an earlier model of that name.

    Raises:
        BasisError: files that are not what they should be, a name that is taken, or a model that our face cannot be laid upon.
        WriteError: the file cannot be written.
    """
    chosen = kind_of(kind)
    if name is not None:
        _check_target(check_name(name), out, replace)
    own_landmarks = landmarks if chosen.landmarks and landmarks is not None and landmarks.suffix == ".npy" else None
    tensors, metadata, marks = read_model(
        kind, path, n_identity=n_identity, n_expression=n_expression, landmarks=own_landmarks
    )
    found_name = check_name(name or metadata["name"])
    target = _check_target(found_name, out, replace)
    if landmarks is not None and own_landmarks is None:
        table = parse_table(landmarks, len(tensors["mean"]))
        marks = np.where(table[:, None] >= 0, tensors["mean"].astype(float)[table], np.nan)
    data, report = annotated(tensors, metadata, marks, str(path), found_name)
    atomic_write_bytes(target, data)
    # What was written is read as every fit reads it.
    return Installed(target, found_name, read_basis(target), report)


def _check_target(name: str, out: Path | None, replace: bool) -> Path:
    """Before the work, not after it."""
    target = user_models_folder() / f"{name}.safetensors" if out is None else out
    if target.suffix != ".safetensors":
        raise BasisError(f"{target}: expected a file name that ends in .safetensors")
    if target.exists() and not replace:
        raise BasisError(f"{target}: exists already; give --replace, or another --name")
    return target
