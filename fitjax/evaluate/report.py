"""What an evaluation hands back and how it is written: JSON for programs, Markdown for people, a picture of the cumulative errors."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fitjax.errors import FitjaxError
from fitjax.evaluate.curve import Curve, cumulative_plot
from fitjax.files.atomic import atomic_write_bytes, atomic_write_text
from fitjax.version import __version__

SCHEMA = 1

#: Names of missing faces that the Markdown lists; the JSON has all of them.
_LISTED = 20

Cell = str | float | int | None


@dataclass(frozen=True)
class Table:
    """A table; numbers print to three significant digits, None and NaN as a dash."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclass
class Evaluation:
    """The result of one protocol on one set of results.

    Attributes:
        protocol: name, as on the command line. title: for people.
        followed: the protocol in sentences: everything that decides the figures.
        tables: what people read. results: the same figures and those of each face, for programs; may hold arrays and NaN.
        curves: what the plot shows, ``unit`` the name of its horizontal axis, ``curves_of`` what its vertical one counts.
        counted: what ``expected`` counts.
        missing: faces of the truth without a prediction. unused: predictions without a truth. expected: faces of the truth.
        warnings: what looks wrong but can be right.
        pictures: name → (h, w, 3) uint8, written beside the plot.
    """

    protocol: str
    title: str
    followed: list[str]
    expected: int
    tables: list[Table] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)
    curves: list[Curve] = field(default_factory=list)
    unit: str = ""
    counted: str = "faces"
    curves_of: str = "faces"
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def evaluated(self) -> int:
        return self.expected - len(self.missing)


def plain(value: Any) -> Any:
    """What JSON can hold: arrays as lists, NaN and infinity as null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def to_json(evaluation: Evaluation) -> str:
    """The whole evaluation, one text."""
    content = {
        "schema_version": SCHEMA,
        "fitjax": __version__,
        "protocol": evaluation.protocol,
        "followed": evaluation.followed,
        "expected": evaluation.expected,
        "evaluated": evaluation.evaluated,
        "missing": evaluation.missing,
        "unused": evaluation.unused,
        "warnings": evaluation.warnings,
        "tables": [{"title": t.title, "columns": t.columns, "rows": t.rows, "note": t.note} for t in evaluation.tables],
        "results": evaluation.results,
    }
    return json.dumps(plain(content), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _cell(value: Cell) -> str:
    if value is None or (isinstance(value, float | np.floating) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool | str | int | np.integer):
        return str(value)
    if abs(value) < 1e-9:  # rounding of what is exact
        return "0"
    return f"{value:.2f}" if 1 <= abs(value) < 1000 else f"{value:.3g}"


def table_text(table: Table) -> str:
    """Markdown of one table, without its title; figures to the right."""
    columns = len(table.columns)
    figures = [all(not isinstance(row[k], str) for row in table.rows) for k in range(columns)]
    lines = ["| " + " | ".join(table.columns) + " |", "|" + "|".join("---:" if f else "---" for f in figures) + "|"]
    lines += ["| " + " | ".join(_cell(c).replace("|", "\\|") for c in row) + " |" for row in table.rows]
    return "\n".join(lines) + (f"\n\n{table.note}" if table.note else "")


def to_markdown(evaluation: Evaluation) -> str:
    """Title, tables, what is missing, and the protocol that was followed."""
    blocks = [
        f"# {evaluation.title}",
        f"{evaluation.evaluated} of {evaluation.expected} {evaluation.counted} evaluated.",
    ]
    if evaluation.missing:
        names = ", ".join(evaluation.missing[:_LISTED])
        more = len(evaluation.missing) - _LISTED
        tail = f" and {more} more (all in the JSON)" if more > 0 else ""
        blocks.append(
            f"**{len(evaluation.missing)} without a prediction**, in no mean below but counted as failures by the curves: {names}{tail}."
        )
    blocks += [f"**Warning**: {w}." for w in evaluation.warnings]
    for table in evaluation.tables:
        blocks += [f"## {table.title}", table_text(table)]
    blocks += ["## Protocol followed", "\n".join(f"- {line}" for line in evaluation.followed)]
    return "\n\n".join(blocks) + "\n"


def png_bytes(picture: np.ndarray) -> bytes:
    """A PNG of (h, w, 3) uint8."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def write_evaluation(folder: str | os.PathLike[str], evaluation: Evaluation) -> list[Path]:
    """Write ``<protocol>.json``, ``.md`` and ``.png``, and the pictures as ``<protocol>_<name>.png``; each complete or not at all.

    Raises:
        FitjaxError: the folder is a file or cannot be written.
    """
    place = Path(folder)
    if place.exists() and not place.is_dir():
        raise FitjaxError(f"--out {place}: is a file; expected a folder, which is made where it does not exist")
    stem = evaluation.protocol
    written = [place / f"{stem}.json", place / f"{stem}.md", place / f"{stem}.png"]
    plot = cumulative_plot(evaluation.curves, evaluation.unit, evaluation.curves_of)
    atomic_write_text(written[0], to_json(evaluation))
    atomic_write_text(written[1], to_markdown(evaluation))
    atomic_write_bytes(written[2], png_bytes(plot))
    for name, picture in evaluation.pictures.items():
        safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
        written.append(place / f"{stem}_{safe}.png")
        atomic_write_bytes(written[-1], png_bytes(picture))
    return written
