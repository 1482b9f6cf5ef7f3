"""``fitjax annotate``: landmarks and parts for another face model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fitjax.errors import BasisError, FitjaxError
from fitjax.files.atomic import WriteError, atomic_write_bytes
from fitjax.model.annotated_file import annotated_basis

if TYPE_CHECKING:
    from fitjax.cli.main import Annotate

ENDING = ".safetensors"


def run_annotate(options: Annotate) -> int:
    """Write the annotated basis and say how well it went. Warnings do not change the exit code, 0.

    Raises:
        FitjaxError: an unusable source or list of landmarks, or nowhere to write.
    """
    _check_out(options.out, options.source)
    landmarks = None if options.landmarks68 is None else _read_landmarks(options.landmarks68)
    data, report = annotated_basis(options.source, options.name, landmarks)
    atomic_write_bytes(options.out, data)
    print(options.out)
    print(
        f"our face lies on the model's within {report.residual:.2f} mm on average, 90 % of it within {report.residual_90:.2f} mm, "
        f"after moving by {report.moved:.1f} mm"
    )
    sys.stdout.flush()
    for warning in (*report.warnings, *report.off_head_space):
        print(f"fitjax: warning: {options.source}: {warning}; look at the result before using it", file=sys.stderr)
    return 0


def _check_out(out: Path, source: Path) -> None:
    """Before the work, not after it."""
    if out.suffix != ENDING:
        raise FitjaxError(f"--out {out}: expected a file name that ends in {ENDING}")
    if out.is_dir():
        raise WriteError(out, "it is a folder")
    if out.exists() and source.exists() and out.samefile(source):
        raise FitjaxError(f"--out {out}: is the source itself; choose another name")


def _read_landmarks(path: Path) -> np.ndarray:
    """68 vertex indices from JSON: a list, or an object that holds it as ``landmarks68``."""
    expected = "expected a list of 68 vertex indices, counted from 0"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BasisError(f"--landmarks68 {path}: cannot be read ({error.strerror}); {expected}") from None
    except ValueError:
        raise BasisError(f"--landmarks68 {path}: not readable as JSON; {expected}") from None
    if isinstance(found, dict):
        found = found.get("landmarks68")
    if not isinstance(found, list) or len(found) != 68:
        number = f"{len(found)} entries" if isinstance(found, list) else type(found).__name__
        raise BasisError(f"--landmarks68 {path}: {expected}, found {number}")
    if not all(type(k) is int and 0 <= k < 2**31 for k in found):
        wrong = next(k for k in found if not (type(k) is int and 0 <= k < 2**31))
        raise BasisError(f"--landmarks68 {path}: {expected}, found {str(wrong)[:40]!r}")
    return np.array(found, np.int64)
