"""Importers of linear models: geometry as the formats define it, in metres and head space, and clear errors."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import import_fixtures as made
import numpy as np
import pytest

from benchmarks.shared_data import require
from fitjax.errors import BasisError
from fitjax.geometry.host_mesh import surface_points, vertex_normals
from fitjax.importers.bfm import read_bfm2009, read_bfm2017
from fitjax.importers.landmark_tables import known_table, parse_table
from fitjax.importers.linear_file import Imported, unrolled
from fitjax.importers.plain import read_plain
from fitjax.importers.point_surface import triangulated
from fitjax.importers.registry import KINDS, read_model
from fitjax.importers.surrey import read_surrey
from fitjax.importers.tddfa import read_tddfa


def origin_of(found: Imported) -> np.ndarray:
    return np.array(json.loads(found.metadata["provenance"])["origin_m"])


def in_own_space(found: Imported) -> np.ndarray:
    """(V, 3) the mean, metres, in the space of the model's own files."""
    return found.tensors["mean"].astype(np.float64) + origin_of(found)


def looks_out(found: Imported) -> bool:
    mean = found.tensors["mean"].astype(np.float64)
    normals = vertex_normals(mean, found.tensors["triangles"])
    return bool(normals[mean[:, 2].argmax(), 2] > 0.5)


def same_triangles(found: Imported, expected: np.ndarray) -> bool:
    """Up to the corner that each begins with."""
    turned = lambda t: np.array([np.roll(row, -row.argmin()) for row in t])  # noqa: E731
    return np.array_equal(turned(found.tensors["triangles"]), turned(expected))


def test_bfm2009(tmp_path):
    made.bfm2009(tmp_path / "01_MorphableModel.mat")
    found, h = read_bfm2009(tmp_path), made.head()
    assert np.abs(in_own_space(found) - h.mean).max() < 5e-8
    assert same_triangles(found, h.triangles) and looks_out(found)
    modes = (h.directions * h.sigma).T.reshape(-1, *h.mean.shape)
    assert np.abs(found.tensors["identity"] - modes).max() < 1e-8 and len(found.tensors["expression"]) == 0
    assert np.abs(found.tensors["albedo_mean"] - h.colour).max() < 1e-6 and found.metadata["albedo_space"] == "srgb"
    albedo = found.tensors["albedo"] * found.tensors["albedo_scale"][:, None, None]
    expected = (h.directions[:, :3] * [900, 500, 100] / 255).T.reshape(3, -1, 3)
    assert np.abs(albedo - expected).max() < 1e-4 * np.abs(expected).max()
    assert found.landmarks68 is None  # the table is of the real one's vertices


