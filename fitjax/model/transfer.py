"""Annotating another model: our mean head is laid upon its mean, and landmarks, parts and regions are read off where it comes to lie.

1. A similarity from known pairs (68 landmarks), else trimmed ICP from head space. 2. Non-rigid registration of our face onto the other skin
(:mod:`fitjax.model.registration`). 3. Each landmark goes to the nearest point that faces the same way; irises go from eyeball to eyeball; parts are
labels of points (:mod:`fitjax.model.part_transfer`). The report says how well the two surfaces met.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int, UInt8
from scipy.spatial import cKDTree

from fitjax.errors import BasisError
from fitjax.geometry.host_mesh import (
    SurfaceIndex,
    fit_sphere,
    similarity,
    surface_points,
    triangle_normals,
    vertex_normals,
)
from fitjax.model import part_transfer
from fitjax.model.basis_file import Basis, read_basis
from fitjax.model.load import EMBEDDED, find_models, refine
from fitjax.model.mesh_regions import EYEBALL, LOOSE, SKIN, eyeballs, loose_pieces, nearest_regions
from fitjax.model.registration import SCHEDULE, align_surfaces, register
from fitjax.observation.part_tables import PARTS
from fitjax.render.reference import check_mesh

#: Sets that are carried point by point; the parts are sampled anew.
POINT_SETS = ("mediapipe478", "ibug68", "aflw68", "aflw68_original", "contour68")

#: Jaws are drawn differently from model to model: of the 68 points these tie the two heads together.
TIED68 = np.array([8, *range(17, 68)])

#: Side of the map of parts, in texels.
MAP_SIZE = 512

#: Of our head, what lies within this distance (metres) of a landmark or part takes part in the registration.
_MARGIN = 0.02

#: Side of the map to our texture.
TEXTURE_SIZE = 256

#: Metres by which known points have to spread for their stretch to count half.
_STRETCH = 0.015

#: As for the landmarks of the embedded basis, with fewer steps where little moves.
_SCHEDULE = tuple(replace(stage, steps=2 if stage.stiffness >= 100 else 3) for stage in SCHEDULE)

# Beyond these (millimetres on our head, or a share) the report warns.
_MAX_RESIDUAL, _MIN_HELD, _MAX_LANDMARK, _MAX_MOVED, _MAX_FOLDED = 0.7, 0.95, 10.0, 15.0, 0.02
# So many points fix a similarity and a stretch.
_FEWEST = 6
# The 68 points of any two heads differ by less than this after a similarity, if both are in the same order.
_NOT_A_FACE = 25.0


@dataclass(frozen=True)
class Report:
    """How well our face and the other one met. Millimetres are those of our head: the other one scaled to it.

    Attributes:
        residual: mean distance of our face, deformed, from the other surface. residual_90: 90 % of it lies closer than this.
        held: share of our face that lies within 2 mm of the other surface and faces the same way.
        moved: mean non-rigid displacement. folded: share of our triangles that the registration turned over.
        landmarks: mean distance of the given 68 points (without the jaw) from ours after the similarity; NaN if none were given.
        scale, rotation, translation: other = scale · rotation · ours + translation, in the other model's units.
        missing: parts that the other mesh does not have; ``eyeballs`` where irises and eyes lie on whatever is between the lids.
    """

    residual: float
    residual_90: float
    held: float
    moved: float
    folded: float
    landmarks: float
    scale: float
    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, "3"]
    missing: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to look at before trusting the annotation; empty if all is well."""
        checks = (
            (self.residual > _MAX_RESIDUAL, f"the surfaces lie {self.residual:.2f} mm apart on average"),
            (self.held < _MIN_HELD, f"only {self.held:.0%} of our face came to lie on the other surface"),
            (self.moved > _MAX_MOVED, f"our face had to be moved by {self.moved:.0f} mm on average"),
            (self.folded > _MAX_FOLDED, f"{self.folded:.0%} of our triangles were turned over"),
            (self.landmarks > _MAX_LANDMARK, f"the 68 points given lie {self.landmarks:.1f} mm from ours on average"),
            (bool(self.missing), f"no surface was found for {', '.join(self.missing)}"),
        )
        return tuple(text for wrong, text in checks if wrong)

    @property
    def off_head_space(self) -> tuple[str, ...]:
        """How the other model's space differs from head space by more than heads do; fits expect head space."""
        angle = np.degrees(np.arccos(np.clip((np.trace(self.rotation) - 1) / 2, -1, 1)))
        off = np.linalg.norm(self.translation)
        checks = (
            (not 0.6 < self.scale < 1.6, f"its head is {self.scale:.3g} times as large as ours: is it in metres?"),
            (
                angle > 20,
                f"its head is turned by {angle:.0f} degrees: +x is the subject's left, +y up, +z out of the face",
            ),
            (
                0.6 < self.scale < 1.6 and off > 0.15,
                f"its head is {off:.2f} m from the origin, which belongs between the eyes",
            ),
        )
        return tuple(text for wrong, text in checks if wrong)


