"""How well the model explains annotated faces: landmark-only fits on AFLW2000-3D, and how well it predicts points it was not shown.

No photo is involved. The labels and the sample set that is calibrated to them go together: ``aflw68_original`` for the original ones,
``aflw68`` for the re-annotated ones; ``ibug68``, the documented positions, shows what the calibration brings. λ_d below is the λ of the
design's objective Σ r² + λ_d² Σ a² (r in percent of the face size); with N valid points and landmarks at their default weight the prior's weight is
λ_d² / N. The calibration used the faces of even index only.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import fitjax as fj
from benchmarks.report import Report, Table, Target
from benchmarks.shared_data import IMAGE_SIZE, Annotations, aflw_annotations
from fitjax.evaluate.nme import YAW_BINS, binned_mean, nme
from fitjax.geometry.camera import CameraKind
from fitjax.model.linear import LinearModel

#: ``numpy.random.default_rng(0).permutation(68)[:23]``, sorted: fixed, so that figures compare.
HELD_OUT = (2, 4, 8, 10, 11, 16, 18, 19, 20, 23, 30, 35, 36, 43, 44, 46, 47, 51, 55, 58, 62, 64, 67)

STRENGTHS = (2.0, 1.4, 1.0, 0.7, 0.5, 0.35, 0.25)
KINDS: tuple[CameraKind, ...] = ("perspective", "weak_perspective")
BATCH = 32


def stacked(points: np.ndarray, set_name: str, kind: CameraKind, valid: np.ndarray | None) -> list[fj.Observation]:
    """Batches of one fixed size; the last is filled up with its first faces."""
    camera = fj.make_camera(*IMAGE_SIZE, kind=kind)
    mask = None if valid is None else {set_name: valid}
    each = [fj.make_observation({set_name: p}, camera, valid=mask) for p in points]
    each += each[: -len(each) % BATCH]
    return [fj.stack_observations(each[i : i + BATCH]) for i in range(0, len(each), BATCH)]


def fitted(
    model: LinearModel, batches: list[fj.Observation], set_name: str, strength: float, n_points: int
) -> tuple[np.ndarray, int]:
    """(N, 68, 2) fitted points of all faces, the padding included, and how many fits did not converge."""
    losses = {"landmarks": fj.landmarks(set_name), "prior": fj.prior(strength**2 / n_points)}
    points, failed = [], 0
    for batch in batches:
        solutions = fj.fit_batch(batch, model=model, losses=losses)
        points += [s.landmarks(set_name) for s in solutions]
        failed += sum(s.status != fj.Status.CONVERGED for s in solutions)
    return np.stack(points), failed


def sweep(
    model: LinearModel,
    points: np.ndarray,
    set_name: str,
    kind: CameraKind,
    strengths: tuple[float, ...],
    held_out: bool,
) -> tuple[dict[float, np.ndarray], int]:
    """λ_d → NME per face; at the held-out points, which the fit did not see, or at all."""
    valid = np.ones(68, bool)
    if held_out:
        valid[list(HELD_OUT)] = False
    batches = stacked(points, set_name, kind, valid)
    errors, failed = {}, 0
    for strength in strengths:
        found, bad = fitted(model, batches, set_name, strength, int(valid.sum()))
        errors[strength] = nme(found[: len(points)], points, only=HELD_OUT if held_out else None)
        failed += bad
    return errors, failed


def _labels(faces: Annotations, set_name: str) -> np.ndarray:
    return faces.reannotated if set_name == "aflw68" else faces.original


def _row(set_name: str, kind: str, errors: dict[float, np.ndarray], yaw: np.ndarray) -> list[Any]:
    """Mean over faces per λ, then the best λ with its yaw bins."""
    means = {s: float(e.mean()) for s, e in errors.items()}
    best = min(means, key=lambda s: means[s])
    bins = binned_mean(errors[best], yaw)
    labels = "re-annotated" if set_name == "aflw68" else "original"
    return [f"`{set_name}`, {labels}, {kind}", *means.values(), f"{best:g}", means[best], *bins.bins, bins.mean_of_bins]


def run(quick: bool = False) -> Report:
    """The benchmark.

    Raises:
        Unavailable: the annotations are absent.
    """
    report = Report("aflw", "AFLW2000-3D, landmarks only")
    faces = aflw_annotations()
    model = fj.load_basis(level=0)
    step = 31 if quick else 1
    odd, every = np.flatnonzero(faces.odd)[::step], np.arange(len(faces.yaw))[::step]
    protocols = (
        (
            f"23 of 68 points held out, {len(odd)} faces of odd index, NME % at the held-out points",
            odd,
            True,
            STRENGTHS,
            KINDS,
        ),
        (f"All 68 points fitted, {len(every)} faces, NME %", every, False, (1.0, 0.5), KINDS[1:]),
    )
    best = np.inf
    for title, index, held_out, strengths, kinds in protocols:
        if quick:
            strengths, kinds = (1.0, 0.5), KINDS[1:]
        rows = []
        for set_name in ("aflw68_original",) if quick else ("aflw68_original", "aflw68", "ibug68"):
            for kind in kinds if set_name != "ibug68" else KINDS[1:]:
                errors, failed = sweep(model, _labels(faces, set_name)[index], set_name, kind, strengths, held_out)
                rows.append(_row(set_name, kind, errors, faces.yaw[index]))
                means = {f"{s:g}": float(e.mean()) for s, e in errors.items()}
                report.facts[f"{'held out' if held_out else 'all'} {set_name} {kind}"] = means
                if failed:
                    report.notes.append(
                        f"{'Held out' if held_out else 'All'}, `{set_name}`, {kind}: {failed} fits over the sweep did not converge."
                    )
                if held_out and set_name == "aflw68_original":
                    best = min(best, *means.values())
        columns = [
            "set, labels, camera",
            *(f"λ_d {s:g}" for s in strengths),
            "best λ_d",
            "faces",
            *YAW_BINS,
            "mean of bins",
        ]
        report.tables.append(Table(title, columns, rows))
    report.notes.append(
        "λ_d → `fj.prior(λ_d² / N)`, N = 45 with points held out, 68 without; bins are those of the best λ_d."
    )
    report.targets.append(Target("held out, original labels, best λ, faces", 0.80, float(best), "%"))
    return report
