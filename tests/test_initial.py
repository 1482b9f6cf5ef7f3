"""Where fits start: the closed form, the robust linear solve, the network that corrects it, its training and its file."""

from __future__ import annotations

import itertools
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import fitjax as fj
from fitjax.cli.main import UNUSABLE, main
from fitjax.errors import BasisError, FitError, FitjaxError
from fitjax.geometry.rotation import geodesic_angle, rotation_from_aflw2000
from fitjax.initial.faces import SETS, random_faces
from fitjax.initial.linear_start import apply_step, linear_start, project_points
from fitjax.initial.points import look_at, pose_in_photo, table_of
from fitjax.initial.polish import bounded_step
from fitjax.initial.training import LandmarkSettings, train_landmarks
from fitjax.initial.weights import SHIPPED, load_landmark_net
from fitjax.pytree import replace

SIZE = 400
TINY = LandmarkSettings(hidden=16, depth=1, steps=20, batch=8, interval=10, warmup=5)


@pytest.fixture(scope="module")
def model():
    return fj.load_basis(level=0, sample_sets=("aflw68", "mediapipe478"))


def head(model, yaw, seed, pitch=10.0, roll=-20.0, place=(0.05, -0.03, 0.7)):
    rng = np.random.default_rng(seed)
    rotation = rotation_from_aflw2000(jnp.asarray(np.radians([pitch, yaw, roll]), jnp.float32))
    expression = rng.uniform(0, 0.6, model.n_expression) * (rng.random(model.n_expression) < 0.15)
    return {
        "identity": rng.normal(size=model.n_identity).astype(np.float32),
        "expression": expression.astype(np.float32),
        "pose": {"rotation": rotation, "translation": jnp.array(place, jnp.float32)},
    }


def shown(model, params, name, camera):
    """Pixels of a set, in NumPy and double precision."""
    part, count = model.sampled[name], model.n_identity
    code = np.concatenate([params["identity"], params["expression"]]).astype(np.float64)
    assert len(code) == count + model.n_expression
    points = np.asarray(part.mean, np.float64) + (code @ np.asarray(part.modes, np.float64)).reshape(-1, 3)
    points = points @ np.asarray(params["pose"]["rotation"], np.float64).T + np.asarray(params["pose"]["translation"], np.float64)
    z = points[:, 2:] if camera.kind == "perspective" else params["pose"]["translation"][2]
    return np.asarray(camera.focal) * points[:, :2] / z + np.asarray(camera.centre)


def landmark_error(model, start, name, camera, truth):
    """Mean distance over the face size sqrt(w h), percent."""
    return 100 * np.linalg.norm(shown(model, start, name, camera) - truth, axis=1).mean() / np.sqrt(np.ptp(truth, axis=0).prod())


@pytest.mark.parametrize("kind", ["perspective", "weak_perspective"])
def test_a_turned_view_keeps_every_pixel(kind):
    """A pose found in the view's camera shows the same pixels in the photo's."""
    rng = np.random.default_rng(1)
    camera = fj.make_camera(SIZE, SIZE, kind=kind)
    points = rng.normal(size=(20, 3)) * 0.05
    rotation = np.asarray(rotation_from_aflw2000(jnp.array([0.2, -0.5, 0.3])), np.float64)
    pixels = rng.uniform(0, SIZE, (20, 2)).astype(np.float32)
    view = look_at(camera, jnp.asarray(pixels), jnp.ones(20), jnp.asarray(90.0))
    assert np.abs(np.asarray(view.points).mean(0)).max() < 0.02 * np.ptp(np.asarray(view.points))
    translation = np.array([0.01, -0.02, 5.0 if kind == "weak_perspective" else 0.8])
    local = points @ rotation.T + translation
    flat = local[:, :2] / (local[:, 2:] if kind == "perspective" else translation[2])
    pose = pose_in_photo(view, jnp.asarray(rotation, jnp.float32), jnp.asarray(translation, jnp.float32))
    moved = points @ np.asarray(pose["rotation"], np.float64).T + np.asarray(pose["translation"], np.float64)
    depth = moved[:, 2:] if kind == "perspective" else float(pose["translation"][2])
    found = np.asarray(camera.focal) * moved[:, :2] / depth + np.asarray(camera.centre)
    if kind == "perspective":
        rays = np.concatenate([flat, np.ones((20, 1))], 1) @ np.asarray(view.turn).T
        flat = rays[:, :2] / rays[:, 2:]
    else:
        flat = flat * float(view.stretch) + np.asarray(view.centre)
    np.testing.assert_allclose(found, np.asarray(camera.focal) * flat + np.asarray(camera.centre), atol=2e-3 * SIZE / 10)