@dataclass(frozen=True)
class Annotation:
    """What `fitjax-basis/1` wants to know about a mesh.

    Attributes:
        samples: (triangle (S,) int32, barycentric (S, 3) float32) by name: POINT_SETS and ``part_*``.
        triangle_region: (F,) 0 skin, 1 eyeball, 2 mouth cavity, 3 eye cavity, 4 teeth or tongue.
        uv_parts: (S, S) labels 0 to 8, row 0 at v = 1; None for a mesh without texture coordinates.
        uv_embedded: (S, S, 2) where on our texture each texel lies, for albedo and occlusion; None likewise.
        pose_frames: rotations of pose conventions, turned with the head.
    """

    samples: dict[str, tuple[np.ndarray, np.ndarray]]
    triangle_region: UInt8[np.ndarray, "F"]
    uv_parts: UInt8[np.ndarray, "S S"] | None
    uv_embedded: Float[np.ndarray, "S S 2"] | None
    pose_frames: dict[str, Float[np.ndarray, "3 3"]]
    report: Report


@lru_cache(maxsize=1)
def _embedded() -> Basis:
    """Our mean head, refined once; no modes are needed."""
    basis = read_basis(find_models()[EMBEDDED])
    return refine(replace(basis, identity=basis.identity[:0], expression=basis.expression[:0]))


def annotate(
    vertices: Float[np.ndarray, "V 3"],
    triangles: Int[np.ndarray, "F 3"],
    *,
    uv: Float[np.ndarray, "T 2"] | None = None,
    uv_triangles: Int[np.ndarray, "F 3"] | None = None,
    region: Int[np.ndarray, "F"] | None = None,
    landmarks68: Int[np.ndarray, "68"] | Float[np.ndarray, "68 3"] | None = None,
    texels: int | None = None,
) -> Annotation:
    """Landmarks, parts and regions of a mean head with the neutral expression, mouth closed.

    Args:
        vertices, triangles: any units and axes if ``landmarks68`` are given; else metres and head space but for the origin (+x the subject's
            left, +y up, +z out of the face). Triangles are counter-clockwise from outside.
        uv, uv_triangles: texture coordinates, origin bottom-left; ``texels``: side of the map of parts, MAP_SIZE by default.
        region: of the triangles, where known; else found by nearness, and eyeballs as loose spheres.
        landmarks68: vertex indices, or positions, of the 68 points in ibug's order; NaN (a vertex: -1) for points that the model does not name, of
            which at most all but six. Those that are given become ``ibug68`` as they are, the others are carried over.

    Raises:
        BasisError: indices out of range, landmarks that are no face's, or units that cannot be metres.
    """
    vertices, triangles = check_mesh(vertices, triangles)
    if not len(triangles) or not np.isfinite(vertices).all():
        raise BasisError("annotate: expected a mesh of finite vertices with triangles")
    ours = _embedded()
    positions = {k: surface_points(ours.mean.astype(float), ours.triangles, *v) for k, v in ours.samples.items()}
    given = None if landmarks68 is None else _given68(landmarks68, vertices)
    scale, rotation, translation = _align(ours, positions["ibug68"], vertices, triangles, given)
    # From here on the other head is in our frame: all lengths are metres of our head.
    other = (vertices - translation) @ rotation / scale
    goal, apart = None, float("nan")
    if given is not None:
        goal = (given - translation) @ rotation / scale
        apart = 1e3 * float(np.linalg.norm(goal - positions["ibug68"], axis=1)[_tied(goal)].mean())
        if apart > _NOT_A_FACE:
            raise BasisError(
                f"landmarks68: {apart:.0f} mm from ours on average, expected less than {_NOT_A_FACE:.0f}; are they in ibug's order?"
            )

    if region is None:
        parts = loose_pieces(ours, other, triangles)
    else:
        parts = np.asarray(region).astype(int)
    deformed, face, report = _register(ours, positions, other, triangles[(parts != EYEBALL) & (parts != LOOSE)], goal)
    if region is None:
        parts = nearest_regions(ours, deformed, other, triangles, parts)

    samples = _carry(ours, deformed, other, triangles, parts)
    if goal is not None:
        skin = SurfaceIndex(other, triangles, (parts != EYEBALL) & (parts != LOOSE))
        known = np.isfinite(goal).all(1)
        for kept, found_there in zip(samples["ibug68"], skin.closest(goal[known])[:2]):
            kept[known] = found_there
    label = part_transfer.labeller(
        other, triangles, parts, deformed, ours.triangles[face], ours.uv[ours.uv_triangles[face]].astype(float),
        part_transfer.covered_map(ours.uv_parts, ours.uv, ours.uv_triangles),
        surface_points(other, triangles, *samples["mediapipe478"]),
    )  # fmt: skip
    found = part_transfer.part_samples(label, other, triangles)
    samples |= {f"part_{name}": value for name, value in found.items()}
    has_uv = uv is not None and uv_triangles is not None and np.ptp(uv) > 0
    return Annotation(
        samples={k: (t.astype(np.int32), b.astype(np.float32)) for k, (t, b) in samples.items()},
        triangle_region=parts.astype(np.uint8),
        uv_parts=part_transfer.part_map(label, np.asarray(uv, float), np.asarray(uv_triangles), texels or MAP_SIZE)
        if has_uv
        else None,
        uv_embedded=part_transfer.texture_map(
            other, triangles, parts, np.asarray(uv, float), np.asarray(uv_triangles), deformed, ours, min(texels or MAP_SIZE, TEXTURE_SIZE)
        )
        if has_uv
        else None,
        pose_frames={k: (v.astype(float) @ rotation.T).astype(np.float32) for k, v in ours.pose_frames.items()},
        report=replace(
            report,
            landmarks=apart,
            scale=scale,
            rotation=rotation,
            translation=translation,
            missing=(*(() if (parts == EYEBALL).any() else ("eyeballs",)), *(p for p in PARTS if p not in found)),
        ),
    )


