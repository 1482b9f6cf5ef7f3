"""OBJ and GLB: exact vertices in order, texture coordinates, seams, morph targets, the texture the right way up."""

import io
import json
import shutil
import struct
import subprocess

import numpy as np
import pytest
from PIL import Image

from fitjax.errors import FitjaxError
from fitjax.files.glb import split_uv_seams, write_glb
from fitjax.files.obj import ObjMaterial, read_obj, write_obj

trimesh = pytest.importorskip("trimesh")


def tube(rows=6, columns=10):
    """A closed tube with a texture seam, float32 coordinates, and one vertex in no triangle."""
    rng = np.random.default_rng(0)
    angle = np.arange(columns) * 2 * np.pi / columns
    height = np.linspace(-0.1, 0.1, rows)
    points = np.stack(
        [np.tile(0.08 * np.cos(angle), rows), np.repeat(height, columns), np.tile(-0.08 * np.sin(angle), rows)], 1
    )
    points = (points + rng.normal(0, 1e-3, points.shape)).astype(np.float32)
    vertices = np.concatenate([points, np.float32([[1 / 3, -1e-7, 2e5]])])
    u, v = np.meshgrid(np.arange(columns + 1) / columns, np.arange(rows) / (rows - 1))
    uv = np.stack([u.ravel(), v.ravel()], 1).astype(np.float32)
    triangles, uv_triangles = [], []
    for row in range(rows - 1):
        for column in range(columns):
            right = (column + 1) % columns
            a, b = row * columns + column, row * columns + right
            c, d = a + columns, b + columns
            ta, tb = row * (columns + 1) + column, row * (columns + 1) + column + 1
            tc, td = ta + columns + 1, tb + columns + 1
            triangles += [[a, b, c], [b, d, c]]
            uv_triangles += [[ta, tb, tc], [tb, td, tc]]
    return vertices, np.array(triangles), uv, np.array(uv_triangles)


def png(image):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def four_corners():
    """A texture of four colours: red top left, green top right, blue bottom left, white bottom right."""
    image = np.zeros((8, 8, 3), np.uint8)
    image[:4, :4], image[:4, 4:], image[4:, :4], image[4:, 4:] = (255, 0, 0), (0, 255, 0), (0, 0, 255), 255
    return image


def quad():
    """A square facing +z with uv (0, 0) at its lower left: vertices and uv, and two triangles."""
    vertices = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
    return vertices, np.array([[0, 1, 2], [0, 2, 3]]), vertices[:, :2].copy()


def read_glb(path):
    """A literal reader of GLB: (json document, accessor index -> array, buffer view index -> bytes)."""
    data = path.read_bytes()
    magic, version, length = struct.unpack("<4sII", data[:12])
    assert (magic, version, length) == (b"glTF", 2, len(data))
    json_length, json_kind = struct.unpack("<I4s", data[12:20])
    assert json_kind == b"JSON" and json_length % 4 == 0
    document = json.loads(data[20 : 20 + json_length])
    bin_length, bin_kind = struct.unpack("<I4s", data[20 + json_length : 28 + json_length])
    assert bin_kind == b"BIN\0" and bin_length % 4 == 0
    blob = data[28 + json_length :]

    def view(index):
        entry = document["bufferViews"][index]
        assert entry["byteOffset"] % 4 == 0
        return blob[entry["byteOffset"] : entry["byteOffset"] + entry["byteLength"]]

    def array(index):
        accessor = document["accessors"][index]
        dtype = {5126: np.float32, 5125: np.uint32}[accessor["componentType"]]
        values = np.frombuffer(view(accessor["bufferView"]), dtype)
        values = values.reshape(accessor["count"], {"SCALAR": 1, "VEC2": 2, "VEC3": 3}[accessor["type"]])
        for key, bound in (("min", values.min(0)), ("max", values.max(0))):
            assert key not in accessor or (np.array(accessor[key], dtype) == bound).all()
        return values

    return document, array, view


# ---- OBJ


