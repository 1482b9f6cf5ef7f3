"""What a camera and its file format do to a picture: blur, noise, quantisation of 8 × 8 blocks. sRGB, (H, W, 3)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fitjax.synth.settings import BLOCK

#: What passes through it is computed before what reads it, and not again for each reading.
once = jax.lax.optimization_barrier
_RADIUS = 8
#: Quantisation of 8 × 8 cosine coefficients at quality 50 (ITU-T T.81, tables K.1 and K.2, which the recommendation gives as examples).
_LUMA = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55], [14, 13, 16, 24, 40, 57, 69, 56], [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92], [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
])  # fmt: skip
_CHROMA = np.full((8, 8), 99)
_CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
#: JFIF's YCbCr of RGB.
_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


def _cosines() -> np.ndarray:
    k, n = np.mgrid[:BLOCK, :BLOCK]
    return np.cos(np.pi * (2 * n + 1) * k / (2 * BLOCK)) * np.where(k == 0, np.sqrt(1 / BLOCK), np.sqrt(2 / BLOCK))


def blur(image: Float[Array, "H W C"], sigma: Float[Array, ""]) -> Float[Array, "H W C"]:
    """Gaussian, the border repeated."""
    x = jnp.arange(-_RADIUS, _RADIUS + 1)
    kernel = jnp.exp(-0.5 * (x / jnp.maximum(sigma, 0.05)) ** 2)
    kernel = kernel / kernel.sum()
    for axis in (0, 1):
        padded = once(jnp.pad(image, [(_RADIUS, _RADIUS) if a == axis else (0, 0) for a in range(3)], mode="edge"))
        length = image.shape[axis]
        image = sum(kernel[k] * jax.lax.slice_in_dim(padded, k, k + length, axis=axis) for k in range(2 * _RADIUS + 1))  # type: ignore[assignment]
    return once(image)


def quantise(image: Float[Array, "H W 3"], quality: Float[Array, ""]) -> Float[Array, "H W 3"]:
    """Rounds the cosine coefficients of blocks as JPEG does, colours at full resolution. Quality 1 to 100 scales the tables as libjpeg does."""
    height, width, _ = image.shape
    cosines = jnp.asarray(_cosines(), image.dtype)
    scale = jnp.where(quality < 50, 50 / quality, 2 - quality / 50)
    table = jnp.asarray(np.stack([_LUMA, _CHROMA, _CHROMA], -1), image.dtype)
    table = jnp.maximum(jnp.floor(table * scale + 0.5), 1)
    ycc = jnp.matmul(image * 255, jnp.asarray(_YCC.T, image.dtype)) - jnp.array([128.0, 0, 0])
    blocks = ycc.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK, 3)
    coefficients = jnp.einsum("ka,haxbc,lb->hkxlc", cosines, blocks, cosines)
    coefficients = jnp.round(coefficients / table[None, :, None]) * table[None, :, None]
    back = jnp.einsum("ka,hkxlc,lb->haxbc", cosines, coefficients, cosines).reshape(height, width, 3) + jnp.array([128.0, 0, 0])
    return jnp.clip(jnp.matmul(back, jnp.asarray(np.linalg.inv(_YCC).T, image.dtype)) / 255, 0, 1)


def _enlarge(cells: int, size: int) -> np.ndarray:
    """(S, cells) weights of a smooth interpolation between the centres of cells."""
    at = np.clip((np.arange(size) + 0.5) * cells / size - 0.5, 0, cells - 1)
    low = np.minimum(at.astype(int), cells - 2)
    share = at - low
    share = share**2 * (3 - 2 * share)
    weights = np.zeros((size, cells), np.float32)
    weights[np.arange(size), low], weights[np.arange(size), low + 1] = 1 - share, share
    return weights


def smooth_noise(key: Array, size: int, cells: int, channels: int) -> Float[Array, "S S C"]:
    """Uniform noise on a grid of ``cells`` (2 or more) to a side, enlarged smoothly."""
    # Matrices, not jax.image.resize: a tenth of the time to compile.
    weights = jnp.asarray(_enlarge(cells, size))
    return jnp.einsum("ya,abc,xb->yxc", weights, jax.random.uniform(key, (cells, cells, channels)), weights)
