"""Synthetic portraits: pictures and truth agree with each other and with the model, seeds decide everything, files come back."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn

from fitjax.cli.main import UNUSABLE, main
from fitjax.errors import FitjaxError
from fitjax.geometry.rotation import aflw2000_from_rotation
from fitjax.render.texture import texel_from_uv
from fitjax.synth import LABELS, SynthSettings, load_synth, sample_batches
from fitjax.synth.camera_effects import _CHROMA, _LUMA, _YCC, blur, quantise
from fitjax.synth.occluders import distance_to_segments, grid, inside_polygon
from fitjax.synth.settings import check_settings
from fitjax.synth.write import contact_sheet, truth_arrays, write_dataset

SETTINGS = SynthSettings(size=64)
COUNT = 12


@pytest.fixture(scope="module")
def model():
    return load_synth(48, 56)


@pytest.fixture(scope="module")
def samples(model):
    """Twelve portraits on the host."""
    batch = jax.device_get(next(sample_batches(model, SETTINGS, seed=7, batch=COUNT)))
    return [jax.tree.map(lambda x, i=i: x[i], batch) for i in range(COUNT)]


def test_projections_are_the_parameters(model, samples):
    """Points and pixels from the parameters in NumPy, double precision; the pose from the rotation; yaw over most of the range."""
    for one in samples[:4]:
        code = np.concatenate([one.params["identity"], one.params["expression"]]).astype(np.float64)
        R, t = (one.params["pose"][k].astype(np.float64) for k in ("rotation", "translation"))
        for name in ("aflw68", "ibug68", "mediapipe478"):
            part = model.shape.sampled[name]
            points = (np.asarray(part.mean, np.float64) + (code @ np.asarray(part.modes, np.float64)).reshape(-1, 3)) @ R.T + t
            np.testing.assert_allclose(one.points[name], points, atol=2e-6)
            pixels = one.camera.focal * points[:, :2] / points[:, 2:] + one.camera.centre
            np.testing.assert_allclose(one.pixels[name], pixels, atol=2e-3)
        np.testing.assert_allclose(np.degrees(aflw2000_from_rotation(jnp.asarray(R, jnp.float32))), one.pose, atol=0.05)
        low, high = np.asarray(model.shape.expression_lower), np.asarray(model.shape.expression_upper)
        assert (one.params["expression"] >= low).all() and (one.params["expression"] <= high).all()
    poses = np.array([s.pose for s in samples])
    assert (np.abs(poses) <= [45, 90, 45]).all() and np.ptp(poses[:, 1]) > 90


def test_maps_agree_with_each_other(model, samples):
    """Depth and texture coordinates exist just where the head is; what is visible is face and unlabelled by occluders; labels are of the table."""
    for one in samples:
        assert ((one.depth > 0) == one.head).all()
        assert not one.uv[~one.head].any() and (one.uv[one.head] >= 0).all() and (one.uv[one.head] <= 1).all()
        assert not (one.visible & ~one.head).any()
        in_front = np.isin(one.labels, [LABELS.index(x) for x in ("hair", "glasses", "occluder")])
        assert not (one.visible & in_front).any()
        assert one.labels.max() < len(LABELS)
        assert not ((one.labels > 0) & ~one.head & ~in_front).any()
    assert {LABELS[k] for one in samples for k in np.unique(one.labels)} >= {"skin", "nose", "hair", "occluder"}


def test_uv_and_depth_lead_back_to_the_points(model, samples):
    """A landmark that is not hidden lies on the surface drawn at its pixel: the same depth, and the same texture coordinates."""
    part = model.shape.sample_library["mediapipe478"]
    corners = np.asarray(model.shape.uv)[np.asarray(model.shape.uv_triangles)[np.asarray(part.triangle)]]
    wanted = (corners * np.asarray(part.barycentric)[..., None]).sum(1)
    on_skin = np.asarray(model.shape.triangle_region)[np.asarray(part.triangle)] == 0
    depth_errors, uv_errors = [], []
    for one in samples:
        seen = ~one.hidden["mediapipe478"] & on_skin
        x, y = np.round(one.pixels["mediapipe478"][seen]).astype(int).T
        drawn = one.head[y, x]
        depth_errors += list(np.abs(one.depth[y, x] - one.points["mediapipe478"][seen][:, 2])[drawn])
        texel = np.asarray(texel_from_uv(jnp.asarray(one.uv[y, x]), 256, 256) - texel_from_uv(jnp.asarray(wanted[seen]), 256, 256))
        uv_errors += list(np.linalg.norm(texel, axis=1)[drawn])
    assert len(depth_errors) > 500
    assert np.median(depth_errors) < 1.5e-3 and np.quantile(depth_errors, 0.95) < 8e-3  # a pixel of these small pictures is some 3 mm
    assert np.median(uv_errors) < 3


def test_seeds_decide_and_batches_do_not(model, samples):
    again = next(sample_batches(model, SETTINGS, seed=7, batch=COUNT, first=3))
    np.testing.assert_array_equal(again.image[0], samples[3].image)
    assert np.abs(samples[0].image - samples[1].image).mean() > 0.02
    assert all(s.image.min() >= 0 and s.image.max() <= 1 and s.image.std() > 0.03 for s in samples)


def test_files_come_back(model, samples, tmp_path):
    sheet = write_dataset(model, SETTINGS, tmp_path, 3, seed=7, batch=COUNT)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["dataset.json", "sheet.png", *[f"{i:06d}{e}" for i in range(3) for e in (".png", ".npz")]]
    )
    image = np.asarray(Image.open(tmp_path / "000002.png"))
    np.testing.assert_array_equal(image, (samples[2].image * 255 + 0.5).astype(np.uint8))
    with np.load(tmp_path / "000002.npz", allow_pickle=False) as stored:
        wanted = truth_arrays(samples[2])
        assert set(stored) == set(wanted)
        for name in wanted:
            np.testing.assert_array_equal(stored[name], wanted[name])
    assert json.loads((tmp_path / "dataset.json").read_text())["labels"] == list(LABELS)
    assert Image.open(sheet).size == (8 * 64, 64)
    with pytest.raises(FitjaxError, match="dataset of other settings"):
        write_dataset(model, SETTINGS, tmp_path, 3, seed=8)


def test_contact_sheet_keeps_the_order():
    images = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    sheet = contact_sheet(images)
    assert sheet.shape == (4, 16, 3)
    assert (sheet[0, ::2, 0] == np.arange(8)).all() and (sheet[2, ::2, 0] == [8, 9] + [255] * 6).all()


@pytest.mark.parametrize("quality", [20.0, 80.0])
def test_quantisation_is_jpegs(quality):
    """Against SciPy's cosine transform, block by block."""
    image = np.random.default_rng(0).uniform(0.2, 0.8, (16, 24, 3))
    scale = 50 / quality if quality < 50 else 2 - quality / 50
    ycc = image * 255 @ _YCC.T - np.array([128, 0, 0])
    back = np.zeros_like(ycc)
    for c, table in enumerate((_LUMA, _CHROMA, _CHROMA)):
        table = np.maximum(np.floor(table * scale + 0.5), 1)
        for y in range(0, 16, 8):
            for x in range(0, 24, 8):
                block = np.s_[y : y + 8, x : x + 8]
                coefficients = np.round(dctn(ycc[block][..., c], norm="ortho") / table) * table
                back[block][..., c] = dctn(coefficients, norm="ortho", type=3)
    wanted = np.clip((back + np.array([128, 0, 0])) @ np.linalg.inv(_YCC).T / 255, 0, 1)
    # A coefficient that lies half-way between two steps may round either way in single precision.
    assert np.mean(np.abs(np.asarray(quantise(jnp.asarray(image, jnp.float32), quality)) - wanted) < 2e-3) > 0.98


