"""Parts from label maps and contours: tables, sides, forehead, density, resolution, errors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fitjax as fj
from fitjax.image.photo import photo_from_array
from fitjax.losses.part_kernel import part_statistics
from fitjax.observation import part_tables as tables
from fitjax.observation.observation import neutral_observation
from fitjax.observation.parts import anchor_grid, choose_points, make_parts, outline

WIDTH, HEIGHT = 200, 240

#: Where the parts are in a drawn face: (part, left, top, right, bottom) in pixels. The subject's right is on the left of the picture.
BOXES = (
    ("skin", 40, 30, 160, 215),
    ("right_brow", 55, 72, 89, 80),
    ("left_brow", 111, 72, 151, 80),
    ("right_eye", 60, 91, 85, 101),
    ("left_eye", 115, 90, 140, 101),
    ("nose", 90, 95, 108, 140),
    ("upper_lip", 78, 158, 122, 165),
    ("lower_lip", 78, 166, 125, 178),
)

#: The place of each of the 68 points in a mirrored face.
MIRROR_68 = np.r_[
    16:-1:-1, 26:16:-1, 27:31, 35:30:-1, 45:41:-1, 47, 46, 39:35:-1, 41, 40, 54:47:-1, 59:54:-1, 64:59:-1, 67:64:-1
]  # fmt: skip


def label_map(table: fj.LabelTable) -> np.ndarray:
    """The drawn face with the first label of each part; 'other' elsewhere."""
    result = np.full((HEIGHT, WIDTH), (table.other or (0,))[0])
    for name, left, top, right, bottom in BOXES:
        result[top:bottom, left:right] = table.parts[name][0]
    return result


def landmarks() -> np.ndarray:
    """(68, 2) landmarks of the drawn face, roughly."""
    points = np.zeros((68, 2))
    points[:17] = np.stack([np.linspace(40, 160, 17), 100 + 115 * np.sin(np.linspace(0, np.pi, 17))], -1)
    points[17:22] = np.stack([np.linspace(55, 88, 5), np.full(5, 76)], -1)
    points[22:27] = np.stack([np.linspace(111, 150, 5), np.full(5, 76)], -1)
    points[27:36] = [[99, y] for y in (95, 105, 115, 125)] + [[x, 140] for x in (91, 95, 99, 103, 107)]
    points[36:42] = [[60, 96], [68, 91], [77, 91], [85, 96], [77, 101], [68, 101]]
    points[42:48] = [[115, 96], [123, 91], [132, 91], [140, 96], [132, 101], [123, 101]]
    angle = np.linspace(-np.pi, np.pi, 12, endpoint=False)
    points[48:60] = np.stack([100 + 22 * np.cos(angle), 168 + 10 * np.sin(angle)], -1)
    points[60:] = points[48:56]
    return points


@pytest.fixture(scope="module")
def observation():
    return fj.make_observation({"ibug68": landmarks()}, image_size=(WIDTH, HEIGHT))


def pixels(observation, part):
    """(M, 2) pixels of the photo of an observed part."""
    k = tables.PARTS.index(part)
    used = np.asarray(observation.parts.weight[k]) > 0
    return np.asarray(observation.parts.points[k])[used] * float(observation.face_size) + np.asarray(
        observation.face_centre
    )


@pytest.mark.parametrize("table", tables.TABLES.values(), ids=lambda t: t.name)
def test_every_table_gives_the_same_parts(table, observation):
    found = fj.with_parts(observation, label_map(table), table.name)
    expected = fj.with_parts(observation, label_map(tables.FITJAX), tables.FITJAX)
    np.testing.assert_array_equal(found.parts.points, expected.parts.points)
    np.testing.assert_array_equal(found.parts.weight, expected.parts.weight)
    for name, left, top, right, bottom in BOXES[1:]:
        box = pixels(found, name)
        # Pixels have an area: half a pixel beyond the centres of the outermost ones.
        edges = [[left - 0.5, top - 0.5], [right - 0.5, bottom - 0.5]]
        np.testing.assert_allclose([box.min(0), box.max(0)], edges, atol=2e-2)
    # Labels of a table: 1 to 8 parts, each once, none both a part and something else.
    flat = [label for labels in table.parts.values() for label in labels]
    assert sorted(table.parts) == sorted(tables.PARTS) and len(set(flat)) == 8 and not set(flat) & set(table.other)
    assert sorted([*flat, *table.other]) == list(range(len(flat) + len(table.other)))


def test_the_statistics_are_those_of_the_points(observation):
    found = fj.with_parts(observation, label_map(tables.LAPA), "lapa").parts
    assert found.statistics.shape == (8, 3, 784) and found.anchors.shape == (784, 2)
    np.testing.assert_allclose(found.statistics, part_statistics(found.anchors, found.points, found.weight), atol=1e-6)
    nose, area = pixels(fj.with_parts(observation, label_map(tables.LAPA), "lapa"), "nose"), np.asarray(found.weight[4])
    area = area[area > 0] / area.sum()
    anchors = np.asarray(found.anchors) * float(observation.face_size) + np.asarray(observation.face_centre)
    distance = np.linalg.norm(nose[None] - anchors[:, None], axis=-1) / float(observation.face_size)
    np.testing.assert_allclose(found.statistics[4], [distance.min(1), distance.max(1), distance @ area], atol=1e-5)


@pytest.mark.parametrize("sides", ["landmarks", "labels"])
def test_flip(sides, observation):
    """The picture in a mirror: labels of left and right, and landmarks, swap; parts and statistics are mirrored and swap."""
    table = tables.CELEBAMASK_HQ
    labels = label_map(table)
    swap = np.arange(19)
    swap[[4, 5, 6, 7, 8, 9]] = [5, 4, 7, 6, 9, 8]
    flipped = landmarks()[MIRROR_68] * [-1, 1] + [WIDTH - 1, 0]
    other = fj.make_observation({"ibug68": flipped}, image_size=(WIDTH, HEIGHT))
    found = fj.with_parts(observation, labels, table, sides=sides, points=24_000).parts
    mirrored = fj.with_parts(other, swap[labels][:, ::-1], table, sides=sides, points=24_000).parts
    statistics = np.asarray(mirrored.statistics).reshape(8, 3, 28, 28)[list(tables.MIRRORED), :, :, ::-1]
    np.testing.assert_allclose(statistics.reshape(8, 3, -1), found.statistics, atol=2e-5)
    # The subject's right eye is on the left of an upright picture.
    assert pixels(fj.with_parts(observation, labels, table, sides=sides), "right_eye")[:, 0].max() < 100


def test_sides_follow_the_landmarks_not_the_names(observation):
    labels = label_map(tables.BISENET_19)
    expected = fj.with_parts(observation, labels, "bisenet-19").parts
    # A parser that names the other side, one that mixes both within an eye, and one that has a single label for both.
    swapped = labels.copy()
    swapped[labels == 4], swapped[labels == 5] = 5, 4
    mixed = labels.copy()
    mixed[90:95][labels[90:95] == 4] = 5
    single = {**tables.BISENET_19.parts, "right_eye": 4, "left_eye": 4, "other": tables.BISENET_19.other}
    one = np.where(labels == 5, 4, labels)
    for given, table in ((swapped, "bisenet-19"), (mixed, "bisenet-19"), (one, single)):
        found = fj.with_parts(observation, given, table).parts
        np.testing.assert_array_equal(found.points, expected.points)
    with pytest.raises(fj.FitjaxError, match="right_eye and left_eye have the same label"):
        fj.with_parts(observation, one, single, sides="labels")


def test_no_forehead_on_either_side(observation):
    skin = pixels(fj.with_parts(observation, label_map(tables.FITJAX), "fitjax", points=24_000), "skin")
    # The line of the brows lies at y = 76 all across; below it all skin stays.
    assert skin[:, 1].min() == pytest.approx(76, abs=0.6)
    assert np.ptp(skin[skin[:, 1] < 79][:, 0]) > 110
    # Without landmarks of the brows their pixels say where the line is.
    points = landmarks()
    elsewhere = fj.make_observation({"custom": points}, fj.make_camera(WIDTH, HEIGHT))
    skin = pixels(fj.with_parts(elsewhere, label_map(tables.FITJAX), "fitjax", points=24_000), "skin")
    assert skin[:, 1].min() == pytest.approx(76, abs=6)
    # Without brows at all there is no skin rather than one with a forehead.
    table = {"nose": 5, "skin": 8, "other": (0, 1, 2, 3, 4, 6, 7)}
    bare = fj.with_parts(elsewhere, label_map(tables.FITJAX), table)
    assert not len(pixels(bare, "skin")) and len(pixels(bare, "nose"))


def test_the_model_is_cut_where_the_target_is():
    """The skin samples of the basis end at the line that cuts observed skin, on both sides."""
    from fitjax.observation.part_masks import below_brows, brow_line

    model = fj.with_part_samples(fj.load_basis(level=0))
    skin = np.asarray(model.decode_samples(model.init(), "part_skin").position)[:, :2] * [1, -1]
    lips = np.asarray(model.decode_samples(model.init(), "mediapipe478").position)[:, :2] * [1, -1]
    line = brow_line({"mediapipe478": lips})
    inside = below_brows(skin, *line)
    assert inside.mean() > 0.985
    middle = np.abs(skin[:, 0]) < 0.02
    # Between the brows both end at the same height, within a millimetre.
    assert abs(-skin[middle][:, 1].min() - -line[0][1:3, 1].mean()) < 1.5e-3


def test_a_map_of_another_resolution_or_of_a_crop(observation):
    labels = label_map(tables.FITJAX)
    expected = fj.with_parts(observation, labels, "fitjax").parts
    double = np.kron(labels, np.ones((2, 2), int))
    found = fj.with_parts(observation, double, "fitjax", image_size=(WIDTH, HEIGHT)).parts
    _close_in_pixels(found, expected, observation)
    crop = labels[20:, 30:]
    found = fj.with_parts(observation, crop, "fitjax", image_from_labels=[[1, 0, 30], [0, 1, 20]]).parts
    np.testing.assert_allclose(found.statistics, expected.statistics, atol=1e-6)


def _close_in_pixels(found, expected, observation):
    """Furthest and mean everywhere; nearest on the whole, because among skin's thinned points the nearest is another one."""
    difference = np.asarray(found.statistics - expected.statistics) * float(observation.face_size)
    assert np.abs(difference[:, 1:]).max() < 2
    assert np.sqrt(np.mean(difference**2)) < 0.9


