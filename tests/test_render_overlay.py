"""The overlay picture: geometry of the crop, what each panel shows, silhouettes and their overlap."""

import numpy as np
import pytest

from fitjax.errors import FitjaxError
from fitjax.render.overlay import (
    cut_photo,
    face_crop,
    intersection_over_union,
    mesh_silhouette,
    overlay_picture,
)


def plate(left, top, right, bottom, depth=1.0):
    """A rectangle facing the camera: (vertices_pixels_depth, triangles)."""
    vertices = np.array([[left, top, depth], [left, bottom, depth], [right, bottom, depth], [right, top, depth]], float)
    return vertices, np.array([[0, 1, 2], [0, 2, 3]])


def test_silhouette_and_iou_of_rectangles():
    a = mesh_silhouette(*plate(2.5, 3.5, 12.5, 9.5), 20, 30)
    assert a.shape == (20, 30) and a.dtype == bool
    expected = np.zeros((20, 30), bool)
    expected[4:10, 3:13] = True
    np.testing.assert_array_equal(a, expected)
    b = mesh_silhouette(*plate(7.5, 3.5, 17.5, 9.5), 20, 30)
    assert intersection_over_union(a, b) == pytest.approx(1 / 3)  # 5 of 15 columns
    assert intersection_over_union(a, a) == 1.0
    assert intersection_over_union(a, ~a) == 0.0
    assert intersection_over_union(a & False, a & False) == 1.0
    vertices, triangles = plate(2.5, 3.5, 12.5, 9.5)
    np.testing.assert_array_equal(mesh_silhouette(vertices, triangles[:, ::-1], 20, 30), expected)  # from behind
    with pytest.raises(FitjaxError, match="expected the same"):
        intersection_over_union(a, a[:5])


def test_crop_maps_pixels_exactly():
    crop = face_crop(np.array([[100.0, 50.0], [180.0, 90.0], [np.nan, 0]]), margin=0.1, panel_size=300)
    assert (crop.left, crop.top) == (92, 42) and (crop.width, crop.height) == (97, 57)
    assert max(crop.size) == 300
    # outer edges map to outer edges
    edges = np.array([[91.5, 41.5], [91.5 + 97, 41.5 + 57]])
    np.testing.assert_allclose(crop.to_panel(edges), [[-0.5, -0.5], [crop.size[0] - 0.5, crop.size[1] - 0.5]])
    with pytest.raises(FitjaxError, match="no finite"):
        face_crop(np.full((2, 2), np.nan))
    assert face_crop(np.array([[3.0, 3.0]])).scale == 4.0  # never zoomed beyond four times


def test_cut_photo_pads_and_keeps_positions():
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)
    crop = face_crop(np.array([[-4.0, -6.0], [20.0, 18.0]]), margin=0.0, panel_size=25)
    assert crop.size == (25, 25) and crop.scale == 1.0
    cut = cut_photo(photo, crop)
    np.testing.assert_array_equal(cut[6:, 4:], photo[:19, :21])
    assert len(np.unique(cut[:6])) == 1 and len(np.unique(cut[:, :4])) == 1
    away = cut_photo(photo, face_crop(np.array([[500.0, 500.0], [520.0, 520.0]])))
    assert len(np.unique(away)) == 1


def landmarks_on(left, top, right, bottom):
    rng = np.random.default_rng(1)
    points = rng.uniform([left, top], [right, bottom], (68, 2))
    points[27], points[8] = ((left + right) / 2, top + 5), ((left + right) / 2, bottom)
    return points


def test_three_panels():
    photo = np.full((200, 160, 3), 90, np.uint8)
    vertices, triangles = plate(40, 60, 120, 170)
    picture = overlay_picture(photo, vertices, triangles, np.array([0, 0]), panel_size=280)
    height, width = picture.shape[:2]
    assert picture.dtype == np.uint8 and height <= 280
    panel = (width - 2 * max(2, round(6 * height / 700))) // 3
    first, third = picture[:, :panel], picture[:, -panel:]
    second = picture[:, (width - panel) // 2 : (width - panel) // 2 + panel]
    # no landmarks: the first panel is the photo
    assert (first[height // 4 : -height // 4] == 90).all()
    middle = (height // 2, panel // 3)
    assert third[middle][0] > third[middle][2] + 20  # skin on grey
    assert len(np.unique(third[2, 2])) == 1
    # over the photo: between photo and mesh
    expected = 0.62 * third[middle].astype(float) + 0.38 * 90
    np.testing.assert_allclose(second[middle], expected, atol=2)
    assert (second[5, 5] == 90).all()


def test_landmarks_are_drawn_where_they_are():
    photo = np.full((200, 160, 3), 90, np.uint8)
    vertices, triangles = plate(40, 60, 120, 170)
    landmarks = landmarks_on(45, 65, 115, 165)
    plain = overlay_picture(photo, vertices, triangles, panel_size=400)
    marked = overlay_picture(photo, vertices, triangles, None, landmarks, panel_size=400, detected_pixels=landmarks + 3)
    assert plain.shape[0] <= 400 and marked.shape[0] <= 400
    five = landmarks[:5].copy()  # not 68: dots only, and the crop is that of the mesh, as in `plain`
    dotted = overlay_picture(photo, vertices, triangles, None, five, panel_size=400)
    crop = face_crop(vertices[:, :2], panel_size=400)
    for x, y in np.round(crop.to_panel(five)).astype(int):
        red, green, blue = dotted[y, x].astype(int)
        assert green > 180 and green > red + 80 and blue > red + 80
    changed = (dotted != plain).any(-1)[:, : crop.size[0]]
    assert 20 < changed.sum() < 5 * 80
    # a landmark that is not finite is left out, quietly
    five[0] = np.nan
    overlay_picture(photo, vertices, triangles, None, five, panel_size=200)


def test_mouth_cavity_can_be_hidden():
    photo = np.zeros((100, 100, 3), np.uint8)
    vertices, triangles = plate(20, 20, 80, 80)
    region = np.array([0, 2])
    kept = overlay_picture(photo, vertices, triangles, region, panel_size=200)
    hidden = overlay_picture(photo, vertices, triangles, region, panel_size=200, hide_mouth_cavity=True)
    assert kept.shape == hidden.shape
    lower_left, upper_right = (150, -150), (60, -60)
    assert (hidden[lower_left] == kept[lower_left]).all()
    assert len(np.unique(hidden[upper_right])) == 1  # grey: nothing there
    red, green, _ = kept[upper_right].astype(int)
    assert red > green + 25


def test_errors():
    vertices, triangles = plate(2, 2, 8, 8)
    with pytest.raises(FitjaxError, match="uint8"):
        overlay_picture(np.zeros((9, 9, 3)), vertices, triangles)
    with pytest.raises(FitjaxError, match="triangle_region"):
        overlay_picture(np.zeros((9, 9, 3), np.uint8), vertices, triangles, np.array([0]))
