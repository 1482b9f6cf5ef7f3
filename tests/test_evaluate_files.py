"""Scans, meshes, landmarks, regions and label maps from files, and which prediction belongs to which scan."""

import json

import numpy as np
import pytest

from fitjax.errors import FitjaxError
from fitjax.evaluate.part_maps import evaluate_parts, has_sides, map_files, merge_sides, part_numbers
from fitjax.evaluate.scan import PredictedMesh, Scan
from fitjax.evaluate.scan_files import (
    find_meshes,
    find_scans,
    read_landmarks7,
    read_mesh,
    read_predicted,
    read_scan,
    unit_factor,
)
from fitjax.evaluate.scan_picture import colours, front_axes, scan_picture
from fitjax.evaluate.scan_protocol import NOW7, STYLES
from fitjax.evaluate.scan_set import evaluate_scans, pair_scans, read_name_list
from fitjax.files.obj import write_obj
from fitjax.observation.part_tables import CELEBAMASK_HQ, LabelTable

VERTICES = np.random.default_rng(0).normal(size=(9, 3))
TRIANGLES = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8]])
SEVEN = np.random.default_rng(1).normal(size=(7, 3)) * 40


def test_meshes(tmp_path):
    write_obj(tmp_path / "a.obj", VERTICES, TRIANGLES)
    np.savez(tmp_path / "b.npz", vertices=VERTICES, triangles=TRIANGLES)
    np.savez(tmp_path / "cloud.npz", vertices=VERTICES)
    (tmp_path / "c.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 9\nproperty float x\nproperty float y\nproperty float z\nelement face 3\n"
        "property list uchar int vertex_indices\nend_header\n"
        + "".join(f"{x} {y} {z}\n" for x, y, z in VERTICES)
        + "".join(f"3 {a} {b} {c}\n" for a, b, c in TRIANGLES)
    )
    pytest.importorskip("trimesh")
    for name in ("a.obj", "b.npz", "c.ply"):
        vertices, triangles = read_mesh(tmp_path / name)
        assert np.allclose(vertices, VERTICES, atol=1e-6) and np.array_equal(triangles, TRIANGLES), name
    assert len(read_mesh(tmp_path / "cloud.npz")[1]) == 0


def test_landmark_files(tmp_path):
    full = np.random.default_rng(2).normal(size=(68, 3))
    np.save(tmp_path / "a.npy", SEVEN)
    np.savetxt(tmp_path / "b.txt", SEVEN)
    (tmp_path / "c.json").write_text(json.dumps(SEVEN.tolist()))
    points = "".join(f'<point x="{x}" active="1" y="{y}" z="{z}" name="{k}"/>\n' for k, (x, y, z) in enumerate(SEVEN))
    (tmp_path / "d.pp").write_text(
        f'<!DOCTYPE PickedPoints>\n<PickedPoints>\n<point x="0" y="0" z="0" active="0"/>\n{points}</PickedPoints>\n'
    )
    for name in ("a.npy", "b.txt", "c.json", "d.pp"):
        assert np.allclose(read_landmarks7(tmp_path / name), SEVEN), name
    np.save(tmp_path / "full.npy", full)
    np.save(tmp_path / "inner.npy", full[17:])
    assert np.array_equal(read_landmarks7(tmp_path / "full.npy"), full[list(NOW7)])
    assert np.array_equal(read_landmarks7(tmp_path / "inner.npy"), full[list(NOW7)])
    # The published indices of the inner 51.
    assert np.array_equal(read_landmarks7(tmp_path / "inner.npy"), full[17:][[19, 22, 25, 28, 16, 31, 37]])


