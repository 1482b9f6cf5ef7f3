"""The uncalibrated landmark sets: MediaPipe's 478, ibug-68 as documented, and the lines for the visible contour.

MediaPipe's canonical face (Apache-2.0) and ICT-FaceKit's documented landmarks (MIT) are registered to the mean face; only the
resulting (triangle, barycentric) pairs on this basis's own mesh are kept.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from basis import landmark_sets as sets
from basis.registration import register
from basis.surface import Samples, Surface

IRIS_RADIUS = 0.0059
_FLIP = np.array([-1.0, 1.0, 1.0])
_CHIN_DIRECTION = np.array([0.0, -0.75, 0.66])
CONTOUR_CANDIDATES = 9


@dataclass(frozen=True)
class Registered:
    """A landmark set with what the registration left over."""

    samples: Samples
    distance: np.ndarray
    """(S,) metres between the deformed source's points and the surface, before symmetrising."""
    deformed: np.ndarray
    triangles: np.ndarray


def along(polyline: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """Points at fractions of the length of a polyline."""
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(polyline, axis=0), axis=1))])
    return np.stack([np.interp(fractions * length[-1], length, polyline[:, k]) for k in range(3)], 1)


def _length_fractions(points: np.ndarray) -> np.ndarray:
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    return length / length[-1]


def midline_landmarks(vertices: np.ndarray, low: float, high: float) -> dict[str, np.ndarray]:
    """Nose tip, nasion and chin from the midline alone; `low` and `high` bound the face's height."""
    line = vertices[(np.abs(vertices[:, 0]) < 1e-5) & (vertices[:, 1] > low) & (vertices[:, 1] < high)]
    tip = line[line[:, 2].argmax()]
    bridge = line[(line[:, 1] > tip[1] + 0.02) & (line[:, 1] < tip[1] + 0.06) & (line[:, 2] > tip[2] - 0.05)]
    chin = line[(line[:, 1] < tip[1] - 0.03) & (line[:, 2] > tip[2] - 0.08)]
    return {"tip": tip, "nasion": bridge[bridge[:, 2].argmin()], "chin": chin[(chin @ _CHIN_DIRECTION).argmax()]}


