"""The restricted unpickler: what FLAME-like files hold is read as NumPy wrote it; attacks run nothing and end in one clear error."""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
import struct
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from fitjax.errors import BasisError
from fitjax.importers.safe import parse_pickle, read_pickle

RNG = np.random.default_rng(0)
DATA = {
    "float": RNG.normal(size=(5, 3)),
    "index": np.arange(6, dtype=np.uint32).reshape(2, 3),
    "fortran, big-endian": np.asfortranarray(RNG.normal(size=(4, 3)).astype(">f4")),
    "empty": np.zeros((0, 3)),
    "scalar": np.float32(2.5),
    "text": np.array(["ab", "c"]),
    "sparse": sp.csc_matrix(np.eye(4)[:, :3] * [1.5, 2, -3]),
    "rows": sp.csr_matrix(np.arange(6.0).reshape(2, 3)),
    "coordinates": sp.coo_matrix(np.arange(4.0).reshape(2, 2)),
    "ordered": collections.OrderedDict([("b", 1), ("a", b"\xff\x00")]),
    "plain": [1, -5, 2**60, 1.5, None, True, False, "h\u00e9", (1, 2, 3, 4), {"x": ()}],
    "shared": [DATA_ROW := np.arange(3), DATA_ROW],
    "objects": np.array([1, "a", None], object),
    "one object": np.array({"q": np.ones(2)}, object),
}


@pytest.mark.parametrize("protocol", range(6))
def test_what_numpy_and_scipy_wrote(protocol, tmp_path):
    path = tmp_path / "model.jpg"  # content decides, not the name
    path.write_bytes(pickle.dumps(DATA, protocol=protocol))
    found = read_pickle(path)
    assert list(found) == list(DATA)
    for name in ("float", "index", "fortran, big-endian", "empty", "text"):
        assert np.array_equal(found[name], DATA[name]) and found[name].dtype.kind == DATA[name].dtype.kind
    for name in ("sparse", "rows", "coordinates"):
        assert np.array_equal(found[name].toarray(), DATA[name].toarray())
    assert found["ordered"] == {"b": 1, "a": b"\xff\x00"} and found["plain"] == DATA["plain"] and found["scalar"] == 2.5
    assert np.array_equal(found["shared"][1], [0, 1, 2]) and found["objects"] == [1, "a", None]
    assert np.array_equal(found["one object"]["q"], [1, 1])


def old_string(data: bytes) -> bytes:
    """BINSTRING, as Python 2 wrote the bytes of arrays."""
    return b"T" + struct.pack("<i", len(data)) + data


