"""The picture of a textured fit: photo, landmarks and mesh above; render, model alone, difference and another light below."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fitjax.files.images import rgb8
from fitjax.render.overlay import Crop, MeshPanels
from fitjax.render.picture import HeadPicture
from fitjax.render.shading import srgb_from_linear

#: Differences are shown this many times as large, about mid-grey.
AMPLIFIED = 4
#: The other light: where it comes from (camera axes), what a white surface that faces it shows, and light from everywhere.
SIDE_LIGHT = ((-0.85, -0.3, -0.45), 1.0, 0.1)
_PAD = 236
_GREY = 128
_INK = (60, 60, 60)


def rgba8(picture: HeadPicture, colour: np.ndarray | None = None) -> np.ndarray:
    """(h, w, 4) uint8 sRGB with straight alpha.

    Args:
        colour: (h, w, 3) linear light; by default the picture's own.
    """
    shown = srgb_from_linear(picture.colour if colour is None else colour)
    return rgb8(np.concatenate([shown, picture.alpha[..., None]], -1))


def relit(picture: HeadPicture) -> np.ndarray:
    """(h, w, 3) linear light: the same albedo and normals under `SIDE_LIGHT`."""
    import jax.numpy as jnp

    from fitjax.render.lighting import diffuse_shading, directional_light

    direction, strength, ambient = SIDE_LIGHT
    light = directional_light(jnp.array(direction), jnp.full(3, strength), jnp.full(3, ambient))
    return picture.albedo * np.maximum(np.asarray(diffuse_shading(jnp.asarray(picture.normal), light)), 0)


def cut_head(rgba: np.ndarray, picture: HeadPicture, crop: Crop) -> np.ndarray:
    """The part of a head's window (h, w, 4) that a crop of the photo shows, at the size of its panel, transparent elsewhere."""
    window = np.zeros((crop.height, crop.width, 4), np.uint8)
    left, top = picture.left - crop.left, picture.top - crop.top
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + rgba.shape[1], crop.width), min(top + rgba.shape[0], crop.height)
    if x1 > x0 and y1 > y0:
        window[y0:y1, x0:x1] = rgba[y0 - top : y1 - top, x0 - left : x1 - left]
    filtering = Image.Resampling.LANCZOS if crop.scale < 1 else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(window).resize(crop.size, filtering))  # Pillow weights colours by alpha here


def _over(background: np.ndarray, rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return np.round(background * (1 - alpha) + rgba[..., :3] * alpha).astype(np.uint8)


def textured_overlay(panels: MeshPanels, full: HeadPicture, model: HeadPicture) -> np.ndarray:
    """Eight captioned panels in two rows, (h, w, 3) uint8.

    Args:
        panels: of the mesh, from `fitjax.render.overlay.mesh_panels`.
        full, model: the head with and without the residual, from `fitjax.render.picture.draw_head`.
    """
    crop, photo = panels.crop, panels.photo
    shown = cut_head(rgba8(full), full, crop)
    alpha = shown[..., 3:].astype(np.float32) / 255
    difference = (shown[..., :3].astype(np.float32) - photo) * alpha * AMPLIFIED + _GREY
    blank = np.full_like(photo, _PAD)
    return captioned_grid(
        [
            [(photo, "photo"), (panels.marked, "landmarks"), (panels.over, "mesh over photo"), (panels.alone, "mesh")],
            [
                (_over(photo, shown), "render over photo"),
                (_over(photo, cut_head(rgba8(model), model, crop)), "model without residual"),
                (np.clip(np.round(difference), 0, 255).astype(np.uint8), f"render - photo, x {AMPLIFIED} about grey"),
                (_over(blank, cut_head(rgba8(full, relit(full)), full, crop)), "the same head lit from the side"),
            ],
        ]
    )


def captioned_grid(rows: Sequence[Sequence[tuple[np.ndarray, str]]]) -> np.ndarray:
    """Panels of one size in rows, each with its caption beneath, on white.

    Args:
        rows: equally long; panels (h, w, 3) uint8.
    """
    height, width = rows[0][0][0].shape[:2]
    unit = max(height, width) / 480
    gap, strip = max(2, round(8 * unit)), max(14, round(24 * unit))
    columns = len(rows[0])
    size = (columns * (width + gap) + gap, len(rows) * (height + strip + gap) + gap)
    sheet = Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(max(9, round(14 * unit)))
    for i, row in enumerate(rows):
        for j, (panel, caption) in enumerate(row):
            x, y = gap + j * (width + gap), gap + i * (height + strip + gap)
            sheet.paste(Image.fromarray(panel), (x, y))
            draw.text((x + width / 2, y + height + strip / 2), caption, _INK, font, anchor="mm")
    return np.asarray(sheet)
