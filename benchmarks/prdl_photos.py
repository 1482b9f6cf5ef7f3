"""Five photos with an independent mask of the face: its outline with and without the part loss. ``python -m benchmarks --only prdl_photos``.

The mask comes from a face parser that FaceMesh knows nothing of. It covers the face, features included, so skin is the mask without the features
that FaceMesh's contours outline. The fit sees that skin and the mask measures it: the figure says how well geometry can follow a segmentation,
not how well it predicts one. Where the mask leaves out pixels well inside the landmarks' outline, hair or a hand is in front of the face: samples
there do not count in the fit, nor pixels in the column "in view". The 68 annotated landmarks, which the fit does not see, say what that costs or
brings elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

import fitjax as fj
from benchmarks.prdl_scenes import EVERYTHING
from benchmarks.report import Report, Table, Target
from benchmarks.shared_data import Unavailable, require
from fitjax.detect import default_detector
from fitjax.errors import DetectionError
from fitjax.evaluate.nme import box_size
from fitjax.evaluate.parts import observed_labels, render_parts
from fitjax.observation.observe import as_photo, observe
from fitjax.observation.part_masks import contour_parts, hull, inside
from fitjax.observation.part_tables import INNER_LOWER_LIP, INNER_UPPER_LIP
from fitjax.pytree import replace

_TABLE = {"skin": 1, "other": 0}

#: The masks go from 0 to 15.
_HALF = 7.5

#: Pixels this far (face sizes) inside the outline of FaceMesh's landmarks that the mask leaves out are covered by something, and so are others that
#: it leaves out nearby.
_WELL_INSIDE, _NEARBY = 0.04, 0.12

#: Factors on the default weight; nearly none is the landmarks alone with as many steps.
_NONE = 1e-6
WEIGHTS = (0.1, 0.3, 1.0, 3.0)

NAMES = {0.0: "landmarks only, defaults", _NONE: "landmarks only, 30 steps more"}

#: The 68 landmarks: jaw, and the rest.
_JAW, _INNER = slice(0, 17), slice(17, 68)


@dataclass(frozen=True)
class Case:
    """A photo: what was detected with the skin added, the mask of the face and what lies below the brows over the crop, 68 annotated
    landmarks."""

    seen: fj.Observation
    mask: np.ndarray
    below: np.ndarray
    truth: np.ndarray


def cases() -> list[Case]:
    """The photos.

    Raises:
        Unavailable: photos or detector are absent, or a photo shows no face.
    """
    result = []
    try:
        with default_detector() as detector:
            for path in sorted(require("ffhq").glob("*.png")):
                seen, _ = observe(as_photo(path), detector=detector)
                with np.load(path.with_name(f"{path.stem}_skin.npz"), allow_pickle=False) as data:
                    face = data["skin"] > _HALF
                # Pupils and lips are holes in some masks and not in others.
                face = ndimage.binary_fill_holes(face).astype(np.uint8)
                points = np.asarray(seen.landmarks["mediapipe478"].points, np.float64)
                column, row = np.meshgrid(*map(np.arange, face.shape[::-1]))
                centre, size = np.asarray(seen.face_centre), float(seen.face_size)
                grid = (np.stack([column, row], -1).reshape(-1, 2) - centre) / size
                own = (points - centre) / size
                features = contour_parts(own, grid)
                hole = inside(grid, own[[*INNER_UPPER_LIP, *INNER_LOWER_LIP[-2:0:-1]]])
                for name, mask in features.items():
                    if name != "skin":
                        hole |= mask
                skin = np.where(hole.reshape(face.shape), 0, face).astype(np.uint8)
                cut = observed_labels(seen, face, _TABLE) > 0
                outline = inside(grid, hull(own[:468])).reshape(face.shape)
                covered = (ndimage.distance_transform_edt(outline) > _WELL_INSIDE * size) & (face == 0)
                if covered.any():
                    covered = (ndimage.distance_transform_edt(~covered) < _NEARBY * size) & (face == 0)
                truth = np.load(path.with_suffix(".npy"), allow_pickle=False).astype(np.float64)
                below = observed_labels(seen, np.ones_like(face), _TABLE) > 0
                result.append(Case(fj.with_parts(seen, skin, _TABLE, covered=covered), cut, below, truth))
    except DetectionError as error:
        raise Unavailable(str(error)) from None
    return result


def outline_iou(solution: fj.Solution, case: Case) -> tuple[float, float]:
    """Intersection over union of the face below the brows, percent: of all pixels, and of those where nothing covers it."""
    shown = render_parts(solution.model, solution.params, case.seen) > 0
    # The model's brows lie above the line at which mask and skin end.
    shown = ndimage.binary_fill_holes(shown) & case.below
    free = ~np.asarray(case.seen.parts.covered)  # type: ignore[union-attr]
    both, either = shown & case.mask, shown | case.mask
    return 100 * float(both.sum() / either.sum()), 100 * float((both & free).sum() / (either & free).sum())


def errors(solution: fj.Solution, case: Case) -> tuple[float, float]:
    """Mean distance of the annotated landmarks in percent of their box: jaw, to the nearest point of the fitted jaw line; the rest."""
    found, size = solution.landmarks("ibug68").astype(np.float64), float(box_size(case.truth))
    line = np.concatenate([np.linspace(a, b, 20) for a, b in zip(found[_JAW][:-1], found[_JAW][1:])])
    jaw = np.linalg.norm(case.truth[_JAW][:, None] - line, axis=-1).min(1)
    rest = np.linalg.norm(case.truth[_INNER] - found[_INNER], axis=-1)
    return 100 * float(jaw.mean()) / size, 100 * float(rest.mean()) / size


def run(quick: bool) -> Report:
    """The benchmark.

    Raises:
        Unavailable: photos or detector are absent.
    """
    report = Report("prdl_photos", "Part re-projection distance loss: five photos with an independent mask")
    photos = cases()[: 2 if quick else None]
    model = fj.with_part_samples(fj.load_basis())
    rows: list[list[Any]] = []
    start: list[fj.Solution] = []
    outlines = {}
    for weight in (0.0, _NONE, *((0.3,) if quick else WEIGHTS)):
        found = []
        for k, case in enumerate(photos):
            # Without parts landmarks are as they are by default, next to them robust.
            plain = fj.default_losses(replace(case.seen, parts=None))
            losses = plain if weight <= _NONE else fj.default_losses(case.seen)
            if not weight:
                solution = fj.fit(case.seen, model=model, losses=losses, stages=fj.default_stages(replace(case.seen, parts=None)), throw=False)
                start.append(solution)
            else:
                losses = losses | {"parts": weight * fj.part_reprojection(("skin",), occlusion=True)}
                stage = fj.Stage(
                    EVERYTHING, fj.LevenbergMarquardt(max_steps=10), name="parts", outer_steps=3, budget=True
                )
                solution = fj.fit(
                    case.seen, model=model, losses=losses, stages=[stage], start=start[k].params, throw=False
                )
            found.append((*outline_iou(solution, case), *errors(solution, case)))
        outlines[weight] = np.array(found)
        rows.append(
            [
                NAMES.get(weight, f"{weight:g}"),
                *(float(x) for x in np.mean(found, 0)),
                *(float(f[1]) for f in found),
            ]
        )
    columns = ["weight ×", "IoU %", "in view %", "jaw line %", "other landmarks %", *(f"in view, photo {k}" for k in range(len(photos)))]
    report.tables.append(Table("Outline of the face below the brows; landmarks in percent of their box", columns, rows))
    shown = 0.3 if quick else 1.0
    gain = float(outlines[shown][:, 1].mean() - max(outlines[w][:, 1].mean() for w in NAMES))
    report.targets.append(
        Target(f"IoU with an independent mask, weight × {shown:g}: higher by", 1.5, gain, "points", at_least=True)
    )
    return report
