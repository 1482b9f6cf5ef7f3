"""params.safetensors and camera.json: exact round trips, and one clear error for every kind of broken file."""

import contextlib
import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from fitjax.errors import FitjaxError, ParamsError
from fitjax.files.camera_json import camera_to_dict, read_camera_json, write_camera_json
from fitjax.files.params import load_params, save_params

PARAMS = {
    "pose": {"rotation": np.array([0.1, -0.2, 0.3]), "translation": np.float32([0, 0, 0.9])},
    "identity": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not contiguous
    "scale": np.float64(1.25),
    "steps": 7,
    "deep": {"er": {"flag": np.array([True, False])}},
}


def test_params_round_trip(tmp_path):
    path = tmp_path / "params.safetensors"
    metadata = {"model": "makehuman", "seed": 3, "losses": {"landmarks": 0.5}, "warnings": []}
    save_params(path, PARAMS, metadata)
    params, found = load_params(path)
    assert found == metadata
    assert set(params) == set(PARAMS) and set(params["pose"]) == {"rotation", "translation"}
    for got, want in (
        (params["pose"]["rotation"], PARAMS["pose"]["rotation"]),
        (params["pose"]["translation"], PARAMS["pose"]["translation"]),
        (params["identity"], PARAMS["identity"]),
        (params["scale"], PARAMS["scale"]),
        (params["steps"], np.asarray(7)),
        (params["deep"]["er"]["flag"], PARAMS["deep"]["er"]["flag"]),
    ):
        np.testing.assert_array_equal(got, want)
        assert got.dtype == np.asarray(want).dtype and got.shape == np.asarray(want).shape
    first = path.read_bytes()
    for _ in range(5):
        save_params(path, PARAMS, metadata)
        assert path.read_bytes() == first
    assert (8 + int.from_bytes(first[:8], "little")) % 8 == 0  # tensors aligned


def test_params_from_jax(tmp_path):
    path = tmp_path / "p.safetensors"
    save_params(path, {"a": jnp.arange(3.0), "b": jnp.ones(2, jnp.bfloat16)})
    params, metadata = load_params(path)
    np.testing.assert_array_equal(params["a"], [0, 1, 2])
    assert params["b"].dtype == np.float32 and metadata == {}


def test_params_not_finite(tmp_path):
    path = tmp_path / "p.safetensors"
    save_params(path, {"pose": {"rotation": np.array([0, np.nan])}})
    with pytest.raises(ParamsError, match=r"p\.safetensors: pose/rotation holds a value that is not finite"):
        load_params(path)


def test_params_broken_files(tmp_path):
    path = tmp_path / "p.safetensors"
    save_params(path, PARAMS)
    whole = path.read_bytes()
    for cut in [0, 4, 8, 20, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:cut])
        with pytest.raises(ParamsError, match="not a whole safetensors file"):
            load_params(path)
    rng = np.random.default_rng(0)
    for _ in range(200):  # a changed byte: read or refused, never another exception
        broken = bytearray(whole)
        broken[rng.integers(0, len(whole))] = rng.integers(0, 256)
        path.write_bytes(broken)
        with contextlib.suppress(ParamsError):
            load_params(path)
    path.write_bytes(b"PK\x03\x04 not this at all")
    with pytest.raises(ParamsError, match="not a whole"):
        load_params(path)
    save_file({"a": np.ones(2)}, path)
    with pytest.raises(ParamsError, match="format None; expected 'fitjax-params/1'"):
        load_params(path)
    save_file({"a": np.ones(2)}, path, {"format": "fitjax-params/2"})
    with pytest.raises(ParamsError, match="fitjax-params/2"):
        load_params(path)
    save_file({"a": np.ones(2), "a/b": np.ones(2)}, path, {"format": "fitjax-params/1"})
    with pytest.raises(ParamsError, match="a/b"):
        load_params(path)
    with pytest.raises(ParamsError, match=r"cannot read .*none"):
        load_params(tmp_path / "none")


def test_params_refused_on_save(tmp_path):
    path = tmp_path / "p.safetensors"
    for params, message in (
        ({"a/b": 1.0}, "a/b"),
        ({"a": "text"}, "expected numbers"),
        ({"a": [1, "x"]}, "expected numbers"),
        ({"": 1.0}, "without '/'"),
    ):
        with pytest.raises(ParamsError, match=message):
            save_params(path, params)
    with pytest.raises(ParamsError, match="JSON"):
        save_params(path, {"a": 1.0}, {"b": object()})
    assert not path.exists()