def test_obj_round_trip_is_exact(tmp_path):
    vertices, triangles, uv, uv_triangles = tube()
    normals = np.random.default_rng(1).normal(size=vertices.shape).astype(np.float32)
    path = tmp_path / "new folder" / "face.obj"
    write_obj(path, vertices, triangles, uv, uv_triangles, normals, ObjMaterial("skin", "texture.png"))
    mesh = read_obj(path)
    np.testing.assert_array_equal(mesh.vertices.astype(np.float32), vertices)
    np.testing.assert_array_equal(mesh.triangles, triangles)
    np.testing.assert_array_equal(mesh.uv.astype(np.float32), uv)
    np.testing.assert_array_equal(mesh.uv_triangles, uv_triangles)
    np.testing.assert_array_equal(mesh.normals.astype(np.float32), normals)
    assert mesh.texture == "texture.png"
    first = path.read_bytes()
    write_obj(path, vertices, triangles, uv, uv_triangles, normals, ObjMaterial("skin", "texture.png"))
    assert path.read_bytes() == first and b"\r" not in first
    text = first.decode()
    assert f"f {triangles[0, 0] + 1}/{uv_triangles[0, 0] + 1}/{triangles[0, 0] + 1} " in text
    assert "mtllib face.mtl" in text and "usemtl skin" in text
    assert sorted(p.name for p in path.parent.iterdir()) == ["face.mtl", "face.obj"]


@pytest.mark.parametrize("parts", ["v", "v vt", "v vn", "v vt vn"])
def test_obj_in_trimesh(tmp_path, parts):
    vertices, triangles, uv, _ = tube()
    uv = np.resize(uv, (len(vertices), 2))
    write_obj(
        tmp_path / "a.obj",
        vertices,
        triangles,
        uv if "vt" in parts else None,
        normals=np.ones(vertices.shape) if "vn" in parts else None,
    )
    mesh = trimesh.load(tmp_path / "a.obj", process=False, maintain_order=True)
    count = len(vertices) - 1  # trimesh leaves the unused one out when there are texture coordinates
    np.testing.assert_array_equal(np.asarray(mesh.vertices, np.float32)[:count], vertices[:count])
    np.testing.assert_array_equal(mesh.faces, triangles)
    if "vt" in parts:
        np.testing.assert_array_equal(np.asarray(mesh.visual.uv, np.float32)[:count], uv[:count])


def test_obj_texture_the_right_way_up(tmp_path):
    vertices, triangles, uv = quad()
    write_obj(tmp_path / "q.obj", vertices, triangles, uv, material=ObjMaterial("m", "t.png"))
    Image.fromarray(four_corners()).save(tmp_path / "t.png")
    mesh = trimesh.load(tmp_path / "q.obj", process=False, maintain_order=True)
    inside = 0.25 + 0.5 * np.asarray(mesh.vertices)[:, :2]
    colours = trimesh.visual.color.uv_to_color(inside, mesh.visual.material.image)[:, :3]
    # lower left blue, lower right white, upper right green, upper left red: as one sees it from the front
    np.testing.assert_array_equal(colours, [[0, 0, 255], [255, 255, 255], [0, 255, 0], [255, 0, 0]])
    np.testing.assert_array_equal(mesh.visual.uv, mesh.vertices[:, :2])


def test_read_obj_dialects(tmp_path):
    path = tmp_path / "x.obj"
    vertices = "v 0 0 0 1 0 0\nv 1 0 0\n\nv 1 1 0\nv 0 1 0\n"  # the first with a colour
    path.write_text(f"# c\no thing\n{vertices}s off\nf -4 -3 -2 -1\nf 1//1 2//1 3//1\n")
    mesh = read_obj(path)
    np.testing.assert_array_equal(mesh.triangles, [[0, 1, 2], [0, 2, 3], [0, 1, 2]])
    assert mesh.uv is None and mesh.vertices.shape == (4, 3)
    for bad, message in (("v 1 2\n", "line 1"), ("v 0 0 0\nf 1 2 3\n", "expected 0 to 0"), ("f 0 1 2\n", "line 1")):
        path.write_text(bad)
        with pytest.raises(FitjaxError, match=message):
            read_obj(path)
    with pytest.raises(FitjaxError, match="cannot read"):
        read_obj(tmp_path / "none.obj")


# ---- GLB


