"""Pickles without Python's unpickler: a small machine of its own that knows only data.

The format is that of the standard library's ``pickletools`` (protocols 0 to 5). Globals become stubs (:mod:`.pickle_stubs`); nothing that a file
names is imported or called, so there is nothing to escape from. Work and memory stay within a small multiple of the file's length.
"""

from __future__ import annotations

import codecs
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fitjax.errors import BasisError
from fitjax.importers.safe.kinds import FileKind, expect
from fitjax.importers.safe.pickle_machine import MARK, Machine
from fitjax.importers.safe.pickle_stubs import Refused, new_instance, resolve
from fitjax.importers.safe.pickle_values import plain

#: Files beyond this are no pickled face models.
MAX_BYTES = 1 << 30


def read_pickle(path: str | os.PathLike[str], what: str = "a face model") -> Any:
    """The data of a pickle: dicts, lists, NumPy arrays, SciPy sparse matrices (csc or csr), numbers and text.

    Strings of Python 2 are read as latin-1. A chumpy object becomes its array; see :func:`fitjax.importers.safe.pickle_values.plain`.

    Raises:
        BasisError: no pickle, a damaged one, one that asks for anything but data, or one too large.
    """
    path = Path(path)
    expect(path, FileKind.PICKLE, what=what)
    if path.stat().st_size > MAX_BYTES:
        raise BasisError(f"{path}: larger than any pickled face model; is it the right file?")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BasisError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        return parse_pickle(raw)
    except BasisError as error:
        raise BasisError(f"{path}: this pickle cannot be used: {error}") from None


def parse_pickle(raw: bytes) -> Any:
    """:func:`read_pickle` of bytes.

    Raises:
        BasisError: as there, without the name of a file.
    """
    try:
        return plain(Machine(raw).run(_TABLE), 16 * len(raw) + (1 << 24))
    except (IndexError, struct.error, UnicodeError, ValueError, OverflowError, MemoryError, RecursionError, TypeError):
        raise Refused("it is damaged or cut short; download it again") from None


def _text(line: bytes) -> str:
    return line.decode("utf-8")


def _quoted(line: bytes) -> str:
    """A string of protocol 0, with quotes and escapes."""
    line = line.strip()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise Refused("it is damaged; download it again")
    data: bytes = codecs.escape_decode(line[1:-1])[0]  # type: ignore[attr-defined]
    return data.decode("latin1")


def _integer(line: bytes) -> int | bool:
    return line == b"01" if line in (b"00", b"01") else _whole(line)


def _whole(line: bytes) -> int:
    if len(line) > 32:
        raise Refused("it holds a number of too many digits")
    return int(line)


def _float(line: bytes) -> float:
    if len(line) > 400:
        raise Refused("it holds a number of too many digits")
    return float(line)


def _long(data: bytes) -> int:
    if len(data) > 32:
        raise Refused("it holds a number of too many digits")
    return int.from_bytes(data, "little", signed=True)


def _forbidden(machine: Machine) -> None:
    raise Refused("it refers to data outside the file, which face models never do; it was not run")


def _drop(machine: Machine) -> None:
    machine.stack.pop()


def _drop_to_mark(machine: Machine) -> None:
    machine.to_mark()


def _frame(machine: Machine) -> None:
    machine.take(8)


def _object(machine: Machine) -> None:
    kind, *arguments = machine.to_mark()
    machine.instance(kind, arguments)


def _appends(machine: Machine) -> None:
    values = machine.to_mark()
    machine.extend(machine.top(), values)


def _append(machine: Machine) -> None:
    value = machine.pop()
    machine.extend(machine.top(), [value])


def _set_items(machine: Machine) -> None:
    values = machine.to_mark()
    machine.fill(machine.top(), values)


