"""The machine that a pickle is a program for: stack, memo and the bytes, with limits. What each instruction does stands in :mod:`.pickle_reader`."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from fitjax.importers.safe.pickle_stubs import (
    CLASSES,
    ArrayStub,
    DTypeStub,
    InstanceStub,
    Name,
    Refused,
    call,
    check_key,
    new_instance,
    resolve,
)

# Instructions; models need hundreds, a table of lists some ten thousand.
_MAX_STEPS = 300_000
# What calls may read and copy: this many times the file's length, and a little.
_COPIES, _ALLOWANCE = 6, 1 << 20

MARK = object()


class Machine:
    """One run over the bytes of a pickle."""

    def __init__(self, raw: bytes):
        self.raw = raw
        self.at = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.left = _COPIES * len(raw) + _ALLOWANCE

    def run(self, table: Mapping[int, Callable[[Machine], None]]) -> Any:
        """The value that the pickle leaves behind; ``table``: what each instruction does.

        Raises:
            Refused: damaged, cut short, or more than a model needs.
        """
        raw, stack = self.raw, self.stack
        for _ in range(_MAX_STEPS):
            code = raw[self.at]
            self.at += 1
            if code == 0x2E:  # STOP
                if len(stack) != 1 or stack[0] is MARK:
                    raise Refused("it is damaged or cut short; download it again")
                return stack[0]
            step = table.get(code)
            if step is None:
                raise Refused("it is damaged (an instruction that does not exist); download it again")
            step(self)
        raise Refused("it has too many objects for a face model")

    # Reading.

    def take(self, count: int) -> bytes:
        end = self.at + count
        if count < 0 or end > len(self.raw):
            raise Refused("it is cut short; download it again")
        found = self.raw[self.at : end]
        self.at = end
        return found

    def number(self, form: str) -> int:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> bytes:
        end = self.raw.find(b"\n", self.at)
        if end < 0:
            raise Refused("it is cut short; download it again")
        found = self.raw[self.at : end]
        self.at = end + 1
        return found

    # The stack.

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is MARK:
            raise Refused("it is damaged; download it again")
        return value

    def top(self) -> Any:
        value = self.stack[-1]
        if value is MARK:
            raise Refused("it is damaged; download it again")
        return value

    def to_mark(self) -> list[Any]:
        stack = self.stack
        for at in range(len(stack) - 1, -1, -1):
            if stack[at] is MARK:
                found = stack[at + 1 :]
                del stack[at:]
                return found
        raise Refused("it is damaged; download it again")

    def charge(self, *values: Any) -> None:
        """Against copying one large object again and again."""
        for value in values:
            if isinstance(value, str | bytes | list | tuple | dict):
                self.left -= len(value)
        if self.left < 0:
            raise Refused("it copies its data more often than a face model does")

    # Building.

    def fill(self, target: Any, values: list[Any]) -> None:
        if len(values) % 2 or not isinstance(target, dict):
            raise Refused("it is damaged; download it again")
        for key, value in zip(values[::2], values[1::2]):
            check_key(key)
            target[key] = value

    def extend(self, target: Any, values: list[Any]) -> None:
        if not isinstance(target, list):
            raise Refused("it is damaged; download it again")
        target.extend(values)

    def build(self) -> None:
        state, target = self.pop(), self.top()
        if not isinstance(target, ArrayStub | DTypeStub | InstanceStub):
            raise Refused(f"it sets the state of {type(target).__name__!r}, which only holds data")
        self.charge(state)
        if isinstance(state, tuple):
            self.charge(*state)
        target.build(state)

    def reduce(self, arguments: Any, function: Any, make: Callable[[Any, Any], Any] = call) -> None:
        if isinstance(arguments, tuple):
            self.charge(*arguments)
        self.push(make(function, arguments))

    def new_with_names(self) -> None:
        named, arguments, kind = self.pop(), self.pop(), self.pop()
        if named != {}:
            raise Refused("damaged arguments")
        self.reduce(arguments, kind, new_instance)

    def instance(self, kind: Any, arguments: list[Any]) -> None:
        if not isinstance(kind, Name) or kind not in CLASSES:
            raise Refused("it makes an object of a class that holds no data")
        self.push(new_instance(kind, tuple(arguments)))

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise Refused("it is damaged; download it again")
        self.push(resolve(module, name))

    def tuple_of(self, count: int) -> None:
        self.push(tuple(reversed([self.pop() for _ in range(count)])))

    def remember(self, key: int) -> None:
        self.memo[key] = self.top()

    def recall(self, key: int) -> None:
        if key not in self.memo:
            raise Refused("it is damaged; download it again")
        self.push(self.memo[key])