def test_what_covers_the_face(observation):
    """Hair in LaPa's table, a mask of one's own, and what lies beyond the map: known over the crop, at the crop's pixels."""
    labels = label_map(tables.LAPA)
    labels[30:150, 40:70] = 10
    hand = np.zeros(labels.shape, bool)
    hand[180:230, 100:150] = True
    found = fj.with_parts(observation, labels, "lapa", covered=hand)
    grid = anchor_grid(1) * float(observation.face_size) + np.asarray(observation.face_centre)
    column, row = np.rint(grid).astype(int).T
    beyond = (column < 0) | (row < 0) | (column >= WIDTH) | (row >= HEIGHT)
    expected = beyond | ((column >= 40) & (column < 70) & (row >= 30) & (row < 150))
    expected |= (column >= 100) & (column < 150) & (row >= 180) & (row < 230)
    assert found.parts.covered.shape == (224, 224)
    np.testing.assert_array_equal(np.asarray(found.parts.covered).ravel(), expected)
    mine = {"skin": 1, "nose": 6, "covers": 10, "other": (0, 2, 3, 4, 5, 7, 9)}
    np.testing.assert_array_equal(fj.with_parts(observation, labels, mine, covered=hand).parts.covered, found.parts.covered)
    assert not np.asarray(fj.with_parts(observation, label_map(tables.FITJAX), "fitjax").parts.covered).reshape(-1)[~beyond].any()
    with pytest.raises(fj.FitjaxError, match=r"covered: expected a mask of the label map's shape \(240, 200\), found \(3, 3\)"):
        fj.with_parts(observation, labels, "lapa", covered=np.ones((3, 3)))
    with pytest.raises(fj.FitjaxError, match=r"labels \[1\] are listed both as a part and under 'covers'"):
        fj.with_parts(observation, labels, {"skin": 1, "covers": 1, "other": tuple(range(2, 11))})


