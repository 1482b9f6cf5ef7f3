"""3DDFA's 62 numbers: a 3×4 pose with its scale, 40 shape and 10 expression coefficients, of the Basel Face Model in its form.

J. Guo et al., ECCV 2020, https://github.com/cleardusk/3DDFA_V2. With X the model's vertices in micrometres, α and β not whitened,

    (x, y, z) = P [X; 1]                                            P = the first 12 numbers, row by row
    pixel = ((x - 1) · kx + left,  (120 - y) · ky + top)            kx, ky = size of the box / 120

in a crop of 120 × 120 pixels with y up, counted from one, that the photo's ``roi_box`` (left, top, right, bottom) was scaled to. There is no
perspective. What networks put out are these numbers less a mean and divided by a spread (``param_whitening.pkl``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from fitjax.errors import BasisError, FitjaxError
from fitjax.geometry.convert import OpenCVCamera
from fitjax.interop import posed
from fitjax.interop.posed import Exported, Posed
from fitjax.model.basis_file import Basis

#: Pixels of the crop; numbers of pose, shape and expression.
CROP = 120
N_POSE, N_SHAPE, N_EXPRESSION = 12, 40, 10

_METRES = 1e-6


def to_3ddfa(basis: Basis, face: Posed, roi_box: Sequence[float] | None = None) -> Exported:
    """``param`` (62,) and ``roi_box`` (4,).

    Args:
        basis: of the 3DDFA form, imported with 40 + 10 modes. roi_box: of the photo, pixels; default a square about the projected vertices.

    Raises:
        BasisError: another model, or codes of another. FitjaxError: a box without size.
    """
    origin, sigma = _source(basis)
    posed.check_codes(basis, face.codes)
    if roi_box is None:
        roi_box = posed.square(posed.project(posed.vertices(basis, face.codes), face.camera), 1.0)
    box, k = _box(roi_box)
    matrix, offset = posed.affine(face.camera)
    offset = offset - matrix @ origin
    rows = matrix * _METRES / k[:, None] * [[1], [-1]]
    first, second = rows
    depth_row = np.cross(first, second) / np.sqrt(np.linalg.norm(first) * np.linalg.norm(second))
    places = [(offset[0] - box[0]) / k[0] + 1, CROP - (offset[1] - box[1]) / k[1], -depth_row @ origin / _METRES]
    pose = np.column_stack([np.vstack([rows, depth_row]), places])
    codes = np.concatenate([face.codes["identity"], face.codes["expression"]]).astype(float) * sigma
    values = {"param": np.concatenate([pose.ravel(), codes]), "roi_box": box}
    apart = posed.discrepancy(basis, face, from_3ddfa(basis, values["param"], box.tolist(), face.camera))
    return Exported(values, *apart, _notes(face.camera))


def from_3ddfa(basis: Basis, param: Float[np.ndarray, "62"], roi_box: Sequence[float], camera: OpenCVCamera) -> Posed:
    """The face of 62 numbers (not whitened) in a photo with the K and size of ``camera``; its camera becomes weak perspective.

    Raises:
        BasisError: another model. FitjaxError: other numbers, or a box without size.
    """
    origin, sigma = _source(basis)
    numbers = np.asarray(param, float).reshape(-1)
    if numbers.shape != (N_POSE + len(sigma),) or not np.isfinite(numbers).all():
        raise FitjaxError(f"3DDFA's parameters: expected {N_POSE + len(sigma)} finite numbers, found {numbers.shape}")
    box, k = _box(roi_box)
    pose = numbers[:N_POSE].reshape(3, 4)
    matrix = pose[:2, :3] * k[:, None] * [[1], [-1]] / _METRES
    offset = np.array([(pose[0, 3] - 1) * k[0], (CROP - pose[1, 3]) * k[1]]) + box[:2]
    codes = numbers[N_POSE:] / sigma
    values = {"identity": codes[:N_SHAPE], "expression": codes[N_SHAPE:]}
    return Posed(values, posed.from_affine(matrix, offset + matrix @ origin, camera))


def _source(basis: Basis) -> tuple[np.ndarray, np.ndarray]:
    """Our origin in the model's space (metres), and its coefficients at one standard deviation."""
    origin, sigma = basis.provenance.get("origin_m"), basis.provenance.get("coefficient_sigma")
    counts = len(basis.identity), len(basis.expression)
    if origin is None or sigma is None or "3DDFA" not in str(basis.provenance.get("source")) or counts != (N_SHAPE, N_EXPRESSION):
        raise BasisError(
            f"model {basis.name!r}: 3DDFA's numbers are of its own form of BFM with {N_SHAPE} + {N_EXPRESSION} modes, found another model with "
            f"{counts[0]} + {counts[1]}; import that model and fit with it"
        )
    return np.asarray(origin, float), np.asarray(sigma, float)


def _box(roi_box: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """The box, and pixels of the photo per pixel of the crop in x and y."""
    box = np.asarray(roi_box, float).reshape(-1)[:4]
    if box.shape != (4,) or not np.isfinite(box).all() or (box[2:] <= box[:2]).any():
        raise FitjaxError(f"roi_box: expected left, top, right, bottom in pixels, found {np.asarray(roi_box).tolist()}")
    return box, (box[2:] - box[:2]) / CROP


def _notes(camera: OpenCVCamera) -> tuple[str, ...]:
    return ("3DDFA has no perspective; its vertices are those of weak perspective",) if camera.model == "perspective" else ()
