"""The folder of a textured fit: pictures in the photo's place, texture the right way up, meshes exact, figures in the report."""

from __future__ import annotations

import io
import json
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pygltflib
import pytest
from PIL import Image
from scenes import scene
from toy import toy_basis

import fitjax as fj
from fitjax.files.images import encode_gif, encode_png
from fitjax.files.obj import read_obj
from fitjax.files.result import MESH_FILES, RESULT_FILES, write_result
from fitjax.files.textured import depth_codes
from fitjax.fit.run import predict_final
from fitjax.fit.solution import Solution
from fitjax.geometry.rotation import rotation_from_aflw2000
from fitjax.image.photo import photo_from_array
from fitjax.model.albedo import LinearAlbedo
from fitjax.model.load import linear_model
from fitjax.model.textured import load_textured, textured_model
from fitjax.observation.crop import with_image
from fitjax.pytree import replace
from fitjax.render import picture
from fitjax.render.face import rasterize_face, render_face
from fitjax.render.lighting import linear_from_srgb, srgb_from_linear
from fitjax.render.reference import rasterize_reference
from fitjax.render.turntable import turntable_yaws
from fitjax.solve.status import Status

WIDTH, HEIGHT = 168, 192
BACKGROUND = (40, 90, 160)


def smooth_map(rng, *shape, waves=6):
    """A sum of a few waves over a map (H, W, C), about 1 high."""
    v, u = np.meshgrid(np.linspace(0, 1, shape[0]), np.linspace(0, 1, shape[1]), indexing="ij")
    total = np.zeros(shape)
    for a, b, c in rng.uniform(-4, 4, (waves, 3)):
        total += np.sin(2 * np.pi * (a * u + b * v) + c)[..., None] * rng.normal(size=shape[2]) / waves
    return total.astype(np.float32)


@pytest.fixture(scope="module")
def fitted():
    """A solution that is the truth of its photo: drawn by `render_face`, the crop of which is the whole photo, from albedo × occlusion."""
    model = load_textured()
    rng = np.random.default_rng(0)
    pose = rotation_from_aflw2000(jnp.radians(jnp.array([4.0, 25.0, 3.0])))
    params = {
        **model.init(),
        "identity": jnp.asarray(0.7 * rng.normal(size=model.shape.n_identity), jnp.float32),
        "expression": jnp.zeros(model.shape.n_expression).at[jnp.array([8, 25])].set(0.5),
        "pose": {"rotation": pose.astype(jnp.float32), "translation": jnp.array([0.004, -0.006, 0.62])},
        "light": jnp.asarray(0.4 * rng.normal(size=27), jnp.float32),
        "detail_shape": jnp.asarray(3e-4 * smooth_map(rng, 256, 256, 1)[..., 0]),
        "detail_albedo": jnp.asarray(0.6 * smooth_map(rng, 256, 256, 3)),
    }
    camera = fj.make_camera(WIDTH, HEIGHT, focal=1.9 * HEIGHT)
    points = np.random.default_rng(1).uniform(60, 120, (68, 2))
    blank = predict_final(model, params, fj.make_observation({"aflw68": points}, camera))
    observation = fj.make_observation({"aflw68": np.asarray(blank.pixels["aflw68"])}, camera)
    prediction = predict_final(model, params, observation)
    drawn = draw_reference(prediction)
    photo = photo_from_array(np.where(drawn["covered"][..., None], drawn["srgb8"], BACKGROUND).astype(np.uint8))
    solution = Solution(
        params, Status.CONVERGED, {"all": 1}, {"all": {"landmarks": np.zeros(2)}}, 0.0, 25.0, model, with_image(observation, photo), {}, []
    )  # fmt: skip
    return solution, photo, drawn


def darkened(prediction):
    """The same face with occlusion multiplied into its albedo, texel by texel: as the outputs hold it."""
    face, mesh = prediction.face, prediction.mesh
    occlusion = mesh.occlusion[..., None]
    maps = {"albedo": face.albedo * occlusion, "proxy_albedo": face.proxy_albedo * occlusion}
    return replace(prediction, face=replace(face, **maps), mesh=replace(mesh, occlusion=jnp.ones_like(mesh.occlusion)))


