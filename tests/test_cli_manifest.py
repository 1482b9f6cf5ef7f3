"""``fitjax fit`` on many faces: the manifest, going on after a kill, packs and what comes out of them."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from fixtures_images import face68
from PIL import Image

import fitjax.cli.fit_command as command
from fitjax.cli.inputs import find_photos, output_names
from fitjax.cli.main import main
from fitjax.cli.packed_landmarks import read_packed_landmarks
from fitjax.errors import FitjaxError
from fitjax.files.manifest import read_manifest
from fitjax.files.pack import read_shard, shard_path
from fitjax.files.result import DrawnResult

# One compiled program for all of this file.
OPTIONS = ("--stages", "landmarks", "--level", "0", "--batch-size", "2", "--workers", "0")
FILES = ("params.safetensors", "camera.json", "landmarks.json", "posed.obj", "overlay.png")
BAD = "photo2"


def _points(index: int) -> np.ndarray:
    """68 landmarks of faces that differ."""
    return face68() + np.random.default_rng(index).normal(scale=3, size=(68, 2))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Five grey photos with landmarks; one of them shows nothing that could be read."""
    root = tmp_path_factory.mktemp("many")
    (root / "photos").mkdir()
    (root / "marks").mkdir()
    for i in range(5):
        Image.fromarray(np.full((500, 500, 3), 100 + 10 * i, np.uint8)).save(root / "photos" / f"photo{i}.png")
        np.save(root / "marks" / f"photo{i}.npy", _points(i))
    (root / "photos" / f"{BAD}.png").write_bytes(b"<html></html>")
    return root


def _arguments(photos, out, *more: str) -> list[str]:
    return ["fit", str(photos / "photos"), "--landmarks", str(photos / "marks"), "-o", str(out), *OPTIONS, *more]


@pytest.fixture(scope="module")
def whole(photos):
    """The results of an uninterrupted run."""
    assert main(_arguments(photos, photos / "whole")) == 1
    return photos / "whole"


def _results(out) -> dict[str, dict[str, bytes]]:
    return {p.name: {f: (p / f).read_bytes() for f in FILES} for p in sorted(out.iterdir()) if p.is_dir()}


def _rows(out) -> dict[str, dict]:
    rows, whole, damaged = read_manifest(out / "manifest.jsonl")
    assert damaged == 0 and whole == (out / "manifest.jsonl").stat().st_size
    assert len({row["name"] for row in rows}) == len(rows)
    return {row["name"]: row for row in rows}


def test_a_row_per_face(whole, photos, capsys):
    rows = _rows(whole)
    assert list(rows) == [f"photo{i}" for i in range(5)]
    assert rows[BAD]["status"] == "failed" and "HTML" in rows[BAD]["reason"]
    good = rows["photo0"]
    report = json.loads((whole / "photo0" / "report.json").read_text())
    assert good["status"] == report["status"] == "converged" and good["folder"] == "photo0"
    assert good["losses"] == pytest.approx(report["losses"]["after"], rel=1e-4)
    assert good["losses_before"] == pytest.approx(report["losses"]["before"], rel=1e-4)
    assert good["photo_sha256"] == report["photo"]["sha256"] and good["timings"]["solve"] > 0
    assert len({row["content"] for row in rows.values()}) == 5 and len({row["config"] for row in rows.values()}) == 1


def test_what_is_done_is_not_done_again(photos, whole, capsys, fitted):
    before = (whole / "photo0" / "report.json").stat().st_mtime_ns
    capsys.readouterr()
    assert main(_arguments(photos, whole)) == 1  # the failure is still one
    captured = capsys.readouterr()
    assert fitted == [] and (whole / "photo0" / "report.json").stat().st_mtime_ns == before
    assert "4 of 5 fitted, 5 of them by an earlier run" in captured.out and BAD in captured.err and captured.err.count("HTML") == 1


def test_changed_photos_and_options_are_done_again(photos, tmp_path, capsys, fitted):
    names = [str(photos / "photos" / f"photo{i}.png") for i in (0, 1)]
    arguments = ["fit", *names, "--landmarks", str(tmp_path / "marks"), "--pack", "-o", str(tmp_path / "out"), *OPTIONS]
    (tmp_path / "marks").mkdir()
    for i in (0, 1):
        np.save(tmp_path / "marks" / f"photo{i}.npy", _points(i))

    def faces(*more: str) -> int:
        fitted.clear()
        assert main([*arguments, *more]) == 0
        return sum(fitted)

    assert faces() == 2 and faces() == 0
    np.save(tmp_path / "marks" / "photo1.npy", _points(7))
    assert faces() == 1 and faces() == 0
    assert faces("--focal", "900") == 2 and faces("--focal", "900") == 0
    assert faces("--focal", "900", "--again") == 2
    assert len(_rows(tmp_path / "out")) == len(_faces(tmp_path / "out")) == 2
    for shard in (tmp_path / "out" / "packed").iterdir():
        shard.unlink()
    assert faces("--focal", "900") == 2
    capsys.readouterr()


