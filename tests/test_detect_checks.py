"""Landmarks that cannot be a face are refused before a fit."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures_images import SHARED, face68

from fitjax.detect.landmark_checks import SET_COUNTS, check_landmarks
from fitjax.errors import LandmarkError

FACE = face68()
SIZE = (500, 500)


def refuse(message, points=FACE, valid=None, name="ibug68", size=SIZE):
    with pytest.raises(LandmarkError, match=message) as caught:
        check_landmarks(points, valid, name, size, what="face.pts")
    assert str(caught.value).startswith("face.pts: ") and "\n" not in str(caught.value)


def rotated(points, degrees):
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return (points - 250) @ np.array([[c, s], [-s, c]]) + 250


@pytest.mark.parametrize("degrees", [0, 45, 90, 180, 270])
def test_good_faces_pass_at_any_roll(degrees):
    check_landmarks(rotated(FACE, degrees), None, "ibug68", SIZE)
    check_landmarks(rotated(FACE, degrees)[17:], None, "ibug51", SIZE)


@pytest.mark.parametrize("degrees", [0, 45, 90, 180, 270])
def test_mirrored_faces_are_refused(degrees):
    mirrored = rotated(FACE, degrees) * [-1, 1] + [500, 0]
    refuse("left and right are swapped.*36 and 42", mirrored)
    refuse("left and right are swapped.*19 and 25", mirrored[17:], name="ibug51")
    refuse("swapped", rotated(FACE, degrees) * [1, -1] + [0, 500])


def test_real_faces_of_all_poses_pass():
    path = SHARED / "data" / "aflw2000" / "landmarks.npz"
    if not path.exists():
        pytest.skip("needs the shared test data beside the checkout: data/aflw2000/landmarks.npz")
    with np.load(path) as data:
        both = [data["landmarks"][:, :2].swapaxes(1, 2), data["landmarks_reannotated"].swapaxes(1, 2)]
        yaw = np.abs(data["pose_pitch_yaw_roll"][:, 1])
    for faces in both:
        caught = []
        for face in faces:
            check_landmarks(face, None, "ibug68", (450, 450))
            try:
                check_landmarks(face * [-1, 1] + [450, 0], None, "ibug68", (450, 450))
                caught.append(False)
            except LandmarkError:
                caught.append(True)
        # Near profile, mirrored and unmirrored orders cannot be told apart.
        assert np.mean(np.array(caught)[yaw < 30]) > 0.995


def test_counts_shapes_and_names():
    refuse(r"expects points of shape \(68, 2\), found \(67, 2\)", FACE[:67])
    refuse(r"expects points of shape \(478, 2\)", FACE, name="mediapipe478")
    refuse("unknown landmark set 'dlib'", name="dlib")
    refuse(r"valid must be bool of shape \(68,\), found float64", valid=np.ones(68))
    assert SET_COUNTS["mediapipe478"] == 478


def test_not_finite_names_the_point():
    bad = FACE.copy()
    bad[11, 1] = np.nan
    refuse(r"point 11 is \(.*nan\)", bad)
    valid = np.ones(68, bool)
    valid[11] = False
    check_landmarks(bad, valid, "ibug68", SIZE)


def test_too_few_valid():
    valid = np.zeros(68, bool)
    valid[[0, 8, 30]] = True
    refuse("3 valid points of 68; expected at least 4", valid=valid)
    valid[45] = True
    check_landmarks(FACE, valid, "ibug68", SIZE)


def test_degenerate():
    t = np.linspace(0, 1, 68)[:, None]
    refuse("one line", 100 + 200 * t * [[1.0, 0.5]])
    refuse("within 0 pixels", np.full((68, 2), 250.0))
    refuse("normalised", FACE / 500)
    refuse("expected pixels of a photo", FACE * 1e200)


def test_far_outside_the_image():
    refuse("far outside the image of 500 x 500 pixels: x 5150 to 5350", FACE + 5000)
    refuse("far outside", FACE - [2000, 0])
    check_landmarks(FACE + 5000, None, "ibug68", None)
    check_landmarks(FACE - [200, 0], None, "ibug68", SIZE)  # cut by the image's edge


def test_mediapipe_orientation():
    points = np.random.default_rng(0).uniform(100, 400, (478, 2))
    for i, p in {33: (180, 200), 133: (220, 200), 159: (200, 195), 145: (200, 205)}.items():
        points[i] = p
        points[{33: 263, 133: 362, 159: 386, 145: 374}[i]] = (500 - p[0], p[1])
    points[[61, 291, 13, 14]] = [(215, 310), (285, 310), (250, 305), (250, 315)]
    check_landmarks(points, None, "mediapipe478", SIZE)
    check_landmarks(points[:468], None, "mediapipe468", SIZE)
    refuse("swapped", points * [-1, 1] + [500, 0], name="mediapipe478")
    hidden = np.ones(478, bool)
    hidden[[33, 133, 159]] = False
    check_landmarks(points * [-1, 1] + [500, 0], hidden, "mediapipe478", SIZE)  # one eye is not there: cannot tell