def old_array(array: np.ndarray, order: str = "<") -> bytes:
    """An array as Python 2 and an old NumPy pickled it at protocol 2."""
    code = array.dtype.str[1:].encode()
    shape = b"(" + b"".join(b"K" + bytes([n]) for n in array.shape) + b"t"
    dtype = (
        b"cnumpy\ndtype\n"
        + old_string(code)
        + b"K\x00K\x01\x87R(K\x03"
        + old_string(order.encode())
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + old_string(b"b") + b"\x87R"
    return start + b"(K\x01" + shape + dtype + b"\x89" + old_string(array.tobytes()) + b"tb"


def chumpy(kind: bytes, state: bytes) -> bytes:
    return b"c" + kind + b"\n)\x81}(" + state + b"ub"


def test_python_2_with_chumpy():
    """Ch holds its array; Select takes items of another object; what computes something holds its state."""
    values = RNG.normal(size=(4, 3))
    inner = chumpy(b"chumpy.ch\nCh", old_string(b"x") + old_array(values))
    index = old_array(np.array([5, 0, 11], np.int32))
    select = chumpy(b"chumpy.reordering\nSelect", old_string(b"a") + inner + old_string(b"idxs") + index)
    product = chumpy(b"chumpy.ch\nMatVecMult", old_string(b"mtx") + b"N")
    fields = old_string(b"v") + inner + old_string(b"s") + select + old_string(b"m") + product
    found = parse_pickle(b"\x80\x02}(" + fields + b"u.")
    assert np.array_equal(found["v"], values) and np.array_equal(found["s"], values.ravel()[[5, 0, 11]])
    assert found["m"] == {"mtx": None}
    classic = b"\x80\x02}(" + old_string(b"v") + b"(ichumpy.ch\nCh\n}(" + old_string(b"x") + old_array(values) + b"ubu."
    assert np.array_equal(parse_pickle(classic)["v"], values)
    turned = b"\x80\x02" + old_array(values.astype(">f8"), ">") + b"."
    assert np.array_equal(parse_pickle(turned), values)


def test_a_real_protocol_0_array_of_python_2():
    text = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\nt"
    text += b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
    text += b"I00\nS'\\x00\\x00\\x00\\x00\\x00\\x00\\xf0?\\x00\\x00\\x00\\x00\\x00\\x00\\x00@'\ntb."
    assert np.array_equal(parse_pickle(text), [1.0, 2.0])


# Attacks


class Runs:
    """Whatever ``__reduce__`` says is called by Python's own unpickler."""

    def __init__(self, *reduction):
        self.reduction = reduction

    def __reduce__(self):
        return self.reduction


def attacks(mark: str) -> dict[str, bytes]:
    """Pickles that would create the file ``mark``, or misuse what is allowed."""
    touch = f"open({mark!r}, 'w').close()"
    shell = f"touch {mark}"
    arguments = (f"__import__('os').system({shell!r})",)
    found = {
        "os.system": pickle.dumps(Runs(os.system, (shell,))),
        "posix.system by name": f"cposix\nsystem\n(S'{shell}'\ntR.".encode(),
        "eval": pickle.dumps(Runs(eval, (touch,))),
        "exec": pickle.dumps(Runs(exec, (touch,))),
        "open": pickle.dumps(Runs(open, (mark, "w"))),
        "__import__": b"c__builtin__\n__import__\n(S'antigravity'\ntR.",
        "subprocess": f"csubprocess\nPopen\n((lS'touch'\naS'{mark}'\natR.".encode(),
        "getattr": b"c__builtin__\ngetattr\n(cos\nenviron\nS'clear'\ntR)R.",
        "apply of Python 2": f"c__builtin__\napply\n(cos\nsystem\n(S'{shell}'\nttR.".encode(),
        "map": f"c__builtin__\nmap\n(cos\nsystem\n(lS'{shell}'\natR.".encode(),
        "inst": f"(S'{shell}'\nios\nsystem\n.".encode(),
        "obj": f"(cos\nsystem\nS'{shell}'\no.".encode(),
        "newobj": f"\x80\x02cos\nsystem\n(S'{shell}'\nt\x81.".encode("latin1"),
        "newobj_ex": f"\x80\x04cos\nsystem\n(S'{shell}'\nt}}\x92.".encode("latin1"),
        "stack_global": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c" + bytes([len(shell)]) + shell.encode() + b"\x85R.",
        "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0fcore._internal.\x93.",
        "dotted walk": b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93)R.",
        "memo": f"cos\nsystem\np0\n0(S'{shell}'\ntp1\n0g0\ng1\nR.".encode(),
        "numpy.load": b"cnumpy\nload\n(S'x.npy'\ntR.",
        "runstring of numpy": f"cnumpy.testing._private.utils\nrunstring\n(S{touch!r}\n}}tR.".encode(),
        "numpy f2py": f"cnumpy.f2py.crackfortran\nmyeval\n(S{touch!r}\n}}tR.".encode(),
        "numpy.dtype of code": b"cnumpy\ndtype\n(S'f8;import os'\ntR.",
        "dtype with fields": b"cnumpy\ndtype\n(S'V8'\nI0\nI1\ntR(I3\nS'|'\nN(S'a'\nt}I8\nI1\nI0\ntb.",
        "pickle in pickle": b"cpickle\nloads\n(" + old_string(b"cos\nsystem\n(S'true'\ntR.") + b"tR.",
        "_codecs.decode": b"c_codecs\ndecode\n(S'x'\nS'rot13'\ntR.",
        "encode into code": b"c_codecs\nencode\n(S'x'\nS'unicode_escape'\ntR.",
        "copyreg extension": b"\x80\x02\x82\x01.",
        "wide extension": b"\x80\x02\x84\x01\x00\x00\x00.",
        "persistent id": b"Pos.system\n.",
        "binary persistent id": b"\x80\x02X\x02\x00\x00\x00osQ.",
        "out-of-band buffer": b"\x80\x05\x97.",
        "build on a global": f"cnumpy\nndarray\n}}(S'__setstate__'\ncos\nsystem\nubS'{shell}'\nb.".encode(),
        "build on a dict": f"}}(S'__class__'\ncos\nsystem\nu(S'{shell}'\ntb.".encode(),
        "reconstruct another class": f"cnumpy.core.multiarray\n_reconstruct\n(cos\nsystem\n(S'{shell}'\ntS'b'\ntR.".encode(),
        "copyreg another class": b"ccopy_reg\n_reconstructor\n(cos\n_wrap_close\nc__builtin__\nobject\nNtR.",
        "OrderedDict as a way out": f"ccollections\nOrderedDict\n(cos\nsystem\ntR(S'{shell}'\ntb.".encode(),
        "a class of chumpy that is none": b"cchumpy.ch\nos\n)\x81.",
        "chumpy's module": f"cchumpy\nos.system\n(S'{shell}'\ntR.".encode(),
        "scipy's own loader": b"cscipy.sparse\nload_npz\n(S'x'\ntR.",
        "torch storage": b"ctorch.storage\n_load_from_bytes\n("
        + old_string(pickle.dumps(Runs(os.system, (shell,))))
        + b"tR.",
        "setitem on a string": b"S'a'\nS'b'\nS'c'\ns.",
        "append to an array": b"\x80\x02" + old_array(np.ones(2)) + b"K\x01a.",
        "object array of code": pickle.dumps(np.array([Runs(eval, arguments)], object)),
        "sparse matrix of code": pickle.dumps({"J": Runs(eval, arguments), "x": sp.eye(2)}),
        "lambda by code": b"ctypes\nCodeType\n(I0\ntR.",
        "unhashable key": b"}(]K\x01u.",
        "colliding keys": b"\x80\x02}("
        + b"".join(b"\x8a\x09" + (k * (2**61 - 1)).to_bytes(9, "little") + b"K\x01" for k in range(50))
        + b"u.",
    }
    return found


