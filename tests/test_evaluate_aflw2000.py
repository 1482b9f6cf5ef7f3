"""AFLW2000-3D against a hand-made set, and against an independent script on the annotations."""

import json
from math import hypot, sqrt

import numpy as np
import pytest

from benchmarks import shared_data
from fitjax.errors import FitjaxError
from fitjax.evaluate.aflw2000 import evaluate_aflw2000, label_disagreement
from fitjax.evaluate.aflw2000_truth import ORIGINAL, REANNOTATED, read_aflw2000, write_aflw2000
from fitjax.evaluate.predictions import FacePrediction, Predictions
from fitjax.evaluate.report import to_json, to_markdown


def face(width=90.0, height=160.0, left=100.0, top=80.0):
    """68 points whose tight box is ``width`` × ``height``: sqrt(90 · 160) = 120."""
    points = np.random.default_rng(7).uniform(0.1, 0.9, (68, 2))
    points[0], points[5], points[9], points[20] = (0, 0.5), (1, 0.4), (0.5, 1), (0.3, 0)
    return points * [width, height] + [left, top]


#: Yaws at the edges of the bins: 30 and 60 belong to the bin below.
YAWS = np.array([0.0, 30.0, -30.0, 30.001, -60.0, 60.001, -95.0])
NAMES = [f"image{k:05d}" for k in range(len(YAWS))]
#: Each face's prediction is off by so many pixels to the right, in all points.
OFF = np.array([1.0, 2.0, 3.0, 6.0, 12.0, 24.0, 36.0])


@pytest.fixture
def truth_file(tmp_path):
    """Original labels, and re-annotated ones that are one pixel lower; the last face has a roll of 120°."""
    points = np.stack([face()] * len(YAWS))
    pose = np.stack([0 * YAWS, YAWS, 0 * YAWS], 1)
    pose[-1, 2] = 120
    np.savez(
        tmp_path / "truth.npz",
        landmarks=points.transpose(0, 2, 1),
        landmarks_reannotated=(points + np.array([0, 1])).transpose(0, 2, 1),
        yaw_degrees=YAWS,
        pose_pitch_yaw_roll=pose,
        name=np.array(NAMES),
    )
    return tmp_path / "truth.npz"


def predictions(skip=(), pose=True):
    faces = {
        n: FacePrediction(n, {"": face() + np.array([OFF[k], 0])}, np.array([1.0, YAWS[k] + 2, 3.0]) if pose else None)
        for k, n in enumerate(NAMES)
        if n not in skip
    }
    return Predictions(faces, "made by hand")


def test_hand_made_set(truth_file):
    evaluation = evaluate_aflw2000(read_aflw2000(truth_file), predictions())
    found = evaluation.results["nme"][ORIGINAL]
    # One pixel of sqrt(90 · 160) = 120 is 0.8333 %.
    percent = 100 * OFF / 120
    assert found["faces"] == pytest.approx(percent)
    bins = [percent[:3].mean(), percent[3:5].mean(), percent[5:].mean()]
    assert list(found["bins"].values()) == pytest.approx(bins)
    assert bins == pytest.approx([5 / 3, 7.5, 25])
    assert list(found["faces_in_bins"].values()) == [3, 2, 2]
    assert found["mean_of_bins"] == pytest.approx((5 / 3 + 7.5 + 25) / 3)
    assert found["mean_of_faces"] == pytest.approx(100 * OFF.mean() / 120)
    again = evaluation.results["nme"][REANNOTATED]["faces"]
    assert again == pytest.approx([100 * hypot(x, 1) / 120 for x in OFF])
    assert evaluation.results["labels_apart"]["mean_of_faces"] == pytest.approx(100 / 120)
    assert evaluation.missing == [] and evaluation.evaluated == 7


def test_hand_made_pose(truth_file):
    found = evaluate_aflw2000(read_aflw2000(truth_file), predictions()).results["pose"]
    # The last face has a roll beyond 99°; its yaw of 95° alone would not leave it out.
    assert found["faces"] == 6 and found["left_out"] == [NAMES[-1]]
    assert found["mae"] == pytest.approx({"pitch": 1, "yaw": 2, "roll": 3, "mean": 2})
    assert 2 < found["geodesic"] < 4.5


