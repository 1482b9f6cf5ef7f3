"""Parameters: the tangent space, masks, sharing, and what check_params says."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fitjax as fj
from fitjax.geometry.rotation import rotation_exp
from fitjax.model.params import check_params, free_mask, frontal_pose, retract, zero_tangent
from fitjax.solve.sharing import make_sharing


def some_params(dtype=np.float32):
    return {
        "identity": jnp.arange(3, dtype=dtype),
        "joints": jnp.zeros((2, 3), dtype),
        "pose": frontal_pose(dtype, 2.0),
        "camera": {"log_focal": jnp.zeros((), dtype)},
    }


def test_zero_tangent_moves_nothing():
    params = some_params()
    moved = retract(params, zero_tangent(params))
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(moved)):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def test_rotation_turns_on_the_camera_side_and_depth_stays_positive():
    params = some_params()
    step = zero_tangent(params, ("pose",))
    step["pose"] = {"rotation": jnp.array([0.0, 0.3, 0.0]), "translation": jnp.array([0.1, 0.0, -5.0])}
    pose = retract(params, step)["pose"]
    np.testing.assert_allclose(pose["rotation"], rotation_exp(jnp.array([0.0, 0.3, 0.0])) @ params["pose"]["rotation"], atol=1e-6)
    np.testing.assert_allclose(pose["translation"], [0.2, 0.0, 2 * np.exp(-5)], rtol=1e-6)


def test_only_the_named_groups_are_in_the_tangent():
    assert set(zero_tangent(some_params(), ("identity", "pose"))) == {"identity", "pose"}


def test_masks_broadcast_and_nest():
    zero = zero_tangent(some_params())
    mask = free_mask(zero, {"identity": jnp.array([1.0, 0, 1]), "pose": {"rotation": 1.0}})
    np.testing.assert_array_equal(mask["identity"], [1, 0, 1])
    np.testing.assert_array_equal(mask["pose"]["rotation"], [1, 1, 1])
    np.testing.assert_array_equal(mask["pose"]["translation"], [0, 0, 0])
    np.testing.assert_array_equal(mask["joints"], np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shape": jnp.zeros(3)}, "unknown group 'shape'"),
        ({"identity": jnp.zeros(4)}, r"shape \(4,\), the model expects \(3,\)"),
        ({"identity": jnp.array([0, np.nan, 0])}, "not finite"),
        ({"pose": {"rotation": jnp.eye(3)}}, "structure"),
    ],
)
def test_check_params(change, words):
    with pytest.raises(fj.ParamsError, match=words):
        check_params(some_params() | change, some_params())
    missing = some_params()
    del missing["joints"]
    with pytest.raises(fj.ParamsError, match="'joints' is missing"):
        check_params(missing, some_params())


def test_sharing_gathers_per_group():
    sharing = make_sharing([0, 1, 0], {"identity": "person", "camera": "global"})
    shared = {
        "identity": jnp.array([[1.0], [2.0]]),
        "expression": jnp.array([[5.0], [6.0], [7.0]]),
        "camera": {"log_focal": jnp.array(0.5)},
    }
    view = sharing.gather(shared)
    np.testing.assert_array_equal(view["identity"], [[1], [2], [1]])
    np.testing.assert_array_equal(view["expression"], [[5], [6], [7]])
    np.testing.assert_array_equal(view["camera"]["log_focal"], [0.5, 0.5, 0.5])
    back = sharing.share(view)
    for a, b in zip(jax.tree.leaves(shared), jax.tree.leaves(back)):
        np.testing.assert_allclose(a, b)
    np.testing.assert_array_equal(sharing.photos_per_entity("identity"), [2, 1, 2])
    np.testing.assert_array_equal(sharing.photos_per_entity("camera"), [3, 3, 3])
    np.testing.assert_array_equal(sharing.photos_per_entity("expression"), [1, 1, 1])


@pytest.mark.parametrize(
    ("persons", "levels", "words"),
    [
        ([0, 2], None, "0 … n-1"),
        ([], None, "0 … n-1"),
        ([0], {"identity": "family"}, "photo, person or global"),
        ([0], {"nose": "person"}, "group of"),
        ([0, 0], {"pose": "person"}, "cannot be shared"),
    ],
)
def test_sharing_errors(persons, levels, words):
    with pytest.raises(fj.ParamsError, match=words):
        make_sharing(persons, levels)
