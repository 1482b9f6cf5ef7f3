"""Observations: fixed shapes, with a validity mask beside every array.

A weight of zero does not mask a NaN (0 · NaN = NaN), so every array has a boolean mask of its own and losses select with it
before they compute. All coordinates are pixels of the original, EXIF-corrected image, centre of the top-left pixel at (0, 0).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from fitjax.errors import LandmarkError
from fitjax.geometry.camera import Camera, make_camera
from fitjax.pytree import pytree

#: How many points each named set has.
SET_SIZES = {"ibug68": 68, "aflw68": 68, "aflw68_original": 68, "ibug51": 51, "mediapipe468": 468, "mediapipe478": 478}

#: Sets that are stored as a larger one with the missing points masked: (larger set, first index).
PARTIAL_SETS = {"ibug51": ("ibug68", 17), "mediapipe468": ("mediapipe478", 0)}


@pytree
class LandmarkObservation:
    """Landmarks of one named set.

    Attributes:
        points: (N, 2) pixels; anything (zeros) where not valid.
        confidence: (N,) weight of each point, 0 or more.
        valid: (N,) whether the point was observed at all.
        depth: (N,) distance from the camera relative to the face's middle, in pixels at the scale of x, as far as ``depth_valid`` (N,); some
            detectors estimate it.
    """

    points: Float[Array, "N 2"]
    confidence: Float[Array, "N"]
    valid: Bool[Array, "N"]
    depth: Float[Array, "N"]
    depth_valid: Bool[Array, "N"]


@pytree
class Observation:
    """Everything that losses may compare a prediction with.

    Attributes:
        landmarks: named sets.
        camera: intrinsics of the photo and the map into the crop.
        face_centre: (2,) pixels, middle of the tight box of the observed landmarks.
        face_size: () pixels, sqrt(width · height) of that box; the unit of all residuals.
        ok: () False for a slot of a batch that holds neutral data in place of a failed input.
        image: (H, W, 3) crop in linear light, or None; ``image_valid`` (H, W) where it holds pixels of the photo.
        parts: facial parts as point sets (:class:`fitjax.observation.parts.PartObservation`), or None.
    """

    landmarks: dict[str, LandmarkObservation]
    camera: Camera
    face_centre: Float[Array, "2"]
    face_size: Float[Array, ""]
    ok: Bool[Array, ""]
    image: Any = None
    image_valid: Any = None
    parts: Any = None


def face_box(points: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre and size sqrt(w h) of the tight box of the valid points; a flat box counts as at least a tenth as wide as long."""
    low, high = points[valid].min(0), points[valid].max(0)
    extent = np.maximum(high - low, 0.1 * (high - low).max())
    return (low + high) / 2, float(np.sqrt(extent.prod()))