def test_no_attack_runs(tmp_path, monkeypatch):
    """At least thirty patterns; a few of them would harm a plain unpickler here and now, which shows that they are sharp."""
    monkeypatch.chdir(tmp_path)
    mark = str(tmp_path / "ran")
    patterns = attacks(mark)
    assert len(patterns) >= 30
    harmless = {"torch storage", "lambda by code"}
    for name, raw in patterns.items():
        before = dict(os.environ)
        try:
            parse_pickle(raw)
        except BasisError as error:
            assert len(str(error)) < 300, name
        else:
            assert name in harmless, f"{name}: was read"
        assert not os.path.exists(mark) and dict(os.environ) == before, f"{name}: ran"
    sharp = 0
    for name in ("os.system", "eval", "exec", "open", "inst", "memo", "newobj_ex", "stack_global"):
        with contextlib.suppress(Exception):
            pickle.loads(patterns[name])
        sharp += os.path.exists(mark)
        Path(mark).unlink(missing_ok=True)
    assert sharp >= 6


BOMBS = {
    "long to put": b"\x80\x02Nr\xff\xff\xff\xff.",  # CPython's table of memos would grow to gigabytes
    "huge bytes": b"\x80\x04\x8e" + (1 << 50).to_bytes(8, "little") + b"x.",
    "huge bytearray": b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b"x.",
    "huge frame": b"\x80\x04\x95" + (1 << 60).to_bytes(8, "little") + b"N.",
    "digits": b"I" + b"9" * 100_000 + b"\n.",
    "long digits": b"\x80\x02\x8b\xff\xff\xff\x7f" + b"\xff" * 1000 + b".",
    "empty lists": b"]" * 1_200_000 + b".",
    "laughs": b"\x80\x02]q\x000" + b"".join(b"](h%ch%ceq%c0" % (k, k, k + 1) for k in range(30)) + b"h\x1e.",
    "itself": b"]q\x00h\x00a.",
    "deep": b"(" * 200 + b"t" * 200 + b".",
    "array of a petabyte": b"\x80\x02"
    + old_array(np.ones(2)).replace(b"(K\x02t", b"(\x8a\x07\x00\x00\x00\x00\x00\x00\x04t")
    + b".",
    "many copies": b"\x80\x02"
    + old_string(b"x" * 200_000)
    + b"q\x000("
    + b"c_codecs\nencode\nq\x010"
    + b"h\x01h\x00U\x06latin1\x86R" * 20_000
    + b"l.",
}


#: Bombs for other readers that cost nothing here.
HARMLESS = {"long to put", "laughs", "huge frame"}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_stay_small(name):
    """Seconds and gigabytes that a few bytes ask for are not given: measured by the peak of what Python holds."""
    if len(BOMBS[name]) < 1e6:  # else tracing takes most of the time; a third of a million empty lists are 20 MB
        tracemalloc.start()
    began = time.process_time()
    if name in HARMLESS:
        parse_pickle(BOMBS[name])
    else:
        with pytest.raises(BasisError):
            parse_pickle(BOMBS[name])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400e6 and time.process_time() - began < 20


def test_messages_say_what_is_wrong(tmp_path):
    path = tmp_path / "model.pkl"
    for raw, words in (
        (pickle.dumps(Runs(os.system, ("true",))), "system"),
        (pickle.dumps(DATA)[:-200], "cut short"),
        (b"\x80\x04N", "damaged or cut short"),
        (b"\x80\x04\x8c\x01ax.", "damaged"),
    ):
        path.write_bytes(raw)
        with pytest.raises(BasisError, match=words) as error:
            read_pickle(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
