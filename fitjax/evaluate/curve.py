"""Cumulative error curves: which share of the faces (or points) has at most which error. Drawn with Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_INK, _GREY, _LIGHT = (40, 40, 40), (110, 110, 110), (226, 226, 226)
#: Okabe and Ito's colours, which most people can tell apart.
_COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (0, 0, 0))
_WIDTH, _HEIGHT, _SCALE = 720, 480, 2
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 24, 24, 64


@dataclass(frozen=True)
class Curve:
    """One line of the plot.

    Attributes:
        name: for the legend.
        errors: (N,) of what was evaluated. total: of how many; what is missing keeps the curve below 100 %.
    """

    name: str
    errors: np.ndarray
    total: int

    def share_below(self, at: np.typing.ArrayLike) -> np.ndarray:
        """Percent of ``total`` with an error of at most ``at``."""
        ordered = np.sort(np.asarray(self.errors, np.float64))
        return 100 * np.searchsorted(ordered, at, side="right") / max(self.total, 1)


def area_under_curve(errors: np.typing.ArrayLike, total: int, limit: float) -> float:
    """Area under the cumulative curve from 0 to ``limit``, as a share of the whole: 1 when all errors are 0. Exact, without sampling.

    Missing faces (``total`` minus the number of errors) count as errors beyond ``limit``.
    """
    kept = np.asarray(errors, np.float64)
    return float(np.clip(limit - kept, 0, None).sum() / (limit * max(total, 1)))


def nice_step(span: float, ticks: int = 5) -> float:
    """1, 2 or 5 times a power of ten, at least ``span / ticks``."""
    raw = max(span, 1e-9) / ticks
    power = 10.0 ** np.floor(np.log10(raw))
    return float(next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9)))


def cumulative_plot(curves: Sequence[Curve], unit: str, counted: str = "faces") -> np.ndarray:
    """(480, 720, 3) uint8: percent of ``counted`` against the error, up to the 95th percentile of the worst curve."""
    width, height = _WIDTH * _SCALE, _HEIGHT * _SCALE
    sheet = Image.new("RGB", (width, height), (255, 255, 255))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14 * _SCALE)
    left, right, top, bottom = (k * _SCALE for k in (_LEFT, _WIDTH - _RIGHT, _TOP, _HEIGHT - _BOTTOM))
    seen = [np.percentile(c.errors, 95) for c in curves if len(c.errors)]
    step = nice_step(1.1 * max(seen, default=1.0) or 1.0)
    end = step * 5

    def at(x: np.ndarray | float, y: np.ndarray | float) -> tuple:
        return left + np.asarray(x) / end * (right - left), bottom - np.asarray(y) / 100 * (bottom - top)

    for k in range(6):
        x, y = at(step * k, 20 * k)
        draw.line([(x, top), (x, bottom)], _LIGHT, _SCALE)
        draw.line([(left, y), (right, y)], _LIGHT, _SCALE)
        draw.text((x, bottom + 8 * _SCALE), f"{step * k:g}", _GREY, font, anchor="mt")
        draw.text((left - 8 * _SCALE, y), f"{20 * k}", _GREY, font, anchor="rm")
    draw.line([(left, top), (left, bottom), (right, bottom)], _INK, _SCALE)
    draw.text(((left + right) / 2, height - 8 * _SCALE), unit, _INK, font, anchor="mb")
    _vertical(sheet, f"{counted}, %", font, (top + bottom) // 2)
    grid = np.linspace(0, end, 4 * (_WIDTH - _LEFT - _RIGHT))
    for k, curve in enumerate(curves):
        x, y = at(grid, curve.share_below(grid))
        colour = _COLOURS[k % len(_COLOURS)]
        draw.line(list(zip(x.tolist(), y.tolist())), colour, 2 * _SCALE, joint="curve")
        low = bottom - (len(curves) - k) * 22 * _SCALE
        draw.line([(right - 34 * _SCALE, low), (right - 10 * _SCALE, low)], colour, 3 * _SCALE)
        draw.text((right - 42 * _SCALE, low), curve.name, _INK, font, anchor="rm")
    return np.asarray(sheet.resize((_WIDTH, _HEIGHT), Image.Resampling.LANCZOS))


def _vertical(sheet: Image.Image, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, middle: int) -> None:
    low, high = ImageDraw.Draw(sheet).textbbox((0, 0), text, font)[2:]
    label = Image.new("RGB", (int(low) + 4, int(high) + 8), (255, 255, 255))
    ImageDraw.Draw(label).text((2, 2), text, _INK, font)
    turned = label.rotate(90, expand=True)
    sheet.paste(turned, (4 * _SCALE, middle - turned.height // 2))
