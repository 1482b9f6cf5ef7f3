"""FLAME's files: `.pkl` of Python 2 with chumpy and sparse objects, `.npz`; skinning against NumPy; fits; what is no FLAME."""

from __future__ import annotations

import json
import pickle

import jax.numpy as jnp
import numpy as np
import pytest
from articulated import observed, rodrigues, skin
from foreign_heads import EYES, OFFSET, flame_arrays, write_embedding, write_flame_npz, write_flame_pkl

import fitjax as fj
from fitjax.importers.flame import JOINT_NAMES, read_flame, version_note
from fitjax.model.basis_file import read_basis
from fitjax.model.basis_writer import serialise
from fitjax.model.load import linear_model


@pytest.fixture(scope="module")
def arrays():
    return flame_arrays()


@pytest.fixture(scope="module")
def pkl(arrays, tmp_path_factory):
    return write_flame_pkl(tmp_path_factory.mktemp("flame") / "generic_model.pkl", arrays)


def flame_oracle(arrays, shape, expression, pose):
    """FLAME's own formula in float64, in its own space; ``pose`` (5, 3) with the root's rotation."""
    code = np.concatenate([shape, np.zeros(300 - len(shape)), expression, np.zeros(100 - len(expression))])
    shaped = arrays["v_template"] + arrays["shapedirs"] @ code
    centres = arrays["J_regressor"] @ shaped
    turns = np.stack([rodrigues(v) for v in pose])
    rest = shaped + arrays["posedirs"] @ (turns[1:] - np.eye(3)).reshape(-1)
    return skin(rest, centres, arrays["weights"], (-1, 0, 1, 1, 1), turns)


def in_model(tensors, metadata, tmp_path, **samples):
    for name, (triangle, weight) in samples.items():
        tensors = tensors | {f"samples.{name}.triangle": triangle.astype(np.int32), f"samples.{name}.barycentric": weight.astype(np.float32)}
    path = tmp_path / "flame.safetensors"
    path.write_bytes(serialise(tensors, metadata))
    return linear_model(read_basis(path), sample_sets=list(samples))


def test_the_files_hold_what_they_should(pkl):
    """The fixture is what the real files are: chumpy, csc, byte strings, old names of modules."""
    raw = pkl.read_bytes()
    for words in (b"cchumpy.ch\nCh\n", b"cchumpy.reordering\nSelect\n", b"cscipy.sparse.csc\ncsc_matrix\n", b"cnumpy.core.multiarray\n"):
        assert words in raw
    assert raw[:2] == b"\x80\x02" and b"numpy._core" not in raw


@pytest.mark.parametrize("kind", ["pkl", "npz"])
def test_skinning_is_flames_own(arrays, pkl, tmp_path, kind):
    path = pkl if kind == "pkl" else write_flame_npz(tmp_path / "flame2023.npz", arrays)
    tensors, metadata, landmarks = read_flame(path, 20, 10)
    assert landmarks is None
    model = in_model(tensors, metadata, tmp_path)
    assert model.skeleton.names == JOINT_NAMES and (model.n_identity, model.n_expression) == (20, 10)
    source = json.loads(metadata["provenance"])
    assert source["source"] == ("FLAME 2020 or later" if kind == "pkl" else "FLAME 2023") and source["file"] == path.name
    # The origin is midway between the eyes.
    np.testing.assert_allclose(source["origin_m"], EYES.mean(0) + OFFSET, atol=1e-9)
    rng = np.random.default_rng(1)
    for size in (0.0, 0.3, 1.0):
        shape, expression, joints = rng.normal(size=20), rng.normal(size=10), size * rng.normal(size=(4, 3))
        params = {"identity": jnp.asarray(shape, jnp.float32), "expression": jnp.asarray(expression, jnp.float32)}
        found = model.decode(params | {"joints": jnp.asarray(joints, jnp.float32)}).vertices
        expected = flame_oracle(arrays, shape, expression, np.concatenate([np.zeros((1, 3)), joints]))
        np.testing.assert_allclose(found, expected - source["origin_m"], atol=1e-6)


def test_regions_priors_and_texture(arrays, pkl, tmp_path):
    tensors, _, _ = read_flame(pkl, 3, 3)
    assert (tensors["triangle_region"] == 1).sum() == 2 * 60 and set(tensors["triangle_region"]) == {0, 1}
    np.testing.assert_array_equal(tensors["joint_free"], [0, 1, 1, 1])
    assert tensors["joint_upper"][1, 0] == np.float32(0.8) and tensors["joint_lower"][1, 0] == np.float32(-0.1)
    assert tensors["uv_triangles"].shape == arrays["f"].shape and np.ptp(tensors["uv"], axis=0).min() > 0.5
    np.savez(tmp_path / "FLAME_texture.npz", vt=np.random.default_rng(0).uniform(size=(50, 2)), ft=np.tile([[0, 1, 2]], (len(arrays["f"]), 1)))
    with_texture, metadata, _ = read_flame(pkl, 3, 3, texture=tmp_path / "FLAME_texture.npz")
    assert with_texture["uv"].shape == (50, 2) and json.loads(metadata["provenance"])["texture"] == "FLAME_texture.npz"


