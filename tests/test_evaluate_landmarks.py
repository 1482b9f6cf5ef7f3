"""NME against any landmark files: normalisations, missing faces, area under the curve, by hand; the plot and the report."""

import json

import numpy as np
import pytest

from fitjax.errors import FitjaxError
from fitjax.evaluate.curve import Curve, area_under_curve, cumulative_plot, nice_step
from fitjax.evaluate.landmarks import evaluate_landmarks, read_landmark_truth
from fitjax.evaluate.nme import face_scale
from fitjax.evaluate.predictions import FacePrediction, Predictions
from fitjax.evaluate.report import Evaluation, Table, plain, table_text, to_json, to_markdown, write_evaluation


def face68():
    """Box 120 × 50 (diagonal 130), outer eye corners 60 apart, eye centres 40 apart."""
    points = np.random.default_rng(3).uniform(20, 40, (68, 2))
    points[0], points[16] = (0, 0), (120, 50)
    points[36:42], points[42:48] = (40, 20), (80, 20)
    points[36], points[45] = (30, 20), (90, 20)
    points[37], points[44] = (50, 20), (70, 20)  # the eyes' centres stay at 40 and 80
    return points


def one(points, name="a", key=""):
    return Predictions({name: FacePrediction(name, {key: points})}, "made")


def test_scales_by_hand():
    points = face68()
    assert face_scale(points, "box") == pytest.approx(np.sqrt(120 * 50))
    assert face_scale(points, "diagonal") == pytest.approx(130)
    assert face_scale(points, "interocular") == pytest.approx(60)
    assert face_scale(points, "interpupil") == pytest.approx(40)
    with pytest.raises(ValueError, match="68 points"):
        face_scale(points[:5], "interocular")
    with pytest.raises(ValueError, match="box, diagonal"):
        face_scale(points, "nose")


@pytest.mark.parametrize(
    ("normalisation", "scale"), [("box", np.sqrt(6000)), ("diagonal", 130), ("interocular", 60), ("interpupil", 40)]
)
def test_one_pixel_by_each_normalisation(normalisation, scale):
    evaluation = evaluate_landmarks(one(face68()), one(face68() + np.array([0, 1])), normalisation)
    assert evaluation.results["faces"]["a"] == pytest.approx(100 / scale)
    assert normalisation in evaluation.followed[0] and normalisation in evaluation.unit
    assert evaluation.results["groups"] == pytest.approx(
        dict.fromkeys(("jaw", "brows", "nose", "eyes", "mouth"), 100 / scale)
    )


def test_points_that_the_truth_lacks_do_not_count():
    truth, found = face68(), face68()
    truth[[1, 2]] = np.nan
    found[1] += 1000
    found[3] += [3, 4]
    assert evaluate_landmarks(one(truth), one(found), "diagonal").results["faces"]["a"] == pytest.approx(
        100 * 5 / 66 / 130
    )


def many(errors, missing=0):
    truth = {f"f{k}": FacePrediction("t", {"": face68()}) for k in range(len(errors) + missing)}
    found = {f"f{k}": FacePrediction("p", {"": face68() + np.array([1.3 * e, 0])}) for k, e in enumerate(errors)}
    return Predictions(truth, "made"), Predictions(found, "made")


def test_failures_area_and_missing_faces():
    """Errors of 2, 4 and 12 % and one face without a prediction, up to 10 %: the area is (8 + 6 + 0 + 0) / 40."""
    evaluation = evaluate_landmarks(*many([2.0, 4.0, 12.0], missing=1), "diagonal", threshold=10)
    assert evaluation.missing == ["f3"] and evaluation.evaluated == 3 and evaluation.expected == 4
    assert evaluation.results["mean"] == pytest.approx(6) and evaluation.results["median"] == pytest.approx(4)
    assert evaluation.results["failure_percent"] == pytest.approx(50)
    assert evaluation.results["auc"] == pytest.approx(14 / 40)
    assert np.isnan(evaluation.results["faces"]["f3"])


def test_area_is_what_the_curve_encloses():
    rng = np.random.default_rng(0)
    errors = rng.gamma(3, 1.5, 300)
    curve = Curve("x", errors, 320)
    grid = (np.arange(200000) + 0.5) * 8 / 200000
    assert area_under_curve(errors, 320, 8) == pytest.approx(curve.share_below(grid).mean() / 100, abs=1e-5)
    assert curve.share_below([errors.min() - 1e-9, errors.max()]).tolist() == [0, pytest.approx(100 * 300 / 320)]


