"""Where the faces come from: photos, read here or by workers; or a file of landmarks. Always in the same order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fitjax.cli.inputs import output_names
from fitjax.cli.jobs import Job, Making
from fitjax.cli.main import Fit
from fitjax.cli.packed_landmarks import packed_jobs, read_packed_landmarks
from fitjax.cli.reading import Beside, Task, read_task
from fitjax.cli.workers import DetectorChoice, read_ahead
from fitjax.errors import FitjaxError


class Source:
    """Faces in a fixed order. ``names`` has the name of each photo's results."""

    names: Sequence[str]

    def faces(self, done: Callable[[str], str | None]) -> Iterator[tuple[str, list[Job] | None]]:
        """The faces of one photo after the other; None where ``done`` knows its content."""
        raise NotImplementedError


@dataclass
class PackedSource(Source):
    options: Fit

    def __post_init__(self) -> None:
        self._files = [(path, read_packed_landmarks(path, self.options.landmark_set)) for path in self.options.inputs]
        self.names = [name for _, given in self._files for name in given.names]
        if len(set(self.names)) != len(self.names):
            raise FitjaxError("inputs: two of the files name faces alike; fit them into different folders")

    def faces(self, done: Callable[[str], str | None]) -> Iterator[tuple[str, list[Job] | None]]:
        options = self.options
        for path, given in self._files:
            for job in packed_jobs(path, given, options.image_size, options.camera, options.focal):
                yield job.owner, None if done(job.owner) == job.content else [job]


@dataclass
class PhotoSource(Source):
    photos: list[Path]
    making: Making
    beside: Beside
    choice: DetectorChoice
    detector: Any
    workers: int

    def __post_init__(self) -> None:
        self.names = output_names(self.photos)

    def faces(self, done: Callable[[str], str | None]) -> Iterator[tuple[str, list[Job] | None]]:
        refused: dict[str, Job] = {}

        def tasks() -> Iterator[Task]:
            for path, name in zip(self.photos, self.names):
                task = Task(path, name, done(name))
                bad = self.making.refuse(task)
                if bad is not None:
                    refused[name] = bad
                else:
                    yield task

        def read() -> Iterator[Any]:
            if self.workers:
                yield from read_ahead(tasks(), self.beside, self.choice, self.workers)
            else:
                yield from (read_task(task, self.beside, self.detector) for task in tasks())

        reads = read()
        following = next(reads, None)
        for name in self.names:
            if following is not None and following.task.name == name:
                yield name, None if following.done else list(self.making.jobs(following))
                following = next(reads, None)
            else:
                yield name, [refused[name]]
