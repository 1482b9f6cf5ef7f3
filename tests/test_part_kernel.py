"""Statistics of distances to parts: both kernels against the literal definition and against each other, gradients, ties, batches, platforms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import fitjax as fj
from fitjax.losses.part_kernel import NAMED, part_statistics
from fitjax.losses.part_loops import ACCELERATOR, CPU, KernelPlan

# Small chunks, so that there are several and the last one is not full.
CHUNKS = KernelPlan(running=False, block=32, pairs=500)
PLANS = {"running": CPU, "chunks": CHUNKS}

compiled = jax.jit(part_statistics, static_argnames=("statistics", "plan"))


def reference(anchors, points, weight):
    """The definition, pair by pair in float64; a part without points gives zeros."""
    result = np.zeros((len(points), 3, len(anchors)))
    for p, (cloud, w) in enumerate(zip(points, weight)):
        cloud, w = cloud[w > 0], w[w > 0]
        if not len(cloud):
            continue
        for a, anchor in enumerate(anchors):
            distance = np.sqrt(((cloud - anchor) ** 2).sum(1))
            result[p, :, a] = distance.min(), distance.max(), (w * distance).sum() / w.sum()
    return result


def sets(seed=0, n=45, n_anchors=37):
    """Five parts: full, with holes (NaN where nothing is), one point, none, weighted."""
    rng = np.random.default_rng(seed)
    anchors = rng.uniform(0, 10, (n_anchors, 2))
    points = rng.normal(5, 2, (5, n, 2))
    weight = np.ones((5, n))
    weight[1, rng.random(n) < 0.4] = 0
    weight[1, 0] = 0
    weight[2] = 0
    weight[2, 7] = 1
    weight[3] = 0
    weight[4] = rng.uniform(0.1, 3, n)
    points[1, 0] = np.nan
    return anchors, points, weight


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("plan", [None, CPU, CHUNKS, ACCELERATOR])
def test_equals_the_definition(plan, x64):
    for seed, n in ((0, 45), (2, 8)):
        anchors, points, weight = sets(seed, n)
        found = compiled(anchors, points, weight, plan=plan)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, reference(anchors, points, weight), rtol=0, atol=1e-9)


def test_float32_is_close_and_stays_float32():
    anchors, points, weight = sets()
    found = compiled(*(jnp.asarray(x, jnp.float32) for x in (anchors, points, weight)))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, reference(anchors, points, weight), rtol=3e-6, atol=3e-6)


def test_order_and_choice_of_statistics(x64):
    anchors, points, weight = sets()
    every = reference(anchors, points, weight)
    found = compiled(anchors, points, weight, ("mean", "nearest"))
    np.testing.assert_allclose(found, every[:, [2, 0]], atol=1e-9)


@pytest.mark.parametrize("plan", PLANS)
def test_gradient_against_finite_differences(plan, x64):
    anchors, points, weight = sets()
    points[1, 0] = 0.0
    rng = np.random.default_rng(4)
    cotangent, direction = rng.normal(size=(5, 3, len(anchors))), rng.normal(size=points.shape)

    def cost(p):
        return jnp.sum(cotangent * part_statistics(anchors, p, weight, plan=PLANS[plan]))

    cost = jax.jit(cost)
    gradient = np.asarray(jax.jit(jax.grad(cost))(points))
    step = 1e-6
    for _ in range(5):
        direction = rng.normal(size=points.shape)
        slope = (cost(points + step * direction) - cost(points - step * direction)) / (2 * step)
        assert abs(np.sum(gradient * direction) - slope) <= 1e-6 * max(1, abs(slope))
    # Forwards, as Levenberg-Marquardt needs it: many directions at once.
    directions = rng.normal(size=(4, *points.shape))
    pushed = jax.jit(lambda p, d: jax.vmap(jax.linearize(cost, p)[1])(d))(points, directions)
    np.testing.assert_allclose(pushed, np.sum(gradient * directions, (1, 2, 3)), rtol=1e-9)
    assert not gradient[3].any()
    assert not gradient[1][weight[1] == 0].any()


@pytest.mark.parametrize("plan", PLANS)
def test_finite_with_an_anchor_on_a_point_and_at_ties(plan):
    points = jnp.asarray([[[1.0, 1.0], [3.0, 1.0], [1.0, 1.0], [3.0, 1.0]]])
    # On a point (twice there), and in the middle of two (four tie).
    anchors = jnp.asarray([[1.0, 1.0], [2.0, 1.0]])
    weight = jnp.ones((1, 4))

    # (3, 2, 4, 2): one gradient per statistic and anchor.
    gradients = np.asarray(
        jax.jit(jax.jacrev(lambda p: part_statistics(anchors, p, weight, plan=PLANS[plan])[0]))(points)
    )[:, :, 0]
    assert np.isfinite(gradients).all()
    # Never more than one unit in all: a tie goes to one point.
    total = np.linalg.norm(gradients, axis=-1).sum(-1)
    assert (total <= 1 + 1e-6).all()
    assert total[0, 0] == 0
    np.testing.assert_allclose([total[0, 1], total[1, 0], total[1, 1]], 1, rtol=1e-6)


def test_near_ties_count_once():
    # Points on a circle about the anchor: in float32 their distances differ by an ulp or not at all.
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    points = jnp.asarray(np.stack([np.cos(angle), np.sin(angle)], -1)[None], jnp.float32)
    gradients = jax.jit(jax.jacrev(lambda p: part_statistics(jnp.zeros((1, 2)), p, jnp.ones((1, 200)))[0, :2, 0]))(
        points
    )
    np.testing.assert_allclose(np.linalg.norm(gradients, axis=-1).sum((1, 2)), 1, rtol=1e-6)


def test_kernels_agree_in_float32():
    rng = np.random.default_rng(5)
    anchors, points = rng.uniform(0, 1, (300, 2)), rng.uniform(0.2, 0.8, (3, 500, 2))
    weight = (rng.random((3, 500)) < 0.7).astype(float)
    args = [jnp.asarray(x, jnp.float32) for x in (anchors, points, weight)]
    cotangent = jnp.asarray(rng.normal(size=(3, 3, 300)), jnp.float32)

    def both(plan):
        cost = lambda p: jnp.sum(cotangent * part_statistics(args[0], p, args[2], plan=plan))  # noqa: E731
        return compiled(*args, plan=plan), jax.jit(jax.grad(cost))(args[1])

    (value, gradient), (other, other_gradient) = both(CPU), both(KernelPlan(False, 32, 20_000))
    np.testing.assert_allclose(value, other, atol=1e-6)
    np.testing.assert_allclose(gradient, other_gradient, atol=2e-5)


def test_under_vmap_and_jit():
    batch = [sets(seed) for seed in range(3)]
    stacked = [jnp.asarray(np.stack(x), jnp.float32) for x in zip(*batch)]
    found = jax.jit(jax.vmap(part_statistics))(*stacked)
    for k, (anchors, points, weight) in enumerate(batch):
        np.testing.assert_allclose(found[k], reference(anchors, points, weight), rtol=3e-6, atol=3e-6)
    cost = lambda a, p, w: jnp.sum(part_statistics(a, p, w) ** 2)  # noqa: E731
    gradients = jax.jit(jax.vmap(jax.grad(cost, 1)))(*stacked)
    one = jax.jit(jax.grad(cost, 1))
    for k in range(3):
        np.testing.assert_allclose(gradients[k], one(*(s[k] for s in stacked)), rtol=1e-4, atol=1e-3)
    assert np.isfinite(np.asarray(gradients)).all()


def spread(distance, weight):
    """A statistic of one's own: the standard deviation of the distances."""
    mean = jnp.sum(weight * distance, -1)
    return jnp.sqrt(jnp.sum(weight * (distance - mean[..., None]) ** 2, -1) + 1e-12)