@pytest.mark.parametrize(
    ("truth", "found", "options", "says"),
    [
        (face68(), face68()[:60], {}, "expected 68 points as in a, found 60"),
        (face68(), np.where(np.arange(68)[:, None] == 9, np.nan, face68()), {}, "point 9 is missing"),
        (face68(), face68() / 200, {}, "normalised"),
        (face68()[:20], face68()[:20], {"normalisation": "interocular"}, "needs the 68 points"),
        (
            np.where(np.arange(68)[:, None] == 36, np.nan, face68()),
            face68(),
            {"normalisation": "interocular"},
            "is unknown",
        ),
        (np.full((68, 2), np.nan), face68(), {}, "no point at all"),
        (face68(), face68(), {"threshold": 0}, "positive"),
        (face68(), face68(), {"normalisation": "nose"}, "box, diagonal"),
    ],
)
def test_bad_landmarks(truth, found, options, says):
    with pytest.raises(FitjaxError, match=says):
        evaluate_landmarks(one(truth), one(found), **options)


def test_named_sets():
    both = {"ibug68": face68(), "mediapipe478": np.zeros((478, 2))}
    found = Predictions({"a": FacePrediction("a", both)}, "fits")
    evaluation = evaluate_landmarks(one(face68()), found)
    assert evaluation.results["faces"]["a"] == 0 and "set ibug68" in evaluation.followed[-1]
    with pytest.raises(
        FitjaxError, match="a: expected landmarks of one of the sets ibug51, found ibug68, mediapipe478"
    ):
        evaluate_landmarks(one(face68()), found, sets=("ibug51",))


def test_one_file_is_a_truth(tmp_path):
    np.savetxt(tmp_path / "anna.txt", face68())
    truth = read_landmark_truth(tmp_path / "anna.txt")
    assert list(truth.faces) == ["anna"] and np.allclose(truth.faces["anna"].sets[""], face68())


@pytest.mark.parametrize(
    ("span", "step"), [(0.9, 0.2), (1.0, 0.2), (1.01, 0.5), (5, 1), (11, 5), (0.03, 0.01), (40, 10)]
)
def test_ticks(span, step):
    assert nice_step(span) == pytest.approx(step)


def test_the_plot_shows_the_curve():
    """A curve that is at 100 % from the start, and one that stays at 50 %: coloured pixels at those heights, and none between."""
    plot = cumulative_plot([Curve("all", np.zeros(10), 10), Curve("half", np.zeros(5), 10)], "NME, %")
    assert plot.shape == (480, 720, 3) and plot.dtype == np.uint8
    inner = plot[:, 200:450].astype(int)
    coloured = [
        int(np.mean(np.flatnonzero(((inner - c) ** 2).sum(-1).mean(1) < 8000))) for c in ([0, 114, 178], [213, 94, 0])
    ]
    low, high = 480 - 64, 24
    assert coloured == [pytest.approx(high, abs=3), pytest.approx((low + high) / 2, abs=3)]


def test_reports_hold_no_nan_and_are_written_whole(tmp_path):
    values = {"a": np.array([1.0, np.nan]), "b": (np.float32(2), np.int64(3)), "c": {"d": float("inf")}}
    assert plain(values) == {"a": [1.0, None], "b": [2.0, 3], "c": {"d": None}}
    evaluation = Evaluation(
        "landmarks", "T", ["one", "two"], 30, missing=[f"m{k:02d}" for k in range(25)], results=values
    )
    evaluation.tables.append(
        Table("x|y", ["name", "n"], [["a|b", 0.12345], ["c", None], ["d", 12.345], ["e", float("nan")]])
    )
    evaluation.pictures["a/b c"] = np.zeros((4, 5, 3), np.uint8)
    written = write_evaluation(tmp_path / "deep" / "out", evaluation)
    assert [p.name for p in written] == ["landmarks.json", "landmarks.md", "landmarks.png", "landmarks_a_b_c.png"]
    assert all(p.stat().st_size for p in written)
    content = json.loads(written[0].read_text())
    assert content["evaluated"] == 5 and len(content["missing"]) == 25 and content["followed"] == ["one", "two"]
    assert to_json(evaluation) == written[0].read_text()
    text = to_markdown(evaluation)
    assert "m19 and 5 more" in text and "m20" not in text and "- two" in text
    assert table_text(evaluation.tables[0]).splitlines()[2:] == [
        "| a\\|b | 0.123 |",
        "| c | – |",
        "| d | 12.35 |",
        "| e | – |",
    ]
    (tmp_path / "file").write_text("")
    with pytest.raises(FitjaxError, match="is a file"):
        write_evaluation(tmp_path / "file", evaluation)
