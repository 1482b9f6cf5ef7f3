"""What keeps residual maps small: values against NumPy on hand-made maps, zero on zero, gradients, and errors without maps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from test_photometric import frozen_at, pictured, toy  # noqa: F401  a fixture

import fitjax as fj
from fitjax.losses.core import loss_cost
from fitjax.losses.detail import constant_albedo, smooth_albedo, smooth_shape, symmetric_albedo, tie_albedo, tie_shape
from fitjax.losses.photometric import rendered
from fitjax.model.params import retract, zero_tangent
from fitjax.prediction import predict
from fitjax.pytree import replace

ON_MAPS = {
    "tie_albedo": (tie_albedo, "detail_albedo"),
    "tie_shape": (tie_shape, "detail_shape"),
    "smooth_albedo": (smooth_albedo, "detail_albedo"),
    "smooth_shape": (smooth_shape, "detail_shape"),
}


def made_by_hand(seed: int = 0, side: int = 12, face: np.ndarray | None = None) -> Any:
    """What these losses read of a prediction: residual maps, the face's map, and the proxy albedo."""
    rng = np.random.default_rng(seed)
    params = {
        "detail_albedo": jnp.asarray(0.2 * rng.normal(size=(side, side, 3)), jnp.float32),
        "detail_shape": jnp.asarray(4e-4 * rng.normal(size=(side, side)), jnp.float32),
    }
    mask = jnp.asarray(rng.uniform(size=(side, side)) if face is None else face, jnp.float32)
    proxy = jnp.asarray(rng.uniform(0.2, 0.6, (side, side, 3)), jnp.float32)
    return SimpleNamespace(params=params, mesh=SimpleNamespace(detail_map=mask), face=SimpleNamespace(proxy_albedo=proxy))


def rounded(x, tip):
    return np.sqrt(x**2 + tip**2) - tip


def by_numpy(name: str, pred: Any) -> float:
    """Pixel by pixel, from the definitions in the docstrings."""
    face = np.asarray(pred.mesh.detail_map, float)
    albedo = np.asarray(pred.params["detail_albedo"], float)
    millimetres = np.asarray(pred.params["detail_shape"], float) * 1e3
    proxy = np.asarray(pred.face.proxy_albedo, float)
    n = len(face)
    values = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if name == "tie_albedo":
                values[i, j] = rounded(albedo[i, j], 1e-3).mean()
            elif name == "tie_shape":
                values[i, j] = rounded(millimetres[i, j], 0.01)
            elif name == "smooth_albedo":
                right = albedo[i, j + 1] - albedo[i, j] if j + 1 < n else 0
                down = albedo[i + 1, j] - albedo[i, j] if i + 1 < n else 0
                values[i, j] = rounded(np.sqrt(np.sum(right**2 + np.zeros(3)) + np.sum(down**2 + np.zeros(3))), 0.03)
            elif name == "smooth_shape":
                places = ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1))
                around = [millimetres[min(max(r, 0), n - 1), min(max(c, 0), n - 1)] for r, c in places]
                values[i, j] = (np.mean(around) - millimetres[i, j]) ** 2
            elif name == "symmetric_albedo":
                values[i, j] = np.mean(np.maximum(np.abs(proxy[i, j] - proxy[i, n - 1 - j]) - 0.01, 0))
    return float((face * values).sum() / face.sum())


@pytest.mark.parametrize("name", [*ON_MAPS, "symmetric_albedo"])
def test_values_of_maps_made_by_hand(name):
    make = symmetric_albedo if name == "symmetric_albedo" else ON_MAPS[name][0]
    for seed in (0, 1):
        pred = made_by_hand(seed)
        expected = by_numpy(name, pred)
        assert expected > 1e-3
        assert float(make()(pred, None)) == pytest.approx(expected, rel=1e-4)
        assert float(loss_cost(make(2.5), pred, None)) == pytest.approx(2.5 * expected, rel=1e-4)


def test_numbers_one_can_check_in_the_head():
    pred = made_by_hand(face=np.ones((12, 12)))
    flat = {"detail_albedo": jnp.full((12, 12, 3), -0.5), "detail_shape": jnp.full((12, 12), 1e-3)}
    pred.params = flat
    assert float(tie_albedo()(pred, None)) == pytest.approx(0.5, abs=1e-3)  # mean |log factor|
    assert float(tie_shape()(pred, None)) == pytest.approx(1.0, abs=0.01)  # mean |mm|
    for smooth in (smooth_albedo, smooth_shape):  # a constant is smooth, at the border too
        assert float(smooth()(pred, None)) == pytest.approx(0, abs=1e-6)
    # Half of the map off the face: it counts for nothing, whatever it holds.
    half = np.ones((12, 12))
    half[:, 6:] = 0
    pred.mesh.detail_map = jnp.asarray(half)
    pred.params = {"detail_albedo": flat["detail_albedo"].at[:, 6:].set(9.0), "detail_shape": flat["detail_shape"].at[:, 6:].set(1.0)}
    assert float(tie_albedo()(pred, None)) == pytest.approx(0.5, abs=1e-3)
    assert float(tie_shape()(pred, None)) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("name", ON_MAPS)
def test_zero_maps_cost_nothing(name):
    make, group = ON_MAPS[name]
    pred = made_by_hand()
    pred.params = {group: jnp.zeros_like(pred.params[group])}
    assert float(make()(pred, None)) == pytest.approx(0, abs=1e-7)
    gradient = jax.grad(lambda x: make()(SimpleNamespace(params={group: x}, mesh=pred.mesh), None))(pred.params[group])
    np.testing.assert_allclose(gradient, 0, atol=1e-7)


