"""GNM Head's file: skinning against NumPy, fits, regions, texture atlas, what is no GNM."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest
from articulated import observed, rodrigues, skin
from foreign_heads import EYES, OFFSET, gnm_arrays

import fitjax as fj
from fitjax.importers.gnm import ATLAS, read_gnm
from fitjax.model.basis_file import read_basis
from fitjax.model.basis_writer import serialise
from fitjax.model.load import load_basis


@pytest.fixture(scope="module")
def arrays():
    return gnm_arrays()


@pytest.fixture(scope="module")
def folder(arrays, tmp_path_factory):
    """The file, and the basis made from it with 68 landmarks."""
    folder = tmp_path_factory.mktemp("gnm")
    np.savez_compressed(folder / "gnm_head.npz", **arrays)
    tensors, metadata, landmarks = read_gnm(folder / "gnm_head.npz")
    assert landmarks is None
    rng = np.random.default_rng(5)
    front = np.flatnonzero(tensors["mean"][tensors["triangles"]].mean(1)[:, 2] > -0.04)
    samples = {"samples.aflw68.triangle": rng.choice(front, 68).astype(np.int32)}
    samples["samples.aflw68.barycentric"] = rng.dirichlet([2, 2, 2], 68).astype(np.float32)
    (folder / "gnm.safetensors").write_bytes(serialise(tensors | samples, metadata))
    return folder


def gnm_oracle(arrays, identity, expression, rotations):
    """GNM's own formula in float64, in its own space, ``rotations`` (4, 3) as its call takes them."""
    a = {k: v.astype(float) for k, v in arrays.items() if v.dtype.kind == "f"}
    rest = a["template_vertex_positions"] + np.einsum("i,ivc->vc", identity, a["vertex_identity_basis"])
    rest = rest + np.einsum("e,evc->vc", expression, a["expression_basis"])
    centres = a["template_joint_positions"] + np.einsum("i,ijc->jc", identity, a["joint_identity_basis"])
    turns = np.stack([rodrigues(r) for r in rotations])
    rest = rest + ((turns - np.eye(3)).reshape(-1) @ a["pose_correctives_regressor"]).reshape(-1, 3)
    return skin(rest, centres, a["skinning_weights"].T, arrays["joint_parent_indices"], turns)


def test_skinning_is_gnms_own(arrays, folder):
    """All four rotations, the neck's too, are rows of ``joints``."""
    model = load_basis(folder / "gnm.safetensors", 0)
    assert model.joint_names == ("neck", "head", "left_eye", "right_eye") and (model.n_identity, model.n_expression) == (14, 9)
    np.testing.assert_array_equal(model.free_joints[:, 0], [0, 0, 1, 1])
    rng = np.random.default_rng(0)
    for size in (0.0, 0.3, 1.0):
        identity, expression, rotations = rng.normal(size=14), rng.normal(size=9), size * rng.normal(size=(4, 3))
        params = {"identity": jnp.asarray(identity, jnp.float32), "expression": jnp.asarray(expression, jnp.float32)}
        found = model.decode(params | {"joints": jnp.asarray(rotations, jnp.float32)}).vertices
        np.testing.assert_allclose(found, gnm_oracle(arrays, identity, expression, rotations) - EYES.mean(0) - OFFSET, atol=1e-6)


def test_metadata(folder):
    basis = read_basis(folder / "gnm.safetensors")
    source = basis.provenance
    assert source["source"] == "GNM Head 3.0" and source["kept"] == {"identity": 14, "expression": 9} and basis.licence.startswith("Apache-2.0")
    np.testing.assert_allclose(source["origin_m"], EYES.mean(0) + OFFSET, atol=1e-7)
    assert basis.expression_names[0] == "lower_face_region_000" and json.dumps(source)
    fewer, metadata, _ = read_gnm(folder / "gnm_head.npz", 3, 2)
    assert len(fewer["identity"]) == 3 and len(fewer["joint_expression"]) == 2 and len(json.loads(metadata["expression_names"])) == 2


def test_regions_and_atlas(arrays, folder):
    """Corneas are eyeballs, the sock is the mouth's inside; overlapping squares of the file come apart by region."""
    basis = read_basis(folder / "gnm.safetensors")
    assert (basis.triangle_region == 1).sum() == 120 and (basis.triangle_region == 2).sum() > 0
    left = basis.triangle_region == 1
    left &= basis.mean[basis.triangles].mean(1)[:, 0] > 0
    for chart, triangles in (("left_eye_exterior", left), ("skin", basis.triangle_region == 0)):
        u, v, size = ATLAS[chart]
        placed = basis.uv[basis.uv_triangles[triangles]]
        np.testing.assert_allclose((placed - [u, v]) / size, arrays["triangle_uvs"][triangles], atol=1e-6)
    squares = np.array(list(ATLAS.values()))
    assert (squares[:, :2] + squares[:, 2:]).max() <= 1
    for i, a in enumerate(squares):
        for b in squares[:i]:
            assert (a[:2] >= b[:2] + b[2]).any() or (b[:2] >= a[:2] + a[2]).any()


def test_a_fit_recovers_landmarks_and_gaze(folder):
    model = load_basis(folder / "gnm.safetensors", 0, sample_sets=["aflw68"])
    joints = np.zeros((4, 3), np.float32)
    joints[2:] = (0.1, -0.3, 0.0)
    points, observation = observed(model, np.random.default_rng(3), "aflw68", joints)
    solution = fj.fit(observation, model=model, losses={"landmarks": fj.landmarks("aflw68"), "prior": fj.prior(1e-7)})
    assert np.abs(solution.landmarks("aflw68") - points).max() < 0.2
    np.testing.assert_array_equal(solution.params["joints"][:2], 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"skinning_weights": None}, "lacks skinning_weights"),
        ({"variant": np.array("hand")}, "found variant 'hand' of version '3.0'"),
        ({"version": np.array("4.1")}, "found variant 'head' of version '4.1'"),
        ({"skinning_weights": np.zeros((288, 4), np.float32)}, r"'skinning_weights' of GNM Head: expected shape \(4, 288\)"),
        ({"skinning_weights": np.zeros((4, 288), np.float32)}, "sum to 1 per vertex"),
        ({"triangles": np.full((536, 3), 288, np.int32)}, "'triangles' of GNM Head: expected indices from 0 to 287, found 288"),
        ({"mirror_indices": np.full(288, -1, np.int32)}, "'mirror_indices'"),
        ({"joint_parent_indices": np.array([-1, 2, 1, 1], np.int32)}, "joint parents: expected -1 for the root"),
        ({"joint_names": np.array(["neck", "head", "a", "b"])}, "expected joints of the left and the right eye"),
        ({"expression_basis": np.full((2, 288, 3), np.inf, np.float32)}, "not finite"),
        ({"joint_names": np.arange(4)}, "'joint_names' of GNM Head: expected names"),
        ({"template_vertex_positions": 100 * gnm_arrays()["template_vertex_positions"]}, "expected metres"),
    ],
)
def test_what_is_no_gnm(arrays, tmp_path, changes, words):
    path = tmp_path / "gnm_head.npz"
    np.savez(path, **{k: v for k, v in (arrays | changes).items() if v is not None})
    with pytest.raises(fj.BasisError, match=words) as caught:
        read_gnm(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
