"""Landmark re-projection."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fitjax.errors import FitjaxError
from fitjax.losses.core import Loss, Residuals, residual
from fitjax.losses.landmark_weights import POINT_WEIGHTS
from fitjax.observation.observation import Observation
from fitjax.prediction import CONTOUR_CANDIDATES, Prediction
from fitjax.pytree import replace

#: Default weight of landmarks: residuals in percent of the face size, as the field reports them.
LANDMARK_WEIGHT = 1e4

#: Default weight of their depth: enough to settle pitch. More buys little, and slows Gauss-Newton down, whose steps ignore the curvature of
#: large residuals.
DEPTH_WEIGHT = 1e3


def _reprojection(
    pred: Prediction, obs: Observation, *, name: str, contour: bool, visible_only: bool, target_confidence: bool, point_weight: Any
) -> Residuals:
    seen = obs.landmarks[name]
    pixels = pred.pixels[name]
    if contour:
        if pred.frozen is None or pred.frozen.contour is None:
            raise FitjaxError("contour landmarks: the model has no sample set 'contour68'; use contour=False")
        lines = pred.pixels["contour68"].reshape(-1, CONTOUR_CANDIDATES, 2)
        jaw = lines[jnp.arange(lines.shape[0]), pred.frozen.contour]
        pixels = jnp.concatenate([jaw, pixels[jaw.shape[0] :]])
    weight = seen.confidence if target_confidence else jnp.ones_like(seen.confidence)
    if point_weight is not None:
        weight = weight * point_weight
    if visible_only and pred.frozen is not None:
        weight = weight * pred.frozen.visible[name]
    weight = jnp.where(seen.valid, weight, 0)
    # The double where: an unobserved point may hold anything, NaN included.
    target = jnp.where(seen.valid[:, None], seen.points, 0)
    difference = jnp.where(seen.valid[:, None], pixels - target, 0)
    return Residuals(difference / pred.face_size, weight)


_make = residual(_reprojection)


def is_reprojection(loss: Loss) -> bool:
    """Whether a loss was made by :func:`landmarks`."""
    return loss.function is _reprojection


@residual
def _depth(pred: Prediction, obs: Observation, *, name: str, every: tuple[int]) -> Residuals:
    whole = obs.landmarks[name]
    picked = slice(None, None, every[0])
    seen = jax.tree.map(lambda x: x[picked], whole)
    weight = jnp.where(seen.depth_valid, seen.confidence, 0)
    total = jnp.sum(weight)
    share = jnp.where(total > 0, weight / jnp.where(total > 0, total, 1), 0)
    # Pixels at the scale of x, at the depth of the head's origin.
    found = pred.points_camera[name].position[picked, 2] * jnp.mean(pred.camera.focal) / pred.t_camera_head[2]
    target = jnp.where(seen.depth_valid, seen.depth, 0)
    # Only differences are observed: both about their weighted mean.
    difference = (found - jnp.sum(share * found)) - (target - jnp.sum(share * target))
    return Residuals(jnp.where(seen.depth_valid, difference, 0) / pred.face_size, weight)


def landmark_depth(name: str = "mediapipe478", every: int = 4) -> Loss:
    """Relative depth of landmarks against the detector's estimate, in units of the face size.

    From points in the picture alone, pitch trades against shape; an estimate of depth, even a rough one, settles it. The default weight is a
    tenth of that of :func:`landmarks`. Points without an estimate do not count; without any, the loss is exactly zero.

    Args:
        every: use every n-th point: depth is smooth over the face, and the cost of a step grows with the number of residuals.
    """
    return replace(_depth(name=name, every=(every,)), weight=np.float32(DEPTH_WEIGHT))


def landmarks(
    name: str = "mediapipe478",
    *,
    contour: bool = False,
    visible_only: bool = False,
    confidence: bool = True,
    point_weight: Any = None,
) -> Loss:
    """Distance of projected landmarks from the observed ones, in units of the face size.

    The default weight of 1e4 makes it a cost of residuals in percent of the face size. A point with confidence c counts c times.

    Args:
        name: sample set of the model and landmark set of the observation, N points.
        contour: the 17 jaw points of a 68-point set follow the visible outline (2-D annotations); the other way they are fixed
            points of the surface, hidden ones included (3-D annotations such as AFLW2000-3D, and FaceMesh).
        visible_only: leave out points that face away from the camera at the current pose.
        confidence: use the observation's confidences.
        point_weight: (N,) relative weights of the points, times their confidences; by default FaceMesh's points on lips, eyes and other features
            count more than those on bare skin (:mod:`fitjax.losses.landmark_weights`), points of other sets alike.
    """
    if point_weight is None and name in POINT_WEIGHTS:
        point_weight = POINT_WEIGHTS[name]()
    loss = _make(name=name, contour=contour, visible_only=visible_only, target_confidence=confidence, point_weight=point_weight)
    return replace(loss, weight=np.float32(LANDMARK_WEIGHT))