def _given68(landmarks68: np.ndarray, vertices: np.ndarray) -> Float[np.ndarray, "68 3"]:
    given = np.asarray(landmarks68)
    if given.shape == (68, 3) and given.dtype.kind == "f" and len(_tied(given)) >= _FEWEST:
        if not np.isnan(given[~np.isfinite(given).all(1)]).all():
            raise BasisError("landmarks68: expected finite positions, or NaN in all three coordinates of a point that is not known")
        return given.astype(float)
    if given.shape != (68,) or given.dtype.kind not in "iu":
        raise BasisError(
            f"landmarks68: expected 68 vertex indices or positions (68, 3), with NaN for points not known, found {given.dtype} {given.shape}"
        )
    if given.min() < -1 or given.max() >= len(vertices):
        raise BasisError(
            f"landmarks68: expected vertex indices in [0, {len(vertices)}), found {given.min()} to {given.max()}"
        )
    known = given >= 0
    if len(np.unique(given[known])) < max(0.88 * known.sum(), _FEWEST):
        raise BasisError(f"landmarks68: expected 68 different vertices, found {len(np.unique(given[known]))}")
    return np.where(known[:, None], vertices[given], np.nan)


def _tied(points: Float[np.ndarray, "68 3"]) -> Int[np.ndarray, "P"]:
    """Of the points that tie two heads together, those that are known."""
    return TIED68[np.isfinite(points[TIED68]).all(1)]


def _align(
    ours: Basis, marks: np.ndarray, vertices: np.ndarray, triangles: np.ndarray, given: np.ndarray | None
) -> tuple[float, np.ndarray, np.ndarray]:
    """Similarity from our head to the other one."""
    if given is not None:
        return similarity(marks[_tied(given)], given[_tied(given)])
    size = np.ptp(vertices, axis=0).max()
    if not 0.05 < size < 1:
        raise BasisError(
            f"annotate: the mesh is {size:.3g} long, expected a head in metres; give 68 landmarks (--landmarks68) for other units or axes"
        )
    mean = ours.mean.astype(float)
    face = np.unique(ours.triangles[_near_face(ours) & (ours.triangle_region == SKIN)])[::4]
    return align_surfaces(mean[face], vertex_normals(mean, ours.triangles)[face], vertices, triangles)


def _near_face(ours: Basis) -> Bool[np.ndarray, "G"]:
    """Our triangles near a landmark or part."""
    used = [surface_points(ours.mean.astype(float), ours.triangles, *v) for v in ours.samples.values()]
    distance, _ = cKDTree(np.concatenate(used)).query(ours.mean[ours.triangles].mean(1))
    return distance < _MARGIN