def test_missing_predictions_are_named_and_in_no_mean(truth_file):
    evaluation = evaluate_aflw2000(read_aflw2000(truth_file), predictions(skip=(NAMES[0], NAMES[3])))
    assert evaluation.missing == [NAMES[0], NAMES[3]] and evaluation.evaluated == 5
    found = evaluation.results["nme"][ORIGINAL]
    assert list(found["bins"].values()) == pytest.approx([100 * 2.5 / 120, 10, 25])
    assert np.isnan(found["faces"][[0, 3]]).all()
    assert evaluation.results["pose"]["missing"] == [NAMES[0], NAMES[3]]
    # Missing faces keep the curve down.
    assert evaluation.curves[0].share_below(1e9) == pytest.approx(100 * 5 / 7)
    text = to_markdown(evaluation)
    assert f"{NAMES[0]}, {NAMES[3]}" in text and "5 of 7 faces evaluated" in text


def test_poses_without_landmarks(truth_file):
    """Of all faces: the curve is that of the angle. Of one face among others with landmarks: that face is missing."""
    faces = predictions().faces
    poses = {n: FacePrediction(n, {}, f.pitch_yaw_roll) for n, f in faces.items()}
    evaluation = evaluate_aflw2000(read_aflw2000(truth_file), Predictions(poses, ""))
    assert evaluation.results["nme"] == {} and evaluation.results["pose"]["mae"]["mean"] == pytest.approx(2)
    assert "degrees" in evaluation.unit and len(evaluation.curves[0].errors) == 6
    mixed = evaluate_aflw2000(read_aflw2000(truth_file), Predictions({**faces, NAMES[2]: poses[NAMES[2]]}, ""))
    assert mixed.missing == [NAMES[2]] and mixed.results["pose"]["faces"] == 6
    with pytest.raises(FitjaxError, match="neither landmarks nor poses"):
        nothing = Predictions({NAMES[-1]: poses[NAMES[-1]]}, "")  # its true roll is beyond the limit
        evaluate_aflw2000(read_aflw2000(truth_file), nothing)


def test_an_empty_bin_leaves_the_headline_open(truth_file):
    truth = read_aflw2000(truth_file).subset(NAMES[:5])
    evaluation = evaluate_aflw2000(truth, predictions())
    found = evaluation.results["nme"][ORIGINAL]
    assert np.isnan(found["mean_of_bins"]) and found["mean_of_faces"] == pytest.approx(100 * OFF[:5].mean() / 120)
    assert evaluation.unused == NAMES[5:]
    content = json.loads(to_json(evaluation))  # NaN is null there
    assert content["results"]["nme"]["original"]["mean_of_bins"] is None


def test_published_tables_and_protocol_are_beside_it(truth_file):
    text = to_markdown(evaluate_aflw2000(read_aflw2000(truth_file), predictions(), name="mine"))
    for piece in (
        "| SynergyNet | 2.65 | 3.30 | 4.27 | 3.41 |",
        "| **mine** (7 faces) | 1.67 | 7.50 | 25.00 | 11.39 |",
        "| 3DDFA-V2 | 4.06 | 5.26 | 3.48 | 4.27 | – |",
        "Rx(pitch) Ry(yaw) Rz(roll)",
        "above 30° to 60° inclusive",
        "tight box",
        "±99°",
        "these of 7",
    ):
        assert piece in text, piece


