"""The image network: crops and their truth, solves of both spaces, what becomes of it in a photo, training that goes on exactly, its file."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import fitjax as fj
from fitjax.cli.looking import BESIDE, PARSED, weighed
from fitjax.cli.main import UNUSABLE, main
from fitjax.errors import BasisError, FitError, FitjaxError
from fitjax.geometry.rotation import geodesic_angle, rotation_between_rays, rotation_from_aflw2000
from fitjax.image.photo import photo_from_array
from fitjax.initial.image_crop import CROP_OVER_FACE, cut_crop
from fitjax.initial.image_face import IMAGE_LABELS, ImageFace, in_photo, load_looker, pose_in_camera
from fitjax.initial.image_mirror import mean_output, mirror_of, mirrored_output
from fitjax.initial.image_network import (
    Conv,
    ImageOutput,
    folded_weights,
    gathered_pixels,
    look_up,
    posed,
    rotation_of,
    spread_pixels,
)
from fitjax.initial.image_observe import check_box, has_failed, parse_image, visible_mask, with_image_landmarks
from fitjax.initial.image_solve import Placed, Points, complete, place_mean_face, procrustes, show
from fitjax.initial.image_tables import chart_from_uv, image_tables, rows_at
from fitjax.initial.image_weights import SHIPPED_IMAGE, load_image_net
from fitjax.initial.weights import load_landmark_net
from fitjax.pytree import replace
from fitjax.train.image_augment import _bilinear, centres, crop_map, mirrored_crops
from fitjax.train.image_cycle import disagreement
from fitjax.train.image_loss import wing
from fitjax.train.image_pool import FIELDS, HEAD_BIT, SKIN_BIT, TABLE, VISIBLE_BIT, Pool
from fitjax.train.image_run import ImageSettings, choose, continue_training, spoilt_crops, train_image

SIDE = 32


@pytest.fixture(scope="module")
def model():
    return fj.load_basis(level=0, sample_sets=("aflw68", "mediapipe478"))


@pytest.fixture(scope="module")
def tables(model):
    return image_tables(model)


def some_rotation(pitch=10, yaw=35, roll=-20):
    return rotation_from_aflw2000(jnp.asarray(np.radians([pitch, yaw, roll]), jnp.float32))


def a_placed(tables, seed=0, **angles):
    """A face in the crop, and its points there."""
    rng = np.random.default_rng(seed)
    upper = np.asarray(tables.upper)
    active = 0.5 * (rng.random(len(upper)) < 0.1)
    codes = np.where(np.isfinite(upper), np.where(np.isfinite(upper), upper, 0) * active, rng.normal(size=len(upper)))
    face = Placed(some_rotation(**angles), jnp.asarray(8.0), jnp.array([0.05, -0.1]), jnp.asarray(codes, jnp.float32))
    return face, np.asarray(show(face, tables))


def test_procrustes_finds_a_similarity_and_never_a_reflection():
    rng = np.random.default_rng(0)
    source, weight = rng.normal(size=(30, 3)), rng.uniform(0.2, 1, 30)
    R = np.asarray(some_rotation(), np.float64)
    target = 2.5 * source @ R.T + [0.3, -1.0, 4.0]
    weight[:5], target[:5] = 0, rng.normal(size=(5, 3)) * 50  # what weighs nothing counts for nothing, in the centroids neither
    found = procrustes(*(jnp.asarray(x, jnp.float32) for x in (source, target, weight)))
    np.testing.assert_allclose(found[0], R, atol=1e-5)
    np.testing.assert_allclose(found[1], 2.5, rtol=1e-5)
    np.testing.assert_allclose(found[2], [0.3, -1.0, 4.0], atol=1e-4)
    mirrored = procrustes(*(jnp.asarray(x, jnp.float32) for x in (source, source * [1, 1, -1], np.ones(30))))
    assert float(jnp.linalg.det(mirrored[0])) == pytest.approx(1, abs=1e-5)


def test_pixels_become_channels_and_come_back():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 4, 3)), jnp.float32)
    np.testing.assert_array_equal(spread_pixels(gathered_pixels(x)), x)
    np.testing.assert_array_equal(gathered_pixels(x)[1, 2, 1], x[1, 4:6, 2:4].reshape(-1))


def test_looking_up_is_bilinear_in_crop_coordinates():
    line = (2 * np.arange(8) + 1) / 8 - 1
    maps = jnp.asarray(np.stack(np.meshgrid(line, line), -1) @ [[1, 2], [3, -1]], jnp.float32)
    at = np.random.default_rng(0).uniform(-0.8, 0.8, (20, 2))
    np.testing.assert_allclose(look_up(maps, jnp.asarray(at, jnp.float32)), at @ [[1, 2], [3, -1]], atol=1e-5)


def test_six_numbers_are_a_rotation():
    six = jnp.asarray(np.random.default_rng(0).normal(size=(10, 6)), jnp.float32)
    R = np.asarray(rotation_of(six), np.float64)
    np.testing.assert_allclose(R @ R.transpose(0, 2, 1), np.broadcast_to(np.eye(3), R.shape), atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(R), 1, atol=1e-5)
    np.testing.assert_allclose(rotation_of(jnp.zeros(6)), np.diag([1.0, -1, -1]), atol=1e-6)  # a head that looks into the camera


def test_a_folded_kernel_gives_the_same_picture():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 6, 6, 4)), jnp.float32)
    weights = Conv(5).init(jax.random.key(0), x)
    weights = {"params": weights["params"] | {"gain": jnp.arange(1.0, 6), "bias": jnp.arange(5.0)}}
    plain = Conv(5).apply(weights, x)
    folded = {"params": folded_weights(weights["params"])}
    assert set(folded["params"]) == {"kernel", "bias"}
    np.testing.assert_allclose(Conv(5, folded=True).apply(folded, x), plain, atol=1e-5)
    kernel = np.asarray(folded["params"]["kernel"])
    np.testing.assert_allclose(kernel.sum((0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose((kernel**2).sum((0, 1, 2)), np.arange(1.0, 6) ** 2, rtol=0.01)


def test_wing_is_logarithmic_then_linear():
    np.testing.assert_allclose(wing(jnp.array([0.0, 2.0, 10.0, 25.0])), [0, np.log(2), np.log(6), np.log(6) + 1.5], rtol=1e-6)


def test_the_atlas_holds_the_basis(model, tables):
    """Rows read at the texture coordinates of landmarks on the face's skin are those of the landmarks."""
    # Lids and inner lips lie on slits of the chart, between two texels of different skin.
    inside = (np.abs(np.asarray(tables.marks_uv)).max(1) < 0.95) & ~np.isin(np.arange(68), [*range(36, 48), *range(60, 68)])
    assert inside.sum() > 35
    mean, modes = rows_at(tables, tables.marks_uv)
    off = np.linalg.norm(np.asarray(mean - tables.mean[:68]), axis=1)[inside]
    assert np.median(off) < 3e-4 and off.max() < 1.5e-3  # metres; a texel is 2 mm wide
    spread = np.linalg.norm(np.asarray(tables.modes[:, :68]), axis=-1)[:, inside]
    assert np.median(np.linalg.norm(np.asarray(modes - tables.modes[:, :68]), axis=-1)[:, inside][spread > 1e-3] / spread[spread > 1e-3]) < 0.03