def test_bfm2017(tmp_path):
    pytest.importorskip("h5py")
    made.bfm2017(tmp_path / "model2017-1_face12_nomouth.h5")
    found, h = read_bfm2017(tmp_path / "model2017-1_face12_nomouth.h5"), made.head()
    # The mean expression, a quarter of a millimetre everywhere here, belongs to the mean.
    assert np.abs(in_own_space(found) - (h.mean + 2.5e-4)).max() < 5e-8
    assert same_triangles(found, h.triangles)
    modes = (h.directions * h.sigma).T.reshape(-1, *h.mean.shape)
    assert np.abs(found.tensors["identity"] - modes).max() < 1e-7
    expression = (h.directions[:, ::-1] * h.sigma * 0.5).T.reshape(-1, *h.mean.shape)
    assert np.abs(found.tensors["expression"] - expression).max() < 1e-7
    assert (found.tensors["expression_sigma"] == 1).all() and found.tensors["expression_lower"].max() < 0
    colour = found.tensors["albedo"] * found.tensors["albedo_scale"][:, None, None]
    expected = (h.directions[:, :4] * [3, 2, 1, 0.5]).T.reshape(4, -1, 3)
    assert np.abs(colour - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("form", ["folder", "pickle", "joined"])
def test_3ddfa(tmp_path, form):
    h = made.head()
    made.tddfa(tmp_path / "bfm", triangles=form == "folder")
    path, shift = tmp_path / "bfm", 1e-4
    if form == "pickle":
        path, shift = tmp_path / "bfm_noneck_v3.pkl", 0.0
        path.write_bytes(pickle.dumps(made.tddfa_pickle(), protocol=2))
    found = read_tddfa(path)
    assert np.abs(in_own_space(found) - (h.mean + shift)).max() < 5e-8
    spread = np.array(json.loads(found.metadata["provenance"])["coefficient_sigma"])
    assert len(spread) == 6 and abs(spread[0] / 587858 - 1) < 1e-3  # of the published whitening
    modes = (h.directions[:, :4] * spread[:4]).T.reshape(4, -1, 3) * 1e-6
    assert np.abs(found.tensors["identity"] - modes).max() < 1e-7
    marks = surface_points(
        found.tensors["mean"].astype(float),
        found.tensors["triangles"],
        found.tensors["samples.aflw68_original.triangle"],
        found.tensors["samples.aflw68_original.barycentric"],
    )
    assert np.abs(marks - found.tensors["mean"][h.landmarks]).max() < 1e-8 and np.allclose(
        marks, found.landmarks68, atol=1e-7
    )
    if form == "joined":
        assert looks_out(found) and json.loads(found.metadata["provenance"])["triangles_joined_anew"]
    else:
        assert same_triangles(found, h.triangles)


def test_spreads_beside_the_model(tmp_path):
    made.tddfa(tmp_path)
    (tmp_path / "param_mean_std_62d_120x120.pkl").write_bytes(
        pickle.dumps({"mean": np.zeros(18), "std": np.arange(1.0, 19)})
    )
    assert json.loads(read_tddfa(tmp_path).metadata["provenance"])["coefficient_sigma"] == [13, 14, 15, 16, 17, 18]
    (tmp_path / "param_mean_std_62d_120x120.pkl").write_bytes(pickle.dumps({"mean": np.zeros(62), "std": np.ones(62)}))
    with pytest.raises(BasisError, match="18 positive spreads, found 62"):
        read_tddfa(tmp_path)


def test_triangles_from_points():
    """A closed, bumpy surface: every side has two triangles, and all look the same way. A sheet keeps its border."""
    rng = np.random.default_rng(3)
    points = rng.normal(size=(1500, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    points *= 1 + 0.1 * np.sin(4 * points[:, :1])
    triangles = triangulated(points)
    sides = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    _, walked = np.unique(sides, axis=0, return_counts=True)
    assert walked.max() == 1 and len(triangles) >= 0.99 * (2 * len(points) - 4)
    corner = points[triangles]
    outward = (np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]) * corner.mean(1)).sum(1) > 0
    assert outward.all() or not outward.any()
    with pytest.raises(BasisError, match="plane or on a line"):
        triangulated(np.stack([np.arange(30.0), np.zeros(30), np.zeros(30)], 1))


def test_plain_arrays(tmp_path):
    made.plain(tmp_path / "mine.npz")
    found, h = read_plain(tmp_path / "mine.npz"), made.head()
    assert np.abs(in_own_space(found) - h.mean).max() < 5e-8
    assert json.loads(found.metadata["expression_names"]) == ["jawOpen", "mouthSmileLeft"]
    assert found.metadata["name"] == "mine" and found.metadata["licence"] == "CC0"
    assert found.tensors["expression_sigma"].tolist() == [0.5, 0.25] and found.tensors["expression_upper"].tolist() == [
        1,
        1,
    ]
    assert np.allclose(found.landmarks68, found.tensors["mean"][h.landmarks], atol=1e-7)
    # The origin is between the eyes: level with their corners, behind them.
    eyes = found.landmarks68[36:48].mean(0)
    assert abs(eyes[0]) < 1e-3 and abs(eyes[1]) < 5e-3 and 0 < eyes[2] < 0.02
    made.plain(tmp_path / "mine.npz", triangles=h.triangles[:, ::-1])
    assert same_triangles(read_plain(tmp_path / "mine.npz"), h.triangles)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"units": None}, "'units'.*missing"),
        ({"units": np.array("inch")}, "one of m, dm, cm, mm, um, found 'inch'"),
        ({"units": np.array("m")}, "m long; expected a head in m"),
        ({"identity": np.zeros((2, 7, 3))}, r"'identity'.*expected shape \(any, \d+, 3\), found \(2, 7, 3\)"),
        ({"vertices": np.full((3411, 3), np.nan)}, "'vertices'.*not finite"),
        ({"triangles": np.full((5, 3), 10**6)}, "'triangles'.*expected indices from 0"),
        ({"triangles": np.full((5, 3), 0.5)}, "whole numbers"),
        ({"landmarks68": np.arange(67)}, r"'landmarks68'.*expected shape \(68,\)"),
        ({"expression_names": np.array(["a"])}, "expected 2 names, found 1"),
        ({"expression_sigma": np.zeros(2)}, "positive spreads"),
        ({"expression_lower": np.ones(2)}, "around zero"),
        ({"faces": np.zeros(3)}, "'faces'.*not known"),
    ],
)
def test_what_is_wrong_with_plain_arrays(tmp_path, changes, words):
    made.plain(tmp_path / "mine.npz", **changes)
    with pytest.raises(BasisError, match=words) as error:
        read_plain(tmp_path / "mine.npz")
    assert "mine.npz" in str(error.value)


