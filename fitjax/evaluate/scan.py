"""Distance of a scan to a predicted surface, in the manner of NoW (Sanyal et al., CVPR 2019) and REALY (Chai et al., ECCV 2022).

Both begin with seven landmarks: outer and inner corner of the subject's right eye, inner and outer corner of the left one, the base of the nose,
right and left corner of the mouth. They turn, move and (but for metric figures) scale the prediction onto the scan; the alignment is then refined by
iterating the nearest points; the error is the distance of each point **of the scan** to the nearest point of the predicted surface, in mm.

Where descriptions of these protocols differ, this follows the published evaluation code:

- NoW measures the scan's vertices within a ball about the face, and its refinement changes the *scale* too; in its metric challenge nothing
  changes the scale. All distances of all scans are pooled before median, mean and standard deviation.
- REALY aligns each region by itself, rigidly. It then deforms the scan's region onto the prediction to find correspondences; that last step is
  **not** done here, so these figures are lower than REALY's published ones would be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from fitjax.errors import FitjaxError
from fitjax.evaluate.nearest import ExactSurface
from fitjax.evaluate.scan_protocol import NOW7_NAMES, STYLES, ScanProtocol, Transform
from fitjax.geometry.host_mesh import similarity

#: Outer corners of the eyes are this far apart on a head, mm: wide enough for infants, and for scans that were not quite metric.
EYES_APART_MM = (50.0, 150.0)

#: Millimetres in a unit of length.
UNITS = {"mm": 1.0, "cm": 10.0, "m": 1000.0}


#: By what a length has to be multiplied → what was probably taken for what.
_WRONG_UNITS = {
    1000.0: "1000 times too small, as metres that are taken for millimetres",
    10.0: "10 times too small, as centimetres that are taken for millimetres",
    0.1: "10 times too large, as millimetres that are taken for centimetres",
    0.001: "1000 times too large, as millimetres that are taken for metres",
}


@dataclass(frozen=True)
class Scan:
    """The truth: (P, 3) points in mm, (F, 3) triangles for pictures (or None), (7, 3) landmarks in mm, and indices of points per region."""

    points: Float[np.ndarray, "P 3"]
    landmarks: Float[np.ndarray, "7 3"]
    triangles: Int[np.ndarray, "F 3"] | None = None
    regions: Mapping[str, Int[np.ndarray, "R"]] = field(default_factory=dict)


@dataclass(frozen=True)
class PredictedMesh:
    """A prediction: (V, 3) vertices in mm (any unit where the alignment scales), (F, 3) triangles, (7, 3) landmarks in the same unit."""

    vertices: Float[np.ndarray, "V 3"]
    triangles: Int[np.ndarray, "F 3"]
    landmarks: Float[np.ndarray, "7 3"]


@dataclass(frozen=True)
class Placement:
    """``scale * x @ rotation.T + translation`` takes the prediction to the scan."""

    scale: float
    rotation: np.ndarray
    translation: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return self.scale * points @ self.rotation.T + self.translation

    def inverse(self, points: np.ndarray) -> np.ndarray:
        return (points - self.translation) @ self.rotation / self.scale


@dataclass(frozen=True)
class ScanErrors:
    """Distances of one scan.

    Attributes:
        index: (Q,) points of the scan that count. distances: (Q,) mm. placement: of the whole face. steps: of its refinement.
        landmark_rms: mm between the seven points after their alignment.
        regions: region → (R,) mm of its points.
    """

    index: Int[np.ndarray, "Q"]
    distances: Float[np.ndarray, "Q"]
    placement: Placement
    steps: int
    landmark_rms: float
    regions: dict[str, np.ndarray]


def face_ball(landmarks: np.typing.ArrayLike) -> tuple[np.ndarray, float]:
    """Centre and radius of NoW's ball: from the base of the nose 0.3 of the way to the middle of the inner corners of the eyes; 0.7 times the
    distance of the outer corners plus the length of the nose."""
    points = np.asarray(landmarks, np.float64)
    bridge, base = points[1:3].mean(0), points[4]
    outer = np.linalg.norm(points[0] - points[3])
    return base + 0.3 * (bridge - base), float(0.7 * (outer + np.linalg.norm(bridge - base)))


def align_landmarks(source: np.ndarray, target: np.ndarray, kind: Transform) -> Placement:
    """The best placement of points (N, 3) onto their partners, of the given kind; never a reflection."""
    if kind == "none":
        return Placement(1.0, np.eye(3), np.zeros(3))
    scale, rotation, _ = similarity(source, target)
    scale = scale if kind == "similarity" else 1.0
    return Placement(scale, rotation, target.mean(0) - scale * rotation @ source.mean(0))


def _turn(w: np.ndarray) -> np.ndarray:
    """Rotation matrix of an axis-angle vector."""
    angle = np.linalg.norm(w)
    k = np.array([[0, -w[2], w[1]], [w[2], 0, -w[0]], [-w[1], w[0], 0]])
    if angle < 1e-12:
        return np.eye(3) + k
    return np.eye(3) + np.sin(angle) / angle * k + (1 - np.cos(angle)) / angle**2 * k @ k


def refine_placement(
    surface: ExactSurface, points: np.ndarray, start: Placement, kind: Transform, steps: int
) -> tuple[Placement, int]:
    """The placement of the surface that minimises the sum of squared distances of ``points`` (P, 3, mm) to it, from ``start``.

    Levenberg-Marquardt on the distances themselves: their derivative is the direction from the nearest point, which stays exact while that point
    slides over the surface. Distances are those on the scan (mm), so a surface that shrinks gains nothing by it.

    Returns:
        The placement and the number of accepted steps.
    """
    if kind == "none" or not len(points):
        return start, 0
    free = 7 if kind == "similarity" else 6
    now, damping, accepted = start, 1e-4, 0

    def measure(placement: Placement) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        local = placement.inverse(points)
        _, on, away = surface.closest(local)
        return local, on, away

    local, on, away = measure(now)
    cost = float(((now.scale * away) ** 2).sum())
    for _ in range(steps):
        direction = (local - on) / np.maximum(away, 1e-12)[:, None]
        # About the middle of the points, so that turning and moving are nearly independent; lengths in units of their spread.
        middle = local.mean(0)
        spread = float(np.sqrt(((local - middle) ** 2).sum(1).mean()))
        arm = (local - middle) / spread
        jacobian = (
            -now.scale
            * spread
            * np.concatenate(
                [np.cross(arm, direction), direction, (direction * (on - middle) / spread).sum(1, keepdims=True)], 1
            )
        )
        jacobian = jacobian[:, :free]
        normal, gradient = jacobian.T @ jacobian, jacobian.T @ (now.scale * away)
        step = -np.linalg.solve(normal + damping * np.diag(np.diag(normal) + 1e-12 * np.trace(normal)), gradient)
        growth = float(np.exp(step[6])) if free == 7 else 1.0
        turn, move = _turn(step[:3]), spread * step[3:6]
        # new(x) = now(growth * turn @ (x - middle) + middle + move)
        trial = Placement(now.scale * growth, now.rotation @ turn, now(middle + move - growth * turn @ middle))
        local_new, on_new, away_new = measure(trial)
        cost_new = float(((trial.scale * away_new) ** 2).sum())
        if cost_new > cost:
            damping *= 10
            if damping > 1e8:
                break
            continue
        gain = cost - cost_new
        now, local, on, away, cost, damping, accepted = (
            trial,
            local_new,
            on_new,
            away_new,
            cost_new,
            damping / 10,
            accepted + 1,
        )
        if gain <= 1e-7 * cost or cost <= 1e-18:
            break
    return now, accepted


def _check(scan: Scan, mesh: PredictedMesh, protocol: ScanProtocol, what: str) -> None:
    for name, points in (("the scan", scan.landmarks), ("the prediction", mesh.landmarks)):
        if points.shape != (7, 3) or not np.isfinite(points).all():
            raise FitjaxError(
                f"{what}: {name}: expected 7 finite landmarks (7, 3), found shape {points.shape}: {', '.join(NOW7_NAMES)}"
            )
    apart = float(np.linalg.norm(scan.landmarks[0] - scan.landmarks[3]))
    _check_unit(apart, f"{what}: the scan's landmarks", "--truth-unit")
    if protocol.align != "similarity":
        _check_unit(
            float(np.linalg.norm(mesh.landmarks[0] - mesh.landmarks[3])),
            f"{what}: the prediction's landmarks",
            "--unit",
        )


def _check_unit(apart: float, what: str, option: str) -> None:
    low, high = EYES_APART_MM
    if low <= apart <= high:
        return
    hint = next((text for factor, text in _WRONG_UNITS.items() if low <= factor * apart <= high), None)
    tail = f"{hint}; correct {option}" if hint else f"check the unit ({option}) and the order of the seven points"
    raise FitjaxError(
        f"{what}: the outer corners of the eyes are {apart:.4g} mm apart; expected {low:g} to {high:g}; {tail}"
    )


def scan_errors(
    scan: Scan, mesh: PredictedMesh, protocol: ScanProtocol = STYLES["now"], what: str = "scan"
) -> ScanErrors:
    """Distances of the points of a scan to a predicted surface.

    Args:
        what: for messages.

    Raises:
        FitjaxError: not seven landmarks, another unit than mm, landmarks that do not correspond, a region without points, no scan point in the ball.
    """
    _check(scan, mesh, protocol, what)
    start = align_landmarks(mesh.landmarks, scan.landmarks, protocol.align)
    rms = float(np.sqrt(((start(mesh.landmarks) - scan.landmarks) ** 2).sum(1).mean()))
    apart = float(np.linalg.norm(scan.landmarks[0] - scan.landmarks[3]))
    if protocol.align != "none" and rms > 0.25 * apart:
        raise FitjaxError(
            f"{what}: the seven landmarks are {rms:.0f} mm off after their alignment; expected them in the order {', '.join(NOW7_NAMES)}, right and "
            "left being the subject's"
        )
    index = np.arange(len(scan.points))
    if protocol.crop:
        centre, radius = face_ball(scan.landmarks)
        index = index[np.linalg.norm(scan.points - centre, axis=1) <= radius]
    index = index[np.isfinite(scan.points[index]).all(1)]
    if not len(index):
        raise FitjaxError(
            f"{what}: no point of the scan lies within the face; are its landmarks in the scan's own coordinates and unit?"
        )
    surface = ExactSurface(mesh.vertices, mesh.triangles)

    def refined(chosen: np.ndarray) -> tuple[Placement, int]:
        every = -(-len(chosen) // protocol.points)
        return refine_placement(surface, scan.points[chosen][::every], start, protocol.refine, protocol.steps)

    def distances(chosen: np.ndarray, placement: Placement) -> np.ndarray:
        return placement.scale * surface.closest(placement.inverse(scan.points[chosen]))[2]

    placement, steps = refined(index)
    whole = distances(index, placement)
    regions: dict[str, np.ndarray] = {}
    counted = np.zeros(len(scan.points), bool)
    counted[index] = True
    for name, members in scan.regions.items():
        chosen = np.asarray(members)[counted[members]]
        if not len(chosen):
            raise FitjaxError(f"{what}: region {name!r} has no point that counts; leave it out")
        regions[name] = distances(chosen, refined(chosen)[0] if protocol.per_region else placement)
    return ScanErrors(index, whole, placement, steps, rms, regions)
