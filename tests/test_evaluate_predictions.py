"""Results of any tool from files: every accepted form gives the same numbers, and bad ones give one clear error."""

import json

import numpy as np
import pytest

from fitjax.errors import FitjaxError
from fitjax.evaluate.plain_files import read_npy, read_npz, read_text_numbers
from fitjax.evaluate.point_files import face_name
from fitjax.evaluate.pose import rotation_from_degrees
from fitjax.evaluate.predictions import read_predictions

NAMES = ("anna", "bert", "cleo")
POINTS = np.random.default_rng(0).uniform(10, 400, (3, 68, 2)).round(3)
ANGLES = np.array([[1.0, -20, 3], [40, 5, -6], [-7, 70, 9]])


def _write_npz(path):
    np.savez(path / "p.npz", name=np.array(NAMES), landmarks=POINTS, pitch_yaw_roll_degrees=ANGLES)
    return path / "p.npz"


def _write_transposed_npz(path):
    deep = np.concatenate([POINTS, np.ones((3, 68, 1))], 2).transpose(0, 2, 1)
    np.savez(
        path / "p.npz",
        name=np.array([f"{n}.jpg" for n in NAMES]),
        landmarks=deep,
        rotation=rotation_from_degrees(ANGLES),
    )
    return path / "p.npz"


def _write_json(path):
    content = {
        n: {"landmarks": p.tolist(), "pitch_yaw_roll_degrees": a.tolist()} for n, p, a in zip(NAMES, POINTS, ANGLES)
    }
    (path / "p.json").write_text(json.dumps(content))
    return path / "p.json"


def _write_csv(path):
    header = ["name", *(f"{c}{k}" for k in range(68) for c in "xy"), "pitch", "yaw", "roll"]
    rows = [",".join(map(str, (n, *p.ravel(), *a))) for n, p, a in zip(NAMES, POINTS, ANGLES)]
    (path / "p.csv").write_text("\n".join([",".join(header), *rows]) + "\n")
    return path / "p.csv"


def _write_fits(path):
    for n, p, a in zip(NAMES, POINTS, ANGLES):
        (path / "out" / n).mkdir(parents=True)
        (path / "out" / n / "landmarks.json").write_text(json.dumps({"ibug68": p.tolist()}))
        (path / "out" / n / "report.json").write_text(json.dumps({"pose": {"pitch_yaw_roll_degrees": a.tolist()}}))
    return path / "out"


@pytest.mark.parametrize("write", [_write_npz, _write_transposed_npz, _write_json, _write_csv, _write_fits])
def test_forms_for_many_faces(tmp_path, write):
    found = read_predictions(write(tmp_path))
    assert tuple(found.faces) == NAMES
    for name, points, angles in zip(NAMES, POINTS, ANGLES):
        assert np.allclose(found.faces[name].landmarks(("ibug68",))[1], points)
        assert np.allclose(found.faces[name].pitch_yaw_roll, angles)


def test_a_file_per_face(tmp_path):
    np.save(tmp_path / "a.npy", POINTS[0])
    np.save(tmp_path / "deep.npy", np.concatenate([POINTS[0], np.full((68, 1), -50.0)], 1).T)
    np.savetxt(tmp_path / "b.txt", POINTS[0])
    (tmp_path / "c.json").write_text(json.dumps(POINTS[0].tolist()))
    lines = "\n".join(f"{x + 1} {y + 1}" for x, y in POINTS[0])  # ibug counts from 1
    (tmp_path / "d.pts").write_text(f"version: 1\nn_points: 68\n{{\n{lines}\n}}\n")
    (tmp_path / "e.json").write_text(json.dumps({"points": [*POINTS[0].tolist()[:-1], None]}))
    found = read_predictions(tmp_path)
    for name in ("a", "deep", "b", "c", "d"):
        assert np.allclose(found.faces[name].sets[""], POINTS[0]), name
    assert np.isnan(found.faces["e"].sets[""][-1]).all() and np.isfinite(found.faces["e"].sets[""][:-1]).all()


def test_rows_are_names_and_faces_of_nan_are_missing(tmp_path):
    points = POINTS.copy()
    points[1] = np.nan
    np.savez(tmp_path / "p.npz", row=np.array([28, 123, 150]), landmarks=points)
    found = read_predictions(tmp_path / "p.npz")
    assert list(found.faces) == ["28", "150"]
    assert found.match(["28", "123"]) == (["123"], ["150"])


def test_names():
    assert [face_name(n) for n in ("a.jpg", "x/b.PNG", "c.d", " e ")] == ["a", "x/b", "c.d", "e"]


def npz(**arrays):
    return lambda path: np.savez(path / "p.npz", **arrays)


def text(name, content):
    return lambda path: (path / name).write_text(content)