def test_solves_recover_a_face(tables):
    """From exact points: landmarks, rotation; a tenth of the points far off takes little away. From points with depth: the mean face's place."""
    truth, shown = a_placed(tables, 1)
    weight = jnp.ones(len(shown))
    points = Points(tables.mean, tables.modes, jnp.asarray(shown[:, :2]), weight)
    start = place_mean_face(points, jnp.asarray(shown[:, 2]) / truth.scale)
    assert float(geodesic_angle(start.rotation, truth.rotation)) < np.radians(5)
    solve = jax.jit(lambda start, points: complete(start, points, tables, 1e-4))
    found = solve(start, points)
    error = 100 * np.linalg.norm(np.asarray(show(found, tables))[:, :2] - shown[:, :2], axis=1) / 1.18
    assert error.mean() < 0.3 and float(geodesic_angle(found.rotation, truth.rotation)) < np.radians(2)
    spoilt = shown[:, :2].copy()
    spoilt[::10] += 0.5
    found = solve(start, points._replace(at=jnp.asarray(spoilt)))
    error = 100 * np.linalg.norm(np.asarray(show(found, tables))[:, :2] - shown[:, :2], axis=1) / 1.18
    assert error.mean() < 1.5


def test_a_crop_shows_the_photo():
    """On a ramp each pixel tells where it is: upright, turned, shrunk, and beyond the border."""
    x, y = np.meshgrid(np.arange(120), np.arange(100))
    photo = photo_from_array(np.stack([2 * x, 2 * y, 0 * x], -1).astype(np.uint8))
    for angle in (0.0, 0.6):
        for size in (20.0, 40.0):
            crop, placement = cut_crop(photo, np.array([60.0, 50.0]), size, SIDE, angle)
            line = (2 * np.arange(SIDE) + 1) / SIDE - 1
            where = np.stack(np.meshgrid(line, line), -1) @ placement[:, :2].T + placement[:, 2]
            np.testing.assert_allclose(np.sqrt(np.linalg.det(placement[:, :2])), CROP_OVER_FACE * size / 2, rtol=1e-9)
            np.testing.assert_allclose(crop[..., :2] * 255 / 2, where, atol=0.6)
    assert (cut_crop(photo, np.array([2.0, 50.0]), 30.0, SIDE)[0][:, 0, 0] == 0).all()  # the border's value goes on
    for centre, size in (((60, 50), 0.0), ((500, 50), 20.0), ((60, 50), float("nan"))):
        with pytest.raises(FitjaxError, match=r"expected a face of positive size|lies outside the photo"):
            cut_crop(photo, np.array(centre, float), size, SIDE)


