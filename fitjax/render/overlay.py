"""The picture that tells whether a fit is good: photo with landmarks | mesh over the photo | mesh alone."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from fitjax.errors import FitjaxError
from fitjax.render.reference import ReferenceRaster, check_mesh, rasterize_reference, vertex_normals
from fitjax.render.shading import camera_vertices_guess, check_region, rasterize_fine, shade_raster

#: (first, last + 1, closed) of the contours of the 68 landmarks: jaw, brows, nose, eyes, lips.
CONTOURS_68 = (
    (0, 17, False), (17, 22, False), (22, 27, False), (27, 31, False), (31, 36, False),
    (36, 42, True), (42, 48, True), (48, 60, True), (60, 68, True),
)  # fmt: skip

_FITTED = (64, 224, 208)  # fitted landmarks and contours: teal, readable on every skin
_TARGET = (255, 176, 46)  # detected landmarks
_OUTLINE = (255, 255, 255)
_PAD = 236  # grey beyond the photo and behind the mesh
_MOUTH_CAVITY = 2
_FOLD_METRES = 0.006  # a step in depth between neighbouring samples that reads as an outline
_WIRE_TRIANGLES = 8000  # finer meshes would turn into a grey veil


class Crop(NamedTuple):
    """A window of the photo, in whole pixels (may reach beyond it), and the size at which it is drawn."""

    left: int
    top: int
    width: int
    height: int
    scale: float

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the drawn panel."""
        return max(1, round(self.width * self.scale)), max(1, round(self.height * self.scale))

    def to_panel(self, pixels: np.ndarray) -> np.ndarray:
        """Photo pixels (N, 2) to panel pixels (N, 2); both have the first pixel's centre at (0, 0)."""
        drawn = np.array(self.size) / [self.width, self.height]
        return (np.asarray(pixels, np.float64) - [self.left, self.top] + 0.5) * drawn - 0.5


def mesh_silhouette(vertices_pixels_depth: np.ndarray, triangles: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixels (H, W) bool whose centre the mesh covers, from whichever side.

    Raises:
        FitjaxError: wrong shapes, or an index out of range.
    """
    return rasterize_reference(vertices_pixels_depth, triangles, height, width, cull_back=False).triangle_id >= 0


def intersection_over_union(a: np.ndarray, b: np.ndarray) -> float:
    """|a and b| / |a or b| of two bool masks of the same shape; 1 when both are empty.

    Raises:
        FitjaxError: the shapes differ.
    """
    a, b = np.asarray(a, bool), np.asarray(b, bool)
    if a.shape != b.shape:
        raise FitjaxError(f"masks: shapes {a.shape} and {b.shape}; expected the same")
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def face_crop(points_pixels: np.ndarray, margin: float = 0.15, panel_size: int = 700, max_zoom: float = 4.0) -> Crop:
    """The window around points (N, 2), with ``margin`` of its longer side all round, drawn at most ``panel_size`` long.

    Raises:
        FitjaxError: no finite point.
    """
    finite = np.asarray(points_pixels)[np.isfinite(points_pixels).all(1)]
    if not len(finite):
        raise FitjaxError("overlay: the mesh has no finite vertex; expected pixels")
    low, high = finite.min(0), finite.max(0)
    border = margin * max(float((high - low).max()), 1.0)
    left, top = np.floor(low - border).astype(int)
    right, bottom = np.ceil(high + border).astype(int) + 1
    scale = min(panel_size / max(right - left, bottom - top), max_zoom)
    return Crop(int(left), int(top), int(right - left), int(bottom - top), scale)


def _forehead_too(landmarks: np.ndarray) -> np.ndarray:
    """The 68 points (chin to brows) and, mirrored above the nose's root, where the top of the head is."""
    root, chin = landmarks[27], landmarks[8]
    return np.concatenate([landmarks, [root - 0.9 * (chin - root)]])


def cut_photo(photo_rgb: np.ndarray, crop: Crop) -> np.ndarray:
    """The crop of a photo (H, W, 3) uint8 at the panel's size, grey where it reaches beyond the photo."""
    height, width = photo_rgb.shape[:2]
    window = np.full((crop.height, crop.width, 3), _PAD, np.uint8)
    x0, y0 = max(crop.left, 0), max(crop.top, 0)
    x1, y1 = min(crop.left + crop.width, width), min(crop.top + crop.height, height)
    if x1 > x0 and y1 > y0:
        window[y0 - crop.top : y1 - crop.top, x0 - crop.left : x1 - crop.left] = photo_rgb[y0:y1, x0:x1]
    filtering = Image.Resampling.LANCZOS if crop.scale < 1 else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(window).resize(crop.size, filtering))