def test_killed_and_started_again(photos, whole, tmp_path, capsys, fitted):
    """kill -9, by the process itself, while it writes the third folder."""
    out = tmp_path / "out"
    code = f"""
import os, signal
import fitjax.files.result as result
from fitjax.cli.main import main
real, count = result.write_camera_json, 0
def killing(*arguments):
    global count
    count += 1
    if count == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    real(*arguments)
result.write_camera_json = killing
from fitjax.cli.packed_landmarks import read_packed_landmarks
main({_arguments(photos, out)!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    finished = len([p for p in out.iterdir() if p.is_dir() and not p.name.startswith(".")])
    assert 0 < finished < 5
    assert main(_arguments(photos, out)) == 1
    assert 4 - finished <= sum(fitted) <= 4 - finished + 2  # at most a batch twice
    assert not [p for p in out.iterdir() if p.name.startswith(".")]
    assert _results(out) == _results(whole)
    same = ("name", "content", "config", "status", "losses", "folder")
    assert [[row.get(k) for k in same] for row in _rows(out).values()] == [[row.get(k) for k in same] for row in _rows(whole).values()]
    capsys.readouterr()


def test_a_full_disk_loses_nothing(photos, whole, tmp_path, capsys, monkeypatch, fitted):
    out, real, count = tmp_path / "out", DrawnResult.write, 0

    def filling(drawn, folder, *arguments):
        nonlocal count
        count += 1
        if count == 2:
            raise command.WriteError(folder, os.strerror(errno.ENOSPC))
        real(drawn, folder, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(DrawnResult, "write", filling)
        assert main(_arguments(photos, out)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "No space left" in lines[0] and "the same command goes on" in lines[0]
    assert "1 faces of this run are done" in lines[0] and list(_rows(out)) == ["photo0"]
    (out / "photo1").mkdir()
    (out / "photo1" / "thesis.tex").write_text("mine")  # this is one photo's trouble, not the disk's
    fitted.clear()
    assert main(_arguments(photos, out)) == 1
    assert sum(fitted) == 2 and "thesis.tex" in _rows(out)["photo1"]["reason"]
    (out / "photo1" / "thesis.tex").unlink()
    assert main(_arguments(photos, out)) == 1
    assert sum(fitted) == 3 and _results(out) == _results(whole)
    capsys.readouterr()


@pytest.fixture(scope="module")
def landmarks(tmp_path_factory):
    """Nine faces in one file, as AFLW2000-3D's are stored, the fourth with a NaN; and the same with a good one in its place."""
    root = tmp_path_factory.mktemp("packed")
    points = np.stack([_points(i) for i in range(9)]).astype(np.float32)
    np.savez(root / "good.npz", landmarks=points, names=[f"face{i}" for i in range(9)])
    points[3, 20] = np.nan
    np.savez(root / "bad.npz", landmarks=np.concatenate([points, 0 * points[..., :1]], 2).swapaxes(1, 2), names=[f"face{i}" for i in range(9)])
    return root


def _pack(landmarks, name: str, out, *more: str) -> int:
    return main(["fit", str(landmarks / name), "--pack", "-o", str(out), "--image-size", "500", "500", *OPTIONS, *more])


@pytest.fixture(scope="module")
def packs(landmarks):
    assert _pack(landmarks, "good.npz", landmarks / "good") == 0
    assert _pack(landmarks, "bad.npz", landmarks / "bad") == 1
    return landmarks


def _faces(out) -> dict[str, dict[str, np.ndarray]]:
    rows = _rows(out)
    shards = {n: read_shard(shard_path(out / "packed", n)) for n in {row["shard"] for row in rows.values() if "shard" in row}}
    for row in rows.values():
        assert "shard" not in row or shards[row["shard"]].names[row["row"]] == row["name"]
    return {name: shards[row["shard"]].record(row["row"]) for name, row in rows.items() if "shard" in row}


def test_one_bad_face_of_a_pack_changes_no_other(packs):
    good, bad = _faces(packs / "good"), _faces(packs / "bad")
    assert len(good) == 9 and set(good) - set(bad) == {"face3"}
    for name, record in bad.items():
        for key, array in record.items():
            np.testing.assert_array_equal(array, good[name][key])
    assert "point 20" in _rows(packs / "bad")["face3"]["reason"] and "bad.npz" in _rows(packs / "bad")["face3"]["reason"]


@pytest.mark.parametrize("lines", [0, 1, 4, 5, 8])
def test_a_pack_goes_on_from_any_manifest(packs, tmp_path, lines, fitted, capsys):
    """What a kill after so many rows leaves: the shard may hold more than the manifest says, and the last line is torn."""
    out = tmp_path / "out"
    (out / "packed").mkdir(parents=True)
    shard, manifest = (packs / "good" / name for name in ("packed/shard-00000.safetensors", "manifest.jsonl"))
    (out / "packed" / shard.name).write_bytes(shard.read_bytes())
    kept = manifest.read_bytes().splitlines(keepends=True)
    (out / "manifest.jsonl").write_bytes(b"".join(kept[:lines]) + kept[lines][:100])
    assert _pack(packs, "good.npz", out) == 0
    assert sum(fitted) == 9 - lines
    assert (out / "packed" / shard.name).read_bytes() == shard.read_bytes()
    assert list(_rows(out)) == [f"face{i}" for i in range(9)]
    capsys.readouterr()


