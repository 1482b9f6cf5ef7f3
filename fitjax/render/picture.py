"""The fitted head as pictures of the photo's size: colour, albedo, normals, depth and coverage at every pixel.

One compiled function draws a square of fixed size; a picture is put together from as many of them as the head's box needs. So photos of any size
share one program, and the work depends on the head's size, not on the photo's.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int
from PIL import Image

from fitjax.geometry.camera import project
from fitjax.geometry.rotation import safe_normalise
from fitjax.geometry.surface import vertex_normals
from fitjax.model.light_prior import light_from_code
from fitjax.prediction import Mesh, Prediction, to_camera
from fitjax.render.face import Version
from fitjax.render.interpolate import CoveredPixels, covered_pixels, fragments, interpolate
from fitjax.render.lighting import shade
from fitjax.render.rasterize import rasterize
from fitjax.render.texture import sample_texture

#: Side of a drawn square, pixels. The turntable uses the same program.
TILE = 512
#: Pixels shaded at a time.
PIECE = 8192
#: A head's box longer than this is drawn at a fraction of its size and enlarged.
MAXIMUM_SIDE = 1536


class HeadPicture(NamedTuple):
    """A window of a photo with the head in it; NumPy arrays. Uncovered pixels are 0.

    Attributes:
        left, top, width, height: the window in whole pixels of the photo, inside of it. h and w below are its height and width, or less where a very
            large head was drawn smaller: `place` enlarges it.
        colour: (h, w, 3) float32, linear light, at pixel centres.
        normal: (h, w, 3) float32 unit vectors in OpenCV camera axes (x right, y down, z forward).
        depth: (h, w) float32, metres along the camera's axis.
        alpha: (h, w) float32 coverage, 0 to 1, anti-aliased.
        covered: (h, w) bool, whether the pixel's centre is covered.
    """

    left: int
    top: int
    width: int
    height: int
    colour: np.ndarray
    normal: np.ndarray
    depth: np.ndarray
    alpha: np.ndarray
    covered: np.ndarray

    @property
    def scale(self) -> float:
        """Drawn pixels per pixel of the photo, 1 or less."""
        return self.alpha.shape[1] / self.width


class Tile(NamedTuple):
    """One drawn square: ``packed`` (T, T, 7) holds colour, normal and depth; ``alpha`` (T, T); ``triangle_id`` (T, T)."""

    packed: Float[Array, "T T 7"]
    alpha: Float[Array, "T T"]
    triangle_id: Int[Array, "T T"]


@partial(jax.jit, static_argnames=("perspective", "tile"))
def draw_tile(
    pixels: Float[Array, "V 2"],
    camera_space: Float[Array, "V 3"],
    mesh: Mesh,
    albedo: Float[Array, "H W 3"],
    light: Float[Array, "9 3"],
    *,
    perspective: bool = True,
    tile: int = TILE,
) -> Tile:
    """The square of ``tile`` pixels whose first pixel's centre is (0, 0).

    The mesh is rasterised once, at half the pixel spacing: every second sample is a pixel's centre and gives its values; all of them, under a
    tent of two pixels' width, give the coverage. A pixel whose centre is just outside takes the values of covered neighbours.

    Args:
        pixels: of the vertices, relative to the square's first pixel. camera_space: (V, 3) metres. light: as in `fitjax.render.lighting`.
    """
    depth = camera_space[:, 2:]
    fine = jnp.concatenate([pixels * 2 + 1, depth], 1)
    fine_id = rasterize(fine, mesh.triangles, 2 * tile + 1, 2 * tile + 1, perspective=perspective)
    triangle_id = fine_id[1::2, 1::2]
    image = jnp.concatenate([pixels, depth], 1)
    normals = vertex_normals(camera_space, mesh.triangles)
    listed = covered_pixels(triangle_id)
    # Piece by piece over the covered pixels alone: a head fills a third of its square, and small pieces stay in the cache.
    listed_pixel = jnp.pad(listed.pixel, (0, PIECE))

    def draw_piece(k: Array, packed: Array) -> Array:
        at = k * PIECE + jnp.arange(PIECE, dtype=jnp.int32)
        pixel, valid = lax.dynamic_slice_in_dim(listed_pixel, k * PIECE, PIECE), at < listed.count
        where = fragments(
            image, mesh.triangles, triangle_id, CoveredPixels(pixel, valid, listed.count), perspective=perspective
        )
        normal = safe_normalise(interpolate(normals, mesh.triangles, where))
        reflectance = sample_texture(albedo, interpolate(mesh.uv, mesh.uv_triangles, where))
        values = jnp.concatenate([shade(reflectance, normal, light), normal, where.depth[:, None]], -1)
        # Unused places go behind the image.
        return packed.at[jnp.where(valid, pixel, tile * tile)].set(values)

    pieces = (listed.count + PIECE - 1) // PIECE
    empty = jnp.zeros((tile * tile + 1, 7), image.dtype)
    packed = lax.fori_loop(0, pieces, draw_piece, empty)[:-1].reshape(tile, tile, 7)
    covered = (triangle_id >= 0).astype(packed.dtype)
    hit = (fine_id >= 0).astype(packed.dtype)
    rows = (hit[:-2:2] + hit[2::2]) / 4 + hit[1::2] / 2
    alpha = (rows[:, :-2:2] + rows[:, 2::2]) / 4 + rows[:, 1::2] / 2
    near = _sum_of_neighbours(jnp.concatenate([packed, covered[..., None]], -1))
    filled = near[..., :-1] / jnp.maximum(near[..., -1:], 1)
    edge = (covered == 0) & (alpha > 0)
    packed = jnp.where(edge[..., None], filled, packed)
    # Where no neighbour is covered either (a sliver between samples) there is nothing to show.
    alpha = jnp.where(edge & (near[..., -1] == 0), 0, alpha)
    return Tile(packed, alpha, triangle_id)


def _sum_of_neighbours(image: Array) -> Array:
    """Sum over 3 × 3 pixels, zero beyond the border."""
    padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)))
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]


class PosedHead(NamedTuple):
    """What is needed to draw a head; arrays of NumPy but for the mesh and the maps.

    Attributes:
        camera_space: (V, 3) metres. pixels: (V, 2) of the photo. light: (9, 3).
        mesh: as it is. albedo: (H, W, 3) times occlusion. perspective: the kind of camera.
    """

    camera_space: np.ndarray
    pixels: np.ndarray
    light: np.ndarray
    mesh: Mesh
    albedo: Array
    perspective: bool


@jax.jit
def _pose(prediction: Prediction, head: Array) -> tuple[Array, Array, Array]:
    camera_space = to_camera(head, prediction.R_camera_head, prediction.t_camera_head)
    pixels = project(prediction.camera, camera_space, prediction.t_camera_head[2])
    return camera_space, pixels, light_from_code(prediction.params["light"])


def pose_head(prediction: Prediction, shape: Version = "full", albedo: Version = "full") -> PosedHead:
    """The head as it was fitted: ``full``, or ``proxy`` for the model's own shape or albedo without the residual maps."""
    assert prediction.mesh is not None
    face = prediction.face
    # On the host from here on: each small operation outside of jit would be a program of its own to compile.
    camera_space, pixels, light = (
        np.asarray(x) for x in _pose(prediction, face.vertices if shape == "full" else face.proxy_vertices)
    )
    maps = np.asarray(face.albedo if albedo == "full" else face.proxy_albedo)
    maps = maps * np.asarray(prediction.mesh.occlusion)[..., None]
    return PosedHead(camera_space, pixels, light, prediction.mesh, maps, prediction.camera.kind == "perspective")


