"""What ``fitjax fit`` says of each face: a row of its manifest, and at the end one table, the result folders, and a line for each failure."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from fitjax.cli.jobs import Job
from fitjax.fit import Solution

#: More faces than this are counted rather than listed.
MOST_LISTED = 50


@dataclass(frozen=True)
class Row:
    """A line of the summary: plain values, so that thousands of photos are not kept in memory."""

    name: str
    owner: str = ""
    error: str | None = None
    folder: Path | None = None
    status: str = "failed"
    reliable: bool = False
    residual_percent: float = 0.0
    yaw_degrees: float = 0.0
    solve_milliseconds: float = 0.0
    warnings: tuple[str, ...] = ()
    before: bool = False


def failed_row(job: Job, error: str) -> Row:
    return Row(job.name, job.owner, error)


def fitted_row(job: Job, folder: Path | None, solution: Solution, solve_seconds: float) -> Row:
    """The row of a face whose folder is written; None: it goes into a pack."""
    return Row(
        name=job.name,
        owner=job.owner,
        folder=folder,
        status=solution.status.name.lower().replace("_", " "),
        reliable=solution.reliable,
        residual_percent=100 * solution.landmark_residual,
        yaw_degrees=solution.yaw_degrees,
        solve_milliseconds=1e3 * solve_seconds,
        warnings=solution.warnings,
    )


def manifest_row(job: Job, row: Row, result: Any, config: str, detector: str | None, packed: bool) -> dict[str, Any]:
    """What the manifest says of a face."""
    shown: dict[str, Any] = {
        "name": row.name,
        "photo": row.owner,
        "source": str(job.source),
        "content": job.content,
        "photo_sha256": job.photo_sha256,
        "config": config,
        "face": job.face,
        "faces": job.faces,
        "status": "failed" if row.error is not None else row.status,
    }
    if row.error is not None:
        return shown | {"reason": row.error, "timings": _rounded(job.timings)}
    solution: Solution = result[0]
    shown |= {
        "reason": solution.reason,
        "reliable": row.reliable,
        "residual_percent": _short(row.residual_percent),
        "yaw_degrees": _short(row.yaw_degrees),
        "detector": detector,
        "losses": {k: _short(v) for k, v in solution.costs().items()},
        "losses_before": {k: _short(v) for k, v in solution.costs(before=True).items()},
        "steps": solution.steps,
        "warnings": list(row.warnings),
        "timings": _rounded({**job.timings, "solve": result[1]}),
    }
    return shown if packed else shown | {"folder": row.name}


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _rounded(timings: Mapping[str, float]) -> dict[str, float]:
    return {k: round(v, 4) for k, v in timings.items()}


def known_row(row: Mapping[str, Any], out: Path) -> Row:
    """The row of a face that an earlier run has done, from its manifest."""
    name, owner = str(row["name"]), str(row["photo"])
    if row["status"] == "failed":
        return Row(name, owner, str(row.get("reason")), before=True)
    return Row(
        name=name,
        owner=owner,
        folder=None if row.get("folder") is None else out / str(row["folder"]),
        status=str(row["status"]),
        reliable=bool(row.get("reliable")),
        residual_percent=float(row.get("residual_percent") or 0),
        yaw_degrees=float(row.get("yaw_degrees") or 0),
        solve_milliseconds=1e3 * float(row.get("timings", {}).get("solve", 0)),
        warnings=tuple(row.get("warnings", ())),
        before=True,
    )


def _listed(rows: Sequence[Row]) -> Table:
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
    return table


def _counted(rows: Sequence[Row]) -> Table:
    table = Table("status", "faces", "reliable", "mean residual %", "mean solve ms")
    for status, count in Counter("not fitted" if row.error is not None else row.status for row in rows).most_common():
        same = [row for row in rows if row.error is None and row.status == status]
        figures = [""] * 3
        if same:
            means = np.mean([[row.residual_percent, row.solve_milliseconds] for row in same], 0)
            figures = [str(sum(row.reliable for row in same)), f"{means[0]:.2f}", f"{means[1]:.1f}"]
        table.add_row(status, str(count), *figures)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def print_summary(rows: Sequence[Row], out: Path, whose: str = "") -> None:
    """The table and the folders to stdout; warnings and failures, one line each, to stderr.

    Args:
        whose: which process's they are, before the count.
    """
    many = len(rows) > MOST_LISTED
    Console().print(_counted(rows) if many else _listed(rows))
    fitted = [row for row in rows if row.error is None]
    before = sum(row.before for row in rows)
    if len(rows) > 1 or whose:
        print(f"{whose}{len(fitted)} of {len(rows)} fitted" + (f", {before} of them by an earlier run" if before else ""))
    if many or any(row.folder is None for row in fitted):
        print(out)
    else:
        for row in fitted:
            # Not through rich, which would break a long path into lines.
            print(f"{row.folder}")
    sys.stdout.flush()
    # Of many faces, the manifest has the warnings.
    for row in [] if many else fitted:
        for warning in row.warnings:
            text = warning if row.name in warning else f"{row.name}: {warning}"
            print("fitjax: warning:", " ".join(text.split()), file=sys.stderr)
    for row in rows:
        if row.error is not None:
            print("fitjax:", " ".join(row.error.split()), file=sys.stderr)
