"""Losses of proxies and full maps: values against plain NumPy, what is data has no gradient, slopes in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fitjax.losses import proxies


def maps(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.2, 0.7, shape)


def plain(name: str, proxy: np.ndarray, full: np.ndarray, seen: np.ndarray, weight: np.ndarray) -> float:
    """Texel by texel."""
    height, width, _ = proxy.shape
    total, norm = 0.0, weight.sum()
    for i in range(height):
        for j in range(width):
            if name == "symmetry":
                total += weight[i, j] * np.maximum(np.abs(proxy[i, j] - proxy[i, width - 1 - j]) - 0.01, 0).mean()
            elif name == "smoothness":
                around = [proxy[min(max(a, 0), height - 1), min(max(b, 0), width - 1)] for a, b in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1))]
                total += weight[i, j] * ((np.mean(around, 0) - proxy[i, j]) ** 2).sum()
            elif name == "residual":
                total += weight[i, j] * (np.sqrt((full - proxy)[i, j] ** 2 + 1e-6) - 1e-3).mean()
    if name != "constancy":
        return total / norm
    hue = seen / seen.sum(-1, keepdims=True)
    result = 0.0
    for step in ((0, 1), (1, 0)):
        values = []
        for i in range(step[0], height):
            for j in range(step[1], width):
                k, m = i - step[0], j - step[1]
                alike = np.exp(-15 * np.linalg.norm(hue[i, j] - hue[k, m])) * weight[i, j] * weight[k, m]
                values.append(alike * ((((proxy[i, j] - proxy[k, m]) ** 2).sum() + 1e-6) ** 0.4 - 1e-6**0.4))
        result += np.mean(values)
    return result


COSTS = {
    "symmetry": lambda p, f, s, w: proxies.symmetry_cost(p, w),
    "smoothness": lambda p, f, s, w: proxies.smoothness_cost(p, w),
    "residual": lambda p, f, s, w: proxies.residual_cost(f, p, w),
    "constancy": lambda p, f, s, w: proxies.constancy_cost(p, s, w),
}


@pytest.mark.parametrize("name", list(COSTS))
def test_values_and_slopes(name):
    proxy, full, seen = (maps(k, 7, 6, 3) for k in range(3))
    weight = maps(3, 7, 6)
    with jax.enable_x64():
        cost = jax.jit(lambda p: COSTS[name](p, jnp.asarray(full), jnp.asarray(seen), jnp.asarray(weight)))
        assert abs(float(cost(jnp.asarray(proxy))) / plain(name, proxy, full, seen, weight) - 1) < 1e-6
        direction = np.random.default_rng(9).normal(size=proxy.shape)
        slope = float(jnp.vdot(jax.grad(cost)(jnp.asarray(proxy)), direction))
        measured = float(cost(jnp.asarray(proxy + 1e-6 * direction)) - cost(jnp.asarray(proxy - 1e-6 * direction))) / 2e-6
    assert abs(slope - measured) <= 1e-5 * abs(slope)


def test_weights_of_constancy_do_not_cancel():
    """An edge in albedo costs more where the photo has one hue than where its hue changes with it."""
    proxy = np.full((6, 6, 3), 0.3)
    proxy[:, 3:] = 0.5
    same, other = np.full((6, 6, 3), 0.4), np.full((6, 6, 3), 0.4)
    other[:, 3:] = [0.8, 0.1, 0.1]
    one_hue, two_hues = (float(proxies.constancy_cost(jnp.asarray(proxy), jnp.asarray(x))) for x in (same, other))
    assert one_hue > 50 * two_hues > 0


def test_the_hidden_half_follows_the_seen_one_and_not_the_other_way():
    residual = jnp.asarray(maps(4, 4, 4, 3))
    seen = jnp.zeros((4, 4)).at[:, :2].set(1.0)
    mirrored = residual[:, ::-1]

    def cost(r):
        return proxies.occluded_symmetry_cost(r, r[:, ::-1], seen, seen[:, ::-1])

    expected = np.where(np.asarray(seen)[..., None] == 0, np.sqrt(np.asarray(residual - mirrored) ** 2 + 1e-6) - 1e-3, 0).mean(-1).mean()
    assert float(cost(residual)) == pytest.approx(expected, rel=1e-5)
    slope = np.asarray(jax.grad(cost)(residual))
    assert (slope[:, :2] == 0).all() and (np.abs(slope[:, 2:]) > 1e-4).all()


def test_white_shading_is_of_the_batch():
    shading = np.full((2, 5, 3), 0.99)
    shading[0] -= 0.3
    shading[1] += 0.3
    assert float(proxies.white_shading_cost(jnp.asarray(shading))) < 1e-12
    assert float(proxies.white_shading_cost(jnp.asarray(shading[:1]))) == pytest.approx(0.09, rel=1e-4)
    weight = np.array([[1.0] * 5, [0.0] * 5])
    assert float(proxies.white_shading_cost(jnp.asarray(shading), jnp.asarray(weight))) == pytest.approx(0.09, rel=1e-4)


def test_any_features_will_do():
    a, b = maps(5, 8, 8, 3), maps(6, 8, 8, 3)
    features = lambda x: {"mean": x.mean((0, 1)), "edges": x[1:] - x[:-1]}  # noqa: E731
    found = float(proxies.perceptual_cost(features, jnp.asarray(a), jnp.asarray(b)))
    parts = [((a.mean((0, 1)) - b.mean((0, 1))) ** 2).mean(), ((np.diff(a, axis=0) - np.diff(b, axis=0)) ** 2).mean()]
    assert found == pytest.approx(np.mean(parts), rel=1e-5)