def _set_item(machine: Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.fill(machine.top(), [key, value])


def _dict(machine: Machine) -> None:
    values, target = machine.to_mark(), dict[Any, Any]()
    machine.fill(target, values)
    machine.push(target)


def _call(machine: Machine) -> None:
    arguments = machine.pop()
    machine.reduce(arguments, machine.pop())


def _new(machine: Machine) -> None:
    arguments = machine.pop()
    machine.reduce(arguments, machine.pop(), new_instance)


def _global(machine: Machine) -> None:
    module = _text(machine.line())
    machine.push(resolve(module, _text(machine.line())))


def _inst(machine: Machine) -> None:
    module = _text(machine.line())
    kind = resolve(module, _text(machine.line()))
    machine.instance(kind, machine.to_mark())


def _protocol(machine: Machine) -> None:
    if machine.number("<B") > 5:
        raise Refused("it is of a newer protocol than 5")


def _utf8(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


_Step = Callable[[Machine], None]
_TABLE: dict[int, _Step] = {
    ord("("): lambda m: m.push(MARK),
    ord("0"): _drop,
    ord("1"): _drop_to_mark,
    ord("2"): lambda m: m.push(m.top()),
    ord("F"): lambda m: m.push(_float(m.line())),
    ord("G"): lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    ord("I"): lambda m: m.push(_integer(m.line())),
    ord("J"): lambda m: m.push(m.number("<i")),
    ord("K"): lambda m: m.push(m.number("<B")),
    ord("M"): lambda m: m.push(m.number("<H")),
    ord("L"): lambda m: m.push(_whole(m.line().rstrip(b"L"))),
    0x8A: lambda m: m.push(_long(m.take(m.number("<B")))),
    0x8B: lambda m: m.push(_long(m.take(m.number("<i")))),
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("S"): lambda m: m.push(_quoted(m.line())),
    ord("T"): lambda m: m.push(m.take(m.number("<i")).decode("latin1")),
    ord("U"): lambda m: m.push(m.take(m.number("<B")).decode("latin1")),
    ord("V"): lambda m: m.push(m.line().decode("raw-unicode-escape")),
    ord("X"): lambda m: m.push(_utf8(m.take(m.number("<I")))),
    0x8C: lambda m: m.push(_utf8(m.take(m.number("<B")))),
    0x8D: lambda m: m.push(_utf8(m.take(m.number("<Q")))),
    ord("B"): lambda m: m.push(m.take(m.number("<I"))),
    ord("C"): lambda m: m.push(m.take(m.number("<B"))),
    0x8E: lambda m: m.push(m.take(m.number("<Q"))),
    0x96: lambda m: m.push(m.take(m.number("<Q"))),
    ord("}"): lambda m: m.push({}),
    ord("]"): lambda m: m.push([]),
    ord(")"): lambda m: m.push(()),
    ord("d"): _dict,
    ord("l"): lambda m: m.push(m.to_mark()),
    ord("t"): lambda m: m.push(tuple(m.to_mark())),
    0x85: lambda m: m.tuple_of(1),
    0x86: lambda m: m.tuple_of(2),
    0x87: lambda m: m.tuple_of(3),
    ord("a"): _append,
    ord("e"): _appends,
    ord("s"): _set_item,
    ord("u"): _set_items,
    ord("g"): lambda m: m.recall(_whole(m.line())),
    ord("h"): lambda m: m.recall(m.number("<B")),
    ord("j"): lambda m: m.recall(m.number("<I")),
    ord("p"): lambda m: m.remember(_whole(m.line())),
    ord("q"): lambda m: m.remember(m.number("<B")),
    ord("r"): lambda m: m.remember(m.number("<I")),
    0x94: lambda m: m.remember(len(m.memo)),
    ord("c"): _global,
    0x93: lambda m: m.stack_global(),
    ord("R"): _call,
    ord("b"): lambda m: m.build(),
    0x81: _new,
    0x92: lambda m: m.new_with_names(),
    ord("i"): _inst,
    ord("o"): _object,
    0x80: _protocol,
    0x95: _frame,  # FRAME: a hint for streams
    **dict.fromkeys((ord("P"), ord("Q"), 0x82, 0x83, 0x84, 0x97, 0x98), _forbidden),
}
