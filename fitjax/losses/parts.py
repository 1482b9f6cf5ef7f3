"""Part re-projection distance loss, PRDL (Wang et al., "3D face reconstruction with the geometric guidance of facial part segmentation", CVPR
2024).

A part is a set of points: pixels of a segmentation, or samples of the model's surface in the picture. From every anchor a_i of a grid, statistics
of the distances to a set (nearest, furthest, mean) describe it; the loss compares those of the model with those of the photo:

    r_{p,f,i} = f(a_i, V_p) - f(a_i, C_p)        in face sizes

Where a rendered silhouette has a gradient at its edge alone, here every anchor pulls, also where the two sets do not overlap at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fitjax.errors import FitjaxError
from fitjax.losses.core import Loss, Residuals
from fitjax.losses.part_kernel import NAMED, Statistic, check_statistics, part_statistics
from fitjax.observation.observation import Observation
from fitjax.observation.part_tables import LEFT_LOWER_LID, LEFT_UPPER_LID, PARTS, RIGHT_LOWER_LID, RIGHT_UPPER_LID
from fitjax.observation.parts import PartObservation, anchor_grid, as_anchors, target_statistics
from fitjax.prediction import Prediction

#: Default weight: statistics of distances in percent of the face size, as landmarks.
PART_WEIGHT = 1e4

#: Lids between which an eye's points are spread: the eyeball itself does not move when the lids close.
_LIDS = {"right_eye": (RIGHT_UPPER_LID, RIGHT_LOWER_LID), "left_eye": (LEFT_UPPER_LID, LEFT_LOWER_LID)}
_LID_SET = "mediapipe478"
_EYE_COLUMNS, _EYE_ROWS = 32, 16

#: An eye of which less than this share is in view counts as not seen.
_EYE_IN_VIEW = 0.25


def sample_set(part: str) -> str:
    """Name of the model's sample set of a part."""
    return f"part_{part}"


def with_part_samples(model: Any, parts: tuple[str, ...] = PARTS) -> Any:
    """The model with the sample sets that :func:`part_reprojection` reads, sliced from its library.

    Raises:
        BasisError: the model's basis has no such set.
    """
    for name in (*map(sample_set, parts), _LID_SET):
        known = name in getattr(getattr(model, "shape", model), "sample_library", {})
        if name not in model.sample_sets and (known or name != _LID_SET):
            model = model.with_samples(name)
    return model


#: FaceMesh's eye: where the 9 points of a lid lie between the corners, and how far the lids are apart there (millimetres). How much of the opening
#: each point stands for follows from these; a constant, so that the objective of an outer step is an exact function of the parameters.
_ACROSS = np.array([0.0, 0.7, 2.7, 6.4, 10.9, 14.7, 18.9, 21.1, 21.9])
_APART = np.array([0.0, 3.2, 5.7, 7.4, 8.4, 8.0, 6.0, 2.8, 0.0])


