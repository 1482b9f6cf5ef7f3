"""Parts of a face as sets of points, with the statistics of their distances from anchors: what :func:`fitjax.part_reprojection` compares with.

Points and anchors are in units of the face size about the face's centre, so neither the photo's resolution nor the face's place matters.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from scipy.spatial import cKDTree

from fitjax.errors import FitjaxError
from fitjax.losses.part_kernel import NAMED, Statistic, check_statistics, part_statistics
from fitjax.observation.crop import CROP_SIDE
from fitjax.observation.part_tables import PARTS
from fitjax.pytree import pytree, static

#: The crop around the face (``CROP_SIDE`` face sizes) counts as this many pixels, whatever the photo's resolution: the paper's 224².
GRID = 224

#: Every eighth pixel in both directions: 784 anchors, whose loss is within 0.3 % of that of all pixels.
STRIDE = 8

#: Pixels of a part beyond this number are thinned to a coarser grid before points are chosen among them.
_MOST_PIXELS = 20_000

#: Of the sides of its outermost pixels every n-th is used beyond twice this number.
_MOST_SIDES = 5_000

#: Area of a point of the border, in that of the part: it is there for what is nearest and furthest, and does not count in means.
_BORDER_AREA = 1e-6


@pytree
class PartObservation:
    """Parts that were seen, P of them, each as up to K points.

    Attributes:
        points: (P, K, 2) face sizes about the face's centre; zeros where not used.
        weight: (P, K) the area that each point stands for, in squared face sizes; zero where not used, all zero for a part that was not seen.
        anchors: (A, 2) where distances are taken from.
        statistics: (P, S, A) of those distances.
        covered: (224, 224) over the crop, true where something is in front of the face or the photo ends.
        names: the parts. kinds: the statistics, names or functions. stride: of the anchors on the grid, 0 for anchors of one's own.
    """

    points: Float[Array, "P K 2"]
    weight: Float[Array, "P K"]
    anchors: Float[Array, "A 2"]
    statistics: Float[Array, "P S A"]
    covered: Bool[Array, "224 224"]
    names: tuple[str, ...] = static(default=PARTS)
    kinds: tuple[Any, ...] = static(default=NAMED)
    stride: int = static(default=STRIDE)


def anchor_grid(stride: int = STRIDE, side: float = CROP_SIDE) -> np.ndarray:
    """(A, 2) anchors on every ``stride``-th of 224² pixels over the crop, centred, in face sizes about the face's centre.

    Stride 1 is the paper's configuration (50,176 anchors), stride 8 the practical one (784).

    Raises:
        FitjaxError: a stride that is not between 1 and 112.
    """
    if not 1 <= stride <= GRID // 2:
        raise FitjaxError(f"anchors: expected a stride from 1 to {GRID // 2} or points (A, 2), found {stride}")
    count = GRID // stride
    line = (np.arange(count) - (count - 1) / 2) * stride * side / GRID
    return np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)


def as_anchors(anchors: Any) -> tuple[np.ndarray, int]:
    """Anchors and stride, from a stride or from points (A, 2) in face sizes about the face's centre.

    Raises:
        FitjaxError: neither.
    """
    if isinstance(anchors, int | np.integer):
        return anchor_grid(int(anchors)), int(anchors)
    points = np.asarray(anchors)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points) or not np.isfinite(points).all():
        raise FitjaxError(
            f"anchors: expected a stride or finite points (A, 2) in face sizes about the face's centre, found shape {points.shape}"
        )
    return points, 0


def choose_points(points: np.ndarray, count: int, area: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """At most ``count`` of M points that each stand for an equal ``area``, and the area that each chosen one stands for.

    Farthest points first (deterministic, starting at the middle), so that the outline is kept; each point left out gives its area to the nearest
    chosen one, so that weighted means do not change with the density of either set.
    """
    if len(points) <= count:
        return points, np.full(len(points), area)
    distance = ((points - points.mean(0)) ** 2).sum(1)
    chosen = np.empty(count, int)
    chosen[0] = distance.argmin()
    distance = np.full(len(points), np.inf)
    for k in range(1, count):
        distance = np.minimum(distance, ((points - points[chosen[k - 1]]) ** 2).sum(1))
        chosen[k] = distance.argmax()
    nearest = cKDTree(points[chosen]).query(points)[1]
    return points[chosen], np.bincount(nearest, minlength=count) * area


def thin(mask: np.ndarray) -> np.ndarray:
    """(M, 2) columns and rows of a mask's pixels, of every n-th in both directions for a mask of very many."""
    step = max(1, int(np.sqrt(mask.sum() / _MOST_PIXELS)))
    row, column = np.nonzero(mask[step // 2 :: step, step // 2 :: step])
    return np.stack([column, row], -1) * step + step // 2


def outline(mask: np.ndarray) -> np.ndarray:
    """(B, 2) columns and rows of the middles of the sides that a mask's pixels share with others, of every n-th for very many.

    Pixels have an area: the part goes on for half a pixel beyond the centres of the outermost ones, and where it is as thin as a closed
    eye, that is as much as there is. The middles of sides lie on the outline also where it runs askew, the corners of pixels do not.
    """
    padded = np.pad(mask, 1)
    middles = []
    for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        row, column = np.nonzero(mask & ~np.roll(padded, (-down, -right), (0, 1))[1:-1, 1:-1])
        middles.append(np.stack([column + 0.5 * right, row + 0.5 * down], -1))
    found = np.concatenate(middles)
    return found[:: max(1, len(found) // _MOST_SIDES)]


def make_parts(
    clouds: dict[str, np.ndarray],
    *,
    outlines: dict[str, np.ndarray] | None = None,
    covered: np.ndarray | None = None,
    areas: dict[str, np.ndarray] | None = None,
    anchors: Any = STRIDE,
    statistics: tuple[str | Statistic, ...] = NAMED,
    points: int = 1024,
    names: tuple[str, ...] = PARTS,
    dtype: Any = np.float32,
) -> PartObservation:
    """Parts from point sets.

    Args:
        clouds: part → (M, 2) in face sizes about the face's centre; a part that is absent, or has no points, was not seen.
        outlines: part → (B, 2) points of its border, which have no area of their own. covered: (224, 224) over the crop; default nothing.
        areas: part → (M,) what each point stands for; default equal. A part with areas of its own is not thinned.
        anchors: stride on the grid of 224², or points (A, 2) in face sizes.
        statistics: as for :func:`fitjax.losses.part_kernel.part_statistics`; computed here, once.
        points: the most points that a part may have; those of larger sets are chosen by :func:`choose_points`.

    Raises:
        FitjaxError: a part that is unknown, not finite or of the wrong shape; more points with areas than ``points``; wrong anchors or statistics.
    """
    check_statistics(statistics)
    where, stride = as_anchors(anchors)
    place, weight = np.zeros((len(names), points, 2), dtype), np.zeros((len(names), points), dtype)
    for name, cloud in clouds.items():
        cloud = np.asarray(cloud, np.float64)
        given = None if areas is None or name not in areas else np.asarray(areas[name], np.float64)
        if name not in names:
            raise FitjaxError(f"parts: expected some of {', '.join(names)}, found {name!r}")
        if cloud.ndim != 2 or cloud.shape[1] != 2 or not np.isfinite(cloud).all():
            raise FitjaxError(
                f"part {name!r}: expected finite points (M, 2) in face sizes, found shape {cloud.shape}; correct or leave it out"
            )
        if given is not None and (given.shape != cloud.shape[:1] or not (given >= 0).all() or len(cloud) > points):
            raise FitjaxError(
                f"part {name!r}: expected at most {points} points with an area ≥ 0 each, found {len(cloud)} and {given.shape}"
            )
        chosen, area = _chosen(cloud, (outlines or {}).get(name), points) if given is None else (cloud, given)
        place[names.index(name), : len(chosen)], weight[names.index(name), : len(chosen)] = chosen, area
    a, p, w = (jnp.asarray(x, dtype) for x in (where, place, weight))
    hidden = jnp.zeros((GRID, GRID), bool) if covered is None else jnp.asarray(covered, bool)
    return PartObservation(p, w, a, target_statistics(a, p, w, statistics), hidden, names, statistics, stride)


def _chosen(cloud: np.ndarray, border: np.ndarray | None, count: int) -> tuple[np.ndarray, np.ndarray]:
    """At most ``count`` points of a part and their areas: a quarter of them on its border, which has none, the others stand for the whole area."""
    share = 1 / max(len(cloud), 1)
    if border is None or not len(cloud):
        return choose_points(cloud, count, share)
    border, _ = choose_points(border, max(1, min(len(border), count // 4)))
    inside, area = choose_points(cloud, max(1, count - len(border)), share)
    chosen = np.concatenate([inside, border])[:count]
    return chosen, np.concatenate([area, np.full(len(border), _BORDER_AREA)])[:count]


def target_statistics(
    anchors: Array, points: Array, weight: Array, statistics: tuple[str | Statistic, ...]
) -> Float[Array, "P S A"]:
    """Statistics of target points, compiled once per shape."""
    return _statistics(anchors, points, weight, statistics)


_statistics = jax.jit(part_statistics, static_argnums=3)
