"""Meshes and parts of results of ``fitjax fit``: what needs the model that was fitted."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fitjax.errors import FitjaxError
from fitjax.evaluate.plain_files import read_json
from fitjax.evaluate.scan import PredictedMesh
from fitjax.evaluate.scan_files import read_mesh
from fitjax.evaluate.scan_protocol import NOW7


@lru_cache(maxsize=4)
def _load(name: str, level: int) -> Any:
    from fitjax.model.load import load_basis

    return load_basis(name, level)


def fitted_model(folder: Path, model: str | None = None) -> Any:
    """The model that a result was fitted with, at its mesh density.

    Args:
        model: name or path; default the name in the report.

    Raises:
        FitjaxError: a damaged report, or the model is not found or another one by now.
    """
    said = read_json(folder / "report.json", "the report of a fit")
    basis = said.get("basis") if isinstance(said, dict) else None
    if not isinstance(basis, dict) or not {"name", "level", "sha256"} <= basis.keys():
        raise FitjaxError(f"{folder / 'report.json'}: does not say which model was fitted; fit the photo again")
    found = _load(model or str(basis["name"]), basis["level"])
    if found.basis_sha256 != basis["sha256"]:
        raise FitjaxError(
            f"{folder}: was fitted with another file of the model {basis['name']!r} (sha256 {str(basis['sha256'])[:12]}…); give that one with --model"
        )
    return found


def read_fit_mesh(folder: Path, model: str | None = None, neutral: bool = False) -> PredictedMesh:
    """The mesh of a result in mm, with the seven landmarks that its model puts on it.

    Args:
        neutral: the fitted identity without expression, jaw or residual maps, instead of the head as it was fitted.

    Raises:
        FitjaxError: the result is damaged, its model is not found, or the model has no landmarks.
    """
    from fitjax.files.params import load_params

    fitted = fitted_model(folder, model)
    if "ibug68" not in fitted.sample_library:
        raise FitjaxError(
            f"{folder}: its model {fitted.name!r} has no landmark set 'ibug68'; annotate it with `fitjax annotate`"
        )
    triangles = np.asarray(fitted.triangles, np.int64)
    if neutral:
        params = load_params(folder / "params.safetensors")[0]
        if "identity" not in params or np.shape(params["identity"]) != np.shape(fitted.init()["identity"]):
            raise FitjaxError(
                f"{folder / 'params.safetensors'}: expected the identity of the model {fitted.name!r}; fit the photo again"
            )
        vertices = np.asarray(fitted.decode({**fitted.init(), "identity": params["identity"]}).vertices, np.float64)
    else:
        vertices, found = read_mesh(folder / "posed.obj")
        if not np.array_equal(found, triangles):
            raise FitjaxError(
                f"{folder / 'posed.obj'}: is not a mesh of the model {fitted.name!r}; fit the photo again"
            )
    samples = fitted.sample_library["ibug68"]
    pick = list(NOW7)
    corners = vertices[triangles[np.asarray(samples.triangle)[pick]]]
    seven = np.einsum("sk,skc->sc", np.asarray(samples.barycentric, np.float64)[pick], corners)
    return PredictedMesh(1000 * vertices, triangles, 1000 * seven)


def read_fit_observation(folder: Path, model: str | None = None) -> tuple[Any, Any, Any, tuple[int, int]]:
    """(model, params, observation, (width, height)) of a result: its camera, and its fitted landmarks as if they had been observed.

    They place the crop in which parts are compared, and tell the sides of the face apart.

    Raises:
        FitjaxError: the result is damaged or its model is not found.
    """
    import fitjax as fj
    from fitjax.files.camera_json import read_camera_json
    from fitjax.files.params import load_params
    from fitjax.geometry.camera import camera_from_K

    fitted = fitted_model(folder, model)
    params = load_params(folder / "params.safetensors")[0]
    absent = [k for k in ("identity", "expression", "pose") if k not in params]
    if absent:
        raise FitjaxError(f"{folder / 'params.safetensors'}: has no {absent[0]}; fit the photo again")
    marks = read_json(folder / "landmarks.json", "the landmarks of a fit")
    name = next((k for k in ("ibug68", "aflw68") if isinstance(marks, dict) and k in marks), None)
    if name is None:
        raise FitjaxError(f"{folder / 'landmarks.json'}: expected the set ibug68; fit the photo again")
    camera = read_camera_json(folder / "camera.json")
    start = np.array(camera.K, np.float64)
    if "camera" in params:  # camera.json holds the fitted focal length, params its change from the start: not twice
        start[:2, :2] /= np.exp(float(np.asarray(params["camera"]["log_focal"])))
    kind: Any = camera.model
    observation = fj.make_observation(
        {name: np.asarray(marks[name], np.float32)}, camera_from_K(start.astype(np.float32), kind)
    )
    return fitted, params, observation, (camera.width, camera.height)
