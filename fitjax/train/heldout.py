"""Held-out albedo: details of kinds that the training generator does not have, made by other code.

Nothing here is imported by the generator, or imports from it; only the skin under the details comes from the same biophysical model. It is for
measuring what a trained decoder makes of faces that it was not made for: vitiligo, port-wine stains, scars, tattoos, face paint, rosacea, dense
random freckles, stubble, powder.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from fitjax.model.albedo import BiophysicalAlbedo

#: Kinds of detail; each face has three of them.
KINDS = ("vitiligo", "stain", "scar", "tattoo", "paint", "rosacea", "freckles", "stubble", "glow")


def _cloud(random: np.random.Generator, height: int, width: int, roughness: float) -> np.ndarray:
    """(H, W) fractal noise about N(0, 1): a spectrum that falls with the frequency to a power."""
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = np.inf
    spectrum = (random.normal(size=frequency.shape) + 1j * random.normal(size=frequency.shape)) * frequency**-roughness
    field = np.fft.irfft2(spectrum, (height, width))
    return field / max(field.std(), 1e-12)


def _strokes(
    random: np.random.Generator,
    height: int,
    width: int,
    count: int,
    thickness: float,
    box: tuple[float, float, float, float],
) -> np.ndarray:
    """(H, W) in [0, 1]: random curved strokes within a box (top, bottom, left, right as shares)."""
    from PIL import Image, ImageDraw

    scale = 4
    canvas = Image.new("L", (width * scale, height * scale))
    pen = ImageDraw.Draw(canvas)
    top, bottom, left, right = box
    for _ in range(count):
        ends = random.uniform([left, top], [right, bottom], (3, 2)) * [width * scale, height * scale]
        t = np.linspace(0, 1, 24)[:, None]
        curve = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * ends[1] + t**2 * ends[2]
        pen.line([tuple(p) for p in curve.tolist()], fill=255, width=max(1, round(thickness * scale)))
    return np.asarray(canvas.resize((width, height), Image.Resampling.BOX), np.float64) / 255


def _detail(kind: str, random: np.random.Generator, skin: np.ndarray, front: np.ndarray) -> np.ndarray:
    """The face with one more detail; ``skin`` (H, W, 3) in linear light, ``front`` (H, W) 1 on the face."""
    height, width = front.shape
    cloud = _cloud(random, height, width, random.uniform(1.2, 1.9))
    patch = 1 / (1 + np.exp(-(cloud - random.uniform(0.4, 1.2)) / 0.08)) * front
    if kind == "vitiligo":
        return skin + 0.8 * patch[..., None] * (np.array([0.62, 0.48, 0.40]) - skin)
    if kind == "stain":
        side = np.arange(width)[None] / width
        half = 1 / (1 + np.exp(-(side - random.uniform(0.3, 0.7)) * random.choice([-1, 1]) / 0.02))
        return skin * np.exp(-random.uniform(0.3, 0.9) * (patch * half)[..., None] * np.array([0.2, 1.0, 0.7]))
    if kind == "scar":
        line = _strokes(random, height, width, int(random.integers(1, 3)), 1.5, (0.25, 0.75, 0.3, 0.7)) * front
        return skin + 0.5 * line[..., None] * (np.array([0.60, 0.40, 0.36]) - skin)
    if kind == "tattoo":
        line = _strokes(random, height, width, int(random.integers(6, 20)), 1.0, (0.25, 0.7, 0.28, 0.72)) * front
        return skin + 0.85 * line[..., None] * (np.array([0.02, 0.03, 0.04]) - skin)
    if kind == "paint":
        row = (np.arange(height)[:, None] / height - random.uniform(0.35, 0.6)) / random.uniform(0.02, 0.08)
        colour = random.dirichlet([0.6] * 3) * random.uniform(0.3, 1.2)
        return skin + 0.8 * (np.exp(-(row**4)) * front)[..., None] * (colour - skin)
    if kind == "rosacea":
        fine = _cloud(random, height, width, 0.6)
        middle = np.exp(-((((np.arange(width) / width) - 0.5) / 0.16) ** 2))[None] * front
        return skin * np.exp(-0.35 * (middle * np.maximum(1 + 0.6 * fine, 0))[..., None] * np.array([0.1, 1.0, 0.8]))
    if kind == "freckles":
        dots = np.zeros((height, width))
        count = random.integers(80, 500)
        y, x = random.integers(0, height, count), random.integers(0, width, count)
        dots[y, x] = random.uniform(0.3, 1.0, count)
        from scipy.ndimage import gaussian_filter

        spread = gaussian_filter(dots, random.uniform(0.5, 1.1))
        spread = np.minimum(spread / max(np.percentile(spread[spread > 1e-6], 97), 1e-9), 1)
        return skin * np.exp(-0.6 * (spread * front)[..., None] * np.array([0.5, 0.9, 1.0]))
    if kind == "stubble":
        fine = _cloud(random, height, width, 0.1) > 0.3
        low = 1 / (1 + np.exp(-(np.arange(height)[:, None] / height - random.uniform(0.55, 0.62)) / 0.015)) * front
        return skin + 0.5 * (low * fine)[..., None] * (random.uniform(0.05, 0.3) - skin)
    # glow: a broad lightening of cheeks or forehead, as by powder
    row, column = random.uniform(0.3, 0.6), random.uniform(0.35, 0.65)
    y, x = np.arange(height)[:, None] / height - row, np.arange(width)[None] / width - column
    return skin * np.exp(random.uniform(0.1, 0.3) * (np.exp(-(x**2 + y**2) / 0.01) * front)[..., None])


def heldout_albedo(base: BiophysicalAlbedo, front: np.ndarray, count: int, seed: int) -> np.ndarray:
    """(count, H, W, 3) float32 in linear light.

    Args:
        base: the embedded albedo at the H · W texel centres, row by row. front: (H, W) 1 on the face.
    """
    decode: Any = jax.jit(base.decode)
    height, width = front.shape
    faces = []
    for index in range(count):
        random = np.random.default_rng([seed, index, 424242])
        code = random.standard_t(6, base.n_codes)
        skin = np.asarray(decode(np.clip(code, -3, 3).astype(np.float32)), np.float64).reshape(height, width, 3)
        for kind in random.choice(KINDS, 3, replace=False):
            skin = _detail(str(kind), random, skin, front)
        faces.append(np.clip(skin, 1e-3, 0.98).astype(np.float32))
    return np.stack(faces)