def test_a_full_disk_under_a_pack(packs, tmp_path, capsys, monkeypatch):
    """The thread that writes says so, and nothing that comes after it is written in its place."""
    import fitjax.files.pack as files

    out, real, count = tmp_path / "out", files.atomic_write_bytes, 0

    def filling(path, data):
        nonlocal count
        count += 1
        if count > 2:
            raise command.WriteError(path, os.strerror(errno.ENOSPC))
        real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(files, "atomic_write_bytes", filling)
        assert _pack(packs, "good.npz", out) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "No space left" in lines[0] and "4 faces of this run are done" in lines[0]
    assert list(_faces(out)) == [f"face{i}" for i in range(4)]
    assert _pack(packs, "good.npz", out) == 0
    assert [p.read_bytes() for p in (out / "packed").iterdir()] == [p.read_bytes() for p in (packs / "good" / "packed").iterdir()]
    capsys.readouterr()


def test_unpacked_is_what_a_fit_writes(photos, whole, tmp_path, capsys):
    """With the photos all files of the folder, byte by byte; without them the meshes."""
    out = tmp_path / "packed"
    assert main(_arguments(photos, out, "--pack")) == 1
    assert sorted(p.name for p in out.iterdir()) == ["manifest.jsonl", "packed"]
    capsys.readouterr()
    assert main(["unpack", str(out), "photo0", "photo3", "-o", str(tmp_path / "faces")]) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "faces" / name) for name in ("photo0", "photo3")]
    for name in ("photo0", "photo3"):
        for file in FILES:
            assert (tmp_path / "faces" / name / file).read_bytes() == (whole / name / file).read_bytes(), file
    assert main(["unpack", str(out), "photo0", "-o", str(tmp_path / "meshes"), "--photos", str(tmp_path)]) == 0
    assert "1 of 1 without their photos" in capsys.readouterr().err
    for file in ("posed.obj", "posed.glb", "canonical.glb", "camera.json", "landmarks.json"):
        assert (tmp_path / "meshes" / "photo0" / file).read_bytes() == (whole / "photo0" / file).read_bytes(), file
    assert not (tmp_path / "meshes" / "photo0" / "overlay.png").exists()
    assert main(["unpack", str(out), "nobody"]) == 2 and "no face 'nobody'" in capsys.readouterr().err
    assert main(["unpack", str(whole)]) == 2 and "expected the manifest of a pack" in capsys.readouterr().err
    (tmp_path / "photo0.png").write_bytes((photos / "photos" / "photo1.png").read_bytes())
    assert main(["unpack", str(out), "photo0", "--photos", str(tmp_path)]) == 2
    assert "another photo" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"other": np.zeros((2, 68, 2))}, "expected an array 'landmarks'"),
        ({"landmarks": np.zeros((2, 68))}, r"expected numbers \(N, K, 2\)"),
        ({"landmarks": np.zeros((2, 67, 2))}, "67 points"),
        ({"landmarks": np.zeros((2, 68, 2)), "names": ["a", "a"]}, "expected 2 different names"),
        ({"landmarks": np.zeros((2, 68, 2)), "confidence": np.full((2, 68), 2.0)}, "from 0 to 1"),
    ],
)
def test_files_of_landmarks_that_are_none(tmp_path, capsys, arrays, says):
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(FitjaxError, match=says):
        read_packed_landmarks(tmp_path / "mine.npz")


def test_options_that_do_not_go_together(landmarks, tmp_path, capsys):
    for more, says in (
        (["--pack", "--stages", "detail"], "holds landmarks only"),
        (["--pack", "--landmarks", "x"], "--landmarks: belongs to photos"),
        ([], "give --pack"),
        (["--pack"], "found both"),
        (["--workers", "-1"], "--workers"),
    ):
        both = ["photo.jpg"] if says == "found both" else []
        assert main(["fit", str(landmarks / "good.npz"), *both, "-o", str(tmp_path / "out"), *more]) == 2
        assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_lists_and_patterns(tmp_path):
    for name in ("a.png", "b.png", "c.jpg", "notes.md"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "list.txt").write_text("# two\nc.jpg\n\n a.png \n")
    assert find_photos([tmp_path / "list.txt"]) == [tmp_path / "c.jpg", tmp_path / "a.png"]
    assert find_photos([tmp_path / "*.png", tmp_path / "c.jpg"]) == [tmp_path / n for n in ("a.png", "b.png", "c.jpg")]
    for wrong in ("*.gif", "*.md"):
        with pytest.raises(FitjaxError, match="the pattern finds no photo"):
            find_photos([tmp_path / wrong])
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(FitjaxError, match="the list names no photo"):
        find_photos([tmp_path / "empty.txt"])
    assert output_names([tmp_path / "x" / "a.png", tmp_path / "y" / "a.png", tmp_path / "a.jpg"]) == ["a_png", "a_png_2", "a_jpg"]