def draw_reference(prediction, version="full"):
    """What `render_face` shows of a crop that is the photo, its albedo being albedo × occlusion."""
    return draw_as_losses(darkened(prediction), version)


def draw_as_losses(prediction, version="full"):
    """What `render_face` shows: albedo and occlusion are sampled each on its own, and multiplied."""
    prediction = replace(prediction, camera=replace(prediction.camera, crop_from_image=jnp.eye(2, 3)))

    @jax.jit
    def draw(prediction):
        triangle_id = rasterize_face(prediction, HEIGHT, WIDTH)
        return triangle_id, render_face(prediction, triangle_id, version, version)

    if version == "proxy":
        prediction = replace(prediction, face=replace(prediction.face, vertices=prediction.face.proxy_vertices))
    triangle_id, face = jax.device_get(draw(prediction))
    covered = triangle_id >= 0
    place = face.pixel[face.covered]
    assert len(place) == covered.sum()
    out = {"covered": covered}
    for name in ("colour", "normal"):
        image = np.zeros((HEIGHT * WIDTH, 3), np.float32)
        image[place] = getattr(face, name)[face.covered]
        out[name] = image.reshape(HEIGHT, WIDTH, 3)
    srgb = np.clip(np.asarray(srgb_from_linear(out["colour"])), 0, 1)
    out["srgb8"] = np.round(srgb * 255).astype(np.uint8)
    return out


@pytest.fixture(scope="module")
def folder(fitted, tmp_path_factory):
    solution, photo, _ = fitted
    path = tmp_path_factory.mktemp("outputs") / "face"
    write_result(path, solution, photo)
    return path


def read(path):
    with Image.open(path) as image:
        return np.array(image)


def test_every_file_is_there_at_the_photos_size(folder):
    assert {p.name for p in folder.iterdir()} == RESULT_FILES
    for name, shape in {"render.png": (4,), "render_model.png": (4,), "normals.png": (4,), "depth.png": ()}.items():
        assert read(folder / name).shape == (HEIGHT, WIDTH, *shape), name
    assert read(folder / "texture.png").shape == (1024, 1024, 3)
    assert read(folder / "texture_confidence.png").shape == (1024, 1024)


@pytest.mark.parametrize("name, version", [("render.png", "full"), ("render_model.png", "proxy")])
def test_renders_lie_where_the_photo_shows_the_face(fitted, folder, name, version):
    solution, photo, drawn = fitted
    expected = drawn if version == "full" else draw_reference(solution.prediction, "proxy")
    rgba = read(folder / name)
    covered = expected["covered"]
    assert covered.sum() > 5000
    difference = np.abs(rgba[..., :3].astype(int) - expected["srgb8"])[covered]
    # Positions are rounded to 1/256 pixel there and to 1/512 here: a pixel in a thousand shows the neighbouring triangle.
    assert (difference > 1).mean() < 1e-3
    # Losses interpolate albedo and occlusion each on its own. The product of the two is another number only where both are steep.
    separate = np.abs(rgba[..., :3].astype(int) - draw_as_losses(solution.prediction, version)["srgb8"])[covered]
    assert (separate > 1).mean() < 5e-3 and np.mean(separate) < 0.2
    inside = covered.copy()
    inside[1:-1, 1:-1] = np.all(
        [np.roll(covered, (i, j), (0, 1))[1:-1, 1:-1] for i in (-1, 0, 1) for j in (-1, 0, 1)], 0
    )
    assert (rgba[..., 3][inside] == 255).mean() > 0.999  # but for pinholes between lids and eyeball
    assert (rgba[..., 3][~covered] <= 160).mean() > 0.999
    assert abs(rgba[..., 3].sum() / 255 - covered.sum()) < 0.01 * covered.sum()
    # sRGB: decoded values are the linear light that was rendered, to half a step of eight bits.
    decoded = np.asarray(linear_from_srgb(rgba[..., :3] / 255.0))[covered]
    error = np.abs(decoded - np.clip(expected["colour"][covered], 0, 1))
    assert np.quantile(error, 0.998) < 0.5 / 255 * 2.3  # the curve's largest slope
    if version == "full":
        # Composited over the photo of which it is the truth, nothing changes.
        alpha = rgba[..., 3:] / 255
        over = photo.rgb * (1 - alpha) + rgba[..., :3] * alpha
        assert np.abs(over - photo.rgb)[inside].max() <= 60 and (np.abs(over - photo.rgb)[inside] > 1).mean() < 2e-3


