"""Photos in tar archives: the same as from a folder, nothing extracted, and archives that are damaged or lie."""

from __future__ import annotations

import gzip
import io
import os
import tarfile

import numpy as np
import pytest
from fixtures_images import face68
from PIL import Image

from fitjax.cli.archives import MAX_HEADER, Member, find_member, read_index
from fitjax.cli.inputs import PHOTO_ENDINGS, find_photos, output_names
from fitjax.cli.jobs import Making
from fitjax.cli.main import main
from fitjax.cli.reading import Beside, content_hash
from fitjax.cli.sources import PhotoSource
from fitjax.cli.workers import DetectorChoice
from fitjax.errors import ImageError
from fitjax.files.manifest import read_manifest

OPTIONS = ("--stages", "landmarks", "--level", "0", "--batch-size", "2", "--pack")


def _png(grey: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((500, 500, 3), grey, np.uint8)).save(stream, "png")
    return stream.getvalue()


def _tar(path, members: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


MEMBERS = {"set/a.png": _png(100), "set/notes.txt": b"no photo", "set/.hidden.png": _png(1), "b/a.png": _png(110), "c.png": b"<html></html>"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tar")
    (folder / "marks").mkdir()
    for i, stem in enumerate("ac"):
        np.save(folder / "marks" / f"{stem}.npy", face68() + np.random.default_rng(i).normal(scale=3, size=(68, 2)))
    for name, mode in (("x.tar", "w"), ("x.tar.gz", "w:gz"), ("x.tar.bz2", "w:bz2"), ("x.tar.xz", "w:xz")):
        _tar(folder / name, MEMBERS, mode)
    return folder


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.tar.bz2", "x.tar.xz"])
def test_members_are_read_as_files_are(root, tmp_path, name):
    photos = find_photos([root / name])
    assert [str(p) for p in photos] == [f"{root / name}/{n}" for n in ("set/a.png", "b/a.png", "c.png")]
    assert output_names(photos) == ["a_png", "a_png_2", "c"]
    source = PhotoSource(photos, Making(None), Beside(landmarks=root / "marks"), DetectorChoice(False), None, 2)
    found = list(source.faces(lambda _: None))
    assert [n for n, _ in found] == ["a_png", "a_png_2", "c"]
    for (_, jobs), data in zip(found, (MEMBERS["set/a.png"], MEMBERS["b/a.png"], None)):
        assert jobs is not None and len(jobs) == 1
        if data is None:
            assert "HTML" in str(jobs[0].error) and f"{name}/c.png" in str(jobs[0].error)
            continue
        (tmp_path / "same.png").write_bytes(data)
        assert jobs[0].photo is not None and jobs[0].photo.path.endswith(".png")
        np.testing.assert_array_equal(jobs[0].photo.rgb, np.asarray(Image.open(io.BytesIO(data))))
        assert jobs[0].photo_sha256 == content_hash([tmp_path / "same.png"])
        assert jobs[0].content == content_hash([tmp_path / "same.png", root / "marks" / "a.npy"])
    assert [m.read() for m in find_member(root / name / "b" / "a.png", PHOTO_ENDINGS)] == [MEMBERS["b/a.png"]]
    assert not list(find_member(root / name / "b" / "z.png", PHOTO_ENDINGS)) and not list(find_member(root / "a.png", PHOTO_ENDINGS))


def test_a_fit_of_an_archive(root, tmp_path, capsys):
    """Two processes share a compressed archive; the second run knows what is done, and folders come from the archive."""
    out = tmp_path / "out"
    before = sorted(root.rglob("*"))
    common = ["fit", str(root / "x.tar.gz"), "--landmarks", str(root / "marks"), "-o", str(out), *OPTIONS]
    assert main([*common, "--workers", "0", "--processes", "2", "--process-id", "0"]) == 1
    assert main([*common, "--workers", "1", "--processes", "2", "--process-id", "1"]) == 0
    assert main(["merge", str(out)]) == 0
    rows = {row["name"]: row for row in read_manifest(out / "manifest.jsonl")[0]}
    assert [rows[n]["status"] for n in ("a_png", "a_png_2", "c")] == ["converged", "converged", "failed"]
    capsys.readouterr()
    assert main([*common, "--workers", "0"]) == 1
    assert "3 of them by an earlier run" in capsys.readouterr().out
    assert main(["unpack", str(out), "a_png_2", "-o", str(tmp_path / "faces")]) == 0
    assert (tmp_path / "faces" / "a_png_2" / "overlay.png").exists()
    assert sorted(root.rglob("*")) == before and sorted(p.name for p in out.iterdir()) == ["manifest.jsonl", "packed"]
    capsys.readouterr()


def test_names_lead_nowhere(tmp_path):
    names = ["../../up.png", "/etc/passwd.png", "a/..", "..png", "x/\x1b[31mred\n.png", "\udcff.png", "back\\slash.png", "-.png"]
    _tar(tmp_path / "evil.tar", {n: _png(9) for n in names})
    photos = read_index(tmp_path / "evil.tar", PHOTO_ENDINGS)
    assert [p.inside for p in photos] == [names[i] for i in (0, 1, 4, 5, 6, 7)]
    assert output_names(photos) == ["up", "passwd", "_[31mred_", "_", "back_slash", "-"]
    assert all("\n" not in str(p) and "\x1b" not in str(p) for p in photos)
    for name in ("...png", "..", "."):
        assert output_names([Member(tmp_path, name, 0, 0)]) == ["photo"]


def _links(path) -> None:
    with tarfile.open(path, "w") as tar:
        for kind, name in ((tarfile.SYMTYPE, "s.png"), (tarfile.LNKTYPE, "h.png"), (tarfile.CHRTYPE, "d.png"), (tarfile.FIFOTYPE, "f.png")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)


def test_only_regular_files_are_photos(tmp_path):
    _links(tmp_path / "links.tar")
    assert read_index(tmp_path / "links.tar", PHOTO_ENDINGS) == []
    with pytest.raises(ImageError, match="the archive holds no photo"):
        find_photos([tmp_path / "links.tar"])


def _negative(data: bytearray) -> None:
    data[124:136] = b"\xff" * 12  # base 256, negative
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])