def test_scans_in_all_layouts(tmp_path):
    """A file with its landmarks beside it; NoW's folder per subject with landmarks elsewhere; REALY's file per region; an .npz with all in it."""
    write_obj(tmp_path / "plain.obj", VERTICES, TRIANGLES)
    np.savetxt(tmp_path / "plain.txt", SEVEN)
    np.save(tmp_path / "plain_regions.npy", np.repeat([0, 1, -1], 3))
    plain = read_scan(tmp_path / "plain.obj", None, 10.0)
    assert np.allclose(plain.points, 10 * VERTICES) and np.allclose(plain.landmarks, 10 * SEVEN)
    assert {k: v.tolist() for k, v in plain.regions.items()} == {"0": [0, 1, 2], "1": [3, 4, 5]}
    subject, marks = tmp_path / "subject", tmp_path / "marks" / "subject"
    subject.mkdir()
    marks.mkdir(parents=True)
    write_obj(subject / "scan_17.obj", VERTICES, TRIANGLES)
    np.savetxt(marks / "picked.txt", SEVEN)
    assert np.allclose(read_scan(subject, tmp_path / "marks", 1.0).landmarks, SEVEN)
    (tmp_path / "realy").mkdir()
    for k, region in enumerate(("cheek", "nose")):
        write_obj(tmp_path / "realy" / f"{region}.obj", VERTICES + k, TRIANGLES)
    np.savetxt(tmp_path / "realy.txt", SEVEN)
    realy = read_scan(tmp_path / "realy", None, 1.0)
    assert len(realy.points) == 18 and list(realy.regions) == ["cheek", "nose"] and realy.triangles is not None
    assert np.allclose(realy.points[realy.regions["nose"]], VERTICES + 1) and realy.triangles.max() == 17
    np.savez(
        tmp_path / "all.npz",
        vertices=VERTICES,
        landmarks=SEVEN,
        regions=np.zeros(9, int),
        region_names=np.array(["face"]),
    )
    whole = read_scan(tmp_path / "all.npz", None, 1.0)
    assert list(whole.regions) == ["face"] and whole.triangles is None
    assert sorted(find_scans(tmp_path)) == ["all", "plain", "realy", "subject"]


def test_predictions_in_folders(tmp_path):
    place = tmp_path / "subject" / "selfie"
    place.mkdir(parents=True)
    write_obj(place / "IMG.obj", VERTICES, TRIANGLES)
    np.save(place / "IMG.npy", SEVEN)
    meshes = find_meshes(tmp_path)
    assert not meshes.fits and list(meshes.places) == ["subject/selfie/IMG"]
    read = read_predicted(meshes.places["subject/selfie/IMG"], 1000.0)
    assert np.allclose(read.vertices, 1000 * VERTICES) and np.allclose(read.landmarks, 1000 * SEVEN)


def test_pairs():
    assert pair_scans({"s": 0}, {"p": 0}) == ({"p": "s"}, [], [])  # one and one belong together
    scans, meshes = dict.fromkeys(("s", "t", "u")), dict.fromkeys(("s/a", "s/b", "t", "x"))
    assert pair_scans(scans, meshes) == ({"s/a": "s", "s/b": "s", "t": "t"}, ["u"], ["x"])
    assert pair_scans(scans, meshes, ["s/a", "s/c"]) == ({"s/a": "s"}, ["s/c"], ["x"])
    # NoW's lists name the folders of its data set first; REALY's predictions are named SUBJECT_VIEW.
    assert pair_scans(scans, meshes, ["/release/pictures/s/a", "/release/pictures/s/c"]) == (
        {"s/a": "s"},
        ["s/c"],
        ["x"],
    )
    assert pair_scans({"1": 0, "2": 0}, {"1_7": 0, "1_9": 0}) == ({"1_7": "1", "1_9": "1"}, ["2"], [])
    with pytest.raises(FitjaxError, match=r"'x'.*'s'"):
        pair_scans(scans, {"x": 0, "y": 0})


