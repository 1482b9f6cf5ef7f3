"""Distances of scans: the nearest point against brute force, the alignment against known places, the errors against known offsets."""

import numpy as np
import pytest

import fitjax as fj
from fitjax.errors import FitjaxError
from fitjax.evaluate.nearest import ExactSurface
from fitjax.evaluate.scan import PredictedMesh, Scan, align_landmarks, face_ball, scan_errors
from fitjax.evaluate.scan_protocol import NOW7, STYLES, protocol_lines, with_refinement
from fitjax.geometry.host_mesh import vertex_normals


def brute_force(points, corners):
    """Distances to all triangles, by the plane where its foot is inside, else by the three sides. Slow, and written apart from the library."""
    result = np.full(len(points), np.inf)
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    normal = np.cross(b - a, c - a)
    length = np.linalg.norm(normal, axis=1)
    unit = normal / np.where(length > 0, length, 1)[:, None]
    for k, p in enumerate(points):
        best = np.inf
        for start, end in ((a, b), (b, c), (c, a)):
            side = end - start
            share = ((p - start) * side).sum(1) / np.maximum((side**2).sum(1), 1e-300)
            best = min(best, np.linalg.norm(p - start - np.clip(share, 0, 1)[:, None] * side, axis=1).min())
        height = ((p - a) * unit).sum(1)
        foot = p - height[:, None] * unit
        inside = length > 0
        for start, end in ((a, b), (b, c), (c, a)):
            inside &= (np.cross(end - start, foot - start) * unit).sum(1) >= 0
        result[k] = min(best, np.abs(height[inside]).min(initial=np.inf))
    return result


def test_nearest_point_equals_brute_force_on_a_wild_mesh():
    rng = np.random.default_rng(0)
    vertices = rng.normal(size=(80, 3))
    vertices[:4] *= 40  # a few huge triangles among small ones
    triangles = rng.integers(0, 80, (200, 3))  # some without area
    triangles[:3] = [[5, 5, 5], [6, 6, 7], [8, 9, 8]]
    points = np.concatenate([rng.normal(size=(150, 3)) * 3, vertices[:20], rng.normal(size=(30, 3)) * 100])
    triangle, on, distance = ExactSurface(vertices, triangles).closest(points)
    assert np.allclose(distance, brute_force(points, vertices[triangles]), atol=1e-10)
    assert np.allclose(np.linalg.norm(on - points, axis=1), distance)
    # The point lies on the triangle that is named.
    assert np.allclose(brute_force_one(on, vertices[triangles[triangle]]), 0, atol=1e-9)


def brute_force_one(points, corners):
    return np.array([brute_force(p[None], c[None])[0] for p, c in zip(points, corners)])


@pytest.mark.parametrize(
    ("vertices", "triangles", "says"),
    [
        (np.zeros((3, 3)), np.zeros((0, 3), int), "no|found none"),
        (np.zeros((3, 3)), np.array([[0, 1, 3]]), "0 to 2"),
        (np.full((3, 3), np.nan), np.array([[0, 1, 2]]), "not finite"),
    ],
)
def test_bad_surfaces(vertices, triangles, says):
    with pytest.raises(FitjaxError, match=says):
        ExactSurface(vertices, triangles)


def turn(axis_angle):
    angle = np.linalg.norm(axis_angle)
    x, y, z = np.array(axis_angle) / angle
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


TURN = turn([0.3, -0.5, 0.2])


