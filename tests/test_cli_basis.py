"""``fitjax basis``: a model goes from its own files to a fit by name; errors are one line; downloads without a network."""

from __future__ import annotations

import hashlib
import io
import json
import urllib.error
from pathlib import Path

import import_fixtures as made
import numpy as np
import pytest

import fitjax as fj
from benchmarks.shared_data import require
from fitjax.cli.main import main
from fitjax.errors import BasisError
from fitjax.geometry.host_mesh import surface_points
from fitjax.importers import download as downloading
from fitjax.model.annotated_file import SETS
from fitjax.model.basis_file import read_basis
from fitjax.model.load import find_models
from fitjax.model.textured import has_albedo, load_textured


@pytest.fixture
def models(tmp_path, monkeypatch) -> Path:
    """The user's folder of models; annotations are carried over coarsely, a third of the time."""
    monkeypatch.setenv("FITJAX_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr("fitjax.model.transfer.MAP_SIZE", 128)
    monkeypatch.setattr("fitjax.model.part_transfer._CANDIDATES", 3)
    return tmp_path / "models"


def run(capsys, *arguments: object, code: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert main(["basis", *map(str, arguments)]) == code
    said = capsys.readouterr()
    if code:
        lines = said.err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("fitjax: ") and "Traceback" not in lines[0], lines
    return said.out, said.err


def test_from_a_file_to_a_fit_by_name(models, tmp_path, capsys):
    """The fixture is our own head: its landmarks must come to lie where ours are."""
    made.plain(tmp_path / "mine.npz", albedo_mean=made.head().colour)
    out, err = run(capsys, "import", "npz", tmp_path / "mine.npz", "--name", "me.2", "--identity", "3")
    path = models / "me.2.safetensors"
    assert str(path) in out and "3 identity, 2 expression; CC0" in out and "--model me.2" in out
    assert "no surface was found for eyeballs" in err
    assert find_models()["me.2"] == path
    basis = read_basis(path)
    assert set(SETS) <= set(basis.samples) and "aflw2000" in basis.pose_frames and basis.identity.shape[0] == 3
    ours = read_basis(find_models()["embedded"])
    origin = np.array(basis.provenance["origin_m"])
    for name in ("mediapipe478", "aflw68"):
        found = surface_points(basis.mean.astype(float), basis.triangles, *basis.samples[name]) + origin
        expected = surface_points(ours.mean.astype(float), ours.triangles, *ours.samples[name])
        apart = np.linalg.norm(found - expected, axis=1)[:468]
        assert apart.mean() < 2e-3, name

    model = fj.load_basis("me.2", level=0)
    assert model.name == "me.2" and model.n_expression == 2
    # Its own albedo, in its texture, where the vertices are.
    assert has_albedo("me.2")
    textured = load_textured("me.2", level=0)
    albedo = np.asarray(textured.decode(textured.init()).albedo)
    assert albedo.shape[2] == 3 and albedo.min() > 0 and albedo.max() < 1
    uv = np.asarray(textured.vertex_uv)
    texel = albedo[((1 - uv[:, 1]) * 255).round().astype(int), (uv[:, 0] * 255).round().astype(int)]
    linear = ((made.head().colour + 0.055) / 1.055) ** 2.4
    assert np.median(np.abs(texel - linear)) < 0.01
    target = np.asarray(model.sampled["ibug68"].mean)
    pixels = target[:, :2] * [1000, -1000] + 200
    camera = fj.make_camera(400, 400, kind="weak_perspective")
    solution = fj.fit(fj.make_observation({"ibug68": pixels.astype(np.float32)}, camera), model=model)
    assert solution.reliable and solution.landmark_residual < 0.006

    listed, _ = run(capsys, "list")
    assert f"me.2: {path}" in listed and "3ddfa" in listed and "flame" in listed
    shown, _ = run(capsys, "info", "me.2")
    assert "jawOpen, mouthSmileLeft" in shown and "plain arrays, mine.npz" in shown and basis.sha256 in shown
    assert "exists already" in run(capsys, "import", "npz", tmp_path / "mine.npz", "--name", "me.2", code=2)[1]


def test_without_landmarks_and_albedo(models, tmp_path, capsys):
    """A model in metres and along our axes needs no landmarks; it gets our albedo in its texture."""
    made.plain(tmp_path / "mine.npz", landmarks68=None)
    out = tmp_path / "elsewhere" / "x.safetensors"
    run(capsys, "import", "npz", tmp_path / "mine.npz", "-o", out)
    assert out.is_file() and not models.exists()
    textured = load_textured(out, level=0)
    face = textured.decode(textured.init())
    skin = np.asarray(textured.face_map) > 0.9
    albedo = np.asarray(face.albedo)[skin]
    # Medium skin: redder than green, greener than blue, nowhere the white of an eye.
    assert (albedo[:, 0] > albedo[:, 1]).mean() > 0.95 and (albedo[:, 1] > albedo[:, 2]).mean() > 0.9
    occlusion = np.asarray(textured.occlusion)
    assert 0 < occlusion.min() < 0.6 and occlusion[skin].mean() > 0.6


def test_errors_are_one_line(models, tmp_path, capsys):
    assert "is expected as a NumPy archive" in run(capsys, "import", "npz", _file(tmp_path, b"<html>"), code=2)[1]
    assert (
        "no such file or folder; expected gnm_head.npz" in run(capsys, "import", "gnm", tmp_path / "no.npz", code=2)[1]
    )
    assert (
        "Git-LFS pointer"
        in run(capsys, "import", "bfm2009", _file(tmp_path, b"version https://git-lfs.github.com/spec/v1\n"), code=2)[1]
    )
    for name in ("embedded", "../evil", "", "a/b", "x.safetensors"):
        assert "name " in run(capsys, "import", "npz", _file(tmp_path, b"x"), "--name", name, code=2)[1], name
    assert "not found; known models: embedded" in run(capsys, "info", "nobody", code=2)[1]
    assert "fitjax basis import" in run(capsys, "info", "nobody", code=2)[1]
    assert (
        "no such file or folder"
        in run(capsys, "annotate", tmp_path / "none", "-o", tmp_path / "x.safetensors", code=2)[1]
    )
    made.plain(tmp_path / "mine.npz", landmarks68=np.random.default_rng(0).permutation(made.head().landmarks))
    assert "are they in ibug's order?" in run(capsys, "import", "npz", tmp_path / "mine.npz", code=2)[1]
    assert not models.exists()


def _file(folder: Path, content: bytes) -> Path:
    (folder / "file").write_bytes(content)
    return folder / "file"


# Downloads


class Server:
    """Answers for a network: contents by the end of the URL."""

    def __init__(self, content: bytes | Exception):
        self.content, self.asked = content, []

    def __call__(self, url, timeout=None):
        self.asked.append(url)
        if isinstance(self.content, Exception):
            raise self.content
        return io.BytesIO(self.content)


def test_downloads_are_pinned():
    """ICT: a commit, 154 files, hashes that were measured; GNM: a revision, and the hash that others publish for it."""
    known = downloading.downloads()
    names = [name for text in known["ict"]["files"] for name in downloading._expanded(text)]
    assert len(set(names)) == 154 and "identity099.obj" in names and "jawOpen.obj" in names
    assert "/aa8c24174d00f370ce3f7d99e56ff3c734037805/" in known["ict"]["base"]
    assert set(known["ict"]["sha256"]) <= set(names) and len(known["ict"]["sha256"]) == 8
    assert "/c01e90d298d82301f9fd18f54806be751775cb7c/" in known["gnm"]["base"]
    assert [len(known["gnm"]["sha256"][name]) for name in known["gnm"]["files"]] == [64]


def test_pins_are_those_of_the_original_files():
    raw = require("ict/raw", pytest.skip)
    for name, expected in downloading.downloads()["ict"]["sha256"].items():
        assert hashlib.sha256((raw / name).read_bytes()).hexdigest() == expected


def test_trust_at_first_sight(tmp_path, monkeypatch):
    entry = {"base": "https://example.org/", "kind": "OBJ", "files": ["a.obj"], "sha256": {}}
    monkeypatch.setattr(downloading, "downloads", lambda: {"toy": entry})
    first = Server(b"v 0 0 0\n")
    path = downloading.download("toy", tmp_path, progress=lambda _: None, opener=first)
    assert path == tmp_path / "a.obj" and first.asked == ["https://example.org/a.obj"]
    recorded = json.loads((tmp_path / downloading.RECORD).read_text())
    assert recorded == {"a.obj": hashlib.sha256(b"v 0 0 0\n").hexdigest()}
    again = Server(b"v 1 1 1\n")
    downloading.download("toy", tmp_path, progress=lambda _: None, opener=again)
    assert again.asked == []  # what is there and agrees is kept
    path.unlink()
    with pytest.raises(BasisError, match=r"expected sha256 .*the file has changed, nothing was written"):
        downloading.download("toy", tmp_path, progress=lambda _: None, opener=again)
    assert not path.exists()
    entry["sha256"] = {"a.obj": "0" * 64}
    with pytest.raises(BasisError, match="expected sha256 0000000000000000…"):
        downloading.download("toy", tmp_path, progress=lambda _: None, opener=first)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            urllib.error.URLError("Name or service not known"),
            "cannot be reached .*is there a connection.* download it by hand",
        ),
        (TimeoutError("timed out"), "cannot be reached"),
        (urllib.error.HTTPError("u", 404, "Not Found", {}, None), "answers 404"),
        (b"<!doctype html><html>", "the server sent a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "the server sent a Git-LFS pointer"),
    ],
)
def test_downloads_that_fail(tmp_path, monkeypatch, content, words):
    with pytest.raises(BasisError, match=words):
        downloading.download("gnm", tmp_path / "new", progress=lambda _: None, opener=Server(content))
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_offline_from_the_command_line(models, capsys, monkeypatch):
    monkeypatch.setattr(downloading.urllib.request, "urlopen", Server(urllib.error.URLError("no network")))
    capsys.readouterr()
    assert main(["basis", "download", "gnm"]) == 2
    assert "gnm_head.npz: cannot be reached (no network)" in capsys.readouterr().err.splitlines()[-1]
