"""AFLW2000-3D: sparse alignment and head pose of many faces, beside the published tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fitjax.errors import FitjaxError
from fitjax.evaluate.aflw2000_truth import FULL_SET, ORIGINAL, REANNOTATED, Aflw2000Truth, beyond_limit
from fitjax.evaluate.curve import Curve
from fitjax.evaluate.nme import YAW_BINS, BinnedMean, binned_mean, nme, yaw_bin
from fitjax.evaluate.pose import POSE_LIMIT, PoseErrors, pose_errors
from fitjax.evaluate.predictions import Predictions
from fitjax.evaluate.published import AFLW2000_LABELS_APART, AFLW2000_NME, AFLW2000_POSE
from fitjax.evaluate.report import Evaluation, Table

#: Which of fitjax's own sets is read for which labels, best first: each is calibrated to the habits of its annotators.
READ_OFF = {ORIGINAL: ("aflw68_original", "ibug68"), REANNOTATED: ("aflw68", "ibug68")}

#: A mean error beyond this is hardly one: pixels of a crop, y upwards, another order of points.
_SUSPICIOUS_PERCENT = 50.0

_NME_LINES = [
    "AFLW2000-3D sparse alignment (Zhu et al., PAMI 2019): x and y of all 68 points, those of the hidden side included; pixels of the picture",
    "error of a face: mean distance of the points, divided by sqrt(width · height) of the tight box of its true points, in percent",
    "bins by |yaw|: at most 30°, above 30° to 60° inclusive, above 60°; 'mean of bins' is their unweighted mean, the published headline figure; "
    "'mean of faces' counts every face once",
    "no face is left out of the NME; each label set is both the truth and the box of its own row",
]
_POSE_LINES = [
    "pose: pitch, yaw, roll in degrees of R = Rx(pitch) Ry(yaw) Rz(roll), the order and signs of AFLW2000-3D's Pose_Para; "
    "plain differences without wrap-around",
    f"pose leaves out faces with a true angle beyond ±{POSE_LIMIT:g}°; MAE is the mean of the three angles' means; "
    "geodesic is the mean angle between the rotations",
]


def stack_landmarks(
    predictions: Predictions, names: Sequence[str], preference: Sequence[str], truth: np.ndarray
) -> tuple[np.ndarray, dict[str, int]]:
    """(N, 68, 2), NaN where a face is missing, and how many faces were read off which set.

    Args:
        truth: (N, 68, 2): the shape that is expected, and where pixels of a face should be.

    Raises:
        FitjaxError: another number of points, some points of a face that are NaN, or coordinates between 0 and 1.
    """
    result, used = np.full(truth.shape, np.nan), dict[str, int]()
    for k, name in enumerate(names):
        face = predictions.faces.get(name)
        if face is None or not face.sets:
            continue
        which, points = face.landmarks(preference)
        if points.shape != truth.shape[1:]:
            raise FitjaxError(f"{face.source}: expected {truth.shape[1]} points, found {len(points)}")
        if not np.isfinite(points).all():
            raise FitjaxError(
                f"{face.source}: point {int(np.flatnonzero(~np.isfinite(points).all(1))[0])} is missing; the protocol counts all of them"
            )
        if np.abs(points).max() <= 2 and np.ptp(truth[k]) > 20:
            raise FitjaxError(
                f"{face.source}: all coordinates lie within ±2; expected pixels of the picture, these look normalised to its size"
            )
        result[k] = points
        used[which] = used.get(which, 0) + 1
    return result, used


def _errors(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(N,) percent, NaN where missing."""
    errors, seen = np.full(len(truth), np.nan), np.isfinite(found).all((1, 2))
    if seen.any():
        errors[seen] = nme(found[seen], truth[seen])
    return errors


def _binned(errors: np.ndarray, yaw: np.ndarray) -> BinnedMean:
    seen = np.isfinite(errors)
    if not seen.any():
        return BinnedMean((np.nan,) * 3, (0, 0, 0), np.nan, np.nan)
    return binned_mean(errors[seen], yaw[seen])


def _row(first: str, means: BinnedMean, errors: np.ndarray) -> list[Any]:
    median = float(np.nanmedian(errors)) if np.isfinite(errors).any() else None
    return [first, *means.bins, means.mean_of_bins, means.mean_of_faces, median, sum(means.counts)]


def _summary(means: BinnedMean) -> dict[str, Any]:
    return {
        "bins": dict(zip(YAW_BINS, means.bins)),
        "faces_in_bins": dict(zip(YAW_BINS, means.counts)),
        "mean_of_bins": means.mean_of_bins,
        "mean_of_faces": means.mean_of_faces,
    }


def label_disagreement(truth: Aflw2000Truth) -> np.ndarray | None:
    """(N,) percent: NME of the re-annotated labels against the original ones; None without both."""
    if REANNOTATED not in truth.labels:
        return None
    return nme(truth.labels[REANNOTATED], truth.labels[ORIGINAL])