def make_observation(
    landmarks: Mapping[str, Any],
    camera: Camera | None = None,
    *,
    image_size: tuple[int, int] | None = None,
    confidence: Mapping[str, Any] | None = None,
    valid: Mapping[str, Any] | None = None,
    depth: Mapping[str, Any] | None = None,
    dtype: Any = np.float32,
) -> Observation:
    """Observation from landmarks in pixels.

    Args:
        landmarks: set name → (N, 2) pixels. Known sets: ``ibug68``, ``aflw68``, ``aflw68_original``, ``mediapipe478``; ``ibug51`` (inner
            points 17 to 67) and ``mediapipe468`` (no irises) are stored as their larger set with the rest masked. Other names are taken
            as they are; the model must know a sample set of the name.
        camera: intrinsics; by default made from ``image_size`` (width, height), else from the extent of the landmarks.
        confidence, valid: per set, (N,) weights ≥ 0 and booleans; default all ones.
        depth: per set, (N,) relative distance from the camera in pixels at the scale of x; default unknown.

    Raises:
        LandmarkError: no landmarks, a wrong count, fewer than 4 valid points, valid points that are not finite, or all in one place.
    """
    if not landmarks:
        raise LandmarkError("landmarks: expected at least one named set such as {'ibug68': (68, 2) pixels}, found none")
    sets: dict[str, LandmarkObservation] = {}
    biggest: tuple[np.ndarray, np.ndarray] | None = None
    for name, given in landmarks.items():
        points = np.array(given, dtype)
        if points.ndim != 2 or points.shape[1] != 2:
            raise LandmarkError(f"landmarks {name!r}: expected shape (N, 2), found {points.shape}")
        if name in SET_SIZES and len(points) != SET_SIZES[name]:
            raise LandmarkError(f"landmarks {name!r}: expected {SET_SIZES[name]} points, found {len(points)}")
        weight = np.array(np.ones(len(points)) if confidence is None or name not in confidence else confidence[name], dtype)
        mask = np.array(np.ones(len(points), bool) if valid is None or name not in valid else valid[name], bool)
        if weight.shape != (len(points),) or mask.shape != (len(points),):
            raise LandmarkError(f"landmarks {name!r}: confidence and valid must have shape ({len(points)},)")
        if not np.isfinite(weight).all() or (weight < 0).any():
            raise LandmarkError(f"landmarks {name!r}: confidences must be finite and not negative")
        bad = mask & ~np.isfinite(points).all(1)
        if bad.any():
            raise LandmarkError(f"landmarks {name!r}: point {int(np.argmax(bad))} is not finite; mark it invalid or correct it")
        mask &= weight > 0
        if mask.sum() < 4:
            raise LandmarkError(f"landmarks {name!r}: expected at least 4 valid points, found {int(mask.sum())}")
        points = np.where(mask[:, None], points, 0)
        far = np.full(len(points), np.nan, dtype) if depth is None or name not in depth else np.array(depth[name], dtype)
        if far.shape != (len(points),):
            raise LandmarkError(f"landmarks {name!r}: depth must have shape ({len(points)},), found {far.shape}")
        far_mask = mask & np.isfinite(far)
        far = np.where(far_mask, far, 0)
        if name in PARTIAL_SETS:
            name, first = PARTIAL_SETS[name]
            total = SET_SIZES[name]
            parts = (points, weight, mask, far, far_mask)
            full = [np.zeros((total, *part.shape[1:]), part.dtype) for part in parts]
            for whole, part in zip(full, parts):
                whole[first : first + len(part)] = part
            points, weight, mask, far, far_mask = full
        sets[name] = LandmarkObservation(*(jnp.asarray(x) for x in (points, weight, mask, far, far_mask)))
        if biggest is None or mask.sum() > biggest[1].sum():
            biggest = (points, mask)
    assert biggest is not None
    centre, size = face_box(*biggest)
    if not size > 1e-3:
        raise LandmarkError("landmarks: all valid points lie in one place; expected a face")
    if camera is None:
        if image_size is None:
            # Landmarks alone: an image as if the face filled half of it, so that the default field of view means something.
            half = max(size, 1.0)
            camera = make_camera(int(2 * half), int(2 * half), centre=(float(centre[0]), float(centre[1])), dtype=dtype)
        else:
            camera = make_camera(*image_size, dtype=dtype)
    return Observation(sets, camera, jnp.asarray(centre, dtype), jnp.asarray(size, dtype), jnp.asarray(True))


def neutral_observation(like: Observation) -> Observation:
    """Neutral data of the same shapes for the slot of a failed input: nothing is valid, nothing is NaN."""

    def blank(x: jax.Array) -> jax.Array:
        return jnp.zeros_like(x)

    dtype = like.camera.focal.dtype
    camera = Camera(jnp.ones(2, dtype), jnp.zeros(2, dtype), jnp.eye(2, 3, dtype=dtype), like.camera.kind)
    return Observation(
        {k: jax.tree.map(blank, v) for k, v in like.landmarks.items()},
        camera,
        jnp.zeros_like(like.face_centre),
        jnp.ones_like(like.face_size),
        jnp.asarray(False),
        None if like.image is None else blank(like.image),
        None if like.image_valid is None else blank(like.image_valid),
        jax.tree.map(blank, like.parts),
    )


def stack_observations(observations: Sequence[Observation]) -> Observation:
    """A batch: every leaf gains a leading axis.

    Raises:
        LandmarkError: the observations hold different sets or shapes.
    """
    first: Any = jax.tree.structure(observations[0])
    for i, other in enumerate(observations):
        if jax.tree.structure(other) != first:
            raise LandmarkError(
                f"batch: face {i} has landmark sets {sorted(other.landmarks)} and camera {other.camera.kind}, face 0 has "
                f"{sorted(observations[0].landmarks)} and {observations[0].camera.kind}, or only one of them has an image or parts of the same kind; "
                "fit them separately"
            )
    # On the host: a batch is hundreds of tiny arrays, and one dispatch each would cost more than the fit.
    return jax.tree.map(lambda *x: jnp.asarray(np.stack([np.asarray(a) for a in x])), *observations)
