"""``fitjax merge``: one manifest from those of a run on several processes. Light, so that ``--help`` answers at once."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from fitjax.errors import FitjaxError


@dataclass
class Merge:
    """Put the manifests of a run on several processes together, in the order of the inputs; refuses while one of them is missing or running."""

    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The folder that the processes wrote into."""


@dataclass
class _Gathered:
    """What the manifests say together; of a face what was written last."""

    lines: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    kinds: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    place: dict[str, int] = field(default_factory=dict)
    totals: set[int] = field(default_factory=set)

    def take(self, row: dict[str, Any], _: str) -> None:
        photo, kind = str(row.get("photo")), (row.get("content"), row.get("config"), row.get("faces"))
        faces = self.lines.setdefault(photo, {})
        if self.kinds.setdefault(photo, kind) != kind:
            faces.clear()
            self.kinds[photo] = kind
        where = row.get("input")
        faces[int(row.get("face", 0))] = row
        if where is not None:
            self.place[photo] = int(where[0])
            self.totals.add(int(where[1]))

    def check(self, out: Path, counts: set[int]) -> None:
        """
        Raises:
            FitjaxError: inputs without a row, or processes that were given different inputs or options.
        """
        if len(self.totals) > 1 or len(set(self.place.values())) < len(self.place):
            raise FitjaxError(f"{out}: the processes were given different inputs ({_list(self.totals)}); run all of them again with the same")
        configs = {self.kinds[photo][1] for photo in self.place}
        if len(configs) > 1:
            raise FitjaxError(f"{out}: the processes were given {len(configs)} sets of options or models; run all of them again with the same")
        missing = sorted(set(range(max(self.totals, default=0))) - set(self.place.values()))
        if missing:
            count = max(counts)
            late = _list({i % count for i in missing})
            raise FitjaxError(
                f"{out}: {len(missing)} of {max(self.totals)} inputs have no result yet; start process {late} of {count} again (--processes {count} "
                "--process-id I), or the command once without --processes: it fits what is missing and merges"
            )


def _list(numbers: set[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))


def run_merge(options: Merge) -> int:
    """Write ``OUT/manifest.jsonl`` and remove the parts; 0.

    Raises:
        FitjaxError: there are no parts, one is missing, unfinished or being written, or nowhere to write.
    """
    # Imported here: they load JAX.
    from fitjax.cli.hosts import MANIFEST, manifests, part_count
    from fitjax.cli.manifest import PACK
    from fitjax.files.atomic import atomic_write_text, clear_leftovers
    from fitjax.files.manifest import hold, manifest_line, scan_manifest

    out, found = options.out, manifests(options.out)
    parts = [path for path in found if path.name != MANIFEST]
    if not parts:
        raise FitjaxError(f"{out}: expected manifests of several processes, as `fitjax fit --processes` writes them, found none")
    gathered, damaged, held = _Gathered(), 0, []
    try:
        for path in found:
            held.append(hold(path, shared=False))
            damaged += scan_manifest(path, gathered.take)[1]
        gathered.check(out, {part_count(path) for path in parts})
        last = len(gathered.place)
        photos = sorted(gathered.lines, key=lambda photo: gathered.place.get(photo, last))  # stable: what has no place keeps its order
        rows = [row for photo in photos for _, row in sorted(gathered.lines[photo].items())]
        # With the places of the inputs first: whatever is killed before all parts are gone can be merged again.
        atomic_write_text(out / MANIFEST, "".join(map(manifest_line, rows)))
        for path in parts:
            path.unlink(missing_ok=True)
        rows = [{k: v for k, v in row.items() if k != "input"} for row in rows]
        atomic_write_text(out / MANIFEST, "".join(map(manifest_line, rows)))
        for folder in (out, out / PACK):
            clear_leftovers(folder)
    finally:
        for file in held:
            file.close()
    failed = sum(row.get("status") == "failed" for row in rows)
    if damaged:
        print(f"fitjax: warning: the manifests have {damaged} damaged lines; their faces are fitted again by the next run", file=sys.stderr)
    print(f"{len(parts)} manifests merged: {len(rows) - failed} of {len(rows)} fitted")
    print(out / MANIFEST)
    return 0
