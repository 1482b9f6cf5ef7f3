"""What the image network adds to an observation: its landmarks beside a detector's or in their place, or all of them where only a box is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from fitjax.errors import FitjaxError
from fitjax.geometry.camera import Camera
from fitjax.geometry.rotation import aflw2000_from_rotation
from fitjax.image.photo import Photo, photo_from_array
from fitjax.initial.image_face import IMAGE_LABELS, ImageFace, image_face, in_photo
from fitjax.initial.image_tables import DENSE, MARKS
from fitjax.initial.image_weights import SHIPPED_IMAGE
from fitjax.observation.observation import LandmarkObservation, Observation, make_observation
from fitjax.observation.observe import photo_camera
from fitjax.observation.part_tables import LabelTable
from fitjax.pytree import replace
from fitjax.render.lighting import srgb_from_linear

#: A detector is taken to have failed beyond this yaw (degrees), from where on FaceMesh's error may be above this network's, if its landmarks are
#: farther (face sizes) from the network's than the errors of both explain ...
FAILS_BEYOND, DIFFERS = 60.0, 0.065
#: ... or where its landmarks are this far (face sizes) from what both branches of the network agree on within half of it.
FAILS_APART = 0.12


def check_box(box: Any, photo: Photo) -> tuple[np.ndarray, float]:
    """Middle (2,) and size √(w · h) of a box (x, y, w, h) in pixels.

    Raises:
        FitjaxError: no four finite numbers, not 8 pixels wide and high, or a middle outside the photo.
    """
    values = np.asarray(box, np.float64)
    if values.shape != (4,) or not np.isfinite(values).all() or (values[2:] < 8).any():
        raise FitjaxError(f"box: expected x, y, width, height in pixels, at least 8 wide and high, found {np.asarray(box).tolist()}")
    middle = values[:2] + values[2:] / 2
    if not ((middle >= 0) & (middle < [photo.width, photo.height])).all():
        raise FitjaxError(f"box: its middle {middle.tolist()} lies outside the photo of {photo.width} × {photo.height}; give pixels of {photo.path}")
    return middle, float(np.sqrt(values[2] * values[3]))


def find_in_box(photo: Photo, box: Any, camera: Camera | None = None, *, weights: Path = SHIPPED_IMAGE) -> tuple[Observation, ImageFace]:
    """An observation of the face in a box (x, y, w, h), about from the brows to the chin, from the network's landmarks alone.

    Raises:
        FitjaxError: a box that cannot be, or weights that are missing or damaged.
    """
    camera = photo_camera(photo) if camera is None else camera
    face = image_face(photo, *check_box(box, photo), camera, weights=weights)
    return make_observation({MARKS: face.landmarks}, camera, confidence={MARKS: face.confidence}), face


def find_observed(observation: Observation, photo: Photo, *, weights: Path = SHIPPED_IMAGE) -> ImageFace:
    """The network's look at a face that was observed in a photo.

    Raises:
        FitjaxError: the face lies outside the photo, or weights that are missing or damaged.
    """
    return image_face(photo, np.asarray(observation.face_centre), float(observation.face_size), observation.camera, weights=weights)


def crop_as_photo(observation: Observation) -> tuple[Photo, Observation]:
    """The observation's own crop as a photo, and the observation in its pixels.

    Raises:
        FitjaxError: it has none.
    """
    if observation.image is None:
        raise FitjaxError("image_net: the observation has no pixels; give photo=, or an observation with a crop (fitjax.observation.with_image)")
    pixels = np.asarray(srgb_from_linear(jnp.clip(observation.image, 0, 1)))
    photo = photo_from_array(np.round(pixels * 255).astype(np.uint8))
    affine = np.asarray(observation.camera.crop_from_image, np.float64)
    scale, camera = affine[0, 0], observation.camera
    moved = replace(camera, focal=camera.focal * scale, centre=camera.centre * scale + affine[:, 2], crop_from_image=jnp.eye(2, 3))
    centre = affine[:, :2] @ np.asarray(observation.face_centre, np.float64) + affine[:, 2]
    return photo, replace(observation, camera=moved, face_centre=jnp.asarray(centre), face_size=observation.face_size * scale)


def differs_by(seen: LandmarkObservation, face: ImageFace) -> float:
    """Mean distance of a detector's 478 points from those of the network's face, in face sizes."""
    valid = np.asarray(seen.valid)
    apart = np.linalg.norm(np.asarray(seen.points)[valid] - face.dense[valid], axis=1)
    return float(apart.mean() / face.face_size)


def has_failed(observation: Observation, face: ImageFace) -> bool:
    """Whether the landmarks of a detector are not to be trusted here: others than the network's at a yaw beyond what it can see, or far from both
    branches of the network."""
    yaw = float(np.degrees(np.asarray(aflw2000_from_rotation(jnp.asarray(face.rotations["fused"], jnp.float32)))[1]))
    seen = observation.landmarks.get(DENSE)
    seen = None if seen is None or not np.any(np.asarray(seen.valid)) else seen
    differs = seen is None or differs_by(seen, face) > DIFFERS
    # Of the same points: boxes of different sets are not to be compared.
    points = face.landmarks if seen is None else face.dense[np.asarray(seen.valid)]
    low, high = points.min(0), points.max(0)
    own_size = max(float(np.sqrt(np.prod(high - low))), 1e-6)
    apart = np.linalg.norm(np.asarray(observation.face_centre) - (low + high) / 2) / own_size
    ratio = abs(np.log(max(float(observation.face_size), 1e-6) / own_size))
    return (abs(yaw) > FAILS_BEYOND and differs) or (max(apart, ratio) > FAILS_APART * 2 and face.agreement < FAILS_APART / 2)


def with_image_landmarks(observation: Observation, face: ImageFace, *, keep: bool | None = None) -> Observation:
    """The observation with the network's landmarks as the set ``aflw68``; its own landmarks of that set stay.

    Args:
        keep: whether the detector's landmarks stay beside them; default: unless it failed (:func:`has_failed`).
    """
    if MARKS in observation.landmarks:
        return observation
    stays = not has_failed(observation, face) if keep is None else keep
    dtype = observation.camera.focal.dtype
    count = len(face.landmarks)
    blank = np.zeros(count, bool)
    found = LandmarkObservation(
        jnp.asarray(face.landmarks, dtype), jnp.asarray(face.confidence, dtype), jnp.asarray(~blank), jnp.asarray(blank, dtype), jnp.asarray(blank)
    )
    if stays:
        return replace(observation, landmarks={**observation.landmarks, MARKS: found})
    low, high = face.landmarks.min(0), face.landmarks.max(0)
    return replace(
        observation, landmarks={MARKS: found}, face_centre=jnp.asarray((low + high) / 2, dtype), face_size=jnp.asarray(face.face_size, dtype)
    )


def parse_image(photo: Photo, face: ImageFace) -> tuple[np.ndarray, LabelTable]:
    """The network's label map over the photo and its table: what :func:`fitjax.with_parts` takes, and a parser returns."""
    return in_photo(face.labels, face.photo_from_labels, photo), IMAGE_LABELS


def visible_mask(photo: Photo, face: ImageFace) -> np.ndarray:
    """(height, width) 0 to 1 over the photo: the face with nothing in front, as ``mask`` of :func:`fitjax.observation.with_image` takes it."""
    return in_photo(face.visible.astype(np.float32), face.photo_from_labels, photo)