class Head:
    """The embedded mean face in mm, points on the front of its skin, and their normals."""

    def __init__(self):
        model = fj.load_basis(level=0, sample_sets=())
        self.vertices, self.triangles = 1000 * np.asarray(model.mean, np.float64), np.asarray(model.triangles, np.int64)
        samples = model.sample_library["ibug68"]
        pick = list(NOW7)
        corners = self.vertices[self.triangles[np.asarray(samples.triangle)[pick]]]
        self.landmarks = np.einsum("sk,skc->sc", np.asarray(samples.barycentric, np.float64)[pick], corners)
        rng = np.random.default_rng(4)
        normals = vertex_normals(self.vertices, self.triangles)
        centre, radius = face_ball(self.landmarks)
        middle = self.vertices[self.triangles].mean(1)
        near = np.linalg.norm(middle - centre, axis=1) < radius - 4
        skin = np.flatnonzero(
            near & (np.asarray(model.triangle_region) == 0) & (normals[self.triangles].mean(1)[:, 2] > 0.3)
        )
        chosen = rng.choice(skin, 700)
        flat = self.vertices[self.triangles[chosen]]
        points = np.einsum("sk,skc->sc", rng.dirichlet([2, 2, 2], len(chosen)), flat)
        normal = np.cross(flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0])
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        # Along the flat normal the distance grows as one moves, wherever no other part of the face is nearer: not in folds and not at lids and lips.
        corners = self.vertices[self.triangles]
        front = corners[corners[..., 2].max(1) > points[:, 2].min() - 20]
        self.true_at_2mm = {sign: brute_force(points + 2 * sign * normal, front) for sign in (1, -1)}
        self.smooth = np.all([np.abs(d - 2) < 1e-9 for d in self.true_at_2mm.values()], axis=0)
        self.all_points, self.all_normals = points, normal
        self.points, self.normals = points[self.smooth], normal[self.smooth]
        self.signs = rng.permutation(np.where(np.arange(len(self.points)) % 2, 1.0, -1.0))

    def scan(self, offsets, regions=None):
        return Scan(
            self.points + np.broadcast_to(offsets, len(self.points))[:, None] * self.normals,
            self.landmarks,
            regions=regions or {},
        )

    def mesh(self, scale=1.0, noise=0.0):
        """The face elsewhere, turned, in another unit, its landmarks a little off."""
        off = noise * np.random.default_rng(5).normal(size=(7, 3))
        return PredictedMesh(
            scale * (self.vertices @ TURN.T + [10, -20, 400]),
            self.triangles,
            scale * ((self.landmarks + off) @ TURN.T + [10, -20, 400]),
        )


@pytest.fixture(scope="module")
def head():
    return Head()


@pytest.mark.parametrize("style", ["now", "now-metric"])
@pytest.mark.parametrize("offset", [0.5, 1.0, 2.0])
def test_known_offsets_measure_back(head, style, offset):
    """Points moved in and out by 0.5, 1 and 2 mm; the prediction is turned, moved, scaled, and its landmarks are off by a millimetre."""
    mesh = head.mesh(1.0, 1.0) if style == "now-metric" else head.mesh(0.001, 1.0)
    assert len(head.points) > 300
    found = scan_errors(head.scan(offset * head.signs), mesh, STYLES[style]).distances
    assert np.median(found) == pytest.approx(offset, rel=0.02)
    assert found.mean() == pytest.approx(offset, rel=0.02)
    assert np.sqrt((found**2).mean()) == pytest.approx(offset, rel=0.02)


@pytest.mark.parametrize("sign", [1, -1])
def test_in_the_right_place_distances_are_those_of_brute_force(head, sign):
    """Folds, lids and lips included: there a point that was moved by 2 mm may be nearer to another part of the face."""
    scan = Scan(head.all_points + 2 * sign * head.all_normals, head.landmarks)
    found = scan_errors(scan, head.mesh(0.001), with_refinement(STYLES["now"], "none")).distances
    assert np.allclose(found, head.true_at_2mm[sign], atol=1e-6)
    assert not head.smooth.all()


