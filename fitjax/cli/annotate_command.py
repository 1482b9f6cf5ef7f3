"""``fitjax annotate``: landmarks and parts for another face model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fitjax.errors import FitjaxError
from fitjax.files.atomic import WriteError, atomic_write_bytes
from fitjax.importers.landmark_tables import parse_table
from fitjax.model.annotated_file import annotated_basis
from fitjax.model.transfer import Report

if TYPE_CHECKING:
    from fitjax.cli.annotate_options import Annotate

ENDING = ".safetensors"


def run_annotate(options: Annotate) -> int:
    """Write the annotated basis and say how well it went. Warnings do not change the exit code, 0.

    Raises:
        FitjaxError: an unusable source or list of landmarks, or nowhere to write.
    """
    _check_out(options.out, options.source)
    landmarks = None if options.landmarks68 is None else read_landmarks(options.landmarks68)
    data, report = annotated_basis(options.source, options.name, landmarks)
    atomic_write_bytes(options.out, data)
    print(options.out)
    say_report(report, str(options.source))
    return 0


def say_report(report: Report, source: str) -> None:
    """How well the two heads met, and what to look at."""
    print(
        f"our face lies on the model's within {report.residual:.2f} mm on average, 90 % of it within {report.residual_90:.2f} mm, "
        f"after moving by {report.moved:.1f} mm"
    )
    sys.stdout.flush()
    for warning in (*report.warnings, *report.off_head_space):
        print(f"fitjax: warning: {source}: {warning}; look at the result before using it", file=sys.stderr)


def _check_out(out: Path, source: Path) -> None:
    """Before the work, not after it."""
    if out.suffix != ENDING:
        raise FitjaxError(f"--out {out}: expected a file name that ends in {ENDING}")
    if out.is_dir():
        raise WriteError(out, "it is a folder")
    if out.exists() and source.exists() and out.samefile(source):
        raise FitjaxError(f"--out {out}: is the source itself; choose another name")


def read_landmarks(path: Path) -> np.ndarray:
    """The 68 vertices that the user names, -1 for points that are left open.

    Raises:
        FitjaxError: not such a list.
    """
    try:
        return parse_table(path)
    except FitjaxError as error:
        raise FitjaxError(f"--landmarks68 {error}") from None