def test_split_uv_seams():
    vertices, triangles, uv, uv_triangles = tube()
    count = len(vertices)
    source, corners, out_uv = split_uv_seams(count, triangles, uv, uv_triangles)
    np.testing.assert_array_equal(source[:count], np.arange(count))
    assert len(source) == count + 6  # one copy per row of the seam
    np.testing.assert_array_equal(source[corners], triangles)
    np.testing.assert_array_equal(out_uv[corners], uv[uv_triangles])
    # coordinates stored twice with equal values make no seam
    every_other = np.arange(len(triangles))[:, None] % 2 * len(uv)
    doubled, _, _ = split_uv_seams(count, triangles, np.concatenate([uv, uv]), uv_triangles + every_other)
    assert len(doubled) == len(source)


def write_full_glb(path):
    vertices, triangles, uv, uv_triangles = tube()
    rng = np.random.default_rng(2)
    targets = {"jawOpen": rng.normal(0, 1e-3, vertices.shape), "eyeBlinkLeft": np.zeros(vertices.shape)}
    write_glb(
        path, vertices, triangles, uv, uv_triangles, morph_targets=targets, morph_weights={"jawOpen": 0.25},
        texture_png=png(four_corners()), name="head",
    )  # fmt: skip
    return vertices, triangles, uv, uv_triangles, targets


def test_glb_content(tmp_path):
    path = tmp_path / "face.glb"
    vertices, triangles, uv, uv_triangles, targets = write_full_glb(path)
    document, array, view = read_glb(path)
    mesh = document["meshes"][0]
    primitive = mesh["primitives"][0]
    positions, uv_out = array(primitive["attributes"]["POSITION"]), array(primitive["attributes"]["TEXCOORD_0"])
    normals, corners = array(primitive["attributes"]["NORMAL"]), array(primitive["indices"]).reshape(-1, 3)
    np.testing.assert_array_equal(positions[: len(vertices)], vertices)  # order and count, to the bit
    np.testing.assert_array_equal(positions[corners], vertices[triangles])
    np.testing.assert_array_equal(uv_out[corners][..., 0], uv[uv_triangles][..., 0])
    np.testing.assert_allclose(1 - uv_out[corners][..., 1], uv[uv_triangles][..., 1], atol=1e-7)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-6)
    copies = np.arange(len(vertices), len(positions))
    for copy in copies:  # smooth across the seam
        original = np.flatnonzero((positions[: len(vertices)] == positions[copy]).all(1))[0]
        np.testing.assert_array_equal(normals[copy], normals[original])
    side = np.abs(vertices[:-1, 1]) < 0.05
    outward = vertices[:-1][side] * [1, 0, 1] / np.linalg.norm(vertices[:-1][side][:, [0, 2]], axis=1)[:, None]
    assert (np.einsum("nk,nk->n", normals[: len(vertices) - 1][side], outward) > 0.9).all()
    assert mesh["extras"]["targetNames"] == ["jawOpen", "eyeBlinkLeft"] and mesh["weights"] == [0.25, 0.0]
    for target, delta in zip(primitive["targets"], targets.values()):
        np.testing.assert_array_equal(array(target["POSITION"])[: len(vertices)], delta.astype(np.float32))
    assert "min" in document["accessors"][primitive["attributes"]["POSITION"]]
    assert view(document["images"][0]["bufferView"]) == png(four_corners())
    assert document["nodes"][0]["name"] == mesh["name"] == "head"
    before = path.read_bytes()
    write_full_glb(path)
    assert path.read_bytes() == before


def test_glb_in_trimesh_and_texture_the_right_way_up(tmp_path):
    vertices, triangles, uv = quad()
    write_glb(tmp_path / "q.glb", vertices, triangles, uv, texture_png=png(four_corners()))
    document, array, _ = read_glb(tmp_path / "q.glb")
    stored = array(document["meshes"][0]["primitives"][0]["attributes"]["TEXCOORD_0"])
    np.testing.assert_array_equal(stored, [[0, 1], [1, 1], [1, 0], [0, 0]])  # glTF: (0, 0) is the texture's top left
    mesh = trimesh.load(tmp_path / "q.glb", process=False, maintain_order=True, force="mesh")
    np.testing.assert_array_equal(np.asarray(mesh.vertices, np.float32), vertices)
    np.testing.assert_array_equal(mesh.faces, triangles)
    inside = 0.25 + 0.5 * np.asarray(mesh.visual.uv)
    colours = trimesh.visual.color.uv_to_color(inside, mesh.visual.material.baseColorTexture)[:, :3]
    np.testing.assert_array_equal(colours, [[0, 0, 255], [255, 255, 255], [0, 255, 0], [255, 0, 0]])

    vertices, triangles, uv, uv_triangles, _ = write_full_glb(tmp_path / "t.glb")
    mesh = trimesh.load(tmp_path / "t.glb", process=False, maintain_order=True, force="mesh")
    np.testing.assert_array_equal(np.asarray(mesh.vertices, np.float32)[: len(vertices)], vertices)
    np.testing.assert_array_equal(np.asarray(mesh.vertices, np.float32)[mesh.faces], vertices[triangles])
    np.testing.assert_allclose(mesh.visual.uv[mesh.faces], uv[uv_triangles], atol=1e-6)


