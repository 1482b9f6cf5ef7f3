"""Networks: the folded up-convolution against resize and convolution, boxes from part masks, the lift's linear limit, gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nonlinear_scenes import REGIONS, TINY, random_weights

from fitjax.errors import FitjaxError
from fitjax.networks.conv import GlobalLocalDecoder, ResizeConv, part_regions
from fitjax.networks.lift import LiftDecoder, LiftScales


def test_folded_up_convolution_is_resize_then_convolution():
    layer = ResizeConv(5)
    x = jax.random.normal(jax.random.key(0), (2, 6, 7, 3))
    weights = random_weights(layer, 0, x)
    enlarged = jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)
    order = ("NHWC", "HWIO", "NHWC")
    kernel, bias = weights["params"]["kernel"], weights["params"]["bias"]
    expected = jax.lax.conv_general_dilated(enlarged, kernel, (1, 1), "SAME", dimension_numbers=order) + bias
    np.testing.assert_allclose(layer.apply(weights, x), expected, atol=5e-6)


def test_local_paths_reach_their_boxes_alone():
    """Of the map behind the last blending convolution, a local path changes its box and the one texel around that the blend reaches."""
    module = GlobalLocalDecoder(32, 32, REGIONS, **TINY)
    code = jnp.ones((1, 4))
    weights = random_weights(module, 1, code)
    run = jax.jit(module.apply)
    full, proxy = run(weights, code)
    assert full.shape == proxy.shape == (1, 32, 32, 3) and float(jnp.abs(full - proxy).max()) > 1e-3
    changed = {"params": {**weights["params"], "local1": jax.tree.map(lambda x: x + 0.5, weights["params"]["local1"])}}
    moved = np.abs(np.asarray(run(changed, code)[0] - full)).max(-1)[0] > 1e-7
    top, left, height, width = REGIONS[1]
    assert moved[top + 2 : top + height - 2, left + 2 : left + width - 2].all()
    moved[top - 1 : top + height + 1, left - 1 : left + width + 1] = False
    assert not moved.any()


def test_sizes_that_do_not_halve_are_refused():
    with pytest.raises(FitjaxError, match="30 × 32: expected multiples of 4"):
        GlobalLocalDecoder(30, 32, (), **TINY).init(jax.random.key(0), jnp.ones((1, 4)))


def test_boxes_of_parts():
    parts = np.zeros((96, 112), np.uint8)
    parts[30:33, 25:45], parts[30:33, 67:87] = 3, 4
    parts[40:60, 50:62] = 5
    parts[66:70, 44:68], parts[70:75, 44:68] = 6, 7
    parts[90:95, 0:3] = 5  # another chart
    right, left, mouth, nose = part_regions(parts, 192, 224, nose=True)
    for (top, start, height, width), (y, x) in zip((right, left, mouth, nose), ((62, 70), (62, 154), (142, 112), (100, 112))):
        assert height % 8 == 0 and width % 8 == 0
        assert top <= y < top + height and start <= x < start + width
    assert right[0] == left[0] and right[2:] == left[2:] and abs(right[1] + left[1] + right[3] - 224) <= 8
    assert part_regions(parts, 192, 224, nose=False) == (right, left, mouth)
    assert part_regions(np.zeros((4, 4), np.uint8), 32, 32, nose=True) == ()


def test_without_its_gate_the_lift_is_principal_components():
    sigma = jnp.asarray(0.9 ** np.arange(7), jnp.float32)
    scales = LiftScales(sigma, jnp.asarray(np.random.default_rng(0).normal(size=(7, 7)), jnp.float32))
    decoder = LiftDecoder(7, 8, 2)
    code = jax.random.normal(jax.random.key(2), (3, 4))
    weights = random_weights(decoder, 3, code, scales)
    full, proxy = decoder.apply(weights, code, scales, 0.0)
    expected = np.pad(np.asarray(code * sigma[:4]), ((0, 0), (0, 3)))
    np.testing.assert_allclose(full, expected, atol=1e-6)
    np.testing.assert_allclose(proxy, expected @ np.asarray(scales.filter), atol=1e-5)
    bent = decoder.apply(weights, code, scales, 1.0)
    half = decoder.apply(weights, code, scales, 0.5)
    assert np.abs(np.asarray(bent[0]) - expected).max() > 0.05
    np.testing.assert_allclose(half[0] - full, (bent[0] - full) / 2, atol=1e-5)


@pytest.mark.parametrize("kind", ["lift", "conv"])
def test_gradients_against_finite_differences(kind):
    rng = np.random.default_rng(4)
    with jax.enable_x64():
        if kind == "lift":
            scales = LiftScales(jnp.asarray(0.9 ** np.arange(7)), jnp.asarray(rng.normal(size=(7, 7))))
            module = LiftDecoder(7, 6, 2)
            run = lambda w, z: module.apply(w, z[None], scales)  # noqa: E731
            weights = random_weights(module, 5, jnp.zeros((1, 4)), scales, dtype=np.float64)
        else:
            network = GlobalLocalDecoder(32, 32, REGIONS[:1], **TINY)
            run = lambda w, z: network.apply(w, z[None])  # noqa: E731
            weights = random_weights(network, 5, jnp.zeros((1, 4)), dtype=np.float64)
        mixing = [jnp.asarray(rng.normal(size=x.shape)) for x in jax.eval_shape(run, weights, jnp.zeros(4))]
        score = jax.jit(lambda w, z: sum(jnp.sum(m * x) for m, x in zip(mixing, run(w, z))))
        z = jnp.asarray(rng.normal(size=4))
        direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), (weights, z))
        slopes = jax.jit(jax.grad(score, (0, 1)))(weights, z)
        found = sum(float(jnp.vdot(a, b)) for a, b in zip(jax.tree.leaves(slopes), jax.tree.leaves(direction)))
        step = 1e-6
        ends = [score(*jax.tree.map(lambda x, d, s=s: x + s * step * d, (weights, z), direction)) for s in (1, -1)]
        measured = float(ends[0] - ends[1]) / (2 * step)
    assert abs(found - measured) <= 1e-5 * abs(measured)
