"""UV maps: values against a loop in NumPy, orientation, borders, gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from fitjax.render.texture import sample_texture, texel_from_uv, uv_from_texel


def sample_reference(texture, uv):
    """The rule, one point at a time."""
    height, width = texture.shape[:2]
    found = []
    for u, v in uv:
        x, y = np.clip(u * width - 0.5, 0, width - 1), np.clip((1 - v) * height - 0.5, 0, height - 1)
        c, r = int(min(np.floor(x), max(width - 2, 0))), int(min(np.floor(y), max(height - 2, 0)))
        c1, r1 = min(c + 1, width - 1), min(r + 1, height - 1)
        top = texture[r, c] * (1 - (x - c)) + texture[r, c1] * (x - c)
        bottom = texture[r1, c] * (1 - (x - c)) + texture[r1, c1] * (x - c)
        found.append(top * (1 - (y - r)) + bottom * (y - r))
    return np.array(found)


def test_against_the_loop():
    rng = np.random.default_rng(0)
    for shape in ((5, 7, 3), (1, 4, 2), (6, 1, 1), (1, 1, 3)):
        texture, uv = rng.random(shape), rng.uniform(-0.3, 1.3, (200, 2))
        with jax.enable_x64(True):
            np.testing.assert_allclose(
                sample_texture(jnp.asarray(texture), jnp.asarray(uv)), sample_reference(texture, uv), atol=1e-14
            )
        single = sample_texture(texture.astype(np.float32), uv.astype(np.float32))
        assert single.dtype == jnp.float32 and single.shape == (200, shape[2])


def test_v_is_up_and_texel_centres_are_exact():
    texture = np.arange(12, dtype=np.float32).reshape(3, 4, 1)
    rows, columns = np.mgrid[:3, :4]
    uv = uv_from_texel(jnp.stack([columns, rows], -1).astype(jnp.float32), 3, 4)
    np.testing.assert_allclose(sample_texture(texture, uv), texture, atol=1e-5)
    np.testing.assert_allclose(texel_from_uv(uv, 3, 4), np.stack([columns, rows], -1), atol=1e-6)
    corners = jnp.array(
        [[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]
    )  # top left, top right, bottom left, bottom right
    np.testing.assert_array_equal(sample_texture(texture, corners)[:, 0], [0, 3, 8, 11])


def test_gradients():
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        texture, uv, weight = (
            jnp.asarray(a) for a in (rng.random((5, 6, 2)), rng.uniform(0.1, 0.9, (30, 2)), rng.normal(size=(30, 2)))
        )

        def loss(t, p):
            return jnp.sum(sample_texture(t, p) ** 2 * weight)

        gradients = jax.grad(loss, (0, 1))(texture, uv)
        for which, (value, gradient) in enumerate(zip((texture, uv), gradients)):
            for entry in rng.integers(0, value.size, 10):
                step = 1e-6
                ends = []
                for sign in (-1, 1):
                    arguments = [texture, uv]
                    arguments[which] = value.reshape(-1).at[entry].add(sign * step).reshape(value.shape)
                    ends.append(loss(*arguments))
                assert abs((ends[1] - ends[0]) / (2 * step) - gradient.ravel()[entry]) < 1e-7
        outside = jax.grad(loss, 1)(texture, uv + 2)
        np.testing.assert_array_equal(outside, 0)
        bad = jax.grad(lambda p: jnp.sum(sample_texture(texture, p)))(uv.at[0].set(jnp.nan))
        assert np.isfinite(bad).all()
