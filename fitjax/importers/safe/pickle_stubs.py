"""What the globals of a pickle stand for here. None of them is the object of that name: each is a few lines that hold or check data.

The allow-list is that of FLAME-like files (Python 2 and 3, chumpy, SciPy's sparse matrices) and of NumPy's own pickles, old and new module names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fitjax.errors import BasisError

#: Kinds of NumPy dtypes that hold data: bool, integers, floats, complex, bytes and text. ``O`` is held as a list.
_DTYPE = frozenset("biufcSUO")


class Refused(BasisError):
    """A pickle that is damaged or asks for something that data do not need."""


@dataclass(frozen=True)
class Name:
    """An allowed global: what a pickle names, before it is called or built."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass
class DTypeStub:
    """A NumPy dtype in the making: code such as ``f4``, then a state with the byte order."""

    code: str
    order: str = "|"

    def resolve(self) -> np.dtype:
        try:
            found = np.dtype(self.code)
        except (TypeError, ValueError, OverflowError, SyntaxError):
            raise Refused(f"expected a NumPy dtype, found {self.code[:40]!r}") from None
        if found.kind not in _DTYPE or found.subdtype is not None or found.itemsize > 1 << 20:
            raise Refused(f"expected numbers or text, found the NumPy dtype {str(found)[:40]!r}")
        return found.newbyteorder(self.order) if self.order in "<>" else found  # type: ignore[arg-type]

    def build(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) >= 5 and state[1] in ("<", ">", "|", "=")):
            raise Refused("damaged NumPy dtype")
        if state[2] is not None or state[3] is not None or state[4] is not None:
            raise Refused("expected plain numbers, found a structured NumPy dtype")
        self.order = state[1]


@dataclass
class ArrayStub:
    """A NumPy array in the making; ``objects`` is set for arrays of objects, whose items are in ``items``."""

    value: np.ndarray | None = None
    items: list[Any] | None = None
    shape: tuple[int, ...] = ()

    def build(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) in (4, 5)):
            raise Refused("damaged NumPy array")
        shape, dtype, fortran, data = state[-4:]
        if not isinstance(dtype, DTypeStub):
            raise Refused("damaged NumPy array: its dtype is missing")
        shape = _shape(shape)
        found = dtype.resolve()
        if found.kind == "O":
            if not isinstance(data, list) or len(data) != _count(shape):
                raise Refused("damaged NumPy array of objects")
            self.items, self.shape = data, shape
            return
        self.value = _from_buffer(data, found, shape, bool(fortran))


@dataclass
class InstanceStub:
    """Any other object: its class by name, arguments and state. Nothing of the class itself is there."""

    kind: Name
    arguments: tuple[Any, ...] = ()
    state: dict[str, Any] = field(default_factory=dict)

    def build(self, state: Any) -> None:
        # Objects with __slots__ have (dict, slots).
        parts = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
        for part in parts:
            if part is None:
                continue
            if not isinstance(part, dict):
                raise Refused(f"damaged state of {self.kind}")
            self.state.update((key, value) for key, value in part.items() if isinstance(key, str))


def _shape(shape: Any) -> tuple[int, ...]:
    if isinstance(shape, int) and not isinstance(shape, bool):
        shape = (shape,)
    if not isinstance(shape, tuple) or len(shape) > 16 or not all(type(n) is int and 0 <= n < 1 << 40 for n in shape):
        raise Refused("damaged NumPy array: not a shape")
    return shape


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count


def _from_buffer(data: Any, dtype: np.dtype, shape: tuple[int, ...], fortran: bool) -> np.ndarray:
    """No copy: the array lies on the bytes of the file."""
    if isinstance(data, str):  # a string of Python 2
        try:
            data = data.encode("latin1")
        except UnicodeEncodeError:
            raise Refused("damaged NumPy array: text instead of bytes") from None
    if not isinstance(data, bytes):
        raise Refused("damaged NumPy array: its bytes are missing")
    if _count(shape) * dtype.itemsize != len(data) or dtype.itemsize == 0:
        raise Refused(f"damaged NumPy array: {len(data)} bytes for shape {shape} of {dtype}")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _reconstruct(kind: Any = None, shape: Any = None, code: Any = None) -> ArrayStub:
    if kind not in (_NDARRAY, _MATRIX):
        raise Refused("expected a NumPy array, found another class")
    return ArrayStub()


def _dtype(code: Any = None, align: Any = False, copy: Any = False) -> DTypeStub:
    if isinstance(code, Name) and code.module == "numpy":
        code = code.name
    if not isinstance(code, str) or not code.isascii() or len(code) > 12:
        raise Refused("expected the code of a NumPy dtype")
    return DTypeStub(code)


def _scalar(dtype: Any = None, data: Any = b"") -> Any:
    if not isinstance(dtype, DTypeStub):
        raise Refused("damaged NumPy number")
    return _from_buffer(data, dtype.resolve(), (), False)[()]


def _buffer(data: Any = None, dtype: Any = None, shape: Any = None, order: Any = "C") -> ArrayStub:
    if not isinstance(dtype, DTypeStub) or order not in ("C", "F"):
        raise Refused("damaged NumPy array")
    return ArrayStub(_from_buffer(data, dtype.resolve(), _shape(shape), order == "F"))