def test_fewer_modes(tmp_path):
    made.plain(tmp_path / "mine.npz")
    found = read_model("npz", tmp_path / "mine.npz", n_identity=2, n_expression=1)
    assert len(found.tensors["identity"]) == 2 and len(found.tensors["expression_upper"]) == 1
    assert json.loads(found.metadata["expression_names"]) == ["jawOpen"]
    with pytest.raises(BasisError, match="has 4 modes of identity, not 9"):
        read_model("npz", tmp_path / "mine.npz", n_identity=9)
    with pytest.raises(BasisError, match="expected one of ict, surrey"):
        read_model("bfm", tmp_path)
    for kind in KINDS:
        with pytest.raises(BasisError, match="no such file or folder"):
            read_model(kind, tmp_path / "none")


def test_unrolled_head_has_one_seam():
    """Texture coordinates stay in the square, and no triangle spans it."""
    angle, height = np.meshgrid(np.linspace(-np.pi, np.pi, 41)[:-1], np.linspace(-0.1, 0.1, 9))
    points = np.stack([0.08 * np.sin(angle), height, 0.08 * np.cos(angle) - 0.07], -1).reshape(-1, 3)
    corner = np.arange(8 * 40).reshape(8, 40)
    right = np.roll(corner, -1, 1)
    triangles = np.concatenate(
        [np.stack([corner, right, corner + 40], -1), np.stack([right, right + 40, corner + 40], -1)]
    ).reshape(-1, 3)
    uv, uv_triangles = unrolled(points, triangles)
    assert uv.min() >= 0 and uv.max() <= 1 and np.ptp(uv[uv_triangles][..., 0], axis=1).max() < 0.1
    assert np.allclose(uv[uv_triangles][..., 1] * 0.2 - 0.1, points[triangles][..., 1])


def test_landmark_tables(tmp_path):
    table = known_table("ibug68_bfm2009", 53490)
    assert (table >= 0).sum() == 18 and table[30] == 8319 and table[0] == -1
    assert (known_table("ibug68_bfm2017_nomouth", 53149) >= 0).sum() == 26
    path = tmp_path / "marks.txt"
    path.write_text(json.dumps([None] * 60 + list(range(8))))
    assert parse_table(path, 10)[60:].tolist() == list(range(8))
    for text, words in (
        ("[landmark_mappings]\n69 = 1\n", "'69'"),
        ("[landmark_mappings]\nx = 1\n", "'x'"),
        ("[landmark_mappings]\n1 = -1\n", "'-1'"),
        ("[landmark_mappings\n", "JSON"),
        ("[landmark_mappings]\n1 = = 2\n", "TOML"),
        ("[landmark_mappings]\n1 = 2\n", "fewer than 6"),
        (json.dumps(list(range(68))), r"vertices in \[0, 50\)"),
    ):
        path.write_text(text)
        with pytest.raises(BasisError, match=words):
            parse_table(path, 50)


