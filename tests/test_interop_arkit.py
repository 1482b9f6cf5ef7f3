"""ARKit weights: names, order, what models split or lack, JSON and CSV."""

from __future__ import annotations

import json

import numpy as np
import pytest

import fitjax as fj
from fitjax.interop.arkit import (
    NAMES,
    arkit_weights,
    expression_from_arkit,
    read_arkit,
    write_arkit_csv,
    write_arkit_json,
)
from fitjax.model.basis_file import read_basis
from fitjax.model.load import EMBEDDED, find_models


@pytest.fixture(scope="module")
def names():
    return read_basis(find_models()[EMBEDDED]).expression_names


def test_the_embedded_model_has_all_of_them(names):
    assert len(NAMES) == len(set(NAMES)) == 52 and set(names) == set(NAMES)
    code = np.random.default_rng(0).uniform(size=52)
    weights = arkit_weights(names, code)
    assert list(weights) == list(NAMES) and weights["jawOpen"] == code[names.index("jawOpen")]
    np.testing.assert_array_equal(expression_from_arkit(names, weights), code)


def test_ict_splits_two():
    """Its two halves become their mean, and get the same weight back; tongueOut, which it lacks, is left out."""
    names = ("browInnerUpLeft", "browInnerUpRight", "jawOpen", "cheekPuffLeft")
    assert arkit_weights(names, np.array([0.2, 0.6, 0.5, 0.3])) == {"jawOpen": 0.5, "browInnerUp": 0.4, "cheekPuff": 0.3}
    np.testing.assert_allclose(expression_from_arkit(names, {"browInnerUp": 0.4, "tongueOut": 0.0}), [0.4, 0.4, 0, 0])
    with pytest.raises(fj.BasisError, match="no 'tongueOut'"):
        expression_from_arkit(names, {"tongueOut": 0.1})
    with pytest.raises(fj.BasisError, match="unknown name 'jaw_open'"):
        expression_from_arkit(names, {"jaw_open": 0.1})


def test_statistical_expressions_have_no_names():
    with pytest.raises(fj.BasisError, match=r"expression_000, .* have no names of ARKit's"):
        arkit_weights(["expression_000"], np.zeros(1))
    with pytest.raises(fj.BasisError, match=r"expected 1 weights, found shape \(2,\)"):
        arkit_weights(["jawOpen"], np.zeros(2))


def test_files(tmp_path, names):
    weights = arkit_weights(names, np.random.default_rng(1).uniform(size=52))
    few = {"jawOpen": 0.25}
    write_arkit_json(tmp_path / "ada.json", weights)
    assert list(json.loads((tmp_path / "ada.json").read_text())) == list(NAMES)
    write_arkit_csv(tmp_path / "faces.csv", {"ada": weights, "b, c": few})
    lines = (tmp_path / "faces.csv").read_text().splitlines()
    assert lines[0] == "name," + ",".join(NAMES) and lines[2].startswith('"b, c",,,')
    found = read_arkit(tmp_path / "faces.csv")
    assert found["b, c"] == few and read_arkit(tmp_path / "ada.json") == {"ada": found["ada"]}
    np.testing.assert_allclose(list(found["ada"].values()), list(weights.values()), atol=5e-7)


@pytest.mark.parametrize("text", ["", "{", '{"jawOpen": "wide"}', '{"jawOpen": NaN}', "name,jawOpen\na", "name,jawOpen\na,x", "[1]"])
def test_other_files(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(fj.FitjaxError, match="expected ARKit names and weights"):
        read_arkit(tmp_path / "x.json")
