"""Opening other people's files: what a file is, arrays, Matlab and HDF5 in a child process, checks of fields, and damaged files of every kind."""

from __future__ import annotations

import io
import os
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

from benchmarks import fuzz_files
from fitjax.errors import BasisError
from fitjax.importers.safe import Fields, FileKind, expect, read_hdf5, read_mat, read_npy, read_npz, sniff
from fitjax.importers.safe import foreign as foreign_module

# What a file is


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", FileKind.EMPTY),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n", FileKind.LFS),
        (b"\n  <!DOCTYPE html><html>", FileKind.HTML),
        (b"\xef\xbb\xbf<html lang='en'>", FileKind.HTML),
        (b"\x80\x04\x95", FileKind.PICKLE),
        (b"(dp0\nS'v'\np1\nI1\ns.", FileKind.PICKLE),
        (b"(lp1\n.", FileKind.PICKLE),
        (b"cnumpy\ndtype\n.", FileKind.PICKLE),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02", FileKind.TORCH),
        (b"\x93NUMPY\x01\x00", FileKind.NPY),
        (b"\x89HDF\r\n\x1a\n", FileKind.HDF5),
        (b"x" * 512 + b"\x89HDF\r\n\x1a\n", FileKind.HDF5),
        (b"MATLAB 7.3 MAT-file, x".ljust(512) + b"\x89HDF\r\n\x1a\n", FileKind.MAT73),
        (b"MATLAB 5.0 MAT-file, x".ljust(124) + b"\x00\x01IM", FileKind.MAT5),
        (b"# Blender\nmtllib a.mtl\nv 0 0 0\n", FileKind.OBJ),
        (b"v 0 0 0\nf 1 1 1\n", FileKind.OBJ),
        (struct.pack("<Q", 2) + b"{}", FileKind.SAFETENSORS),
        (b'{"a": 1}', FileKind.JSON),
        (b"\x1f\x8b\x08", FileKind.GZIP),
        (b"7z\xbc\xaf\x27\x1c", FileKind.SEVEN_ZIP),
        (b"\xff\xd8\xff\xe0", FileKind.PICTURE),
        (b"ply\nformat ascii 1.0\n", FileKind.PLY),
        (b"\x01\x00\x00\x00\x68\x28\x00\x00", FileKind.UNKNOWN),
    ],
)
def test_content_decides(tmp_path, content, kind):
    path = tmp_path / "model.npz"
    path.write_bytes(content)
    assert sniff(path) is kind


def test_zips_and_folders(tmp_path):
    for names, kind in (
        (("a.npy",), FileKind.NPZ),
        (("archive/data.pkl", "archive/data/0"), FileKind.TORCH),
        (("a.obj",), FileKind.ZIP),
    ):
        with zipfile.ZipFile(tmp_path / "x.bin", "w") as archive:
            for name in names:
                archive.writestr(name, b"x")
        assert sniff(tmp_path / "x.bin") is kind
    assert sniff(tmp_path) is FileKind.FOLDER
    with pytest.raises(BasisError, match="no such file"):
        sniff(tmp_path / "none")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "Git-LFS pointer; .*git lfs pull"),
        (b"<!doctype html>", "web page .*login"),
        (b"", "empty file; .*download it again"),
        (b"\x1f\x8b", "gzip archive; unpack"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "PyTorch file; .*numpy.savez"),
        (b"\x93NUMPY", "NumPy array .*is it the right file"),
    ],
)
def test_wrong_files_are_named(tmp_path, content, words):
    path = tmp_path / "generic_model.pkl"
    path.write_bytes(content)
    with pytest.raises(BasisError, match="FLAME is expected as a Python pickle; this is a.* " + words):
        expect(path, FileKind.PICKLE, what="FLAME")


# Arrays


def test_arrays_as_numpy_writes_them(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "c": rng.normal(size=(3, 4, 2)).astype(np.float32),
        "f": np.asfortranarray(rng.normal(size=(3, 4))),
        "big": np.arange(5, dtype=">i4"),
        "b": np.array([True, False]),
        "scalar": np.array(3, np.uint8),
        "empty": np.zeros((0, 7)),
        "names": np.array(["jaw", "left_eye"]),
    }
    for name, value in arrays.items():
        for version in ((1, 0), (2, 0)):
            with open(tmp_path / "a.npy", "wb") as file:
                np.lib.format.write_array(file, value, version=version)
            found = read_npy(tmp_path / "a.npy")
            assert np.array_equal(found, value) and found.dtype.isnative and found.shape == value.shape, name
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays, objects=np.array({"x": np.ones(2)}, object))
        found = read_npz(tmp_path / "a.npz")
        assert list(found) == list(arrays) and all(np.array_equal(found[k], v) for k, v in arrays.items())
        assert np.array_equal(read_npz(tmp_path / "a.npz", objects=True)["objects"]["x"], [1, 1])