def read_canonical_face(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """MediaPipe's canonical face: vertices in metres and triangles."""
    vertices, triangles = [], []
    for line in path.read_text().splitlines():
        kind, *fields = line.split() or [""]
        if kind == "v":
            vertices.append([float(x) / 100 for x in fields[:3]])
        elif kind == "f":
            triangles.append([int(field.split("/")[0]) - 1 for field in fields])
    return np.array(vertices), np.array(triangles)


def canonical_mirror(vertices: np.ndarray) -> np.ndarray:
    """Mirror partners (478,) of the canonical face's vertices and the iris points."""
    partner = cKDTree(vertices).query(vertices * _FLIP)[1]
    # Rings run image-right, top, image-left, bottom in both eyes.
    return np.concatenate([partner, [473, 476, 475, 474, 477, 468, 471, 470, 469, 472]])


def _rim_pairs(source: np.ndarray, partner: np.ndarray, surface: Surface, refined: np.ndarray) -> dict[int, np.ndarray]:
    """Places of the lid and inner-lip vertices of the canonical face, by relative length along the mesh's rims."""
    pairs: dict[int, np.ndarray] = {}

    def add(indices: tuple[int, ...], polyline: np.ndarray) -> None:
        places = along(polyline, _length_fractions(source[list(indices)]))
        pairs.update(zip(indices, places))

    upper, lower = surface.rim("socket_right", refined)
    add(sets.RIGHT_UPPER_LID, upper)
    add(sets.RIGHT_LOWER_LID, lower)
    for index in list(pairs):
        pairs[int(partner[index])] = pairs[index] * _FLIP
    upper, lower = surface.rim("mouth", refined)
    add(sets.INNER_UPPER_LIP, upper)
    add(sets.INNER_LOWER_LIP, lower)
    return pairs


def mediapipe478(canonical: Path, mean: np.ndarray, surface: Surface, ibug: Samples) -> Registered:
    """MediaPipe's 468 face points by non-rigid registration, and ten iris points on the fronts of the eyeballs.

    The border of the lips has no relief to register to, and the canonical face has thinner lips than this mean: a second pass
    holds its outer lips midway between the first pass and ibug-68.
    """
    source, triangles = read_canonical_face(canonical)
    refined = surface.refine(mean)
    partner = canonical_mirror(source)
    pairs = _rim_pairs(source, partner[:468], surface, refined)
    here = _midline(refined, surface)
    there = midline_landmarks(source, -1, 1)
    for key, point in there.items():
        pairs[int(np.linalg.norm(source - point, axis=1).argmin())] = here[key]
    index = np.array(sorted(pairs))
    face = np.flatnonzero(surface.chart == "head")
    first = register(source, triangles, refined, surface.triangles[face], index, np.stack([pairs[i] for i in index]))
    lips = surface.sample_matrix(ibug[np.arange(48, 60)]) @ mean
    pairs |= {i: 0.5 * (first[i] + lip) for i, lip in zip(sets.IBUG68_OUTER_LIPS, lips)}
    index = np.array(sorted(pairs))
    deformed = register(source, triangles, refined, surface.triangles[face], index, np.stack([pairs[i] for i in index]))
    deformed = 0.5 * (deformed + deformed[partner[:468]] * _FLIP)
    samples, distance = surface.project(deformed, refined, surface.chart == "head")
    samples = Samples.join([samples, _iris_samples(mean, surface)])
    return Registered(surface.symmetric(samples, partner, mean), distance, deformed, triangles)


def _midline(refined: np.ndarray, surface: Surface) -> dict[str, np.ndarray]:
    eyes = refined[np.unique(surface.triangles[surface.eyeballs])]
    height = eyes[:, 1].mean()
    head = refined[np.unique(surface.triangles[surface.chart == "head"])]
    return midline_landmarks(head, height - 0.15, height + 0.03)


def _iris_samples(mean: np.ndarray, surface: Surface) -> Samples:
    """Centre and ring (image-right, top, image-left, bottom of a frontal picture) of the right and then the left iris."""
    refined = surface.refine(mean)
    parts = []
    for chart in ("eye_right", "eye_left"):
        triangles = np.flatnonzero(surface.chart == chart)
        vertices = refined[np.unique(surface.triangles[triangles])]
        centre = 0.5 * (vertices.min(0) + vertices.max(0))
        radius = 0.5 * (vertices.max(0) - vertices.min(0)).mean()
        forward = np.sqrt(radius**2 - IRIS_RADIUS**2)
        ring = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]]) * IRIS_RADIUS
        offsets = np.concatenate([[[0, 0, radius]], np.concatenate([ring, np.full((4, 1), forward)], 1)])
        parts.append(surface.project(centre + offsets, refined, surface.chart == chart)[0])
    return Samples.join(parts)


def ibug68(ict: Path, mean: np.ndarray, surface: Surface) -> Registered:
    """The 68 points from ICT-FaceKit's documented indices, with the documented jawline substitutes."""
    packed = np.load(ict, allow_pickle=False)
    source = packed["vertices_cm"][:9409].astype(float) / 100
    triangles = packed["triangles"]
    triangles = triangles[(triangles < 9409).all(1)]
    landmarks = packed["landmarks68_readme"].copy()
    landmarks[:8] = 1278, 1272, 12, 1834, 243, 781, 2199, 1447
    landmarks[9:17] = 3661, 4390, 3022, 2484, 4036, 2253, 3490, 3496
    refined = surface.refine(mean)
    pairs = {8: "chin", 30: "tip"}
    here = _midline(refined, surface)
    points = {index: here[key] for index, key in pairs.items()}
    upper, lower = surface.rim("socket_right", refined)
    points |= {36: upper[0], 39: upper[-1]} | _lid_points(upper, lower)
    for index in (36, 37, 38, 39, 40, 41):
        points[int(sets.IBUG68_MIRROR[index])] = points[index] * _FLIP
    upper, lower = surface.rim("mouth", refined)
    points |= {60: upper[0], 64: upper[-1], 62: along(upper, np.array([0.5]))[0], 66: along(lower, np.array([0.5]))[0]}
    index = np.array(sorted(points))
    face = np.flatnonzero(surface.chart == "head")
    goal = np.stack([points[i] for i in index])
    deformed = register(source, triangles, refined, surface.triangles[face], landmarks[index], goal)
    marks = deformed[landmarks]
    marks = 0.5 * (marks + marks[sets.IBUG68_MIRROR] * _FLIP)
    samples, distance = surface.project(marks, refined, surface.chart == "head")
    return Registered(surface.symmetric(samples, sets.IBUG68_MIRROR, mean), distance, deformed, triangles)