def test_blur_keeps_a_plain_picture_and_widens_a_point():
    np.testing.assert_allclose(blur(jnp.full((24, 24, 1), 0.3), 2.0), 0.3, atol=1e-6)
    spread = np.asarray(blur(jnp.zeros((41, 41, 1)).at[20, 20].set(1.0), 2.0))[..., 0]
    x = np.arange(41) - 20
    assert spread.sum() == pytest.approx(1, abs=1e-5)
    assert (spread.sum(0) * x**2).sum() == pytest.approx(4, abs=0.05)


def test_shapes_that_occluders_are_made_of():
    at = grid(8)
    square = jnp.array([[1.5, 1.5], [5.5, 1.5], [5.5, 4.5], [1.5, 4.5]])
    inside = np.zeros((8, 8), bool)
    inside[2:5, 2:6] = True
    np.testing.assert_array_equal(inside_polygon(at, square), inside)
    distance, share = distance_to_segments(at, jnp.array([[1.0, 1.0]]), jnp.array([[5.0, 1.0]]))
    assert float(distance[4, 3, 0]) == pytest.approx(3) and float(share[4, 3, 0]) == pytest.approx(0.5)
    assert float(distance[1, 7, 0]) == pytest.approx(2)


@pytest.mark.parametrize(("name", "value"), [("size", 65), ("size", 8), ("yaw", 120.0), ("hair", 1.5), ("share_high", 0.1), ("noise", float("nan"))])
def test_settings_that_cannot_be(name, value):
    with pytest.raises(FitjaxError, match=f"synth: {name}"):
        check_settings(SynthSettings(**{name: value}))


def test_command_line_says_what_is_wrong(tmp_path, capsys):
    assert main(["synth", "--out", str(tmp_path / "a"), "--size", "100"]) == UNUSABLE
    assert "synth: size: expected a multiple of 8, found 100" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
