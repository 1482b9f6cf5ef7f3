"""What a fit with texture adds to the folder of a result: pictures of the photo's size, texture, turntable, and figures for the report.

docs/outputs.md describes each file.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from fitjax.files.atomic import atomic_write_bytes
from fitjax.files.images import encode_gif, encode_png, rgb8
from fitjax.fit.solution import Solution
from fitjax.image.photo import Photo
from fitjax.losses.photometric import compare, rendered
from fitjax.model.params import DETAIL, Params
from fitjax.model.skinned import SkinnedModel
from fitjax.model.textured import TexturedModel
from fitjax.observation.observation import Observation
from fitjax.prediction import Frozen, predict
from fitjax.pytree import replace
from fitjax.render.picture import HeadPicture, PosedHead, draw_head, place, pose_head
from fitjax.render.shading import srgb_from_linear
from fitjax.render.texture_map import TextureMaps, texture_maps
from fitjax.render.turntable import draw_turned, turntable_yaws
from fitjax.render.uv import weight_image
from fitjax.solve.objective import freeze_pixels

#: glTF's roughness of skin: between matte and oily.
ROUGHNESS = 0.6

#: Order of the rows of a light (9, 3): see `fitjax.render.lighting`.
LIGHT_ORDER = ("1", "y", "z", "x", "xy", "yz", "3zz-1", "xz", "xx-yy")


class TexturedResult(NamedTuple):
    """All that is drawn of a fit with texture; see `draw_textured`.

    Attributes:
        full, model: the head in the photo with and without the residual. posed, posed_model: likewise, before drawing.
        maps: the texture. texture_png: its file. turntable_gif: likewise.
        psnr: decibels in sRGB over the trusted pixels of the crop, ``model_only`` and ``with_residual`` (equal without one).
        trusted_pixels: the sum of their weights.
    """

    full: HeadPicture
    model: HeadPicture
    posed: PosedHead
    posed_model: PosedHead
    maps: TextureMaps
    texture_png: bytes
    turntable_gif: bytes
    psnr: dict[str, float | None]
    trusted_pixels: float


class _Comparison(NamedTuple):
    """Of the crop: ids and trust per pixel (h, w); weighted mean squared sRGB differences, model alone and with the residual; sum of weights."""

    triangle_id: Array
    weight: Array
    alone: Array
    both: Array
    total: Array


@jax.jit
def _compare(model: TexturedModel, params: Params, observation: Observation) -> _Comparison:
    frozen = freeze_pixels(model, params, observation, Frozen({}, None))
    prediction = replace(predict(model, params, observation), frozen=frozen)
    assert frozen.pixels is not None and frozen.triangle_id is not None
    weight = frozen.pixels.weight
    total = jnp.sum(weight)

    def error(version: Any) -> Array:
        difference = compare(rendered(prediction, observation, version, version), observation)
        return jnp.sum(weight[:, None] * difference**2) / (3 * jnp.maximum(total, 1e-6))

    image = weight_image(frozen.face.pixel, frozen.face.used, weight, *frozen.triangle_id.shape)
    return _Comparison(frozen.triangle_id, image, error("proxy"), error("full"), total)


def _decibels(mean_square: Any, total: Any) -> float | None:
    return None if not float(total) > 0 else round(float(-10 * np.log10(max(float(mean_square), 1e-10))), 3)


def draw_textured(solution: Solution, photo: Photo) -> TexturedResult:
    """Render, texture and turntable of a fit of a `TexturedModel` to an observation with pixels (`fitjax.with_image`)."""
    model, prediction, observation = solution.model, solution.prediction, solution.observation
    assert isinstance(model, TexturedModel) and prediction.mesh is not None and observation.image is not None
    crop = _compare(model, solution.params, observation)
    psnr = {"model_only": _decibels(crop.alone, crop.total), "with_residual": _decibels(crop.both, crop.total)}
    full, posed = draw_head(prediction, photo.width, photo.height), pose_head(prediction)
    proxy, posed_proxy = full, posed
    if set(DETAIL) & set(prediction.params):
        proxy = draw_head(prediction, photo.width, photo.height, "proxy", "proxy")
        posed_proxy = pose_head(prediction, "proxy", "proxy")
    maps = texture_maps(prediction, crop.triangle_id, crop.weight, model, photo.rgb)
    texture_png = encode_png(rgb8(srgb_from_linear(maps.albedo)))
    vertices = np.asarray(prediction.face.vertices)
    frames = draw_turned(vertices, prediction.mesh, jnp.asarray(maps.completed), posed.light, turntable_yaws())
    gif = encode_gif(frames)
    return TexturedResult(full, proxy, posed, posed_proxy, maps, texture_png, gif, psnr, float(crop.total))


def rgba8(picture: HeadPicture) -> np.ndarray:
    """(h, w, 4) uint8 sRGB with straight alpha."""
    return rgb8(np.concatenate([srgb_from_linear(picture.colour), picture.alpha[..., None]], -1))


def normals_picture(picture: HeadPicture) -> np.ndarray:
    """(h, w, 4) uint8: red, green, blue = (x right, y up, z towards the viewer) from -1..1 to 0..255, with alpha."""
    towards_viewer = picture.normal * np.array([1, -1, -1], np.float32)
    return rgb8(
        np.concatenate([towards_viewer / 2 + 0.5, picture.alpha[..., None]], -1) * (picture.alpha[..., None] > 0)
    )


def depth_codes(metres: np.ndarray) -> tuple[np.ndarray, float]:
    """(H, W) uint16 depth and its unit in metres: 0.1 mm, or the next power of ten that holds the farthest point. 0 stays 0: not covered."""
    unit = 1e-4
    while metres.max() / unit > 65535:
        unit *= 10
    return np.where(metres > 0, np.clip(np.round(metres / unit), 1, 65535), 0).astype(np.uint16), unit


def write_pictures(part: Path, drawn: TexturedResult, photo: Photo) -> float:
    """Write the pictures into a folder; returns the unit of ``depth.png`` in metres."""
    width, height = photo.width, photo.height
    full = drawn.full
    metres = place(np.where(full.covered, full.depth, 0), full, width, height)
    codes, unit = depth_codes(metres)

    def depth_file() -> memoryview:
        stream = io.BytesIO()
        np.save(stream, np.where(metres > 0, metres, np.float32(np.nan)), allow_pickle=False)
        return stream.getbuffer()

    files: dict[str, Callable[[], Any]] = {
        "depth.npy": depth_file,
        "render.png": lambda: encode_png(place(rgba8(full), full, width, height)),
        "render_model.png": lambda: encode_png(place(rgba8(drawn.model), drawn.model, width, height)),
        "normals.png": lambda: encode_png(place(normals_picture(full), full, width, height)),
        "depth.png": lambda: encode_png(codes, {"metres_per_unit": f"{unit:g}"}),
        "texture.png": lambda: drawn.texture_png,
        "texture_confidence.png": lambda: encode_png(rgb8(drawn.maps.confidence)),
        "turntable.gif": lambda: drawn.turntable_gif,
    }
    # zlib and the disk both let other threads run.
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: atomic_write_bytes(part / name, files[name]()), files))
    return unit


def report_texture(solution: Solution, drawn: TexturedResult, depth_unit: float) -> dict[str, Any]:
    """What a fit with texture adds to ``report.json``."""
    light = np.asarray(drawn.posed.light, float)
    confidence = drawn.maps.confidence
    return {
        "light": {
            "coefficients": np.round(light, 6).tolist(),
            "order": list(LIGHT_ORDER),
            "is": "environment radiance, real spherical harmonics (Ramamoorthi and Hanrahan), rows as in order, columns linear R, G, B; "
            "camera axes x right, y down, z forward",
        },
        "albedo": {
            "codes": len(np.asarray(solution.params["albedo"])),
            "residual": sorted(k for k in solution.params if k.startswith("detail_")),
        },
        "texture": {
            "file": "texture.png",
            "size": list(drawn.maps.albedo.shape[:2]),
            "encoding": "sRGB albedo, row 0 is v = 1",
            "seen_share": round(float(confidence.mean()), 4),
        },
        "depth_png_metres_per_unit": depth_unit,
        "render_scale": round(drawn.full.scale, 4),
        "photometric": {
            "psnr_decibels": drawn.psnr,
            "trusted_pixels": round(drawn.trusted_pixels, 1),
            "is": "sRGB, over the pixels of the crop trusted to show the face, weighted by that trust",
        },
    }


def split_expression(model: Any, vertices: np.ndarray, params: Params) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(V, 3) the head without its expression, and the displacement (V, 3) per expression: together exactly the fitted ``vertices``, of an
    articulated model with its joints where they are."""
    shape, expression = model.shape, np.asarray(params["expression"])
    if isinstance(shape, SkinnedModel):
        shape = shape.linear_at(params)
    targets = np.asarray(shape.modes)[shape.n_identity :].reshape(shape.n_expression, -1, 3)
    neutral = vertices - np.tensordot(expression, targets, 1)
    names = shape.expression_names or tuple(f"expression_{i}" for i in range(len(targets)))
    return neutral, dict(zip(names, targets))
