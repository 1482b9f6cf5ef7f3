"""Facial parts of an observation and of its fit, drawn over the photo."""

from __future__ import annotations

import numpy as np

from fitjax.evaluate.parts import crop_placement, render_parts
from fitjax.model.params import Params
from fitjax.observation.observation import Observation
from fitjax.observation.part_tables import PARTS
from fitjax.render.overlay import Crop

#: One colour per part, sRGB; the sides of a pair differ, so that a swap shows.
COLOURS = {
    "right_eye": (64, 160, 255),
    "left_eye": (0, 230, 255),
    "right_brow": (255, 150, 40),
    "left_brow": (255, 220, 40),
    "nose": (120, 230, 90),
    "upper_lip": (255, 70, 120),
    "lower_lip": (200, 60, 220),
    "skin": (235, 235, 235),
}
_FILL = 0.45
_PIXELS = 448


def parts_panels(
    photo_panel: np.ndarray, crop: Crop, model: object, params: Params, observation: Observation
) -> tuple[np.ndarray, np.ndarray]:
    """Two panels (h, w, 3) uint8: the observed parts filled under the fitted outlines, and the fitted parts filled.

    Args:
        photo_panel: (h, w, 3) uint8 of ``crop``.
        model: with a map of parts. observation: with parts.
    """
    labels = render_parts(model, params, observation, _PIXELS)
    height, width = photo_panel.shape[:2]
    row, column = np.mgrid[:height, :width]
    drawn = np.array(crop.size) / [crop.width, crop.height]
    in_photo = np.stack([(column + 0.5) / drawn[0] - 0.5 + crop.left, (row + 0.5) / drawn[1] - 0.5 + crop.top], -1)
    placement = crop_placement(observation, _PIXELS)
    place = np.round((in_photo - placement[:, 2]) / np.diag(placement)).astype(int)
    known = ((place >= 0) & (place < _PIXELS)).all(-1)
    place = np.where(known[..., None], place, 0)
    fitted = np.where(known, labels[place[..., 1], place[..., 0]], 0)
    observed = _observed(in_photo, observation)
    target = _outline(_fill(photo_panel, observed), fitted)
    return target, _fill(photo_panel, fitted)


def _observed(in_photo: np.ndarray, observation: Observation) -> np.ndarray:
    """(h, w) label 1 to 8 of the nearest observed point, as far as one is as near as points are to each other."""
    from scipy.spatial import cKDTree

    seen = observation.parts
    labels = np.zeros(in_photo.shape[:2], int)
    places = (in_photo - np.asarray(observation.face_centre)) / float(observation.face_size)
    # The skin first: its points fill what the other parts leave, and they lie over it.
    for name in sorted(seen.names, key=lambda n: n != "skin"):
        index = seen.names.index(name)
        weight = np.asarray(seen.weight[index])
        points = np.asarray(seen.points[index])[weight > 0]
        if not len(points):
            continue
        reach = 0.75 * np.sqrt(weight[weight > 0].max())
        distance, _ = cKDTree(points).query(places, distance_upper_bound=reach)
        labels[np.isfinite(distance)] = PARTS.index(name) + 1
    return labels


def _fill(panel: np.ndarray, labels: np.ndarray) -> np.ndarray:
    palette = np.array([(0, 0, 0), *(COLOURS[name] for name in PARTS)], np.float32)
    alpha = np.where(labels > 0, np.where(labels == len(PARTS), 0.5 * _FILL, _FILL), 0)[..., None]
    return np.round(panel * (1 - alpha) + palette[labels] * alpha).astype(np.uint8)


def _outline(panel: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Lines where the label changes."""
    edge = np.zeros(labels.shape, bool)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    return np.where(edge[..., None], np.array([20, 20, 20], np.uint8), panel)
