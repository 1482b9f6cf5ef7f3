"""3DDFA's 62 numbers: its own formula puts the vertices where ours do, and the numbers come back."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from articulated import rodrigues
from toy import toy_tensors

import fitjax as fj
from fitjax.geometry.convert import check_opencv
from fitjax.importers.tddfa import read_tddfa
from fitjax.interop.posed import Posed, project, vertices
from fitjax.interop.tddfa import from_3ddfa, to_3ddfa
from fitjax.model.basis_file import read_basis
from fitjax.model.basis_writer import serialise


@pytest.fixture(scope="module")
def arrays():
    """The arrays of 3DDFA's folder, in micrometres, of the toy head."""
    rng = np.random.default_rng(0)
    tensors, _ = toy_tensors(0, 16, 18)
    mean = (tensors["mean"].astype(float) + np.array([0, 0.02, 0.05])) * 1e6
    count = len(mean)
    smooth = np.exp(-((mean[:, None] - mean[None, rng.choice(count, 50)]) ** 2).sum(-1) / 5e4**2)
    modes = np.einsum("vm,mc->vcm", smooth, rng.normal(size=(50, 3))).reshape(3 * count, 50)
    sigma = np.append(rng.uniform(1e5, 6e5, 40), rng.uniform(1, 3, 10))
    modes = modes * 800 / sigma
    front = rng.choice(np.flatnonzero(mean[:, 2] > 0.08 * 1e6), 68)
    return {
        "u_shp": mean.reshape(-1, 1), "u_exp": np.zeros((3 * count, 1)), "w_shp_sim": modes[:, :40], "w_exp_sim": modes[:, 40:],
        "keypoints_sim": (3 * front[:, None] + np.arange(3)).ravel(), "tri": tensors["triangles"], "sigma": sigma,
    }  # fmt: skip


@pytest.fixture(scope="module")
def basis(arrays, tmp_path_factory):
    folder = tmp_path_factory.mktemp("3ddfa")
    for name in ("u_shp", "u_exp", "w_shp_sim", "w_exp_sim"):
        np.save(folder / f"{name}.npy", arrays[name].astype(np.float32))
    np.save(folder / "keypoints_sim.npy", arrays["keypoints_sim"])
    np.save(folder / "tri.npy", arrays["tri"])
    whitening = {"param_mean": np.zeros(62), "param_std": np.append(np.ones(12), arrays["sigma"])}
    (folder / "param_whitening.pkl").write_bytes(pickle.dumps(whitening, protocol=2))
    found = read_tddfa(folder)
    (folder / "bfm.safetensors").write_bytes(serialise(found.tensors, found.metadata))
    return read_basis(folder / "bfm.safetensors")


def face(kind="weak_perspective", seed=0, fy=900.0):
    rng = np.random.default_rng(seed)
    R = np.diag([1.0, -1, -1]) @ rodrigues(np.array([0.2, -0.5, 0.1]))
    camera = check_opencv(np.array([[900.0, 0, 319.5], [0, fy, 239.5], [0, 0, 1]]), R, [0.03, -0.05, 0.8], 640, 480, kind)
    return Posed({"identity": rng.normal(size=40), "expression": rng.normal(size=10)}, camera)


def tddfa_pixels(arrays, param, roi_box):
    """3DDFA-V2's reconstruction of the dense vertices, as its `_parse_param`, `recon_dense` and `similar_transform` do it."""
    pose = param[:12].reshape(3, -1)
    shape = arrays["u_shp"] + arrays["u_exp"] + arrays["w_shp_sim"] @ param[12:52, None] + arrays["w_exp_sim"] @ param[52:, None]
    points = pose[:, :3] @ shape.reshape(3, -1, order="F") + pose[:, 3:]
    points[0] -= 1
    points[1] = 120 - points[1]
    left, top, right, bottom = roi_box
    return np.stack([points[0] * (right - left) / 120 + left, points[1] * (bottom - top) / 120 + top], 1)


@pytest.mark.parametrize("box", [None, (200.0, 90.0, 421.5, 333.0)])
def test_its_formula_gives_our_pixels(arrays, basis, box):
    """A box that is no square scales the two directions differently; P then is not quite a scaled rotation, and holds all the same."""
    ours = face()
    found = to_3ddfa(basis, ours, box)
    assert found.values["param"].shape == (62,) and found.notes == ()
    expected = project(vertices(basis, ours.codes), ours.camera)
    theirs = tddfa_pixels(arrays, found.values["param"], found.values["roi_box"])
    np.testing.assert_allclose(theirs, expected, atol=1e-3)
    assert found.discrepancy < 1e-3
    pose = found.values["param"][:12].reshape(3, 4)[:, :3]
    if box is None:
        scale = np.linalg.norm(pose, axis=1)
        np.testing.assert_allclose(scale, scale[0], rtol=1e-6)
        assert np.linalg.det(pose) > 0
        # The crop has y up and z towards the viewer: a head that looks at the camera has the identity.
        np.testing.assert_allclose(pose / scale[0], rodrigues(np.array([0.2, -0.5, 0.1])), atol=1e-6)


def test_the_numbers_come_back(basis):
    ours = face(seed=1)
    found = to_3ddfa(basis, ours)
    back = from_3ddfa(basis, found.values["param"], found.values["roi_box"], ours.camera)
    for name in ("identity", "expression"):
        np.testing.assert_allclose(back.codes[name], ours.codes[name], atol=1e-6)
    np.testing.assert_allclose(back.camera.R_camera_head, ours.camera.R_camera_head, atol=1e-7)
    np.testing.assert_allclose(back.camera.t_camera_head, ours.camera.t_camera_head, atol=1e-7)
    again = to_3ddfa(basis, back, found.values["roi_box"])
    np.testing.assert_allclose(again.values["param"], found.values["param"], rtol=1e-6, atol=1e-9)


def test_perspective_is_said_to_be_lost(arrays, basis):
    ours = face("perspective")
    found = to_3ddfa(basis, ours)
    theirs = tddfa_pixels(arrays, found.values["param"], found.values["roi_box"])
    apart = np.linalg.norm(theirs - project(vertices(basis, ours.codes), ours.camera), axis=1).max()
    assert apart > 1 and found.discrepancy == pytest.approx(apart, abs=0.01) and "no perspective" in found.notes[0]


def test_other_models_and_numbers(basis, tmp_path):
    from fitjax.model.load import EMBEDDED, find_models

    ours = face()
    with pytest.raises(fj.BasisError, match="3DDFA's numbers are of its own form of BFM with 40"):
        to_3ddfa(read_basis(find_models()[EMBEDDED]), ours)
    with pytest.raises(fj.BasisError, match=r"codes 'identity': the model .* has \(40,\), found \(3,\)"):
        to_3ddfa(basis, Posed({"identity": np.zeros(3), "expression": np.zeros(10)}, ours.camera))
    with pytest.raises(fj.FitjaxError, match="roi_box: expected left, top, right, bottom"):
        to_3ddfa(basis, ours, (5, 5, 5, 9))
    with pytest.raises(fj.FitjaxError, match="expected 62 finite numbers"):
        from_3ddfa(basis, np.zeros(61), (0, 0, 9, 9), ours.camera)
    with pytest.raises(fj.FitjaxError, match="without size"):
        from_3ddfa(basis, np.zeros(62), (0, 0, 9, 9), ours.camera)
