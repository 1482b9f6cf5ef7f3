"""Folders as ``fitjax fit`` writes them, made without fitting: the embedded mean face before a camera, everything known by NumPy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import fitjax as fj
from fitjax.files.camera_json import camera_to_dict, write_camera_json
from fitjax.files.obj import write_obj
from fitjax.files.params import save_params
from fitjax.model.linear import LinearModel

SIZE = 256
K = np.array([[420.0, 0, 127.5], [0, 420.0, 127.5], [0, 0, 1]])
FRONT = np.diag([1.0, -1.0, -1.0])  # R_camera_head of a face that looks into the camera
PLACE = np.array([0.01, -0.005, 0.6])


def model() -> LinearModel:
    """The embedded model as it is stored."""
    return fj.load_basis(level=0, sample_sets=())


def head_points(one: LinearModel, vertices: np.ndarray, name: str) -> np.ndarray:
    """(N, 3) of a sample set on vertices."""
    samples = one.sample_library[name]
    corners = vertices[np.asarray(one.triangles)[np.asarray(samples.triangle)]]
    return np.einsum("sk,skc->sc", np.asarray(samples.barycentric, np.float64), corners)


def pixels(points_camera: np.ndarray) -> np.ndarray:
    """(N, 2) by K."""
    projected = points_camera @ K.T
    return projected[:, :2] / projected[:, 2:]


def write_fit(
    folder: Path,
    one: LinearModel,
    pitch_yaw_roll: tuple[float, float, float] = (0, 0, 0),
    identity: np.ndarray | None = None,
) -> np.ndarray:
    """Write the folder; returns the vertices (V, 3) in camera space, metres. ``identity``: code of the shape; default the mean face."""
    folder.mkdir(parents=True)
    code = np.zeros(one.n_identity) if identity is None else identity
    modes = np.asarray(one.modes, np.float64)[: one.n_identity].reshape(one.n_identity, -1, 3)
    vertices = np.asarray(one.mean, np.float64) + np.tensordot(code, modes, 1)
    seen = vertices @ FRONT.T + PLACE
    sets = {
        k: pixels(head_points(one, vertices, k) @ FRONT.T + PLACE).tolist()
        for k in ("ibug68", "aflw68", "aflw68_original")
    }
    (folder / "landmarks.json").write_text(json.dumps(sets))
    basis = {"name": one.name, "sha256": one.basis_sha256, "level": 0}
    (folder / "report.json").write_text(
        json.dumps({"basis": basis, "pose": {"pitch_yaw_roll_degrees": list(pitch_yaw_roll)}})
    )
    write_camera_json(folder / "camera.json", camera_to_dict(K, FRONT, PLACE, SIZE, SIZE))
    write_obj(folder / "posed.obj", seen * [1, -1, -1], np.asarray(one.triangles))
    pose = {"rotation": FRONT.astype(np.float32), "translation": PLACE.astype(np.float32)}
    save_params(
        folder / "params.safetensors",
        {"identity": code.astype(np.float32), "expression": np.zeros(one.n_expression, np.float32), "pose": pose},
    )
    return seen