def test_pooled_figures_are_over_points_not_over_scans():
    """A plane of 100 × 100 mm; three points 1 mm above it, one 5 mm: median 1, mean 2. Alone the second scan has 5."""
    corners = np.array([[-50.0, -50, 0], [50, -50, 0], [50, 50, 0], [-50, 50, 0]])
    seven = np.array([[-45.0, 30, 0], [-20, 30, 0], [20, 30, 0], [45, 30, 0], [0, 0, 0], [-25, -30, 0], [25, -30, 0]])
    mesh = PredictedMesh(corners, np.array([[0, 1, 2], [0, 2, 3]]), seven)
    scans = {
        "a": Scan(np.array([[0.0, 0, 1], [9, 0, 1], [0, 9, -1]]), seven),
        "b": Scan(np.array([[0.0, 0, 5]]), seven),
    }
    from dataclasses import replace

    protocol = replace(STYLES["now-metric"], refine="none")
    readers = {n: (lambda s=s: s) for n, s in scans.items()}
    evaluation = evaluate_scans(readers, {"a": lambda: mesh, "b": lambda: mesh}, protocol, pictures=1)
    assert evaluation.results["pooled"] == pytest.approx({"median": 1, "mean": 2, "std": np.sqrt(3)})
    assert evaluation.results["predictions"]["b"]["mean"] == pytest.approx(5)
    assert list(evaluation.pictures) == ["a"]
    # A prediction that is missing keeps the curve down.
    third = evaluate_scans({**readers, "c": readers["a"]}, {"a": lambda: mesh, "b": lambda: mesh}, protocol, pictures=0)
    assert third.missing == ["c"] and third.curves[0].share_below(1e9) == pytest.approx(100 * 4 / 6)


def test_picture_of_a_scan():
    """Seen from the front: what lies to the subject's left is on the picture's right; far points are red, near ones blue, others grey."""
    seven = np.array([[-45.0, 30, 0], [-20, 30, 0], [20, 30, 0], [45, 30, 0], [0, 0, 0], [-25, -30, 0], [25, -30, 0]])
    assert np.allclose(front_axes(seven), np.eye(3))
    points = np.array([[-40.0, -40, 0], [0, -40, 0], [40, -40, 0], [-40, 40, 0], [0, 40, 0], [40, 40, 0]])
    triangles = np.array([[0, 1, 4], [0, 4, 3], [1, 2, 5], [1, 5, 4]])
    distances = np.where(points[:, 0] > 0, 2.0, 0.0)
    for mesh in (triangles, None):
        picture = scan_picture(Scan(points, seven, mesh), np.arange(6), distances, end=2.0)
        front = picture[28:388, 360:720].astype(int)
        blueness = front[..., 2] - front[..., 0]
        left, right = blueness[:, :90], blueness[:, 270:]
        assert left.max() > 80 and left.min() >= 0
        assert right.min() < -80 and right.max() <= 0
    assert np.allclose(
        colours(np.array([0.0, 2.0, 5.0, np.nan]), 2.0), [[38, 70, 140], [155, 20, 40], [155, 20, 40], [150, 150, 150]]
    )


def test_units():
    assert [unit_factor(u) for u in ("mm", "cm", "m", "0.5")] == [1, 10, 1000, 0.5]
    for wrong in ("inch", "-1", "nan", "0"):
        with pytest.raises(FitjaxError, match="mm, cm, m"):
            unit_factor(wrong)


def files(**content):
    def write(folder):
        for name, value in content.items():
            path = folder / name.replace("__", ".")
            if isinstance(value, str):
                path.write_text(value)
            elif isinstance(value, dict):
                np.savez(path, **value)
            else:
                np.save(path, value)

    return write


