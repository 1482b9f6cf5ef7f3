"""Each converter against a literal implementation of the other tool's documented projection, and its round trip."""

import dataclasses

import numpy as np
import pytest

from fitjax.errors import FitjaxError
from fitjax.geometry import convert

MODELS = ["perspective", "weak_perspective"]
SIZES = [(640, 480), (480, 640), (512, 512), (301, 799)]


def random_camera(seed, size, square_pixels=False, skew=0.0):
    rng = np.random.default_rng(seed)
    width, height = size
    fx, fy = 1500.0 * rng.uniform(0.7, 1.3, 2)
    if square_pixels:
        fy = fx
    cx, cy = rng.uniform(0.3, 0.7, 2) * size
    quaternion = rng.normal(size=4)
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    R = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    t = np.array([0.03, -0.02, 0.9]) + rng.normal(0, 0.05, 3)
    points_head = rng.uniform(-0.12, 0.12, (50, 3))
    K = np.array([[fx, skew, cx], [0, fy, cy], [0, 0, 1.0]])
    return (K, R, t, width, height), points_head


def project_opencv(K, R, t, points, model):
    pixels = []
    for point in points:
        x, y, z = R @ point + t
        depth = z if model == "perspective" else t[2]
        x, y = x / depth, y / depth
        pixels.append([K[0, 0] * x + K[0, 1] * y + K[0, 2], K[1, 1] * y + K[1, 2]])
    return np.array(pixels)


def assert_same_camera(camera, expected, model):
    for got, want in zip(camera[:3], expected[:3]):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-10)
    assert camera[3:] == (*expected[3:], model)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("size", SIZES)
def test_opengl(size, model):
    arguments, points = random_camera(1, size, skew=3.0)
    camera = convert.opengl_from_opencv(*arguments, near=0.1, far=5.0, model=model)
    width, height = size
    expected = project_opencv(*arguments[:3], points, model)
    for point, pixel in zip(points, expected):
        eye = camera.view @ [*point, 1.0]
        assert eye[2] < 0  # in front of an OpenGL camera
        clip = camera.projection @ eye
        ndc = clip[:3] / clip[3]
        assert -1 < ndc[2] < 1
        # glViewport(0, 0, width, height): window = (ndc + 1) / 2 * size, its origin the outer bottom-left corner
        window_x, window_y = (ndc[0] + 1) / 2 * width, (ndc[1] + 1) / 2 * height
        np.testing.assert_allclose([window_x - 0.5, (height - window_y) - 0.5], pixel, atol=1e-9)
        np.testing.assert_allclose(convert.pixels_from_clip(clip, width, height), pixel, atol=1e-9)
    # depth range: near -> -1, far -> +1
    for distance, depth in ((0.1, -1.0), (5.0, 1.0)):
        clip = camera.projection @ [0, 0, -distance, 1.0]
        assert clip[2] / clip[3] == pytest.approx(depth, abs=1e-12)
    assert_same_camera(convert.opencv_from_opengl(camera), arguments, model)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("size", SIZES)
def test_pytorch3d(size, model):
    arguments, points = random_camera(2, size)
    camera = convert.pytorch3d_from_opencv(*arguments, model=model)
    width, height = size
    assert camera.image_size == (height, width)
    expected = project_opencv(*arguments[:3], points, model)
    shorter = min(size)
    for point, pixel in zip(points, expected):
        X, Y, Z = point @ camera.R + camera.T  # row vectors
        assert Z > 0
        if model == "weak_perspective":
            Z = 1.0
        # NDC camera, then get_ndc_to_screen_transform(with_xyflip=True); pixel centres at half-integers
        x_ndc = camera.focal_length[0] * X / Z + camera.principal_point[0]
        y_ndc = camera.focal_length[1] * Y / Z + camera.principal_point[1]
        screen = width / 2 - shorter / 2 * x_ndc, height / 2 - shorter / 2 * y_ndc
        np.testing.assert_allclose(np.array(screen) - 0.5, pixel, atol=1e-9)
    # the documented screen -> NDC relation
    np.testing.assert_allclose(camera.focal_length, camera.focal_length_screen * 2.0 / shorter)
    for axis, side in enumerate(size):
        ndc = -(camera.principal_point_screen[axis] - side / 2.0) * 2.0 / shorter
        assert camera.principal_point[axis] == pytest.approx(ndc, abs=1e-14)
    for in_ndc in (True, False):
        assert_same_camera(convert.opencv_from_pytorch3d(camera, in_ndc=in_ndc), arguments, model)