def test_normals_and_depth(fitted, folder):
    solution, _, drawn = fitted
    covered = drawn["covered"]
    rgba = read(folder / "normals.png")
    decoded = (rgba[..., :3] / 255 * 2 - 1) * [1, -1, -1]
    assert np.quantile(np.abs(decoded - drawn["normal"])[covered], 0.998) < 1.01 / 255
    depth = np.load(folder / "depth.npy")
    assert depth.dtype == np.float32 and depth.shape == (HEIGHT, WIDTH)
    prediction = solution.prediction
    image_points = np.concatenate([prediction.vertices_pixels, np.asarray(prediction.vertices_camera)[:, 2:]], 1)
    reference = rasterize_reference(
        image_points.astype(np.float64), np.asarray(solution.model.triangles), HEIGHT, WIDTH
    )
    known = reference.triangle_id >= 0
    assert (np.isnan(depth) == known).mean() < 1e-3 and known.sum() > 5000
    assert np.quantile(np.abs(depth - reference.depth)[known & ~np.isnan(depth)], 0.998) < 1e-5
    with Image.open(folder / "depth.png") as image:
        unit = float(image.text["metres_per_unit"])
        codes = np.array(image)
    assert (
        codes.dtype == np.uint16
        and unit == json.loads((folder / "report.json").read_text())["depth_png_metres_per_unit"]
    )
    np.testing.assert_array_equal(codes == 0, np.isnan(depth))
    assert np.nanmax(np.abs(codes * unit - depth)) <= 0.501 * unit
    assert depth_codes(np.array([[0.0, 6.5536]]))[1] == 1e-3  # the next power of ten where 0.1 mm would overflow


def test_texture_is_the_albedo_the_right_way_up(fitted, folder):
    solution, _, _ = fitted
    texture = np.asarray(linear_from_srgb(read(folder / "texture.png") / 255.0))
    confidence = read(folder / "texture_confidence.png") / 255
    model = solution.model
    vertex_uv, vertices = np.asarray(model.vertex_uv), np.asarray(model.shape.mean)

    def at(image, uv):
        column, row = np.clip(uv * [1024, -1024] + [0, 1024], 0, 1023).astype(int).T
        return image[row, column]

    seen = at(confidence, vertex_uv)
    assert seen[vertices[:, 2] < -0.1].max() == 0  # the back of the head
    # The head is turned to the left of the picture: the subject's left cheek (+x) is seen, part of the right one is not.
    skin = np.asarray(model.detail_vertices, bool)
    near, far = (seen[skin & (np.abs(vertices - [x, -0.03, 0.0]) < 0.015).all(1)] for x in (0.055, -0.055))
    assert len(near) > 30 and np.median(near) > 0.95 and np.median(far) < 0.5 * np.median(near)
    # Where the photo was the truth, the texture is the fitted albedo times occlusion; elsewhere it is completed, and stays near the proxy.
    fitted_albedo = np.asarray(darkened(solution.prediction).face.albedo)
    size = fitted_albedo.shape[0]
    column, row = np.clip(vertex_uv * [size, -size] + [0, size], 0, size - 1).astype(int).T
    ratio = np.log(at(texture, vertex_uv) / fitted_albedo[row, column])
    assert np.median(np.abs(ratio[seen > 0.95])) < 0.03
    unseen_inside = (seen == 0) & ~skin
    assert np.median(np.abs(ratio[unseen_inside])) < 0.03
    # Without occlusion the inside of the head would be several times brighter.
    occlusion = np.asarray(model.occlusion)[row, column]
    assert np.median(-np.log(occlusion[unseen_inside])) > 1


