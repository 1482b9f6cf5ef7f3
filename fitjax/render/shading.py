"""Shaded pictures of a face mesh, in NumPy: light from the camera, a skin-like colour, white eyeballs."""

import numpy as np

from fitjax.errors import FitjaxError
from fitjax.render.reference import ReferenceRaster, check_mesh, rasterize_reference, vertex_normals

#: sRGB colours by region: 0 skin, 1 eyeball, 2 mouth cavity, 3 eye cavity, 4 teeth or tongue.
REGION_COLOURS = np.array(
    [[0.87, 0.70, 0.60], [0.95, 0.95, 0.94], [0.46, 0.22, 0.21], [0.72, 0.50, 0.44], [0.93, 0.89, 0.82]]
)

# Directions towards the lights in OpenCV camera axes (y down, z away) with their strengths: a head-light that moves
# with the camera, a soft key from above so that brows, nose and lips show a gradient, and light from everywhere.
_LIGHTS = ((np.array([0.0, 0.0, -1.0]), 0.50), (np.array([-0.45, -0.65, -0.61]), 0.45))
_AMBIENT = 0.16


def linear_from_srgb(srgb: np.ndarray) -> np.ndarray:
    """sRGB in [0, 1] to linear light."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((np.maximum(srgb, 0.04045) + 0.055) / 1.055) ** 2.4)


def srgb_from_linear(linear: np.ndarray) -> np.ndarray:
    """Linear light to sRGB in [0, 1], clipped."""
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055)


def camera_vertices_guess(vertices_pixels_depth: np.ndarray) -> np.ndarray:
    """Vertices (V, 3) in camera axes up to position and scale, for normals when only pixels and depths are known.

    Pixels and metres need a common scale, and the focal length is not known here, so the mesh is taken to be 0.22 m
    tall: right enough for shading, for nothing else.
    """
    finite = vertices_pixels_depth[np.isfinite(vertices_pixels_depth).all(1)]
    extent = float(np.ptp(finite[:, :2], axis=0).max()) if len(finite) else 1.0
    return vertices_pixels_depth * [0.22 / max(extent, 1e-6), 0.22 / max(extent, 1e-6), 1.0]


def check_region(triangle_region: np.ndarray | None, n_triangles: int) -> np.ndarray:
    """Regions as (F,) int64; all skin for None.

    Raises:
        FitjaxError: another shape, or a value that is not a row of `REGION_COLOURS`.
    """
    region = np.zeros(n_triangles, np.int64) if triangle_region is None else np.asarray(triangle_region, np.int64)
    last = len(REGION_COLOURS) - 1
    if region.shape != (n_triangles,) or (region.size and not 0 <= region.min() <= region.max() <= last):
        raise FitjaxError(f"triangle_region: shape {region.shape}; expected ({n_triangles},), values 0 to {last}")
    return region


def rasterize_fine(
    vertices_pixels_depth: np.ndarray,
    triangles: np.ndarray,
    height: int,
    width: int,
    supersample: int = 2,
    cull_back: bool = True,
    perspective: bool = True,
) -> ReferenceRaster:
    """The raster (height × supersample, width × supersample) of the same picture.

    Sample k of s in pixel i lies at i + (k + 0.5) / s - 0.5: the finer grid's own pixel centres.
    """
    fine = np.array(vertices_pixels_depth, np.float64)
    fine[:, :2] = (fine[:, :2] + 0.5) * supersample - 0.5
    return rasterize_reference(fine, triangles, height * supersample, width * supersample, cull_back, perspective)


def shade_raster(
    raster: ReferenceRaster,
    triangles: np.ndarray,
    region: np.ndarray,
    normals_camera: np.ndarray,
    supersample: int = 2,
) -> np.ndarray:
    """RGBA (H, W, 4) uint8 of a raster from `rasterize_fine`; see `shade_reference`.

    Args:
        region: (F,) rows of `REGION_COLOURS`.
        normals_camera: (V, 3) unit normals in OpenCV camera axes.
    """
    height, width = (n // supersample for n in raster.triangle_id.shape)
    covered = raster.triangle_id >= 0
    ids, weights = raster.triangle_id[covered], raster.barycentric[covered]
    normal = np.einsum("nk,nkc->nc", weights, normals_camera[triangles[ids]])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    light = np.full(len(ids), _AMBIENT)
    for direction, strength in _LIGHTS:
        light += strength * np.maximum(normal @ (direction / np.linalg.norm(direction)), 0)
    colour = linear_from_srgb(REGION_COLOURS)[region[ids]] * light[:, None]

    # Filter linear light weighted by coverage, then encode; the other way round leaves dark fringes at the outline.
    premultiplied = np.zeros((*covered.shape, 4))
    premultiplied[covered, :3], premultiplied[covered, 3] = colour, 1.0
    premultiplied = premultiplied.reshape(height, supersample, width, supersample, 4).mean((1, 3))
    alpha = premultiplied[..., 3:]
    straight = premultiplied[..., :3] / np.where(alpha > 0, alpha, 1.0)
    return np.round(np.concatenate([srgb_from_linear(straight), alpha], -1) * 255).astype(np.uint8)


def shade_reference(
    vertices_pixels_depth: np.ndarray,
    triangles: np.ndarray,
    height: int,
    width: int,
    triangle_region: np.ndarray | None = None,
    vertices_camera: np.ndarray | None = None,
    supersample: int = 2,
    perspective: bool = True,
) -> np.ndarray:
    """A picture of the mesh: RGBA (H, W, 4) uint8, straight alpha, transparent where empty; anti-aliased (box filter).

    Args:
        vertices_pixels_depth: (V, 3) x and y in pixels, z = camera depth > 0 in metres.
        triangles: (F, 3), counter-clockwise from outside.
        triangle_region: (F,) rows of `REGION_COLOURS`; all skin by default.
        vertices_camera: (V, 3) metres in OpenCV camera axes, for the normals; guessed from the pixels by default.
        supersample: samples per pixel along each axis.

    Raises:
        FitjaxError: wrong shapes, an index or a region out of range.
    """
    vertices, triangles = check_mesh(vertices_pixels_depth, triangles)
    region = check_region(triangle_region, len(triangles))
    if vertices_camera is None:
        vertices_camera = camera_vertices_guess(vertices)
    raster = rasterize_fine(vertices, triangles, height, width, supersample, perspective=perspective)
    return shade_raster(raster, triangles, region, vertex_normals(vertices_camera, triangles), supersample)