def _lid_points(upper: np.ndarray, lower: np.ndarray) -> dict[int, np.ndarray]:
    """Points 37, 38 of the upper and 41, 40 of the lower lid at a third and two thirds of the lids' length."""
    thirds = np.array([1 / 3, 2 / 3])
    return dict(zip((37, 38), along(upper, thirds))) | dict(zip((41, 40), along(lower, thirds)))


def contour68(ibug: Samples, mean: np.ndarray, surface: Surface) -> Samples:
    """17 x 9 candidates: from each documented jaw point over the surface towards the middle of the face.

    A candidate is where a ray from inside the head, through the straight line from the jaw point to a point near the middle of the
    face, leaves the skin. When the head turns, the silhouette runs through these lines.
    """
    refined = surface.refine(mean)
    jaw = surface.sample_matrix(ibug[np.arange(17)]) @ mean
    inner = surface.sample_matrix(ibug[np.array([30, 33, 57])]) @ mean
    middle_height = inner[1, 1]
    half = []
    for point in jaw[:9]:
        goal = np.array([0.12 * point[0], 0.65 * point[1] + 0.35 * middle_height, inner[2, 2]])
        fraction = np.linspace(0, 1, CONTOUR_CANDIDATES)[:, None]
        half.append(point + fraction * (goal - point))
    line = np.concatenate(half)
    origin = np.stack(
        [np.zeros(len(line)), 0.5 * line[:, 1] + 0.5 * middle_height, np.full(len(line), jaw[4, 2] - 0.02)], 1
    )
    skin = np.flatnonzero(surface.chart == "head")
    triangle, barycentric = _leave(origin, line - origin, refined, surface.triangles[skin])
    samples = surface.to_coarse(skin[triangle], barycentric)
    first = np.arange(9) * CONTOUR_CANDIDATES
    samples.triangle[first], samples.barycentric[first] = ibug.triangle[:9], ibug.barycentric[:9]
    rows = [samples[np.arange(9 * k, 9 * k + 9)] for k in range(9)]
    return Samples.join(rows + [surface.mirrored(row) for row in rows[7::-1]])


def _leave(
    origin: np.ndarray, direction: np.ndarray, vertices: np.ndarray, triangles: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where rays leave a surface: the farthest crossing within 1.6 times the ray's length (the ears lie beyond)."""
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    found = np.zeros(len(origin), int)
    barycentric = np.zeros((len(origin), 3))
    for row, (o, d) in enumerate(zip(origin, direction)):
        p = np.cross(d, c - a)
        determinant = ((b - a) * p).sum(1)
        determinant = np.where(np.abs(determinant) < 1e-18, np.inf, determinant)
        u = ((o - a) * p).sum(1) / determinant
        q = np.cross(o - a, b - a)
        v, t = (q @ d) / determinant, ((c - a) * q).sum(1) / determinant
        hit = np.flatnonzero((u >= -1e-6) & (v >= -1e-6) & (u + v <= 1 + 1e-6) & (t > 0.2) & (t < 1.6))
        if not len(hit):
            raise ValueError(f"ray {row} misses the skin")
        best = hit[np.abs(t[hit] - 1).argmin()]
        found[row], barycentric[row] = best, (1 - u[best] - v[best], u[best], v[best])
    return found, barycentric