def test_meshes_are_exact_and_carry_texture_and_expressions(fitted, folder):
    solution, _, _ = fitted
    model, face = solution.model, solution.prediction.face
    png = (folder / "texture.png").read_bytes()
    glb = pygltflib.GLTF2.load(str(folder / "canonical.glb"))
    blob = glb.binary_blob()

    def view(index, dtype, columns=1):
        part = glb.bufferViews[index]
        return np.frombuffer(blob[part.byteOffset : part.byteOffset + part.byteLength], dtype).reshape(-1, columns)

    def attribute(index, columns):
        accessor = glb.accessors[index]
        if accessor.bufferView is not None:
            return view(accessor.bufferView, np.float32, columns)
        dense = np.zeros((accessor.count, columns), np.float32)
        dense[view(accessor.sparse.indices.bufferView, np.uint32)[:, 0]] = view(
            accessor.sparse.values.bufferView, np.float32, columns
        )
        np.testing.assert_array_equal([dense.min(0), dense.max(0)], np.float32([accessor.min, accessor.max]))
        return dense

    mesh = glb.meshes[0]
    primitive = mesh.primitives[0]
    count = model.shape.n_vertices
    assert mesh.extras["targetNames"] == list(model.shape.expression_names) and len(mesh.extras["targetNames"]) == 52
    assert (
        sum(glb.accessors[t["POSITION"]].sparse is not None for t in primitive.targets) > 26
    )  # most expressions are local
    positions = attribute(primitive.attributes.POSITION, 3).astype(np.float64)
    shapes = np.asarray(model.shape.modes)[model.shape.n_identity :].reshape(52, -1, 3)
    for target, expected in zip(primitive.targets, shapes):
        np.testing.assert_array_equal(attribute(target["POSITION"], 3)[:count], expected)
    moved = positions[:count] + np.tensordot(mesh.weights, shapes, 1)
    np.testing.assert_allclose(moved, np.asarray(face.vertices), atol=1e-7)
    material = glb.materials[0].pbrMetallicRoughness
    assert material.metallicFactor == 0 and material.roughnessFactor == 0.6 and material.baseColorTexture.index == 0
    image = glb.bufferViews[glb.images[0].bufferView]
    assert blob[image.byteOffset : image.byteOffset + image.byteLength] == png
    corners = view(glb.accessors[primitive.indices].bufferView, np.uint32, 3)
    uv = attribute(primitive.attributes.TEXCOORD_0, 2)
    expected_uv = np.asarray(model.uv)[np.asarray(model.uv_triangles)]
    np.testing.assert_array_equal(uv[corners][..., 0], expected_uv[..., 0])
    np.testing.assert_allclose(1 - uv[corners][..., 1], expected_uv[..., 1], atol=1e-7)

    posed = np.asarray(solution.prediction.vertices_camera, np.float64) * [1, -1, -1]
    obj = read_obj(folder / "posed.obj")
    np.testing.assert_array_equal(obj.vertices.astype(np.float32), posed.astype(np.float32))
    np.testing.assert_array_equal(obj.uv[obj.uv_triangles].astype(np.float32), expected_uv)
    np.testing.assert_array_equal(obj.triangles, np.asarray(model.triangles))
    assert obj.texture == "texture.png" and (folder / obj.texture).is_file()


def test_obj_and_glb_show_the_same_texel_at_the_same_vertex(fitted, folder):
    """Another reader's rules (trimesh): both files lead to the iris at the middle of an eyeball and to lips between the mouth's corners."""
    trimesh = pytest.importorskip("trimesh")
    model = fitted[0].model
    obj = trimesh.load(folder / "posed.obj", process=False, maintain_order=True)
    glb = trimesh.load(folder / "posed.glb", process=False, maintain_order=True, force="mesh")
    images = np.asarray(obj.visual.material.image), np.asarray(glb.visual.material.baseColorTexture)
    np.testing.assert_array_equal(images[0][..., :3], images[1][..., :3])
    count = model.shape.n_vertices
    colours = [
        trimesh.visual.color.uv_to_color(mesh.visual.uv[:count], Image.fromarray(image)).astype(int)[:, :3]
        for mesh, image in zip((obj, glb), images)
    ]
    # A vertex on a seam has several coordinates, and readers keep one of them each.
    assert (np.abs(colours[0] - colours[1]).max(1) <= 2).mean() > 0.98
    vertices, triangles, region = (np.asarray(x) for x in (model.shape.mean, model.triangles, model.triangle_region))
    eyes = np.unique(triangles[region == 1])
    eye = eyes[vertices[eyes, 0] > 0]
    pupil = eye[np.argmax(vertices[eye, 2])]
    # Of what lids leave open: behind them occlusion is painted, and the white of the eye is dark.
    front = eye[vertices[eye, 2] > vertices[pupil, 2] - 0.0035]
    white = front[np.argmax(np.abs(vertices[front, 0] - vertices[pupil, 0]))]
    for colour in colours:
        assert colour[pupil].sum() < 0.6 * colour[white].sum()


