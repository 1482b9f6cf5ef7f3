"""The picture of a textured fit: photo, landmarks and mesh above; render, model alone, difference and another light below."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fitjax.files.images import rgb8
from fitjax.render.overlay import Crop, MeshPanels
from fitjax.render.picture import PosedHead, draw_window
from fitjax.render.shading import srgb_from_linear

#: Differences are shown this many times as large, about mid-grey.
AMPLIFIED = 4
#: The other light: where it comes from (camera axes), what a white surface that faces it shows, and light from everywhere.
SIDE_LIGHT = ((-0.85, -0.3, -0.45), 1.4, 0.15)
_PAD = 236
_GREY = 128
_INK = (60, 60, 60)


def side_light() -> np.ndarray:
    """(9, 3) a lamp from the side, see `SIDE_LIGHT`."""
    from fitjax.render.lighting import directional_light

    direction, strength, ambient = SIDE_LIGHT
    rgb = [np.full(3, value, np.float32) for value in (strength, ambient)]
    return np.asarray(jax.jit(directional_light)(np.array(direction, np.float32), *rgb))


def panel_of(head: PosedHead, crop: Crop) -> np.ndarray:
    """(h, w, 4) uint8: the head as the panel of a crop shows it, drawn twice as large and averaged, so that lids and lips are smooth."""
    width, height = crop.size
    doubled = (crop.to_panel(head.pixels) + 0.5) * 2 - 0.5
    large = draw_window(head._replace(pixels=doubled.astype(np.float32)), 2 * width, 2 * height)
    # Averaged in linear light, weighted by coverage.
    weighted = np.concatenate([large.colour * large.alpha[..., None], large.alpha[..., None]], -1)
    mean = weighted.reshape(height, 2, width, 2, 4).mean((1, 3))
    colour = srgb_from_linear(mean[..., :3] / np.maximum(mean[..., 3:], 1e-6))
    return rgb8(np.concatenate([colour, mean[..., 3:]], -1))


def _over(background: np.ndarray, rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return np.round(background * (1 - alpha) + rgba[..., :3] * alpha).astype(np.uint8)


def textured_overlay(
    panels: MeshPanels,
    full: PosedHead,
    model: PosedHead,
    parts: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Eight captioned panels in two rows, (h, w, 3) uint8, or ten with parts.

    Args:
        panels: of the mesh, from `fitjax.render.overlay.mesh_panels`.
        parts: two panels from `fitjax.render.overlay_parts.parts_panels`.
        full, model: the head with and without the residual, from `fitjax.render.picture.pose_head`.
    """
    crop, photo = panels.crop, panels.photo
    shown = panel_of(full, crop)
    alpha = shown[..., 3:].astype(np.float32) / 255
    difference = (shown[..., :3].astype(np.float32) - photo) * alpha * AMPLIFIED + _GREY
    blank = np.full_like(photo, _PAD)
    extra = [] if parts is None else [[(parts[0], "parts seen, fitted outlines")], [(parts[1], "parts fitted")]]
    first, second = extra or ([], [])
    return captioned_grid(
        [
            [
                (photo, "photo"),
                (panels.marked, "landmarks"),
                (panels.over, "mesh over photo"),
                (panels.alone, "mesh"),
                *first,
            ],
            [
                (_over(photo, shown), "render over photo"),
                (_over(photo, panel_of(model, crop) if model is not full else shown), "model without residual"),
                (np.clip(np.round(difference), 0, 255).astype(np.uint8), f"render - photo, x {AMPLIFIED} about grey"),
                (_over(blank, panel_of(full._replace(light=side_light()), crop)), "the same head lit from the side"),
                *second,
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