def test_a_parser_plugs_in(observation):
    seen = []

    def parser(photo):
        seen.append((photo.width, photo.height))
        return label_map(tables.FITJAX)[::2, ::2], "fitjax"

    found = fj.observe_parts(observation, photo_from_array(np.zeros((HEIGHT, WIDTH, 3), np.uint8)), parser)
    assert seen == [(WIDTH, HEIGHT)]
    expected = fj.with_parts(observation, label_map(tables.FITJAX), "fitjax")
    _close_in_pixels(found.parts, expected.parts, observation)
    with pytest.raises(fj.FitjaxError, match=r"face parser: expected \(label map, table\), found ndarray"):
        fj.observe_parts(
            observation, photo_from_array(np.zeros((40, 40, 3), np.uint8)), lambda photo: np.zeros((8, 8), int)
        )


def disc(count: int, seed: int, dense_half: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Points of a disc of radius 0.1, and the area that each stands for; with a half of it nine times as dense as the other."""
    rng = np.random.default_rng(seed)
    many = rng.uniform(-0.1, 0.1, (14_000, 2))
    many = many[np.linalg.norm(many, axis=1) < 0.1]
    if not dense_half:
        return choose_points(many, count)
    halves = [
        choose_points(half, n)
        for half, n in ((many[many[:, 0] < 0], count * 9 // 10), (many[many[:, 0] >= 0], count // 10))
    ]
    return np.concatenate([h[0] for h in halves]), np.concatenate([h[1] for h in halves])


def test_density_does_not_matter():
    """A face of 150 pixels: against the same part sampled otherwise, the loss is ≤ 5 % of what a shift by 2 pixels makes."""
    anchors = anchor_grid(8)

    def statistics(points, area):
        parts = make_parts({"nose": points}, areas={"nose": area}, points=3000, names=("nose",))
        return np.asarray(parts.statistics)

    reference = statistics(*disc(3000, 0))
    shifted = disc(3000, 0)
    shift = np.mean((statistics(shifted[0] + [2 / 150, 0], shifted[1]) - reference) ** 2)
    for name, other in (
        ("300 points", disc(300, 1)),
        ("half nine times as dense", disc(3000, 2, True)),
        ("other", disc(3000, 3)),
    ):
        moved = np.mean((statistics(*other) - reference) ** 2)
        assert moved <= 0.05 * shift, (name, moved / shift)
    # Without areas the dense half pulls the mean: what the weights are for.
    points, area = disc(3000, 2, True)
    assert np.mean((statistics(points, np.ones_like(area))[:, 2] - reference[:, 2]) ** 2) > 0.5 * shift
    assert anchors.shape == (784, 2)


def test_chosen_points_keep_area_and_outline():
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 1, (5000, 2))
    chosen, area = choose_points(points, 200, 0.5)
    assert len(chosen) == 200 and area.sum() == pytest.approx(2500)
    np.testing.assert_allclose((chosen * area[:, None]).sum(0) / area.sum(), points.mean(0), atol=0.01)
    np.testing.assert_allclose([chosen.min(0), chosen.max(0)], [points.min(0), points.max(0)], atol=0.05)
    again, _ = choose_points(points, 200)
    np.testing.assert_array_equal(chosen, again)


def test_the_outline_lies_between_pixels():
    mask = np.zeros((20, 30), bool)
    mask[5:7, 4:20] = True
    border = outline(mask)
    assert len(border) == 2 * (16 + 2)
    np.testing.assert_array_equal([border.min(0), border.max(0)], [[3.5, 4.5], [19.5, 6.5]])
    # A half plane askew: the middles of sides lie on its edge, where the centres of its outermost pixels lie inside.
    row, column = np.indices((40, 40))
    slanted = column - row < 0.5
    middles = outline(slanted)
    inner = middles[(middles > 0).all(1) & (middles < 39).all(1)]
    assert len(inner) and np.abs(inner[:, 0] - inner[:, 1] - 0.5).max() < 1e-12
    assert not len(outline(np.zeros((4, 4), bool))) and len(outline(np.ones((4, 4), bool))) == 16


def test_border_points_do_not_count_in_means():
    """A closed eye, three pixels high: nearest and furthest know its edges, means its pixels."""
    row, column = np.meshgrid(np.arange(3.0), np.arange(22.0), indexing="ij")
    centres = np.stack([column.ravel(), row.ravel()], -1) / 150
    border = outline(np.ones((3, 22), bool)) / 150
    anchors = anchor_grid(8)
    plain = np.asarray(make_parts({"right_eye": centres}, names=("right_eye",)).statistics[0])
    edged = np.asarray(make_parts({"right_eye": centres}, outlines={"right_eye": border}, names=("right_eye",)).statistics[0])
    np.testing.assert_allclose(edged[2], plain[2], atol=1e-5)
    both = np.linalg.norm(np.concatenate([centres, border])[None] - anchors[:, None], axis=-1)
    np.testing.assert_allclose(edged[:2], [both.min(1), both.max(1)], atol=1e-6)
    few = make_parts({"right_eye": centres}, outlines={"right_eye": border}, points=16, names=("right_eye",))
    assert (np.asarray(few.weight) > 0).sum() == 16
    assert float(few.weight.sum()) == pytest.approx(1, abs=1e-4)


def test_anchor_grids():
    for stride, count in ((1, 50_176), (8, 784), (16, 196)):
        grid = anchor_grid(stride)
        assert len(grid) == count
        np.testing.assert_allclose(grid.mean(0), 0, atol=1e-12)
        np.testing.assert_allclose(np.diff(np.unique(grid[:, 0].round(9))), stride * 1.5 / 224, atol=1e-6)


def test_contours_of_landmarks_look_like_the_model(full_model):
    """The fallback: masks from the contours cover what the model shows of its parts."""
    from fitjax.evaluate.parts import crop_placement, part_iou, render_parts
    from fitjax.observation.part_masks import contour_parts

    model, params, observation = full_model
    centre, size = np.asarray(observation.face_centre), float(observation.face_size)
    masks = contour_parts(
        (np.asarray(observation.landmarks["mediapipe478"].points, float) - centre) / size, anchor_grid(1)
    )
    drawn = np.zeros(224 * 224, np.uint8)
    for number, name in enumerate(tables.PARTS, 1):
        drawn[masks[name]] = number
    drawn = drawn.reshape(224, 224)
    iou = part_iou(drawn, render_parts(model, params, observation), tables.PARTS)
    assert iou["mean"] > 0.85 and iou["skin"] > 0.95, iou
    contours = fj.with_parts(observation)
    labels = fj.with_parts(observation, drawn, "fitjax", image_from_labels=crop_placement(observation))
    np.testing.assert_allclose(contours.parts.statistics, labels.parts.statistics, atol=0.02)


def test_batches_and_neutral_slots(observation):
    first = fj.with_parts(observation, label_map(tables.FITJAX), "fitjax")
    neutral = neutral_observation(first)
    assert not np.asarray(neutral.parts.weight).any() and jax.tree.structure(neutral) == jax.tree.structure(first)
    stacked = fj.stack_observations([first, neutral])
    assert stacked.parts.statistics.shape == (2, 8, 3, 784)
    with pytest.raises(fj.LandmarkError, match="parts"):
        fj.stack_observations([first, observation])


def test_own_anchors_and_statistics(observation):
    anchors = np.random.default_rng(0).uniform(-0.7, 0.7, (50, 2))
    found = fj.with_parts(
        observation, label_map(tables.FITJAX), "fitjax", anchors=anchors, statistics=("mean", spread)
    ).parts
    assert found.statistics.shape == (8, 2, 50) and found.kinds == ("mean", spread) and found.stride == 0
    np.testing.assert_allclose(found.anchors, anchors, atol=1e-7)


def spread(distance, weight):
    mean = jnp.sum(weight * distance, -1, keepdims=True)
    return jnp.sum(weight * (distance - mean) ** 2, -1)


BAD = {
    "scores instead of labels": (
        np.zeros((4, 4, 19)),
        "lapa",
        {},
        r"label map: expected integers \(H, W\), found float64 \(4, 4, 19\)",
    ),
    "floats": (np.zeros((4, 4)), "lapa", {}, "label map: expected integers"),
    "no table": (np.zeros((4, 4), int), None, {}, "label table: expected one of celebamask-hq.*give table="),
    "unknown table": (np.zeros((4, 4), int), "helen", {}, "label table: expected one of .*found 'helen'"),
    "unknown part": (np.zeros((4, 4), int), {"ear": 1}, {}, r"expected parts out of right_eye.*found \['ear'\]"),
    "unknown label": (np.full((4, 4), 77), "lapa", {}, r"found labels \[77\] that table 'lapa' does not know"),
    "nothing there": (np.zeros((4, 4), int), "lapa", {}, "expected at least one pixel of a part, found none"),
    "stride": (None, None, {"anchors": 0}, "anchors: expected a stride from 1 to 112"),
    "anchors": (None, None, {"anchors": np.zeros((3, 3))}, r"expected a stride or finite points \(A, 2\)"),
    "statistics": (None, None, {"statistics": ("median",)}, "statistics: expected a tuple of nearest.*'median'"),
    "sides": (None, None, {"sides": "mine"}, "sides: expected 'landmarks' or 'labels', found 'mine'"),
    "placement": (None, None, {"image_from_labels": np.eye(3)}, r"image_from_labels: expected a finite \(2, 3\) map"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_error(name, observation):
    labels, table, options, message = BAD[name]
    if labels is None:
        labels, table = label_map(tables.FITJAX), "fitjax"
    with pytest.raises(fj.FitjaxError, match=message):
        fj.with_parts(observation, labels, table, **options)


def test_contours_need_facemesh(observation):
    with pytest.raises(
        fj.FitjaxError, match="contours need all points of the landmark set 'mediapipe478', found ibug68"
    ):
        fj.with_parts(observation)


@pytest.fixture(scope="module")
def full_model():
    from part_scenes import scene_with_parts

    return scene_with_parts({"mouthSmileLeft": 0.5}, yaw=20)