def test_report_and_turntable(folder):
    report = json.loads((folder / "report.json").read_text())
    assert set(report["files"]) == RESULT_FILES
    light = np.array(report["light"]["coefficients"])
    assert light.shape == (9, 3) and len(report["light"]["order"]) == 9 and (light[0] > 0).all()
    assert report["albedo"] == {"codes": 58, "residual": ["detail_albedo", "detail_shape"]}
    psnr = report["photometric"]["psnr_decibels"]
    # The photo is the render, rounded to eight bits and resampled into the crop; the model alone lacks a residual of about ±20 %.
    assert psnr["with_residual"] > 36 and 18 < psnr["model_only"] < psnr["with_residual"] - 6
    assert report["photometric"]["trusted_pixels"] > 1000
    gif = (folder / "turntable.gif").read_bytes()
    with Image.open(io.BytesIO(gif)) as image:
        assert (image.n_frames, image.size, image.info["loop"]) == (24, (320, 320), 0)
        frames = []
        for k in (0, 6, 12, 18):
            image.seek(k)
            frames.append(np.array(image.convert("RGB")).astype(int))
    assert len(gif) < 2 << 20
    np.testing.assert_array_equal(frames[1], frames[3])
    covered = [np.abs(f - f[0, 0]).max(-1) > 30 for f in frames]
    # From -60 to 60 degrees the silhouette is mirrored, as far as the head is symmetric.
    assert (covered[0] & covered[2][:, ::-1]).sum() > 0.93 * covered[0].sum() and 0.1 < covered[0].mean() < 0.7
    assert not covered[0][:, [0, -1]].any() and not covered[1][[0, -1]].any()
    np.testing.assert_allclose(turntable_yaws(4), [-60, 0, 60, 0], atol=1e-6)


def test_overlay_is_a_grid_of_eight(folder):
    overlay = read(folder / "overlay.png")
    assert overlay.ndim == 3 and overlay.shape[1] > 1.2 * overlay.shape[0]
    assert overlay.shape[1] <= 4 * 480 + 5 * 8


def test_a_large_head_is_drawn_smaller_in_the_same_place(fitted, monkeypatch):
    solution, _, _ = fitted
    exact = picture.draw_head(solution.prediction, WIDTH, HEIGHT)
    monkeypatch.setattr(picture, "MAXIMUM_SIDE", 96)
    small = picture.draw_head(solution.prediction, WIDTH, HEIGHT)
    assert exact.scale == 1 and 0.4 < small.scale < 0.8
    images = []
    for drawn in (exact, small):
        rgba = np.round(np.concatenate([np.clip(drawn.colour, 0, 1), drawn.alpha[..., None]], -1) * 255).astype(
            np.uint8
        )
        images.append(picture.place(rgba, drawn, WIDTH, HEIGHT).astype(float))
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    centres = [[(a[..., 3] * c).sum() / a[..., 3].sum() for c in (x, y)] for a in images]
    np.testing.assert_allclose(centres[0], centres[1], atol=0.05)
    both = (images[0][..., 3] == 255) & (images[1][..., 3] == 255)
    assert np.median(np.abs(images[0] - images[1])[both]) <= 2
    depths = [picture.place(np.where(d.covered, d.depth, 0), d, WIDTH, HEIGHT) for d in (exact, small)]
    both = (depths[0] > 0) & (depths[1] > 0)
    assert both.sum() > 0.95 * (depths[0] > 0).sum() and np.median(np.abs(depths[0] - depths[1])[both]) < 2e-4


