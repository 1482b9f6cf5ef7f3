"""A small z-buffer renderer in numpy, for looking at the basis while building it. Orthographic, +x right, +y up."""

from pathlib import Path

import numpy as np

from basis.geometry import vertex_normals

_LIGHTS = (((-0.4, 0.5, 0.8), 0.70), ((0.7, 0.1, 0.6), 0.28))
REGION_COLOUR = np.array(
    [(0.82, 0.70, 0.63), (0.95, 0.95, 0.95), (0.60, 0.25, 0.25), (0.75, 0.50, 0.45), (0.85, 0.40, 0.45)]
)


def rotation(yaw: float = 0.0, pitch: float = 0.0) -> np.ndarray:
    """Turn the head by `yaw` (degrees, positive to the picture's right) and then `pitch` (positive looks down)."""
    y, p = np.radians([yaw, pitch])
    turn = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    nod = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    return nod @ turn


def rasterise(screen: np.ndarray, triangles: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Nearest triangle (-1 for none) and barycentrics of every pixel; screen is x right, y down, z towards the viewer."""
    corner = screen[triangles]
    low = np.clip(np.ceil(corner[..., :2].min(1) - 0.5), 0, None).astype(int)
    high = np.minimum(np.floor(corner[..., :2].max(1) - 0.5), [width - 1, height - 1]).astype(int)
    extent = (high - low).max(1) + 1
    nearest = np.full(height * width, -np.inf)
    index = np.full(height * width, -1)
    weights = np.zeros((height * width, 3))
    for size, below in ((2, 0), (4, 2), (8, 4), (16, 8), (32, 16), (64, 32), (1024, 64)):
        chosen = np.flatnonzero((extent <= size) & (extent > below) & (high >= low).all(1))
        for part in np.array_split(chosen, max(1, len(chosen) * size * size // 4_000_000)):
            if not len(part):
                continue
            span = np.arange(min(size, max(extent[part])))
            x = (low[part, 0, None, None] + span[None, None, :]).astype(float)
            y = (low[part, 1, None, None] + span[None, :, None]).astype(float)
            a, b, c = (corner[part, k][:, :, None, None] for k in range(3))
            px, py = x + 0.5, y + 0.5
            area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (c[:, 0] - a[:, 0]) * (b[:, 1] - a[:, 1])
            area = np.where(np.abs(area) < 1e-12, np.inf, area)
            w1 = ((px - a[:, 0]) * (c[:, 1] - a[:, 1]) - (c[:, 0] - a[:, 0]) * (py - a[:, 1])) / area
            w2 = ((b[:, 0] - a[:, 0]) * (py - a[:, 1]) - (px - a[:, 0]) * (b[:, 1] - a[:, 1])) / area
            w0 = 1 - w1 - w2
            inside = (
                (w0 >= 0) & (w1 >= 0) & (w2 >= 0) & (x <= high[part, 0, None, None]) & (y <= high[part, 1, None, None])
            )
            depth = w0 * a[:, 2] + w1 * b[:, 2] + w2 * c[:, 2]
            pixel = np.broadcast_to(y * width + x, inside.shape)[inside].astype(int)
            triangle = np.broadcast_to(part[:, None, None], inside.shape)[inside]
            depth, weight = depth[inside], np.stack([w[inside] for w in (w0, w1, w2)], -1)
            order = np.argsort(depth, kind="stable")  # the last write wins, so the nearest comes last
            pixel, triangle, depth, weight = pixel[order], triangle[order], depth[order], weight[order]
            last = np.unique(pixel[::-1], return_index=True)[1]
            keep = len(pixel) - 1 - last
            keep = keep[depth[keep] > nearest[pixel[keep]]]
            nearest[pixel[keep]], index[pixel[keep]], weights[pixel[keep]] = depth[keep], triangle[keep], weight[keep]
    return index.reshape(height, width), weights.reshape(height, width, 3)


def render(
    vertices: np.ndarray,
    triangles: np.ndarray,
    *,
    colour: np.ndarray | None = None,
    points: np.ndarray | None = None,
    yaw: float = 0.0,
    pitch: float = 0.0,
    centre=(0.0, 0.0, 0.0),
    half: float = 0.15,
    size: tuple[int, int] = (300, 340),
    supersample: int = 2,
    labels: bool = False,
    hide_back: bool = True,
) -> np.ndarray:
    """A shaded picture (H, W, 3) in [0, 1]. `colour` is per triangle, `points` are drawn as dots, `half` is half the width."""
    width, height = size[0] * supersample, size[1] * supersample
    turn, scale = rotation(yaw, pitch), min(width, height) / 2 / half

    def screen(p: np.ndarray) -> np.ndarray:
        q = (p - np.asarray(centre)) @ turn.T
        return np.stack([width / 2 + q[:, 0] * scale, height / 2 - q[:, 1] * scale, q[:, 2] * scale], 1)

    position = screen(vertices)
    index, weight = rasterise(position, triangles, width, height)
    hit = index >= 0
    normal = np.einsum("pk,pkc->pc", weight[hit], (vertex_normals(vertices, triangles) @ turn.T)[triangles[index[hit]]])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    base = np.tile((0.82, 0.72, 0.66), (hit.sum(), 1)) if colour is None else colour[index[hit]]
    if hide_back:  # back faces in blue betray holes and flipped triangles
        base = np.where(normal[:, 2:] < 0, (0.3, 0.35, 0.7), base)
        normal = np.where(normal[:, 2:] < 0, -normal, normal)
    shade = np.full(len(normal), 0.18)
    for direction, strength in _LIGHTS:
        shade += strength * np.maximum(normal @ (np.array(direction) / np.linalg.norm(direction)), 0)
    image = np.ones((height, width, 3))
    image[hit] = np.clip(base * shade[:, None], 0, 1)
    image = image.reshape(size[1], supersample, size[0], supersample, 3).mean((1, 3))
    if points is not None:
        image = _draw_points(image, screen(points)[:, :2] / supersample, labels)
    return image


def _draw_points(image: np.ndarray, xy: np.ndarray, labels: bool) -> np.ndarray:
    from PIL import Image, ImageDraw

    picture = Image.fromarray((image * 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for number, (x, y) in enumerate(xy):
        draw.ellipse([x - 1.5, y - 1.5, x + 1.5, y + 1.5], fill=(220, 0, 0))
        if labels:
            draw.text((x + 2, y - 4), str(number), fill=(0, 0, 160))
    return np.asarray(picture) / 255.0


def grid(images: list[np.ndarray], columns: int) -> np.ndarray:
    """Tile pictures of one size."""
    blank = np.ones_like(images[0])
    images = images + [blank] * (-len(images) % columns)
    return np.concatenate([np.concatenate(images[i : i + columns], 1) for i in range(0, len(images), columns)], 0)


def save(image: np.ndarray, path: Path | str) -> None:
    """Write a picture as PNG."""
    from PIL import Image

    Image.fromarray((np.clip(image, 0, 1) * 255).astype(np.uint8)).save(path)