def portraits(tables, count, size=48):
    """Made by hand: the picture is a ramp, texture coordinates are linear in it, the face is a square."""
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    half, bits = np.s_[::2, ::2], np.zeros((size // 2, size // 2), np.uint8)
    bits[6:18, 6:18] = 8 + HEAD_BIT + VISIBLE_BIT + SKIN_BIT
    placed = [a_placed(tables, k, yaw=float(rng.uniform(-60, 60))) for k in range(count)]
    one = {
        "image": np.stack([x * 4, y * 4, x * 0 + 99], -1).astype(np.uint8),
        "uv": np.round(np.stack([x[half] / size, 1 - y[half] / size], -1) * 65535).astype(np.uint16),
        "depth": (x[half] / 1000).astype(np.float16), "labels": bits,
    }  # fmt: skip
    fields = {name: np.stack([value] * count) for name, value in one.items()}
    n_identity = int((~np.isfinite(np.asarray(tables.upper))).sum())
    codes = np.stack([np.asarray(p.codes) for p, _ in placed])
    scale = size / 2 / CROP_OVER_FACE * 1.2
    fields |= {"identity": codes[:, :n_identity], "expression": codes[:, n_identity:]}
    fields |= {"rotation": np.stack([np.asarray(p.rotation) for p, _ in placed])}
    fields |= {"place": np.stack([[size / 2 + scale * 0.05, size / 2 - scale * 0.1, scale * 8] for _ in placed]).astype(np.float32)}
    fields |= {"points": np.stack([size / 2 + scale * s[:68, :2] for _, s in placed]).astype(np.float32), "hidden": np.zeros((count, 68), bool)}
    assert set(fields) == set(FIELDS)
    return fields


def test_truth_moves_with_the_crop(tables):
    """The map from picture to crop, found from the landmarks, is that of pixels, texture coordinates, depth, pose and scale too."""
    batch = portraits(tables, 4)
    made = jax.device_get(spoilt_crops(SIDE, 1, 3, batch))
    angles = []
    for k in range(4):
        before = np.concatenate([batch["points"][k], np.ones((68, 1))], 1).astype(np.float64)
        there = np.linalg.lstsq(before, np.asarray(made.points[k], np.float64), rcond=None)[0].T
        back = np.linalg.inv(there[:, :2])
        line = (2 * np.arange(SIDE // 2) + 1) / (SIDE // 2) - 1
        pixel = (np.stack(np.meshgrid(line, line), -1) - there[:, 2]) @ back.T
        inner = made.skin[k] & (pixel > 14).all(-1) & (pixel < 32).all(-1)
        assert inner.sum() > 10
        chart = chart_from_uv(np.stack([pixel[..., 0] / 48, 1 - pixel[..., 1] / 48], -1))
        np.testing.assert_allclose(made.chart[k][inner], chart[inner], atol=2e-3)
        np.testing.assert_allclose(made.depth[k][inner], pixel[..., 0][inner] / 1000, atol=2e-4)
        angles.append(angle := np.arctan2(there[1, 0], there[0, 0]))
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        np.testing.assert_allclose(made.rotation[k], turn @ batch["rotation"][k], atol=1e-5)
        np.testing.assert_allclose(made.scale[k], batch["place"][k][2] * np.sqrt(np.linalg.det(there[:, :2])), rtol=1e-4)
        np.testing.assert_allclose(made.shift[k], there[:, :2] @ batch["place"][k][:2] + there[:, 2], atol=1e-4)
    assert np.ptp(angles) > np.radians(5) and made.image.min() >= 0 and made.image.max() <= 1
    assert not (made.skin & (made.labels == IMAGE_LABELS.covers[2])).any()


def test_a_mirrored_face_is_a_face_of_the_model(tables):
    """Pose, codes and landmarks of crops and of their mirror images, made from portraits or said by the network, show one another."""
    mirror = mirror_of(tables)
    assert all((np.asarray(x)[np.asarray(x)] == np.arange(len(x))).all() for x in (mirror.marks, mirror.codes, mirror.labels))
    plain = spoilt_crops(SIDE, 1, 3, portraits(tables, 4))
    turned = jnp.array([False, True, True, False])
    made = mirrored_crops(plain, mirror, turned)
    for same in (0, 3):
        jax.tree.map(lambda a, b, k=same: np.testing.assert_array_equal(a[k], b[k]), made, plain)
    placed = lambda x: posed(tables.mean[:68], tables.modes[:, :68], x.rotation, x.scale, x.shift, x.codes)  # noqa: E731
    np.testing.assert_allclose(placed(made)[..., :2], made.points, atol=2e-4)
    np.testing.assert_array_equal(made.image[1], plain.image[1][:, ::-1])
    np.testing.assert_array_equal(made.chart[1], plain.chart[1][:, ::-1] * jnp.array([-1.0, 1]))
    np.testing.assert_array_equal(made.depth[1], plain.depth[1][:, ::-1])
    b, h, labels = 4, SIDE // 2, len(mirror.labels)
    maps = {"chart": made.chart, "log_sigma": made.depth, "depth": made.depth, "visible": made.visible * 1.0, "skin": made.skin * 1.0}
    out = ImageOutput(
        rotation=made.rotation, scale=made.scale, shift=made.shift, codes=made.codes, **maps, labels=np.eye(labels, dtype=np.float32)[made.labels],
        marks=placed(made), refined=made.points[None], mark_log_sigma=made.points[..., 0],
    )  # fmt: skip
    other = jax.device_get(mirrored_output(out, mirror))
    np.testing.assert_allclose(placed(other), other.marks, atol=2e-4)
    np.testing.assert_allclose(other.refined[0], other.marks[..., :2], atol=2e-4)
    assert other.labels.shape == (b, h, h, labels) and (other.labels.argmax(-1)[:, :, ::-1] == np.asarray(mirror.labels)[made.labels]).all()
    both = jax.device_get(mean_output(out, jax.tree.map(jnp.asarray, mirrored_output(other, mirror))))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), both, jax.device_get(out))


def test_both_directions_of_the_cycle_agree_on_a_true_face(tables):
    """The landmark network places exact landmarks where the parameters do; landmarks that are moved aside are off by what they were moved."""
    face, shown = a_placed(tables, 3)
    size = float(np.sqrt(np.ptp(shown[:68, :2], axis=0).prod()))
    one = {name: jnp.asarray(getattr(face, name))[None] for name in ("rotation", "scale", "shift", "codes")}
    none = dict.fromkeys(("chart", "log_sigma", "depth", "visible", "skin", "labels", "marks"), jnp.zeros(()))

    def apart(moved):
        marks = jnp.asarray(shown[None, None, :68, :2] + moved, jnp.float32)
        out = ImageOutput(**one, **none, refined=marks, mark_log_sigma=jnp.zeros((1, 68)))
        return disagreement(*load_landmark_net()[:2], tables, out, jnp.array([size]))[0].mean()

    apart = jax.jit(apart)
    here, moved = float(apart(jnp.zeros(2))), float(apart(jnp.array([0.06, 0.08])))
    assert here < 1.0 and moved == pytest.approx(100 * 0.1 / size, abs=1.0)


def test_pixels_of_the_crop_are_the_pictures(tables):
    """An upright crop of a ramp: its map and its pixels agree, and the face has the usual size."""
    one = {name: value[0] for name, value in portraits(tables, 1).items()}
    A, b, angle = crop_map(jax.random.key(0), jnp.asarray(one["points"]), False)
    size = np.sqrt(np.ptp(one["points"], axis=0).prod())
    np.testing.assert_allclose(A, np.eye(2) * 0.5 * CROP_OVER_FACE * size, rtol=1e-5)
    np.testing.assert_allclose(b, (one["points"].min(0) + one["points"].max(0)) / 2, rtol=1e-5)
    pixel = np.asarray(jnp.matmul(centres(SIDE), A.T) + b)
    within = ((pixel > 0) & (pixel < 46)).all(-1)
    assert float(angle) == 0 and within.sum() > 500
    found = np.asarray(_bilinear(jnp.asarray(one["image"], jnp.float32), jnp.asarray(pixel)))
    np.testing.assert_allclose(found[within][:, :2] / 4, pixel[within], atol=0.02)


TINY = ImageSettings(
    side=SIDE, channels=(4, 4, 8, 8), blocks=(0, 0, 0, 1), width=8, hidden=16, portraits=12, held_out=4,
    steps=24, batch=4, interval=12, warmup=1, rate=4e-3,
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tables, tmp_path_factory):
    """Folder and metrics of a run without interruption, on portraits made by hand."""
    folder = tmp_path_factory.mktemp("image")
    pool = folder / "pool"
    pool.mkdir()
    for name, value in portraits(tables, 12).items():
        np.save(pool / f"00000.{name}.npy", value)
    (pool / TABLE).write_text(json.dumps({"shard": 12, "seed": 0}))
    assert train_image(TINY, folder) == folder / "image_net.safetensors"
    return folder, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_killed_training_continues_to_the_same_numbers(trained, tmp_path):
    folder, rows = trained
    assert [row["step"] for row in rows] == [12, 24]
    assert train_image(TINY, tmp_path, lambda network, step, measured: step == 12, pool=folder / "pool") is None
    train_image(TINY, tmp_path, pool=folder / "pool")
    again = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(a[k] == pytest.approx(b[k], abs=1e-5) for a, b in zip(again, rows) for k in a if k != "network")
    with pytest.raises(FitjaxError, match="hidden was 16, is 8"):  # before anything is compiled
        train_image(replace(TINY, hidden=8), tmp_path, pool=folder / "pool")


def test_training_lowers_the_loss(trained):
    _, rows = trained
    assert rows[1]["train_loss"] < 0.7 * rows[0]["train_loss"]


def test_weights_come_back_from_their_file(trained, tmp_path):
    folder, _ = trained
    net, weights, about = load_image_net(folder / "image_net.safetensors")
    assert (net.side, net.channels, net.folded, about["steps"]) == (SIDE, (4, 4, 8, 8), True, 24)
    assert "gain" not in weights["params"]["down0"] and weights["params"]["down0"]["kernel"].shape == (3, 3, 12, 4)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes((folder / "image_net.safetensors").read_bytes()[:-9])
    with pytest.raises(BasisError, match="broken"):
        load_image_net(broken)
    with pytest.raises(BasisError, match="no such file"):
        load_image_net(tmp_path / "absent.safetensors")


def test_steps_choose_their_portraits(trained):
    folder, _ = trained
    pool = Pool(folder / "pool")
    index = np.concatenate([choose(TINY, step, 12) for step in range(40)])
    assert set(index) == set(range(4, 12))  # the held-out ones never
    np.testing.assert_array_equal(choose(TINY, 3, 12), choose(TINY, 3, 12))
    assert pool.take(np.array([3, 1]))["points"].shape == (2, 68, 2)
    with pytest.raises(FitjaxError, match="found none"):
        Pool(folder)


def test_a_training_begins_with_anothers_average(trained, tables, tmp_path, capsys):
    folder, _ = trained
    start = folder / "image.checkpoint.safetensors"
    state = continue_training(TINY, tables, start)
    stored = safetensors.numpy.load_file(start)
    np.testing.assert_array_equal(state.weights, stored[".average"])
    assert int(state.step) == 0 and not np.array_equal(stored[".average"], stored[".weights"])
    wider = replace(TINY, hidden=24)
    with pytest.raises(FitjaxError, match=r"expected \d+ weights, found \d+"):
        continue_training(wider, tables, start)
    with pytest.raises(FitjaxError, match=r"absent.safetensors: cannot be read"):
        train_image(TINY, tmp_path / "a", pool=folder / "pool", start=tmp_path / "absent.safetensors")
    # The state of a run that began elsewhere is not that of one that began by itself.
    ours = tmp_path / "b"
    ours.mkdir()
    (ours / start.name).write_bytes(start.read_bytes())
    with pytest.raises(FitjaxError, match="start_sha256"):
        train_image(TINY, ours, pool=folder / "pool", start=start)
    assert main(["train", "landmarks", "--out", str(tmp_path / "c"), "--start", str(start)]) == UNUSABLE
    assert "--start: is of `train image`" in capsys.readouterr().err
    assert main(["train", "decoder", "--out", str(tmp_path / "c"), "--rate", "0.1"]) == UNUSABLE
    assert "--portraits, --rate: are of `train image`" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "value"), [("side", 40), ("batch", 0), ("portraits", 4), ("rate", 0.0)])