def test_known_noise_measures_back(head):
    """Gaussian noise of 0.5 mm along the normals. Each sample is known; so is what they tend to: |x| has mean 0.798 σ."""
    noise = 0.5 * np.random.default_rng(6).normal(size=len(head.points))
    errors = scan_errors(head.scan(noise), head.mesh(0.01, 1.0))
    assert errors.distances.mean() == pytest.approx(np.abs(noise).mean(), rel=0.02)
    assert np.median(errors.distances) == pytest.approx(
        np.median(np.abs(noise)), rel=0.05
    )  # the median of few hundred samples moves in steps
    assert np.sqrt((errors.distances**2).mean()) == pytest.approx(np.sqrt((noise**2).mean()), rel=0.02)
    assert errors.distances.mean() == pytest.approx(0.5 * np.sqrt(2 / np.pi), rel=0.1)


def test_holes_in_the_scan_change_nothing(head):
    whole = head.scan(head.signs)
    away = np.linalg.norm(head.points[:, None] - head.points[[3, 100, 250]], axis=2).min(1)
    kept = away > 12
    assert 0.05 < 1 - kept.mean() < 0.6
    holed = Scan(whole.points[kept], whole.landmarks)
    found = scan_errors(holed, head.mesh(0.001, 1.0)).distances
    assert found.mean() == pytest.approx(scan_errors(whole, head.mesh(0.001, 1.0)).distances[kept].mean(), rel=0.02)


def test_points_that_are_not_finite_are_holes_too(head):
    scan = head.scan(head.signs)
    scan.points[::50] = np.nan
    errors = scan_errors(scan, head.mesh(), STYLES["now"])
    assert len(errors.distances) == len(head.points) - len(head.points[::50]) and np.isfinite(errors.distances).all()


def test_refinement_finds_the_place(head):
    """Landmarks that are 3 mm off leave a wrong pose and scale; the points themselves put it right, to rounding."""
    scan, mesh = head.scan(0.0), head.mesh(0.001, 3.0)
    before = scan_errors(scan, mesh, with_refinement(STYLES["now"], "none"))
    after = scan_errors(scan, mesh)
    assert before.distances.mean() > 0.2 and before.steps == 0
    assert after.distances.max() < 1e-4
    assert after.placement.scale == pytest.approx(1000, rel=1e-6)
    assert np.allclose(after.placement.rotation, TURN.T, atol=1e-6)
    rigid = scan_errors(scan, mesh, STYLES["rigid-icp"])
    assert rigid.placement.scale == before.placement.scale  # the scale of the seven points stays
    assert after.distances.mean() < rigid.distances.mean() < before.distances.mean()


def test_metric_figures_do_not_forgive_the_size(head):
    big = head.mesh(1.03)
    assert scan_errors(head.scan(0.0), big).distances.max() < 1e-4
    metric = scan_errors(head.scan(0.0), big, STYLES["now-metric"])
    assert metric.placement.scale == 1 and metric.distances.mean() > 0.3


def test_without_refinement_an_inflated_scan_is_as_far_as_it_was_inflated(head):
    """All points 1 mm outwards: a refinement would hide part of it, the seven landmarks do not."""
    errors = scan_errors(head.scan(1.0), head.mesh(), with_refinement(STYLES["now-metric"], "none"))
    assert np.median(errors.distances) == pytest.approx(1, rel=1e-6)
    assert scan_errors(head.scan(1.0), head.mesh()).distances.mean() < 0.9


def test_regions(head):
    """Two halves that were moved apart: each fits by itself, not together."""
    left = head.points[:, 0] > 0
    regions = {"left": np.flatnonzero(left), "right": np.flatnonzero(~left)}
    moved = head.points + np.where(left[:, None], [0.0, 0, 1.5], [0.0, 0, -1.5])
    scan = Scan(moved, head.landmarks, regions=regions)
    by_region = scan_errors(scan, head.mesh(), STYLES["realy"])
    together = scan_errors(scan, head.mesh(), STYLES["rigid-icp"])
    assert {k: len(v) for k, v in by_region.regions.items()} == {k: len(v) for k, v in regions.items()}
    assert max(v.mean() for v in by_region.regions.values()) < 0.01
    assert min(v.mean() for v in together.regions.values()) > 0.1