def soft_nearest(distance, weight):
    return -jax.nn.logsumexp(jnp.where(weight > 0, -8 * distance, -jnp.inf), axis=-1, b=weight) / 8


def test_a_statistic_of_ones_own(x64):
    anchors, points, weight = sets()
    found = compiled(anchors, points, weight, ("mean", spread))
    np.testing.assert_allclose(found[:, 0], reference(anchors, points, weight)[:, 2], atol=1e-9)
    distance = np.linalg.norm(points[0][None] - anchors[:, None], axis=-1)
    np.testing.assert_allclose(found[0, 1], distance.std(1), atol=1e-7)
    assert not np.asarray(found[3]).any()
    cost = jax.jit(lambda p: jnp.sum(part_statistics(anchors, p, weight, (spread, soft_nearest))))
    gradient = jax.jit(jax.grad(cost))(points)
    assert np.isfinite(np.asarray(gradient)).all()
    step = 1e-6 * np.random.default_rng(6).normal(size=points.shape)
    step[np.isnan(points)] = 0
    assert (cost(points + step) - cost(points - step)) / 2 == pytest.approx(float(np.sum(gradient * step)), rel=1e-5)


@pytest.mark.parametrize("mode", ["value", "gradient", "jacobian", "batch"])
def test_lowers_for_all_platforms(mode):
    args = [jnp.asarray(x, jnp.float32) for x in sets()]
    cost = lambda p, a, w: jnp.sum(part_statistics(a, p, w, (*NAMED, spread)) ** 2)  # noqa: E731
    function = {
        "value": cost,
        "gradient": jax.grad(cost),
        "jacobian": lambda p, a, w: jax.vmap(jax.linearize(lambda q: part_statistics(a, q, w), p)[1])(
            jnp.stack([p, p])
        ),
        "batch": jax.vmap(jax.grad(cost)),
    }[mode]
    given = (args[1], args[0], args[2])
    if mode == "batch":
        given = tuple(jnp.stack([x, x]) for x in given)
    exported = export.export(jax.jit(function), platforms=("cpu", "cuda", "tpu"))(*given)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    # One program holds both kernels; lowered for one platform alone it holds that platform's.
    found = exported.call(*given)
    np.testing.assert_allclose(found, jax.jit(function)(*given), rtol=1e-6)


def test_no_matrix_of_pairs():
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1024, 2), (8, 1536, 2), (8, 1536))]
    cost = lambda a, p, w: jnp.sum(part_statistics(a, p, w, plan=CPU) ** 2)  # noqa: E731
    temporary = jax.jit(jax.grad(cost, 1)).lower(*shapes).compile().memory_analysis().temp_size_in_bytes
    assert temporary <= 8 * 2**20, temporary


def test_errors():
    with pytest.raises(fj.FitjaxError, match=r"anchors \(A, 2\).*found \(3,\)"):
        part_statistics(jnp.zeros(3), jnp.zeros((1, 4, 2)), jnp.ones((1, 4)))
    with pytest.raises(fj.FitjaxError, match=r"nearest, furthest, mean or functions.*'median'"):
        part_statistics(jnp.zeros((3, 2)), jnp.zeros((1, 4, 2)), jnp.ones((1, 4)), ("median",))
