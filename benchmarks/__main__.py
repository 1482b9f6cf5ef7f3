"""``python -m benchmarks``: run, print Markdown, write Markdown and JSON.

usage: python -m benchmarks [--quick] [--only speed accuracy startup ...] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path

from benchmarks import report
from benchmarks.shared_data import Unavailable

#: Name → module with ``run(quick) -> Report``. Imported when asked for: each needs other packages.
BENCHMARKS = {
    "speed": "benchmarks.landmark_speed",
    "aflw": "benchmarks.aflw_accuracy",
    "photos": "benchmarks.dev_photos",
    "startup": "benchmarks.startup",
    "many_faces": "benchmarks.many_faces",
    "many_devices": "benchmarks.many_devices",
    "shared_person": "benchmarks.shared_person",
    "prdl_speed": "benchmarks.prdl_speed",
    "prdl_basin": "benchmarks.prdl_basin",
    "prdl_expressions": "benchmarks.prdl_expressions",
    "prdl_ablation": "benchmarks.prdl_ablation",
    "prdl_photos": "benchmarks.prdl_photos",
    "rasterize": "benchmarks.rasterize",
    "photometric_step": "benchmarks.photometric_step",
    "photometric_synthetic": "benchmarks.photometric_synthetic",
    "photometric_photos": "benchmarks.photometric_photos",
    "initialiser": "benchmarks.initialiser",
    "multi_start": "benchmarks.multi_start",
    "image_net": "benchmarks.image_net",
    "visible_mask": "benchmarks.visible_mask",
    "learned_fusion": "benchmarks.learned_fusion",
}
GROUPS = {
    "accuracy": ("aflw", "photos"),
    "prdl": ("prdl_speed", "prdl_basin", "prdl_expressions", "prdl_ablation", "prdl_photos"),
    "photometric": ("photometric_step", "photometric_synthetic", "photometric_photos"),
}


def chosen(names: list[str] | None) -> list[str]:
    """Benchmarks in their order, groups spelled out."""
    wanted = {part for name in names or BENCHMARKS for part in GROUPS.get(name, (name,))}
    return [name for name in BENCHMARKS if name in wanted]


def main(arguments: list[str] | None = None) -> int:
    """Command line; the exit code is 0 unless nothing could be run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Speed and accuracy of fitjax, next to peers."
    )
    parser.add_argument(
        "--quick", action="store_true", help="few faces and repeats: shows that it works, not what it is worth"
    )
    parser.add_argument(
        "--only", nargs="+", choices=[*BENCHMARKS, *GROUPS], metavar="NAME", help=", ".join([*BENCHMARKS, *GROUPS])
    )
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results", help="folder for benchmarks.md, .json and pictures"
    )
    options = parser.parse_args(arguments)
    # Taken first: a basis that is rebuilt while this runs must not lend its hash to figures of the old one.
    around = report.environment()
    reports = []
    for name in chosen(options.only):
        began = time.perf_counter()
        print(f"running {name} ...", file=sys.stderr)
        try:
            reports.append(importlib.import_module(BENCHMARKS[name]).run(options.quick))
        except Unavailable as error:
            print(f"left out {name}: {error}", file=sys.stderr)
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    command = " ".join(["python -m benchmarks", *(["--quick"] if options.quick else [])])
    if options.only:
        command += " --only " + " ".join(options.only)
    if not reports:
        return 1
    print(report.write(options.out, reports, around, command))
    return 0


if __name__ == "__main__":
    sys.exit(main())