def test_settings_that_cannot_be(name, value, tmp_path):
    with pytest.raises(FitjaxError, match=f"train image: {name}"):
        train_image(replace(TINY, **{name: value}), tmp_path)


@pytest.mark.parametrize("kind", ["perspective", "weak_perspective"])
def test_a_pose_of_the_crop_shows_the_same_face_in_the_photo(tables, kind):
    """Far away and along the ray through the face, weak perspective and perspective agree: points of the posed head fall where the crop has them."""
    face, shown = a_placed(tables, 2)
    camera = fj.make_camera(400, 300, focal=30_000.0, kind=kind)
    angle = 0.4
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    placement = np.concatenate([60 * turn, [[250.0], [90.0]]], 1)
    pixels = shown[:68, :2] @ placement[:, :2].T + placement[:, 2]
    pose = pose_in_camera(face, placement, pixels, camera)
    shape = np.asarray(tables.mean + jnp.einsum("m,mna->na", face.codes, tables.modes), np.float64)[:68]
    points = shape @ pose["rotation"].T + pose["translation"]
    depth = points[:, 2:] if kind == "perspective" else pose["translation"][2]
    found = np.asarray(camera.focal) * points[:, :2] / depth + np.asarray(camera.centre)
    np.testing.assert_allclose(found, pixels, atol=0.5)  # of a face of 60 pixels; what is left is perspective
    if kind == "perspective":
        ray = np.append((pixels.mean(0) - np.asarray(camera.centre)) / np.asarray(camera.focal), 1)
        tilt = np.asarray(rotation_between_rays(jnp.array([0.0, 0, 1]), jnp.asarray(ray / np.linalg.norm(ray), jnp.float32)))
        flat = np.eye(3)
        flat[:2, :2] = turn
        np.testing.assert_allclose(pose["rotation"], tilt @ flat @ np.asarray(face.rotation), atol=1e-5)