def _encode(text: Any = None, encoding: Any = None) -> bytes:
    """How Python 3 writes bytes at protocols 0 to 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "iso-8859-1"):
        raise Refused("expected bytes")
    try:
        return text.encode("latin1")
    except UnicodeEncodeError:
        raise Refused("expected bytes, found text") from None


def _bytes(data: Any = b"", encoding: Any = "latin1") -> bytes:
    if isinstance(data, bytes):
        return data
    return _encode(data, encoding) if data != () else b""


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    if not isinstance(pairs, list | tuple):
        raise Refused("damaged OrderedDict")
    found: dict[Any, Any] = {}
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise Refused("damaged OrderedDict")
        check_key(pair[0])
        found[pair[0]] = pair[1]
    return found


def _slice(*arguments: Any) -> InstanceStub:
    return InstanceStub(Name("builtins", "slice"), arguments)


def _reconstructor(kind: Any = None, base: Any = None, state: Any = None) -> InstanceStub:
    if not isinstance(kind, Name) or base != Name("builtins", "object") or state is not None:
        raise Refused("expected a plain object")
    return new_instance(kind, ())


def check_key(key: Any) -> None:
    """Only keys that cannot be made to collide: text, bytes, small whole numbers."""
    if isinstance(key, str | bytes) or (type(key) is int and abs(key) < 1 << 31):
        return
    raise Refused(f"expected names as keys, found {type(key).__name__}")


_NDARRAY, _MATRIX = Name("numpy", "ndarray"), Name("numpy", "matrix")
_SPARSE = ("csc_matrix", "csr_matrix", "coo_matrix", "csc_array", "csr_array", "coo_array")
_CHUMPY = {
    "chumpy.ch": ("Ch", "MatVecMult", "ChLambda", "Reshape", "Transpose"),
    "chumpy.reordering": ("Select", "Reshape", "Transpose", "transpose", "reshape", "Permute", "Concatenate"),
}

# Tensors of PyTorch, which stand beside arrays in landmark files of FLAME. What they hold is not read.
_TENSORS = (Name("torch._utils", "_rebuild_tensor_v2"), Name("torch.storage", "_load_from_bytes"))

#: Classes of which a pickle may hold instances; they become :class:`InstanceStub`.
CLASSES = frozenset(
    {Name("builtins", "object"), *_TENSORS}
    | {Name("scipy.sparse", name) for name in _SPARSE}
    | {Name(module, name) for module, names in _CHUMPY.items() for name in names}
)
#: Functions and constructors that a pickle may call.
CALLS: dict[Name, Callable[..., Any]] = {
    Name("numpy", "_reconstruct"): _reconstruct,
    Name("numpy", "dtype"): _dtype,
    Name("numpy", "scalar"): _scalar,
    Name("numpy", "_frombuffer"): _buffer,
    Name("_codecs", "encode"): _encode,
    Name("builtins", "bytes"): _bytes,
    Name("builtins", "bytearray"): _bytes,
    Name("builtins", "slice"): _slice,
    Name("collections", "OrderedDict"): _ordered,
    Name("copyreg", "_reconstructor"): _reconstructor,
}
_SCALAR_TYPES = (
    "float32",
    "float64",
    "int32",
    "int64",
    "uint32",
    "uint8",
    "bool_",
    "int8",
    "int16",
    "uint16",
    "uint64",
    "float16",
)
#: Names that are only ever passed as arguments.
_ARGUMENTS = frozenset({_NDARRAY, _MATRIX} | {Name("numpy", name) for name in _SCALAR_TYPES})

_NUMPY_MODULES = frozenset(
    {"numpy", "numpy.matrixlib.defmatrix"}
    | {f"numpy.{core}.{part}" for core in ("core", "_core") for part in ("multiarray", "numeric")}
)


def resolve(module: str, name: str) -> Name:
    """The allowed global of that name, under one spelling.

    Raises:
        Refused: it is not on the list.
    """
    home = {"__builtin__": "builtins", "copy_reg": "copyreg", "chumpy": "chumpy.ch"}.get(module, module)
    if module in _NUMPY_MODULES:
        home = "numpy"
    elif module.startswith("scipy.sparse."):
        home = "scipy.sparse"
    found = Name(home, name)
    if found in CALLS or found in CLASSES or found in _ARGUMENTS:
        return found
    text = f"{module}.{name}"[:80]
    raise Refused(
        f"asks for {text!r}, which is not among the few names that arrays need; it may be an attack or another kind of model, and was not run"
    )


def new_instance(kind: Any, arguments: Any) -> Any:
    """An object of an allowed class, without the class.

    Raises:
        Refused: of any other.
    """
    if not isinstance(arguments, tuple):
        raise Refused("damaged arguments")
    if isinstance(kind, Name) and kind in CLASSES:
        return InstanceStub(kind, arguments)
    return call(kind, arguments)


def call(function: Any, arguments: Any) -> Any:
    """The result of an allowed function.

    Raises:
        Refused: of any other, or with arguments that it does not take.
    """
    if isinstance(function, Name) and function in CLASSES:
        return new_instance(function, arguments)
    if not isinstance(function, Name) or function not in CALLS or not isinstance(arguments, tuple):
        raise Refused(
            f"calls {str(function)[:60] if isinstance(function, Name) else type(function).__name__!r}, which only holds data"
        )
    if len(arguments) > 5:
        raise Refused(f"calls {function} with {len(arguments)} arguments")
    try:
        return CALLS[function](*arguments)
    except TypeError:
        raise Refused(f"calls {function} with other arguments than it takes") from None
