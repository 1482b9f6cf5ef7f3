"""Where the faces come from: photos, of files or archives, read here or by workers; or a file of landmarks. Always in the same order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fitjax.cli.archives import Member, Unpacking
from fitjax.cli.hosts import Part
from fitjax.cli.inputs import output_names
from fitjax.cli.jobs import Job, Making
from fitjax.cli.main import Fit
from fitjax.cli.packed_landmarks import packed_jobs, read_packed_landmarks
from fitjax.cli.reading import Beside, Task, read_task
from fitjax.cli.workers import DetectorChoice, read_ahead
from fitjax.errors import FitjaxError, ImageError


class Source:
    """Faces in a fixed order.

    Attributes:
        names: the name of each photo's results, of this process's part. inputs: the same of all processes.
    """

    names: Sequence[str]
    inputs: Sequence[str]

    def faces(self, done: Callable[[str], str | None]) -> Iterator[tuple[str, list[Job] | None]]:
        """The faces of one photo after the other; None where ``done`` knows its content."""
        raise NotImplementedError


@dataclass
class PackedSource(Source):
    options: Fit
    part: Part = field(default_factory=Part)

    def __post_init__(self) -> None:
        self._files = [(path, read_packed_landmarks(path, self.options.landmark_set)) for path in self.options.inputs]
        self.inputs = [name for _, given in self._files for name in given.names]
        self.names = self.part.of(self.inputs)
        if len(set(self.inputs)) != len(self.inputs):
            raise FitjaxError("inputs: two of the files name faces alike; fit them into different folders")

    def faces(self, done: Callable[[str], str | None]) -> Iterator[tuple[str, list[Job] | None]]:
        options, ours = self.options, set(self.names)
        for path, given in self._files:
            for job in packed_jobs(path, given, options.image_size, options.camera, options.focal, ours):
                yield job.owner, None if done(job.owner) == job.content else [job]


@dataclass
class PhotoSource(Source):
    photos: Sequence[Path | Member]
    making: Making
    beside: Beside
    choice: DetectorChoice
    detector: Any
    workers: int
    part: Part = field(default_factory=Part)

    def __post_init__(self) -> None:
        self.inputs = output_names(self.photos)
        self.names, self.photos = self.part.of(self.inputs), self.part.of(self.photos)

    def faces(self, done: Callable[[str], str | None]) -> Iterator[tuple[str, list[Job] | None]]:
        refused: dict[str, Job] = {}
        unpacking = Unpacking()

        def tasks() -> Iterator[Task]:
            for path, name in zip(self.photos, self.names):
                task = Task(path, name, done(name))
                bad = self.making.refuse(task)
                if bad is None and isinstance(path, Member):
                    try:
                        task = replace(task, path=unpacking.filled(path))
                    except ImageError as error:
                        bad = Job(path, name, error=str(error), owner=name)
                if bad is not None:
                    refused[name] = bad
                else:
                    yield task
            unpacking.close()

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
