"""A head that turns in the light of its photo: the quickest way to see whether the mesh is a plausible head from every side."""

from __future__ import annotations

import numpy as np
from jaxtyping import Array, Float
from PIL import Image

from fitjax.prediction import Mesh
from fitjax.render.picture import TILE, draw_tile
from fitjax.render.shading import srgb_from_linear

#: sRGB of the background: a light neutral grey, on which dark and light skin both stand out.
BACKGROUND = 214
#: The camera stands this many head heights away: near enough for a natural perspective.
_DISTANCE = 3.2
_OPENCV_FROM_HEAD = np.diag([1.0, -1.0, -1.0])


def turntable_yaws(frames: int = 24, largest_degrees: float = 60.0) -> np.ndarray:
    """(frames,) degrees from -largest to +largest and back, slower towards the ends; the way back repeats the angles of the way there."""
    return -largest_degrees * np.cos(2 * np.pi * np.arange(frames) / frames)


def draw_turned(
    vertices_head: Float[np.ndarray, "V 3"],
    mesh: Mesh,
    albedo: Float[Array, "H W 3"],
    light: Float[np.ndarray, "9 3"],
    yaws_degrees: np.ndarray,
    side: int = 320,
    background: int = BACKGROUND,
) -> list[np.ndarray]:
    """Pictures (side, side, 3) uint8 of the head turned about its vertical axis; equal angles are drawn once.

    Args:
        vertices_head: head space, metres. light: camera axes; it stays where it is while the head turns.
        yaws_degrees: positive turns the face towards the right of the picture.
        side: at most 512.
    """
    vertices = np.asarray(vertices_head, np.float32)
    finite = vertices[np.isfinite(vertices).all(1)]
    low, high = finite.min(0), finite.max(0)
    middle = (low + high) / 2
    # The circle that the head sweeps, and its height, both fit with a border; nearer parts look larger.
    radius = float(np.linalg.norm((finite - middle)[:, [0, 2]], axis=1).max())
    height = float(high[1] - low[1])
    distance = _DISTANCE * height
    half = max(height / 2 * distance / (distance - radius), 0.9 * radius)
    focal = 0.46 * TILE * distance / half
    drawn: dict[float, np.ndarray] = {}
    for yaw in np.round(yaws_degrees, 6).tolist():
        if yaw not in drawn:
            a = np.radians(yaw)
            turn = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
            camera = ((vertices - middle) @ (_OPENCV_FROM_HEAD @ turn).T + [0, 0, distance]).astype(np.float32)
            pixels = (focal * camera[:, :2] / camera[:, 2:] + (TILE - 1) / 2).astype(np.float32)
            # Spelled as in `draw_window`, so that both are one program.
            shown = draw_tile(pixels, camera, mesh, albedo, light, perspective=True)
            colour = srgb_from_linear(np.asarray(shown.packed[..., :3])) * 255
            alpha = np.asarray(shown.alpha)[..., None]
            picture = np.round(colour * alpha + background * (1 - alpha)).astype(np.uint8)
            drawn[yaw] = np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS))
    return [drawn[yaw] for yaw in np.round(yaws_degrees, 6).tolist()]