def _huge_header(path) -> None:
    """A header that says that a long name of gigabytes follows; they are zeros, so that the file is small."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    with gzip.open(path, "wb", 1) as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT) + bytes(2 * MAX_HEADER))


@pytest.mark.parametrize("how", ["missing", "text", "empty", "cut", "cut header", "garbage", "cut gz", "bit gz", "negative", "huge"])
def test_damaged_archives_are_one_error(root, tmp_path, capsys, how):
    path = tmp_path / ("x.tar.gz" if how in ("cut gz", "bit gz", "huge") else "x.tar")
    data = bytearray((root / path.name).read_bytes())
    second = 512 + -(-len(MEMBERS["set/a.png"]) // 512) * 512
    if how == "text":
        data = bytearray(b"<html></html>" * 100)
    elif how == "empty":
        data = bytearray()
    elif how == "cut":
        data = data[: second - 600]
    elif how == "cut header":
        data = data[: second + 100]
    elif how == "garbage":
        data[second : second + 512] = os.urandom(512)
    elif how == "cut gz":
        data = data[: len(data) // 2]
    elif how == "bit gz":
        data[-6] ^= 1  # the checksum
    elif how == "negative":
        _negative(data)
    if how != "missing":
        path.write_bytes(data)
    if how == "huge":
        _huge_header(path)
    assert main(["fit", str(path), "-o", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and str(path) in lines[0]
    assert ("no such file" if how == "missing" else "not a whole tar archive") in lines[0]
    assert not (tmp_path / "out").exists()


def test_members_that_are_no_photo_fail_alone(tmp_path):
    member = Member(tmp_path / "x.tar", "big.png", 0, 1 << 40)
    with pytest.raises(ImageError, match=r"x.tar/big.png: the file has 1099512 MB"):
        member.read()
    with pytest.raises(ImageError, match="stored with holes"):
        Member(tmp_path / "x.tar", "holes.png", -1, 10).read()
    (tmp_path / "x.tar").write_bytes(b"123")
    with pytest.raises(ImageError, match="the archive ends within it"):
        Member(tmp_path / "x.tar", "gone.png", 2, 10).read()
    (tmp_path / "x.tar").unlink()
    with pytest.raises(ImageError, match="cannot be read"):
        Member(tmp_path / "x.tar", "gone.png", 2, 10).read()
