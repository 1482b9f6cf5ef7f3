"""From photo to pose and 68 points on the nine AFLW2000-3D photos with truth: FaceMesh on the full photo, 478 points fitted.

Nothing is fitted to these photos but, in the rows that say so, the read-out offset, and that leave-one-out: the offset of a photo comes from
the other eight. Faces beyond 60° of yaw are listed as they are; there the detector fails, and the fit follows it.

The sweep compares cameras and priors, with and without the loss on the depth that FaceMesh estimates for its points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

import fitjax as fj
from benchmarks.report import Report, Table, Target
from benchmarks.shared_data import DevPhoto, Unavailable, dev_photos
from fitjax.detect import DetectedFace, FaceMeshDetector, default_detector, detect_faces
from fitjax.errors import DetectionError
from fitjax.evaluate.nme import YAW_BINS, binned_mean, box_size, nme
from fitjax.evaluate.pose import pose_errors
from fitjax.evaluate.readout import FittedPhoto, leave_one_out, projection_jacobian
from fitjax.geometry.camera import Camera, CameraKind, default_focal, project
from fitjax.image.photo import Photo, read_photo
from fitjax.model.linear import LinearModel

#: FaceMesh's own points in the order of the 68.
FACEMESH68 = np.array(
    [
        *(127, 234, 93, 58, 172, 136, 150, 176, 152, 400, 379, 365, 397, 288, 323, 454, 356),
        *(70, 63, 105, 66, 107, 336, 296, 334, 293, 300),
        *(168, 197, 5, 4, 75, 97, 2, 326, 305),
        *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),
        *(61, 39, 37, 0, 267, 269, 291, 321, 314, 17, 84, 91),
        *(78, 82, 13, 312, 308, 317, 14, 87),
    ]
)

#: Camera of a row: kind and field of view along the longer side, degrees (weak perspective has none that matters).
CAMERAS: dict[str, tuple[CameraKind, float]] = {
    "perspective 25°": ("perspective", 25.0),
    "perspective 40°": ("perspective", 40.0),
    "perspective 55°": ("perspective", 55.0),
    "weak perspective": ("weak_perspective", 40.0),
}
DEFAULT_CAMERA = "perspective 40°"

#: Weights of the prior.
WEIGHTS = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)

#: Label set → sample set that is calibrated to it.
LABELS = {"re-annotated": "aflw68", "original": "aflw68_original"}


@dataclass(frozen=True)
class Setting:
    """One row of the sweep: camera, λ of the prior, and the factor on the depth loss."""

    camera: str
    weight: float
    depth: float = 0.0


@dataclass(frozen=True)
class Case:
    """A photo of the benchmark with its detection, and what FaceMesh says at one look, without the mirror."""

    truth: DevPhoto
    photo: Photo
    face: DetectedFace
    raw: DetectedFace

    def labels(self, name: str) -> np.ndarray:
        return self.truth.reannotated if name == "re-annotated" else self.truth.original


@dataclass(frozen=True)
class Outcome:
    """Figures of one setting on all photos: per label set NME (P,), without and with the offset; geodesic degrees (P,), NaN without truth."""

    plain: dict[str, np.ndarray]
    offset: dict[str, np.ndarray]
    geodesic: np.ndarray
    pose: np.ndarray
    solutions: list[fj.Solution]


def detect_all() -> list[Case]:
    """Every photo with its largest face, detected once.

    Raises:
        Unavailable: the photos or the detector are absent, or a photo shows no face.
    """
    photos = dev_photos()
    try:
        with default_detector() as detector, FaceMeshDetector(mirrored=False, corrected=False) as one_look:
            cases = []
            for truth in photos:
                photo = read_photo(truth.path)
                face, raw = detect_faces(photo, detector)[0], detect_faces(photo, one_look)[0]
                cases.append(Case(truth, photo, face, raw))
            return cases
    except DetectionError as error:
        raise Unavailable(str(error)) from None


def camera_of(photo: Photo, name: str) -> Camera:
    kind, degrees = CAMERAS[name]
    return fj.make_camera(photo.width, photo.height, focal=default_focal(photo.width, photo.height, degrees), kind=kind)


def _moved(solution: fj.Solution, sample_set: str, offset: np.ndarray) -> np.ndarray:
    """(68, 2) pixels of the read-out points moved by an offset in head space."""
    seen = solution.prediction
    points = (
        np.asarray(seen.points_camera[sample_set].position, np.float64)
        + offset @ solution.rotation.astype(np.float64).T
    )
    return np.asarray(project(seen.camera, jnp.asarray(points), seen.t_camera_head[2]))


def _fitted_photo(case: Case, solution: fj.Solution, labels: str) -> FittedPhoto:
    seen, name = solution.prediction, LABELS[labels]
    truth = case.labels(labels)
    jacobian = projection_jacobian(
        np.asarray(seen.points_camera[name].position),
        np.asarray(seen.camera.focal),
        seen.camera.kind,
        float(seen.t_camera_head[2]),
    )
    return FittedPhoto(
        solution.rotation.astype(np.float64), jacobian, solution.landmarks(name), truth, float(box_size(truth))
    )


def evaluate(model: LinearModel, cases: list[Case], setting: Setting) -> Outcome:
    """Fit all photos with one setting."""
    solutions = []
    for case in cases:
        name = case.face.set_name
        camera = camera_of(case.photo, setting.camera)
        observation = fj.make_observation({name: case.face.landmarks}, camera, depth={name: case.face.depth})
        losses = {"landmarks": fj.landmarks(name), "prior": fj.prior(setting.weight)}
        if setting.depth:
            losses["depth"] = setting.depth * fj.landmark_depth(name)
        solutions.append(fj.fit(observation, model=model, losses=losses, throw=False))
    plain, moved = {}, {}
    for labels, sample_set in LABELS.items():
        truths = np.stack([c.labels(labels) for c in cases])
        plain[labels] = nme(np.stack([s.landmarks(sample_set) for s in solutions]), truths)
        offsets = leave_one_out([_fitted_photo(c, s, labels) for c, s in zip(cases, solutions)])
        moved[labels] = nme(np.stack([_moved(s, sample_set, o) for s, o in zip(solutions, offsets)]), truths)
    pose = np.stack([s.pitch_yaw_roll_degrees for s in solutions])
    true = np.stack([np.full(3, np.nan) if c.truth.pose is None else np.degrees(c.truth.pose) for c in cases])
    geodesic = pose_errors(pose, true).each[:, 3]
    return Outcome(plain, moved, geodesic, pose, solutions)


def _bins(errors: np.ndarray, yaw: np.ndarray) -> list[Any]:
    result = binned_mean(errors, yaw)
    return [*result.bins, result.mean_of_bins, result.mean_of_faces]


def _pose_mean(geodesic: np.ndarray, yaw: np.ndarray) -> float:
    """Mean over the photos with a true pose at |yaw| ≤ 60."""
    return float(np.nanmean(geodesic[np.abs(yaw) <= 60]))


def _photo_rows(cases: list[Case], outcome: Outcome) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for k, case in enumerate(cases):
        own = case.face.landmarks[FACEMESH68]
        truth = None if case.truth.pose is None else np.degrees(case.truth.pose)
        angles = "–" if truth is None else " / ".join(f"{x:.0f}" for x in truth)
        rows.append(
            [
                case.truth.name,
                case.truth.yaw,
                *(float(nme(own, case.labels(x))) for x in LABELS),
                *(x for name in LABELS for x in (float(outcome.plain[name][k]), float(outcome.offset[name][k]))),
                angles,
                " / ".join(f"{x:.0f}" for x in outcome.pose[k]),
                float(outcome.geodesic[k]),
                "yes" if outcome.solutions[k].reliable else "no",
            ]
        )
    return rows


def run(quick: bool = False) -> Report:
    """The benchmark.

    Raises:
        Unavailable: photos or detector are absent.
    """
    report = Report("photos", "Nine AFLW2000-3D photos: FaceMesh, then the fit")
    cases = detect_all()
    model = fj.load_basis(level=0)
    yaw = np.array([c.truth.yaw for c in cases])
    usual = fj.make_observation(
        {cases[0].face.set_name: cases[0].face.landmarks}, camera_of(cases[0].photo, DEFAULT_CAMERA)
    )
    default = float(fj.default_losses(usual)["prior"].weight)
    chosen = evaluate(model, cases, Setting(DEFAULT_CAMERA, default, 1.0))

    columns = ["label set", "read off", *YAW_BINS, "mean of bins", "faces", "pose °"]
    rows: list[list[Any]] = []
    for labels in LABELS:
        raw = np.array([float(nme(c.raw.landmarks[FACEMESH68], c.labels(labels))) for c in cases])
        rows.append([labels, "FaceMesh's own 68 points, one look", *_bins(raw, yaw), None])
        own = np.array([float(nme(c.face.landmarks[FACEMESH68], c.labels(labels))) for c in cases])
        rows.append([labels, "the same, averaged with the mirror and corrected", *_bins(own, yaw)])
        rows.append([labels, "fit", *_bins(chosen.plain[labels], yaw)])
        rows.append([labels, "fit, read-out offset leave-one-out", *_bins(chosen.offset[labels], yaw)])
        rows[-2:] = [[*r, _pose_mean(chosen.geodesic, yaw)] for r in rows[-2:]]
        rows[-3].append(None)
    title = f"NME %, defaults ({DEFAULT_CAMERA}, λ {default:g}); {' / '.join(str(n) for n in binned_mean(yaw * 0, yaw).counts)} photos"
    report.tables.append(Table(title, columns, rows))
    columns = [
        "photo",
        "yaw °",
        "FaceMesh re-ann.",
        "FaceMesh orig.",
        "fit re-ann.",
        "with offset",
        "fit orig.",
        "with offset",
    ]
    columns += ["true pitch / yaw / roll", "found", "geodesic °", "reliable"]
    report.tables.append(Table("Each photo, defaults", columns, _photo_rows(cases, chosen)))
    if not quick:
        settings = [Setting(c, w, d) for d in (0.0, 1.0) for c in CAMERAS for w in WEIGHTS]
        _add_sweep(report, {x: evaluate(model, cases, x) for x in settings}, yaw)
    again = binned_mean(chosen.offset["re-annotated"], yaw).bins
    report.targets += [
        Target("NME, re-annotated, |yaw| ≤ 30, offset leave-one-out", 2.5, again[0], "%"),
        Target("NME, re-annotated, 30 < |yaw| ≤ 60, offset leave-one-out", 3.8, again[1], "%"),
        Target("pose, geodesic, the six with truth at |yaw| ≤ 60", 5.0, _pose_mean(chosen.geodesic, yaw), "°"),
    ]
    report.facts.update(photos=[c.truth.name for c in cases], default_weight=default, geodesic=chosen.geodesic)
    return report


def _add_sweep(report: Report, outcomes: dict[Setting, Outcome], yaw: np.ndarray) -> None:
    """NME with the offset and pose, by camera, prior and depth loss."""
    rows: list[list[Any]] = []
    for setting, o in outcomes.items():
        again, original = (binned_mean(o.offset[x], yaw).bins for x in LABELS)
        plain = binned_mean(o.plain["re-annotated"], yaw).bins
        rows.append(
            [
                f"{setting.camera}{', depth' if setting.depth else ''}",
                f"{setting.weight:g}",
                *(*plain[:2], *again[:2], *original[:2]),
                _pose_mean(o.geodesic, yaw),
                float(100 * np.mean([s.landmark_residual for s in o.solutions])),
                sum(s.reliable for s in o.solutions),
            ]
        )
    columns = ["camera", "λ", "re-ann. ≤30", "30–60", "with offset ≤30", "30–60", "orig., offset ≤30", "30–60"]
    columns += ["pose °", "residual %", "reliable"]
    report.tables.append(Table("Cameras, priors and the detector's depth: NME %, pose over six photos", columns, rows))
