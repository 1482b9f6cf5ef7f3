"""The read-out offset: where a label set puts its 68 points relative to those of the model.

Annotators follow a convention that differs from the anatomical points of a model by a few millimetres, most at the jaw and the brows. A constant
offset per point in the head frame, the same on the left and the right side, absorbs it. It is found by one regularised linear solve
over photos that carry both a fit and true landmarks. Calibrating on annotations without photos cannot do this: there the identity of the fit
takes up part of the convention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

#: Mirror partner of each of the 68 points (ibug order).
MIRROR68 = np.array(
    [
        *range(16, -1, -1),  # jaw
        *range(26, 16, -1),  # brows
        *(27, 28, 29, 30, 35, 34, 33, 32, 31),  # nose
        *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),  # eyes
        *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55),  # outer lips
        *(64, 63, 62, 61, 60, 67, 66, 65),  # inner lips
    ]
)

_FLIP = np.array([-1.0, 1.0, 1.0])


@dataclass(frozen=True)
class FittedPhoto:
    """What the solve needs of one fitted photo.

    Attributes:
        rotation: (3, 3) R_camera_head.
        jacobian: (68, 2, 3) derivative of each point's pixels by its position in camera space, pixels per metre; see
            :func:`projection_jacobian`.
        predicted, truth: (68, 2) pixels.
        size: pixels, sqrt(w h) of the box of ``truth``: photos weigh the same at any resolution.
    """

    rotation: np.ndarray
    jacobian: np.ndarray
    predicted: np.ndarray
    truth: np.ndarray
    size: float


def projection_jacobian(
    points_camera: np.typing.ArrayLike,
    focal: np.typing.ArrayLike,
    kind: Literal["perspective", "weak_perspective"] = "perspective",
    origin_depth: float | None = None,
) -> np.ndarray:
    """(N, 2, 3) derivative of ``focal · (x, y) / z`` at points (N, 3) in metres; weak perspective divides by ``origin_depth``.

    Raises:
        ValueError: weak perspective without ``origin_depth``.
    """
    points = np.asarray(points_camera, np.float64)
    fx, fy = np.broadcast_to(np.asarray(focal, np.float64), (2,))
    if kind == "weak_perspective" and origin_depth is None:
        raise ValueError("projection_jacobian: weak perspective needs origin_depth")
    z = points[:, 2] if kind == "perspective" else np.full(len(points), origin_depth, np.float64)
    result = np.zeros((len(points), 2, 3))
    result[:, 0, 0], result[:, 1, 1] = fx / z, fy / z
    if kind == "perspective":
        result[:, 0, 2], result[:, 1, 2] = -fx * points[:, 0] / z**2, -fy * points[:, 1] / z**2
    return result


def symmetric_basis(mirror: np.ndarray = MIRROR68) -> np.ndarray:
    """(3 N, P) 0, 1 and -1: all offsets of N points that equal their own mirror image (x to -x, points to partners), P parameters."""
    columns = []
    for i, j in enumerate(mirror):
        for axis in range(3):
            # A point on the middle line is its own partner and cannot leave it.
            if j < i or (j == i and axis == 0):
                continue
            column = np.zeros((len(mirror), 3))
            column[i, axis] = 1
            column[j, axis] = 1 if j == i else _FLIP[axis]
            columns.append(column.reshape(-1))
    return np.stack(columns, 1)


def solve_readout_offset(
    photos: Sequence[FittedPhoto], *, offset_sigma: float = 5e-3, residual_sigma: float = 0.02
) -> np.ndarray:
    """(68, 3) metres in head space, mirror-symmetric: add it to the model's 68 positions before projecting them.

    Minimises Σ_photos Σ_points |J R o - (truth - predicted)|² / (size · residual_sigma)² + Σ |o|² / offset_sigma². Few photos see the
    depth of a point, and there the second term keeps it where it was.

    Args:
        offset_sigma: how far a point is expected to move, metres. residual_sigma: what is expected to remain, in face sizes.

    Raises:
        ValueError: no photos.
    """
    if not photos:
        raise ValueError("solve_readout_offset: expected at least one fitted photo, found none")
    basis = symmetric_basis()
    blocks = basis.reshape(68, 3, -1)
    normal = np.diag((basis**2).sum(0)) / offset_sigma**2
    right = np.zeros(basis.shape[1])
    for photo in photos:
        scale = 1 / (photo.size * residual_sigma)
        rows = np.einsum("nij,jk,nkp->nip", photo.jacobian, photo.rotation, blocks, optimize=True)
        rows = scale * rows.reshape(-1, basis.shape[1])
        target = scale * (np.asarray(photo.truth, np.float64) - photo.predicted).reshape(-1)
        normal += rows.T @ rows
        right += rows.T @ target
    return (basis @ np.linalg.solve(normal, right)).reshape(68, 3)


def leave_one_out(
    photos: Sequence[FittedPhoto], *, offset_sigma: float = 5e-3, residual_sigma: float = 0.02
) -> list[np.ndarray]:
    """Per photo the offset found without it: the honest figure on few photos.

    Raises:
        ValueError: fewer than two photos.
    """
    if len(photos) < 2:
        raise ValueError(f"leave_one_out: expected at least two photos, found {len(photos)}")
    return [
        solve_readout_offset([*photos[:i], *photos[i + 1 :]], offset_sigma=offset_sigma, residual_sigma=residual_sigma)
        for i in range(len(photos))
    ]
