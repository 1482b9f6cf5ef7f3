"""Test data that is not part of the project: where it is, and what its files hold.

It lies beside the checkout in ``shared/data`` or under the folder in ``$FITJAX_SHARED``. Nothing of it is committed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import numpy as np


class Unavailable(Exception):
    """Something that a benchmark needs is missing; the text says what."""


def folder() -> Path:
    """``$FITJAX_SHARED/data``, else ``shared/data`` beside the checkout."""
    root = os.environ.get("FITJAX_SHARED")
    return (Path(root) if root else Path(__file__).resolve().parents[2] / "shared") / "data"


def _raise(reason: str) -> NoReturn:
    raise Unavailable(reason)


def require(name: str, skip: Callable[[str], Any] = _raise) -> Path:
    """The path of a file or folder of the test data; ``skip`` is called with the reason when it is absent."""
    path = folder() / name
    if not path.exists():
        skip(f"test data {name!r} is absent; put the shared data beside the checkout or set FITJAX_SHARED")
    return path


@dataclass(frozen=True)
class Annotations:
    """The annotated AFLW2000-3D faces, without images.

    Attributes:
        original, reannotated: (N, 68, 2) pixels of the 450 × 450 images.
        yaw: (N,) degrees, the published signed yaw that the protocol bins by.
        odd: (N,) True for every second face, which the calibration of the basis never saw.
    """

    original: np.ndarray
    reannotated: np.ndarray
    yaw: np.ndarray
    odd: np.ndarray


IMAGE_SIZE = (450, 450)


@cache
def aflw_annotations() -> Annotations:
    """All annotated faces.

    Raises:
        Unavailable: the data is absent.
    """
    with np.load(require("aflw2000/landmarks.npz"), allow_pickle=False) as data:
        original = data["landmarks"][:, :2].transpose(0, 2, 1).astype(np.float64)
        again = data["landmarks_reannotated"].transpose(0, 2, 1).astype(np.float64)
        yaw = data["pose_npy"].astype(np.float64)
    return Annotations(original, again, yaw, np.arange(len(yaw)) % 2 == 1)


@dataclass(frozen=True)
class DevPhoto:
    """One of the nine photos with truth.

    Attributes:
        path, name: the photo. original, reannotated: (68, 2) true pixels.
        yaw: degrees, for binning: of the true pose, else as fitted to the labels.
        pose: (3,) true pitch, yaw, roll in radians (AFLW2000-3D), or None.
    """

    path: Path
    name: str
    original: np.ndarray
    reannotated: np.ndarray
    yaw: float
    pose: np.ndarray | None


def dev_photos() -> list[DevPhoto]:
    """The photos in the order of their names.

    Raises:
        Unavailable: the data is absent.
    """
    with np.load(require("aflw2000/landmarks.npz"), allow_pickle=False) as data:
        # Two of the photos carry no pose; their rows in the full set tell the yaw.
        yaw_of_row = dict(zip(data["row"].tolist(), data["pose_pitch_yaw_roll"][:, 1].tolist()))
    result = []
    for path in sorted(require("aflw2000/dev").glob("*.npz")):
        with np.load(path, allow_pickle=False) as data:
            pose = data["pose_para"][:3].astype(np.float64) if "pose_para" in data else None
            yaw = float(np.degrees(pose[1])) if pose is not None else yaw_of_row[int(data["row"])]
            original, again = data["landmarks"][:2].T, data["landmarks_reannotated"].T
            photo = path.with_suffix(".jpg")
            result.append(DevPhoto(photo, path.stem, original.astype(float), again.astype(float), yaw, pose))
    return result