def test_glb_zero_area_and_bare(tmp_path):
    vertices = np.zeros((3, 3), np.float32)
    write_glb(tmp_path / "z.glb", vertices, np.array([[0, 1, 2]]))
    document, array, _ = read_glb(tmp_path / "z.glb")
    attributes = document["meshes"][0]["primitives"][0]["attributes"]
    np.testing.assert_array_equal(array(attributes["NORMAL"]), np.tile([0, 0, 1], (3, 1)))
    assert "weights" not in document["meshes"][0] and "images" not in document
    write_glb(tmp_path / "b.glb", vertices, np.array([[0, 1, 2]]), normals=False)
    assert list(read_glb(tmp_path / "b.glb")[0]["meshes"][0]["primitives"][0]["attributes"]) == ["POSITION"]


def test_khronos_validator(tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    if subprocess.run([node, "-e", "require('gltf-validator')"], capture_output=True, timeout=60).returncode:
        pytest.skip("npm package gltf-validator not found; install it and set NODE_PATH")
    write_full_glb(tmp_path / "full.glb")
    write_glb(tmp_path / "bare.glb", np.eye(3), np.array([[0, 1, 2]]), normals=False)
    vertices, triangles, uv = quad()
    write_glb(tmp_path / "uv.glb", vertices, triangles, uv)
    script = (
        "const v=require('gltf-validator'),fs=require('fs');(async()=>{for(const f of process.argv.slice(1)){"
        "const r=await v.validateBytes(new Uint8Array(fs.readFileSync(f)));console.log(JSON.stringify(r.issues));}})()"
    )
    files = [str(tmp_path / name) for name in ("full.glb", "bare.glb", "uv.glb")]
    result = subprocess.run([node, "-e", script, *files], capture_output=True, text=True, timeout=60, check=True)
    reports = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(reports) == 3
    for report in reports:
        assert (report["numErrors"], report["numWarnings"]) == (0, 0), report["messages"]


def test_mesh_errors(tmp_path):
    vertices, triangles, uv = quad()
    path = tmp_path / "e"
    broken = vertices.copy()
    broken[1, 1] = np.nan
    cases = [
        (lambda: write_obj(path, broken, triangles), "not finite"),
        (lambda: write_obj(path, vertices, triangles, uv[:3]), "3 uv for 4 vertices"),
        (lambda: write_obj(path, vertices, triangles, uv, triangles + 1), "expected 0 to 3"),
        (lambda: write_obj(path, vertices, triangles, normals=uv), "normals"),
        (lambda: write_obj(path, vertices, triangles, material=ObjMaterial("a\nb")), "line break"),
        (lambda: write_glb(path, broken, triangles), "not finite"),
        (lambda: write_glb(path, vertices, triangles, texture_png=png(four_corners())), "needs uv"),
        (lambda: write_glb(path, vertices, triangles, uv, texture_png=b"JFIF"), "PNG"),
        (lambda: write_glb(path, vertices, triangles[:0]), "no triangles"),
        (lambda: write_glb(path, vertices, triangles, morph_targets={"a": uv}), "'a' has shape"),
        (lambda: write_glb(path, vertices, triangles, morph_weights={"b": 1.0}), "'b'"),
        (lambda: write_glb(path, vertices, triangles, morph_weights=[1.0]), "1 morph weights for 0"),
    ]
    for call, message in cases:
        with pytest.raises(FitjaxError, match=message):
            call()
    assert list(tmp_path.iterdir()) == []  # nothing half-written