def test_each_label_set_is_read_off_its_own_landmark_set(truth_file):
    sets = {"aflw68_original": face(), "aflw68": face() + np.array([0, 1]), "ibug68": face() + 9}
    faces = Predictions({n: FacePrediction(n, sets) for n in NAMES}, "fits")
    found = evaluate_aflw2000(read_aflw2000(truth_file), faces).results["nme"]
    assert found[ORIGINAL]["mean_of_faces"] == pytest.approx(0) and found[ORIGINAL]["read_off"] == {
        "aflw68_original": 7
    }
    assert found[REANNOTATED]["mean_of_faces"] == pytest.approx(0) and found[REANNOTATED]["read_off"] == {"aflw68": 7}
    other = evaluate_aflw2000(
        read_aflw2000(truth_file), faces, {ORIGINAL: ("ibug68",), REANNOTATED: ("ibug68",)}
    ).results["nme"]
    assert other[ORIGINAL]["mean_of_faces"] == pytest.approx(100 * 9 * sqrt(2) / 120)


@pytest.mark.parametrize(
    ("points", "says"),
    [
        (face()[:60], "expected 68 points, found 60"),
        (face() / 450, "normalised"),
        (np.where(np.arange(68)[:, None] == 3, np.nan, face()), "point 3 is missing"),
    ],
)
def test_bad_predictions(truth_file, points, says):
    with pytest.raises(FitjaxError, match=f"image00000.*{says}"):
        evaluate_aflw2000(
            read_aflw2000(truth_file), Predictions({NAMES[0]: FacePrediction(NAMES[0], {"": points})}, "")
        )


def test_upside_down_points_are_suspicious(truth_file):
    upside = Predictions({n: FacePrediction(n, {"": face() * [1, -1] + [0, 450]}) for n in NAMES}, "")
    assert "y downwards" in " ".join(evaluate_aflw2000(read_aflw2000(truth_file), upside).warnings)


def test_names_in_common_are_needed(truth_file):
    with pytest.raises(FitjaxError, match=r"'other'.*image00000"):
        evaluate_aflw2000(read_aflw2000(truth_file), Predictions({"other": FacePrediction("other", {"": face()})}, ""))


def write_mat(folder, name, points, pose):
    from scipy.io import savemat

    savemat(
        folder / f"{name}.mat",
        {
            "pt3d_68": np.vstack([points.T, np.zeros(68)]),
            "Pose_Para": np.array([[*np.radians(pose), 200, 200, -80, 1e-3]]),
        },
    )


def test_the_data_sets_own_files(tmp_path):
    """.mat files, the re-annotation and the yaws in files of their own, in the order of a list."""
    for k, name in enumerate(("image00002", "image00004", "image00006")):
        write_mat(tmp_path, name, face(left=10 * k), (5, 10 * k, -100 if k == 2 else 0))
    (tmp_path / "list.txt").write_text("AFLW2000/image00006.jpg\nAFLW2000/image00002.jpg\n")
    order = [2, 0]
    np.save(tmp_path / "again.npy", np.stack([face(left=10 * k).T + 1 for k in order]))
    np.save(tmp_path / "yaw.npy", np.array([75.0, 3.0]))
    truth = read_aflw2000(tmp_path, tmp_path / "again.npy", tmp_path / "yaw.npy", tmp_path / "list.txt")
    assert truth.names == ("image00006", "image00002")
    assert np.allclose(truth.labels[ORIGINAL], np.stack([face(left=10 * k) for k in order]))
    assert np.allclose(truth.labels[REANNOTATED] - truth.labels[ORIGINAL], 1)
    assert truth.yaw.tolist() == [75, 3] and np.allclose(truth.pitch_yaw_roll, [[5, 20, -100], [5, 0, 0]])
    found = Predictions({n: FacePrediction(n, {"": face()}, np.zeros(3)) for n in truth.names}, "")
    assert evaluate_aflw2000(truth, found).results["pose"]["left_out"] == ["image00006"]
    write_aflw2000(tmp_path / "kept.npz", truth)
    kept = read_aflw2000(tmp_path / "kept.npz")
    assert (
        kept.names == truth.names
        and np.array_equal(kept.yaw, truth.yaw)
        and np.array_equal(kept.pitch_yaw_roll, truth.pitch_yaw_roll)
    )
    assert all(np.array_equal(kept.labels[k], truth.labels[k]) for k in (ORIGINAL, REANNOTATED))
    (tmp_path / "kept.npz").unlink()
    plain = read_aflw2000(tmp_path)
    assert list(plain.labels) == [ORIGINAL] and plain.yaw == pytest.approx([0, 10, 20])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"landmarks": np.zeros((7, 3, 67))}, "expected 68 points per face, found 67"),
        ({"landmarks": np.full((7, 3, 68), np.nan)}, "not finite"),
        ({"yaw_degrees": np.zeros(6)}, "'yaw_degrees'.*7 faces"),
        ({"name": np.array(["a"] * 7)}, "'a' is there twice"),
        ({"name": np.zeros(6, int)}, "7 names"),
        ({"landmarks_reannotated": np.zeros((6, 2, 68)) + np.arange(68) * 9}, "landmarks_reannotated"),
    ],
)
def test_bad_truth(truth_file, change, says):
    with np.load(truth_file) as data:
        arrays = dict(data)
    np.savez(truth_file, **{**arrays, **change})
    with pytest.raises(FitjaxError, match=f"truth.*{says}"):
        read_aflw2000(truth_file)


