"""``fitjax info``."""

from __future__ import annotations

import jax
from rich.console import Console
from rich.table import Table

from fitjax.detect import default_detector
from fitjax.errors import FitjaxError
from fitjax.files.result import package_versions
from fitjax.model.basis_file import read_basis
from fitjax.model.load import NONLINEAR, find_models, is_nonlinear, user_models_folder
from fitjax.model.nonlinear_file import describe_nonlinear, shipped_nonlinear


def run_info() -> int:
    """Print devices, versions, models and the detector; always succeeds."""
    console = Console()
    print("versions:", ", ".join(f"{k} {v}" for k, v in package_versions().items()))
    print("devices: ", ", ".join(f"{d.platform}:{d.id} ({d.device_kind})" for d in jax.devices()))
    try:
        with default_detector() as detector:
            print("detector:", detector.name)
    except FitjaxError as error:
        print("detector: none.", error)
    table = Table("model", "vertices", "identity", "expression", "licence", "sha256")
    places = []
    for name, path in (find_models() | {NONLINEAR: shipped_nonlinear()}).items():
        try:
            if is_nonlinear(path):
                facts = describe_nonlinear(path)
                table.add_row(name, "its basis's", str(facts.identity), "its basis's", facts.licence, facts.sha256[:12])
                places.append(f"{name}: {path} ({facts.kind} over {facts.basis}; {facts.identity} codes of identity, {facts.albedo} of albedo)")
                continue
            basis = read_basis(path)
        except FitjaxError as error:
            places.append(f"{name}: not usable: {error}")
            continue
        counts = (str(len(basis.mean)), str(len(basis.identity)), str(len(basis.expression)))
        table.add_row(name, *counts, basis.licence, basis.sha256[:12])
        places.append(f"{name}: {path}")
    console.print(table)
    # Not through rich, which would break a long path into lines.
    print("\n".join(places))
    print(f"your own models (name.safetensors) are looked for in {user_models_folder()}")
    return 0
