"""The part re-projection loss: what it measures, what it does not depend on, empty parts, solvers, batches; part metrics."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import export
from part_scenes import part_model, scene_with_parts
from scenes import render_landmarks

import fitjax as fj
from fitjax.evaluate.parts import crop_placement, observed_labels, part_contour_distance, part_iou, render_parts
from fitjax.geometry.surface import SurfaceSamples
from fitjax.losses.core import loss_cost, loss_rows
from fitjax.losses.part_kernel import part_statistics
from fitjax.losses.parts import PART_WEIGHT, predicted_parts
from fitjax.observation.part_tables import PARTS
from fitjax.observation.parts import make_parts
from fitjax.prediction import freeze, predict
from fitjax.pytree import replace
from fitjax.solve.objective import Problem, costs, frozen_sets, rows

EVERYTHING = {"pose": 1.0, "identity": 1.0, "expression": 1.0}
ADAM = optax.adam(0.02)


@pytest.fixture(scope="module")
def smiling():
    """Model, truth, observation with the parts that the true model shows, and the label map."""
    model, truth, observation = scene_with_parts({"jawOpen": 0.6, "eyeBlinkRight": 0.7, "mouthSmileLeft": 0.5}, yaw=15)
    labels = render_parts(model, truth, observation)
    return (
        model,
        truth,
        fj.with_parts(observation, labels, "fitjax", image_from_labels=crop_placement(observation)),
        labels,
    )


def prediction(model, params, observation):
    return predict(model, params, observation, freeze(model, params))


def shifted(params, metres):
    pose = params["pose"]
    return {**params, "pose": {**pose, "translation": pose["translation"] + jnp.asarray([metres, 0.0, 0.0])}}


@jax.jit
def _cost(loss, model, params, observation):
    return loss_cost(loss, prediction(model, params, observation), observation)


_value_and_grad = jax.jit(jax.value_and_grad(_cost, 2))


def cost_of(loss, model, params, observation):
    return float(_cost(loss, model, params, observation))


def test_lowest_at_the_truth_and_in_percent_of_the_face(smiling):
    model, truth, observation, _ = smiling
    loss = fj.part_reprojection()
    at_truth = cost_of(loss, model, truth, observation)
    metres_per_face = float(observation.face_size * truth["pose"]["translation"][2] / observation.camera.focal[0])
    # Shifted by 4 % of the face size: each residual changes by up to 4 %.
    for sign in (-1, 1):
        moved = cost_of(loss, model, shifted(truth, sign * 0.04 * metres_per_face), observation)
        assert moved > 10 * at_truth
        assert 0.1 < moved / (0.5 * 4**2) < 1
    assert float(loss.weight) == PART_WEIGHT


def test_samples_under_hair_do_not_count(smiling):
    """Hair over a cheek hides its pixels: without a word the cheek is pulled in, with the label the true face costs as little as before."""
    model, truth, observation, labels = smiling
    hair = labels.copy()
    hair[:, :90] = 9
    table = {name: k for k, name in enumerate(PARTS, 1)}
    crop = crop_placement(observation)
    silent = fj.with_parts(observation, hair, {**table, "other": (0, 9)}, image_from_labels=crop)
    spoken = fj.with_parts(observation, hair, {**table, "covers": 9}, image_from_labels=crop)
    loss = fj.part_reprojection(occlusion=True)
    found = [_refrozen_cost(loss, model, truth, seen) for seen in (observation, silent, spoken)]
    cost = [one[0] for one in found]
    assert cost[1] > 5 * cost[0] and cost[2] < 1.5 * cost[0], cost
    visible, pixels = found[2][1:]
    column = np.floor((np.asarray(pixels)[:, 0] - crop[0, 2]) / crop[0, 0] + 0.5)
    assert (column < 90).sum() > 100 and not np.asarray(visible)[column < 90].any() and np.asarray(visible)[column > 90].any()


@jax.jit
def _refrozen_cost(loss, model, params, observation):
    """The cost where visibility is taken at these parameters; of the skin's samples, which are in view, and their pixels."""
    problem = Problem(model, observation, {"parts": loss}).refreeze(params)
    pixels = predict(model, params, observation).pixels["part_skin"]
    return costs(problem, params)["parts"], problem.frozen.visible["part_skin"], pixels


