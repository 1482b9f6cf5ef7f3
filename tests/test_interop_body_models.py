"""Models of the package `body-models`: by public arrays and by what they compute; and the same arrays in a mapping."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from articulated import rodrigues, skin
from foreign_heads import flame_arrays

import fitjax as fj
from fitjax.interop.body_models import arrays_of, from_body_model
from fitjax.model.basis_file import read_basis
from fitjax.model.basis_writer import serialise
from fitjax.model.load import linear_model

N_SHAPE, N_EXPRESSION = 7, 4


class Flame:
    """The public side of the package's FLAME, as its documentation has it, without public ``exprdirs``."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self._a = arrays
        self._identity = arrays["shapedirs"][:, :, :N_SHAPE], arrays["shapedirs"][:, :, 300 : 300 + N_EXPRESSION]
        self.rest_vertices = arrays["v_template"].astype(np.float32)
        self.faces, self.skin_weights = arrays["f"].astype(np.int32), arrays["weights"].astype(np.float32)
        self.shapedirs = self._identity[0].astype(np.float32)
        self.posedirs = arrays["posedirs"].reshape(-1, 36).T.astype(np.float32)
        self.parents, self.joint_names = [-1, 0, 1, 1, 1], ["root", "neck", "jaw", "left_eyeball", "right_eyeball"]

    def get_rest_pose(self, *, batch_dims=(), dtype=None):
        zero = lambda *shape: np.zeros((*batch_dims, *shape), np.float32)  # noqa: E731
        return {"shape": zero(N_SHAPE), "expression": zero(N_EXPRESSION), "head_pose": zero(4, 3), "head_rotation": zero(3)}

    def _one(self, shape, expression, head_pose, head_rotation):
        shaped = self._a["v_template"] + self._identity[0] @ shape + self._identity[1] @ expression
        turns = np.stack([rodrigues(v) for v in (head_rotation, *head_pose)])
        rest = shaped + self._a["posedirs"] @ (turns[1:] - np.eye(3)).reshape(-1)
        centres = self._a["J_regressor"] @ shaped
        return skin(rest, centres, self._a["weights"], self.parents, turns).astype(np.float32), centres

    def forward_vertices(self, **params):
        return np.stack([self._one(*x)[0] for x in zip(*(params[k] for k in self.get_rest_pose()))])

    def forward_skeleton(self, **params):
        """At rest, which is all that is asked of it here."""
        assert not np.any(params["head_pose"]) and not np.any(params["head_rotation"])
        centres = np.stack([self._one(*x)[1] for x in zip(*(params[k] for k in self.get_rest_pose()))])
        found = np.tile(np.eye(4, dtype=np.float32), (*centres.shape[:2], 1, 1))
        found[..., :3, 3] = centres
        return found


@pytest.fixture(scope="module")
def flame():
    return Flame(flame_arrays())


def in_model(found, folder):
    path = folder / "model.safetensors"
    path.write_bytes(serialise(found.tensors, found.metadata))
    basis = read_basis(path)
    return linear_model(basis, sample_sets=()), np.array(basis.provenance["origin_m"])


def test_a_model_becomes_a_basis(flame, tmp_path):
    model, origin = in_model(from_body_model(flame, "theirs"), tmp_path)
    assert model.name == "theirs" and (model.n_identity, model.n_expression) == (N_SHAPE, N_EXPRESSION)
    np.testing.assert_array_equal(model.free_joints[:, 0], [0, 1, 1, 1])
    rng = np.random.default_rng(0)
    shape, expression, joints = rng.normal(size=N_SHAPE), rng.normal(size=N_EXPRESSION), 0.4 * rng.normal(size=(4, 3))
    params = {"identity": shape, "expression": expression, "joints": joints}
    found = model.decode({k: jnp.asarray(v, jnp.float32) for k, v in params.items()}).vertices
    expected = flame._one(shape, expression, joints, np.zeros(3))[0]
    np.testing.assert_allclose(found + origin, expected, atol=1e-6)


def test_a_mapping_does_as_well(flame, tmp_path):
    arrays = arrays_of(flame)
    model, _ = in_model(from_body_model(flame), tmp_path)
    same, _ = in_model(from_body_model(arrays), tmp_path)
    np.testing.assert_array_equal(same.modes, model.modes)
    fewer = {k: v for k, v in arrays.items() if "expr" not in k and k != "posedirs"}
    bare, _ = in_model(from_body_model(fewer), tmp_path)
    assert bare.n_expression == 0 and bare.skeleton.correctives.shape[0] == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"joints": None}, r"lacks joints; expected joints \(J, 3\) at rest"),
        ({"posedirs": np.zeros((35, 864))}, r"posedirs: expected \(36, 864\), found \(35, 864\)"),
        ({"shapedirs": np.zeros((288, 4))}, r"shapedirs: expected \(288, 3, any\)"),
        ({"faces": "none"}, "faces: expected numbers"),
        ({"joint_names": ["a", "b", "c", "d", "e"]}, "expected joints of the left and the right eye"),
        ({"parents": [-1, 2, 1, 1, 1]}, "joint parents: expected -1 for the root"),
    ],
)
def test_arrays_that_do_not_fit(flame, changes, words):
    arrays = {k: v for k, v in (arrays_of(flame) | changes).items() if v is not None}
    with pytest.raises(fj.BasisError, match=words):
        from_body_model(arrays)


def test_another_kind_of_object():
    with pytest.raises(fj.BasisError, match="body model object: expected public shapedirs and forward_skeleton"):
        from_body_model(object())


def test_the_package_itself(tmp_path):
    """Where it is installed."""
    package = pytest.importorskip("body_models.parts.flame.numpy", reason="the package body-models is not installed")
    arrays = flame_arrays()
    np.savez(tmp_path / "FLAME_NEUTRAL.npz", **arrays)
    theirs = package.FLAME(model_path=tmp_path / "FLAME_NEUTRAL.npz")
    model, origin = in_model(from_body_model(theirs), tmp_path)
    rng = np.random.default_rng(0)
    codes = {"shape": rng.normal(size=300), "expression": rng.normal(size=100), "head_pose": 0.3 * rng.normal(size=(4, 3))}
    expected = theirs.forward_vertices(**{k: v[None].astype(np.float32) for k, v in codes.items()})[0]
    params = dict(zip(("identity", "expression", "joints"), codes.values()))
    found = model.decode({k: jnp.asarray(v, jnp.float32) for k, v in params.items()}).vertices
    np.testing.assert_allclose(found + origin, expected, atol=1e-6)
