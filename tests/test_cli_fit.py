"""``fitjax fit`` on good photos: one, several, several faces in one, very large ones; what it prints and writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from toy import write_toy

from fitjax.cli.main import main
from fitjax.files.params import load_params
from fitjax.files.result import MESH_FILES
from fitjax.version import __version__

# What is tested here is the way from photos to folders; the pixels have tests of their own, and a fit without them takes a tenth of the time.
MESH = ("--stages", "landmarks")
EYES = np.array([224.5, 102.0])  # midway between them, in the photo of the astronaut


def _pair(photo: np.ndarray) -> Image.Image:
    """A photo beside itself at three fifths of the size, the smaller one on the left."""
    height, width = photo.shape[:2]
    small = np.asarray(Image.fromarray(photo).resize((width * 3 // 5, height * 3 // 5)))
    canvas = np.full((height, width + small.shape[1], 3), 200, np.uint8)
    canvas[: small.shape[0], : small.shape[1]] = small
    canvas[:, small.shape[1] :] = photo
    return Image.fromarray(canvas)


@pytest.fixture(scope="module")
def two_faces(tmp_path_factory, astronaut):
    """Two heads, 300 and 180 pixels high."""
    path = tmp_path_factory.mktemp("two") / "pair.png"
    _pair(astronaut[:300, 80:380]).save(path)
    return path


def _eyes(folder) -> np.ndarray:
    return np.array(json.loads((folder / "landmarks.json").read_text())["ibug68"])[36:48].mean(0)


def _report(folder):
    return json.loads((folder / "report.json").read_text())


def test_several_faces_the_largest_is_fitted(tmp_path, capsys, two_faces):
    assert main(["fit", str(two_faces), *MESH, "-o", str(tmp_path)]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "2 faces found, the largest is fitted" in lines[0] and "--all-faces" in lines[0]
    report = _report(tmp_path / "pair")
    assert any("2 faces" in w for w in report["warnings"])
    assert np.linalg.norm(_eyes(tmp_path / "pair") - (EYES - [80 - 180, 0])) < 4


def test_all_faces(tmp_path, capsys, two_faces):
    assert main(["fit", str(two_faces), "--all-faces", *MESH, "-o", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert captured.err == "" and "2 of 2 fitted" in captured.out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["manifest.jsonl", "pair_face1", "pair_face2"]
    for name in ("pair_face1", "pair_face2"):
        assert {p.name for p in (tmp_path / name).iterdir()} == MESH_FILES
    # Largest first; the smaller one is the same picture at 0.6 of the size.
    assert np.linalg.norm(_eyes(tmp_path / "pair_face1") - (EYES - [80 - 180, 0])) < 4
    assert np.linalg.norm(_eyes(tmp_path / "pair_face2") - 0.6 * (EYES - [80, 0])) < 3
    sizes = [_report(tmp_path / n)["landmark_residual"]["face_size_pixels"] for n in ("pair_face1", "pair_face2")]
    assert sizes[1] / sizes[0] == pytest.approx(0.6, abs=0.03)


def test_all_faces_finds_small_ones_beside_large_ones(tmp_path, capsys, astronaut):
    """55 pixels of a photo 819 wide: beyond what the detector sees at first glance."""
    _pair(astronaut).save(tmp_path / "group.png")
    assert main(["fit", str(tmp_path / "group.png"), "--all-faces", *MESH, "-o", str(tmp_path / "out")]) == 0
    assert "2 of 2 fitted" in capsys.readouterr().out
    assert np.linalg.norm(_eyes(tmp_path / "out" / "group_face2") - 0.6 * EYES) < 3


def test_8000_pixels(tmp_path, capsys, astronaut):
    photo = tmp_path / "large.jpg"
    Image.fromarray(astronaut).resize((8000, 8000), Image.Resampling.BILINEAR).save(photo, quality=60)
    assert main(["fit", str(photo), *MESH, "-o", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().err == ""
    report = _report(tmp_path / "out" / "large")
    assert report["photo"]["width"] == 8000 and report["reliable"]
    assert np.linalg.norm(_eyes(tmp_path / "out" / "large") * 512 / 8000 - EYES) < 4
    with Image.open(tmp_path / "out" / "large" / "overlay.png") as picture:
        assert max(picture.size) < 4000


def test_folder_with_one_bad_photo(tmp_path, capsys, astronaut_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a_good_photo_with_quite_a_long_name.png").write_bytes(astronaut_path.read_bytes())
    (photos / "broken.jpg").write_bytes(b"<html></html>")
    (photos / "notes.txt").write_text("not a photo, and not looked at")
    assert main(["fit", str(photos), *MESH, "-o", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and "broken.jpg" in captured.err
    assert "1 of 2 fitted" in captured.out
    folder = tmp_path / "out" / "a_good_photo_with_quite_a_long_name"
    # The path is printed whole and on a line of its own, the table stays within 80 columns.
    assert str(folder) in captured.out.splitlines()
    assert max(len(line) for line in captured.out.splitlines() if line[:1] in "┏┃┡│└") <= 80
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [folder.name, "manifest.jsonl"]


def test_own_landmarks_and_continuing(tmp_path, capsys, astronaut_path):
    """Landmarks of a fit can be fitted again; from its own parameters the solver needs fewer steps."""
    assert main(["fit", str(astronaut_path), *MESH, "-o", str(tmp_path / "first")]) == 0
    first = tmp_path / "first" / "astronaut"
    points = json.loads((first / "landmarks.json").read_text())["ibug68"]
    (tmp_path / "mine.json").write_text(json.dumps({"set": "ibug68", "points": points}))
    again = ["fit", str(astronaut_path), *MESH, "--landmarks", str(tmp_path / "mine.json")]
    assert main([*again, "-o", str(tmp_path / "second")]) == 0
    report = _report(tmp_path / "second" / "astronaut")
    assert report["detector"] is None and report["landmark_residual"]["mean_percent_of_face_size"] < 1.0
    start = ["--start", str(first / "params.safetensors")]
    assert main(["fit", str(astronaut_path), *MESH, *start, "-o", str(tmp_path / "third")]) == 0
    before, after = (
        load_params(first / "params.safetensors")[0],
        load_params(tmp_path / "third" / "astronaut" / "params.safetensors")[0],
    )
    assert np.abs(before["identity"] - after["identity"]).max() < 0.05
    # Run again over its own result: replaced, not refused.
    assert main([*again, "-o", str(tmp_path / "second")]) == 0
    capsys.readouterr()


def test_fast_chooses_the_fast_stages(astronaut_path, monkeypatch, capsys, tmp_path):
    """What --fast asks of the fitter; `test_photometric` fits with these stages, `test_demo` with the full ones."""
    import fitjax.cli.fit_command as command

    asked = []

    def refuse(observations, *, stages, **_):
        asked.append(stages)
        raise fj.FitError("enough")

    monkeypatch.setattr(command, "fit_batch", refuse)
    for option in ([], ["--fast"]):
        assert main(["fit", str(astronaut_path), *option, "-o", str(tmp_path / "out")]) != 0
    capsys.readouterr()
    full, fast = asked
    assert [s.name for s in full] == [s.name for s in fast] == ["landmarks", "model", "detail"]
    assert fast[1].halvings == full[1].halvings + 1 and fast[2].solver.max_steps <= 0.5 * full[2].solver.max_steps


def test_pixels_of_a_model_without_albedo(tmp_path, capsys, astronaut_path):
    basis = write_toy(tmp_path / "mine.safetensors")
    arguments = ["fit", str(astronaut_path), "--model", str(basis), "-o", str(tmp_path / "out")]
    for stages in ("photometric", "detail"):
        assert main([*arguments, "--stages", stages]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and "mine.safetensors" in lines[0] and "has no albedo, and no place on our texture" in lines[0]
    assert not (tmp_path / "out").exists()
    # By default such a model is fitted to landmarks.
    assert main(arguments) == 0
    assert {p.name for p in (tmp_path / "out" / "astronaut").iterdir()} == MESH_FILES
    capsys.readouterr()


def test_names_that_collide(tmp_path, capsys, astronaut_path):
    data = astronaut_path.read_bytes()
    for name in ("one/face.png", "two/face.png", "two/face.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    inputs = [str(tmp_path / n) for n in ("one/face.png", "two/face.png", "two/face.jpg")]
    assert main(["fit", *inputs, *MESH, "-o", str(tmp_path / "out"), "--batch-size", "3", "--level", "0"]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["face_jpg", "face_png", "face_png_2", "manifest.jsonl"]
    capsys.readouterr()


def test_info(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert f"fitjax {__version__}" in out and "cpu" in out.lower() and "embedded" in out and "CC0" in out


def test_version_and_help_do_not_wait_for_jax(tmp_path):
    """JAX takes half a second to import; asking for help must not."""
    code = "import sys; from fitjax.cli.main import main; main([sys.argv[1]]); assert not {'jax', 'numpy'} & set(sys.modules)"
    for argument, expected in (("--version", f"fitjax {__version__}"), ("--help", "usage: fitjax")):
        done = subprocess.run([sys.executable, "-c", code, argument], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout and done.stderr == ""


def test_second_run_in_a_fresh_process_compiles_nothing(tmp_path, astronaut_path):
    """Counted rather than timed: every program that the second process needs lies in the cache of the first."""
    cache = tmp_path / "cache"
    command = [sys.executable, "-m", "fitjax", "fit", str(astronaut_path), *MESH, "-o", str(tmp_path / "out")]
    programs, parameters = [], []
    for _ in range(2):
        environment = {**os.environ, "FITJAX_CACHE": str(cache)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
        assert done.returncode == 0 and done.stderr == ""
        programs.append({p.name for p in cache.iterdir() if p.name.endswith("-cache")})
        parameters.append((tmp_path / "out" / "astronaut" / "params.safetensors").read_bytes())
    assert len(programs[0]) > 10 and programs[1] == programs[0]
    assert parameters[0] == parameters[1]
    timings = _report(tmp_path / "out" / "astronaut")["timings_seconds"]
    assert set(timings) == {"start", "load_model", "load_detector", "read", "detect", "solve", "compile", "write"}
    # Compiling is part of the others' time, the solver's own is a fraction of it.
    assert timings["compile"] > 0 and 0 < timings["solve"] < timings["compile"]
