"""DECA's dictionaries: FLAME and its camera, in NumPy, put the vertices where ours do; the light shines alike; the numbers come back."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from articulated import rodrigues
from foreign_heads import flame_arrays, write_flame_npz
from test_import_flame import flame_oracle

import fitjax as fj
from fitjax.geometry.convert import check_opencv
from fitjax.importers.flame import read_flame
from fitjax.interop.deca import from_deca, to_deca
from fitjax.interop.posed import Posed, project, vertices
from fitjax.model.basis_file import read_basis
from fitjax.model.basis_writer import serialise
from fitjax.model.light_prior import light_from_code
from fitjax.render.lighting import diffuse_shading


@pytest.fixture(scope="module")
def arrays():
    return flame_arrays()


@pytest.fixture(scope="module")
def basis(arrays, tmp_path_factory):
    """FLAME with 100 shapes and 50 expressions, as DECA has it."""
    folder = tmp_path_factory.mktemp("deca")
    found = read_flame(write_flame_npz(folder / "flame2020.npz", arrays), 100, 50)
    (folder / "flame.safetensors").write_bytes(serialise(found.tensors, found.metadata))
    return read_basis(folder / "flame.safetensors")


def face(kind="weak_perspective", joints=((0, 0, 0), (0.3, 0.05, -0.02), (0, 0, 0), (0, 0, 0)), **more):
    rng = np.random.default_rng(0)
    R = np.diag([1.0, -1, -1]) @ rodrigues(np.array([0.25, 0.6, -0.15]))
    camera = check_opencv(np.array([[1100.0, 0, 355.5], [0, 1100.0, 299.5], [0, 0, 1]]), R, [-0.04, 0.02, 0.9], 712, 600, kind)
    codes = {"identity": rng.normal(size=100), "expression": rng.normal(size=50), "joints": np.array(joints, float)}
    return Posed(codes | more, camera)


def deca_pixels(arrays, values):
    """DECA's decode and visualisation: FLAME, `batch_orth_proj`, y turned, `transform_points` with the inverse of tform."""
    pose = np.zeros((5, 3))
    pose[0], pose[2] = values["pose"][:3], values["pose"][3:]
    points = flame_oracle(arrays, values["shape"], values["exp"], pose)
    scale, x, y = values["cam"]
    ndc = scale * (points[:, :2] + [x, y]) * [1, -1]
    crop = (ndc * 0.5 + 0.5) * 224
    return (np.concatenate([crop, np.ones((len(crop), 1))], 1) @ np.linalg.inv(values["tform"]).T)[:, :2]


@pytest.mark.parametrize("box", [None, (180.0, 120.0, 480.0, 420.0)])
def test_its_formula_gives_our_pixels(arrays, basis, box):
    ours = face()
    found = to_deca(basis, ours, box)
    shapes = {k: v.shape for k, v in found.values.items()}
    assert shapes == {
        "shape": (100,), "exp": (50,), "pose": (6,), "cam": (3,), "light": (9, 3), "tex": (50,), "tform": (3, 3), "neck_pose": (3,), "eye_pose": (6,),
    }  # fmt: skip
    expected = project(vertices(basis, ours.codes), ours.camera)
    np.testing.assert_allclose(deca_pixels(arrays, found.values), expected, atol=1e-3)
    assert found.discrepancy < 1e-3 and found.notes == ()
    np.testing.assert_allclose(found.values["pose"], [0.25, 0.6, -0.15, 0.3, 0.05, -0.02], atol=1e-9)
    if box is not None:
        # tform maps the box onto the pixels 0 to 223.
        corners = found.values["tform"] @ [[180, 480], [120, 420], [1, 1]]
        np.testing.assert_allclose(corners[:2], [[0, 223], [0, 223]], atol=1e-9)


def test_the_dictionary_comes_back(basis):
    rng = np.random.default_rng(1)
    ours = face(light=rng.normal(size=27))
    found = to_deca(basis, ours)
    # DECA's arrays have a leading axis of one.
    back = from_deca(basis, {k: v[None] for k, v in found.values.items()}, ours.camera)
    for name in ours.codes:
        np.testing.assert_allclose(back.codes[name], ours.codes[name], atol=1e-4 if name == "light" else 1e-7)
    np.testing.assert_allclose(back.camera.R_camera_head, ours.camera.R_camera_head, atol=1e-9)
    np.testing.assert_allclose(back.camera.t_camera_head, ours.camera.t_camera_head, atol=1e-9)


def test_what_deca_cannot_hold_is_said(arrays, basis):
    """Perspective, a turned neck, looking eyes: the figure is that of DECA's own formula."""
    joints = ((0.1, 0.2, 0.0), (0.2, 0, 0), (0, 0.3, 0), (0, 0.3, 0))
    ours = face("perspective", joints)
    found = to_deca(basis, ours)
    apart = np.linalg.norm(deca_pixels(arrays, found.values) - project(vertices(basis, ours.codes), ours.camera), axis=1).max()
    assert apart > 1 and found.discrepancy == pytest.approx(apart, abs=0.01)
    assert len(found.notes) == 2 and "no perspective" in found.notes[0] and "neck and eyes" in found.notes[1]
    np.testing.assert_array_equal(from_deca(basis, found.values, ours.camera).codes["joints"], joints)


def test_light_shines_alike(basis):
    """DECA's shading of a normal in its axes equals ours of the same normal in camera axes."""
    code = np.random.default_rng(2).normal(size=27)
    light = to_deca(basis, face(light=code)).values["light"]
    normal = np.random.default_rng(3).normal(size=(40, 3))
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    x, y, z = normal.T
    pi = np.pi
    first, second = (2 * pi / 3) * np.sqrt(3 / (4 * pi)), (pi / 4) * 3 * np.sqrt(5 / (12 * pi))
    constants = [1 / np.sqrt(4 * pi), *[first] * 3, *[second] * 3, (pi / 4) * 1.5 * np.sqrt(5 / (12 * pi)), (pi / 4) * 0.5 * np.sqrt(5 / (4 * pi))]
    harmonics = np.stack([np.ones(40), x, y, z, x * y, x * z, y * z, x**2 - y**2, 3 * z**2 - 1], 1) * constants
    ours = diffuse_shading(jnp.asarray(normal * [1, -1, -1]), light_from_code(jnp.asarray(code)))
    np.testing.assert_allclose(harmonics @ light, ours, atol=1e-5)
    np.testing.assert_allclose(harmonics @ to_deca(basis, face()).values["light"], 1, atol=1e-12)


def test_other_models_and_dictionaries(basis):
    ours = face()
    found = to_deca(basis, ours).values
    from fitjax.model.load import EMBEDDED, find_models

    with pytest.raises(fj.BasisError, match="DECA's dictionaries are of FLAME"):
        to_deca(read_basis(find_models()[EMBEDDED]), ours)
    with pytest.raises(fj.BasisError, match="'shape': 101 codes, but the model 'flame' was imported with 100"):
        from_deca(basis, found | {"shape": np.ones(101)}, ours.camera)
    with pytest.raises(fj.FitjaxError, match="expected 'cam', found"):
        from_deca(basis, {k: v for k, v in found.items() if k != "cam"}, ours.camera)
    with pytest.raises(fj.FitjaxError, match="'pose': expected 6 finite numbers"):
        from_deca(basis, found | {"pose": np.zeros(3)}, ours.camera)
    with pytest.raises(fj.FitjaxError, match="expected a square"):
        to_deca(basis, ours, (0, 0, 100, 90))
