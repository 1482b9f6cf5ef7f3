"""Imported models beside the embedded one: landmark fits to annotated faces, and from photo to pose and 68 points.

    python -m benchmarks.models ict bfm_3ddfa [--step 4] [--no-photos]

Names are those of `fitjax basis list`. Annotated faces: AFLW2000-3D's of odd index, weak perspective, as in :mod:`benchmarks.aflw_accuracy`; every
``step``-th of them. Photos: the nine with truth, as in :mod:`benchmarks.dev_photos`, at its default setting.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

import fitjax as fj
from benchmarks import aflw_accuracy, dev_photos
from benchmarks.shared_data import Unavailable, aflw_annotations
from fitjax.errors import FitjaxError
from fitjax.evaluate.nme import binned_mean, nme
from fitjax.model.linear import LinearModel

#: λ_d of the fits to all 68 points, and of those that predict the held-out ones. 0.8246 is a weight of the prior of 0.01.
ALL, HELD_OUT = (1.0, 0.8246, 0.5), (0.7, 0.5, 0.35)
_KIND = "weak_perspective"


def annotated_faces(model: LinearModel, step: int) -> list[str]:
    """Lines of a table: label set, NME at each λ_d of all points, and the best of the held-out ones."""
    faces = aflw_annotations()
    odd = np.flatnonzero(faces.odd)[::step]
    lines = []
    for set_name in ("aflw68_original", "aflw68"):
        target = (faces.reannotated if set_name == "aflw68" else faces.original)[odd]
        batches = aflw_accuracy.stacked(target, set_name, _KIND, None)
        each = []
        for strength in ALL:
            found, failed = aflw_accuracy.fitted(model, batches, set_name, strength, 68)
            each.append(f"{nme(found[: len(target)], target).mean():.3f}{f' ({failed} failed)' if failed else ''}")
        errors, failed = aflw_accuracy.sweep(model, target, set_name, _KIND, HELD_OUT, held_out=True)
        best = min(errors, key=lambda s: errors[s].mean())
        lines.append(
            f"| {model.name} | `{set_name}` | {' | '.join(each)} | {errors[best].mean():.3f} (λ_d {best:g}) | {len(target)} |"
        )
    return lines


def photos(model: LinearModel, cases: list[dev_photos.Case]) -> list[str]:
    """Lines of a table: label set, NME in three bins of yaw without and with the read-out offset, geodesic error of the pose."""
    yaw = np.array([c.truth.yaw for c in cases])
    name = cases[0].face.set_name
    usual = fj.make_observation(
        {name: cases[0].face.landmarks}, dev_photos.camera_of(cases[0].photo, dev_photos.DEFAULT_CAMERA)
    )
    weight = float(fj.default_losses(usual)["prior"].weight)
    outcome = dev_photos.evaluate(model, cases, dev_photos.Setting(dev_photos.DEFAULT_CAMERA, weight, 1.0))
    pose = float(np.nanmean(outcome.geodesic[np.abs(yaw) <= 60]))
    lines = []
    for labels in dev_photos.LABELS:
        plain, offset = (binned_mean(x[labels], yaw).bins for x in (outcome.plain, outcome.offset))
        text = " | ".join(" / ".join(f"{v:.2f}" for v in bins) for bins in (plain, offset))
        lines.append(f"| {model.name} | {labels} | {text} | {pose:.2f} |")
    return lines


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="names or files beside the embedded model")
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--no-photos", action="store_true")
    options = parser.parse_args()
    try:
        loaded = [fj.load_basis(name, level=0) for name in ("embedded", *options.models)]
        print(
            "| model | set | "
            + " | ".join(f"λ_d {s:g}" for s in ALL)
            + " | 23 of 68 held out | faces |\n"
            + "|---" * (4 + len(ALL))
            + "|"
        )
        for model in loaded:
            print("\n".join(annotated_faces(model, options.step)), flush=True)
        if options.no_photos:
            return 0
        cases = dev_photos.detect_all()
        print("\n| model | labels | NME by yaw | with the read-out offset | pose ° |\n|---|---|---|---|---|")
        for model in loaded:
            print("\n".join(photos(model, cases)), flush=True)
    except (Unavailable, FitjaxError) as error:
        print(f"not possible: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
