"""From a photo that was read to the faces to fit.

What is wrong with one photo is an entry of the list, not an exception: the others are fitted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fitjax.cli.archives import Member
from fitjax.cli.label_maps import face_mask, observe_labels
from fitjax.cli.looking import Looked, Looking
from fitjax.cli.reading import ReadPhoto, Task
from fitjax.errors import FitjaxError
from fitjax.files.result import check_result_folder
from fitjax.geometry.camera import CameraKind
from fitjax.image.photo import Photo
from fitjax.observation.crop import with_image
from fitjax.observation.observation import Observation
from fitjax.observation.observe import observe_detected, observe_landmarks, photo_camera
from fitjax.observation.part_tables import LabelTable


@dataclass
class Job:
    """One face to fit, or one photo that failed.

    Attributes:
        source: the photo's path. name: folder name of the result. owner: name of the photo's results, the same for all its faces.
        face, faces: which of how many of the photo. content: hash of the photo's files; None: not to be recognised again.
        observation: set unless ``error`` says why not; so is ``photo``, or of landmarks without one ``size``, (width, height) in pixels.
        start: parameters that the image network found, or None.
    """

    source: str | Path | Member
    name: str
    photo: Photo | None = None
    observation: Observation | None = None
    error: str | None = None
    warnings: tuple[str, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)
    owner: str = ""
    face: int = 0
    faces: int = 1
    content: str | None = None
    size: tuple[int, int] = (0, 0)
    photo_sha256: str | None = None
    start: Any = None


@dataclass(frozen=True)
class Making:
    """How photos become faces to fit.

    Attributes:
        out: folder of the results; None where they go into a pack. pixels: observations get a crop of the photo. table: of label maps.
        looking: what the image network is asked for; None: nothing.
    """

    out: Path | None
    all_faces: bool = False
    camera_kind: CameraKind = "perspective"
    focal: float | None = None
    pixels: bool = False
    table: LabelTable | None = None
    looking: Looking | None = None

    def refuse(self, task: Task) -> Job | None:
        """A failed job where the result could not be written, before anything is read."""
        if self.out is None or self.all_faces:
            return None
        try:
            check_result_folder(self.out / task.name)
        except FitjaxError as error:
            return Job(task.path, task.name, error=str(error), owner=task.name)
        return None

    def jobs(self, read: ReadPhoto) -> Iterator[Job]:
        """The faces of one photo; exactly one failed job if it cannot be used."""
        task, photo = read.task, read.photo
        if read.error is not None:
            yield Job(task.path, task.name, error=read.error, timings=read.timings, owner=task.name, content=read.content)
            return
        assert photo is not None
        began = time.perf_counter()
        try:
            observations, looked = self._observe(read, photo)
        except FitjaxError as error:
            yield Job(task.path, task.name, error=str(error), timings=read.timings, owner=task.name, content=read.content)
            return
        others = 0 if self.all_faces else len(observations) - 1
        observations = observations if self.all_faces else observations[:1]
        names = [f"{task.name}_face{i + 1}" if self.all_faces else task.name for i in range(len(observations))]
        if self.all_faces and self.out is not None:
            try:
                for name in names:
                    check_result_folder(self.out / name)
            except FitjaxError as error:
                yield Job(task.path, task.name, error=str(error), timings=read.timings, owner=task.name)
                return
        warnings = photo.warnings
        if others > 0:
            warnings = (*warnings, f"{task.path}: {others + 1} faces found, the largest is fitted; --all-faces fits each")
        timings = {**read.timings, "detect": read.timings["detect"] + time.perf_counter() - began}
        count, size = len(observations), (photo.width, photo.height)
        for i, (name, observation) in enumerate(zip(names, observations)):
            seen = looked.get(i)
            said = warnings if seen is None else (*warnings, *seen.warnings)
            job = Job(task.path, name, photo, observation, None, said, timings, task.name, i, count, read.content, size, photo.sha256)
            job.start = None if seen is None else seen.start
            yield job

    def _observe(self, read: ReadPhoto, photo: Photo) -> tuple[list[Observation], dict[int, Looked]]:
        camera = photo_camera(photo, focal_px=self.focal, kind=self.camera_kind)
        if read.landmarks is not None:
            given, file = read.landmarks
            observations = [observe_landmarks(photo, given, camera, str(file))]
        elif self.looking is not None and self.looking.box is not None:
            observations = [self.looking.find(photo, camera)]
        else:
            observations = [observe_detected(photo, face, camera) for face in read.faces]
        used = len(observations) if self.all_faces else 1  # the others are only counted
        shown = None
        looked: dict[int, Looked] = {}
        for i in range(used):
            observation = observations[i]
            if self.looking is not None:
                looked[i] = self.looking.look(photo, observation)
                observation, shown = looked[i].observation, looked[i].mask
            if read.labels is not None and self.table is not None:
                label_map, found = read.labels
                observation = observe_labels(observation, photo, label_map, self.table, found)
                shown = face_mask(label_map, self.table, photo) if self.pixels else None
            if read.mask is not None:  # drawn by hand: it comes before a parser's
                shown = read.mask
            observations[i] = with_image(observation, photo, mask=shown) if self.pixels else observation
        return observations, looked
