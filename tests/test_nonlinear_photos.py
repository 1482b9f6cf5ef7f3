"""Results of fits as a training set: what is read of a folder, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from nonlinear_scenes import CODES, lifted_model
from PIL import Image
from toy import toy_basis

import fitjax as fj
from fitjax.cli.main import UNUSABLE, main
from fitjax.files.camera_json import camera_to_dict, write_camera_json
from fitjax.files.params import save_params
from fitjax.image.photo import read_photo
from fitjax.model.load import linear_model
from fitjax.train.fitted_photos import CROP, read_fits


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return lifted_model(linear_model(toy_basis(tmp_path_factory.mktemp("toy"))))


@pytest.fixture
def folders(tmp_path, model):
    """Two fitted photos, the second not reliable, and one without its photo."""
    photos, fits = tmp_path / "photos", tmp_path / "fits"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for k, name in enumerate(("a.png", "b.png", "gone.png")):
        Image.fromarray(rng.integers(0, 255, (60, 80, 3), np.uint8)).save(photos / name)
        folder = fits / name[:-4]
        folder.mkdir(parents=True)
        sha = read_photo(photos / name).sha256
        (folder / "report.json").write_text(json.dumps({"reliable": k != 1, "photo": {"file": name, "sha256": sha}}))
        rotation, translation = np.diag([1.0, -1.0, -1.0]), np.array([0.01, 0.02, 0.5])
        K = [[90.0 + k, 0, 40], [0, 91.0, 30], [0, 0, 1]]
        write_camera_json(folder / "camera.json", camera_to_dict(K, rotation, translation, 80, 60))
        points = np.stack([np.linspace(20, 60, 68), 30 + 15 * np.sin(np.arange(68))], -1)
        (folder / "landmarks.json").write_text(json.dumps({"ibug68": points.tolist()}))
        codes = {name: 0.1 * (k + 1) * np.ones(v.shape, np.float32) for name, v in model.init().items()}
        pose = {"rotation": rotation.astype(np.float32), "translation": translation.astype(np.float32)}
        facts = {"model": "toy", "basis_sha256": model.shape.basis_sha256}
        save_params(folder / "params.safetensors", codes | {"pose": pose, "detail_albedo": np.zeros((4, 4, 3), np.float32)}, facts)
    (photos / "gone.png").unlink()
    return photos, fits


def test_what_a_fit_left_is_read(folders, model, tmp_path):
    photos, fits = folders
    masks = tmp_path / "masks"
    masks.mkdir()
    mask = np.zeros((60, 80), np.uint8)
    mask[:, :40] = 255
    Image.fromarray(mask).save(masks / "a.png")
    said: list[str] = []
    (face,) = read_fits(photos, fits, model, masks, said.append)
    assert face.name == "a" and "not reliable" in said[0] and "gone.png" in said[1]
    np.testing.assert_allclose(face.observation.camera.K, [[90, 0, 40], [0, 91, 30], [0, 0, 1]])
    assert face.observation.image.shape == (CROP, CROP, 3)
    assert set(face.params) == {"identity", "expression", "albedo", "light", "pose"}
    np.testing.assert_allclose(face.params["albedo"], np.full(CODES, 0.1), rtol=1e-6)
    # The mask's edge, column 39.5 of the photo, where the camera of the crop puts it.
    affine = np.asarray(face.observation.camera.crop_from_image)
    edge = affine[0, 0] * 39.5 + affine[0, 2]
    columns = np.flatnonzero(np.asarray(face.observation.image_valid).any(0))
    assert abs(columns.max() - edge) <= 1


def test_other_photos_and_fits_are_refused(folders, model):
    photos, fits = folders
    with pytest.raises(fj.FitjaxError, match="no such folder"):
        read_fits(photos / "nowhere", fits, model)
    facts = {"model": "toy", "basis_sha256": model.shape.basis_sha256}
    path = fits / "a" / "params.safetensors"
    whole = path.read_bytes()
    pose = {"rotation": np.eye(3, dtype=np.float32), "translation": np.ones(3, np.float32)}
    codes = {name: np.zeros(v.shape, np.float32) for name, v in model.init().items()} | {"pose": pose}
    for changed, about, message in (
        ({}, facts | {"basis_sha256": "0"}, "another basis"),
        ({"light": None}, facts, "has no light"),
        ({"identity": np.zeros(7, np.float32)}, facts, "identity of"),
    ):
        save_params(path, {k: v for k, v in (codes | changed).items() if v is not None}, about)
        with pytest.raises(fj.FitjaxError, match=message):
            read_fits(photos, fits, model, say=lambda text: None)
    path.write_bytes(whole)
    (fits / "a" / "landmarks.json").write_text("{}")
    with pytest.raises(fj.FitjaxError, match=r"landmarks\.json"):
        read_fits(photos, fits, model, say=lambda text: None)
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(photos / "a.png")
    with pytest.raises(fj.FitjaxError, match="not the photo that was fitted"):
        read_fits(photos, fits, model, say=lambda text: None)
    (photos / "a.png").unlink()
    with pytest.raises(fj.FitjaxError, match="fitjax fit"):
        read_fits(photos, fits, model, say=lambda text: None)


def test_options_that_need_each_other(tmp_path, capsys):
    assert main(["train", "decoder", "-o", str(tmp_path / "out"), "--images", str(tmp_path)]) == UNUSABLE
    assert "--fits" in capsys.readouterr().err
    assert main(["train", "decoder", "-o", str(tmp_path / "out"), "--masks", str(tmp_path)]) == UNUSABLE
    assert "--images" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
