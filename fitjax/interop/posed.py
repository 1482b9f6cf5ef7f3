"""A fitted face as other tools need it: codes, and the camera with the head's pose."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from fitjax.errors import BasisError, FitjaxError
from fitjax.files.camera_json import read_camera_json
from fitjax.files.params import load_params
from fitjax.fit.solution import Solution
from fitjax.geometry.convert import OpenCVCamera, check_opencv
from fitjax.model.basis_file import Basis
from fitjax.model.load import linear_model
from fitjax.model.skinned import SkinnedModel


@dataclass(frozen=True)
class Posed:
    """One face in one photo.

    Attributes:
        codes: ``identity``, ``expression``, ``joints`` of an articulated model, ``light``; NumPy arrays.
        camera: K, R_camera_head, t_camera_head (metres), size and kind of the photo's camera.
    """

    codes: dict[str, Any]
    camera: OpenCVCamera


@dataclass(frozen=True)
class Exported:
    """What another tool reads.

    Attributes:
        values: arrays by the other tool's names.
        discrepancy, mean_discrepancy: pixels of the photo by which that tool's projected vertices are off ours, the largest and on average: its
            camera has no perspective, and it may have fewer codes or joints.
        notes: what it could not hold, in words.
    """

    values: dict[str, np.ndarray]
    discrepancy: float
    mean_discrepancy: float
    notes: tuple[str, ...] = ()


def posed(solution: Solution, width: int, height: int) -> Posed:
    """From a fit in memory; ``width`` and ``height`` of the photo in pixels."""
    prediction = solution.prediction
    codes = {k: jax.tree.map(np.asarray, v) for k, v in solution.params.items() if k not in ("pose", "camera")}
    pose = np.asarray(prediction.R_camera_head, float), np.asarray(prediction.t_camera_head, float)
    camera = check_opencv(np.asarray(prediction.camera.K, float), *pose, width, height, prediction.camera.kind)
    return Posed(codes, camera)


def read_posed(folder: str | os.PathLike[str]) -> tuple[Posed, dict[str, Any]]:
    """From the folder of a result: the face, and the metadata of its parameters (``model``, ``basis_sha256``).

    Raises:
        FitjaxError: no such folder, or one of its files is missing or damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FitjaxError(f"{folder}: no such folder; expected one that `fitjax fit` has written")
    params, metadata = load_params(folder / "params.safetensors")
    camera = read_camera_json(folder / "camera.json")
    return Posed({k: v for k, v in params.items() if k not in ("pose", "camera")}, camera), metadata


def check_codes(basis: Basis, codes: Mapping[str, Any]) -> None:
    """
    Raises:
        BasisError: codes of another model.
    """
    expected: dict[str, tuple[int, ...]] = {"identity": (len(basis.identity),), "expression": (len(basis.expression),)}
    if basis.rig is not None:
        expected["joints"] = (len(basis.rig.joint_mean) - 1, 3)
    for name, shape in expected.items():
        if name not in codes or np.shape(codes[name]) != shape:
            found = np.shape(codes[name]) if name in codes else "none"
            raise BasisError(f"codes {name!r}: the model {basis.name!r} has {shape}, found {found}; is it the model of this fit?")


def vertices(basis: Basis, codes: Mapping[str, Any]) -> Float[np.ndarray, "V 3"]:
    """Decoded vertices in head space, metres."""
    model = linear_model(basis, sample_sets=())
    names = ("identity", "expression", *(("joints",) if isinstance(model, SkinnedModel) else ()))
    params = {k: np.asarray(codes[k], np.float32) for k in names}
    return np.asarray(model.decode(jax.device_put(params)).vertices, float)


def project(points_head: Float[np.ndarray, "N 3"], camera: OpenCVCamera) -> Float[np.ndarray, "N 2"]:
    """Pixels of the photo, centre of the top-left pixel at (0, 0)."""
    x = points_head @ np.asarray(camera.R_camera_head).T + camera.t_camera_head
    depth = x[:, 2:] if camera.model == "perspective" else np.asarray(camera.t_camera_head)[2]
    return x[:, :2] / depth * np.diag(camera.K)[:2] + np.asarray(camera.K)[:2, 2]


def affine(camera: OpenCVCamera) -> tuple[Float[np.ndarray, "2 3"], Float[np.ndarray, "2"]]:
    """The camera without perspective: pixels = A x_head + b, exact for weak perspective and at the depth of the head's origin."""
    scale = np.diag(camera.K)[:2] / camera.t_camera_head[2]
    matrix = scale[:, None] * np.asarray(camera.R_camera_head)[:2]
    return matrix, scale * np.asarray(camera.t_camera_head)[:2] + np.asarray(camera.K)[:2, 2]


def from_affine(matrix: Float[np.ndarray, "2 3"], offset: Float[np.ndarray, "2"], camera: OpenCVCamera) -> OpenCVCamera:
    """The weak-perspective camera with the K and size of ``camera`` that is nearest to pixels = A x_head + b.

    Raises:
        FitjaxError: a matrix without size.
    """
    focal, centre = np.diag(camera.K)[:2], np.asarray(camera.K)[:2, 2]
    rows = np.asarray(matrix, float) / focal[:, None]
    lengths = np.linalg.norm(rows, axis=1)
    if not np.isfinite(rows).all() or (lengths <= 0).any():
        raise FitjaxError("the other tool's pose: expected a scaled rotation, found one without size")
    first, second = rows / lengths[:, None]
    u, _, v = np.linalg.svd(np.stack([first, second, np.cross(first, second)]))
    depth = 1 / lengths.mean()
    translation = np.append((offset - centre) / focal * depth, depth)
    return check_opencv(np.asarray(camera.K), u @ v, translation, camera.width, camera.height, "weak_perspective")


def discrepancy(basis: Basis, before: Posed, after: Posed) -> tuple[float, float]:
    """Distance of a projected vertex in the one from the same in the other, pixels: the largest, and the mean."""
    ours = project(vertices(basis, before.codes), before.camera)
    theirs = project(vertices(basis, after.codes), after.camera)
    apart = np.linalg.norm(ours - theirs, axis=1)
    return float(apart.max()), float(apart.mean())


def square(pixels: Float[np.ndarray, "N 2"], scale: float = 1.25) -> tuple[float, float, float, float]:
    """A square box (left, top, right, bottom) about points, ``scale`` times as large as the mean of their width and height: DECA's way."""
    low, high = pixels.min(0), pixels.max(0)
    half = 0.5 * scale * float((high - low).mean())
    x, y = 0.5 * (low + high)
    return float(x - half), float(y - half), float(x + half), float(y + half)
