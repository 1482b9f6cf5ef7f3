"""``fitjax fit --same-person``: three photos of one person tell more of the head than one."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures_images import face68
from PIL import Image
from scenes import random_truth, render_landmarks

import fitjax as fj
from fitjax.cli.main import main
from fitjax.files.params import load_params
from fitjax.geometry.rotation import rotation_from_aflw2000

NAME = "mediapipe478"
SIZE = (640, 480)
OPTIONS = ("--stages", "landmarks", "--level", "0", "--workers", "0")


@pytest.fixture(scope="module")
def model():
    return fj.load_basis(level=0)


def _photos(folder, model, person: int) -> np.ndarray:
    """Three photos of a random head from the front and both sides, with landmarks off by one pixel; its identity code."""
    rng = np.random.default_rng(person)
    identity = random_truth(model, rng)["identity"]
    for i, yaw in enumerate((0, -30, 30)):
        truth = random_truth(model, rng, depth=(0.5, 0.8)) | {"identity": identity}
        angles = np.radians([rng.uniform(-10, 10), yaw, rng.uniform(-10, 10)])
        truth["pose"]["rotation"] = jnp.asarray(rotation_from_aflw2000(jnp.asarray(angles)), jnp.float32)
        points = render_landmarks(model, truth, NAME, fj.make_camera(*SIZE))
        np.save(folder / f"view{i}.npy", points + rng.normal(size=points.shape))
        Image.fromarray(np.full((SIZE[1], SIZE[0], 3), 120, np.uint8)).save(folder / f"view{i}.png")
    return np.asarray(identity)


def test_three_photos_against_one(model, tmp_path, capsys):
    decode = jax.jit(lambda code: model.decode_samples({"identity": code, "expression": jnp.zeros(model.n_expression)}, NAME).position)

    def error(code, truth) -> float:
        """Millimetres over the face: nothing in a photo tells the skull."""
        return 1000 * float(jnp.linalg.norm(decode(jnp.asarray(code)) - decode(jnp.asarray(truth)), axis=1).mean())

    one, three = [], []
    for person in range(2):
        folder = tmp_path / f"person{person}"
        folder.mkdir()
        truth = _photos(folder, model, person)
        views = [str(folder / f"view{i}.png") for i in range(3)]
        out = folder / "out"
        (folder / "page.png").write_bytes(b"<html></html>")  # it is named, and the others are fitted
        assert main(["fit", *views, str(folder / "page.png"), "--landmarks", str(folder), "--same-person", "-o", str(out), *OPTIONS]) == 1
        captured = capsys.readouterr()
        assert "3 of 4 fitted" in captured.out and "page.png" in captured.err and captured.err.count("\n") == 1
        found = [load_params(out / f"view{i}" / "params.safetensors")[0] for i in range(3)]
        for other in found[1:]:
            np.testing.assert_array_equal(other["identity"], found[0]["identity"])
            assert np.abs(other["expression"] - found[0]["expression"]).max() > 0.05
        for i in range(3):
            report = json.loads((out / f"view{i}" / "report.json").read_text())
            assert report["status"] == "converged" and report["reliable"]
        assert main(["fit", views[0], "--landmarks", str(folder), "-o", str(folder / "alone"), *OPTIONS]) == 0
        one.append(error(load_params(folder / "alone" / "view0" / "params.safetensors")[0]["identity"], truth))
        three.append(error(found[0]["identity"], truth))
    capsys.readouterr()
    assert np.mean(three) < 0.7 * np.mean(one)


def test_what_cannot_go_together(tmp_path, model, capsys):
    _photos(tmp_path, model, 0)
    views = [str(tmp_path / f"view{i}.png") for i in range(3)]
    common = ["fit", *views, "--landmarks", str(tmp_path), "--same-person", "-o", str(tmp_path / "out"), *OPTIONS]
    for more in ("--pack", "--all-faces"):
        assert main([*common, more]) == 2
        line = capsys.readouterr().err
        assert "--same-person" in line or "--all-faces" in line
    (tmp_path / "view1.npy").unlink()
    np.save(tmp_path / "view1.npy", face68() + 50)
    assert main(common) == 2 and "different sets of landmarks" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