def test_pixels_and_samples_agree_at_the_truth():
    """An open jaw stretches cheeks and chin, and samples that are uniform on the mean face are not on this one; pixels have an area."""
    model, truth, observation = scene_with_parts({"jawOpen": 1.0}, yaw=0)
    labels = render_parts(model, truth, observation)
    seen = fj.with_parts(observation, labels, "fitjax", image_from_labels=crop_placement(observation))
    found = jax.jit(lambda params: predicted_parts(prediction(model, params, seen)))(truth)
    for k, name in enumerate(PARTS):
        points, area = found[name]
        middle, weight = (np.asarray(x, np.float64) for x in (seen.parts.points[k], seen.parts.weight[k]))
        expected = (middle * weight[:, None]).sum(0) / weight.sum()
        off = (np.asarray(points) * np.asarray(area)[:, None]).sum(0) / float(area.sum()) - expected
        # Face sizes; without the stretch skin is off by 0.026.
        assert np.abs(off).max() < 0.015, (name, off)
    model_values = part_statistics(seen.parts.anchors, *(x[None] for x in found["lower_lip"]))[0]
    difference = np.asarray(model_values - seen.parts.statistics[6])
    assert np.abs(difference[:2].mean(1)).max() < 0.003


def test_resolution_does_not_matter(smiling):
    model, truth, observation, _ = smiling
    loss = fj.part_reprojection()
    params = shifted(truth, 0.01)
    found = []
    for size in (1, 3):
        _, _, photo = scene_with_parts({"jawOpen": 0.6}, yaw=15, size=size)
        labels = render_parts(model, {**truth}, photo, 224)
        found.append(
            cost_of(
                loss, model, params, fj.with_parts(photo, labels, "fitjax", image_from_labels=crop_placement(photo))
            )
        )
    assert found[1] == pytest.approx(found[0], rel=2e-3)
    # A finer label map of the same face.
    labels = render_parts(model, truth, observation, 448)
    fine = fj.with_parts(observation, labels, "fitjax", image_from_labels=crop_placement(observation, 448))
    assert cost_of(loss, model, params, fine) == pytest.approx(cost_of(loss, model, params, observation), rel=0.02)


def test_number_of_anchors_and_points_does_not_matter(smiling):
    model, truth, observation, labels = smiling
    loss, params = fj.part_reprojection(), shifted(truth, 0.01)
    place = crop_placement(observation)
    expected = cost_of(loss, model, params, observation)
    for options in ({"anchors": 4, "points": 3000}, {"anchors": 16, "points": 300}):
        other = fj.with_parts(observation, labels, "fitjax", image_from_labels=place, **options)
        assert cost_of(loss, model, params, other) == pytest.approx(expected, rel=0.04), options


def test_the_papers_configuration(smiling):
    """All pixels of 224² as anchors, 3,000 points of skin: within one per cent of the practical one."""
    model, truth, observation, labels = smiling
    params = shifted(truth, 0.01)
    full = fj.with_parts(
        observation, labels, "fitjax", image_from_labels=crop_placement(observation), anchors=1, points=3000
    )
    assert full.parts.statistics.shape == (8, 3, 50_176)
    assert cost_of(fj.part_reprojection(), model, params, full) == pytest.approx(
        cost_of(fj.part_reprojection(), model, params, observation), rel=0.03
    )


def test_anchors_of_the_loss(smiling):
    model, truth, observation, _ = smiling
    params = shifted(truth, 0.01)
    expected = cost_of(fj.part_reprojection(), model, params, observation)
    assert cost_of(fj.part_reprojection(anchors=8), model, params, observation) == expected
    eyes = ("right_eye", "nose")
    few = cost_of(fj.part_reprojection(eyes, anchors=16), model, params, observation)
    assert few == pytest.approx(cost_of(fj.part_reprojection(eyes), model, params, observation), rel=0.05)
    own = np.asarray(observation.parts.anchors)
    assert cost_of(fj.part_reprojection(anchors=own), model, params, observation) == pytest.approx(expected, rel=1e-4)