def draw_window(head: PosedHead, width: int, height: int) -> HeadPicture:
    """The head in a picture of ``width`` × ``height`` pixels, in which ``head.pixels`` are: all of it, whatever its size."""
    down, across = -(-height // TILE), -(-width // TILE)
    packed = np.zeros((down * TILE, across * TILE, 7), np.float32)
    alpha = np.zeros(packed.shape[:2], np.float32)
    covered = np.zeros(packed.shape[:2], bool)
    for row in range(0, down * TILE, TILE):
        for column in range(0, across * TILE, TILE):
            local = head.pixels - np.array([column, row], head.pixels.dtype)
            drawn = draw_tile(
                local, head.camera_space, head.mesh, head.albedo, head.light, perspective=head.perspective
            )
            window = np.s_[row : row + TILE, column : column + TILE]
            packed[window], alpha[window] = drawn.packed, drawn.alpha
            covered[window] = np.asarray(drawn.triangle_id) >= 0
    packed, alpha, covered = packed[:height, :width], alpha[:height, :width], covered[:height, :width]
    return HeadPicture(0, 0, width, height, packed[..., :3], packed[..., 3:6], packed[..., 6], alpha, covered)


def draw_head(
    prediction: Prediction, width: int, height: int, shape: Version = "full", albedo: Version = "full"
) -> HeadPicture:
    """The head in the photo of ``width`` × ``height`` pixels, in the window that holds it.

    At each covered pixel centre it shows what `fitjax.render.face.render_face` shows for a crop that is the photo itself. The colour is that of the
    pixel's centre, only the coverage is anti-aliased. A window longer than `MAXIMUM_SIDE` is drawn smaller.

    Args:
        shape, albedo: ``full``, or ``proxy`` for the model's without the residual maps.
    """
    head = pose_head(prediction, shape, albedo)
    finite = head.pixels[np.isfinite(head.pixels).all(1)]
    low = np.clip(np.floor(finite.min(0)).astype(int) - 1, 0, [width, height])
    high = np.clip(np.ceil(finite.max(0)).astype(int) + 2, 0, [width, height])
    w, h = (int(n) for n in np.maximum(high - low, 1))
    scale = min(1.0, MAXIMUM_SIDE / max(w, h))
    drawn_w, drawn_h = max(1, round(w * scale)), max(1, round(h * scale))
    local = head.pixels - low.astype(head.pixels.dtype)
    if scale < 1:  # pixel edges map to pixel edges, so that enlarging puts everything back in its place
        local = ((local + 0.5) * np.array([drawn_w / w, drawn_h / h]) - 0.5).astype(local.dtype)
    drawn = draw_window(head._replace(pixels=local), drawn_w, drawn_h)
    return drawn._replace(left=min(int(low[0]), width - 1), top=min(int(low[1]), height - 1), width=w, height=h)


def place(window: np.ndarray, picture: HeadPicture, width: int, height: int) -> np.ndarray:
    """A picture (h, w, 4) uint8 with alpha, or a number per covered pixel (h, w) float32, at its place in an array of the photo's size; 0 elsewhere.

    Where the head was drawn smaller it is enlarged, bilinearly and over covered pixels only, so that no background bleeds in.
    """
    if window.shape[:2] != (picture.height, picture.width):
        size = (picture.width, picture.height)
        if window.ndim == 3:
            window = np.asarray(Image.fromarray(window).resize(size, Image.Resampling.BILINEAR))  # weighted by alpha
        else:
            window = _enlarge(window, picture.covered, size)
    whole = np.zeros((height, width, *window.shape[2:]), window.dtype)
    whole[picture.top : picture.top + picture.height, picture.left : picture.left + picture.width] = window
    return whole


def _enlarge(values: np.ndarray, covered: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    def resize(image: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(image.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))

    weight = resize(covered)
    return np.where(weight >= 0.5, resize(np.where(covered, values, 0)) / np.maximum(weight, 0.5), 0).astype(np.float32)