def test_old_expressions_are_told_apart(tmp_path):
    path = write_flame_pkl(tmp_path / "model.pkl", flame_arrays(n_shape=300, n_expression=4, whole_head=False))
    _, metadata, _ = read_flame(path, 4, 4)
    assert json.loads(metadata["provenance"])["source"] == "FLAME 2019 or earlier"
    assert "lacks the expressions of the whole head" in version_note(metadata)


def test_a_fit_recovers_landmarks_and_jaw(arrays, pkl, tmp_path):
    """68 landmarks of FLAME's own file, of a head whose jaw is open."""
    rng = np.random.default_rng(2)
    mean = arrays["v_template"][arrays["f"].astype(int)].mean(1)
    table = write_embedding(tmp_path / "landmark_embedding.npy", rng, np.flatnonzero(mean[:, 2] > OFFSET[2] + 0.02))
    tensors, metadata, landmarks = read_flame(pkl, 10, 5, landmarks=tmp_path / "landmark_embedding.npy")
    triangle, weight = table["full_lmk_faces_idx"][0], table["full_lmk_bary_coords"][0]
    np.testing.assert_allclose(landmarks, np.einsum("skc,sk->sc", tensors["mean"][arrays["f"][triangle].astype(int)], weight), atol=1e-7)

    model = in_model(tensors, metadata, tmp_path, aflw68=(triangle, weight))
    joints = np.zeros((4, 3), np.float32)
    joints[1] = (0.3, 0.04, 0.0)
    points, observation = observed(model, rng, "aflw68", joints)
    solution = fj.fit(observation, model=model, losses={"landmarks": fj.landmarks("aflw68"), "prior": fj.prior(1e-7)})
    assert np.abs(solution.landmarks("aflw68") - points).max() < 0.2
    np.testing.assert_allclose(solution.params["joints"][1], joints[1], atol=0.05)
    np.testing.assert_array_equal(solution.params["joints"][0], 0)


def changed(arrays, **changes):
    return {k: v for k, v in (arrays | changes).items() if v is not None}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"posedirs": None}, "lacks posedirs"),
        ({"v_template": None, "shapedirs": None, "posedirs": None, "vt": np.zeros((3, 2)), "ft": np.zeros((1, 3), int)}, "texture space"),
        ({"posedirs": np.zeros((288, 3, 35))}, r"'posedirs' of FLAME: expected shape \(288, 3, 36\), found \(288, 3, 35\)"),
        ({"shapedirs": np.zeros((288, 3, 300))}, "expected 300 shapes and then expressions, found 300 columns"),
        ({"kintree_table": np.array([[2**32 - 1, 0, 3, 1, 1], [0, 1, 2, 3, 4]], np.uint32)}, "joint parents: expected -1 for the root"),
        ({"weights": np.ones((288, 5))}, "sum to 1 per vertex"),
        ({"weights": np.ones((288, 4))}, r"'weights' of FLAME: expected shape \(288, 5\)"),
        ({"f": np.full((7, 3), 288, np.uint32)}, "'f' of FLAME: expected indices from 0 to 287, found 288"),
        ({"v_template": np.full((288, 3), np.nan)}, "not finite"),
        ({"v_template": 1000 * flame_arrays(n_shape=1, n_expression=1)["v_template"]}, "expected metres"),
        ({"v_template": flame_arrays(n_shape=1, n_expression=1)["v_template"] * [1, 1, -1]}, r"expected \+x as the subject's left"),
        ({"v_template": flame_arrays(n_shape=1, n_expression=1)["v_template"] * [-1, 1, 1]}, r"expected \+x as the subject's left"),
    ],
)  # fmt: skip
def test_what_is_no_flame(arrays, tmp_path, changes, words):
    few = arrays | {"shapedirs": arrays["shapedirs"][:, :, :302]}
    path = tmp_path / "model.npz"
    np.savez(path, **changed(few, **changes))
    with pytest.raises(fj.BasisError, match=words) as caught:
        read_flame(path, 2, 2)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_other_files_by_name(tmp_path, arrays, pkl):
    masks = tmp_path / "FLAME_masks.pkl"
    masks.write_bytes(pickle.dumps({"face": np.arange(3), "neck": np.arange(3), "scalp": np.arange(2)}, protocol=2))
    with pytest.raises(fj.BasisError, match="FLAME's vertex masks"):
        read_flame(masks)
    with pytest.raises(fj.BasisError, match="expected 1 to 300 shapes, asked for 301"):
        read_flame(pkl, 301)
    with pytest.raises(fj.BasisError, match=r"68 points in 'full_lmk_faces_idx' \(it has the 51 inner ones alone"):
        static = tmp_path / "flame_static_embedding.pkl"
        static.write_bytes(pickle.dumps({"lmk_face_idx": np.arange(51), "lmk_b_coords": np.zeros((51, 3))}, protocol=2))
        read_flame(pkl, 2, 2, landmarks=static)
