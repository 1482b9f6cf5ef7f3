"""Finding faces that a short-range detector misses on the whole photo: too small, too large, or lying sideways.

The detector sees any image shrunk to 128 x 128 pixels. Only when the whole photo shows nothing are other views tried:
padded, turned by quarter turns, and ever smaller tiles. Faces found in a shrunk view are measured again on a cut-out,
and doubtful or strongly tilted ones are measured on turned cut-outs (an upside-down face is "found" with its mouth as
eyes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ..image.photo import MIN_SIDE, downscale_for_detection
from .pixels import CROP_OVER_FACE, CROP_PIXELS, face_roll, make_face
from .protocol import DetectedFace

__all__ = ["View", "search_faces"]

Run = Callable[[np.ndarray], list[DetectedFace]]

# The smallest useful tile, in pixels: a face filling a third of it is at the limit of what the landmark network can
# use.
MIN_TILE = 96
MAX_TILES = 800
# The detector sees 128 pixels; a tile that shows a face is measured again at full resolution.
TILE_LONGEST = 384
# Boxes overlapping by more (intersection over union) are the same face.
SAME_FACE = 0.3
# A face below this score, or tilted by more, is also looked at in quarter turns; a turn must win by the margin.
# On 16 photos: upright 0.80 to 0.97, the same upside down nothing (5) or 0.63 to 0.81.
SURE_SCORE = 0.82
SURE_ROLL = np.deg2rad(50.0)
TURN_MARGIN = 0.08


@dataclass(frozen=True)
class View:
    """A square or rectangular part of the image, possibly beyond its edges (grey there), turned by quarter turns.

    Attributes:
        x0, y0: pixel column and row of the part's top-left corner; may be negative.
        width, height: of the part in pixels.
        turns: anticlockwise quarter turns applied to the part.
    """

    x0: int
    y0: int
    width: int
    height: int
    turns: int = 0

    def cut(self, rgb: np.ndarray) -> np.ndarray:
        """The part of an (H, W, 3) image, grey outside, turned."""
        h, w = rgb.shape[:2]
        x0, y0, x1, y1 = self.x0, self.y0, self.x0 + self.width, self.y0 + self.height
        inside = rgb[max(y0, 0) : min(y1, h), max(x0, 0) : min(x1, w)]
        if inside.shape[:2] != (self.height, self.width):
            part = np.full((self.height, self.width, 3), 128, np.uint8)
            part[max(-y0, 0) : max(-y0, 0) + inside.shape[0], max(-x0, 0) : max(-x0, 0) + inside.shape[1]] = inside
            inside = part
        return np.rot90(inside, self.turns)

    def to_image(self, points: np.ndarray, scale: float) -> np.ndarray:
        """(N, 2) points of the turned and then scaled part, as points of the image; pixel centres at whole numbers."""
        x, y = ((points + 0.5) / scale - 0.5).T
        w, h = self.width, self.height
        if self.turns % 4 == 1:
            x, y = w - 1 - y, x
        elif self.turns % 4 == 2:
            x, y = w - 1 - x, h - 1 - y
        elif self.turns % 4 == 3:
            x, y = y, h - 1 - x
        return np.stack([x + self.x0, y + self.y0], axis=1)


def _look(run: Run, rgb: np.ndarray, view: View, longest: int) -> list[tuple[DetectedFace, float]]:
    """Faces of one view, in the frame of ``rgb``, each with the scale at which it was seen."""
    part, scale = downscale_for_detection(view.cut(rgb), longest)
    found = []
    for face in run(np.ascontiguousarray(part)):
        depth = None if face.depth is None else face.depth / scale
        points = view.to_image(face.landmarks, scale)
        found.append((make_face(points, np.zeros(len(points)) if depth is None else depth, face.score), scale))
    return found


def overlap(a: DetectedFace, b: DetectedFace) -> float:
    """Intersection over union of two boxes."""
    wide = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])
    high = min(a.box[3], b.box[3]) - max(a.box[1], b.box[1])
    if wide <= 0 or high <= 0:
        return 0.0
    return wide * high / (a.area + b.area - wide * high)


def _unique(found: list[tuple[DetectedFace, int]]) -> list[tuple[DetectedFace, int]]:
    """One entry per face, the best score first."""
    kept: list[tuple[DetectedFace, int]] = []
    for item in sorted(found, key=lambda f: -np.nan_to_num(f[0].score)):
        if all(overlap(item[0], other[0]) < SAME_FACE for other in kept):
            kept.append(item)
    return kept


def _tiles(width: int, height: int, size: int) -> list[View]:
    """Square tiles of this size, half overlapping, covering the image."""

    def starts(length: int) -> list[int]:
        if length <= size:
            return [(length - size) // 2]
        count = int(np.ceil((length - size) / (size / 2))) + 1
        return [round(v) for v in np.linspace(0, length - size, count)]

    return [View(x, y, size, size) for y in starts(height) for x in starts(width)]


def _retry_groups(rgb: np.ndarray) -> Iterator[tuple[np.ndarray, float, list[View]]]:
    """(Shrunk image, its scale, views of it) to try in turn until one group shows a face."""
    height, width = rgb.shape[:2]
    small, scale = downscale_for_detection(rgb, TILE_LONGEST)
    h, w = small.shape[:2]
    yield small, scale, [View(-(w // 2), -(h // 2), w + 2 * (w // 2), h + 2 * (h // 2))]
    yield small, scale, [View(0, 0, w, h, turns) for turns in (1, 3, 2)]
    size = min(max(width, height) // 2, min(width, height))
    while size >= MIN_TILE:
        small, scale = downscale_for_detection(
            rgb, max(MIN_SIDE, round(max(width, height) * min(1.0, TILE_LONGEST / size)))
        )
        tiles = _tiles(small.shape[1], small.shape[0], round(size * scale))
        if len(tiles) > MAX_TILES:
            return
        yield small, scale, tiles
        size = size // 2


def _measure_again(run: Run, rgb: np.ndarray, face: DetectedFace, turns: int, longest: int) -> DetectedFace | None:
    """The same face measured on a cut-out of 3 times its size around it, where no resolution is lost."""
    centre_x, centre_y = (face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2
    side = max(MIN_SIDE, round(3.0 * max(face.box[2] - face.box[0], face.box[3] - face.box[1])))
    view = View(round(centre_x - side / 2), round(centre_y - side / 2), side, side, turns)
    again = [f for f, _ in _look(run, rgb, view, longest)]
    best = max(again, key=lambda f: overlap(f, face), default=None)
    return best if best is not None and overlap(best, face) >= SAME_FACE else None


def tilt(face: DetectedFace, turns: int) -> float:
    """How far the face is from upright in a view with these turns, radians in [0, pi]."""
    roll = face_roll(face.landmarks) - turns * np.pi / 2
    return abs(float(np.angle(np.exp(1j * roll))))


def _merit(face: DetectedFace, turns: int) -> float:
    """The score; for a detector without scores, how upright the face is in the view."""
    return face.score if np.isfinite(face.score) else float(np.cos(tilt(face, turns)))


def _turned_right(run: Run, rgb: np.ndarray, face: DetectedFace, turns: int, longest: int) -> DetectedFace:
    """The face, or a clearly better measurement of it on a cut-out, with any quarter turns."""
    if not (turns or face.score < SURE_SCORE or tilt(face, turns) > SURE_ROLL):
        return face
    best, best_merit = face, _merit(face, turns) + TURN_MARGIN
    for other in range(4):
        again = _measure_again(run, rgb, face, other, longest)
        if again is not None and tilt(again, other) < SURE_ROLL and _merit(again, other) > best_merit:
            best, best_merit = again, _merit(again, other)
    return best


def _confirmed(
    run: Run, rgb: np.ndarray, small: np.ndarray, scale: float, views: list[View], longest: int
) -> list[DetectedFace]:
    """Faces of a group of views that show again on a cut-out of their own; what does not is a false alarm."""
    seen = []
    for view in views:
        for face, _ in _look(run, small, view, longest):
            points = (face.landmarks + 0.5) / scale - 0.5
            depth = np.zeros(len(points))  # measured again below
            seen.append((make_face(points, depth, face.score), view.turns))
    faces = []
    for face, turns in _unique(seen):
        again = _measure_again(run, rgb, face, turns, longest)
        # Sideways faces are rare, so cups and the like must not count as one.
        if again is not None and not (turns and again.score < SURE_SCORE):
            faces.append(_turned_right(run, rgb, again, turns, longest))
    return faces


def search_faces(
    run: Run, rgb: np.ndarray, *, longest: int = 1280, retry: bool = True, thorough: bool = False
) -> list[DetectedFace]:
    """All faces that ``run`` finds in an image, largest first.

    Args:
        run: finds the faces of one image, as ``Detector.detect`` does, without any of the retries here.
        rgb: (H, W, 3) uint8.
        longest: views are shrunk to this many pixels on the longer side.
        retry: look at other views when the whole image shows no face, and turned ones for doubtful faces.
        thorough: look at all tiles even when faces were found, for groups with large and small faces.
    """
    height, width = rgb.shape[:2]
    faces = []
    for face, scale in _look(run, rgb, View(0, 0, width, height), longest):
        crop = CROP_OVER_FACE * max(face.box[2] - face.box[0], face.box[3] - face.box[1])
        if scale < 1.0 and crop * scale < CROP_PIXELS:
            face = _measure_again(run, rgb, face, 0, longest) or face
        faces.append(_turned_right(run, rgb, face, 0, longest) if retry else face)
    if thorough or (retry and not faces):
        for small, scale, views in _retry_groups(rgb):
            if faces and views[0].turns:
                continue
            # The first measurements stay first: of two of the same face with equal scores, the earlier is kept.
            faces = faces + _confirmed(run, rgb, small, scale, views, longest)
            if faces and not thorough:
                break
    return sorted((face for face, _ in _unique([(face, 0) for face in faces])), key=lambda f: -f.area)