def an_image_face(points, rotation, agreement=0.02, dense=None):
    labels = np.zeros((8, 8), np.uint8)
    labels[2:6, 2:6] = 8
    labels[2, 2:6] = IMAGE_LABELS.covers[0]
    size = float(np.sqrt(np.ptp(points, axis=0).prod()))
    placement = np.array([[10.0, 0, 55.2], [0, 10.0, 55.2]])
    dense = np.zeros((478, 2)) if dense is None else dense
    rotations = {"fused": np.asarray(rotation)}
    return ImageFace({}, points, np.ones(68), np.full(68, 0.5), {}, rotations, agreement, labels, labels / 8, placement, size, dense)


def test_landmarks_go_beside_the_detectors_or_in_their_place():
    rng = np.random.default_rng(0)
    own, mesh = rng.uniform(50, 150, (68, 2)), rng.uniform(50, 150, (478, 2))
    observation = fj.make_observation({"mediapipe478": mesh}, image_size=(200, 200))
    frontal, turned = (an_image_face(own, some_rotation(0, yaw, 0), dense=d) for yaw, d in ((10, mesh), (-70, mesh + np.array([0, 9.0]))))
    assert not has_failed(observation, frontal) and has_failed(observation, turned)  # 9 of about 100 pixels
    assert not has_failed(observation, an_image_face(own, some_rotation(0, -70, 0), dense=mesh + np.array([0, 3.0])))  # it sees what the network sees
    aside = fj.make_observation({"mediapipe478": mesh + 80}, image_size=(300, 300))
    assert has_failed(aside, frontal) and not has_failed(aside, an_image_face(own, some_rotation(0, 10, 0), agreement=0.2, dense=mesh))
    both = with_image_landmarks(observation, frontal)
    assert set(both.landmarks) == {"mediapipe478", "aflw68"}
    np.testing.assert_allclose(both.landmarks["aflw68"].points, own, rtol=1e-6)
    np.testing.assert_allclose(both.landmarks["aflw68"].confidence, 0.5)
    alone = with_image_landmarks(observation, turned)
    assert set(alone.landmarks) == {"aflw68"} and float(alone.face_size) == pytest.approx(turned.face_size)
    given = fj.make_observation({"aflw68": own + 1}, image_size=(200, 200))
    np.testing.assert_allclose(with_image_landmarks(given, frontal).landmarks["aflw68"].points, own + 1, rtol=1e-6)  # the user's own stay


