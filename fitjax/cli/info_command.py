"""``fitjax info``."""

from __future__ import annotations

import jax
from rich.console import Console
from rich.table import Table

from fitjax.detect import default_detector
from fitjax.errors import FitjaxError
from fitjax.files.result import package_versions
from fitjax.model.basis_file import read_basis
from fitjax.model.load import find_models, user_models_folder


def run_info() -> int:
    """Print devices, versions, models and the detector; always succeeds."""
    console = Console()
    console.print("versions:", ", ".join(f"{k} {v}" for k, v in package_versions().items()), highlight=False)
    console.print(
        "devices: ", ", ".join(f"{d.platform}:{d.id} ({d.device_kind})" for d in jax.devices()), highlight=False
    )
    try:
        with default_detector() as detector:
            console.print("detector:", detector.name, highlight=False)
    except FitjaxError as error:
        console.print("detector: none.", str(error), highlight=False)
    table = Table("model", "vertices", "identity", "expression", "licence", "sha256", "file")
    for name, path in find_models().items():
        try:
            basis = read_basis(path)
        except FitjaxError as error:
            table.add_row(name, "", "", "", "", "", f"damaged: {error}")
            continue
        counts = (str(len(basis.mean)), str(len(basis.identity)), str(len(basis.expression)))
        table.add_row(name, *counts, basis.licence, basis.sha256[:12], str(path))
    console.print(table)
    console.print("your own models are looked for in", str(user_models_folder()), highlight=False)
    return 0
