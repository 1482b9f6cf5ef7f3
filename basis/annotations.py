"""The annotated faces used for calibration (even rows) and evaluation (odd rows). The data is read from a path, never committed."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from basis.fit_points import normalise


@dataclass(frozen=True)
class Annotations:
    """2-D points of a set of faces, normalised as in `fit_points`, and published head poses."""

    original: np.ndarray
    """(B, 68, 2) the original labels, a fitted Basel face model."""
    reannotated: np.ndarray
    """(B, 68, 2) the labels drawn again by hand."""
    pose: np.ndarray
    """(B, 3) pitch, yaw, roll in degrees in AFLW2000-3D's convention."""
    pose_excluded: np.ndarray
    """(B,) faces that the pose protocol leaves out."""


def read_annotations(path: Path, development: Path | None = None) -> tuple[Annotations, Annotations]:
    """The even half for calibration, without the rows of development photos, and the odd half for evaluation."""
    data = np.load(path, allow_pickle=False)
    development = development or path.parent / "dev"
    reserved = [int(np.load(file, allow_pickle=False)["row"]) for file in sorted(development.glob("*.npz"))]
    index = np.arange(len(data["row"]))
    fitted = (index % 2 == 0) & ~np.isin(data["row"], reserved)
    return _select(data, fitted), _select(data, index % 2 == 1)


def _select(data, mask: np.ndarray) -> Annotations:
    return Annotations(
        normalise(data["landmarks"][mask]),
        normalise(data["landmarks_reannotated"][mask]),
        data["pose_pitch_yaw_roll"][mask],
        data["pose_excluded"][mask],
    )
