"""Reading and detection ahead of the fits, in processes of their own.

Photos come back in the order in which they were asked for, so what is fitted with what does not depend on who was faster. No more than a fixed
number are on their way, so memory does not grow with their count.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path

from fitjax.cli.reading import Beside, ReadPhoto, Task, content_hash, read_task
from fitjax.detect import Detector, FaceMeshDetector, TasksDetector, default_detector
from fitjax.errors import FitjaxError

#: Fewer photos are read in the process that fits them: starting another takes longer.
WORTH_WORKERS = 24

#: Photos on their way per worker.
AHEAD = 3


@dataclass(frozen=True)
class DetectorChoice:
    """Which detector: what each process needs to make its own.

    Attributes:
        needed: False with landmarks of the user's own. model: a .task file, or None for the models inside the package. thorough: look in tiles too.
    """

    needed: bool = True
    model: Path | None = None
    thorough: bool = False

    def make(self) -> FaceMeshDetector | TasksDetector | None:
        """
        Raises:
            DetectionError: nothing usable is installed.
        """
        if not self.needed:
            return None
        own = default_detector(self.model)
        return FaceMeshDetector(thorough=True) if self.thorough and isinstance(own, FaceMeshDetector) else own


def default_workers(photos: int) -> int:
    """How many processes read ahead when the user does not say: one core is left to the fits."""
    return 0 if photos < WORTH_WORKERS else min(max((os.cpu_count() or 1) - 1, 1), 8)


_detector: Detector | None = None
_beside = Beside()


def _start(choice: DetectorChoice, beside: Beside) -> None:
    """In a worker, once."""
    global _detector, _beside
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    _detector, _beside = choice.make(), beside


def _leave_with_parent() -> None:
    """A parent that is killed cannot say goodbye; its workers would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _read(task: Task) -> ReadPhoto:
    """In a worker, for each photo."""
    return read_task(task, _beside, _detector)


def read_ahead(
    tasks: Iterable[Task], beside: Beside, choice: DetectorChoice, workers: int
) -> Iterator[ReadPhoto]:
    """Photos with their faces, in the order of the tasks.

    A photo at which a worker dies is tried once more, alone; if that worker dies too, it is the one to be named, and the others go on.

    Args:
        workers: at least 1.

    Raises:
        FitjaxError: no worker can be started.
    """

    def pool_of(count: int) -> ProcessPoolExecutor:
        spawn = multiprocessing.get_context("spawn")  # a fork of a process in which JAX has threads may hang
        return ProcessPoolExecutor(count, mp_context=spawn, initializer=_start, initargs=(choice, beside))

    pool = pool_of(workers)
    waiting: deque[tuple[Task, Future[ReadPhoto]]] = deque()
    source = iter(tasks)
    try:
        while True:
            while len(waiting) < AHEAD * workers and (task := next(source, None)) is not None:
                waiting.append((task, _submit(pool, task)))
            if not waiting:
                return
            task, future = waiting.popleft()
            try:
                result = future.result()
            except BrokenProcessPool:
                pool.shutdown(wait=True, cancel_futures=True)
                result = _alone(pool_of, task, beside)
                pool = pool_of(workers)
                waiting = deque((other, _submit(pool, other)) for other, _ in waiting)
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, task: Task) -> Future[ReadPhoto]:
    try:
        return pool.submit(_read, task)
    except BrokenProcessPool as error:
        broken: Future[ReadPhoto] = Future()
        broken.set_exception(error)
        return broken


def _alone(pool_of: Callable[[int], ProcessPoolExecutor], task: Task, beside: Beside) -> ReadPhoto:
    """The photo in a fresh worker of its own."""
    try:
        with pool_of(1) as pool:
            return pool.submit(_read, task).result()
    except BrokenProcessPool:
        pass
    try:
        with pool_of(1) as pool:
            pool.submit(os.getpid).result()
    except BrokenProcessPool:  # it is not the photo's fault; a script without `if __name__ == "__main__":` ends here
        raise FitjaxError("workers: no process for reading photos can be started; give --workers 0") from None
    says = f"{task.path}: the process that read it died twice (out of memory, or a fault of a decoder); shrink or convert the photo"
    return ReadPhoto(task, content_hash([task.path, *beside.files(task.path)]), error=says)
