"""Landmark files: three formats, missing points, and one clear line for anything else."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from fixtures_images import SHARED, face68
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fitjax.errors import LandmarkError
from fitjax.landmark_files import LandmarkFile, check_landmarks, read_landmarks, write_landmarks

FACE = face68()
PTS = "version: 1\nn_points:  68\n{\n" + "".join(f"{x + 1:.6f} {y + 1:.6f}\n" for x, y in FACE) + "}\n"


def npy(array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def read(tmp_path, content, **options) -> LandmarkFile:
    path = tmp_path / "marks.any"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_landmarks(path, **options)


@pytest.mark.parametrize("text", [PTS, PTS.replace("\n", "\r\n"), "\ufeff" + PTS, PTS.replace("version: 1\n", "")])
def test_pts_is_one_based(tmp_path, text):
    got = read(tmp_path, text.encode())
    assert got.set_name == "ibug68" and got.valid.all() and (got.confidence == 1).all()
    assert np.abs(got.points - FACE).max() < 1e-6
    assert np.abs(read(tmp_path, text.encode(), one_based=False).points - FACE - 1).max() < 1e-6


def test_ibug_file_of_eos(tmp_path):
    path = SHARED / "data" / "sfm" / "image_0010.pts"
    if not path.exists():
        pytest.skip("needs the shared test data beside the checkout: data/sfm/image_0010.pts")
    got = read_landmarks(path)
    assert got.set_name == "ibug68" and got.points.shape == (68, 2)
    assert got.points[0] == pytest.approx([610.284152, 271.773913])  # 611.284152 272.773913 in the file
    check_landmarks(got.points, got.valid, got.set_name, (1280, 1024))


@pytest.mark.parametrize(
    ("count", "name"), [(68, "ibug68"), (51, "ibug51"), (478, "mediapipe478"), (468, "mediapipe468")]
)
def test_the_count_names_the_set(tmp_path, count, name):
    points = np.random.default_rng(0).uniform(0, 300, (count, 2))
    assert read(tmp_path, npy(points)).set_name == name
    assert read(tmp_path, npy(points.astype(np.float32))).points == pytest.approx(points, rel=1e-6)
    assert read(tmp_path, points.tolist()).set_name == name


def test_npy_confidence_column(tmp_path):
    conf = np.linspace(0, 1, 68)
    array = np.column_stack([FACE, conf])
    array[0, :2] = np.nan  # confidence 0: missing
    got = read(tmp_path, npy(array))
    assert (got.confidence == conf).all() and (got.valid == (conf > 0)).all()
    assert got.points[0].tolist() == [0, 0] and (got.points[1:] == FACE[1:]).all()
    array[5, 2] = -12.0
    with pytest.raises(LandmarkError, match=r"confidence of point 5 is -12.*depth"):
        read(tmp_path, npy(array))


def test_npy_integers_and_base(tmp_path):
    whole = FACE.astype(np.int64)
    assert (read(tmp_path, npy(whole)).points == whole).all()
    assert (read(tmp_path, npy(whole), one_based=True).points == whole - 1).all()


def test_json_forms(tmp_path):
    rows = FACE.tolist()
    conf = [0.5] * 68
    for value in (
        rows,
        {"points": rows},
        {"points": rows, "set": "ibug68"},
        {"ibug68": rows},
        {"sets": {"ibug68": rows}},
    ):
        got = read(tmp_path, value)
        assert (got.points == FACE).all() and got.valid.all() and got.set_name == "ibug68"
    for value in (
        [[*r, 0.5] for r in rows],
        {"points": rows, "confidence": conf},
        {"ibug68": {"points": rows, "confidence": conf}},
    ):
        assert (read(tmp_path, value).confidence == 0.5).all()
    assert read(tmp_path, {"points": rows, "set": "aflw68"}).set_name == "aflw68"
    assert read(tmp_path, rows, set_name="aflw68").set_name == "aflw68"
    assert (read(tmp_path, rows, one_based=True).points == FACE - 1).all()


def test_json_null_is_missing(tmp_path):
    rows = FACE.tolist()
    rows[3], rows[4], rows[5] = None, [None, 7.0], [1.0, 2.0, 0]
    got = read(tmp_path, rows)
    assert np.flatnonzero(~got.valid).tolist() == [3, 4, 5] and (got.confidence[3:6] == 0).all()
    assert np.isfinite(got.points).all()


def test_several_sets(tmp_path):
    big = np.random.default_rng(0).uniform(0, 300, (478, 2))
    value = {"ibug68": FACE.tolist(), "mediapipe478": big.tolist(), "note": "other keys do no harm"}
    assert read(tmp_path, value).set_name == "mediapipe478"
    assert (read(tmp_path, value, set_name="ibug68").points == FACE).all()
    with pytest.raises(LandmarkError, match="expected ibug51"):
        read(tmp_path, value, set_name="ibug51")


def test_written_files_read_back(tmp_path):
    valid = np.ones(68, bool)
    valid[10] = False
    marks = LandmarkFile(FACE, valid * 0.75, valid, "ibug68")
    write_landmarks(tmp_path / "landmarks.json", {"ibug68": marks})
    got = read_landmarks(tmp_path / "landmarks.json")
    assert got.set_name == "ibug68" and (got.valid == valid).all() and (got.confidence == marks.confidence).all()
    assert np.abs(got.points - FACE)[valid].max() <= 5e-5
    with pytest.raises(LandmarkError, match="68 points"):
        write_landmarks(tmp_path / "x.json", {"ibug51": marks})
    with pytest.raises(LandmarkError, match="cannot be written"):
        write_landmarks(tmp_path / "absent" / "x.json", {"ibug68": marks})


def _with(index: int, row) -> list:
    rows = FACE.tolist()
    rows[index] = row
    return rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\xff\xd8\xff\xe0", "not a landmark file"),
        (b"1 2\n3 4\n", "not a landmark file"),
        (PTS[:-300].encode(), "truncated"),
        (PTS.replace("68\n{", "67\n{").encode(), "n_points says 67, found 68"),
        (PTS.replace(PTS.splitlines()[3], "1 2 3").encode(), "point 0: expected two numbers"),
        (PTS.replace(PTS.splitlines()[5], "x y").encode(), "point 2: expected two numbers 'x y', found 'x y'"),
        (PTS.replace(PTS.splitlines()[4], "nan 4").encode(), r"point 1 is \(nan"),
        (PTS.replace(PTS.splitlines()[4], "3 inf").encode(), r"point 1 is .*inf"),
        (b"version: 1\n\xff{1 2}", "not a text file"),
        (npy(FACE[:67]), "found 67 points.*68"),
        (npy(FACE[None]), r"\(1, 68, 2\)"),
        (npy(np.zeros((68, 4))), r"\(68, 4\)"),
        (npy(FACE.astype(complex)), "complex"),
        (npy(np.array([{"a": 1}], dtype=object)), "dtype object"),
        (npy(FACE)[:-8], "truncated"),
        (npy(FACE)[:60], "damaged"),
        (npy(np.where(FACE[7] == FACE, np.nan, FACE)), "point 7 is"),
        (_with(2, [float("nan"), 1.0]), "point 2 is"),
        (_with(2, [1.0, float("inf")]), "point 2 is"),
        (_with(2, [1.0, 10**400]), "point 2 is"),
        (_with(2, ["1", 2]), "point 2: expected a number, found '1'"),
        (_with(2, [True, 2]), "expected a number, found True"),
        (_with(2, [1]), r"point 2: expected \[x, y\]"),
        (_with(2, [1, 2, 3]), "confidence of point 2 is 3"),
        ({"points": 3}, "must be a list"),
        ({"points": FACE.tolist(), "confidence": [1]}, "one number for each of 68"),
        ({"points": FACE.tolist(), "set": "dlib"}, "unknown landmark set 'dlib'"),
        ({"points": FACE.tolist(), "set": "ibug51"}, "has 51 points, found 68"),
        ({"faces": []}, "found the keys 'faces'"),
        ({}, "found the keys none"),
        ([], "found 0 points"),
        (b"[[1, 2], ", "damaged JSON"),
        (b"[" * 100000, "damaged JSON"),
    ],
)
def test_bad_files(tmp_path, content, message):
    with pytest.raises(LandmarkError, match=message) as caught:
        read(tmp_path, content)
    assert "marks.any" in str(caught.value) and "\n" not in str(caught.value)


def test_bad_paths_and_names(tmp_path):
    with pytest.raises(LandmarkError, match="no such file"):
        read_landmarks(tmp_path / "absent.pts")
    with pytest.raises(LandmarkError, match="is a folder"):
        read_landmarks(tmp_path)
    with pytest.raises(LandmarkError, match="unknown landmark set 'x'"):
        read(tmp_path, PTS, set_name="x")


def test_a_header_that_asks_for_terabytes_is_refused(tmp_path):
    data = npy(FACE).replace(b"(68, 2), }" + b" " * 13, b"(68000000000000, 2), }"[:22].ljust(23))
    with pytest.raises(LandmarkError, match=r"truncated: shape \(68000000000000, 2\)"):
        read(tmp_path, data)


def test_pickles_are_never_loaded(tmp_path):
    class Boom:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    with pytest.raises(LandmarkError, match="object"):
        read(tmp_path, npy(np.array([Boom()], dtype=object)))


SEEDS = [
    PTS.encode(),
    npy(FACE),
    npy(np.column_stack([FACE, np.ones(68)])),
    json.dumps({"ibug68": {"points": FACE.tolist(), "confidence": [1.0] * 68}}).encode(),
    json.dumps(FACE.tolist()).encode(),
]


def _only_landmark_error(tmp_path, data: bytes) -> None:
    try:
        got = read(tmp_path, data)
    except LandmarkError as error:
        assert "marks.any" in str(error)
    else:
        assert np.isfinite(got.points).all() and got.points.shape == (len(got.valid), 2)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_mutated_files_raise_only_landmark_error(tmp_path, data):
    seed = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 5))):
        end = data.draw(st.sampled_from([60, 130, len(seed)]))
        seed[data.draw(st.integers(0, min(end, len(seed)) - 1))] = data.draw(st.integers(0, 255))
    _only_landmark_error(tmp_path, bytes(seed[: data.draw(st.sampled_from([len(seed), len(seed) // 2]))]))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([b"", b"version: 1\n{", b"\x93NUMPY", b"[", b'{"points": ']), st.binary(max_size=200))
def test_random_bytes_raise_only_landmark_error(tmp_path, head, data):
    _only_landmark_error(tmp_path, head + data)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["points", "confidence", "set", "sets", "ibug68", "ibug51"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(JSON) | st.dictionaries(st.sampled_from(["points", "set", "sets", "ibug68", "mediapipe478"]), JSON))
def test_any_json_raises_only_landmark_error(tmp_path, value):
    _only_landmark_error(tmp_path, json.dumps(value).encode())
