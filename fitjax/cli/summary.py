"""What ``fitjax fit`` prints: one table, the result folders, and a line for each face that was not fitted."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fitjax.fit import Solution


@dataclass(frozen=True)
class Row:
    """A line of the summary: plain values, so that thousands of photos are not kept in memory."""

    name: str
    error: str | None = None
    folder: Path | None = None
    status: str = "failed"
    reliable: bool = False
    residual_percent: float = 0.0
    yaw_degrees: float = 0.0
    solve_milliseconds: float = 0.0
    warnings: tuple[str, ...] = ()


def fitted_row(name: str, folder: Path, solution: Solution, solve_seconds: float) -> Row:
    """The row of a face whose folder is written."""
    return Row(
        name=name,
        folder=folder,
        status=solution.status.name.lower().replace("_", " "),
        reliable=solution.reliable,
        residual_percent=100 * solution.landmark_residual,
        yaw_degrees=solution.yaw_degrees,
        solve_milliseconds=1e3 * solve_seconds,
        warnings=solution.warnings,
    )


def print_summary(rows: Sequence[Row]) -> None:
    """The table and the folders to stdout; warnings and failures, one line each, to stderr."""
    table = Table("face", "status", "reliable", "residual %", "yaw deg", "solve ms")
    # Names are folded rather than cut: the user has to find the folder.
    table.columns[0].overflow = "fold"
    for row in rows:
        if row.error is not None:
            table.add_row(row.name, "[red]not fitted[/red]", "", "", "", "")
        else:
            reliable = "yes" if row.reliable else "[yellow]no[/yellow]"
            figures = (f"{row.residual_percent:.2f}", f"{row.yaw_degrees:.0f}", f"{row.solve_milliseconds:.1f}")
            table.add_row(row.name, row.status, reliable, *figures)
    for column in table.columns[3:]:
        column.justify = "right"
    Console().print(table)
    fitted = [row for row in rows if row.error is None]
    if len(rows) > 1:
        print(f"{len(fitted)} of {len(rows)} fitted")
    for row in fitted:
        # Not through rich, which would break a long path into lines.
        print(f"{row.folder}")
    sys.stdout.flush()
    for row in fitted:
        for warning in row.warnings:
            text = warning if row.name in warning else f"{row.name}: {warning}"
            print("fitjax: warning:", " ".join(text.split()), file=sys.stderr)
    for row in rows:
        if row.error is not None:
            print("fitjax:", " ".join(row.error.split()), file=sys.stderr)