def test_face_ball_by_hand():
    seven = np.array([[-50.0, 40, 0], [-20, 40, 0], [20, 40, 0], [50, 40, 0], [0, 0, 30], [-25, -20, 0], [25, -20, 0]])
    centre, radius = face_ball(seven)
    # From (0, 0, 30) 0.3 of the way to (0, 40, 0); 0.7 · (100 + 50).
    assert np.allclose(centre, [0, 12, 21]) and radius == pytest.approx(105)


def test_only_points_in_the_ball_count(head):
    centre, radius = face_ball(head.landmarks)
    far = centre + np.array([[0, radius + 0.01, 0], [0, 0, -2 * radius]])
    scan = Scan(np.concatenate([far, head.points]), head.landmarks)
    assert scan_errors(scan, head.mesh()).index.tolist() == list(range(2, len(head.points) + 2))
    assert len(scan_errors(scan, head.mesh(), STYLES["realy"]).index) == len(scan.points)


def test_alignment_of_landmarks():
    rng = np.random.default_rng(8)
    points = rng.normal(size=(7, 3)) * 30
    target = 2.5 * points @ TURN.T + [1, 2, 3]
    assert np.allclose(align_landmarks(points, target, "similarity")(points), target)
    rigid = align_landmarks(points, target, "rigid")
    assert rigid.scale == 1 and np.allclose(rigid.rotation, TURN) and np.allclose(rigid(points).mean(0), target.mean(0))
    mirrored = align_landmarks(points, target * [-1, 1, 1], "similarity")
    assert np.linalg.det(mirrored.rotation) == pytest.approx(1)
    assert np.allclose(mirrored.inverse(mirrored(points)), points)


@pytest.mark.parametrize(
    ("factor", "scan_factor", "says"),
    [
        (0.001, 1, "prediction's landmarks.*1000 times too small, as metres.*--unit"),
        (0.1, 1, "10 times too small, as centimetres"),
        (1, 0.001, "scan's landmarks.*1000 times too small, as metres.*--truth-unit"),
        (1, 1000, "1000 times too large, as millimetres that are taken for metres"),
        (1, 1e-5, "check the unit"),
    ],
)
def test_wrong_units_are_guessed(head, factor, scan_factor, says):
    scan = Scan(scan_factor * head.points, scan_factor * head.landmarks)
    with pytest.raises(FitjaxError, match=says):
        scan_errors(scan, head.mesh(factor), STYLES["now-metric"], "face")


def test_landmarks_in_another_order(head):
    mesh = head.mesh()
    with pytest.raises(
        FitjaxError, match=r"face: the seven landmarks are .* expected them in the order outer corner of the right eye"
    ):
        scan_errors(head.scan(0.0), PredictedMesh(mesh.vertices, mesh.triangles, mesh.landmarks[::-1]), what="face")


def test_bad_scans(head):
    with pytest.raises(FitjaxError, match=r"the scan: expected 7 finite landmarks.*\(6, 3\)"):
        scan_errors(Scan(head.points, head.landmarks[:6]), head.mesh())
    with pytest.raises(FitjaxError, match="no point of the scan lies within the face"):
        scan_errors(Scan(head.points + 1000, head.landmarks), head.mesh())
    with pytest.raises(FitjaxError, match="region 'ear' has no point"):
        scan_errors(head.scan(0.0, {"ear": np.zeros(0, int)}), head.mesh())


def test_the_protocol_says_what_was_done():
    now, realy = " ".join(protocol_lines(STYLES["now"])), " ".join(protocol_lines(STYLES["realy"]))
    assert "then it is turned, moved and scaled, so that" in now and "ball" in now
    assert "each region by itself" in realy and "is not done" in realy
    assert "refined none" in with_refinement(STYLES["now"], "none").name
