"""``fitjax export``: a result in the terms of another tool."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fitjax.errors import BasisError, FitjaxError
from fitjax.files.atomic import atomic_write_bytes
from fitjax.interop.arkit import NAMES, arkit_weights, write_arkit_csv, write_arkit_json
from fitjax.interop.posed import Exported, read_posed
from fitjax.model.basis_file import Basis, read_basis
from fitjax.model.load import find_models

if TYPE_CHECKING:
    from fitjax.cli.convert_options import Export


def run_export(options: Export) -> int:
    """Write the file, and say on stderr what it could not hold.

    Raises:
        FitjaxError: a folder that is no result, another model than the format's, or nowhere to write.
    """
    endings = {"arkit": (".json", ".csv"), "deca": (".npz",), "3ddfa": (".npz",)}[options.to]
    if options.out.suffix.lower() not in endings:
        raise FitjaxError(f"--out {options.out}: expected a file name that ends in {' or '.join(endings)}")
    if not options.results:
        raise FitjaxError("export: expected the folder of a result, found none")
    if len(options.results) > 1 and options.out.suffix.lower() != ".csv":
        raise FitjaxError(f"--out {options.out}: holds one face; give one result, or .csv for several")
    if options.to == "arkit":
        _arkit(options)
    else:
        _parameters(options)
    print(options.out)
    return 0


def _arkit(options: Export) -> None:
    faces = {}
    for folder in options.results:
        face, metadata = read_posed(folder)
        basis = _basis(options.model, metadata, folder)
        name = folder.resolve().name
        if name in faces:
            raise FitjaxError(f"{folder}: another result is named {name!r} too; export them one by one")
        faces[name] = arkit_weights(basis.expression_names, face.codes["expression"])
    absent = [name for name in NAMES if all(name not in weights for weights in faces.values())]
    if absent:
        print(f"fitjax: the model has no {', '.join(absent)}; left out", file=sys.stderr)
    if options.out.suffix.lower() == ".csv":
        write_arkit_csv(options.out, faces)
    else:
        write_arkit_json(options.out, next(iter(faces.values())))


def _parameters(options: Export) -> None:
    # Imported here: each brings its own formula.
    from fitjax.interop.deca import to_deca
    from fitjax.interop.tddfa import to_3ddfa

    folder = options.results[0]
    face, metadata = read_posed(folder)
    basis = _basis(options.model, metadata, folder)
    found = to_deca(basis, face, options.box) if options.to == "deca" else to_3ddfa(basis, face, options.box)
    atomic_write_bytes(options.out, _npz(found))
    for note in found.notes:
        print(f"fitjax: {note}", file=sys.stderr)
    print(f"projected vertices are off by {found.mean_discrepancy:.2g} pixels on average, {found.discrepancy:.2g} at most")


def _npz(found: Exported) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **found.values)
    return stream.getvalue()


def _basis(model: str | None, metadata: dict[str, object], folder: Path) -> Basis:
    """The basis that a result was fitted with: by name or path if one is given, else the one among the models that are found.

    Raises:
        BasisError: it is not there, or the model given is another.
    """
    wanted = metadata.get("basis_sha256")
    models = find_models()
    if model is not None:
        basis = read_basis(models.get(model, Path(model)))
        if wanted and basis.sha256 != wanted:
            raise BasisError(f"--model {model}: another model than that of {folder} ({metadata.get('model')!r}): the hashes of their files differ")
        return basis
    named = str(metadata.get("model"))
    for _, path in sorted(models.items(), key=lambda item: item[0] != named):
        basis = read_basis(path)
        if basis.sha256 == wanted:
            return basis
    raise BasisError(f"{folder}: its model {named!r} is not among those that `fitjax info` lists; give its file with --model")
