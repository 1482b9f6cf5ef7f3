"""Every public function lowers for cpu, cuda and tpu."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from test_raster_ids import soup

from fitjax.geometry.surface import make_samples
from fitjax.render import lighting
from fitjax.render.interpolate import covered_pixels, fragments, interpolate, scatter_pixels
from fitjax.render.raster_sums import sum_over_covered
from fitjax.render.rasterize import rasterize
from fitjax.render.reference import rasterize_reference
from fitjax.render.texture import sample_texture
from fitjax.render.visibility import sample_visibility, seen_vertices, vertex_visibility

PLATFORMS = ("cpu", "cuda", "tpu")


def photometric(vertices, colours, triangles, texture, light, target):
    ids = rasterize(vertices, triangles, 32, 40)

    def loss(pixels):
        where = fragments(vertices, triangles, ids, pixels)
        colour = interpolate(colours, triangles, where)
        colour = colour * sample_texture(texture, colour[:, :2]) * lighting.diffuse_shading(colour, light)
        colour = lighting.srgb_from_linear(
            colour + lighting.specular(colour, colour + 1, light[1], light[0], light[2, 0])
        )
        return jnp.sum(
            jnp.abs(lighting.linear_from_srgb(colour) - target.reshape(-1, 3)[pixels.pixel]) * pixels.valid[:, None]
        )

    return sum_over_covered(loss, ids)


def arguments():
    rng = np.random.default_rng(0)
    vertices, triangles = soup(rng, 200, 40, 5.0)
    arrays = (
        vertices,
        rng.random(vertices.shape),
        triangles,
        rng.random((8, 8, 3)),
        rng.random((9, 3)),
        rng.random((32, 40, 3)),
    )
    return tuple(jnp.asarray(a, jnp.int32 if a.dtype.kind == "i" else jnp.float32) for a in arrays)


def dense(vertices, colours, triangles, *_):
    ids = rasterize(vertices, triangles, 32, 40, cull_back=False, perspective=False)
    where = fragments(vertices, triangles, ids, perspective=False)
    pixels = covered_pixels(ids, 300)
    sparse = interpolate(colours, triangles, fragments(vertices, triangles, ids, pixels))
    samples = make_samples([0, 1], [[0.2, 0.3, 0.5]] * 2, len(triangles))
    lights = lighting.directional_light(vertices[0], colours[0], colours[1])
    return (
        interpolate(colours, triangles, where),
        scatter_pixels(sparse, pixels, 32, 40),
        lighting.shade(colours, colours, lights),
        vertex_visibility(vertices, triangles, resolution=48),
        sample_visibility(samples, vertices, triangles, resolution=48),
        seen_vertices(ids, triangles, len(vertices)),
    )


def batch(vertices, colours, triangles, *_):
    return jax.vmap(lambda v: rasterize(v, triangles, 32, 40))(jnp.stack([vertices, vertices + 1]))


@pytest.mark.parametrize("name", ["gradient", "dense", "batch"])
def test_lowers_for_all_platforms(name):
    function = {"gradient": jax.value_and_grad(photometric, (0, 1, 3, 4)), "dense": dense, "batch": batch}[name]
    exported = export.export(jax.jit(function), platforms=PLATFORMS)(*arguments())
    assert exported.platforms == PLATFORMS


def test_an_exported_program_computes_the_same():
    vertices, _, triangles, *_ = arguments()
    exported = export.export(jax.jit(lambda v, t: rasterize(v, t, 32, 40)), platforms=PLATFORMS)(vertices, triangles)
    found = export.deserialize(exported.serialize()).call(vertices, triangles)
    np.testing.assert_array_equal(found, rasterize_reference(vertices, triangles, 32, 40, snap=True).triangle_id)
