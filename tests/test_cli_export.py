"""`fitjax export`: from a result's folder to the other tool's file."""

from __future__ import annotations

import json

import numpy as np
import pytest
from articulated import rodrigues
from foreign_heads import flame_arrays, write_flame_npz
from test_interop_deca import deca_pixels

import fitjax as fj
from fitjax.cli.convert_command import run_export
from fitjax.cli.convert_options import Export
from fitjax.files.camera_json import camera_to_dict, read_camera_json, write_camera_json
from fitjax.files.params import save_params
from fitjax.importers.flame import read_flame
from fitjax.interop.posed import project, vertices
from fitjax.model.basis_file import read_basis
from fitjax.model.basis_writer import serialise
from fitjax.model.load import EMBEDDED, find_models


def write_folder(folder, basis, params, kind="weak_perspective"):
    """What a fit leaves, as far as it is read."""
    folder.mkdir()
    R = np.diag([1.0, -1, -1]) @ rodrigues(np.array([0.1, 0.4, 0.0]))
    K = [[800, 0, 319.5], [0, 800, 239.5], [0, 0, 1]]
    save_params(folder / "params.safetensors", params, {"model": basis.name, "basis_sha256": basis.sha256})
    write_camera_json(folder / "camera.json", camera_to_dict(K, R, [0.02, 0.01, 0.7], 640, 480, kind))
    return folder


@pytest.fixture(scope="module")
def embedded():
    return read_basis(find_models()[EMBEDDED])


@pytest.fixture
def two(tmp_path, embedded):
    rng = np.random.default_rng(0)
    codes = [{"identity": np.zeros(len(embedded.identity), np.float32), "expression": rng.uniform(size=52).astype(np.float32)} for _ in "ab"]
    return [write_folder(tmp_path / name, embedded, code) for name, code in zip("ab", codes)], codes


def test_arkit(two, tmp_path, embedded, capsys):
    folders, codes = two
    assert run_export(Export([folders[0]], "arkit", tmp_path / "a.json")) == 0
    weights = json.loads((tmp_path / "a.json").read_text())
    assert weights["jawOpen"] == pytest.approx(codes[0]["expression"][embedded.expression_names.index("jawOpen")], abs=1e-6)
    run_export(Export(folders, "arkit", tmp_path / "both.csv"))
    assert [line.split(",")[0] for line in (tmp_path / "both.csv").read_text().splitlines()] == ["name", "a", "b"]
    assert capsys.readouterr().out.split() == [str(tmp_path / "a.json"), str(tmp_path / "both.csv")]
    with pytest.raises(fj.FitjaxError, match="holds one face"):
        run_export(Export(folders, "arkit", tmp_path / "both.json"))


def test_deca(tmp_path, monkeypatch, capsys):
    arrays = flame_arrays()
    found = read_flame(write_flame_npz(tmp_path / "flame2020.npz", arrays), 100, 50)
    models = tmp_path / "models"
    models.mkdir()
    (models / "mine.safetensors").write_bytes(serialise(found.tensors, found.metadata))
    basis = read_basis(models / "mine.safetensors")
    rng = np.random.default_rng(0)
    params = {"identity": rng.normal(size=100), "expression": rng.normal(size=50), "joints": np.array([[0, 0, 0], [0.2, 0, 0], [0, 0, 0], [0, 0, 0]])}
    folder = write_folder(tmp_path / "fit", basis, {k: np.asarray(v, np.float32) for k, v in params.items()})
    out = tmp_path / "deca.npz"
    with pytest.raises(fj.BasisError, match="'flame' is not among those that `fitjax info` lists; give its file with --model"):
        run_export(Export([folder], "deca", out))
    monkeypatch.setenv("FITJAX_MODELS", str(models))
    run_export(Export([folder], "deca", out))
    run_export(Export([folder], "deca", out, model=str(models / "mine.safetensors")))
    with np.load(out) as values:
        theirs = deca_pixels(arrays, values)
    np.testing.assert_allclose(theirs, project(vertices(basis, params), read_camera_json(folder / "camera.json")), atol=1e-3)
    assert "pixels on average" in capsys.readouterr().out
    with pytest.raises(fj.BasisError, match="--model embedded: another model than that of"):
        run_export(Export([folder], "deca", out, model="embedded"))


def test_bad_requests(two, tmp_path):
    folders, _ = two
    for results, to, out, words in (
        ([], "arkit", "a.json", "expected the folder of a result, found none"),
        (folders[:1], "arkit", "a.npz", "ends in .json or .csv"),
        (folders[:1], "deca", "a.json", "ends in .npz"),
        (folders[:1], "deca", "a.npz", "DECA's dictionaries are of FLAME"),
        (folders[:1], "3ddfa", "a.npz", "its own form of BFM"),
        ([tmp_path / "none"], "arkit", "a.json", "no such folder"),
        ([tmp_path], "arkit", "a.json", "expected a params.safetensors"),
    ):
        with pytest.raises(fj.FitjaxError, match=words):
            run_export(Export(results, to, tmp_path / out))
        assert not (tmp_path / out).exists()
