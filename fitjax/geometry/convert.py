"""Camera conversions between OpenCV (this project), OpenGL, PyTorch3D and Blender, in float64 NumPy.

OpenCV, as stated in `fitjax.geometry.camera`: axes x right, y down, z forward; ``K`` in pixels; **the centre of the
top-left pixel is at (0, 0)**, so the image spans [-0.5, width - 0.5] × [-0.5, height - 0.5].

The half-pixel rule of the others: all three put (0, 0) on the *outer corner* of the top-left pixel, its centre at
(0.5, 0.5). Hence ``c_edge = c + 0.5`` for every principal point, and nothing for focal lengths:

========== ======================================= =======================================================
tool       camera axes                             image
========== ======================================= =======================================================
OpenGL     +x right, +y up, looks along -z         NDC -1..1 between the outer edges, y up
PyTorch3D  +x left, +y up, +z forward, row vectors NDC -1..1 between the edges of the *shorter* side, x
                                                   left, y up; screen (0, 0) = outer corner (since 0.6.1)
Blender    +x right, +y up, looks along -z         shift in units of the fitted side, 0 = middle of image
========== ======================================= =======================================================

``model="perspective"``: pixels = K (x, y, z) / z. ``model="weak_perspective"``: pixels = K (x, y, z0) / z0 with
z0 = t_camera_head[2], the depth of the head's origin: orthographic in the other tools, K / z0 pixels per metre.

Head space is y up; Blender's world is z up: ``(x, y, z) -> (x, -z, y)``, which is what Blender's glTF and OBJ importers
do with the meshes that fitjax writes. So ``matrix_world`` fits a scene into which ``canonical.glb`` was imported.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from fitjax.errors import FitjaxError

CameraModel = Literal["perspective", "weak_perspective"]
SensorFit = Literal["AUTO", "HORIZONTAL", "VERTICAL"]

# Camera axes of the other tools, expressed in OpenCV camera axes (each is its own inverse).
FLIP_OPENGL = np.diag([1.0, -1.0, -1.0])
FLIP_PYTORCH3D = np.diag([-1.0, -1.0, 1.0])
# Blender world from head space: a quarter turn about x.
R_BLENDERWORLD_HEAD = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])


class OpenCVCamera(NamedTuple):
    """K (3, 3) in pixels, R_camera_head (3, 3), t_camera_head (3,) in metres, image size in pixels."""

    K: np.ndarray
    R_camera_head: np.ndarray
    t_camera_head: np.ndarray
    width: int
    height: int
    model: CameraModel = "perspective"


@dataclass(frozen=True)
class OpenGLCamera:
    """``clip = projection @ view @ (x_head, 1)``, column vectors; image row 0 is the top (NDC y = +1)."""

    view: np.ndarray
    projection: np.ndarray
    near: float
    far: float
    width: int
    height: int
    model: CameraModel = "perspective"


@dataclass(frozen=True)
class PyTorch3DCamera:
    """Arguments of ``PerspectiveCameras`` (``OrthographicCameras`` for weak perspective), without the batch axis.

    ``focal_length``, ``principal_point``: for ``in_ndc=True``; the ``_screen`` pair: for ``in_ndc=False`` with
    ``image_size``.
    """

    R: np.ndarray
    T: np.ndarray
    focal_length: np.ndarray
    principal_point: np.ndarray
    focal_length_screen: np.ndarray
    principal_point_screen: np.ndarray
    image_size: tuple[int, int]
    model: CameraModel = "perspective"


@dataclass(frozen=True)
class BlenderCamera:
    """Fields of ``bpy.types.Camera`` (type, lens ... shift_y), of the render settings and of the camera object."""

    type: Literal["PERSP", "ORTHO"]
    lens: float
    ortho_scale: float
    sensor_fit: SensorFit
    sensor_width: float
    sensor_height: float
    shift_x: float
    shift_y: float
    resolution_x: int
    resolution_y: int
    pixel_aspect_x: float
    pixel_aspect_y: float
    matrix_world: np.ndarray


def check_opencv(
    K: Any, R_camera_head: Any, t_camera_head: Any, width: int, height: int, model: str = "perspective"
) -> OpenCVCamera:
    """Check a camera and return it in float64.

    Raises:
        FitjaxError: a wrong shape, a value that is not finite, a focal length or size that is not positive, a last row
            of K other than (0, 0, 1), an R that is not a rotation (to 1e-3), or weak perspective with t[2] <= 0.
    """
    arrays = []
    for name, value, shape in (("K", K, (3, 3)), ("R", R_camera_head, (3, 3)), ("t", t_camera_head, (3,))):
        try:
            array = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError):
            raise FitjaxError(f"camera: {name} is not an array of numbers; expected shape {shape}") from None
        if array.shape != shape:
            raise FitjaxError(f"camera: {name} has shape {array.shape}; expected {shape}")
        if not np.isfinite(array).all():
            raise FitjaxError(f"camera: {name} holds a value that is not finite; expected finite numbers")
        arrays.append(array)
    K64, R64, t64 = arrays
    if K64[0, 0] <= 0 or K64[1, 1] <= 0:
        raise FitjaxError(f"camera: focal lengths K[0, 0] = {K64[0, 0]:g}, K[1, 1] = {K64[1, 1]:g}; expected positive")
    if not np.allclose([*K64[2], K64[1, 0]], [0, 0, 1, 0], atol=1e-9):
        raise FitjaxError("camera: K is not upper triangular with last row (0, 0, 1); divide by K[2, 2] first")
    if np.abs(R64 @ R64.T - np.eye(3)).max() > 1e-3 or np.linalg.det(R64) < 0:
        raise FitjaxError("camera: R is not a rotation matrix (R R^T = 1, det R = +1)")
    if width <= 0 or height <= 0:
        raise FitjaxError(f"camera: image size {width} x {height}; expected positive width and height")
    if model == "perspective":
        return OpenCVCamera(K64, R64, t64, int(width), int(height), "perspective")
    if model != "weak_perspective":
        raise FitjaxError(f"camera: model {model!r}; expected 'perspective' or 'weak_perspective'")
    if t64[2] <= 0:
        raise FitjaxError(f"camera: weak perspective divides by t[2] = {t64[2]:g}; expected t[2] > 0")
    return OpenCVCamera(K64, R64, t64, int(width), int(height), "weak_perspective")


def _origin_depth(camera: OpenCVCamera) -> float:
    """What divides a focal length: 1 in perspective (each point's own depth does), the head's depth otherwise."""
    return 1.0 if camera.model == "perspective" else float(camera.t_camera_head[2])


def _without_skew(K: np.ndarray, tool: str) -> None:
    if K[0, 1] != 0:
        raise FitjaxError(f"camera: skew K[0, 1] = {K[0, 1]:g} cannot be expressed in {tool}; expected 0")


def _intrinsics(
    fx: float, fy: float, cx: float, cy: float, model: CameraModel, t_camera_head: np.ndarray, skew: float = 0.0
) -> np.ndarray:
    """K (3, 3) from what the other tool scales by: pixels, or pixels per metre in weak perspective."""
    depth = 1.0 if model == "perspective" else t_camera_head[2]
    return np.array([[fx * depth, skew * depth, cx], [0.0, fy * depth, cy], [0.0, 0.0, 1.0]])


# ---- OpenGL


def opengl_from_opencv(
    K: Any, R_camera_head: Any, t_camera_head: Any, width: int, height: int,
    near: float = 0.01, far: float = 100.0, model: str = "perspective",
) -> OpenGLCamera:  # fmt: skip
    """View and projection matrices; ``near`` and ``far`` in metres.

    Raises:
        FitjaxError: an invalid camera, or near and far out of order.
    """
    camera = check_opencv(K, R_camera_head, t_camera_head, width, height, model)
    if not 0 < near < far:
        raise FitjaxError(f"camera: near = {near:g}, far = {far:g}; expected 0 < near < far")
    view = np.eye(4)
    view[:3, :3] = FLIP_OPENGL @ camera.R_camera_head
    view[:3, 3] = FLIP_OPENGL @ camera.t_camera_head
    (fx, skew), fy = camera.K[0, :2] / _origin_depth(camera), camera.K[1, 1] / _origin_depth(camera)
    cx, cy = camera.K[:2, 2]
    projection = np.zeros((4, 4))
    projection[0, :2] = 2 * fx / width, -2 * skew / width
    projection[1, 1] = 2 * fy / height
    ndc_x = 2 * (cx + 0.5) / width - 1  # of the principal point
    ndc_y = 1 - 2 * (cy + 0.5) / height
    if camera.model == "perspective":
        projection[:2, 2] = -ndc_x, -ndc_y
        projection[2, 2:] = -(far + near) / (far - near), -2 * far * near / (far - near)
        projection[3, 2] = -1.0
    else:
        projection[:2, 3] = ndc_x, ndc_y
        projection[2, 2:] = -2 / (far - near), -(far + near) / (far - near)
        projection[3, 3] = 1.0
    return OpenGLCamera(view, projection, float(near), float(far), int(width), int(height), camera.model)


def opencv_from_opengl(camera: OpenGLCamera) -> OpenCVCamera:
    """The inverse of `opengl_from_opencv`; whether it is perspective is read off the last row of ``projection``.

    Raises:
        FitjaxError: the matrices are not a camera.
    """
    view, projection = np.asarray(camera.view, np.float64), np.asarray(camera.projection, np.float64)
    width, height = camera.width, camera.height
    perspective = projection[3, 3] == 0
    ndc_x, ndc_y = -projection[:2, 2] if perspective else projection[:2, 3]
    fx, skew, fy = projection[0, 0] * width / 2, -projection[0, 1] * width / 2, projection[1, 1] * height / 2
    cx, cy = (ndc_x + 1) * width / 2 - 0.5, (1 - ndc_y) * height / 2 - 0.5
    t_camera_head = FLIP_OPENGL @ view[:3, 3]
    model: CameraModel = "perspective" if perspective else "weak_perspective"
    K = _intrinsics(fx, fy, cx, cy, model, t_camera_head, skew)
    return check_opencv(K, FLIP_OPENGL @ view[:3, :3], t_camera_head, width, height, model)


def pixels_from_clip(clip: Any, width: int, height: int) -> np.ndarray:
    """OpenGL clip coordinates (..., 4) to OpenCV pixels (..., 2): what a framebuffer read top row first shows."""
    clip = np.asarray(clip, np.float64)
    ndc = clip[..., :2] / clip[..., 3:]
    return np.stack([(ndc[..., 0] + 1) * width / 2, (1 - ndc[..., 1]) * height / 2], -1) - 0.5


# ---- PyTorch3D


def pytorch3d_from_opencv(
    K: Any, R_camera_head: Any, t_camera_head: Any, width: int, height: int, model: str = "perspective"
) -> PyTorch3DCamera:
    """PyTorch3D multiplies row vectors, ``x_view = x_head @ R + T``, so its R is the transpose.

    Raises:
        FitjaxError: an invalid camera, or skew.
    """
    camera = check_opencv(K, R_camera_head, t_camera_head, width, height, model)
    _without_skew(camera.K, "PyTorch3D")
    half_short_side = min(width, height) / 2
    focal_screen = np.array([camera.K[0, 0], camera.K[1, 1]]) / _origin_depth(camera)
    principal_screen = camera.K[:2, 2] + 0.5
    principal_ndc = (np.array([width, height]) / 2 - principal_screen) / half_short_side
    return PyTorch3DCamera(
        R=(FLIP_PYTORCH3D @ camera.R_camera_head).T,
        T=FLIP_PYTORCH3D @ camera.t_camera_head,
        focal_length=focal_screen / half_short_side,
        principal_point=principal_ndc,
        focal_length_screen=focal_screen,
        principal_point_screen=principal_screen,
        image_size=(int(height), int(width)),
        model=camera.model,
    )


def opencv_from_pytorch3d(camera: PyTorch3DCamera, in_ndc: bool = True) -> OpenCVCamera:
    """The inverse of `pytorch3d_from_opencv`, from the NDC pair or (``in_ndc=False``) the screen pair.

    Raises:
        FitjaxError: the values are not a camera.
    """
    height, width = camera.image_size
    if in_ndc:
        half_short_side = min(width, height) / 2
        focal = np.asarray(camera.focal_length, np.float64) * half_short_side
        principal = np.array([width, height]) / 2 - np.asarray(camera.principal_point, np.float64) * half_short_side
    else:
        focal = np.asarray(camera.focal_length_screen, np.float64)
        principal = np.asarray(camera.principal_point_screen, np.float64)
    t_camera_head = FLIP_PYTORCH3D @ np.asarray(camera.T, np.float64)
    K = _intrinsics(focal[0], focal[1], principal[0] - 0.5, principal[1] - 0.5, camera.model, t_camera_head)
    R_camera_head = FLIP_PYTORCH3D @ np.asarray(camera.R, np.float64).T
    return check_opencv(K, R_camera_head, t_camera_head, width, height, camera.model)


# ---- Blender


def _blender_fit(
    fit: str, sensor_width: float, sensor_height: float, width: int, height: int, aspect_x: float, aspect_y: float
) -> tuple[float, float, float]:
    """Blender's sensor rules: (sensor size in mm, fitted side in x-pixels, height of a pixel over its width).

    AUTO fits the longer side of the picture (pixel aspect counted), yet measures it with sensor_width in both cases.
    """
    pixel_ratio = aspect_y / aspect_x
    fits_width = fit == "HORIZONTAL" or (fit == "AUTO" and aspect_x * width >= aspect_y * height)
    sensor = sensor_height if fit == "VERTICAL" else sensor_width
    return sensor, (width if fits_width else pixel_ratio * height), pixel_ratio


def blender_from_opencv(
    K: Any, R_camera_head: Any, t_camera_head: Any, width: int, height: int, model: str = "perspective",
    sensor_fit: SensorFit = "AUTO", sensor_width: float = 36.0, sensor_height: float = 24.0,
) -> BlenderCamera:  # fmt: skip
    """A Blender camera for the z-up world (see the module); focal lengths that differ become a pixel aspect.

    Weak perspective becomes an orthographic camera at the same place.

    Raises:
        FitjaxError: an invalid camera, or skew.
    """
    camera = check_opencv(K, R_camera_head, t_camera_head, width, height, model)
    _without_skew(camera.K, "Blender")
    fx, fy = camera.K[0, 0] / _origin_depth(camera), camera.K[1, 1] / _origin_depth(camera)
    # Blender does not accept an aspect below 1.
    aspect_x, aspect_y = max(1.0, fy / fx), max(1.0, fx / fy)
    sensor, fitted, pixel_ratio = _blender_fit(
        sensor_fit, sensor_width, sensor_height, width, height, aspect_x, aspect_y
    )
    R_head_local = (FLIP_OPENGL @ camera.R_camera_head).T  # Blender's camera axes are OpenGL's
    matrix_world = np.eye(4)
    matrix_world[:3, :3] = R_BLENDERWORLD_HEAD @ R_head_local
    matrix_world[:3, 3] = -R_BLENDERWORLD_HEAD @ (camera.R_camera_head.T @ camera.t_camera_head)
    return BlenderCamera(
        type="PERSP" if camera.model == "perspective" else "ORTHO",
        lens=float(fx * sensor / fitted) if camera.model == "perspective" else 50.0,
        ortho_scale=float(fitted / fx) if camera.model == "weak_perspective" else 1.0,
        sensor_fit=sensor_fit,
        sensor_width=float(sensor_width),
        sensor_height=float(sensor_height),
        shift_x=float((width / 2 - (camera.K[0, 2] + 0.5)) / fitted),
        shift_y=float((camera.K[1, 2] + 0.5 - height / 2) * pixel_ratio / fitted),
        resolution_x=int(width),
        resolution_y=int(height),
        pixel_aspect_x=float(aspect_x),
        pixel_aspect_y=float(aspect_y),
        matrix_world=matrix_world,
    )


def opencv_from_blender(camera: BlenderCamera) -> OpenCVCamera:
    """The inverse of `blender_from_opencv` (100 % resolution, a camera object without scale).

    Raises:
        FitjaxError: the values are not a camera.
    """
    width, height = camera.resolution_x, camera.resolution_y
    sensor, fitted, pixel_ratio = _blender_fit(
        camera.sensor_fit, camera.sensor_width, camera.sensor_height, width, height,
        camera.pixel_aspect_x, camera.pixel_aspect_y,
    )  # fmt: skip
    perspective = camera.type == "PERSP"
    fx = camera.lens * fitted / sensor if perspective else fitted / camera.ortho_scale
    cx = width / 2 - camera.shift_x * fitted - 0.5
    cy = height / 2 + camera.shift_y * fitted / pixel_ratio - 0.5
    matrix_world = np.asarray(camera.matrix_world, np.float64)
    R_camera_head = FLIP_OPENGL @ matrix_world[:3, :3].T @ R_BLENDERWORLD_HEAD
    t_camera_head = -R_camera_head @ (R_BLENDERWORLD_HEAD.T @ matrix_world[:3, 3])
    model: CameraModel = "perspective" if perspective else "weak_perspective"
    K = _intrinsics(fx, fx / pixel_ratio, cx, cy, model, t_camera_head)
    return check_opencv(K, R_camera_head, t_camera_head, width, height, model)