# The models that are at hand


@pytest.fixture(scope="module")
def surrey() -> Path:
    return require("sfm", pytest.skip)


def test_surrey_equals_eos(surrey):
    """Mean and 63 modes against eos's own reader, to 1e-4 mm."""
    eos = pytest.importorskip("eos")
    found = read_surrey(surrey)
    shape = eos.morphablemodel.load_model(str(surrey / "sfm_shape_3448.bin")).get_shape_model()
    mean = np.asarray(shape.get_mean(), np.float64).reshape(-1, 3)
    assert np.abs(in_own_space(found) * 1e3 - mean).max() < 1e-4
    modes = np.asarray(shape.get_rescaled_pca_basis(), np.float64).T.reshape(63, -1, 3)
    assert np.abs(found.tensors["identity"] * 1e3 - modes).max() < 1e-4
    assert np.array_equal(found.tensors["triangles"], np.array(shape.get_triangle_list()))
    blendshapes = eos.morphablemodel.load_blendshapes(str(surrey / "expression_blendshapes_3448.bin"))
    assert json.loads(found.metadata["expression_names"]) == [b.name for b in blendshapes]
    for own, b in zip(found.tensors["expression"], blendshapes):
        assert np.abs(own * 1e3 - np.asarray(b.deformation).reshape(-1, 3)).max() < 1e-4
    assert np.isfinite(found.landmarks68).all(1).sum() == 50 and np.isnan(found.landmarks68[[0, 16, 60, 64]]).all()


def test_newer_archives_of_eos(tmp_path, surrey):
    """Version 4, as eos writes today: with colours, expressions inside, and landmarks by name."""
    eos = pytest.importorskip("eos")
    m = eos.morphablemodel
    old = m.load_model(str(surrey / "sfm_shape_3448.bin"))
    shape = old.get_shape_model()
    colour = m.PcaModel(
        np.full(10344, 0.4, np.float32),
        shape.get_orthonormal_pca_basis()[:, :2],
        np.array([4.0, 1.0], np.float32),
        shape.get_triangle_list(),
    )
    blendshapes = m.load_blendshapes(str(surrey / "expression_blendshapes_3448.bin"))
    new = m.MorphableModel(shape, blendshapes, colour, {"nose.tip": 114}, old.get_texture_coordinates(), [])
    m.save_model(new, str(tmp_path / "new.bin"))
    found, before = read_surrey(tmp_path / "new.bin"), read_surrey(surrey)
    for name in ("triangles", "identity", "expression", "uv"):
        assert np.array_equal(found.tensors[name], before.tensors[name]), name
    assert np.allclose(found.tensors["albedo_mean"], 0.4) and found.tensors["albedo"].shape == (2, 3448, 3)


def test_surrey_says_what_is_wrong(tmp_path, surrey):
    with pytest.raises(BasisError, match="expected one shape model of eos"):
        read_surrey(tmp_path)
    shutil.copy(surrey / "expression_blendshapes_3448.bin", tmp_path / "sfm_shape_3448.bin")
    with pytest.raises(BasisError, match="version 1 to 4, found 6"):
        read_surrey(tmp_path)
    raw = (surrey / "sfm_shape_3448.bin").read_bytes()
    for damaged in (raw[:-1], raw + b"x", raw[:1000]):
        (tmp_path / "sfm_shape_3448.bin").write_bytes(damaged)
        with pytest.raises(BasisError, match="is it the right file, and complete"):
            read_surrey(tmp_path / "sfm_shape_3448.bin")
