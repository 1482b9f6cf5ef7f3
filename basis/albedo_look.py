"""Pictures of the albedo model on the mean head: python -m basis.albedo_look FOLDER"""

import sys
from pathlib import Path

import jax
import numpy as np
from PIL import Image
from scipy.ndimage import map_coordinates

from basis.look import grid, rasterise, rotation
from fitjax.model.albedo import BiophysicalAlbedo, default_albedo
from fitjax.model.linear import LinearModel
from fitjax.model.load import load_basis
from fitjax.render.reference import vertex_normals
from fitjax.render.shading import srgb_from_linear

# Neutral light in head axes (+y up, +z towards the viewer): a large soft key, a fill, and light from everywhere. White skin would reach 1.
_KEY, _FILL = np.array([-0.45, 0.55, 0.75]), np.array([0.7, 0.1, 0.6])


class Scene:
    """The mean head rasterised once for a view; many albedo maps can be put on it."""

    def __init__(self, model: LinearModel, yaw: float, size: tuple[int, int] = (300, 360), half: float = 0.118) -> None:
        vertices, triangles = np.asarray(model.mean, float), np.asarray(model.triangles)
        self.size, scale = size, 2 * size[0] / 2 / half
        turned = (vertices - [0, -0.004, 0]) @ rotation(yaw).T
        screen = np.stack([size[0] + turned[:, 0] * scale, size[1] - turned[:, 1] * scale, turned[:, 2] * scale], 1)
        index, weight = rasterise(screen, triangles, 2 * size[0], 2 * size[1])
        self.hit = index >= 0
        corner, weight = index[self.hit], weight[self.hit]
        normal = (
            np.einsum("pk,pkc->pc", weight, vertex_normals(vertices, triangles)[triangles[corner]]) @ rotation(yaw).T
        )
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        self.uv = np.einsum("pk,pkc->pc", weight, np.asarray(model.uv, float)[np.asarray(model.uv_triangles)[corner]])
        self.light = 0.30 + 0.12 * normal[:, 1]
        for direction, strength in ((_KEY, 0.72), (_FILL, 0.22)):
            self.light = self.light + strength * np.maximum(normal @ (direction / np.linalg.norm(direction)), 0) ** 1.1

    def picture(self, albedo: np.ndarray, exposure: float = 1.0) -> np.ndarray:
        """sRGB (H, W, 3) with the albedo map (h, w, 3), bilinear lookup, on grey."""
        at = [(1 - self.uv[:, 1]) * albedo.shape[0] - 0.5, self.uv[:, 0] * albedo.shape[1] - 0.5]
        colour = np.stack([map_coordinates(albedo[..., c], at, order=1, mode="nearest") for c in range(3)], -1)
        image = np.full((*self.hit.shape, 3), 0.30)
        image[self.hit] = colour * self.light[:, None] * exposure
        width, height = self.size
        return srgb_from_linear(image.reshape(height, 2, width, 2, 3).mean((1, 3)))


def save(path: Path, images: list[np.ndarray], columns: int) -> None:
    """A sheet of pictures."""
    Image.fromarray((grid(images, columns) * 255).round().astype(np.uint8)).save(path)


def main(folder: Path) -> None:
    """levels.png, random.png, regions.png (each region code at -2 and +2), map.png."""
    folder.mkdir(parents=True, exist_ok=True)
    albedo: BiophysicalAlbedo = default_albedo(512)
    model = load_basis(level=1, sample_sets=())
    decode = jax.jit(lambda code: albedo.decode(code))
    front, side = Scene(model, 0), Scene(model, 40)
    levels = [-2.2, -1.0, -0.4, 0.3, 1.0, 2.2]
    maps = [np.asarray(decode(albedo.code(melanin=c))) for c in levels]
    save(folder / "levels.png", [front.picture(m) for m in maps] + [side.picture(m) for m in maps], 6)
    save(folder / "map.png", [srgb_from_linear(maps[2])], 1)
    rng = np.random.default_rng(0)
    codes = rng.standard_normal((16, albedo.n_codes)).astype(np.float32)
    save(folder / "random.png", [front.picture(np.asarray(decode(c))) for c in codes], 8)
    skip = ("melanin_even", "melanin_odd", "haemoglobin_even", "haemoglobin_odd")
    names = [n for n in albedo.names if not n.startswith(skip)]
    small = Scene(model, 12, (150, 180))
    tiles = []
    for tone in (-1.0, 1.0):
        for name in names:
            for value in (-2.0, 2.0):
                code = albedo.code(**({"melanin": tone} | {name: value}))
                tiles.append(small.picture(np.asarray(decode(code))))
    save(folder / "regions.png", tiles, 16)
    print(names)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