def test_truth_that_is_not_there(tmp_path):
    with pytest.raises(FitjaxError, match="no such file or folder"):
        read_aflw2000(tmp_path / "absent")
    with pytest.raises(FitjaxError, match=r"no \.mat and no \.npz"):
        read_aflw2000(tmp_path)


def test_label_sets_disagree_as_an_independent_script_finds():
    path = shared_data.require("aflw2000/landmarks.npz", skip=pytest.skip)
    sums, counts = [0.0, 0.0, 0.0], [0, 0, 0]
    with np.load(path, allow_pickle=False) as data:
        original, again, yaws = (
            data["landmarks"].tolist(),
            data["landmarks_reannotated"].tolist(),
            data["pose_npy"].tolist(),
        )
    for a, b, yaw in zip(original, again, yaws):
        xs, ys = a[0], a[1]
        size = sqrt((max(xs) - min(xs)) * (max(ys) - min(ys)))
        distances = [hypot(b[0][k] - xs[k], b[1][k] - ys[k]) for k in range(68)]
        k = 0 if abs(yaw) <= 30 else 1 if abs(yaw) <= 60 else 2
        sums[k] += 100 * sum(distances) / 68 / size
        counts[k] += 1
    truth = read_aflw2000(path)
    again_as_prediction = Predictions(
        {n: FacePrediction(n, {"": p}) for n, p in zip(truth.names, truth.labels[REANNOTATED])}, ""
    )
    evaluation = evaluate_aflw2000(truth, again_as_prediction)
    found = evaluation.results["nme"][ORIGINAL]
    assert found["mean_of_faces"] == pytest.approx(2.99, abs=0.005)
    assert found["mean_of_faces"] == pytest.approx(sum(sums) / 992, abs=1e-4)
    assert list(found["bins"].values()) == pytest.approx([s / n for s, n in zip(sums, counts)], abs=1e-4)
    assert list(found["faces_in_bins"].values()) == counts and sum(counts) == 992
    assert found["mean_of_bins"] == pytest.approx(sum(s / n for s, n in zip(sums, counts)) / 3, abs=1e-4)
    assert evaluation.results["nme"][REANNOTATED]["mean_of_faces"] == 0
    apart = label_disagreement(truth)
    assert apart is not None and apart.mean() == pytest.approx(found["mean_of_faces"])


def test_the_nine_photos_as_truth():
    truth = read_aflw2000(shared_data.require("aflw2000/dev", skip=pytest.skip))
    photos = shared_data.dev_photos()
    assert truth.names == tuple(p.name for p in photos)
    assert truth.yaw == pytest.approx([p.yaw for p in photos])
    assert np.allclose(truth.labels[ORIGINAL], [p.original for p in photos])
    known = np.isfinite(truth.pitch_yaw_roll).all(1)
    assert known.sum() == 7 and known.tolist() == [p.pose is not None for p in photos]
