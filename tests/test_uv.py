"""Texture space: the mirror map, completion by symmetry without a seam, confidence."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fitjax as fj
from fitjax.render.uv import complete_by_symmetry, mirror_uv, resize_map, uv_points, weight_image

SIZE = 128


@pytest.fixture(scope="module")
def model():
    return fj.load_basis(level=0)


def smooth(rng, size=SIZE, waves=5):
    v, u = np.meshgrid(np.linspace(0, 1, size), np.linspace(0, 1, size), indexing="ij")
    parts = [
        np.sin(2 * np.pi * (a * u + b * v) + c)[..., None] * rng.normal(size=3)
        for a, b, c in rng.uniform(-3, 3, (waves, 3))
    ]
    return (0.1 * np.sum(parts, 0)).astype(np.float32)


def seen_right(edge=0.42, width=0.1, size=SIZE):
    """Confidence (size, size) that rises from 0 to 1 with u, about ``edge``: a face turned aside shows a little more than a half."""
    u = (np.arange(size) + 0.5) / size
    return np.tile(np.clip((u - edge) / width + 0.5, 0, 1).astype(np.float32), (size, 1))


def test_points_reproduce_texture_coordinates(model):
    uv, uv_triangles = np.asarray(model.uv), np.asarray(model.uv_triangles)
    points = uv_points(uv, uv_triangles, SIZE)
    found = np.einsum("hwk,hwkc->hwc", points.barycentric, uv[uv_triangles[points.triangle]])
    centres = (np.arange(SIZE) + 0.5) / SIZE
    u, v = np.meshgrid(centres, 1 - centres)
    inside = points.inside
    assert 0.7 < inside.mean() < 1
    np.testing.assert_allclose(found[inside], np.stack([u, v], -1)[inside], atol=1e-4)
    assert inside.reshape(-1)[points.nearest].all()
    filled = points.fill_gutters(found)
    np.testing.assert_array_equal(filled[inside], found[inside])
    assert uv_points(uv, uv_triangles, SIZE) is points
    with pytest.raises(fj.FitjaxError, match="no triangle covers"):
        uv_points(uv + 5, uv_triangles, 16)


def test_mirror_follows_the_surface_not_the_layout(model):
    points = uv_points(model.uv, model.uv_triangles, SIZE)
    mirrored = mirror_uv(model, SIZE)
    centres = (np.arange(SIZE) + 0.5) / SIZE
    u, v = np.meshgrid(centres, 1 - centres)
    own = np.stack([u, v], -1)
    region = np.asarray(model.triangle_region)[points.triangle]
    skin = points.inside & (region == 0)
    # On the skin the layout is symmetric about u = 1/2, to half a texel of 256 at worst.
    assert np.abs(mirrored - np.stack([1 - u, v], -1))[skin].max() < 0.006
    assert np.median(np.abs(mirrored - np.stack([1 - u, v], -1))[skin]) < 1e-4
    # Eyes lie elsewhere; there as well the mirror image has the same region, the mirrored position, and the image of the image is the point.
    other = np.clip(np.round(mirrored * [SIZE, -SIZE] + [-0.5, SIZE - 0.5]).astype(int), 0, SIZE - 1)
    eyes = points.inside & (region == 1)
    assert np.abs(mirrored - np.stack([1 - u, v], -1))[eyes].max() > 0.3
    assert (region[other[..., 1], other[..., 0]] == region)[points.inside].mean() > 0.995
    corners = np.asarray(model.mean)[np.asarray(model.triangles)[points.triangle]]
    position = np.einsum("hwk,hwkc->hwc", points.barycentric, corners)
    gap = np.linalg.norm(position[other[..., 1], other[..., 0]] - position * [-1, 1, 1], axis=-1)
    assert np.quantile(gap[points.inside], 0.99) < 3e-3  # a texel is 2 to 4 mm wide at this size
    back = mirrored[other[..., 1], other[..., 0]]
    assert np.quantile(np.abs(back - own)[points.inside], 0.99) < 1.5 / SIZE


def test_seen_texels_stay_and_unseen_ones_are_mirrored():
    rng = np.random.default_rng(0)
    detail = smooth(rng)
    confidence = seen_right(edge=0.4)
    done = np.asarray(complete_by_symmetry(detail * confidence[..., None], confidence))
    known = np.arange(SIZE) > 0.55 * SIZE
    np.testing.assert_allclose(done[:, known], detail[:, known], atol=1e-6)
    unseen = np.arange(SIZE) < 0.25 * SIZE
    # Up to the change of level, which fades out away from where both sides are seen.
    shift = done[:, unseen] - detail[:, ::-1][:, unseen]
    assert np.abs(np.diff(shift, axis=1)).max() < 0.03
    pattern = np.corrcoef(done[:, unseen].ravel(), detail[:, ::-1][:, unseen].ravel())[0, 1]
    assert pattern > 0.95
    everything = complete_by_symmetry(detail, np.ones((SIZE, SIZE), np.float32))
    np.testing.assert_allclose(everything, detail, atol=1e-6)
    nothing = complete_by_symmetry(detail, np.zeros((SIZE, SIZE), np.float32))
    np.testing.assert_array_equal(nothing, detail)


@pytest.mark.parametrize("offset", [0.0, 0.3])
def test_no_seam(offset):
    """A symmetric detail, lit unevenly: one half brighter by 35 % (0.3 in the logarithm) in a slope across the nose."""
    rng = np.random.default_rng(1)
    detail = smooth(rng)
    detail = (detail + detail[:, ::-1]) / 2
    u = (np.arange(SIZE) + 0.5) / SIZE
    detail = detail + offset * np.clip((u - 0.5) / 0.3, -1, 1)[None, :, None].astype(np.float32)
    confidence = seen_right(edge=0.42)
    done = np.asarray(complete_by_symmetry(detail * (confidence > 0)[..., None], confidence))
    natural = np.abs(np.diff(detail, axis=1)).max()
    assert np.abs(np.diff(done, axis=1)).max() < natural + 0.02 + 0.05 * offset
    assert np.abs(np.diff(np.diff(done, axis=1), axis=1)).max() < 0.04


def test_in_jit_with_gradients_and_a_mirror_map(model):
    rng = np.random.default_rng(2)
    detail, confidence = smooth(rng), seen_right()
    mirror = mirror_uv(model, SIZE)
    plain = complete_by_symmetry(detail, confidence)
    mapped = jax.jit(complete_by_symmetry)(jnp.asarray(detail), jnp.asarray(confidence), jnp.asarray(mirror))
    points = uv_points(model.uv, model.uv_triangles, SIZE)
    skin = points.inside & (np.asarray(model.triangle_region)[points.triangle] == 0)
    assert np.quantile(np.abs(plain - mapped)[skin], 0.99) < 0.01
    gradient = jax.grad(lambda d: jnp.sum(complete_by_symmetry(d, confidence) ** 2))(jnp.asarray(detail))
    assert np.isfinite(gradient).all()
    # What is not seen does not count where its mirror image is.
    assert np.abs(gradient[:, : SIZE // 5]).max() < 1e-6
    assert complete_by_symmetry(detail[..., :1], confidence).shape == (SIZE, SIZE, 1)


def test_weight_image_fills_what_a_selection_leaves_out():
    rng = np.random.default_rng(3)
    height, width = 20, 30
    weight = (0.5 + 0.3 * np.sin(np.arange(height)[:, None] / 6) * np.cos(np.arange(width) / 6)).astype(np.float32)
    weight[:, :8] = 0
    pixel = np.flatnonzero(weight.ravel() > 0)
    kept = np.sort(rng.choice(pixel, int(0.7 * len(pixel)), replace=False))
    places = np.concatenate([kept, np.zeros(50, int)])
    used = np.arange(len(places)) < len(kept)
    value = np.where(used, weight.ravel()[places], 0).astype(np.float32)
    image = np.asarray(weight_image(jnp.asarray(places), jnp.asarray(used), jnp.asarray(value), height, width))
    np.testing.assert_allclose(image.ravel()[kept], weight.ravel()[kept], atol=1e-6)
    assert np.abs(image - weight)[2:-2, 10:-2].max() < 0.15 and np.median(np.abs(image - weight)[:, 10:]) < 0.01
    assert image[:, :6].max() == 0


def test_resize_map_keeps_places():
    def plane(rows, columns):
        u, v = np.meshgrid((np.arange(columns) + 0.5) / columns, 1 - (np.arange(rows) + 0.5) / rows)
        return np.stack([2 * u - v, 3 * v], -1).astype(np.float32)

    large = np.asarray(resize_map(plane(8, 8), (16, 24)))
    assert large.shape == (16, 24, 2)
    np.testing.assert_allclose(large[1:-1, 1:-1], plane(16, 24)[1:-1, 1:-1], atol=1e-5)
    np.testing.assert_allclose(resize_map(plane(8, 8), (8, 8)), plane(8, 8), atol=1e-6)