def test_empty_parts_count_exactly_nothing(smiling):
    model, truth, observation, labels = smiling
    params = shifted(truth, 0.01)
    place = crop_placement(observation)
    # The segmentation lacks the nose: the same as not asking for it.
    without = fj.with_parts(observation, np.where(labels == 5, 0, labels), "fitjax", image_from_labels=place)
    others = tuple(p for p in PARTS if p != "nose")
    flat = lambda loss, obs: _value_and_grad(loss, model, params, obs)  # noqa: E731
    found = cost_of(fj.part_reprojection(), model, params, without)
    assert found == pytest.approx(cost_of(fj.part_reprojection(others), model, params, observation), rel=1e-5)
    value, gradient = flat(fj.part_reprojection(("nose",)), without)
    assert value == 0 and not any(np.asarray(x).any() for x in jax.tree.leaves(gradient))
    # Out of view: everything faces away.
    away = freeze(model, params)
    away = replace(away, visible={k: jnp.zeros_like(v) for k, v in away.visible.items()})

    def one(p):
        return loss_cost(fj.part_reprojection(("nose", "left_eye")), predict(model, p, observation, away), observation)

    value, gradient = jax.jit(jax.value_and_grad(one))(params)
    assert value == 0 and not any(np.asarray(x).any() for x in jax.tree.leaves(gradient))
    # A slot of a batch that holds nothing.
    from fitjax.observation.observation import neutral_observation

    value, gradient = flat(fj.part_reprojection(("nose",)), neutral_observation(observation))
    assert value == 0 and all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(gradient))


def test_weights_are_relative_and_leaves(smiling):
    model, truth, observation, _ = smiling
    params = shifted(truth, 0.01)
    compiled = jax.jit(lambda loss: loss_cost(loss, prediction(model, params, observation), observation))
    plain = compiled(fj.part_reprojection())
    assert float(compiled(fj.part_reprojection(weights=[2.0] * 8))) == pytest.approx(float(plain), rel=1e-6)
    lips = compiled(fj.part_reprojection(weights={p: 0.0 for p in PARTS if "lip" not in p}))
    expected = jax.jit(
        lambda: loss_cost(
            fj.part_reprojection(("upper_lip", "lower_lip")), prediction(model, params, observation), observation
        )
    )()
    assert float(lips) == pytest.approx(float(expected), rel=1e-5)
    assert compiled._cache_size() == 1


def test_gradient_against_finite_differences():
    """The whole loss in float64, eyes between their lids included."""
    with jax.enable_x64(True):
        model = part_model().astype(np.float64)
        _, truth, observation = scene_with_parts({"jawOpen": 0.6}, yaw=15)
        truth, observation = (
            jax.tree.map(lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, tree)
            for tree in (truth, observation)
        )
        observation = fj.with_parts(observation)
        frozen = jax.jit(freeze)(model, truth)
        start = shifted(truth, 0.004)

        @jax.jit
        def cost(params):
            return loss_cost(
                fj.part_reprojection(("right_eye", "nose", "skin")),
                predict(model, params, observation, frozen),
                observation,
            )

        gradient = jax.jit(jax.grad(cost))(start)
        rng = np.random.default_rng(0)
        for _ in range(3):
            step = {
                "identity": 1e-6 * rng.normal(size=model.n_identity),
                "expression": 1e-6 * rng.normal(size=model.n_expression),
                "pose": {"rotation": np.zeros((3, 3)), "translation": 1e-7 * rng.normal(size=3)},
            }
            up, down = (jax.tree.map(lambda a, b, s=s: a + s * b, start, step) for s in (1, -1))
            expected = float(sum(jax.tree.leaves(jax.tree.map(lambda g, d: jnp.sum(g * d), gradient, step))))
            assert float(cost(up) - cost(down)) / 2 == pytest.approx(expected, rel=1e-5)


def test_rows_are_the_cost(smiling):
    model, truth, observation, _ = smiling
    pred = prediction(model, shifted(truth, 0.01), observation)
    loss = fj.part_reprojection()
    found = jax.jit(loss_rows)(loss, pred, observation)
    assert found.shape == (8 * 3 * 784,)
    assert 0.5 * float(jnp.sum(found**2)) == pytest.approx(float(jax.jit(loss_cost)(loss, pred, observation)), rel=1e-4)


def test_eyes_close_with_the_lids(smiling):
    model, truth, observation, _ = smiling
    index = list(model.expression_names).index("eyeBlinkRight")
    frozen = freeze(model, truth)

    def at(value):
        return predict(model, {**truth, "expression": truth["expression"].at[index].set(value)}, observation, frozen)

    height = lambda value, name: float(np.ptp(predicted_parts(at(value))[name][0][:, 1]))  # noqa: E731
    assert height(0.9, "right_eye") < 0.6 * height(0.0, "right_eye")
    assert height(0.9, "left_eye") == pytest.approx(height(0.0, "left_eye"), rel=1e-4)
    eye = jax.jit(
        jax.value_and_grad(lambda value: loss_cost(fj.part_reprojection(("right_eye",)), at(value), observation))
    )
    assert eye(0.2)[1] < 0 and eye(0.7)[0] < 0.3 * eye(0.0)[0]


