"""The thread that writes results while others are fitted: its order, how much may wait, and what a failure leaves."""

from __future__ import annotations

import threading
import time

import pytest

from fitjax.cli.manifest import WritingThread
from fitjax.files.atomic import WriteError


class Rows:
    """Stands for the manifest."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def add(self, rows) -> None:
        self.names.extend(row["name"] for row in rows)


def test_faces_are_written_in_order_by_another_thread_and_few_wait():
    rows, threads, alive, most = Rows(), set(), 0, 0

    def face(name: str):
        def tell():
            nonlocal alive
            threads.add(threading.current_thread())
            time.sleep(0.01)
            alive -= 1
            return {"name": name}, None

        return tell

    with WritingThread(rows, None, 2) as writing:  # type: ignore[arg-type]
        for i in range(12):
            alive += 1  # drawn, and held until it is written
            most = max(most, alive)
            writing.put([face(str(i))])
    assert rows.names == [str(i) for i in range(12)] and alive == 0
    assert threads and threading.current_thread() not in threads
    assert most <= 2 + 1 + 1  # waiting, being written, being put


def test_after_a_failure_nothing_is_written_and_what_came_before_is_told(tmp_path):
    rows, written = Rows(), []

    def face(name: str):
        def tell():
            if name == "c":
                raise WriteError(tmp_path, "No space left on device")
            written.append(name)
            return {"name": name}, None

        return tell

    with pytest.raises(WriteError, match="No space left"), WritingThread(rows, None, 4) as writing:  # type: ignore[arg-type]
        writing.put([face("a")])
        writing.put([face("b"), face("c"), face("d")])
        for name in "efghijkl":
            writing.put([face(name)])
            time.sleep(0.002)
    assert rows.names == written == ["a", "b"]
