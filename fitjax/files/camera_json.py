"""`camera.json`: the camera of a fit, `fitjax-camera/1`, with the same camera in the words of three other tools.

Only ``K``, ``R_camera_head``, ``t_camera_head``, ``width``, ``height`` and ``model`` are read back: the rest follows.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from fitjax.errors import FitjaxError
from fitjax.files.atomic import atomic_write_text
from fitjax.geometry import convert

FORMAT = "fitjax-camera/1"

_CONVENTIONS = {
    "camera": "OpenCV: x right, y down, z forward; centre of the top-left pixel at (0, 0)",
    "head": "right-handed, +x the subject's left, +y up, +z out of the face; metres",
    "extrinsics": "x_camera = R_camera_head @ x_head + t_camera_head",
}
_PROJECTION = {
    "perspective": "pixel = (K @ x_camera)[:2] / x_camera[2]",
    "weak_perspective": "pixel = (K @ (x_camera[0], x_camera[1], z0))[:2] / z0, z0 = t_camera_head[2]",
}


def camera_to_dict(
    K: Any,
    R_camera_head: Any,
    t_camera_head: Any,
    width: int,
    height: int,
    model: str = "perspective",
    near: float = 0.01,
    far: float = 100.0,
) -> dict[str, Any]:
    """The content of ``camera.json``: numbers and lists only.

    Args:
        K, R_camera_head, t_camera_head: (3, 3) pixels, (3, 3), (3,) metres.
        near, far: clipping planes of the OpenGL projection, metres.

    Raises:
        FitjaxError: an invalid camera; see `convert.check_opencv`.
    """
    camera = convert.check_opencv(K, R_camera_head, t_camera_head, width, height, model)
    arguments = camera[:5]
    opengl = convert.opengl_from_opencv(*arguments, near=near, far=far, model=model)
    content: dict[str, Any] = {
        "format": FORMAT,
        "model": camera.model,
        "width": camera.width,
        "height": camera.height,
        "K": camera.K.tolist(),
        "R_camera_head": camera.R_camera_head.tolist(),
        "t_camera_head": camera.t_camera_head.tolist(),
        "conventions": {**_CONVENTIONS, "projection": _PROJECTION[camera.model]},
        "opengl": {
            "conventions": "clip = projection @ view @ (x_head, 1), column vectors, matrices by rows; the eye looks "
            "along -z; image row 0 is the top; pixel centres at half-integers",
            "view": opengl.view.tolist(),
            "projection": opengl.projection.tolist(),
            "near": opengl.near,
            "far": opengl.far,
        },
    }
    if camera.K[0, 1] == 0:  # neither tool knows skew
        blender = convert.blender_from_opencv(*arguments, model=model)
        pytorch3d = convert.pytorch3d_from_opencv(*arguments, model=model)
        fields = {key: getattr(blender, key) for key in blender.__dataclass_fields__ if key != "matrix_world"}
        content["blender"] = {
            "conventions": "for canonical.glb imported into Blender (z up); matrix_world by rows; lens, sensor in mm",
            **fields,
            "matrix_world": blender.matrix_world.tolist(),
        }
        content["pytorch3d"] = {
            "conventions": "x_view = x_head @ R + T; +x left, +y up, +z forward; in_ndc=True with focal_length and "
            "principal_point, in_ndc=False with the _screen pair and image_size (height, width)",
            "camera": "PerspectiveCameras" if camera.model == "perspective" else "OrthographicCameras",
            "R": pytorch3d.R.tolist(),
            "T": pytorch3d.T.tolist(),
            "focal_length": pytorch3d.focal_length.tolist(),
            "principal_point": pytorch3d.principal_point.tolist(),
            "focal_length_screen": pytorch3d.focal_length_screen.tolist(),
            "principal_point_screen": pytorch3d.principal_point_screen.tolist(),
            "image_size": list(pytorch3d.image_size),
        }
    return content


def write_camera_json(path: str | os.PathLike, camera: dict[str, Any]) -> None:
    """Write what `camera_to_dict` returns, matrices one row per line.

    Raises:
        FitjaxError: an unwritable path.
    """
    atomic_write_text(path, _dump(camera, 0) + "\n")


def _dump(value: Any, depth: int) -> str:
    """JSON that a person can read: json.dumps(indent) would put every number of a matrix on its own line."""
    inner, outer = "  " * (depth + 1), "  " * depth
    if isinstance(value, dict):
        items = [f"{inner}{json.dumps(key)}: {_dump(item, depth + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{outer}}}"
    if isinstance(value, list) and value and isinstance(value[0], list):
        return "[\n" + ",\n".join(f"{inner}{_dump(row, depth + 1)}" for row in value) + f"\n{outer}]"
    return json.dumps(value, allow_nan=False)


def read_camera_json(path: str | os.PathLike) -> convert.OpenCVCamera:
    """Read a camera.json, or one that a user wrote with K, R, t, width and height alone.

    ``R`` and ``t`` are accepted for ``R_camera_head`` and ``t_camera_head``; ``model`` defaults to perspective.

    Raises:
        FitjaxError: a missing file, no JSON, another format version, a missing field or an invalid camera.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise FitjaxError(f"cannot read {path}: {error.strerror or error}; expected a camera.json") from None
    except ValueError as error:
        raise FitjaxError(f"{path}: not JSON ({error}); expected a camera.json") from None
    if not isinstance(content, dict) or content.get("format", FORMAT) != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise FitjaxError(f"{path}: format {found!r}; expected {FORMAT!r}")
    values = []
    for names in (("K",), ("R_camera_head", "R"), ("t_camera_head", "t"), ("width",), ("height",)):
        name = next((name for name in names if name in content), None)
        if name is None:
            wanted = "K, R_camera_head, t_camera_head, width, height"
            raise FitjaxError(f"{path}: {names[0]!r} is missing; expected {wanted}")
        values.append(content[name])
    K, R_camera_head, t_camera_head, width, height = values
    if not all(isinstance(side, int) and not isinstance(side, bool) for side in (width, height)):
        raise FitjaxError(f"{path}: width {width!r}, height {height!r}; expected whole pixels")
    try:
        t_camera_head = np.asarray(t_camera_head, np.float64).reshape(-1)  # OpenCV's tvec is (3, 1)
        return convert.check_opencv(K, R_camera_head, t_camera_head, width, height, content.get("model", "perspective"))
    except (FitjaxError, TypeError, ValueError) as error:
        raise FitjaxError(f"{path}: {error}") from None