def test_only_what_the_loss_reads_is_frozen():
    losses = {"parts": fj.part_reprojection(("nose", "skin")), "landmarks": fj.landmarks("mediapipe478")}
    assert frozen_sets(losses) == {"part_nose", "part_skin"}


def test_occlusion_hides_what_the_head_hides():
    model, truth, observation = scene_with_parts({}, yaw=60)
    observation = fj.with_parts(observation)
    visible = {}
    for occlusion in (False, True):
        losses = {"parts": fj.part_reprojection(occlusion=occlusion)}
        frozen = jax.jit(lambda p, losses=losses: Problem(model, observation, losses).refreeze(p).frozen)(truth)
        visible[occlusion] = {k: float(np.mean(v)) for k, v in frozen.visible.items()}
    # The far eye behind the nose; the near one is as free as before.
    near, far = (
        ("right", "left") if visible[False]["part_right_eye"] > visible[False]["part_left_eye"] else ("left", "right")
    )
    assert visible[True][f"part_{near}_eye"] == pytest.approx(visible[False][f"part_{near}_eye"], abs=0.2)
    assert visible[True][f"part_{far}_eye"] < visible[False][f"part_{far}_eye"] + 1e-6
    assert sum(visible[True].values()) < sum(visible[False].values())


def biased(model, truth, observation, labels):
    """Landmarks whose mouth is half as open as it is, and three pixels off; and the parts of the truth."""
    points = np.array(render_landmarks(model, truth, "aflw68", observation.camera))
    mouth = points[48:].mean(0)
    points[48:] = mouth + (points[48:] - mouth) * [1, 0.45]
    points = points + 3 * np.random.default_rng(1).normal(size=points.shape)
    seen = fj.make_observation({"aflw68": points}, observation.camera)
    return fj.with_parts(seen, labels, "fitjax", image_from_labels=crop_placement(observation))


@pytest.mark.parametrize(
    "solver", [fj.LevenbergMarquardt(max_steps=12), fj.FirstOrder(ADAM, max_steps=80)], ids=["lm", "adam"]
)
def test_a_stage_recovers_an_open_jaw(solver):
    """Landmarks that miss an open mouth; a stage with parts opens it."""
    model, truth, observation = scene_with_parts({"jawOpen": 0.8, "mouthFunnel": 0.4})
    labels = render_parts(model, truth, observation)
    seen = biased(model, truth, observation, labels)
    losses = {"landmarks": fj.landmarks("aflw68"), "prior": fj.prior(5e-3), "parts": fj.part_reprojection()}
    first = fj.Stage(
        EVERYTHING, fj.LevenbergMarquardt(max_steps=20), {"landmarks": 1.0, "prior": 1.0}, name="landmarks"
    )
    start = fj.fit(seen, model=model, losses=losses, stages=[first])
    second = fj.Stage(EVERYTHING, solver, {"landmarks": 0.3, "prior": 1.0, "parts": 3.0}, name="parts", outer_steps=2)
    found = fj.fit(seen, model=model, losses=losses, stages=[second], start=start.params)
    history = found.history["parts"]["parts"]
    assert history[-1] < 0.4 * history[0]

    def mouth(params):
        both = [predict(model, p, seen).pixels for p in (params, truth)]
        names = ("part_upper_lip", "part_lower_lip")
        return np.mean([np.linalg.norm(both[0][n] - both[1][n], axis=1).mean() for n in names])

    assert mouth(found.params) < 0.6 * mouth(start.params)
    before, after = (part_iou(render_parts(model, s.params, observation), labels) for s in (start, found))
    assert after["mean"] > before["mean"] + 0.08
    distance = [
        part_contour_distance(render_parts(model, s.params, observation), labels)["mean"] for s in (start, found)
    ]
    assert distance[1] < 0.7 * distance[0]


def test_a_batch_is_a_loop(smiling):
    model, truth, observation, _ = smiling
    losses = {"parts": fj.part_reprojection(("nose", "right_eye")), "landmarks": fj.landmarks("mediapipe478")}
    params = [shifted(truth, d) for d in (0.003, -0.01)]
    gradient = jax.value_and_grad(lambda p, o: sum(costs(Problem(model, o, losses).refreeze(p), p).values()))
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *params)
    both = jax.jit(jax.vmap(gradient))(stacked, fj.stack_observations([observation, observation]))
    single = jax.jit(gradient)
    for k in range(2):
        one = single(params[k], observation)
        np.testing.assert_allclose(both[0][k], one[0], rtol=1e-4)
        for a, b in zip(jax.tree.leaves(both[1]), jax.tree.leaves(one[1])):
            np.testing.assert_allclose(a[k], b, rtol=2e-3, atol=2e-3 * float(np.abs(b).max()))