def test_what_the_network_saw_counts_for_less():
    rng = np.random.default_rng(0)
    both = {"mediapipe478": rng.uniform(50, 150, (478, 2)), "aflw68": rng.uniform(50, 150, (68, 2))}
    losses = fj.default_losses(fj.make_observation(both, image_size=(200, 200)))
    found = weighed(losses | {"parts": losses["aflw68"]}, parsed=True)
    ratio = {name: float(found[name].weight) / float(losses["aflw68" if name == "parts" else name].weight) for name in found}
    assert ratio == pytest.approx({"mediapipe478": 1, "aflw68": BESIDE, "prior": 1, "parts": PARSED})
    alone = fj.default_losses(fj.make_observation({"aflw68": both["aflw68"]}, image_size=(200, 200)))
    assert all(weighed(alone)[name] is alone[name] for name in alone)


def test_maps_lie_over_the_photo():
    photo = photo_from_array(np.zeros((150, 200, 3), np.uint8))
    face = an_image_face(np.random.default_rng(0).uniform(50, 150, (68, 2)), np.eye(3))
    labels, table = parse_image(photo, face)
    assert labels.shape == (150, 200) and table.parts["skin"] == (8,)
    assert labels[75 + 4, 55 + 25] == table.covers[0] and labels[75 + 14, 55 + 25] == 8 and labels[0, 0] == 0
    assert (labels == 8).sum() == 3 * 4 * 100
    np.testing.assert_allclose(visible_mask(photo, face)[75 + 14, 55 + 25], 1)
    assert in_photo(np.ones((8, 8)), face.photo_from_labels, photo, outside=7)[0, 0] == 7


