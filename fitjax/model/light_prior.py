"""A prior on second-order spherical-harmonics light that keeps albedo and light apart.

A photo fixes the product of albedo and light: light twice as bright on skin half as light gives the same picture, and the same holds
for hue. What separates them is knowledge about light that has nothing to do with the person:

- its mean level is near what a camera's exposure gives (`LEVEL`, spread `LEVEL_SIGMA` in log);
- it is nearly white, and departs from white along warm-cool much more than along green-magenta (daylight, lamps);
- its directional part has a typical size *relative to its mean*, smaller for higher bands, and is nearly as white as the mean.

All of it is relative or logarithmic, and none of it refers to skin: a darker and a lighter face get the same light. With an albedo prior that
is flat over skin tones (`BiophysicalAlbedo.melanin`), tone is then decided by the picture's brightness under a light of
typical level, and by the hue of skin; neither prior pulls towards light skin.

Light is (9, 3) as in `fitjax.render.lighting`: radiance of the environment in real orthonormal spherical harmonics, in the order
1, y, z, x, xy, yz, 3z²-1, xz, x²-y², per linear RGB channel. A white surface shows Y00 · light[0] on average.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Y00 = 0.5 / math.sqrt(math.pi)
LEVEL = 0.8  # mean shading over the sphere; the lit side of a face then gets about 1
LEVEL_SIGMA = 0.25
WARM_SIGMA, TINT_SIGMA = 0.15, 0.05  # of the mean's log RGB
# Of each radiance coefficient over the mean's. One distant lamp has √3 and √5 as the norms of bands 1 and 2 (Ramamoorthi and Hanrahan,
# "An efficient representation for irradiance environment maps", SIGGRAPH 2001); several lamps, sky and walls have less: here 0.9 and 1.1.
BAND_SIGMA = np.array([0.5] * 8)
BAND_CHROMA_SIGMA = 0.25 * BAND_SIGMA
_AXES = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3.0], [2.0], [6.0]])  # grey, warm-cool, green-magenta
_SMALLEST = 1e-2  # of LEVEL: below, the logarithm goes on as a straight line, so that a solver can come back from negative light


def light_prior(light: Float[Array, "9 3"]) -> Float[Array, "27"]:
    """Whitened residuals of light (9, 3), or (27,) row by row: standard normal under the prior, zero for white, even light at `LEVEL`.

    Not elementwise; :func:`light_from_code` offers the same prior with codes that are.
    """
    light = jnp.reshape(light, (9, 3))
    mean = light[0] * (Y00 / LEVEL)
    inside = jnp.maximum(mean, _SMALLEST)
    log_mean = jnp.where(mean > _SMALLEST, jnp.log(inside), math.log(_SMALLEST) + mean / _SMALLEST - 1)
    dc = jnp.matmul(jnp.asarray(_AXES, light.dtype), log_mean, precision="highest")
    # The grey level, positive whatever the solver tries.
    level = jnp.exp(jnp.mean(jnp.log(inside))) * (LEVEL / Y00)
    band = jnp.matmul(light[1:] / level, jnp.asarray(_AXES.T, light.dtype), precision="highest")
    whitened_dc = dc / jnp.asarray([math.sqrt(3) * LEVEL_SIGMA, WARM_SIGMA, TINT_SIGMA], light.dtype)
    return jnp.concatenate([whitened_dc, (band / _band_sigma(light)).ravel()])


def light_from_code(code: Float[Array, "27"]) -> Float[Array, "9 3"]:
    """Light with ``light_prior(light) = code``: fit the code with an elementwise N(0, 1) prior. Its mean is always positive."""
    axes = jnp.asarray(_AXES, code.dtype)
    dc = code[:3] * jnp.asarray([math.sqrt(3) * LEVEL_SIGMA, WARM_SIGMA, TINT_SIGMA], code.dtype)
    log_mean = jnp.matmul(dc, axes, precision="highest")
    level = jnp.exp(jnp.mean(log_mean)) * (LEVEL / Y00)
    band = jnp.matmul(code[3:].reshape(8, 3) * _band_sigma(code), axes, precision="highest") * level
    return jnp.concatenate([jnp.exp(log_mean)[None] * (LEVEL / Y00), band])


def _band_sigma(like: Array) -> Array:
    """(8, 3) spreads along grey, warm-cool and green-magenta. The grey axis has length √3 per unit of grey."""
    columns = [math.sqrt(3) * BAND_SIGMA, BAND_CHROMA_SIGMA, BAND_CHROMA_SIGMA]
    return jnp.asarray(np.stack(columns, -1), like.dtype)