def test_lowers_for_all_platforms(smiling):
    model, truth, observation, _ = smiling
    losses = {"parts": fj.part_reprojection(("nose", "left_eye"), occlusion=True)}

    def system(params):
        problem = Problem(model, observation, losses).refreeze(params)
        return jax.grad(lambda p: sum(costs(problem, p).values()))(params), jax.jvp(
            lambda p: rows(problem, p), (params,), (params,)
        )[1]

    exported = export.export(jax.jit(system), platforms=("cpu", "cuda", "tpu"))(truth)
    assert exported.platforms == ("cpu", "cuda", "tpu")


def test_other_samples_under_a_known_name(smiling):
    """Every second sample of the nose: half of the numbers, the same areas."""
    model, truth, _, _ = smiling
    samples = model.sample_library["part_nose"]
    every = SurfaceSamples(samples.triangle[::2], samples.barycentric[::2])
    area = freeze(model, truth, ["part_nose"]).area["part_nose"]
    fewer = freeze(model.with_samples("part_nose", every), truth, ["part_nose"]).area["part_nose"]
    assert np.asarray(fewer) == pytest.approx(np.asarray(area)[::2], rel=1e-5)
    assert np.ptp(np.asarray(area)) > 0


def test_a_part_made_by_hand(smiling):
    """Points of one's own in place of a segmentation."""
    model, truth, observation, _ = smiling
    found = predicted_parts(prediction(model, truth, observation))
    clouds = {name: np.asarray(points)[np.asarray(area) > 0] for name, (points, area) in found.items()}
    areas = {name: np.asarray(area)[np.asarray(area) > 0] for name, (_, area) in found.items()}
    same = replace(observation, parts=make_parts(clouds, areas=areas))
    assert cost_of(fj.part_reprojection(), model, truth, same) < 1e-6


def test_metrics():
    a, b = np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8)
    a[4:14, 4:14], b[4:14, 6:16] = 5, 5
    iou = part_iou(a, b)
    assert iou["nose"] == pytest.approx(80 / 120) and iou["mean"] == iou["nose"] and np.isnan(iou["left_eye"])
    assert part_iou(a, a)["mean"] == 1 and part_iou(np.zeros_like(a), a)["nose"] == 0
    distance = part_contour_distance(a, b, side=20.0)
    # Two of four sides lie 2 pixels off, the others overlap but for their ends.
    assert 0.8 < distance["nose"] < 1.4 and part_contour_distance(a, a)["mean"] == 0
    with pytest.raises(fj.FitjaxError, match="two label maps of one shape"):
        part_iou(a, b[1:])


def test_labels_of_a_photo_as_the_model_would_show_them(smiling):
    _, _, observation, labels = smiling
    seen = observed_labels(observation, labels, "fitjax", image_from_labels=crop_placement(observation))
    # The same map, less what lies above the brows.
    assert part_iou(seen, labels)["mean"] == 1 and part_iou(seen, labels, PARTS)["skin"] > 0.98
    assert not (seen[labels == 0]).any()


def test_errors(smiling):
    model, truth, observation, _ = smiling
    with pytest.raises(fj.FitjaxError, match=r"expected an observation with parts, found none; use fj.with_parts"):
        cost_of(fj.part_reprojection(), model, truth, replace(observation, parts=None))
    bare = fj.load_basis(level=0)
    with pytest.raises(fj.FitjaxError, match=r"part_right_eye.*use model = fj.with_part_samples\(model\)"):
        cost_of(fj.part_reprojection(), bare, truth, observation)
    with pytest.raises(fj.FitjaxError, match=r"different parts out of right_eye.*found ear"):
        fj.part_reprojection(("ear",))
    with pytest.raises(fj.FitjaxError, match="part weights: expected 8 finite numbers"):
        fj.part_reprojection(weights=[1.0])
    with pytest.raises(fj.FitjaxError, match=r"part weights: expected some of .*found ear"):
        fj.part_reprojection(weights={"ear": 1.0})
    with pytest.raises(fj.FitjaxError, match="statistics: expected a tuple"):
        fj.part_reprojection(statistics=("median",))
    with pytest.raises(fj.FitjaxError, match="uv_parts"):
        render_parts(replace(model, uv_parts=jnp.zeros((1, 1), jnp.uint8)), truth, observation)
