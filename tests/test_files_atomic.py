"""Nothing half-written: files and folders appear whole or not at all, and errors name the path."""

import os
import subprocess
import sys

import pytest

from fitjax.errors import FitjaxError
from fitjax.files import atomic
from fitjax.files.atomic import WriteError, atomic_folder, atomic_write_bytes, atomic_write_text


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_write_replaces_and_makes_parents(tmp_path):
    path = tmp_path / "a" / "b" / "x.txt"
    atomic_write_text(path, "é\n")
    assert path.read_bytes() == "é\n".encode()
    atomic_write_bytes(path, b"two")
    assert path.read_bytes() == b"two" and names(path.parent) == ["x.txt"]
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert path.stat().st_mode == plain.stat().st_mode  # the user's umask, not that of a temporary file


def test_link_stays_a_link(tmp_path):
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    real.write_text("old")
    try:
        link.symlink_to(real)
    except OSError:
        pytest.skip("no symbolic links here")
    atomic_write_text(link, "new")
    assert link.is_symlink() and real.read_text() == "new"


def test_failures_name_the_path_and_leave_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")
    with pytest.raises(WriteError, match=r"x\.bin.sub"):
        atomic_write_bytes(path / "sub", b"")  # a file where a folder is needed
    with pytest.raises(FitjaxError, match="is a folder"):
        atomic_write_bytes(tmp_path, b"")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FitjaxError, match=r"x\.bin: No space left on device"):
        atomic_write_bytes(path, b"new")
    assert path.read_bytes() == b"old" and names(tmp_path) == ["x.bin"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_size_limit_of_the_system(tmp_path):
    """A real failure of write(2): the process may not write files above 1 kB."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from fitjax.files.atomic import atomic_folder, atomic_write_bytes\n"
        "from fitjax.errors import FitjaxError\n"
        "try:\n"
        "    with atomic_folder(sys.argv[1]) as folder:\n"
        "        atomic_write_bytes(folder / 'small', b'x' * 10)\n"
        "        atomic_write_bytes(folder / 'big', b'x' * 5000)\n"
        "except FitjaxError as error:\n"
        "    print(error)\n"
    )
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    out = tmp_path / "out"
    environment = {**os.environ, "PYTHONPATH": root}
    result = subprocess.run(
        [sys.executable, "-B", "-c", code, str(out)], capture_output=True, text=True, env=environment, timeout=60
    )
    assert result.stdout.startswith(f"cannot write {out / 'big'}: File too large"), result.stderr
    assert names(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_folder(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(FitjaxError, match="Permission denied"):
            atomic_write_bytes(tmp_path / "x", b"")
        with pytest.raises(FitjaxError, match="Permission denied"), atomic_folder(tmp_path / "out"):
            pass
    finally:
        tmp_path.chmod(0o700)


def test_folder_appears_at_the_end(tmp_path):
    out = tmp_path / "deep" / "out"
    with atomic_folder(out) as folder:
        atomic_write_text(folder / "a.txt", "1")
        assert not out.exists() and folder.parent == out.parent and folder.name.startswith(".")
    assert names(out) == ["a.txt"] and names(out.parent) == ["out"]
    # again: replaced as a whole, files of the last run that are declared disappear
    atomic_write_text(out / "b.txt", "2")
    with atomic_folder(out, owned={"a.txt", "b.txt"}) as folder:
        atomic_write_text(folder / "a.txt", "3")
    assert names(out) == ["a.txt"] and (out / "a.txt").read_text() == "3"
    assert names(out.parent) == ["out"]


def test_folder_never_deletes_what_is_not_its_own(tmp_path):
    out = tmp_path / "pictures"
    out.mkdir()
    (out / "holiday.jpg").write_bytes(b"x")
    (out / ".DS_Store").write_bytes(b"x")
    refused = pytest.raises(FitjaxError, match=r"pictures.*'holiday\.jpg', which would be deleted")
    with refused, atomic_folder(out) as folder:
        atomic_write_text(folder / "a.txt", "1")
    assert names(out) == [".DS_Store", "holiday.jpg"] and names(tmp_path) == ["pictures"]
    entered = False
    with pytest.raises(FitjaxError, match="holiday"), atomic_folder(out, owned={"a.txt"}):
        entered = True
    assert not entered  # refused before the work
    (tmp_path / "file").write_text("")
    with pytest.raises(FitjaxError, match="a file of that name"), atomic_folder(tmp_path / "file"):
        pass


def test_failing_block_keeps_the_old_folder(tmp_path):
    out = tmp_path / "out"
    with atomic_folder(out) as folder:
        atomic_write_text(folder / "a.txt", "old")
    for error in (RuntimeError("no"), KeyboardInterrupt(), FileNotFoundError(2, "gone", "photo.jpg")):
        with pytest.raises(type(error)), atomic_folder(out) as folder:
            atomic_write_text(folder / "a.txt", "new")
            raise error
    with pytest.raises(WriteError) as caught, atomic_folder(out) as folder:
        atomic_write_text(folder / "a.txt", "new")
        atomic_write_text(folder / "a.txt" / "b", "new")
    assert caught.value.path == out / "a.txt" / "b"  # not the hidden folder's name
    with pytest.raises(WriteError, match="out: No such file"), atomic_folder(out) as folder:
        (folder / "none" / "x").write_text("")
    assert names(tmp_path) == ["out"] and (out / "a.txt").read_text() == "old"


def test_failing_swap_restores_the_old_folder(tmp_path, monkeypatch):
    out = tmp_path / "out"
    with atomic_folder(out) as folder:
        atomic_write_text(folder / "a.txt", "old")
    rename = os.rename

    def second_fails(source, target):
        if str(source).endswith(".part"):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(atomic.os, "rename", second_fails)
    with pytest.raises(FitjaxError, match=r"out: Input/output error"), atomic_folder(out) as folder:
        atomic_write_text(folder / "a.txt", "new")
    assert names(tmp_path) == ["out"] and (out / "a.txt").read_text() == "old"