def _blend(panel: np.ndarray, rgba: np.ndarray, opacity: float = 1.0) -> np.ndarray:
    alpha = rgba[..., 3:] / 255 * opacity
    return np.round(panel * (1 - alpha) + rgba[..., :3] * alpha).astype(np.uint8)


def _draw_points(
    panel: np.ndarray,
    points_panel: np.ndarray,
    colour: tuple[int, int, int],
    radius: float = 0.0,
    contours: Sequence[tuple[int, int, bool]] = (),
    line_width: float = 1.4,
) -> np.ndarray:
    """Dots and contour lines, anti-aliased by drawing at three times the size."""
    factor = 3
    layer = Image.new("RGBA", (panel.shape[1] * factor, panel.shape[0] * factor), (*colour, 0))
    draw = ImageDraw.Draw(layer)
    fine = (points_panel + 0.5) * factor - 0.5
    for first, last, closed in contours:
        line = fine[first:last]
        line = np.concatenate([line, line[:1]]) if closed else line
        if np.isfinite(line).all():
            draw.line([tuple(p) for p in line], (*colour, 235), round(line_width * factor), joint="curve")
    # Dots in two passes, so that the dark rim of one never covers its neighbour.
    for grow, fill in ((0.9, (20, 30, 40, 170)), (0.0, (*colour, 255))) if radius else ():
        for x, y in fine[np.isfinite(fine).all(1)]:
            r = (radius + grow) * factor
            draw.ellipse([x - r, y - r, x + r, y + r], fill=fill)
    return _blend(panel, np.asarray(layer.resize((panel.shape[1], panel.shape[0]), Image.Resampling.BOX)))


