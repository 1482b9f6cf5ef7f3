"""Light and reflection, in linear light and OpenCV camera axes (x right, y down, z away from the camera).

A light is a (9, 3) array: the **environment's radiance** in real spherical harmonics up to second order, one column per colour channel.
Index and sign follow Ramamoorthi and Hanrahan, "An efficient representation for irradiance environment maps" (2001), with n = (x, y, z)
in camera axes::

    0: 0.282095            4: 1.092548 x y     (l = 2, m = -2)
    1: 0.488603 y          5: 1.092548 y z
    2: 0.488603 z          6: 0.315392 (3 z² - 1)
    3: 0.488603 x          7: 1.092548 x z
                           8: 0.546274 (x² - y²)

The cosine lobe's convolution (π, 2π/3, π/4 for l = 0, 1, 2) is applied when shading, and a diffuse surface reflects albedo / π of the
irradiance. So an environment of uniform radiance 1 shows a surface of albedo a as a, and the first row is then √(4π) = 3.545.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fitjax.geometry.rotation import safe_normalise

#: √(1 / 4π), √(3 / 4π), √(15 / 4π), √(5 / 16π), √(15 / 16π).
_Y0, _Y1, _Y2, _Y20, _Y22 = (float(np.sqrt(c / np.pi)) for c in (1 / 4, 3 / 4, 15 / 4, 5 / 16, 15 / 16))
#: What a diffuse surface reflects of each coefficient: convolution with the clamped cosine, divided by π.
DIFFUSE = np.array([1.0, *[2 / 3] * 3, *[1 / 4] * 5])


def harmonics(directions: Float[Array, "*s 3"]) -> Float[Array, "*s 9"]:
    """The nine basis functions at unit vectors."""
    directions = jnp.asarray(directions)
    x, y, z = directions[..., 0], directions[..., 1], directions[..., 2]
    return jnp.stack(
        [
            jnp.full_like(x, _Y0),
            _Y1 * y,
            _Y1 * z,
            _Y1 * x,
            _Y2 * x * y,
            _Y2 * y * z,
            _Y20 * (3 * z * z - 1),
            _Y2 * x * z,
            _Y22 * (x * x - y * y),
        ],
        -1,
    )


def diffuse_shading(normals: Float[Array, "*s 3"], light: Float[Array, "9 3"]) -> Float[Array, "*s 3"]:
    """What a white diffuse surface shows: irradiance / π. May be slightly negative behind a strong light, as the series ends early."""
    normals, light = jnp.asarray(normals), jnp.asarray(light)
    basis = harmonics(normals) * jnp.asarray(DIFFUSE, normals.dtype)
    shown = basis[..., 0, None] * light[0]
    for k in range(1, 9):
        shown = shown + basis[..., k, None] * light[k]
    return shown


def shade(
    albedo: Float[Array, "*s 3"], normals: Float[Array, "*s 3"], light: Float[Array, "9 3"]
) -> Float[Array, "*s 3"]:
    """Linear colour of a diffuse surface with unit normals in camera axes. Normals of length zero see the mean light."""
    return albedo * diffuse_shading(normals, light)


def ambient_light(radiance: Float[Array, "3"]) -> Float[Array, "9 3"]:
    """The light of an environment of one colour: a white surface shows ``radiance``."""
    radiance = jnp.asarray(radiance)
    return jnp.zeros((9, 3), radiance.dtype).at[0].set(radiance / _Y0)


def directional_light(
    direction: Float[Array, "3"], intensity: Float[Array, "3"], ambient: Float[Array, "3"] | None = None
) -> Float[Array, "9 3"]:
    """A far source, and light from everywhere.

    Args:
        direction: from the surface **towards** the light, camera axes; any length.
        intensity: what a white surface that faces the source would show. Of the clamped cosine the series keeps nine functions:
            the surface shows 1.0625 times that when facing the source, 0.0625 behind it, between 0.04 too little and 0.094 too much
            elsewhere.
        ambient: radiance of the rest of the environment.
    """
    intensity = jnp.asarray(intensity)
    basis = harmonics(safe_normalise(jnp.asarray(direction, intensity.dtype)))
    light = np.pi * basis[:, None] * intensity
    return light if ambient is None else light + ambient_light(ambient)


def specular(
    normals: Float[Array, "*s 3"],
    positions_camera: Float[Array, "*s 3"],
    direction: Float[Array, "3"],
    intensity: Float[Array, "3"],
    shininess: Float[Array, ""],
) -> Float[Array, "*s 3"]:
    """A normalised Blinn-Phong lobe of one far source, to be added to `shade`.

    Args:
        normals, positions_camera: unit normals and positions in camera axes; the viewer is at the origin.
        direction: towards the light.
        intensity: irradiance of the source times the surface's reflectance.
        shininess: exponent; skin is about 10 to 40. The lobe's energy does not depend on it.
    """
    towards = safe_normalise(direction)
    half = safe_normalise(towards + safe_normalise(-positions_camera))
    cosine, incidence = jnp.sum(normals * half, -1), jnp.sum(normals * towards, -1)
    lit = (cosine > 0) & (incidence > 0)
    power = jnp.exp(shininess * jnp.log(jnp.where(lit, cosine, 1)))
    lobe = (shininess + 8) / (8 * np.pi) * power * jnp.maximum(incidence, 0)
    return jnp.where(lit, lobe, 0)[..., None] * intensity


def linear_from_srgb(srgb: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """sRGB to linear light, the exact piecewise curve; values outside of [0, 1] go on along it."""
    low = srgb <= 0.04045
    return jnp.where(low, srgb / 12.92, ((jnp.where(low, 1.0, srgb) + 0.055) / 1.055) ** 2.4)


def srgb_from_linear(linear: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Linear light to sRGB, the exact piecewise curve, not clipped; its gradient is finite everywhere (12.92 at and below 0)."""
    low = linear <= 0.0031308
    return jnp.where(low, linear * 12.92, 1.055 * jnp.where(low, 1.0, linear) ** (1 / 2.4) - 0.055)