def test_order_and_missing_points_do_not_matter(model):
    """Points carry their rows of the basis: shuffled ones give the same start, and so do missing ones, wherever they were seen."""
    table = table_of(model, ("aflw68",))
    camera = fj.make_camera(SIZE, SIZE)
    pixels = jnp.asarray(shown(model, head(model, 40, 3), "aflw68", camera), jnp.float32)
    weight = jnp.ones(68).at[jnp.array([3, 30, 50])].set(0)
    size = jnp.asarray(100.0)
    start = jax.jit(lambda t, p, w: linear_start(t, look_at(camera, p, w, size)))
    found = start(table, pixels, weight)
    order = np.random.default_rng(0).permutation(68)
    shuffled = start(table.take(order), pixels[order], weight[order])
    np.testing.assert_allclose(shuffled.step, found.step, atol=2e-3)
    np.testing.assert_allclose(shuffled.place.rotation, found.place.rotation, atol=1e-5)
    astray = start(table, jnp.where(weight[:, None] > 0, pixels, -999.0), weight)
    np.testing.assert_allclose(astray.step, found.step, atol=2e-3)


def test_the_linear_start_solves_its_least_squares_problem(model):
    """On a face far away and exactly the model's the linear solve leaves next to nothing over, and the parts of its result fit together."""
    table = replace(table_of(model, ("mediapipe478",)), prior=jnp.asarray(1e-6))
    camera = fj.make_camera(SIZE, SIZE, focal=40_000.0)
    truth = head(model, 25, 5, place=(0, 0, 60.0))
    truth["expression"] = np.zeros_like(truth["expression"])
    pixels = shown(model, truth, "mediapipe478", camera)
    size = np.sqrt(np.ptp(pixels, axis=0).prod())
    view = look_at(camera, jnp.asarray(pixels, jnp.float32), jnp.ones(478), jnp.asarray(size, jnp.float32))

    def solve(table, view):
        found = linear_start(table, view)
        return found.left, project_points(table, *apply_step(table, found.place, found.step))

    left, points = jax.jit(solve)(table, view)
    assert float(left) < 2e-3
    error = 100 * np.linalg.norm(np.asarray(points - view.points), axis=1).mean() / float(view.size)
    assert error < 0.8  # percent; what the small steps leave to second order


@pytest.mark.parametrize("yaw", [0, 70, -85])
def test_the_network_starts_nearer_than_the_closed_form(model, yaw):
    """Noisy landmarks of faces that the training never drew: error of the landmarks, and the pose within a few degrees."""
    camera = fj.make_camera(SIZE, SIZE)
    rng = np.random.default_rng(yaw + 100)
    errors = []
    for name in ("aflw68", "mediapipe478"):
        truth = head(model, yaw, yaw + 200)
        exact = shown(model, truth, name, camera)
        noisy = exact + 0.01 * np.sqrt(np.ptp(exact, axis=0).prod()) * rng.normal(size=exact.shape)
        observation = fj.make_observation({name: noisy}, camera)
        closed, net = (fj.initialise(observation, method=m, model=model) for m in ("closed_form", "landmark_net"))
        errors.append([landmark_error(model, x, name, camera, exact) for x in (closed, net)])
        assert float(geodesic_angle(net["pose"]["rotation"], truth["pose"]["rotation"])) < np.radians(4)
        assert (np.asarray(net["expression"]) >= np.asarray(model.expression_lower)).all()
    errors = np.array(errors)
    assert (errors[:, 1] < 1.5).all() and (errors[:, 1] < 0.6 * errors[:, 0]).all(), errors


