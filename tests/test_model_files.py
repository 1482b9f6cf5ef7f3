"""Basis files: reading, refinement, and one clear error for each kind of damage."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.numpy
from toy import N_EXPRESSION, N_IDENTITY, toy_basis, toy_tensors, write_toy

import fitjax as fj
from fitjax.model.basis_file import read_basis
from fitjax.model.load import linear_model, refine


def test_reading_back(tmp_path):
    tensors, _ = toy_tensors()
    basis = toy_basis(tmp_path)
    np.testing.assert_array_equal(basis.mean, tensors["mean"])
    np.testing.assert_array_equal(basis.identity, tensors["identity"])
    assert basis.identity.shape[0] == N_IDENTITY
    assert basis.expression_names[2] == "jawOpen"


def test_integer_modes_are_dequantised(tmp_path):
    tensors, _ = toy_tensors()
    scale = np.abs(tensors["identity"]).max((1, 2)) / 32767
    steps = np.round(tensors["identity"] / scale[:, None, None]).astype(np.int16)
    path = write_toy(tmp_path / "q.safetensors", identity=steps, identity_scale=scale.astype(np.float32))
    np.testing.assert_allclose(read_basis(path).identity, tensors["identity"], atol=float(scale.max()))


def test_levels_carry_samples_and_codes(tmp_path):
    basis = toy_basis(tmp_path)
    coarse, fine = linear_model(basis), linear_model(refine(basis), 1)
    rng = np.random.default_rng(0)
    params = {"identity": rng.normal(size=N_IDENTITY), "expression": rng.uniform(size=N_EXPRESSION)}
    params = {k: v.astype(np.float32) for k, v in params.items()}
    a, b = (m.decode_samples(params, "aflw68").position for m in (coarse, fine))
    # Loop's smoothing moves the surface a little; on this coarse ball by less than half a millimetre on average.
    assert np.linalg.norm(a - b, axis=1).mean() < 1.5e-3
    np.testing.assert_allclose(fine.decode(params).vertices.mean(0), coarse.decode(params).vertices.mean(0), atol=2e-3)


def test_sliced_basis_equals_full_decode(tmp_path):
    model = linear_model(toy_basis(tmp_path))
    rng = np.random.default_rng(1)
    params = {"identity": rng.normal(size=N_IDENTITY).astype(np.float32), "expression": np.full(N_EXPRESSION, 0.4, np.float32)}
    from fitjax.geometry.surface import evaluate_samples

    whole = evaluate_samples(model.sample_library["mediapipe478"], model.decode(params).vertices, model.triangles)
    part = model.decode_samples(params, "mediapipe478")
    np.testing.assert_allclose(part.position, whole.position, atol=1e-7)
    np.testing.assert_allclose(part.normal, whole.normal, atol=1e-4)


def test_decode_is_the_linear_combination(tmp_path):
    basis = toy_basis(tmp_path)
    model = linear_model(basis)
    rng = np.random.default_rng(2)
    identity, expression = rng.normal(size=N_IDENTITY), rng.uniform(size=N_EXPRESSION)
    oracle = basis.mean + np.tensordot(identity, basis.identity, 1) + np.tensordot(expression, basis.expression, 1)
    params = {"identity": np.float32(identity), "expression": np.float32(expression)}
    np.testing.assert_allclose(model.decode(params).vertices, oracle, atol=1e-7)


def test_unknown_sample_set(tmp_path):
    model = linear_model(toy_basis(tmp_path))
    with pytest.raises(fj.BasisError, match="part_nose"):
        model.with_samples("part_nose")
    with pytest.raises(fj.BasisError, match="not sliced"):
        model.decode_samples(model.init(), "part_nose")


def bad(**changes):
    return lambda path: write_toy(path, **changes)


def truncated(path):
    write_toy(path)
    path.write_bytes(path.read_bytes()[:-1000])


def other_format(path):
    tensors, metadata = toy_tensors()
    safetensors.numpy.save_file(tensors, str(path), metadata | {"format": "something/2"})


def missing_field(path):
    tensors, metadata = toy_tensors()
    del tensors["uv"]
    safetensors.numpy.save_file(tensors, str(path), metadata)


def wrong_names(path):
    tensors, metadata = toy_tensors()
    safetensors.numpy.save_file(tensors, str(path), metadata | {"expression_names": json.dumps(["a"])})


TENSORS = toy_tensors()[0]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.write_bytes(b""), "not a readable"),
        (lambda path: path.write_bytes(b"<html>login</html>"), "not a readable"),
        (truncated, "not a readable"),
        (other_format, "expected format 'fitjax-basis/1'"),
        (missing_field, "'uv' is missing"),
        (wrong_names, "expression_names"),
        (bad(mean=np.zeros((5, 2), np.float32)), r"'mean': expected shape \(V, 3\)"),
        (bad(mean=np.full((432, 3), np.nan, np.float32)), "not finite"),
        (bad(triangles=TENSORS["triangles"] + 1000), "'triangles': expected indices"),
        (bad(uv_triangles=TENSORS["uv_triangles"][:-1]), "'uv_triangles': expected"),
        (bad(identity=TENSORS["identity"][:, :-1]), "'identity': expected shape"),
        (bad(identity=np.zeros(TENSORS["identity"].shape, np.int16)), "identity_scale"),
        (bad(expression_sigma=np.zeros(N_EXPRESSION, np.float32)), "positive spreads"),
        (bad(expression_lower=np.zeros(2, np.float32)), "'expression_lower': expected shape"),
        (bad(**{"samples.aflw68.barycentric": np.ones((68, 3), np.float32)}), "aflw68.barycentric"),
        (bad(**{"samples.aflw68.triangle": np.full(68, 10**6, np.int32)}), "aflw68.triangle"),
    ],
)
def test_damaged_files(tmp_path, damage, words):
    path = tmp_path / "basis.safetensors"
    damage(path)
    with pytest.raises(fj.BasisError, match=words) as caught:
        fj.load_basis(path, level=0)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_name_and_level():
    with pytest.raises(fj.BasisError, match="known models: embedded"):
        fj.load_basis("nobody")
    with pytest.raises(fj.BasisError, match="expected 0, 1 or 2"):
        fj.load_basis(level=3)


def test_models_in_the_users_folder(tmp_path, monkeypatch):
    write_toy(tmp_path / "mine.safetensors")
    monkeypatch.setenv("FITJAX_MODELS", str(tmp_path))
    assert fj.load_basis("mine", level=0).name == "toy"