def test_symmetric_and_even_albedo_cost_nothing():
    pred = made_by_hand()
    half = pred.face.proxy_albedo[:, :6]
    pred.face.proxy_albedo = jnp.concatenate([half, half[:, ::-1]], 1)
    assert float(symmetric_albedo()(pred, None)) == 0
    pred.face.proxy_albedo = pred.face.proxy_albedo.at[:, :6].add(0.009)  # less than what is let pass
    assert float(symmetric_albedo()(pred, None)) == pytest.approx(0, abs=1e-7)


def test_a_coarser_map_meets_the_faces_map(toy):  # noqa: F811
    pred = made_by_hand(side=8, face=np.kron(np.arange(4.0).reshape(2, 2), np.ones((8, 8))))
    # The face's map is 16 texels, those of the residuals 8: the same four blocks, but for the seams between them.
    pred.params["detail_shape"] = jnp.asarray(np.kron([[9.0, 1.0], [2.0, 3.0]], np.ones((4, 4))) * 1e-3)
    expected = (0 * 9 + 1 * 1 + 2 * 2 + 3 * 3) / 6
    assert float(tie_shape()(pred, None)) == pytest.approx(expected, rel=0.05)


def test_constant_albedo_against_numpy(toy):  # noqa: F811
    truth, observation = pictured(toy, 5)
    frozen = frozen_at(toy, truth, observation)
    face = jax.jit(lambda f: rendered(predict(toy, truth, observation, f), observation, albedo="proxy"))(frozen)
    cost = jax.jit(lambda model, f: loss_cost(constant_albedo(3.0), predict(model, truth, observation, f), observation))
    albedo, weights = np.asarray(face.albedo, float), np.asarray(frozen.pixels.weight, float)
    photo = np.asarray(observation.image, float).reshape(-1, 3)[np.asarray(face.pixel)]
    hue = photo / np.maximum(photo.sum(-1, keepdims=True), 1e-3)
    total = weight = 0.0
    for stride in (1, 37, 389):
        other = np.arange(len(albedo)) - stride
        alike = np.exp(-15 * np.linalg.norm(hue - hue[other], axis=1)) * weights * weights[other]
        total += (alike * (((albedo - albedo[other]) ** 2).sum(-1) + 1e-6) ** 0.4 - alike * 1e-6**0.4).sum()
        weight += alike.sum()
    found = float(cost(toy, frozen))
    assert weight > 100 and found == pytest.approx(3 * total / weight, rel=1e-3) and found > 0.01
    # One albedo everywhere leaves nothing to punish.
    even = replace(toy, albedo=replace(toy.albedo, basis=jnp.zeros_like(toy.albedo.basis)))
    assert float(cost(even, frozen_at(even, truth, observation))) == pytest.approx(0, abs=1e-5)


def test_gradients_match_finite_differences(toy):  # noqa: F811
    """A random mix of all losses, group by group of the parameters."""
    with jax.enable_x64(True):
        model = jax.tree.map(lambda x: x.astype(np.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, toy)
        model = replace(model, detail_size=32)
        truth, observation = pictured(model, 6, np.float64)
        rng = np.random.default_rng(6)
        maps = {"detail_albedo": jnp.asarray(0.1 * rng.normal(size=(32, 32, 3))), "detail_shape": jnp.asarray(2e-4 * rng.normal(size=(32, 32)))}
        params = truth | maps
        frozen = frozen_at(model, params, observation)
        losses = [make(w) for (make, _), w in zip(ON_MAPS.values(), (1.0, 0.7, 2.0, 0.3))] + [symmetric_albedo(1.3), constant_albedo(0.6)]
        zero = zero_tangent(params)

        @jax.jit
        def cost(step):
            pred = predict(model, retract(params, step), observation, frozen)
            return sum(loss_cost(loss, pred, observation) for loss in losses)

        gradient = jax.jit(jax.grad(cost))(zero)
        for group in ("detail_albedo", "detail_shape", "albedo", "pose", "identity"):
            own, unravel = ravel_pytree(gradient[group])
            # Displacements are in metres.
            h = 1e-9 if group == "detail_shape" else 1e-6
            picked = np.append(rng.choice(own.size, min(own.size, 6), replace=False), int(jnp.argmax(jnp.abs(own))))
            difference = []
            for i in picked:
                step = unravel(jnp.zeros(own.size).at[i].set(h))
                difference.append(float(cost(zero | {group: step}) - cost(zero | {group: jax.tree.map(jnp.negative, step)})) / (2 * h))
            assert np.abs(own).max() > 0, group
            np.testing.assert_allclose(own[picked], difference, atol=2e-5 * float(jnp.abs(own).max()), err_msg=group)


def test_clear_errors(toy):  # noqa: F811
    _, observation = pictured(toy, 7)
    params = toy.init() | {"pose": {"rotation": jnp.eye(3), "translation": jnp.array([0, 0, 0.8])}}
    pred = predict(toy, params, observation)
    for make, group in ON_MAPS.values():
        with pytest.raises(fj.FitjaxError, match=rf"{group}.*no such map; free it in a stage"):
            make()(pred, observation)
        with pytest.raises(fj.FitjaxError, match="expected a textured model"):
            make()(SimpleNamespace(params=toy.no_detail(), mesh=None), observation)
    losses = {"landmarks": fj.landmarks("aflw68"), "tie": tie_albedo()}
    with pytest.raises(fj.FitjaxError, match=r"detail_albedo.*no such map"):
        fj.fit(observation, model=toy, losses=losses, stages=[fj.Stage({"pose": 1.0})])
