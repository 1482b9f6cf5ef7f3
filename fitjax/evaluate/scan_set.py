"""Predictions against many scans: pooled and per-scan figures, per region, in the words of a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fitjax.errors import FitjaxError
from fitjax.evaluate.curve import Curve
from fitjax.evaluate.published import REALY_MM
from fitjax.evaluate.report import Evaluation, Table
from fitjax.evaluate.scan import PredictedMesh, Scan, ScanErrors, scan_errors
from fitjax.evaluate.scan_picture import scan_picture
from fitjax.evaluate.scan_protocol import ScanProtocol, protocol_lines


def pair_scans(
    scans: Mapping[str, Any], meshes: Mapping[str, Any], expected: list[str] | None = None
) -> tuple[dict[str, str], list[str], list[str]]:
    """(prediction → scan, missing, unused).

    A prediction belongs to the scan of its own name, of the first part of its path (``SUBJECT/…/IMG``, as NoW has them), or of that up to a "_"
    (``SUBJECT_VIEW``, REALY); one mesh and one scan always belong together.

    Args:
        expected: names of the predictions that there should be, with any folders before them; default one or more per scan.

    Raises:
        FitjaxError: no pair at all.
    """
    if len(scans) == 1 and len(meshes) == 1 and expected is None:
        return {next(iter(meshes)): next(iter(scans))}, [], []
    pairs = {}
    for name in meshes:
        first = name.split("/")[0]
        owner = next((x for x in (name, first, first.split("_")[0]) if x in scans), None)
        if owner is not None:
            pairs[name] = owner
    unused = [n for n in meshes if n not in pairs]
    if expected is not None:
        wanted = [_known_tail(n, meshes, scans) for n in expected]
        pairs = {n: s for n, s in pairs.items() if n in set(wanted)}
        missing = [n for n in wanted if n not in pairs]
    else:
        missing = [s for s in scans if s not in set(pairs.values())]
    if not pairs:
        raise FitjaxError(
            f"predictions: none of their names belongs to a scan; predictions such as {next(iter(meshes), 'none')!r}, scans such as "
            f"{next(iter(scans))!r}; expected equal names, or SCAN/NAME"
        )
    return pairs, missing, unused


def _known_tail(name: str, meshes: Mapping[str, Any], scans: Mapping[str, Any]) -> str:
    """A path without the folders before the prediction's name; NoW's lists begin with those of the data set."""
    parts = name.strip("/").split("/")
    tails = ["/".join(parts[k:]) for k in range(len(parts))]
    return next((t for t in tails if t in meshes), next((t for t in tails if t.split("/")[0] in scans), name))


def _figures(distances: np.ndarray) -> list[float]:
    return [float(np.median(distances)), float(distances.mean()), float(distances.std())]


def evaluate_scans(
    scans: Mapping[str, Callable[[], Scan]],
    meshes: Mapping[str, Callable[[], PredictedMesh]],
    protocol: ScanProtocol,
    *,
    expected: list[str] | None = None,
    pictures: int = 16,
    name: str = "yours",
    notes: tuple[str, ...] = (),
) -> Evaluation:
    """Median, mean and standard deviation in mm: over all distances of all scans, and per scan; per region where scans have regions.

    Args:
        scans, meshes: name → reader; each is called when it is needed, so that large sets do not fill the memory.
        pictures: how many predictions are drawn at most, in the order of their names.

    Raises:
        FitjaxError: no pairs, a scan or prediction that cannot be read, or as :func:`fitjax.evaluate.scan.scan_errors`.
    """
    pairs, missing, unused = pair_scans(scans, meshes, expected)
    evaluation = Evaluation(
        "scan",
        f"Scan to mesh: {name}",
        [
            *protocol_lines(protocol),
            "pooled: median, mean and standard deviation of all distances of all scans together, as NoW gives them",
            *notes,
        ],
        len(pairs) + len(missing),
        unit="distance, mm",
        counted="predictions",
        curves_of="scan points",
        missing=missing,
        unused=unused,
    )
    found: dict[str, ScanErrors] = {}
    rows: list[list[Any]] = []
    cached: tuple[str, Scan] | None = None
    for mesh_name, scan_name in sorted(pairs.items(), key=lambda pair: (pair[1], pair[0])):
        if cached is None or cached[0] != scan_name:
            cached = scan_name, scans[scan_name]()
        errors = scan_errors(cached[1], meshes[mesh_name](), protocol, mesh_name)
        found[mesh_name] = errors
        rows.append(
            [mesh_name, *_figures(errors.distances), len(errors.distances), errors.placement.scale, errors.landmark_rms]
        )
        if len(evaluation.pictures) < pictures:
            title = f"{mesh_name}: median {rows[-1][1]:.2f} mm, mean {rows[-1][2]:.2f} mm"
            evaluation.pictures[mesh_name] = scan_picture(cached[1], errors.index, errors.distances, title=title)
    pooled = np.concatenate([e.distances for e in found.values()])
    total = _figures(pooled)
    columns = ["mm", "median", "mean", "std", "points"]
    evaluation.tables.append(Table("All scans, pooled", columns, [[name, *total, len(pooled)]]))
    regions = _add_regions(evaluation, found, protocol, name)
    evaluation.tables.append(Table("Each prediction", [*columns, "scale", "landmarks, rms"], rows))
    evaluation.results |= {
        "style": protocol.name,
        "pooled": dict(zip(("median", "mean", "std"), total)),
        "regions": regions,
        "predictions": {
            n: {
                "scan": pairs[n],
                **dict(zip(("median", "mean", "std"), _figures(e.distances))),
                "points": len(e.distances),
                "regions": {r: float(d.mean()) for r, d in e.regions.items()},
                "scale": e.placement.scale,
                "rotation": e.placement.rotation,
                "translation": e.placement.translation,
                "refinement_steps": e.steps,
                "landmark_rms": e.landmark_rms,
            }
            for n, e in found.items()
        },
    }
    # A missing prediction counts as as many points as the others have on average.
    evaluation.curves.append(Curve(name, pooled, round(len(pooled) * (1 + len(missing) / len(found)))))
    return evaluation


def _add_regions(
    evaluation: Evaluation, found: Mapping[str, ScanErrors], protocol: ScanProtocol, name: str
) -> dict[str, Any]:
    """Per region the mean over predictions of their mean distance, as REALY gives it, and its spread; then the mean of the regions."""
    names = list(dict.fromkeys(r for e in found.values() for r in e.regions))
    if not names:
        return {}
    means = {r: np.array([e.regions[r].mean() for e in found.values() if r in e.regions]) for r in names}
    spread = {r: float(m.std(ddof=1)) if len(m) > 1 else float("nan") for r, m in means.items()}
    overall = float(np.mean([m.mean() for m in means.values()]))
    rows: list[list[Any]] = [
        ["mean of the scans", *(float(m.mean()) for m in means.values()), overall],
        ["standard deviation over scans", *spread.values(), None],
    ]
    evaluation.tables.append(Table("Regions", ["mm", *names, "mean of regions"], rows))
    if protocol.per_region:
        published: list[list[Any]] = [list(r) for r in REALY_MM] + [[f"**{name}**", overall, None]]
        note = "REALY's figures come after its non-rigid step and on its own scans and regions: set them side by side with care."
        evaluation.tables.append(
            Table("REALY, mean of regions, mm: published beside yours", ["method", "frontal", "side"], published, note)
        )
    return {r: {"mean": float(m.mean()), "std": spread[r]} for r, m in means.items()} | {"mean_of_regions": overall}


def read_name_list(path: Path) -> list[str]:
    """Names of the predictions that there should be, one per line; endings of photos are dropped.

    Raises:
        FitjaxError: no such file, or empty.
    """
    from fitjax.evaluate.point_files import face_name

    try:
        names = [face_name(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise FitjaxError(f"{path}: cannot be read ({error}); expected a name per line") from None
    if not names or len(set(names)) != len(names):
        raise FitjaxError(
            f"{path}: expected different names, one per line, found {len(names)} of which {len(set(names))} differ"
        )
    return names