def _stretched(points: np.ndarray, known: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Points after the affine map that takes the known ones to their places, held back towards no change: heads differ in width and height, and
    cheeks, which have no features, would not know. Depth is known least, and held back most."""
    middle = known.mean(0)
    a, b = known - middle, goal - goal.mean(0)
    change = np.linalg.solve(a.T @ a + len(a) * _STRETCH**2 * np.eye(3), a.T @ (b - a))
    return goal.mean(0) + (points - middle) @ (np.eye(3) + change)


def _register(
    ours: Basis, positions: dict[str, np.ndarray], other: np.ndarray, skin: np.ndarray, goal: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, Report]:
    """Our vertices (N, 3) laid upon the other skin, our triangles (G',) that were laid, and how well they lie."""
    face = np.flatnonzero(_near_face(ours) & (ours.triangle_region == SKIN))
    used, local = np.unique(ours.triangles[face], return_inverse=True)
    local = local.reshape(-1, 3)
    start = ours.mean.astype(float)[used]
    pairs, points = sp.csr_matrix((0, len(used))), np.zeros((0, 3))
    if goal is not None:
        tied = _tied(goal)
        triangle, barycentric = (x[tied] for x in ours.samples["ibug68"])
        columns = np.searchsorted(used, ours.triangles[triangle])
        rows = np.repeat(np.arange(len(tied)), 3)
        pairs = sp.csr_matrix((barycentric.ravel(), (rows, columns.ravel())), (len(tied), len(used)))
        points = goal[tied]
    if goal is not None:
        start = _stretched(start, pairs @ start, points)
    placed = register(start, local, other, skin, pairs, points, schedule=_SCHEDULE, neighbours=8)

    before, after = triangle_normals(start, local), triangle_normals(placed, local)
    triangle, _, distance = SurfaceIndex(other, skin).closest(placed, vertex_normals(placed, local))
    agrees = (triangle_normals(other, skin)[triangle] * vertex_normals(placed, local)).sum(1) > 0
    parts = np.concatenate(
        [positions["mediapipe478"][:468], *(positions[f"part_{p}"] for p in PARTS if "eye" not in p)]
    )
    inner = cKDTree(parts).query(start)[0] < 0.005
    report = Report(
        residual=1e3 * float(distance[inner].mean()),
        residual_90=1e3 * float(np.quantile(distance[inner], 0.9)),
        held=float((agrees & (distance < 0.002))[inner].mean()),
        moved=1e3 * float(np.linalg.norm(placed - start, axis=1)[inner].mean()),
        folded=float(((before * after).sum(1) < 0).mean()),
        landmarks=float("nan"), scale=1.0, rotation=np.eye(3), translation=np.zeros(3),
    )  # fmt: skip
    # What was left out follows the nearest of what was not: cavities their rims, eyeballs their lids.
    deformed = ours.mean.astype(float)
    distance, near = cKDTree(start).query(deformed, k=24)
    weight = 1 / (distance + 1e-3) ** 2
    shift = placed - start
    deformed = deformed + np.einsum("nk,nkc->nc", weight / weight.sum(1, keepdims=True), shift[near])
    deformed[used] = placed
    return deformed, face, report


def _carry(
    ours: Basis, deformed: np.ndarray, other: np.ndarray, triangles: np.ndarray, region: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Landmark sets on the other mesh: skin to skin, eyeball to eyeball."""
    fixed = SurfaceIndex(other, triangles, (region != EYEBALL) & (region != LOOSE))
    normals = vertex_normals(deformed, ours.triangles)
    result = {}
    for name in POINT_SETS:
        triangle, barycentric = ours.samples[name]
        points = surface_points(deformed, ours.triangles, triangle, barycentric)
        facing = surface_points(normals, ours.triangles, triangle, barycentric)
        found, weight, _ = fixed.closest(points, facing, neighbours=32)
        for vertices, centre, radius in eyeballs(ours):
            rows = np.flatnonzero(np.isin(ours.triangles[triangle], vertices).all(1))
            ball = (region == EYEBALL) & (np.sign(centre[0]) * other[triangles].mean(1)[:, 0] > 0)
            if not (len(rows) and ball.any()):
                continue
            middle, size, _ = fit_sphere(other[np.unique(triangles[ball])])
            at = surface_points(ours.mean.astype(float), ours.triangles, triangle[rows], barycentric[rows])
            out = (at - centre) / radius
            found[rows], weight[rows], _ = SurfaceIndex(other, triangles, ball).closest(middle + size * out, out)
        result[name] = (found, weight)
    return result
