"""Adam at several scales: plain Adam on all that is no map, and maps whose unobserved parts go with their surroundings."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fitjax.solve.multiscale import multiscale_adam


def test_plain_adam_on_all_that_is_no_map():
    rng = np.random.default_rng(0)
    # Vectors, numbers, and a matrix whose sides cannot be halved.
    params = {"code": jnp.asarray(rng.normal(size=7)), "number": jnp.asarray(0.3), "odd": jnp.asarray(rng.normal(size=(9, 5)))}
    schedule = optax.cosine_decay_schedule(0.1, 20)
    ours, theirs = multiscale_adam(schedule), optax.adam(schedule, b1=0.9, b2=0.99)
    a, b, x, y = ours.init(params), theirs.init(params), params, params
    our_update, their_update = jax.jit(ours.update), jax.jit(theirs.update)
    for _ in range(12):
        gradient = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), params)
        move, a = our_update(gradient, a)
        expected, b = their_update(gradient, b)
        x, y = optax.apply_updates(x, move), optax.apply_updates(y, expected)
    for name in params:
        np.testing.assert_allclose(x[name], y[name], rtol=2e-5, atol=1e-6, err_msg=name)
        assert np.abs(x[name] - params[name]).max() > 0.1


def test_one_scale_is_plain_adam_on_maps_too():
    gradient = jnp.asarray(np.random.default_rng(1).normal(size=(16, 16, 3)), jnp.float32)
    ours, theirs = multiscale_adam(0.1, scales=1), optax.adam(0.1, b1=0.9, b2=0.99)
    move, _ = ours.update(gradient, ours.init(gradient))
    expected, _ = theirs.update(gradient, theirs.init(gradient))
    np.testing.assert_allclose(move, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "shape, sides",
    [
        ((64, 64, 3), [64, 32, 16, 8, 4]),
        ((24, 24), [24, 12, 6]),  # 3 would be too small to be of use
        ((9, 9), [9]),
        ((64,), [64]),
    ],
)
def test_shapes_of_the_state(shape, sides):
    transform = multiscale_adam(0.1)
    state = jax.jit(transform.init)({"x": jnp.zeros(shape)})
    assert int(state.steps) == 0
    for moments in (state.first, state.second):
        (levels,) = moments
        expected = [(n, n, *shape[2:]) if len(shape) > 1 else (n,) for n in sides]
        assert [x.shape for x in levels] == expected and all((np.asarray(x) == 0).all() for x in levels)
    move, after = jax.jit(transform.update)({"x": jnp.ones(shape)}, state)
    assert move["x"].shape == shape and int(after.steps) == 1
    assert [x.shape for x in jax.tree.leaves(after)] == [x.shape for x in jax.tree.leaves(state)]
    # All scales see the same sign: a map moves by as many steps as it has scales.
    np.testing.assert_allclose(move["x"], -0.1 * len(sides), rtol=1e-5)


def test_a_hole_goes_with_its_surroundings():
    """Of a target of ones no texel of a square in the middle is observed; smoothness alone reaches it."""
    size, steps = 128, 100
    observed = np.ones((size, size), np.float32)
    observed[16:112, 16:112] = 0
    middle, around = np.s_[40:88, 40:88], np.s_[:10]

    def loss(x):
        smooth = jnp.sum((x[1:] - x[:-1]) ** 2) + jnp.sum((x[:, 1:] - x[:, :-1]) ** 2)
        return jnp.sum(observed * (x - 1) ** 2) + 0.05 * smooth

    def run(transform):
        @jax.jit
        def step(x, state):
            move, state = transform.update(jax.grad(loss)(x), state, x)
            return x + move, state

        x = jnp.zeros((size, size))
        state = transform.init(x)
        for _ in range(steps):
            x, state = step(x, state)
        return np.asarray(x)

    rate = 0.02
    filled = run(multiscale_adam(optax.cosine_decay_schedule(rate, steps)))
    # Plain Adam at the rate of one scale, and at that of all five together, which the observed part needs to arrive in time.
    slow = run(optax.adam(optax.cosine_decay_schedule(rate, steps), b2=0.99))
    fast = run(optax.adam(optax.cosine_decay_schedule(5 * rate, steps), b2=0.99))
    assert abs(filled[around].mean() - 1) < 0.05 and abs(fast[around].mean() - 1) < 0.05
    assert np.abs(filled[middle] - 1).max() < 0.2
    assert slow[middle].mean() < 0.2 and fast[middle].mean() < 0.5
