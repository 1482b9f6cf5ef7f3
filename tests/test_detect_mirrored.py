"""The second look in the mirror."""

from __future__ import annotations

import numpy as np
import pytest

import fitjax as fj
from fitjax.detect import FaceMeshDetector
from fitjax.detect.mirrored import average_with_mirror, mirror_table
from fitjax.detect.pixels import make_face


def test_the_table_is_the_mirror_symmetry_of_the_model():
    table = mirror_table()
    np.testing.assert_array_equal(table[table], np.arange(478))
    # Outer eye corners, mouth corners, iris centres, and the tip of the nose on the midline.
    np.testing.assert_array_equal(table[[33, 61, 468, 1]], [263, 291, 473, 1])
    points = np.asarray(fj.load_basis(level=0, sample_sets=["mediapipe478"]).sampled["mediapipe478"].mean)
    np.testing.assert_allclose(points[table], points * [-1, 1, 1], atol=1e-6)


def planted(width: int, shift: float):
    """A fake detector that is off by ``shift`` pixels to the right, in the picture as in the mirror."""
    mean = np.asarray(fj.load_basis(level=0, sample_sets=["mediapipe478"]).sampled["mediapipe478"].mean, np.float64)
    true = mean[:, :2] * [600, -600] + [100, 70]
    offset = np.array([shift, 0.0])

    def run(rgb: np.ndarray):
        if rgb.shape[1] != width:  # a cut-out: this detector knows the whole picture only
            return []
        mirrored = rgb[0, 0, 0] == 255
        points = true
        if mirrored:
            points = np.stack([width - 1 - true[:, 0], true[:, 1]], 1)[mirror_table()]
        return [make_face(points + offset, np.arange(478.0)[mirror_table()] if mirrored else np.arange(478.0), 0.9)]

    picture = np.zeros((160, width, 3), np.uint8)
    picture[:, -1] = 255  # lies at the left in the mirror
    return true, run, picture


def test_a_bias_to_one_side_cancels():
    true, run, picture = planted(200, 3.0)
    face = average_with_mirror(run, picture, run(picture), 1280)[0]
    np.testing.assert_allclose(face.landmarks, true, atol=1e-9)
    np.testing.assert_allclose(face.depth, np.arange(478.0))


def test_a_look_that_disagrees_is_left_out():
    true, run, picture = planted(200, 12.0)
    face = average_with_mirror(run, picture, run(picture), 1280)[0]
    np.testing.assert_allclose(face.landmarks, true + np.array([12.0, 0.0]), atol=1e-9)


def test_a_photo_and_its_mirror_image_give_mirrored_faces():
    photo = pytest.importorskip("skimage.data").astronaut()
    with FaceMeshDetector() as detector:
        a = detector.detect(photo)[0]
        b = detector.detect(np.ascontiguousarray(photo[:, ::-1]))[0]
    back = np.stack([photo.shape[1] - 1 - b.landmarks[:, 0], b.landmarks[:, 1]], 1)[mirror_table()]
    np.testing.assert_allclose(back, a.landmarks, atol=1e-3)