def _eye_pattern(columns: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """(columns · rows, 18) weights that spread points between the 9 points of the upper and the 9 of the lower lid, and the area that each stands
    for."""
    at = (np.arange(columns) + 0.5) * 8 / columns
    left = np.floor(at).astype(int)
    line = np.zeros((columns, 9))
    line[np.arange(columns), left], line[np.arange(columns), left + 1] = 1 - (at - left), at - left
    down = (np.arange(rows) + 0.5) / rows
    spread = np.concatenate([(1 - down)[None, :, None] * line[:, None], down[None, :, None] * line[:, None]], -1)
    area = (line @ _APART) * np.diff(_ACROSS)[left]
    return spread.reshape(-1, 18), np.repeat(area / area.sum() / rows, rows)


_EYE_POINTS, _EYE_AREA = _eye_pattern(_EYE_COLUMNS, _EYE_ROWS)


def _eye(pred: Prediction, part: str) -> tuple[Float[Array, "N 2"], Float[Array, "N"]]:
    """Points between the lids, and the share of the opening that each stands for: a closed eye is a line, not nothing."""
    upper, lower = _LIDS[part]
    lids = pred.normalise(pred.pixels[_LID_SET][jnp.asarray(upper + lower)])
    points = jnp.matmul(jnp.asarray(_EYE_POINTS, lids.dtype), lids, precision="highest")
    area = jnp.asarray(_EYE_AREA, lids.dtype)
    if pred.frozen is not None:
        area = area * (jnp.mean(pred.frozen.visible[sample_set(part)]) >= _EYE_IN_VIEW)
    return points, area


def _surface(pred: Prediction, part: str) -> tuple[Float[Array, "N 2"], Float[Array, "N"]]:
    """Samples of the surface, and the area in the picture that each stands for: samples are uniform on the surface, pixels are in the picture."""
    name = sample_set(part)
    points = pred.normalise(pred.pixels[name])
    if pred.frozen is None:
        return points, jnp.ones(points.shape[0], points.dtype)
    area = pred.frozen.visible[name]
    if pred.frozen.area is not None:
        # Never quite zero in view: a sample at the outline stands for little area, yet it is what is furthest.
        area = area * jnp.maximum(pred.frozen.area[name], 1e-6)
    return points, area


def predicted_parts(
    pred: Prediction, parts: tuple[str, ...] = PARTS
) -> dict[str, tuple[Float[Array, "N 2"], Float[Array, "N"]]]:
    """Part → its points in face sizes about the face's centre, and the area that each stands for: zero where it is not in view.

    Raises:
        FitjaxError: the model has no such sample set.
    """
    missing = [sample_set(p) for p in parts if sample_set(p) not in pred.pixels]
    if missing:
        raise FitjaxError(
            f"part_reprojection: expected sample sets {', '.join(missing)}, which this model has not sliced; use model = fj.with_part_samples(model)"
        )
    lids = _LID_SET in pred.pixels
    return {part: _eye(pred, part) if part in _LIDS and lids else _surface(pred, part) for part in parts}


def _grouped(
    found: Mapping[str, tuple[Array, Array]], anchors: Array, statistics: tuple[str | Statistic, ...]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Statistics (S, A) and presence () per part; parts with equally many points share one call, so that none is padded."""
    sizes: dict[int, list[str]] = {}
    for name, (points, _) in found.items():
        sizes.setdefault(points.shape[0], []).append(name)
    values, present = {}, {}
    for names in sizes.values():
        points, area = (jnp.stack([found[name][k] for name in names]) for k in (0, 1))
        result = part_statistics(anchors, points, area, statistics)
        for k, name in enumerate(names):
            values[name], present[name] = result[k], jnp.sum(area[k]) > 0
    return values, present


def _part_reprojection(
    pred: Prediction,
    obs: Observation,
    *,
    weights: Array,
    parts: tuple[str, ...],
    statistics: tuple[str | Statistic, ...],
    visible_sets: tuple[str, ...],
    occlusion: bool = False,
    stride: int | None = None,
    anchors: Array | None = None,
) -> Residuals:
    target: PartObservation | None = obs.parts
    if target is None:
        raise FitjaxError(
            "part_reprojection: expected an observation with parts, found none; use fj.with_parts(observation, labels, table)"
        )
    unknown = [p for p in parts if p not in target.names]
    if unknown:
        raise FitjaxError(
            f"part_reprojection: expected parts out of {', '.join(target.names)}, found {', '.join(unknown)}"
        )
    rows = np.asarray([target.names.index(p) for p in parts])
    own_anchors = anchors is None and stride in (None, target.stride)
    if own_anchors:
        anchors = target.anchors
    elif anchors is None:
        assert stride is not None
        anchors = jnp.asarray(anchor_grid(stride), target.points.dtype)
    if own_anchors and set(statistics) <= set(target.kinds):
        expected = target.statistics[rows][:, np.asarray([target.kinds.index(s) for s in statistics])]
    else:
        expected = target_statistics(anchors, target.points[rows], target.weight[rows], statistics)
    values, present = _grouped(predicted_parts(pred, parts), anchors, statistics)
    seen = jnp.stack([present[p] for p in parts]) & (jnp.sum(target.weight[rows], -1) > 0)
    difference = jnp.stack([values[p] for p in parts]) - expected
    difference = jnp.where(seen[:, None, None], difference, 0)
    weight = jnp.where(seen, weights, 0).astype(difference.dtype)
    return Residuals(difference.reshape(-1, 1), jnp.broadcast_to(weight[:, None, None], difference.shape).reshape(-1))


def part_reprojection(
    parts: tuple[str, ...] = PARTS,
    statistics: tuple[str | Statistic, ...] = NAMED,
    anchors: Any = None,
    weights: Mapping[str, float] | Any = None,
    *,
    occlusion: bool = False,
) -> Loss:
    """Distance statistics of the model's parts against those of the segmentation, in units of the face size.

    The default weight of 1e4 makes it the cost of residuals in percent of the face size: of the same meaning as that of landmarks, whatever the
        photo's
    resolution, the number of anchors and the number of points. A part that the segmentation lacks, or that is out of view, counts exactly nothing.
    The model must have its part samples sliced (:func:`fitjax.with_part_samples`), the observation its parts (:func:`fitjax.with_parts`).

    Args:
        parts: which of the eight; eyes are the opening between the lids where the model has FaceMesh's landmarks.
        statistics: names out of ``nearest``, ``furthest``, ``mean``, or functions of (distances (…, N), weights (…, N)) → (…). What the
            observation was not made with is computed anew in each step.
        anchors: None uses those of the observation, whose statistics were computed once. A stride on the grid of 224² or points (A, 2) in face
            sizes about the face's centre: others, for which the target's statistics are computed in each step unless they are the observation's.
        weights: part → relative weight, or one per part in their order; default 1. Array leaves: changing them recompiles nothing.
        occlusion: leave out samples that the head itself hides (the far eye behind the nose), that lie where the labels say that something
            is in front of the face (hair, glasses), or beyond the photo's edge; not only those that face away. Costs rasterising the
            head once per outer step.

    Raises:
        FitjaxError: an unknown part or statistic, wrong anchors or weights.
    """
    check_statistics(statistics)
    parts = tuple(parts)
    unknown = [p for p in parts if p not in PARTS]
    if unknown or not parts or len(set(parts)) < len(parts):
        raise FitjaxError(
            f"part_reprojection: expected different parts out of {', '.join(PARTS)}, found {', '.join(unknown or parts) or 'none'}"
        )
    arguments: dict[str, Any] = {"weights": jnp.asarray(_weights(weights, parts))}
    options: dict[str, Any] = {
        "parts": parts,
        "statistics": tuple(statistics),
        "visible_sets": tuple(map(sample_set, parts)),
        "occlusion": bool(occlusion),
    }
    if anchors is not None:
        where, stride = as_anchors(anchors)
        if stride:
            options["stride"] = stride
        else:
            arguments["anchors"] = jnp.asarray(where, jnp.result_type(float))
    return Loss(
        np.float32(PART_WEIGHT), arguments, None, _part_reprojection, tuple(sorted(options.items())), "residual"
    )


def _weights(weights: Any, parts: tuple[str, ...]) -> np.ndarray:
    if isinstance(weights, Mapping):
        unknown = [p for p in weights if p not in parts]
        if unknown:
            raise FitjaxError(
                f"part weights: expected some of {', '.join(parts)}, found {', '.join(map(str, unknown))}"
            )
        weights = [weights.get(p, 1.0) for p in parts]
    values = np.ones(len(parts), np.float32) if weights is None else np.asarray(weights, np.float32)
    if values.shape != (len(parts),) or not np.isfinite(values).all() or (values < 0).any():
        raise FitjaxError(
            f"part weights: expected {len(parts)} finite numbers ≥ 0, one per part, found {values.tolist()}"
        )
    return values