@pytest.mark.parametrize("box", [(1, 2, 3), (0, 0, 4, 100), (0, 0, float("nan"), 9), (900, 0, 50, 50)])
def test_boxes_that_cannot_be(box):
    with pytest.raises(FitjaxError, match="box: "):
        check_box(box, photo_from_array(np.zeros((150, 200, 3), np.uint8)))


def test_options_that_do_not_go_together(tmp_path, capsys):
    photo = tmp_path / "photo.png"
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(photo)
    for more, message in (
        (["--box", "1", "2", "30", "40", "--all-faces"], "--box: goes neither with --landmarks"),
        (["--parse", "image_net", "--labels", str(photo)], "--parse: goes neither with --labels"),
        (["--init", "image_net", "--same-person"], "goes neither with --start nor with --same-person"),
    ):
        assert main(["fit", str(photo), *more, "--out", str(tmp_path / "out")]) == UNUSABLE
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


needs_weights = pytest.mark.skipif(not Path(SHIPPED_IMAGE).is_file(), reason="no image network lies in fitjax/data")


@needs_weights
def test_the_shipped_networks_are_small_and_have_their_records(model):
    record = json.loads(SHIPPED_IMAGE.with_suffix(".json").read_text())
    files = [SHIPPED_IMAGE.with_name(f"{name}.safetensors") for name in ("image_net", "landmark_net", "facemesh_correction")]
    assert SHIPPED_IMAGE.stat().st_size == record["bytes"] and sum(f.stat().st_size for f in files) <= 8_000_000
    assert record["provenance"]["basis_sha256"] == model.basis_sha256
    load_looker()  # checks the hash against the record, and the shapes


