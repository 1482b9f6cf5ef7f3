"""``fitjax fit --init image_net``, ``--box`` and ``--parse image_net``: what the image network makes of a photo before the fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from fitjax.cli.main import Fit
from fitjax.errors import FitjaxError
from fitjax.fit.defaults import PARTS_LOSS
from fitjax.geometry.camera import Camera
from fitjax.image.photo import Photo
from fitjax.losses.core import Loss
from fitjax.observation.observation import Observation

#: The network's landmarks, what they count beside those of a detector that is to be trusted, and what its parts count; see docs/initialiser.md.
MARKS, BESIDE, PARSED = "aflw68", 0.03, 0.03


@dataclass(frozen=True)
class Looked:
    """A face as it goes into the fit: ``observation`` with the network's landmarks and, if parsed, parts; ``mask`` (height, width) or None;
    ``start``: parameters, or None; ``warnings``."""

    observation: Observation
    mask: np.ndarray | None
    start: Any
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Looking:
    """What the network is asked for.

    Attributes:
        start: parameters and landmarks. box: where the face is, (x, y, w, h), where no detector says it. parse: parts and what is visible.
    """

    start: bool
    box: tuple[float, float, float, float] | None
    parse: bool

    def find(self, photo: Photo, camera: Camera) -> Observation:
        """The face in the box.

        Raises:
            FitjaxError: a box that cannot be.
        """
        # Imported here, as below: Flax takes a while, and most fits need no network.
        from fitjax.initial.image_observe import find_in_box

        return find_in_box(photo, self.box, camera)[0]

    def look(self, photo: Photo, observation: Observation) -> Looked:
        """
        Raises:
            FitjaxError: the face lies outside the photo, or its parts cannot be told.
        """
        from fitjax.initial.image_observe import (
            find_observed,
            has_failed,
            parse_image,
            visible_mask,
            with_image_landmarks,
        )
        from fitjax.observation.segmentation import with_parts

        face = find_observed(observation, photo)
        mask, warnings = None, tuple[str, ...]()
        if self.start:
            if self.box is None and has_failed(observation, face) and "mediapipe478" in observation.landmarks:
                warnings = (f"{photo.path}: the detector is not to be trusted here; landmarks of the image network take its place",)
            observation = with_image_landmarks(observation, face)
        if self.parse:
            labels, table = parse_image(photo, face)
            observation, mask = with_parts(observation, labels, table, image_size=(photo.width, photo.height)), visible_mask(photo, face)
        return Looked(observation, mask, face.params if self.start else None, warnings)


def looking_of(options: Fit, model: Any, photos: int) -> Looking | None:
    """What the options ask of the network; None: nothing.

    Raises:
        FitjaxError: options that do not go together, or a model that the network does not know.
    """
    if options.init != "image_net" and options.box is None and options.parse is None:
        return None
    if options.box is not None and photos != 1:
        raise FitjaxError(f"--box: is of one face in one photo, found {photos} photos; give one")
    from fitjax.initial.image_face import knows, load_looker

    start = options.init == "image_net" or options.box is not None
    if start and not knows(model, load_looker()[3]):
        raise FitjaxError("--init image_net, --box: the network belongs to the embedded model; leave --model out, or give landmarks of your own")
    return Looking(start, options.box, options.parse is not None)


def weighed(losses: dict[str, Loss], parsed: bool = False) -> dict[str, Loss]:
    """The losses with what the network saw at its part of their weight: landmarks beside a detector's; parts, where it ``parsed`` them."""
    factors = {MARKS: BESIDE if "mediapipe478" in losses else 1.0, PARTS_LOSS: PARSED if parsed else 1.0}
    return {name: factors[name] * loss if factors.get(name, 1.0) != 1 else loss for name, loss in losses.items()}


def starts_of(model: Any, stacked: Observation, found: list[Any]) -> Any:
    """Starts with a leading axis: what the network found of each face, the closed form where it found none."""
    from fitjax.initial.initialise import initialise

    plain = jax.device_get(initialise(stacked, method="closed_form", model=model))

    def put(slot: int, into: Any, values: Any) -> None:
        for name, value in values.items():
            if isinstance(value, dict):
                put(slot, into[name], value)
            else:
                into[name][slot] = np.asarray(value)

    plain = jax.tree.map(np.array, plain)
    for slot, values in enumerate(found):
        if values is not None:
            put(slot, plain, values)
    return plain
