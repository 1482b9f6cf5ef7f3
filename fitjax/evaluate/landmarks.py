"""Landmarks of many faces against any landmark files: normalised mean error by name of the normalisation, cumulative curve, failure rate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fitjax.errors import FitjaxError
from fitjax.evaluate.curve import Curve, area_under_curve
from fitjax.evaluate.nme import NORMALISATIONS, face_scale
from fitjax.evaluate.predictions import Predictions, read_predictions
from fitjax.evaluate.report import Evaluation, Table

#: Parts of the 68 points in ibug's order.
GROUPS68 = {
    "jaw": (0, 17), "brows": (17, 27), "nose": (27, 36), "eyes": (36, 48), "mouth": (48, 68),
}  # fmt: skip

#: What the scale of an error is, in words.
SCALES = {
    "box": "sqrt(width · height) of the tight box of the true points",
    "diagonal": "the diagonal of the tight box of the true points",
    "interocular": "the distance of the outer corners of the true eyes, points 36 and 45 of 68",
    "interpupil": "the distance of the centres of the true eyes, each the mean of its six points of 68",
}

#: fitjax's sets in the order in which a file of several is read, unless one is asked for.
DEFAULT_SETS = ("ibug68", "aflw68", "aflw68_original", "mediapipe478")


def read_landmark_truth(path: Path) -> Predictions:
    """True landmarks: the forms of :func:`fitjax.evaluate.predictions.read_predictions`, or one landmark file for one face.

    Raises:
        FitjaxError: as there.
    """
    if path.is_file() and path.suffix.lower() in (".pts", ".npy", ".txt"):
        from fitjax.evaluate.point_files import read_point_file
        from fitjax.evaluate.predictions import FacePrediction

        return Predictions({path.stem: FacePrediction(str(path), read_point_file(path))}, "a file per face")
    return read_predictions(path)


def point_errors(found: np.ndarray, truth: np.ndarray, scale: float) -> np.ndarray:
    """(N,) percent of ``scale``; NaN at points that the truth does not have."""
    return 100 * np.linalg.norm(found - truth, axis=1) / scale


def evaluate_landmarks(
    truth: Predictions,
    predictions: Predictions,
    normalisation: str = "box",
    *,
    sets: Sequence[str] = DEFAULT_SETS,
    threshold: float = 10.0,
    name: str = "yours",
) -> Evaluation:
    """NME per face: mean over the points that the truth has.

    Args:
        normalisation: one of :data:`fitjax.evaluate.nme.NORMALISATIONS`.
        sets: names of landmark sets in order of preference, for truths and predictions that name theirs.
        threshold: percent; faces above it, and missing ones, are failures, and the area under the curve ends there.

    Raises:
        FitjaxError: no common names, different numbers of points, a point predicted as missing that the truth has, or a scale of zero.
    """
    if normalisation not in NORMALISATIONS:
        raise FitjaxError(f"normalisation: expected one of {', '.join(NORMALISATIONS)}, found {normalisation!r}")
    if not threshold > 0:
        raise FitjaxError(f"threshold: expected a positive number of percent, found {threshold:g}")
    names = list(truth.faces)
    missing, unused = predictions.match(names)
    errors, each = np.full(len(names), np.nan), []
    hidden, used = 0, set[str]()
    for k, face in enumerate(names):
        which, true = truth.faces[face].landmarks(sets)
        if face in predictions.faces:
            read, points = predictions.faces[face].landmarks(((which,) if which else ()) + tuple(sets))
            used.add(read)
            one = _face(points, true, normalisation, predictions.faces[face].source, truth.faces[face].source)
            errors[k], hidden = np.nanmean(one), hidden + int(np.isnan(one).sum())
            each.append(one)
    seen = errors[np.isfinite(errors)]
    auc = area_under_curve(seen, len(names), threshold)
    failures = 100 * ((seen > threshold).sum() + len(missing)) / len(names)
    evaluation = Evaluation(
        "landmarks",
        f"Landmarks: {name}",
        [
            f"error of a face: mean distance of its points over {SCALES[normalisation]}, in percent (normalisation {normalisation!r})",
            f"means are over the {len(seen)} faces with a prediction; the {len(missing)} without one are failures, also in the area under the curve",
            f"failure: an error above {threshold:g} %; area under the cumulative curve from 0 to {threshold:g} %, 1 being perfect",
            f"{hidden} points that the truth does not have count nowhere",
            f"truth: {truth.kind}; predictions: {predictions.kind}"
            + (f", set {', '.join(sorted(used))}" if any(used) else ""),
        ],
        len(names),
        missing=missing,
        unused=unused,
        unit=f"NME, % ({normalisation})",
        curves=[Curve(name, seen, len(names))],
    )
    columns = ["NME %", "mean", "median", "std", f"failures %, > {threshold:g} %", "AUC", "faces"]
    row: list[Any] = [name, float(seen.mean()), float(np.median(seen)), float(seen.std()), failures, auc, len(seen)]
    evaluation.tables.append(Table(f"Normalised by {normalisation}", columns, [row]))
    if each and all(len(e) == 68 for e in each):
        groups = {
            g: float(np.nanmean(np.stack(each)[:, a:b]))
            for g, (a, b) in GROUPS68.items()
            if np.isfinite(np.stack(each)[:, a:b]).any()
        }
        evaluation.tables.append(
            Table("By part of the face, mean over points", ["NME %", *groups], [[name, *groups.values()]])
        )
        evaluation.results["groups"] = groups
    evaluation.results |= {
        "normalisation": normalisation,
        "mean": row[1],
        "median": row[2],
        "std": row[3],
        "failure_percent": failures,
        "auc": auc,
        "threshold": threshold,
        "faces": dict(zip(names, errors.tolist())),
    }
    return evaluation


def _face(points: np.ndarray, true: np.ndarray, normalisation: str, source: str, true_source: str) -> np.ndarray:
    """(N,) percent of one face."""
    if points.shape != true.shape:
        raise FitjaxError(
            f"{source}: expected {len(true)} points as in {true_source}, found {len(points)}; name a set of that size with --set"
        )
    known = np.isfinite(true).all(1)
    lost = known & ~np.isfinite(points).all(1)
    if lost.any():
        raise FitjaxError(
            f"{source}: point {int(np.flatnonzero(lost)[0])} is missing, which {true_source} has; leave out faces that were not found"
        )
    if not known.any():
        raise FitjaxError(f"{true_source}: has no point at all; leave the face out")
    if np.abs(points[known]).max() <= 2 and np.ptp(true[known]) > 20:
        raise FitjaxError(
            f"{source}: all coordinates lie within ±2; expected pixels of the picture, these look normalised to its size"
        )
    try:
        scale = float(face_scale(true, normalisation))
    except ValueError as error:
        raise FitjaxError(f"{true_source}: {error}") from None
    if not scale > 0:
        raise FitjaxError(
            f"{true_source}: {SCALES[normalisation]} is {'unknown' if np.isnan(scale) else 'zero'}; choose another normalisation"
        )
    return point_errors(points, true, scale)