def npy(header: str, data: bytes = b"\x00" * 48) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


@pytest.mark.parametrize(
    "raw",
    [
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (7,), }"),  # more than there is
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776, 1099511627776), }"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (6\x0c 1), }"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (" + "9" * 5000 + ",), }"),
        npy("{'descr': '|V8', 'fortran_order': False, 'shape': (6,), }"),
        npy("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (6,), }"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-6,), }"),
        npy("__import__('os').system('true')"),
        npy("{" * 4000),
        npy("{'descr': '<f9', 'fortran_order': False, 'shape': (6,), }"),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (), }"),
        b"\x93NUMPY\x09\x00" + b"\x00" * 40,
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b"\x00" * 40,
        b"\x93NUMPY",
    ],
)
def test_damaged_arrays(tmp_path, raw):
    (tmp_path / "a.npy").write_bytes(raw)
    with pytest.raises(BasisError, match=r"a\.npy: .*download it again"):
        read_npy(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", raw)
    if b"'|O'" in raw:  # passed over, unless asked for
        assert read_npz(tmp_path / "a.npz") == {}
    with pytest.raises(BasisError, match=r"a\.npz: .*download it again"):
        read_npz(tmp_path / "a.npz", objects=True)


def test_archives_that_are_no_models(tmp_path):
    path = tmp_path / "a.npz"
    good = io.BytesIO()
    np.save(good, np.ones(3))
    bomb = io.BytesIO()
    np.save(bomb, np.zeros(10_000_000))
    for entries, words in (
        ({"a.npy": good.getvalue(), "a": b""}, "zip archive"),
        ({f"{k}.npy": good.getvalue() for k in range(600)}, "600 entries"),
        ({"a.npy": bomb.getvalue()}, "far more than its size"),
    ):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in entries.items():
                archive.writestr(name, data)
        with pytest.raises(BasisError, match=words):
            read_npz(path)
    with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a.npy", good.getvalue())
        archive.writestr("a.npy", good.getvalue())
    with pytest.raises(BasisError, match="different names"):
        read_npz(path)


# Matlab and HDF5


def test_matlab_in_a_child(tmp_path):
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(9, 1)).astype(np.float32)
    content = {
        "shapeMU": mean,
        "tl": np.arange(6.0).reshape(2, 3),
        "s": {"inner": np.arange(3)},
        "word": "text",
        "J": sp.csc_matrix(np.eye(3)),
    }
    scipy.io.savemat(tmp_path / "model", content, appendmat=False, do_compression=True)
    found = read_mat(tmp_path / "model")
    assert set(found.arrays) == {"shapeMU", "tl", "s.inner"} and found.texts["word"] == ["text"]
    assert np.array_equal(found.arrays["shapeMU"], mean) and found.arrays["shapeMU"].dtype == np.float32
    assert np.array_equal(found.arrays["tl"], content["tl"])