def a_camera():
    angle = 0.3
    R = np.diag([1.0, -1, -1]) @ [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    K = np.array([[1234.5, 0, 319.7], [0, 1234.5, 240.1], [0, 0, 1]])
    return K, R, np.array([0.01, -0.02, 0.8]), 640, 480


@pytest.mark.parametrize("model", ["perspective", "weak_perspective"])
def test_camera_round_trip_and_consistency(tmp_path, model):
    K, R, t, width, height = a_camera()
    content = camera_to_dict(K, R, t, width, height, model)
    write_camera_json(tmp_path / "camera.json", content)
    assert json.loads((tmp_path / "camera.json").read_text()) == content
    camera = read_camera_json(tmp_path / "camera.json")
    np.testing.assert_array_equal(camera.K, K)
    np.testing.assert_array_equal(camera.R_camera_head, R)
    np.testing.assert_array_equal(camera.t_camera_head, t)
    assert camera[3:] == (width, height, model)
    # the file alone projects a point alike in OpenGL's words and in its own
    point = np.array([0.03, 0.05, 0.06])
    x, y, z = R @ point + t
    depth = z if model == "perspective" else t[2]
    pixel = np.array([K[0, 0] * x / depth + K[0, 2], K[1, 1] * y / depth + K[1, 2]])
    clip = np.array(content["opengl"]["projection"]) @ np.array(content["opengl"]["view"]) @ [*point, 1]
    window = [(clip[0] / clip[3] + 1) / 2 * width, (1 - clip[1] / clip[3]) / 2 * height]
    np.testing.assert_allclose(np.array(window) - 0.5, pixel, atol=1e-9)
    assert content["conventions"]["camera"] == (
        "OpenCV: x right, y down, z forward; centre of the top-left pixel at (0, 0)"
    )
    if model == "perspective":
        assert content["blender"]["type"] == "PERSP"
        assert content["blender"]["lens"] == pytest.approx(1234.5 * 36 / 640)
    else:
        assert content["blender"]["type"] == "ORTHO"
        assert content["blender"]["ortho_scale"] == pytest.approx(640 * 0.8 / 1234.5)
    assert content["pytorch3d"]["image_size"] == [480, 640]


def test_camera_of_a_user(tmp_path):
    K, R, t, width, height = a_camera()
    path = tmp_path / "mine.json"
    minimal = {"K": K.tolist(), "R": R.tolist(), "t": [[v] for v in t], "width": width, "height": height}
    path.write_text(json.dumps(minimal))
    camera = read_camera_json(path)
    np.testing.assert_array_equal(camera.t_camera_head, t)
    assert camera.model == "perspective"
    for change, message in (
        ({"K": None}, "K is not an array|K has shape"),
        ({"K": [[1, 2], [3]]}, "K is not an array"),
        ({"R": [[1, 0, 0], [0, 2, 0], [0, 0, 1]]}, "not a rotation"),
        ({"t": ["a", 1, 2]}, "mine.json"),
        ({"width": 0}, "positive width"),
        ({"width": 640.5}, "whole pixels"),
        ({"width": "640"}, "whole pixels"),
        ({"format": "fitjax-camera/9"}, "fitjax-camera/9"),
        ({"model": ["x"]}, "model"),
        ({"K": [[float("nan"), 0, 0], [0, 1, 0], [0, 0, 1]]}, "not finite"),
    ):
        path.write_text(json.dumps({**minimal, **change}))
        with pytest.raises(FitjaxError, match=message):
            read_camera_json(path)
    for text, message in (("{", "not JSON"), ("[1]", "format 'list'"), ('{"K": 1}', "is missing")):
        path.write_text(text)
        with pytest.raises(FitjaxError, match=message):
            read_camera_json(path)
    with pytest.raises(FitjaxError, match="cannot read"):
        read_camera_json(tmp_path / "none.json")


def test_camera_with_skew_keeps_what_it_can():
    K, R, t, width, height = a_camera()
    K[0, 1] = 2.0
    content = camera_to_dict(K, R, t, width, height)
    assert "blender" not in content and "pytorch3d" not in content and "opengl" in content