def blender_project(camera, point_world):
    """BKE_camera_params_compute_viewplane and the window matrix, written out with clip_start = 0.1."""
    clip_start = 0.1
    winx, winy = camera.resolution_x, camera.resolution_y
    ycor = camera.pixel_aspect_y / camera.pixel_aspect_x
    if camera.type == "ORTHO":
        pixsize = camera.ortho_scale
    else:
        sensor_size = camera.sensor_height if camera.sensor_fit == "VERTICAL" else camera.sensor_width
        pixsize = sensor_size * clip_start / camera.lens
    fit = camera.sensor_fit
    if fit == "AUTO":
        sizex, sizey = camera.pixel_aspect_x * winx, camera.pixel_aspect_y * winy
        fit = "HORIZONTAL" if sizex >= sizey else "VERTICAL"
    viewfac = winx if fit == "HORIZONTAL" else ycor * winy
    pixsize /= viewfac
    dx, dy = camera.shift_x * viewfac, camera.shift_y * viewfac
    xmin, xmax = (-0.5 * winx + dx) * pixsize, (0.5 * winx + dx) * pixsize
    ymin, ymax = (-0.5 * ycor * winy + dy) * pixsize, (0.5 * ycor * winy + dy) * pixsize
    x, y, z, _ = np.linalg.inv(camera.matrix_world) @ [*point_world, 1.0]
    assert z < -clip_start
    plane = clip_start / -z if camera.type == "PERSP" else 1.0
    u, v = (x * plane - xmin) / (xmax - xmin), (y * plane - ymin) / (ymax - ymin)
    return np.array([u * winx - 0.5, (1 - v) * winy - 0.5])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("sensor_fit", ["AUTO", "HORIZONTAL", "VERTICAL"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", [3, 4, 5])
def test_blender(seed, size, sensor_fit, model):
    arguments, points = random_camera(seed, size, square_pixels=seed == 5)
    camera = convert.blender_from_opencv(*arguments, model=model, sensor_fit=sensor_fit)
    assert min(camera.pixel_aspect_x, camera.pixel_aspect_y) == 1.0
    expected = project_opencv(*arguments[:3], points, model)
    for (x, y, z), pixel in zip(points, expected):
        # what Blender's importers do to y-up files
        np.testing.assert_allclose(blender_project(camera, (x, -z, y)), pixel, atol=1e-9)
    assert_same_camera(convert.opencv_from_blender(camera), arguments, model)


def test_blender_known_values():
    # 50 mm on a 36 mm sensor, 1920 pixels wide: f = 50 / 36 * 1920; the image's middle is (959.5, 539.5) here
    K = np.array([[50 / 36 * 1920, 0, 959.5], [0, 50 / 36 * 1920, 539.5], [0, 0, 1]])
    R = np.diag([1.0, -1.0, -1.0])  # looks at the face from the front, 1 m away
    camera = convert.blender_from_opencv(K, R, [0, 0, 1.0], 1920, 1080)
    assert camera.lens == pytest.approx(50.0, abs=1e-12)
    assert (camera.shift_x, camera.shift_y) == (0.0, 0.0)
    # in Blender the face looks along -y, so the camera sits at y = -1 and is turned 90 degrees about x
    np.testing.assert_allclose(camera.matrix_world[:3, 3], [0, -1, 0], atol=1e-12)
    np.testing.assert_allclose(camera.matrix_world[:3, :3], [[1, 0, 0], [0, 0, -1], [0, 1, 0]], atol=1e-12)


def test_float32_input_gives_float64():
    arguments, _ = random_camera(6, (640, 480))
    single = [np.asarray(a, np.float32) for a in arguments[:3]]
    camera = convert.opengl_from_opencv(*single, 640, 480)
    assert camera.view.dtype == np.float64 and dataclasses.is_dataclass(camera)


def test_errors():
    (K, R, t, width, height), _ = random_camera(7, (640, 480), skew=2.0)
    with pytest.raises(FitjaxError, match="skew"):
        convert.blender_from_opencv(K, R, t, width, height)
    with pytest.raises(FitjaxError, match="skew"):
        convert.pytorch3d_from_opencv(K, R, t, width, height)
    with pytest.raises(FitjaxError, match="not a rotation"):
        convert.opengl_from_opencv(K, -R, t, width, height)
    with pytest.raises(FitjaxError, match="not finite"):
        convert.opengl_from_opencv(K, R, [0, np.nan, 1], width, height)
    with pytest.raises(FitjaxError, match=r"K has shape \(2, 3\)"):
        convert.opengl_from_opencv(K[:2], R, t, width, height)
    with pytest.raises(FitjaxError, match="near"):
        convert.opengl_from_opencv(K, R, t, width, height, near=0.0)
    with pytest.raises(FitjaxError, match="focal"):
        convert.opengl_from_opencv(K * [[-1], [1], [1]], R, t, width, height)
    with pytest.raises(FitjaxError, match="model"):
        convert.opengl_from_opencv(K, R, t, width, height, model="fisheye")
    with pytest.raises(FitjaxError, match=r"t\[2\] > 0"):
        convert.opengl_from_opencv(K, R, -t, width, height, model="weak_perspective")