def test_hdf5_in_a_child(tmp_path):
    h5py = pytest.importorskip("h5py")
    mean = np.arange(6.0).reshape(2, 3)
    (tmp_path / "secret.bin").write_bytes(b"x" * 48)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["shape/model/mean"] = mean.astype(">f4")
        file.create_dataset("shape/model/packed", data=mean, compression="gzip")
        file["names"] = ["a", "b"]
        file["loop"] = h5py.SoftLink("/")
        file["other"] = h5py.ExternalLink("other.h5", "/x")
    found = read_hdf5(tmp_path / "m.h5")
    assert set(found.arrays) == {"shape/model/mean", "shape/model/packed"} and found.texts["names"] == ["a", "b"]
    assert np.array_equal(found.arrays["shape/model/mean"], mean) and np.array_equal(
        found.arrays["shape/model/packed"], mean
    )
    raw = (tmp_path / "m.h5").read_bytes()
    (tmp_path / "m.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(512) + raw)
    assert np.array_equal(read_mat(tmp_path / "m.mat").arrays["shape/model/mean"], mean.T)
    with h5py.File(tmp_path / "e.h5", "w") as file:
        file.create_dataset("stolen", shape=(6,), dtype="f8", external=[(str(tmp_path / "secret.bin"), 0, 48)])
    with pytest.raises(BasisError, match="'stolen' refers to another file"):
        read_hdf5(tmp_path / "e.h5")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of the system")
@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "failed on it"),
        (
            "import sys; sys.path.insert(0, HERE); import child; child.limit(1, 2 << 30)\nwhile True: pass",
            "failed on it|takes too long",
        ),
        (
            "import sys; sys.path.insert(0, HERE); import child; child.limit(9, 2 << 30); x = bytearray(3 << 30)",
            "failed on it",
        ),
        ("import time; time.sleep(60)", "takes too long"),
        ('print(\'{"arrays": [["a", "<f8", [1000]]], "texts": {}}\')', "could not be read"),
        ('print(\'{"arrays": [["a", "|O", [1]]], "texts": {}}\')', "could not be read"),
        ("print('[' * 100000)", "could not be read"),
        ('print(\'{"missing": "h5py"}\')', "needs the package h5py"),
    ],
)
def test_a_child_that_misbehaves(tmp_path, monkeypatch, program, words):
    """A crash, endless work, a flood of memory, or an answer that makes no sense: each is one error, and soon."""
    here = str(Path(foreign_module.__file__).parent)
    (tmp_path / "child.py").write_text(f"HERE = {here!r}\n{program}\n")
    monkeypatch.setattr(foreign_module, "__file__", str(tmp_path / "foreign.py"))
    monkeypatch.setattr(foreign_module, "_SECONDS", 1)
    monkeypatch.setattr(foreign_module, "_PATIENCE", (1, 1))
    path = tmp_path / "m.mat"
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM")
    began = time.monotonic()
    with pytest.raises(BasisError, match=words):
        read_mat(path)
    assert time.monotonic() - began < 30


# Fields


def test_fields(tmp_path):
    values = {
        "v": np.ones((2, 3), ">f4"), "nan": np.array([np.nan]), "huge": np.array([1e300]), "f": np.array([[0, 1, 2]], np.uint32), "one": [1, 2.0],
        "J": sp.csc_matrix(np.eye(2)), "wide": sp.csc_matrix((1 << 20, 1 << 20)), "names": np.array(["a", "b"]), "text": "x", "half": [0.5],
        "ragged": [[1], [1, 2]],
    }  # fmt: skip
    fields = Fields(tmp_path / "model.pkl", values, "FLAME")
    assert fields.floats("v", (None, 3)).dtype == np.float64 and np.array_equal(fields.floats("J"), np.eye(2))
    assert fields.indices("f", 3).tolist() == [[0, 1, 2]] and fields.indices("one", 2, base=1).tolist() == [0, 1]
    assert (
        fields.names("names", 2) == ["a", "b"] and fields.first("x", "v") == "v" and "v" in fields and len(fields) == 11
    )
    for ask, words in (
        (lambda: fields.floats("absent"), "'absent' of FLAME: expected, but missing"),
        (lambda: fields.floats("v", (None, 2)), r"expected shape \(any, 2\), found \(2, 3\)"),
        (lambda: fields.floats("nan"), "not finite"),
        (lambda: fields.floats("huge", dtype=np.float32), "beyond the range of float32"),
        (lambda: fields.floats("text"), "expected numbers, found str"),
        (lambda: fields.floats("ragged"), "different lengths"),
        (lambda: fields.floats("wide"), "larger than any face model"),
        (lambda: fields.indices("f", 2), "expected indices from 0 to 1, found 0 to 2"),
        (lambda: fields.indices("f", 3, base=1), "expected indices from 1 to 3, found 0 to 2"),
        (lambda: fields.indices("half", 3), "whole numbers"),
        (lambda: fields.names("names", 3), "expected 3 names, found 2"),
        (lambda: fields.names("v"), "expected names"),
        (lambda: fields.first("x", "y"), "'x or y'.*found v, nan"),
        (lambda: Fields("a.pkl", [1], "FLAME"), "FLAME is expected as arrays by name, found list"),
    ):
        with pytest.raises(BasisError, match=words):
            ask()


# Damage


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of the system")
def test_two_thousand_damaged_files():
    """Nothing but fitjax's own error, at most 5 s and 2 GB each; `python -m benchmarks.fuzz_files` does the rest of the hundred thousand."""
    total = fuzz_files.run(2200, seed=20)
    assert total["problems"] == [] and total["files"] == 2200
    assert total["refused"] > 1500 and total["slowest_s"] < 5 and total["peak_MB"] < 2048