def test_half_a_face_and_wild_points(model):
    """A third of the points missing on one side and one in ten far off: the pose stays within 8 degrees."""
    camera = fj.make_camera(SIZE, SIZE)
    truth = head(model, 50, 11)
    exact = shown(model, truth, "aflw68", camera)
    rng = np.random.default_rng(2)
    spoilt = exact + 1.0 * rng.normal(size=exact.shape)
    spoilt[::10] += rng.normal(size=spoilt[::10].shape) * 30
    valid = exact[:, 0] < np.quantile(exact[:, 0], 0.67)
    observation = fj.make_observation({"aflw68": spoilt}, camera, valid={"aflw68": valid})
    start = fj.initialise(observation, model=model, method="landmark_net")
    assert float(geodesic_angle(start["pose"]["rotation"], truth["pose"]["rotation"])) < np.radians(8)
    assert landmark_error(model, start, "aflw68", camera, exact) < 4


def test_a_fit_from_the_network_ends_where_one_from_the_closed_form_does(model):
    camera = fj.make_camera(SIZE, SIZE)
    truth = head(model, 30, 21)
    observation = fj.make_observation({"aflw68": shown(model, truth, "aflw68", camera)}, camera)
    starts = [fj.initialise(observation, model=model, method=method) for method in ("closed_form", "auto")]
    a, b = (fj.fit(observation, model=model, start=start) for start in starts)  # one program
    assert b.ok and b.landmark_residual == pytest.approx(a.landmark_residual, rel=0.02)
    # The start is itself within a percent of the lowest objective.
    of_a, of_b = (sum(x.history["landmarks"].values()) for x in (a, b))
    assert of_b[0] < 1.01 * min(np.nanmin(of_a), np.nanmin(of_b)) < 0.5 * of_a[0]


def test_methods_that_cannot_be(model):
    observation = fj.make_observation({"aflw68": np.random.default_rng(0).uniform(0, 99, (68, 2))}, image_size=(SIZE, SIZE))
    with pytest.raises(FitError, match="expected one of closed_form, landmark_net, image_net, auto"):
        fj.initialise(observation, model=model, method="magic")
    other = replace(model, basis_sha256="another", name="other")
    with pytest.raises(FitError, match="belongs to another model than 'other'"):
        fj.initialise(observation, model=other, method="landmark_net")
    np.testing.assert_array_equal(fj.initialise(observation, model=other)["identity"], 0)  # auto: the closed form
    mine = replace(observation, landmarks={"mine": observation.landmarks["aflw68"]})
    with pytest.raises(FitError, match="no landmarks that the model knows"):
        fj.initialise(mine, model=model, method="landmark_net")


