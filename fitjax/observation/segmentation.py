"""From a segmentation of a photo to observed parts: label maps of any face parser, or FaceMesh's contours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from scipy import ndimage

from fitjax.errors import FitjaxError
from fitjax.image.photo import Photo
from fitjax.losses.part_kernel import NAMED, Statistic
from fitjax.observation.observation import Observation
from fitjax.observation.part_masks import below_brows, brow_line, contour_parts, eye_centres
from fitjax.observation.part_tables import PAIRS, LabelTable, as_table
from fitjax.observation.parts import GRID, STRIDE, anchor_grid, make_parts, outline, thin
from fitjax.pytree import replace

Table = LabelTable | str | Mapping[str, Any]

#: A face parser: photo → label map (H, W) that covers the photo (at any resolution), and its table.
Parser = Callable[[Photo], tuple[np.ndarray, Table]]

Sides = Literal["landmarks", "labels"]

#: A patch of a pair with this share of its pixels on one side belongs there whole.
_MOSTLY = 0.75


def with_parts(
    observation: Observation,
    labels: Any = None,
    table: Table | None = None,
    *,
    image_size: tuple[int, int] | None = None,
    image_from_labels: Any = None,
    sides: Sides = "landmarks",
    anchors: Any = STRIDE,
    statistics: tuple[str | Statistic, ...] = NAMED,
    points: int = 1024,
    covered: Any = None,
) -> Observation:
    """The observation with facial parts, for :func:`fitjax.part_reprojection`.

    Args:
        labels: (H, W) integers, one label per pixel; None: masks from the contours of the observed FaceMesh landmarks, a fallback that adds
            nothing to them.
        table: which label is which part: ``"celebamask-hq"``, ``"lapa"``, ``"bisenet-19"``, ``"fitjax"`` or ``{part: label or labels, "other":
            labels}``.
        image_size: (width, height) of the photo in pixels, where the map covers the photo at another resolution.
        image_from_labels: (2, 3) map from (column, row) of the label map to pixels of the photo, where it covers a crop. Default: the same pixels.
        sides: ``"landmarks"``: of the parts that come in pairs, a patch belongs to the subject's side whose eye is nearer, whatever its label
            says, because parsers mix their left and right labels; ``"labels"``: the table decides.
        anchors: stride on the 224² pixels of the crop (8: 784 anchors, 1: the paper's), or points (A, 2) in face sizes about the face's centre.
        statistics: names or functions of (distances, weights); what they give for these parts is computed here, once.
        points: the most points per part.
        covered: (H, W) as the map, true where something is in front of the face, besides the labels that the table says are
            (``{..., "covers": (17, 18)}``). What the model has there, or beyond the edge of the map, does not count where
            :func:`fitjax.part_reprojection` minds occlusion.

    Raises:
        FitjaxError: wrong shapes, no or a wrong table, labels that the table does not know, a map without any part, or no landmarks to make
            contours from.
    """
    if sides not in ("landmarks", "labels"):
        raise FitjaxError(f"sides: expected 'landmarks' or 'labels', found {sides!r}")
    centre, size = np.asarray(observation.face_centre, np.float64), float(observation.face_size)
    seen = observed_points(observation)
    if labels is None:
        if "mediapipe478" not in seen or not np.isfinite(seen["mediapipe478"][:468]).all():
            raise FitjaxError(
                f"parts: contours need all points of the landmark set 'mediapipe478', found {', '.join(seen) or 'none'}; "
                "give a label map and its table"
            )
        grid = anchor_grid(1)
        masks = contour_parts((seen["mediapipe478"] - centre) / size, grid)
        clouds = {name: grid[mask] for name, mask in masks.items()}
        borders, hidden = None, None
    else:
        placement, known = label_placement(labels, image_size, image_from_labels), as_table(table)
        masks = label_masks(labels, known, placement, seen, sides)
        hidden = _over_crop(_covered(labels, known, covered), placement, centre, size)
        clouds = {name: (_points_of(mask, placement) - centre) / size for name, mask in masks.items()}
        sides_of = {name: outline(mask) for name, mask in masks.items()}
        borders = {name: (_place(at[:, 0], at[:, 1], placement) - centre) / size for name, at in sides_of.items()}
    if not any(len(cloud) for cloud in clouds.values()):
        raise FitjaxError(
            "label map: expected at least one pixel of a part, found none; check the map and its table, or leave parts out for this photo"
        )
    dtype = observation.camera.focal.dtype
    return replace(
        observation, parts=make_parts(clouds, outlines=borders, covered=hidden, anchors=anchors, statistics=statistics, points=points, dtype=dtype)
    )


def _covered(labels: Any, table: LabelTable, covered: Any) -> np.ndarray:
    """(H, W) whether something is in front of the face."""
    result = np.isin(labels, table.covers)
    if covered is None:
        return result
    if np.shape(covered) != result.shape:
        raise FitjaxError(f"covered: expected a mask of the label map's shape {result.shape}, found {np.shape(covered)}")
    return result | (np.asarray(covered) != 0)


def _over_crop(mask: np.ndarray, placement: np.ndarray, centre: np.ndarray, size: float) -> np.ndarray:
    """(224, 224) the mask at the pixels of the crop, true beyond the mask's edges."""
    photo = anchor_grid(1) * size + centre
    column, row = np.rint((photo - placement[:, 2]) @ np.linalg.inv(placement[:, :2]).T).astype(int).T
    within = (column >= 0) & (column < mask.shape[1]) & (row >= 0) & (row < mask.shape[0])
    found = np.ones(len(photo), bool)
    found[within] = mask[row[within], column[within]]
    return found.reshape(GRID, GRID)


def observe_parts(observation: Observation, photo: Photo, parser: Parser, **options: Any) -> Observation:
    """:func:`with_parts` with what ``parser`` makes of the photo. The parser sees the whole photo; its map may be of any resolution.

    Raises:
        FitjaxError: the parser returns something else than a label map and its table, or as :func:`with_parts`.
    """
    result = parser(photo)
    if not (isinstance(result, tuple) and len(result) == 2):
        raise FitjaxError(f"face parser: expected (label map, table), found {type(result).__name__}; see docs/parts.md")
    return with_parts(observation, result[0], result[1], image_size=(photo.width, photo.height), **options)


def observed_points(observation: Observation) -> dict[str, np.ndarray]:
    """Set → (N, 2) pixels, NaN where not observed."""
    return {
        name: np.where(np.asarray(one.valid)[:, None], np.asarray(one.points, np.float64), np.nan)
        for name, one in observation.landmarks.items()
    }


def label_placement(labels: Any, image_size: tuple[int, int] | None, image_from_labels: Any) -> np.ndarray:
    """(2, 3) from (column, row) to pixels of the photo."""
    if image_from_labels is not None:
        placement = np.asarray(image_from_labels, np.float64)
        if placement.shape != (2, 3) or not np.isfinite(placement).all():
            raise FitjaxError(f"image_from_labels: expected a finite (2, 3) map, found shape {placement.shape}")
        return placement
    if image_size is None or np.ndim(labels) != 2:
        return np.eye(2, 3)
    scale = np.asarray(image_size, np.float64) / np.shape(labels)[::-1]
    # Both cover the photo edge to edge; centres of pixels lie half a pixel further in.
    return np.concatenate([np.diag(scale), (0.5 * scale - 0.5)[:, None]], 1)


def label_masks(
    labels: Any, table: LabelTable, placement: np.ndarray, seen: dict[str, np.ndarray], sides: Sides
) -> dict[str, np.ndarray]:
    """Part → (H, W) mask of a label map: sides told apart, the forehead left out.

    Args:
        placement: (2, 3) from (column, row) of the map to pixels of the photo. seen: landmark set → (N, 2) pixels, NaN where not observed.

    Raises:
        FitjaxError: no integers (H, W), or labels that the table does not know.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or not labels.size or not np.issubdtype(labels.dtype, np.integer):
        raise FitjaxError(
            f"label map: expected integers (H, W), found {labels.dtype} {labels.shape}; for scores take their argmax over classes"
        )
    if table.other is not None:
        known = {label for values in table.parts.values() for label in values} | set(table.other)
        unknown = sorted(set(np.unique(labels).tolist()) - known)
        if unknown:
            raise FitjaxError(
                f"label map: found labels {unknown} that table {table.name!r} does not know; name what they are, or list them under 'other'"
            )
    masks = {name: np.isin(labels, values) for name, values in table.parts.items()}
    centres = eye_centres(seen)
    for pair in PAIRS:
        if any(name in masks for name in pair):
            both = [masks.get(name, np.zeros(labels.shape, bool)) for name in pair]
            masks.update(zip(pair, _split(both[0], both[1], pair, placement, centres, sides)))
    if "skin" in masks:
        line = brow_line(seen) or _line_of_brows({name: _points_of(mask, placement) for name, mask in masks.items()})
        row, column = np.nonzero(masks["skin"])
        if line is None:
            # Nobody knows where the forehead starts: no skin is better than skin that the model's part does not have.
            masks["skin"] = np.zeros_like(masks["skin"])
        else:
            masks["skin"][row, column] = below_brows(_place(column, row, placement), *line)
    return masks


def _place(column: np.ndarray, row: np.ndarray, placement: np.ndarray) -> np.ndarray:
    return np.stack([column, row], -1) @ placement[:, :2].T + placement[:, 2]


def _points_of(mask: np.ndarray, placement: np.ndarray) -> np.ndarray:
    """(M, 2) pixels of the photo where a mask holds, thinned evenly where they are very many."""
    column, row = thin(mask).T
    return _place(column, row, placement)


def _split(
    right: np.ndarray,
    left: np.ndarray,
    pair: tuple[str, str],
    placement: np.ndarray,
    centres: np.ndarray | None,
    sides: Sides,
) -> tuple[np.ndarray, np.ndarray]:
    """The pair's masks with each patch on its side of the face."""
    if sides == "labels" or centres is None:
        if (right & left).any():
            raise FitjaxError(
                f"label table: {pair[0]} and {pair[1]} have the same label, and sides are told apart by landmarks of the eyes, which this "
                "observation or the option sides='labels' does not use; give a label for each side"
            )
        return right, left
    both = right | left
    patches, count = ndimage.label(both, np.ones((3, 3)))
    row, column = np.nonzero(both)
    place = _place(column, row, placement)
    on_right = ((place - centres[0]) ** 2).sum(1) < ((place - centres[1]) ** 2).sum(1)
    patch = patches[row, column]
    share = np.bincount(patch, on_right, count + 1) / np.maximum(np.bincount(patch, minlength=count + 1), 1)
    # Brows that touch are one patch: its pixels are told apart one by one.
    goes_right = np.where(share[patch] >= _MOSTLY, True, np.where(share[patch] <= 1 - _MOSTLY, False, on_right))
    result = np.zeros((2, *both.shape), bool)
    result[0, row, column], result[1, row, column] = goes_right, ~goes_right
    return result[0], result[1]


def _line_of_brows(clouds: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """As :func:`brow_line`, from the brows' own pixels; the face's downward direction from the other parts."""
    brows = [clouds.get(name, np.zeros((0, 2))) for name in ("right_brow", "left_brow")]
    lower = [
        clouds[name] for name in ("nose", "upper_lip", "lower_lip", "skin") if name in clouds and len(clouds[name])
    ]
    if not all(len(b) for b in brows) or not lower:
        return None
    down = np.concatenate(lower).mean(0) - np.concatenate(brows).mean(0)
    across = brows[1].mean(0) - brows[0].mean(0)
    ends = [brow[(brow @ across).argsort()[[0, -1]]] for brow in brows]
    return np.concatenate(ends), down