@needs_weights
def test_a_box_is_enough_for_a_fit(astronaut, tmp_path, capsys):
    """`fitjax fit --box` on a photo, without any detector: the fit converges, near where the face is."""
    Image.fromarray(astronaut).save(tmp_path / "face.png")
    arguments = ["fit", str(tmp_path / "face.png"), "--box", "175", "70", "95", "110", "--stages", "landmarks", "--level", "0"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0, capsys.readouterr().err
    report = json.loads((tmp_path / "out" / "face" / "report.json").read_text())
    assert report["status"] == "converged"


@needs_weights
def test_initialise_from_pixels(model, astronaut):
    """The same face from the photo and from the observation's own crop; other models are refused."""
    camera = fj.make_camera(512, 512)
    corners = np.array([[175.0, 70], [270, 180]])
    marks = np.linspace(corners[0], corners[1], 68) + np.random.default_rng(0).normal(size=(68, 2))
    observation = fj.make_observation({"aflw68": marks}, camera)
    start = fj.initialise(observation, method="image_net", model=model, photo=astronaut)
    assert abs(np.degrees(float(geodesic_angle(start["pose"]["rotation"], jnp.diag(jnp.array([1.0, -1, -1])))))) < 40
    assert 0.2 < float(start["pose"]["translation"][2]) < 3
    with pytest.raises(FitjaxError, match="the observation has no pixels"):
        fj.initialise(observation, method="image_net", model=model)
    with pytest.raises(FitError, match="belongs to another model than 'other'"):
        fj.initialise(observation, model=replace(model, basis_sha256="another", name="other"), method="image_net", photo=astronaut)