def test_an_empty_slot_of_a_batch_stays_finite(model):
    from fitjax.observation import neutral_observation, stack_observations

    camera = fj.make_camera(SIZE, SIZE)
    seen = fj.make_observation({"aflw68": shown(model, head(model, 10, 1), "aflw68", camera)}, camera)
    both = stack_observations([seen, neutral_observation(seen)])
    start = fj.initialise(both, model=model)
    assert all(np.isfinite(x).all() and x.shape[0] == 2 for x in jax.tree.leaves(start))
    alone = fj.initialise(seen, model=model)
    np.testing.assert_allclose(start["pose"]["rotation"][0], alone["pose"]["rotation"], atol=1e-4)
    np.testing.assert_array_equal(start["pose"]["rotation"][1], np.diag([1.0, -1.0, -1.0]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder and metrics of a run without interruption."""
    folder = tmp_path_factory.mktemp("landmarks")
    assert train_landmarks(TINY, folder) == folder / "landmark_net.safetensors"
    return folder, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_killed_training_continues_to_the_same_numbers(trained, tmp_path):
    folder, rows = trained
    assert [row["step"] for row in rows] == [10, 20]
    assert train_landmarks(TINY, tmp_path, lambda network, step, measured: step == 10) is None
    train_landmarks(TINY, tmp_path)
    again = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(a[k] == pytest.approx(b[k], abs=1e-5) for a, b in zip(again, rows) for k in a if k != "network")
    with pytest.raises(FitjaxError, match="hidden was 16, is 8"):
        train_landmarks(replace(TINY, hidden=8), folder)


def test_training_lowers_the_loss(trained):
    _, rows = trained
    assert rows[1]["held_out_objective"] < rows[0]["held_out_objective"]


def test_weights_come_back_from_their_file(trained, tmp_path):
    folder, _ = trained
    _, weights, about = load_landmark_net(folder / "landmark_net.safetensors")
    assert (about["hidden"], about["steps"]) == (16, 20)
    assert weights["params"]["trunk"]["enter"]["kernel"].shape[1] == 16
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes((folder / "landmark_net.safetensors").read_bytes()[:-9])
    with pytest.raises(BasisError, match="broken"):
        load_landmark_net(broken)
    with pytest.raises(BasisError, match="no such file"):
        load_landmark_net(tmp_path / "absent.safetensors")


def test_the_shipped_network_is_small_and_has_its_record():
    record = json.loads(SHIPPED.with_suffix(".json").read_text())
    assert SHIPPED.stat().st_size == record["bytes"] <= 1_000_000
    assert record["provenance"]["basis_sha256"] == fj.load_basis(level=0, sample_sets=()).basis_sha256
    load_landmark_net(SHIPPED)  # checks the hash against the record


def test_fit_command_starts_from_the_network(model, tmp_path):
    """`fitjax fit --init` with landmarks of one's own."""
    camera = fj.make_camera(SIZE, SIZE)
    np.save(tmp_path / "face.npy", shown(model, head(model, 20, 31), "aflw68", camera))
    Image.fromarray(np.full((SIZE, SIZE, 3), 128, np.uint8)).save(tmp_path / "face.png")
    arguments = ["fit", str(tmp_path / "face.png"), "--landmarks", str(tmp_path / "face.npy"), "--stages", "landmarks", "--level", "0"]
    assert main([*arguments, "--init", "landmark_net", "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "face" / "report.json").read_text())["status"] == "converged"


def test_random_faces_are_what_they_claim(model):
    full = fj.load_basis(level=0, sample_sets=SETS)
    faces = jax.jit(random_faces, static_argnums=(2, 3))(jax.random.key(4), table_of(full, SETS), full.n_identity, 32)
    points = np.asarray(faces.view.points)
    seen = np.asarray(faces.view.weight) > 0
    assert np.isfinite(points).all() and (seen.sum(1) >= 20).all()
    error = np.linalg.norm(points - np.asarray(faces.truth), axis=-1) / np.asarray(faces.view.size)[:, None]
    plain = np.asarray(faces.plain)
    assert np.median(error[plain][seen[plain]]) < 0.04 < error[~plain].max()
    assert np.abs(np.linalg.det(np.asarray(faces.rotation)) - 1).max() < 1e-4


def test_command_line(tmp_path, capsys):
    photo = tmp_path / "photo.png"
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(photo)
    assert main(["fit", str(photo), "--init", "auto", "--start", "x.safetensors", "--out", str(tmp_path / "out")]) == UNUSABLE
    assert "--init auto: goes neither with --start nor with --same-person" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    file = tmp_path / "file"
    file.write_text("x")
    assert main(["train", "landmarks", "--out", str(file)]) == UNUSABLE
    assert "expected a folder, found a file" in capsys.readouterr().err


def test_a_bounded_step_is_the_best_of_all_active_sets():
    """Against every choice of bounds that six coordinates could lie at."""
    rng = np.random.default_rng(0)
    solve = jax.jit(partial(bounded_step, rounds=8))
    for _ in range(5):
        a = rng.normal(size=(6, 9))
        curvature, right = a @ a.T / 9 + 0.3 * np.eye(6), 2 * rng.normal(size=6)
        lower, upper = np.array([-0.3, 0, 0, -np.inf, -0.1, 0]), np.array([0.4, 1, 0.2, np.inf, 0.5, 0])
        best = np.inf
        for which in itertools.product((0, 1, 2), repeat=6):
            held, free = np.flatnonzero(which), np.flatnonzero(np.array(which) == 0)
            step = np.where(np.array(which) == 1, lower, upper)
            if not np.isfinite(step[held]).all():
                continue
            step[free] = np.linalg.solve(curvature[np.ix_(free, free)], right[free] - curvature[np.ix_(free, held)] @ step[held])
            if (step >= lower - 1e-9).all() and (step <= upper + 1e-9).all():
                best = min(best, 0.5 * step @ curvature @ step - right @ step)
        found = np.asarray(solve(*(jnp.asarray(x, jnp.float32) for x in (curvature, right, lower, upper))), np.float64)
        assert (found >= lower - 1e-6).all() and (found <= upper + 1e-6).all()
        assert 0.5 * found @ curvature @ found - right @ found == pytest.approx(best, abs=1e-4)