NAMED = np.array(NAMES)
BAD = [
    (npz(landmarks=POINTS), "p.npz", "'name'.*or 'row'.*found landmarks"),
    (npz(landmarks=POINTS, name=np.array(["a", "b", "a"])), "p.npz", "two predictions for 'a'"),
    (npz(landmarks=POINTS, name=np.array(["a.jpg", "b", "a.png"])), "p.npz", "two predictions for 'a'"),
    (npz(landmarks=POINTS, name=NAMED[:2]), "p.npz", "3 names"),
    (npz(landmarks=POINTS[0], name=NAMED), "p.npz", r"\(faces, points, 2 or 3\), found float64 \(68, 2\)"),
    (
        npz(landmarks=POINTS, name=NAMED, pitch_yaw_roll_degrees=ANGLES[:2]),
        "p.npz",
        "'pitch_yaw_roll_degrees'.*3 faces",
    ),
    (npz(landmarks=POINTS, name=NAMED, rotation=np.ones((3, 3, 3))), "p.npz", "anna: expected a rotation matrix"),
    (npz(landmarks=POINTS * np.inf, name=NAMED), "p.npz", "anna: a coordinate is infinite"),
    (npz(x=POINTS), "p.npz", "expected 'landmarks'.*found x"),
    (npz(landmarks=np.array([{}], object), name=NAMED), "p.npz", "expected 'landmarks'.*found name"),
    (text("p.npz", "<html>"), "p.npz", r"is expected as a NumPy archive.*this is a web page"),
    (text("p.json", "[1]"), "p.json", "expected an object"),
    (text("p.json", '{"a": [[1, 2], [3]]}'), "p.json", "a: expected a list of"),
    (text("p.json", '{"a": '), "p.json", "cannot be read"),
    (text("p.csv", "name,x0\na,1\n"), "p.csv", "missing y0"),
    (text("p.csv", "name,x0,y0,x1,y1\na,1,2,3,oops\n"), "p.csv", "line 2: a cell is no number"),
    (text("p.csv", "name,x0,y0,x1,y1\na,1,2,3\n"), "p.csv", "line 2: 4 cells"),
    (text("p.csv", "face;x0\n1;2\n"), "p.csv", "expected a header name,x0,y0"),
    (text("p.csv", ""), "p.csv", "empty"),
    (text("p.xlsx", "x"), "p.xlsx", "ends in '.xlsx'"),
    (text("a.txt", "1 2\n3 x\n"), "", "a.txt, line 2: cannot understand"),
    (text("a.txt", "1 2\n3\n"), "", "a.txt, line 2: 1 numbers"),
    (text("a.txt", "1 2 3 4\n3 4 5 6\n1 1 1 1\n3 3 3 3\n"), "", r"a.txt: expected points \(N, 2\)"),
    (text("a.npy", "x"), "", r"a.npy: .* is expected as a NumPy array"),
    (text("readme.md", "x"), "", "holds no prediction"),
    (text("readme.md", "x"), "absent", "no such file or folder"),
]


@pytest.mark.parametrize(("write", "path", "says"), BAD, ids=[str(k) for k in range(len(BAD))])
def test_bad_files(tmp_path, write, path, says):
    write(tmp_path)
    with pytest.raises(FitjaxError, match=says) as error:
        read_predictions(tmp_path / path)
    assert "\n" not in str(error.value)


def test_two_files_for_one_face(tmp_path):
    np.save(tmp_path / "a.npy", POINTS[0])
    np.savetxt(tmp_path / "a.txt", POINTS[0])
    with pytest.raises(FitjaxError, match=r"two predictions for 'a' .*a\.npy.*a\.txt"):
        read_predictions(tmp_path)


def test_angles_of_another_euler_order_are_found_out(tmp_path):
    """The same rotations, with angles as Rz Ry Rx would have them."""
    np.savez(
        tmp_path / "p.npz",
        name=NAMED,
        landmarks=POINTS,
        rotation=rotation_from_degrees(ANGLES),
        pitch_yaw_roll_degrees=ANGLES * [1, -1, 1],
    )
    with pytest.raises(FitjaxError, match="another Euler order"):
        read_predictions(tmp_path / "p.npz")


def test_damaged_arrays(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((5, 2)))
    data = (tmp_path / "a.npy").read_bytes()
    for damaged in (data.replace(b"(5, 2)", b"(5, 9)"), data[:-8]):
        (tmp_path / "a.npy").write_bytes(damaged)
        with pytest.raises(FitjaxError, match=r"a\.npy: damaged NumPy array"):
            read_npy(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", np.array(["text"]))
    with pytest.raises(FitjaxError, match="holds <U4; expected an array of numbers"):
        read_npy(tmp_path / "a.npy")


def test_text_numbers(tmp_path):
    (tmp_path / "a.txt").write_text("# seven\n1, 2;3\n\n4 5 6 # last\n")
    assert read_text_numbers(tmp_path / "a.txt").tolist() == [[1, 2, 3], [4, 5, 6]]


def test_no_pickle_is_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "opened"), "w"))

    np.save(tmp_path / "a.npy", np.array([Bomb()], object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", name=np.array([Bomb()], object))
    with pytest.raises(FitjaxError, match="Python objects"):
        read_npy(tmp_path / "a.npy")
    assert read_npz(tmp_path / "a.npz", "x") == {}
    assert not (tmp_path / "opened").exists()
