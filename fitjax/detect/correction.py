"""Take out of FaceMesh's points what it gets wrong in the same way every time: turned heads.

A ridge regression, learned on renders of the embedded model (`basis/correction.py`, docs/correction.md), predicts true minus detected position of
all 478 points from the detected points themselves. Everything happens in a frame of the face's own: origin, size and in-plane roll come from a
similarity fit of a mean face to the detected points and depths. Features and outputs are split into parts that are even and odd under mirroring,
so a mirrored face gets exactly the mirrored correction. Far from the training data the correction fades out. Pure NumPy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from ..errors import BasisError, LandmarkError
from ..model.tensor_file import check_record, read_tensor_file
from .protocol import DetectedFace

__all__ = ["Correction", "Frame", "Halves", "correct", "load_correction"]

FORMAT = "fitjax-correction/1"
EMBEDDED = Path(__file__).parent.parent / "data" / "facemesh_correction.safetensors"
POINTS = 478
SET_NAME = "mediapipe478"
_MIRROR = np.array([-1.0, 1.0, 1.0])
#: Units of yaw and pitch in the polynomials, and the most that they count, radians.
_YAW_UNIT, _PITCH_UNIT = math.radians(45), math.radians(30)
_YAW_LIMIT, _PITCH_LIMIT = math.radians(85), math.radians(50)
#: Standardised scores count up to here.
_SCORE_LIMIT = 4.0
#: Over the 99th percentile of the training faces: where the correction starts to fade, and where it is gone.
FADE = (1.25, 2.0)


@dataclass(frozen=True)
class Halves:
    """The split of (478, 3) vectors into parts that are even and odd under mirroring.

    Attributes:
        right, left: (P,) indices of mirrored pairs. middle: (Q,) points that are their own mirror image.
    """

    right: np.ndarray
    left: np.ndarray
    middle: np.ndarray

    @classmethod
    def of(cls, mirror: np.ndarray) -> Halves:
        """From the index of each point's mirror image."""
        index = np.arange(len(mirror))
        right = index[index < mirror]
        return cls(right, mirror[right], index[index == mirror])

    def split(self, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(…, 478, 3) → even (…, 3P + 2Q), odd (…, 3P + Q); lengths are kept."""
        a, b = value[..., self.right, :], value[..., self.left, :] * _MIRROR
        middle = value[..., self.middle, :]
        flat = value.shape[:-2]
        even = [((a + b) * math.sqrt(0.5)).reshape(*flat, -1), middle[..., 1:].reshape(*flat, -1)]
        odd = [((a - b) * math.sqrt(0.5)).reshape(*flat, -1), middle[..., 0].reshape(*flat, -1)]
        return np.concatenate(even, -1), np.concatenate(odd, -1)

    def join(self, even: np.ndarray, odd: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`split`."""
        pairs, n, flat = len(self.right), 3 * len(self.right), even.shape[:-1]
        value = np.empty((*flat, 2 * pairs + len(self.middle), 3))
        e, o = even[..., :n].reshape(*flat, pairs, 3), odd[..., :n].reshape(*flat, pairs, 3)
        value[..., self.right, :] = (e + o) * math.sqrt(0.5)
        value[..., self.left, :] = (e - o) * math.sqrt(0.5) * _MIRROR
        value[..., self.middle, 1:] = even[..., n:].reshape(*flat, -1, 2)
        value[..., self.middle, 0] = odd[..., n:]
        return value


@dataclass(frozen=True)
class Frame:
    """The frame of a face: pixels = centre + scale · Rz(roll) · own; depth in the same unit about its own mean.

    Attributes:
        centre: (3,) pixels and depth. scale: pixels per unit. turn: (3, 3) the in-plane rotation. yaw, pitch: radians.
    """

    centre: np.ndarray
    scale: float
    turn: np.ndarray
    yaw: float
    pitch: float

    @property
    def angle(self) -> float:
        """Between the face's axis and the camera's, degrees."""
        return math.degrees(math.acos(min(max(math.cos(self.yaw) * math.cos(self.pitch), -1.0), 1.0)))

    @classmethod
    def of(cls, points: np.ndarray, template: np.ndarray) -> Frame:
        """By a similarity fit (Umeyama, PAMI 1991) of the centred ``template`` (478, 3), y up, to detected ``points`` (478, 3)."""
        centre = points.mean(0)
        u, size, vt = np.linalg.svd((points - centre).T @ template)
        sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
        rotation = (u * sign) @ vt
        scale = float((size * sign).sum() / (template**2).sum())
        up = rotation[:, 1]
        roll = math.atan2(up[0], -up[1])
        c, s = math.cos(roll), math.sin(roll)
        turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        nose = turn.T @ rotation[:, 2]
        return cls(centre, scale, turn, math.atan2(nose[0], -nose[2]), math.asin(min(max(-float(nose[1]), -1.0), 1.0)))

    def own(self, points: np.ndarray) -> np.ndarray:
        """(478, 3) pixels and depth in this frame."""
        return (points - self.centre) @ self.turn / self.scale

    def pixels(self, vectors: np.ndarray) -> np.ndarray:
        """Displacements (478, 3) of this frame in pixels."""
        return self.scale * vectors @ self.turn.T


def smooth_step(value: float, low: float, high: float) -> float:
    """0 up to ``low``, 1 from ``high`` on, smooth between."""
    t = min(max((value - low) / max(high - low, 1e-9), 0.0), 1.0)
    return t * t * (3 - 2 * t)


def pose_terms(yaw: np.ndarray, pitch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Polynomials in pose (…,) that are even and odd in yaw: (…, 9), (…, 6)."""
    y = np.clip(yaw, -_YAW_LIMIT, _YAW_LIMIT) / _YAW_UNIT
    p = np.clip(pitch, -_PITCH_LIMIT, _PITCH_LIMIT) / _PITCH_UNIT
    a = np.abs(y)
    even = np.stack([p, p**2, p**3, a, a**2, a**3, a * p, a**2 * p, a * p**2], -1)
    odd = np.stack([y, y * a, y**3, y * p, y * a * p, y * p**2], -1)
    return even, odd


def features(even: np.ndarray, odd: np.ndarray, yaw: np.ndarray, pitch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From standardised scores (…, Ke), (…, Ko) and pose (…,): features that are even and odd under mirroring."""
    y = (np.clip(yaw, -_YAW_LIMIT, _YAW_LIMIT) / _YAW_UNIT)[..., None]
    a = np.abs(y)
    e, o = np.clip(even, -_SCORE_LIMIT, _SCORE_LIMIT), np.clip(odd, -_SCORE_LIMIT, _SCORE_LIMIT)
    pe, po = pose_terms(yaw, pitch)
    return np.concatenate([pe, e, a * e, y * o], -1), np.concatenate([po, o, a * o, y * e], -1)


@dataclass(frozen=True, eq=False)
class Correction:
    """The regression; all arrays float32 unless said.

    Attributes:
        mirror: (478,) index of each point's mirror image. template: (478, 3) mean face, centred, metres, y up, float64.
        mean: even half of the mean detected shape.
        even, odd: principal components of the detected shape's halves, divided by their standard deviations.
        even_centre: mean of the even features. even_weights, odd_weights: features → halves of the correction. intercept: even half.
        even_back, odd_back: components times their standard deviations, to measure what they leave out.
        limits: 99th percentiles over the training faces: root mean square of the scores, and of what the components leave out.
        gate: degrees between the face's axis and the camera's: up to the first nothing moves, from the second on everything does.
        sha256: of the file.
    """

    mirror: np.ndarray
    template: np.ndarray
    mean: np.ndarray
    even: np.ndarray
    odd: np.ndarray
    even_centre: np.ndarray
    even_weights: np.ndarray
    odd_weights: np.ndarray
    intercept: np.ndarray
    even_back: np.ndarray
    odd_back: np.ndarray
    limits: tuple[float, float]
    gate: tuple[float, float]
    sha256: str = ""

    def distance(self, even: np.ndarray, odd: np.ndarray, rest: tuple[np.ndarray, np.ndarray]) -> float:
        """How far a face lies from the training faces; about 1 at their edge."""
        spread = math.sqrt((even @ even + odd @ odd) / (len(even) + len(odd)))
        left = math.sqrt((rest[0] @ rest[0] + rest[1] @ rest[1]) / POINTS)
        return max(spread / self.limits[0], left / self.limits[1])

    def predict(self, points: np.ndarray, halves: Halves | None = None) -> tuple[np.ndarray, float]:
        """Displacements (478, 3) in pixels for detected points and depths (478, 3), and how far they lie from the training faces."""
        halves = Halves.of(self.mirror) if halves is None else halves
        frame = Frame.of(points, self.template)
        even, odd = (x.astype(np.float32) for x in halves.split(frame.own(points)))
        even = even - self.mean
        e, o = self.even @ even, self.odd @ odd
        far = self.distance(e, o, (even - e @ self.even_back, odd - o @ self.odd_back))
        fe, fo = features(e, o, np.asarray(frame.yaw), np.asarray(frame.pitch))
        fade = min(max((FADE[1] - far) / (FADE[1] - FADE[0]), 0.0), 1.0)
        moved = halves.join((fe - self.even_centre) @ self.even_weights + self.intercept, fo @ self.odd_weights)
        return frame.pixels(fade * smooth_step(frame.angle, *self.gate) * moved), far


@cache
def load_correction(path: str | Path = EMBEDDED) -> Correction:
    """The correction that comes with fitjax, or one of the same format.

    Raises:
        BasisError: no such file, a damaged file, one whose hash differs from the record beside it, another format or shape.
    """
    path = Path(path)
    if not path.is_file():
        raise BasisError(f"correction {path}: no such file; reinstall fitjax or run basis/correction.py")
    tensors, _, sha256 = read_tensor_file(path, "correction", FORMAT, remedy="reinstall fitjax")
    check_record(path, "correction", sha256, "reinstall fitjax")
    try:
        return _checked(tensors, sha256)
    except KeyError as error:
        raise BasisError(f"correction {path}: field {error} is missing; run basis/correction.py again") from None
    except BasisError as error:
        raise BasisError(f"correction {path}: {error}") from None


def _checked(tensors: dict[str, np.ndarray], sha256: str) -> Correction:
    def field(name: str, shape: tuple[int, ...]) -> np.ndarray:
        value = tensors[name]
        if value.shape != shape:
            raise BasisError(f"field {name!r}: expected shape {shape}, found {value.shape}")
        if not np.isfinite(value).all():
            raise BasisError(f"field {name!r}: holds values that are not finite")
        return value.astype(np.float32)

    mirror = tensors["mirror"].astype(np.intp)
    index = np.arange(POINTS)
    if mirror.shape != (POINTS,) or not ((mirror >= 0) & (mirror < POINTS)).all() or (mirror[mirror] != index).any():
        raise BasisError("field 'mirror': expected 478 indices that are their own inverse")
    pairs, middle = int((index < mirror).sum()), int((index == mirror).sum())
    n_even, n_odd = 3 * pairs + 2 * middle, 3 * pairs + middle
    ke, ko = len(tensors["even"]), len(tensors["odd"])
    fe, fo = (x.shape[-1] for x in features(np.zeros(ke), np.zeros(ko), np.zeros(()), np.zeros(())))
    even, odd = field("even", (ke, n_even)), field("odd", (ko, n_odd))
    se, so = field("even_sigma", (ke, 1)), field("odd_sigma", (ko, 1))
    limits, gate = field("limits", (2,)), field("gate", (2,))
    if not ((se > 0).all() and (so > 0).all() and (limits > 0).all()):
        raise BasisError("fields 'even_sigma', 'odd_sigma', 'limits': expected positive numbers")
    return Correction(
        mirror=mirror,
        template=field("template", (POINTS, 3)).astype(np.float64),
        mean=field("mean", (n_even,)),
        even=even / se,
        odd=odd / so,
        even_centre=field("even_centre", (fe,)),
        even_weights=field("even_weights", (fe, n_even)) * field("even_weights_scale", (fe, 1)),
        odd_weights=field("odd_weights", (fo, n_odd)) * field("odd_weights_scale", (fo, 1)),
        intercept=field("intercept", (n_even,)),
        even_back=even * se,
        odd_back=odd * so,
        limits=(float(limits[0]), float(limits[1])),
        gate=(float(gate[0]), float(gate[1])),
        sha256=sha256,
    )


def correct(face: DetectedFace, correction: Correction | None = None) -> DetectedFace:
    """The face with its points and depths corrected, its box renewed; about half a millisecond.

    Points far from anything that was trained on come back (almost) as they are.

    Raises:
        LandmarkError: not the 478 points of FaceMesh, no depth, or values that are not finite.
    """
    if face.landmarks.shape != (POINTS, 2) or face.set_name != SET_NAME:
        raise LandmarkError(
            f"correct: expected the 478 points of {SET_NAME!r}, found {face.set_name!r} {face.landmarks.shape}; leave other sets as they are"
        )
    if face.depth is None or np.shape(face.depth) != (POINTS,):
        raise LandmarkError("correct: the face has no depth per point; use fitjax.detect.FaceMeshDetector")
    points = np.column_stack([face.landmarks, face.depth]).astype(np.float64)
    if not np.isfinite(points).all() or not np.ptp(points[:, :2], axis=0).max() > 0:
        raise LandmarkError("correct: landmarks or depths are not finite, or all in one place")
    moved, _ = (load_correction() if correction is None else correction).predict(points)
    points = points + moved
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
    return replace(face, landmarks=points[:, :2], depth=points[:, 2], box=box)