def _feature_lines(raster: ReferenceRaster, region: np.ndarray, wire: bool) -> np.ndarray:
    """Thin lines (H, W, 4) where the visible mesh changes region, folds over itself or ends: lids, nose, outline.

    Args:
        raster: from `rasterize_fine` with two samples per pixel.
        wire: every triangle edge as well, fainter.
    """
    triangle_id = raster.triangle_id
    covered = triangle_id >= 0
    label = np.where(covered, region[triangle_id] if len(region) else 0, -1)
    depth = np.where(covered, raster.depth, 0.0)

    def strength(axis: int) -> np.ndarray:
        """How strong a line runs between neighbours along an axis, 0 to 1."""
        line = (np.diff(label, axis=axis) != 0) * 0.9
        both = (np.diff(covered, axis=axis) == 0) & (np.abs(np.diff(depth, axis=axis)) > _FOLD_METRES)
        line = np.maximum(line, both * 0.7)
        return np.maximum(line, (np.diff(triangle_id, axis=axis) != 0) * 0.25) if wire else line

    height, width = covered.shape
    alpha = np.zeros((height, width))
    for axis in (0, 1):
        between = strength(axis)
        # A line has a sample on either side: one pixel of the panel wide.
        for view in (alpha[1:], alpha[:-1]) if axis == 0 else (alpha[:, 1:], alpha[:, :-1]):
            np.maximum(view, between, out=view)
    alpha = alpha.reshape(height // 2, 2, width // 2, 2).mean((1, 3))
    colour = np.broadcast_to(np.array(_OUTLINE, float), (*alpha.shape, 3))
    return np.concatenate([colour, alpha[..., None] * 255], -1)


class MeshPanels(NamedTuple):
    """Panels (h, w, 3) uint8 of one crop: the photo, with its landmarks, the mesh over it, the mesh alone."""

    crop: Crop
    photo: np.ndarray
    marked: np.ndarray
    over: np.ndarray
    alone: np.ndarray


def overlay_picture(photo_rgb: np.ndarray, *mesh: Any, **options: Any) -> np.ndarray:
    """Three panels of `mesh_panels` side by side: photo with landmarks, mesh over photo, mesh alone; the arguments are the same.

    Returns:
        (h, w, 3) uint8, each panel's longer side at most ``panel_size``.

    Raises:
        FitjaxError: wrong shapes, or a mesh without a finite vertex.
    """
    panels = mesh_panels(photo_rgb, *mesh, **options)
    height, width = panels.photo.shape[:2]
    gap = np.full((height, max(2, round(6 * max(height, width) / 700)), 3), 255, np.uint8)
    return np.concatenate([panels.marked, gap, panels.over, gap, panels.alone], 1)


def mesh_panels(
    photo_rgb: np.ndarray,
    vertices_pixels_depth: np.ndarray,
    triangles: np.ndarray,
    triangle_region: np.ndarray | None = None,
    landmarks_pixels: np.ndarray | None = None,
    *,
    detected_pixels: np.ndarray | None = None,
    vertices_camera: np.ndarray | None = None,
    hide_mouth_cavity: bool = False,
    opacity: float = 0.62,
    margin: float = 0.15,
    panel_size: int = 700,
    perspective: bool = True,
) -> MeshPanels:
    """The photo cropped around the face, alone and with the mesh.

    Args:
        photo_rgb: (H, W, 3) uint8 sRGB.
        vertices_pixels_depth: (V, 3) x and y in pixels of the photo, z = camera depth > 0 in metres.
        triangles, triangle_region: (F, 3), and (F,) regions of the basis format.
        landmarks_pixels: (L, 2) fitted landmarks; 68 of them are joined to contours.
        detected_pixels: (M, 2) landmarks that were fitted to, drawn smaller in orange beneath the fitted ones.
        vertices_camera: (V, 3) metres in camera axes, for exact shading; guessed otherwise.
        hide_mouth_cavity: leave out the triangles of region 2.
        opacity: of the mesh over the photo.
        panel_size: longest side of a panel, pixels.

    Raises:
        FitjaxError: wrong shapes, or a mesh without a finite vertex.
    """
    photo = np.asarray(photo_rgb)
    if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8:
        raise FitjaxError(f"overlay: photo is {photo.dtype} {photo.shape}; expected uint8 (H, W, 3)")
    vertices, triangles = check_mesh(vertices_pixels_depth, triangles)
    region = check_region(triangle_region, len(triangles))
    if hide_mouth_cavity:
        triangles, region = triangles[region != _MOUTH_CAVITY], region[region != _MOUTH_CAVITY]

    if landmarks_pixels is not None and len(landmarks_pixels) == 68:
        around = _forehead_too(np.asarray(landmarks_pixels, np.float64))
    else:
        around = vertices[np.unique(triangles), :2]
    crop = face_crop(around, margin, panel_size)
    in_panel = np.concatenate([crop.to_panel(vertices[:, :2]), vertices[:, 2:]], 1)
    cut = cut_photo(photo, crop)
    height, width = cut.shape[:2]
    raster = rasterize_fine(in_panel, triangles, height, width, 2, perspective=perspective)
    shape_camera = camera_vertices_guess(vertices) if vertices_camera is None else vertices_camera
    mesh = shade_raster(raster, triangles, region, vertex_normals(shape_camera, triangles), 2)

    marked = cut
    wire = landmarks_pixels is None and len(triangles) < _WIRE_TRIANGLES
    over = _blend(_blend(cut, mesh, opacity), _feature_lines(raster, region, wire))
    alone = _blend(np.full_like(cut, _PAD), mesh)
    # Marks scale with the panel: 700 pixels carry dots of 2.6 pixels.
    unit = max(height, width) / 700
    if detected_pixels is not None:
        marked = _draw_points(marked, crop.to_panel(detected_pixels), _TARGET, max(2.0 * unit, 1.0))
    if landmarks_pixels is not None:
        landmarks = crop.to_panel(landmarks_pixels)
        contours = CONTOURS_68 if len(landmarks) == 68 else ()
        marked = _draw_points(marked, landmarks, _FITTED, max(2.6 * unit, 1.2))
        over = _draw_points(over, landmarks, _FITTED, 0 if contours else 1.2, contours, max(1.6 * unit, 0.8))
    return MeshPanels(crop, cut, marked, over, alone)
