"""Bad input to ``fitjax fit``: one clear line on stderr, an exit code other than 0, and nothing half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from fixtures_images import encoded, face68, picture, png_header
from PIL import Image
from safetensors import safe_open

from fitjax.cli.main import main
from fitjax.model.load import find_models


def fit_fails(capsys, out: Path, *arguments: object, code: int) -> str:
    """Run ``fitjax fit`` on arguments that cannot work; the one line it says on stderr."""
    before = out.exists()
    capsys.readouterr()
    assert main(["fit", *map(str, arguments), "-o", str(out)]) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("fitjax: ") and "Traceback" not in lines[0]
    assert out.exists() == before  # no folder where there was none, not even an empty one
    if out.is_dir():
        assert not [p for p in out.rglob("*") if p.name.startswith(".")]
    return lines[0]


JPEG = encoded(Image.fromarray(picture(200, 160)), "JPEG")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (JPEG, "no face found in the 200 x 160 image"),
        (b"", "empty"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "HTML page"),
        (png_header(40000, 40000), "million"),
        (encoded(Image.new("RGB", (1, 1)), "PNG"), "1 x 1"),
        (b"\0" * 1000, "zero bytes"),
        (b"GIF89a" + b"\xff" * 40, "damaged|truncated|supported"),
    ],
    ids=["no_face", "0_byte", "truncated", "html_as_jpeg", "bomb", "1x1", "zeros", "broken_gif"],
)
def test_bad_photo(tmp_path, capsys, data, says):
    photo = tmp_path / "face.jpg"
    photo.write_bytes(data)
    line = fit_fails(capsys, tmp_path / "out", photo, code=1)
    assert "face.jpg" in line
    assert any(part in line for part in says.split("|")), line


def test_missing_photo(tmp_path, capsys):
    line = fit_fails(capsys, tmp_path / "out", tmp_path / "absent.jpg", code=1)
    assert "absent.jpg" in line and "no such file" in line


def test_empty_folder(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "._face.jpg").write_bytes(b"litter of a file browser")
    line = fit_fails(capsys, tmp_path / "out", tmp_path / "photos", code=2)
    assert "photos: the folder holds no photo" in line and ".jpg" in line


def test_no_input(tmp_path, capsys):
    assert "expected at least one photo" in fit_fails(capsys, tmp_path / "out", code=2)


def _landmarks(change) -> np.ndarray:
    points = face68()
    return change(points)


def _nan(points):
    points[30] = np.nan
    return points


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_nan, "point 30"),
        (lambda p: np.stack([500 - p[:, 0], p[:, 1]], 1), "left and right"),
        (lambda p: p[:67], "67 points"),
        (lambda p: np.stack([np.linspace(100, 400, 68)] * 2, 1), "line"),
        (lambda p: np.full((68, 2), 250.0), "expected a face of"),
        (lambda p: p + 5000, "outside"),
        (lambda p: p.astype(object), "pickle|object"),
    ],
    ids=["nan", "mirrored", "wrong_count", "collinear", "one_spot", "outside", "pickled"],
)
def test_bad_landmarks(tmp_path, capsys, astronaut_path, change, says):
    file = tmp_path / "mine.npy"
    np.save(file, _landmarks(change), allow_pickle=True)
    line = fit_fails(capsys, tmp_path / "out", astronaut_path, "--landmarks", file, code=1)
    assert "mine.npy" in line
    assert any(part in line for part in says.split("|")), line


def test_other_landmark_mistakes(tmp_path, capsys, astronaut_path):
    out = tmp_path / "out"
    (tmp_path / "folder").mkdir()
    assert "no such file" in fit_fails(capsys, out, astronaut_path, "--landmarks", tmp_path / "none.pts", code=1)
    line = fit_fails(capsys, out, astronaut_path, "--landmarks", tmp_path / "folder", code=1)
    assert "no landmarks for astronaut.png" in line and "astronaut.pts" in line
    np.save(tmp_path / "one.npy", face68())
    line = fit_fails(capsys, out, astronaut_path, astronaut_path, "--landmarks", tmp_path / "one.npy", code=2)
    assert "one file for 2 photos" in line
    for option in ("--mask", "--labels"):
        line = fit_fails(capsys, out, astronaut_path, astronaut_path, option, tmp_path / "one.png", code=2)
        assert f"{option} " in line and "one file for 2 photos" in line
    line = fit_fails(capsys, out, astronaut_path, "--mask", tmp_path / "one.png", "--stages", "landmarks", code=2)
    assert "--mask: landmarks read no pixels" in line
    line = fit_fails(capsys, out, astronaut_path, "--landmarks", tmp_path / "one.npy", "--all-faces", code=2)
    assert "--all-faces" in line
    (tmp_path / "broken.json").write_text('{"points": [[1, 2], ')
    assert "damaged JSON" in fit_fails(capsys, out, astronaut_path, "--landmarks", tmp_path / "broken.json", code=1)


def _rewritten(path: Path, change) -> Path:
    """The embedded basis with its tensors or metadata changed."""
    source = find_models()["embedded"]
    with safe_open(str(source), framework="np") as handle:
        metadata = dict(handle.metadata())
    tensors = safetensors.numpy.load_file(str(source))
    change(tensors, metadata)
    safetensors.numpy.save_file(tensors, str(path), metadata)
    return path


def _fewer_vertices(tensors, metadata):
    tensors["mean"] = tensors["mean"][:-10]


def _fewer_names(tensors, metadata):
    metadata["expression_names"] = json.dumps(["jawOpen"])


def _no_triangles(tensors, metadata):
    del tensors["triangles"]


def _other_format(tensors, metadata):
    metadata["format"] = "fitjax-basis/99"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_fewer_vertices, "basis field"),
        (_fewer_names, "expression_names"),
        (_no_triangles, "triangles"),
        (_other_format, "fitjax-basis/99"),
    ],
)
def test_mismatched_basis(tmp_path, capsys, astronaut_path, change, says):
    basis = _rewritten(tmp_path / "mine.safetensors", change)
    line = fit_fails(capsys, tmp_path / "out", astronaut_path, "--model", basis, code=2)
    assert "mine.safetensors" in line and says in line


def test_truncated_or_absent_basis(tmp_path, capsys, astronaut_path):
    whole = find_models()["embedded"].read_bytes()
    for length in (0, 4, 5000, len(whole) - 1):
        (tmp_path / "cut.safetensors").write_bytes(whole[:length])
        line = fit_fails(capsys, tmp_path / "out", astronaut_path, "--model", tmp_path / "cut.safetensors", code=2)
        assert "cut.safetensors" in line and "not a readable safetensors file" in line
    assert "embedded" in fit_fails(capsys, tmp_path / "out", astronaut_path, "--model", "no_such_model", code=2)
    line = fit_fails(capsys, tmp_path / "out", astronaut_path, "--model", tmp_path / "no.safetensors", code=2)
    assert "no such file" in line


def test_unusable_start(tmp_path, capsys, astronaut_path):
    (tmp_path / "start.safetensors").write_bytes(b"12345678")
    line = fit_fails(capsys, tmp_path / "out", astronaut_path, "--start", tmp_path / "start.safetensors", code=2)
    assert "start.safetensors" in line


@pytest.mark.parametrize(("option", "value"), [("--focal", "0"), ("--focal", "nan"), ("--batch-size", "0")])
def test_options_out_of_range(tmp_path, capsys, astronaut_path, option, value):
    line = fit_fails(capsys, tmp_path / "out", astronaut_path, f"{option}={value}", code=2)
    assert option in line and value in line


def test_out_is_a_file(tmp_path, capsys, astronaut_path):
    taken = tmp_path / "taken"
    taken.write_text("mine")
    assert "a file of that name exists" in fit_fails(capsys, taken, astronaut_path, code=2)
    line = fit_fails(capsys, taken / "deeper", astronaut_path, code=2)
    assert "taken" in line and "cannot write" in line
    assert taken.read_text() == "mine"


def test_folders_of_strangers_are_refused_before_fitting(tmp_path, capsys, astronaut_path, monkeypatch):
    monkeypatch.setattr("fitjax.cli.fit_command.fit_batch", lambda *a, **k: pytest.fail("fitted all the same"))
    out = tmp_path / "out"
    (out / "astronaut").mkdir(parents=True)
    (out / "astronaut" / "thesis.tex").write_text("mine")
    line = fit_fails(capsys, out, astronaut_path, code=1)
    assert "astronaut" in line and "thesis.tex" in line
    assert (out / "astronaut" / "thesis.tex").read_text() == "mine"
    (out / "astronaut_face1").write_text("mine")
    assert "astronaut_face1" in fit_fails(capsys, out, astronaut_path, "--all-faces", code=1)
    assert (out / "astronaut_face1").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_out_without_permission(tmp_path, capsys, astronaut_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "cannot write" in fit_fails(capsys, tmp_path / "locked" / "out", astronaut_path, code=2)


def test_a_full_disk_leaves_nothing(tmp_path, capsys, astronaut_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fitjax.files.result.write_obj", full)
    line = fit_fails(capsys, tmp_path / "out", astronaut_path, "--stages", "landmarks", code=1)
    assert "No space left on device" in line and str(tmp_path / "out" / "astronaut") in line


def test_a_mistake_of_ours_is_one_line_too(tmp_path, capsys, astronaut_path, monkeypatch):
    monkeypatch.delenv("FITJAX_DEBUG", raising=False)
    monkeypatch.setattr("fitjax.cli.reading.read_photo", lambda path: 1 / 0)
    line = fit_fails(capsys, tmp_path / "out", astronaut_path, code=2)
    assert "internal error: ZeroDivisionError" in line and "FITJAX_DEBUG" in line


@pytest.mark.parametrize("arguments", [["fit", "--no-such-option"], ["fti"], ["fit", "--level", "7", "x.jpg"]])
def test_wrong_usage(capsys, arguments):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err and "Traceback" not in captured.err


def test_in_a_process_of_its_own(tmp_path):
    """The exit code reaches the shell, and neither JAX nor the detector adds a line."""
    (tmp_path / "page.jpg").write_bytes(b"<html>not a photo</html>")
    Image.fromarray(picture(200, 160)).save(tmp_path / "plain.png")
    done = subprocess.run(
        [sys.executable, "-m", "fitjax", "fit", "page.jpg", "plain.png", "-o", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 2 and "page.jpg" in lines[0] and "HTML" in lines[0] and "plain.png" in lines[1]
    assert "0 of 2 fitted" in done.stdout
    assert not (tmp_path / "out").exists()
