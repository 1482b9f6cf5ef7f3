"""A scan in the colours of its distances, seen from the front and from both sides."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fitjax.evaluate.curve import nice_step
from fitjax.evaluate.scan import Scan
from fitjax.render.reference import rasterize_reference, vertex_normals

_SIDE = 360
_TURNS_DEGREES = (-45.0, 0.0, 45.0)
_GREY = (150.0, 150.0, 150.0)
_BAR = 54
#: From no distance to the scale's end: dark blue, cyan-green, yellow, red. Lightness rises, then falls only at the end.
_RAMP = np.array([[38, 70, 140], [42, 157, 143], [233, 216, 100], [231, 111, 81], [155, 20, 40]], np.float64)


def colours(values: np.ndarray, end: float) -> np.ndarray:
    """(N, 3) 0 to 255 of distances; those beyond ``end`` have its colour, NaN is grey."""
    place = np.clip(np.where(np.isfinite(values), values, 0) / end, 0, 1) * (len(_RAMP) - 1)
    low = np.minimum(place.astype(int), len(_RAMP) - 2)
    share = (place - low)[:, None]
    return np.where(np.isfinite(values)[:, None], (1 - share) * _RAMP[low] + share * _RAMP[low + 1], _GREY)


def front_axes(landmarks: np.ndarray) -> np.ndarray:
    """(3, 3) rows right (as the viewer sees it), up, and towards the viewer, from the seven landmarks."""
    right = landmarks[3] - landmarks[0]
    right = right / np.linalg.norm(right)
    up = landmarks[[0, 3]].mean(0) - landmarks[5:7].mean(0)
    up = up - right * (up @ right)
    up = up / np.linalg.norm(up)
    return np.stack([right, up, np.cross(right, up)])


def scan_picture(
    scan: Scan, index: np.ndarray, distances: np.ndarray, end: float | None = None, title: str = ""
) -> np.ndarray:
    """(h, w, 3) uint8: three views and the scale in mm. Points that do not count are grey.

    Args:
        index, distances: (Q,) points of the scan that count, and their distances in mm.
        end: of the scale, mm; default a round number near the 95th percentile.
    """
    values = np.full(len(scan.points), np.nan)
    values[index] = distances
    end = end or 5 * nice_step(float(np.percentile(distances, 95)))
    colour = colours(values, end)
    centre = scan.points[index].mean(0)
    reach = 1.05 * float(np.percentile(np.linalg.norm(scan.points[index] - centre, axis=1), 99))
    sheet = Image.new("RGB", (len(_TURNS_DEGREES) * _SIDE + 76, _SIDE + _BAR - 26), (255, 255, 255))
    for k, turn in enumerate(_TURNS_DEGREES):
        c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
        axes = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]]) @ front_axes(scan.landmarks)
        panel = _view(scan, (scan.points - centre) @ axes.T, colour, reach)
        sheet.paste(Image.fromarray(panel), (k * _SIDE, 28))
    _scale(sheet, end, title)
    return np.asarray(sheet)


def _view(scan: Scan, seen: np.ndarray, colour: np.ndarray, reach: float) -> np.ndarray:
    """(_SIDE, _SIDE, 3) uint8, drawn twice as large and averaged. ``seen`` (P, 3): x right, y up, z towards the viewer."""
    size = 2 * _SIDE
    scale = size / 2 / reach
    depth = 2 * float(np.nanmax(np.abs(seen[:, 2]))) + 1
    image = np.stack([size / 2 + scale * seen[:, 0], size / 2 - scale * seen[:, 1], depth - seen[:, 2]], 1)
    picture = np.full((size, size, 3), 255.0)
    if scan.triangles is not None:
        found = rasterize_reference(image, scan.triangles, size, size, cull_back=False, perspective=False)
        hit = found.triangle_id >= 0
        corners = scan.triangles[found.triangle_id[hit]]
        weights = found.barycentric[hit]
        normal = np.einsum("pk,pkc->pc", weights, vertex_normals(np.nan_to_num(seen), scan.triangles)[corners])
        # A lamp beside the viewer's eye; scans may be wound either way.
        facing = np.abs(normal[:, 2]) / np.maximum(np.linalg.norm(normal, axis=1), 1e-12)
        shade = 0.45 + 0.55 * facing
        picture[hit] = np.einsum("pk,pkc->pc", weights, colour[corners]) * shade[:, None]
    else:
        _splat(picture, image, colour)
    return np.asarray(Image.fromarray(picture.astype(np.uint8)).resize((_SIDE, _SIDE), Image.Resampling.BOX))


def _splat(picture: np.ndarray, image: np.ndarray, colour: np.ndarray) -> None:
    """Points as squares of five pixels, far ones first. Points behind the head show where nothing lies before them."""
    size = len(picture)
    order = np.argsort(-image[:, 2], kind="stable")
    order = order[np.isfinite(image[order]).all(1)]
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            x, y = np.rint(image[order, 0]).astype(int) + dx, np.rint(image[order, 1]).astype(int) + dy
            inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
            picture[y[inside], x[inside]] = colour[order[inside]]


def _scale(sheet: Image.Image, end: float, title: str) -> None:
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    left, top, height = sheet.width - 64, 48, sheet.height - 76
    bar = colours(np.linspace(end, 0, height), end).astype(np.uint8)
    sheet.paste(Image.fromarray(np.repeat(bar[:, None], 16, 1)), (left, top))
    for k in range(6):
        y = top + (height - 1) * (1 - k / 5)
        draw.text((left + 22, y), f"{end * k / 5:g}", (60, 60, 60), font, anchor="lm")
    draw.text((left, top - 12), "mm", (60, 60, 60), font, anchor="lm")
    draw.text((10, 14), title, (60, 60, 60), font, anchor="lm")