@pytest.mark.parametrize(
    ("write", "read", "says"),
    [
        (
            files(a__obj="v 1 2 3\n"),
            lambda f: read_scan(f / "a.obj", None, 1),
            "a.obj: expected one file of landmarks.*found none",
        ),
        (files(a__obj="v 1 2 x\n"), lambda f: read_mesh(f / "a.obj"), "line 1"),
        (files(a__ply="solid"), lambda f: read_mesh(f / "a.ply"), "not a PLY file"),
        (files(a__stl="x"), lambda f: read_mesh(f / "a.stl"), "expected a mesh"),
        (
            files(a__npz={"vertices": VERTICES, "triangles": TRIANGLES + 9}),
            lambda f: read_mesh(f / "a.npz"),
            "expected 0 to 8",
        ),
        (
            files(a__npz={"vertices": VERTICES[:, :2]}),
            lambda f: read_mesh(f / "a.npz"),
            r"vertices \(V, 3\), found float64 \(9, 2\)",
        ),
        (files(a__npz={"x": VERTICES}), lambda f: read_mesh(f / "a.npz"), "expected 'vertices'"),
        (
            files(a__npz={"vertices": VERTICES, "landmarks": SEVEN}),
            lambda f: read_predicted(f / "a.npz", 1),
            "no triangles",
        ),
        (
            files(a__npz={"vertices": VERTICES, "landmarks": SEVEN[:5]}),
            lambda f: read_scan(f / "a.npz", None, 1),
            r"7 finite landmarks.*\(5, 3\)",
        ),
        (
            files(a__npz={"vertices": VERTICES, "landmarks": SEVEN, "regions": np.zeros(8, int)}),
            lambda f: read_scan(f / "a.npz", None, 1),
            r"one whole number per point \(9,\)",
        ),
        (
            files(
                a__npz={
                    "vertices": VERTICES,
                    "landmarks": SEVEN,
                    "regions": np.full(9, 2),
                    "region_names": np.array(["x"]),
                }
            ),
            lambda f: read_scan(f / "a.npz", None, 1),
            "region 2 has no name",
        ),
        (files(a__obj="v 1 2 3\n", a__ply="ply"), find_scans, "two scans of the name 'a'"),
        (files(a__obj="v 1 2 3\n", a__npz={"x": SEVEN}), find_meshes, "two meshes of the name 'a'"),
        (files(a__md="x"), find_scans, "holds no scan"),
        (files(a__md="x"), find_meshes, "holds no mesh"),
        (files(a__txt="a\nb\na\n"), lambda f: read_name_list(f / "a.txt"), "found 3 of which 2 differ"),
        (files(a__pp='<point x="1" y="2"/>'), lambda f: read_landmarks7(f / "a.pp"), "without numbers"),
        (files(a__json="{}"), lambda f: read_landmarks7(f / "a.json"), "seven"),
        (files(a__png="x", a__npy=np.zeros((2, 2), int)), map_files, "two label maps of the name 'a'"),
    ],
)
def test_bad_files(tmp_path, write, read, says):
    write(tmp_path)
    with pytest.raises(FitjaxError, match=says) as error:
        read(tmp_path)
    assert "\n" not in str(error.value)


def test_labels_to_parts():
    labels = np.array([[0, 1, 2, 4, 5, 6], [7, 10, 11, 12, 13, 3]])
    numbers = part_numbers(labels, CELEBAMASK_HQ, "map")
    assert numbers.tolist() == [[0, 8, 5, 1, 2, 3], [4, 0, 6, 7, 0, 0]]
    assert merge_sides(numbers).tolist() == [[0, 8, 5, 1, 1, 3], [3, 0, 6, 7, 0, 0]]
    with pytest.raises(FitjaxError, match=r"map: labels \[77\]"):
        part_numbers(np.array([[77]]), CELEBAMASK_HQ, "map")
    both = LabelTable("yours", {"right_eye": (1,), "left_eye": (1,), "nose": (2,)}, (0,))
    assert has_sides(CELEBAMASK_HQ) and not has_sides(both)
    assert part_numbers(np.array([[0, 1, 2]]), both, "map").tolist() == [[0, 1, 5]]


def test_part_means_by_hand():
    """Two faces: nose 50 and 100, upper lip seen in one alone; means over parts and over faces differ."""
    a = np.zeros((4, 4), int)
    a[0, :2], a[3] = 5, 6
    found_a = a.copy()
    found_a[0, 1] = 0
    b = np.zeros((4, 4), int)
    b[0] = 5
    evaluation = evaluate_parts({"a": lambda: (found_a, a), "b": lambda: (b, b)}, ["a", "b", "c"])
    found = evaluation.results
    assert found["parts"] == pytest.approx({"nose": 75, "upper_lip": 100})
    assert found["mean_of_parts"] == pytest.approx(87.5) and found["mean_of_faces"] == pytest.approx((75 + 100) / 2)
    assert evaluation.missing == ["c"] and "nose in 2" in evaluation.tables[0].note
    with pytest.raises(FitjaxError, match="shows none of the parts"):
        evaluate_parts({"a": lambda: (a * 0, a * 0)}, ["a"])
