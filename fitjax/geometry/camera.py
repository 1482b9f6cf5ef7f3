"""The one camera type.

Conventions (stated once, here): camera space is OpenCV's, x right, y down, z forward, metres. Pixels are those of the original,
EXIF-corrected image, with the **centre of the top-left pixel at (0, 0)**. A point projects to ``focal * (x, y) / z + centre``. Crops
that losses look at are an affine map on top and never change K. Weak perspective is a variant of the same type: every point is
divided by the depth of the head's origin instead of its own, so the same pose describes both.
"""

from __future__ import annotations

from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fitjax.errors import FitjaxError
from fitjax.pytree import pytree, replace, static

CameraKind = Literal["perspective", "weak_perspective"]

#: Field of view along the longer side of a photo whose EXIF block names no focal length.
DEFAULT_FIELD_OF_VIEW_DEGREES = 40.0

#: Points nearer than this (metres) project as if they were this far: 1/z stays finite, and so do its gradients.
MINIMUM_DEPTH = 1e-3


@pytree
class Camera:
    """Intrinsics of a photo plus the affine map into the crop that is being fitted.

    Attributes:
        focal: (2,) focal lengths fx, fy in pixels.
        centre: (2,) principal point in pixels.
        crop_from_image: (2, 3) affine map from pixels of the original image to pixels of the crop.
        kind: ``perspective`` or ``weak_perspective`` (structure: changing it recompiles).
    """

    focal: Float[Array, "2"]
    centre: Float[Array, "2"]
    crop_from_image: Float[Array, "2 3"]
    kind: CameraKind = static(default="perspective")

    @property
    def K(self) -> Float[Array, "3 3"]:
        """The 3×3 matrix of intrinsics."""
        zero, one = jnp.zeros_like(self.focal[..., 0]), jnp.ones_like(self.focal[..., 0])
        rows = (
            (self.focal[..., 0], zero, self.centre[..., 0]),
            (zero, self.focal[..., 1], self.centre[..., 1]),
            (zero, zero, one),
        )
        return jnp.stack([jnp.stack(r, -1) for r in rows], -2)


def default_focal(width: int, height: int, field_of_view_degrees: float = DEFAULT_FIELD_OF_VIEW_DEGREES) -> float:
    """Focal length in pixels for a field of view along the longer side."""
    return max(width, height) / (2 * np.tan(np.radians(field_of_view_degrees) / 2))


def make_camera(
    width: int,
    height: int,
    *,
    focal: float | tuple[float, float] | None = None,
    centre: tuple[float, float] | None = None,
    kind: CameraKind = "perspective",
    dtype: Any = np.float32,
) -> Camera:
    """Camera of a photo of ``width`` × ``height`` pixels.

    Args:
        focal: pixels; by default 40 degrees along the longer side.
        centre: principal point in pixels; by default the middle of the image, ((w - 1)/2, (h - 1)/2).

    Raises:
        FitjaxError: the size or the focal length is not positive and finite, or ``kind`` is unknown.
    """
    if kind not in ("perspective", "weak_perspective"):
        raise FitjaxError(f"camera kind: expected 'perspective' or 'weak_perspective', found {kind!r}")
    if not (width > 0 and height > 0):
        raise FitjaxError(f"camera size: expected positive width and height, found {width} × {height}")
    f = np.broadcast_to(np.asarray(default_focal(width, height) if focal is None else focal, dtype), (2,))
    if not (np.isfinite(f).all() and (f > 0).all()):
        raise FitjaxError(f"focal length: expected positive pixels, found {f.tolist()}; leave it out to use the default")
    c = np.asarray(((width - 1) / 2, (height - 1) / 2) if centre is None else centre, dtype)
    if c.shape != (2,) or not np.isfinite(c).all():
        raise FitjaxError(f"principal point: expected two finite pixel coordinates, found {c.tolist()}")
    return Camera(jnp.asarray(f), jnp.asarray(c), jnp.asarray(np.eye(2, 3, dtype=dtype)), kind)


def camera_from_K(K: np.typing.ArrayLike, kind: CameraKind = "perspective") -> Camera:
    """Camera from the user's own 3×3 K (pixels, no skew).

    Raises:
        FitjaxError: K is not 3×3, not finite, has skew, or focal lengths are not positive.
    """
    k = np.asarray(K, np.float32 if np.asarray(K).dtype != np.float64 else np.float64)
    if k.shape != (3, 3) or not np.isfinite(k).all():
        raise FitjaxError(f"K: expected a finite 3×3 matrix, found shape {k.shape}")
    if abs(k[0, 1]) > 1e-6 * abs(k[0, 0]) or np.abs(k[2] - (0, 0, 1)).max() > 1e-6 or k[1, 0] != 0:
        raise FitjaxError("K: expected [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] (no skew), found another form")
    if min(k[0, 0], k[1, 1]) <= 0:
        raise FitjaxError(f"K: expected positive focal lengths, found {k[0, 0]:g}, {k[1, 1]:g}")
    eye = np.eye(2, 3, dtype=k.dtype)
    return Camera(jnp.asarray(np.diag(k)[:2].copy()), jnp.asarray(k[:2, 2].copy()), jnp.asarray(eye), kind)


def project(
    camera: Camera, points_camera: Float[Array, "*b 3"], origin_depth: Float[Array, ""]
) -> Float[Array, "*b 2"]:
    """Pixels of the original image for points in camera space.

    Args:
        points_camera: (…, 3) metres.
        origin_depth: () depth of the head's origin in metres; only the weak-perspective variant reads it.
    """
    z = points_camera[..., 2:] if camera.kind == "perspective" else origin_depth
    z = jnp.maximum(z, MINIMUM_DEPTH)
    return camera.focal * points_camera[..., :2] / z + camera.centre


def to_crop(camera: Camera, pixels: Float[Array, "*b 2"]) -> Float[Array, "*b 2"]:
    """Pixels of the original image to pixels of the crop."""
    a = camera.crop_from_image
    return jnp.matmul(pixels, a[:, :2].T, precision="highest") + a[:, 2]


def scale_focal(camera: Camera, log_scale: Float[Array, ""]) -> Camera:
    """The same camera with its focal lengths multiplied by exp(log_scale)."""
    return replace(camera, focal=camera.focal * jnp.exp(log_scale))
