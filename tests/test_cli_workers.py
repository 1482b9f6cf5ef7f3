"""Reading ahead in other processes: the order, how many are on their way, photos that kill their reader, parents that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from fitjax.cli.reading import Beside, Task, content_hash, read_task
from fitjax.cli.workers import AHEAD, DetectorChoice, default_workers, read_ahead
from fitjax.detect import DetectedFace
from fitjax.errors import FitjaxError

DEADLY = 13


class GreyDetector:
    """Finds a face in every photo, except that one of them ends the process; slow for dark photos, so that they finish out of order."""

    name = "grey"

    def detect(self, rgb):
        grey = int(rgb[0, 0, 0])
        if grey == DEADLY:
            os._exit(3)
        time.sleep(0.02 * (grey % 3))
        return [DetectedFace(np.full((68, 2), float(grey)), np.ones(68), "ibug68", 1.0, (0.0, 0.0, 1.0, 1.0))]


@dataclass(frozen=True)
class GreyChoice(DetectorChoice):
    starts: bool = True

    def make(self):
        if not self.starts:
            os._exit(4)
        return GreyDetector()


def _tasks(folder, greys: list[int]) -> list[Task]:
    for i, grey in enumerate(greys):
        Image.fromarray(np.full((40, 40, 3), grey, np.uint8)).save(folder / f"{i}.png")
    return [Task(folder / f"{i}.png", str(i)) for i in range(len(greys))]


def test_in_order_and_the_same_as_in_this_process(tmp_path):
    tasks = _tasks(tmp_path, list(range(20, 32)))
    (tmp_path / "3.png").write_bytes(b"<html></html>")
    tasks[5] = Task(tasks[5].path, "5", content_hash([tasks[5].path]))
    asked: list[int] = []

    def asking():
        for task in tasks:
            asked.append(int(task.name))
            yield task

    here = [read_task(task, Beside(), GreyDetector()) for task in tasks]
    for i, found in enumerate(read_ahead(asking(), Beside(), GreyChoice(), 2)):
        assert len(asked) <= i + 2 * AHEAD  # no more are on their way
        expected = here[i]
        assert (found.task, found.content, found.done, found.error) == (tasks[i], expected.content, i == 5, expected.error)
        assert (found.error is not None) == (i == 3) and (found.photo is None) == (i in (3, 5))
        if found.photo is not None and expected.photo is not None:
            np.testing.assert_array_equal(found.photo.rgb, expected.photo.rgb)
            assert found.photo.sha256 == expected.photo.sha256
            np.testing.assert_array_equal(found.faces[0].landmarks, expected.faces[0].landmarks)
    assert asked == list(range(12))


def test_a_photo_that_kills_its_reader_is_named_and_the_others_go_on(tmp_path):
    greys = [20, DEADLY, 21, 22]
    found = list(read_ahead(_tasks(tmp_path, greys), Beside(), GreyChoice(), 1))
    assert [r.task.name for r in found] == list("0123")
    assert [r.photo is not None for r in found] == [True, False, True, True]
    assert "1.png" in str(found[1].error) and "died twice" in str(found[1].error) and found[1].content is not None


def test_workers_that_cannot_start(tmp_path):
    with pytest.raises(FitjaxError, match="give --workers 0"):
        list(read_ahead(_tasks(tmp_path, [20]), Beside(), GreyChoice(starts=False), 1))


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks for processes in /proc")
def test_workers_leave_with_a_parent_that_is_killed(tmp_path):
    _tasks(tmp_path, [20] * 4)
    code = f"""
import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})
from pathlib import Path
import multiprocessing
from test_cli_workers import GreyChoice, Beside, Task, read_ahead
if __name__ == "__main__":
    tasks = [Task(Path({str(tmp_path)!r}) / f"{{i}}.png", str(i)) for i in range(4)]
    for result in read_ahead(tasks, Beside(), GreyChoice(), 2):
        print(*(p.pid for p in multiprocessing.active_children()), flush=True)
        sys.stdin.read()
"""
    (tmp_path / "parent.py").write_text(code)
    parent = subprocess.Popen([sys.executable, str(tmp_path / "parent.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2 and all(_runs(pid) for pid in workers)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while any(map(_runs, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_runs, workers))


def _runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_worker_knows_no_jax():
    """It would take the accelerator from the process that fits."""
    code = "import sys, fitjax.cli.workers; assert 'jax' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_small_sets_need_no_workers():
    assert default_workers(2) == 0 and 1 <= default_workers(1000) <= 8