def evaluate_aflw2000(
    truth: Aflw2000Truth,
    predictions: Predictions,
    read_off: Mapping[str, Sequence[str]] = READ_OFF,
    name: str = "yours",
) -> Evaluation:
    """NME in three bins for both label sets and both means; pose MAE and geodesic angle where poses are known; the published tables beside them.

    Args:
        read_off: label set → landmark sets of the predictions in order of preference; tools without named sets have only one.
        name: of the method, for the tables.

    Raises:
        FitjaxError: no common names, wrong counts of points, missing points, normalised coordinates.
    """
    missing, unused = predictions.match(truth.names)
    if any(face.sets for face in predictions.faces.values()):
        missing = [n for n in truth.names if n not in predictions.faces or not predictions.faces[n].sets]
    count = len(truth.names)
    evaluation = Evaluation(
        "aflw2000",
        f"AFLW2000-3D: {name}",
        [*_NME_LINES],
        count,
        missing=missing,
        unused=unused,
        unit="NME, % of the box",
    )
    evaluation.results |= {"names": list(truth.names), "yaw": truth.yaw, "nme": {}}
    say = evaluation.followed.append
    say(f"yaw of the bins: {truth.yaw_is}")
    say(f"predictions: {predictions.kind}")
    evaluation.followed += truth.notes
    rows: list[list[Any]] = []
    headline: BinnedMean | None = None
    for labels, true in truth.labels.items():
        found, used = stack_landmarks(predictions, truth.names, read_off.get(labels, ()), true)
        errors = _errors(found, true)
        means = _binned(errors, truth.yaw)
        if not np.isfinite(errors).any():
            continue
        rows.append(_row(f"{name}, {labels} labels", means, errors))
        sets = ", ".join(f"`{k}`" for k in used if k)
        say(
            f"{labels} labels: {f'read off the set {sets}' if sets else 'the tool names no set, the same points serve both label sets'}"
        )
        evaluation.results["nme"][labels] = {**_summary(means), "read_off": used, "faces": errors}
        evaluation.curves.append(Curve(f"{labels} labels", errors[np.isfinite(errors)], count))
        if means.mean_of_faces > _SUSPICIOUS_PERCENT:
            evaluation.warnings.append(
                f"{labels} labels: a mean error of {means.mean_of_faces:.0f} % is hardly one; "
                "expected pixels of the whole picture, y downwards, ibug's order"
            )
        headline = means if labels == ORIGINAL else headline
    apart = label_disagreement(truth)
    if apart is not None:
        means = binned_mean(apart, truth.yaw)
        rows.append(_row("the two label sets apart, all faces", means, apart))
        evaluation.results["labels_apart"] = {**_summary(means), "faces": apart}
    counts = np.bincount(yaw_bin(truth.yaw), minlength=3)
    columns = ["NME %", *YAW_BINS, "mean of bins", "mean of faces", "median", "faces"]
    note = f"Faces of the truth in the bins: {' / '.join(str(c) for c in counts)}."
    evaluation.tables.append(Table("Sparse alignment, 68 points", columns, rows, note))
    if headline is not None:
        evaluation.tables.append(_published_nme(name, headline, count, len(missing)))
    poses = _add_pose(evaluation, truth, predictions, name)
    if not evaluation.curves:
        if poses is None:
            raise FitjaxError("predictions: hold neither landmarks nor poses of the truth's faces")
        evaluation.unit = "angle between true and predicted rotation, degrees"
        evaluation.curves.append(Curve(name, poses.each[np.isfinite(poses.each[:, 3]), 3], poses.faces + len(missing)))
    if count != FULL_SET or missing:
        evaluation.warnings.append(
            f"published figures are of all {FULL_SET} faces, these of {count - len(missing)}: set them side by side with care"
        )
    return evaluation


def _published_nme(name: str, means: BinnedMean, count: int, missing: int) -> Table:
    rows: list[list[Any]] = [list(r) for r in AFLW2000_NME]
    rows += [list(AFLW2000_LABELS_APART), [f"**{name}** ({count - missing} faces)", *means.bins, means.mean_of_bins]]
    note = (
        "Regression networks crop with the true box; fits and detectors do not. The label sets differ by more than the best methods do: "
        "gains of 0.1 mean little."
    )
    return Table("NME %, original labels: published beside yours", ["method", *YAW_BINS, "mean of bins"], rows, note)


def _add_pose(evaluation: Evaluation, truth: Aflw2000Truth, predictions: Predictions, name: str) -> PoseErrors | None:
    """Pose errors where both sides know poses."""
    found = np.full((len(truth.names), 3), np.nan)
    for k, face in enumerate(truth.names):
        if face in predictions.faces and (pose := predictions.faces[face].pitch_yaw_roll) is not None:
            found[k] = pose
    left_out = beyond_limit(truth)
    errors = pose_errors(found, truth.pitch_yaw_roll, truth.excluded)
    if not errors.faces:
        return None
    known = np.isfinite(truth.pitch_yaw_roll).all(1)
    without = [n for n, a, b in zip(truth.names, known & ~left_out, np.isfinite(found).all(1)) if a and not b]
    evaluation.followed += [
        *_POSE_LINES,
        f"true pose: {truth.pose_is}; {int((known & left_out).sum())} faces left out, {int((~known).sum())} without a true pose",
    ]
    evaluation.results["pose"] = {
        "mae": {"pitch": errors.pitch, "yaw": errors.yaw, "roll": errors.roll, "mean": errors.mean},
        "geodesic": errors.geodesic,
        "faces": errors.faces,
        "left_out": [n for n, x in zip(truth.names, known & left_out) if x],
        "missing": without,
        "each": {"columns": ["pitch", "yaw", "roll", "geodesic"], "errors": errors.each},
    }
    rows: list[list[Any]] = [[*r, None] for r in AFLW2000_POSE]
    rows.append(
        [f"**{name}** ({errors.faces} faces)", errors.yaw, errors.pitch, errors.roll, errors.mean, errors.geodesic]
    )
    columns = ["MAE, degrees", "yaw", "pitch", "roll", "mean", "geodesic"]
    note = (
        ""
        if not without
        else f"{len(without)} without a predicted pose: {', '.join(without[:10])}{', …' if len(without) > 10 else ''}."
    )
    evaluation.tables.append(Table("Head pose: published beside yours", columns, rows, note))
    return errors