def test_a_head_beyond_the_photos_border(fitted):
    solution, _, _ = fitted
    drawn = picture.draw_head(solution.prediction, WIDTH // 2, HEIGHT // 2)
    whole = picture.draw_head(solution.prediction, WIDTH, HEIGHT)
    a = picture.place(np.where(drawn.covered, drawn.depth, 0), drawn, WIDTH // 2, HEIGHT // 2)
    b = picture.place(np.where(whole.covered, whole.depth, 0), whole, WIDTH, HEIGHT)[: HEIGHT // 2, : WIDTH // 2]
    assert (a > 0).sum() > 1000 and (np.abs(a - b) > 1e-4).mean() < 1e-3


def test_encoders_refuse_what_they_cannot_write():
    with pytest.raises(fj.FitjaxError, match="expected uint8"):
        encode_png(np.zeros((4, 4, 3), np.float32))
    with pytest.raises(fj.FitjaxError, match="one or more"):
        encode_gif([])
    grey = (np.arange(12).reshape(3, 4) * 5000).astype(np.uint16)
    with Image.open(io.BytesIO(encode_png(grey, {"key": "value"}))) as image:
        assert image.text == {"key": "value"}
        np.testing.assert_array_equal(np.array(image), grey)


def test_khronos_validator_finds_nothing(folder):
    from benchmarks.validate_glb import Unavailable, validate

    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    try:
        issues = validate([folder / "canonical.glb", folder / "posed.glb"])
    except (Unavailable, subprocess.SubprocessError) as error:
        pytest.skip(str(error))
    assert [(i["numErrors"], i["numWarnings"]) for i in issues] == [(0, 0), (0, 0)]


def test_another_model_a_weak_perspective_camera_and_no_residual(tmp_path):
    rng = np.random.default_rng(5)
    waves = smooth_map(rng, 32, 32, 3)[None] * 0.2
    albedo = LinearAlbedo(jnp.full((32, 32, 3), 0.4), jnp.asarray(waves), jnp.ones(1))
    model = textured_model(linear_model(toy_basis(tmp_path)), albedo)
    truth, observation = scene(model.shape, rng, "aflw68", angles=(5.0, 10.0, 5.0))
    camera = replace(observation.camera, kind="weak_perspective")
    photo = photo_from_array(np.full((480, 640, 3), 120, np.uint8))
    observation = with_image(replace(observation, camera=camera), photo, size=64)
    params = {**truth, "albedo": jnp.ones(1), "light": jnp.zeros(27)}
    solution = Solution(
        params, Status.CONVERGED, {"all": 1}, {"all": {"landmarks": np.zeros(2)}}, 0.0, 0.0, model, observation, {}, []
    )  # fmt: skip
    write_result(tmp_path / "out", solution, photo)
    assert {p.name for p in (tmp_path / "out").iterdir()} == RESULT_FILES
    render = read(tmp_path / "out" / "render.png")
    assert (render[..., 3] == 255).sum() > 500
    np.testing.assert_array_equal(render, read(tmp_path / "out" / "render_model.png"))
    texture = read(tmp_path / "out" / "texture.png")
    expected = np.asarray(srgb_from_linear(solution.prediction.face.albedo)) * 255
    np.testing.assert_allclose(texture[16::32, 16::32][2:-2, 2:-2], expected[2:-2, 2:-2], atol=3)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["albedo"]["residual"] == [] and report["render_scale"] == 1
    psnr = report["photometric"]["psnr_decibels"]
    assert psnr["model_only"] == psnr["with_residual"]


def test_a_textured_model_without_pixels_has_the_files_of_a_mesh(tmp_path):
    model = textured_model(
        linear_model(toy_basis(tmp_path)), LinearAlbedo(jnp.full((8, 8, 3), 0.4), jnp.zeros((1, 8, 8, 3)), jnp.ones(1))
    )
    truth, observation = scene(model.shape, np.random.default_rng(6), "aflw68")
    params = {**truth, "albedo": jnp.ones(1), "light": jnp.zeros(27)}
    solution = Solution(
        params, Status.CONVERGED, {"all": 1}, {"all": {"landmarks": np.zeros(2)}}, 0.0, 0.0, model, observation, {}, []
    )  # fmt: skip
    write_result(tmp_path / "out", solution, photo_from_array(np.full((480, 640, 3), 120, np.uint8)))
    assert {p.name for p in (tmp_path / "out").iterdir()} == MESH_FILES
