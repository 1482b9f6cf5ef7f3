"""From what an importer has read to the tensors of `fitjax-basis/1`: units, origin, winding, mirror map, texture coordinates, albedo."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import cKDTree

from fitjax.errors import BasisError
from fitjax.geometry.host_mesh import similarity, surface_points, vertex_normals
from fitjax.model.basis_file import FORMAT, read_basis
from fitjax.model.basis_writer import quantise
from fitjax.model.load import EMBEDDED, find_models
from fitjax.model.mesh_regions import eyeballs
from fitjax.render.reference import check_mesh

#: Metres per unit.
UNITS = {"m": 1.0, "dm": 0.1, "cm": 0.01, "mm": 0.001, "um": 1e-6}
#: A head is about this large, metres: guards against a wrong unit.
_SMALLEST, _LARGEST = 0.08, 0.8
#: Bounds of coefficients that have none of their own, in standard deviations.
FREE = 6.0
_MIRROR = 5e-4


class Imported(NamedTuple):
    """A model in the terms of a basis file, without annotations.

    Attributes:
        tensors, metadata: as in docs/basis_format.md.
        landmarks68: positions (68, 3) in head space, NaN for points that the model does not name; None if it names none.
    """

    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]
    landmarks68: Float[np.ndarray, "68 3"] | None


def linear_basis(
    *,
    name: str,
    licence: str,
    source: str,
    units: str,
    mean: Float[np.ndarray, "V 3"],
    triangles: Int[np.ndarray, "F 3"],
    identity: Float[np.ndarray, "K V 3"],
    expression: Float[np.ndarray, "E V 3"],
    expression_names: Sequence[str],
    expression_sigma: Float[np.ndarray, "E"] | float = 1.0,
    expression_lower: Float[np.ndarray, "E"] | float = -FREE,
    expression_upper: Float[np.ndarray, "E"] | float = FREE,
    uv: Float[np.ndarray, "T 2"] | None = None,
    uv_triangles: Int[np.ndarray, "F 3"] | None = None,
    region: Int[np.ndarray, "F"] | None = None,
    mirror: Int[np.ndarray, "V"] | None = None,
    landmarks68: Int[np.ndarray, "68"] | None = None,
    albedo: tuple[Float[np.ndarray, "V 3"], Float[np.ndarray, "A V 3"]] | None = None,
    provenance: dict[str, Any] | None = None,
) -> Imported:
    """A basis without annotations.

    Args:
        source: where the numbers come from. units: of mean and modes, a key of :data:`UNITS`; axes are those of head space (+x the subject's left,
            +y up, +z out of the face).
        identity: scaled to unit variance. expression: displacements at coefficient 1. uv: origin bottom-left; without, the head is unrolled.
        landmarks68: vertices, -1 for points that the model does not name.
        albedo: mean and modes of unit variance, sRGB in [0, 1].

    Raises:
        BasisError: a mesh that is none, or no head in these units.
    """
    scale = UNITS[units]
    mean, triangles = check_mesh(np.asarray(mean, float) * scale, np.asarray(triangles))
    size = float(np.ptp(mean, axis=0).max())
    if not _SMALLEST < size < _LARGEST:
        raise BasisError(f"{source}: the mean face would be {size:.3g} m long; expected a head in {units}")
    if not len(identity):
        raise BasisError(f"{source}: expected at least one identity mode, found none")
    marks = None
    if landmarks68 is not None and (landmarks68 >= 0).sum() >= 6:
        marks = np.where(landmarks68[:, None] >= 0, mean[landmarks68], np.nan)
    origin = _origin(mean, marks)
    mean = mean - origin
    marks = None if marks is None else marks - origin
    if _inside_out(mean, triangles, marks):
        triangles = triangles[:, [0, 2, 1]]
        uv_triangles = None if uv_triangles is None else np.asarray(uv_triangles)[:, [0, 2, 1]]
    if uv is None or uv_triangles is None or not np.ptp(uv) > 0:
        uv, uv_triangles = unrolled(mean, triangles)
    count = len(expression)
    each = lambda value: np.broadcast_to(np.asarray(value, np.float32), (count,)).copy()  # noqa: E731
    tensors = {
        "mean": mean.astype(np.float32),
        "triangles": triangles.astype(np.int32),
        "uv": np.asarray(uv).astype(np.float32),
        "uv_triangles": np.asarray(uv_triangles).astype(np.int32),
        "identity": _single(identity, scale),
        "expression": _single(expression, scale).reshape(count, len(mean), 3),
        "expression_sigma": each(expression_sigma),
        "expression_lower": each(expression_lower),
        "expression_upper": each(expression_upper),
        "mirror": (mirrored(mean) if mirror is None else mirror).astype(np.int32),
    }
    for kind in ("identity", "expression"):
        if not np.abs(tensors[kind]).max(initial=0) < _LARGEST:  # also what is beyond the range of float32
            raise BasisError(f"{source}: a mode of {kind} moves a vertex by more than a head's size; are its units {units}, and its spreads right?")
    if region is not None:
        tensors["triangle_region"] = np.asarray(region).astype(np.uint8)
    if albedo is not None:
        tensors["albedo_mean"] = np.clip(albedo[0], 0, 1).astype(np.float32)
        tensors["albedo"], tensors["albedo_scale"] = quantise(np.asarray(albedo[1]))
    metadata = {
        "format": FORMAT,
        "name": name,
        "licence": licence,
        "units": "m",
        "expression_names": json.dumps(list(expression_names)),
        "provenance": json.dumps(
            {"source": source, "origin_m": [round(float(x), 9) for x in origin], **(provenance or {})}
        ),
        "subdivision": "loop",
    }
    if albedo is not None:
        metadata["albedo_space"] = "srgb"
    return Imported(tensors, metadata, marks)


def _single(modes: np.ndarray, scale: float) -> Float[np.ndarray, "K V 3"]:
    """In metres and float32, infinite where that is too small."""
    with np.errstate(over="ignore"):
        return (np.asarray(modes) * scale).astype(np.float32)


def _ours() -> tuple[Float[np.ndarray, "68 3"], Float[np.ndarray, "3"]]:
    """Our 68 points, and the middle between our eyeballs."""
    ours = read_basis(find_models()[EMBEDDED])
    marks = surface_points(ours.mean.astype(float), ours.triangles, *ours.samples["ibug68"])
    return marks, np.mean([centre for _, centre, _ in eyeballs(ours)], axis=0)


def _origin(mean: np.ndarray, marks: np.ndarray | None) -> Float[np.ndarray, "3"]:
    """Where the middle between our eyeballs comes to lie when our landmarks are laid upon the model's. Without landmarks a guess: above and behind
    the foremost point, which is the tip of the nose, as far as on our mean."""
    ours, middle = _ours()
    if marks is None:
        tip = mean[mean[:, 2].argmax()]
        return np.array([0.5 * (mean[:, 0].max() + mean[:, 0].min()), tip[1] + 0.035, tip[2] - 0.055])
    known = np.isfinite(marks).all(1)
    scale, rotation, translation = similarity(ours[known], marks[known])
    return scale * rotation @ middle + translation


def _inside_out(mean: np.ndarray, triangles: np.ndarray, marks: np.ndarray | None) -> bool:
    """Whether the front of the face looks inwards."""
    normals = vertex_normals(mean, triangles)
    front = mean[:, 2] > np.quantile(mean[:, 2], 0.7)
    return bool(normals[front, 2].mean() < 0)


def mirrored(mean: Float[np.ndarray, "V 3"]) -> Int[np.ndarray, "V"]:
    """The vertex mirrored in x; vertices without one within half a millimetre stand for themselves."""
    own = np.arange(len(mean))
    distance, mirror = cKDTree(mean).query(mean * [-1, 1, 1])
    return np.where((distance < _MIRROR) & (mirror[mirror] == own), mirror, own).astype(np.int32)


def unrolled(
    mean: Float[np.ndarray, "V 3"], triangles: Int[np.ndarray, "F 3"]
) -> tuple[Float[np.ndarray, "T 2"], Int[np.ndarray, "F 3"]]:
    """Texture coordinates and their triangles for a model without: the angle about an upright axis behind the eyes, and the height.

    The seam lies at the back of the head; the front, within 90 degrees to either side, takes 57 % of the width.
    """
    angle = np.arctan2(mean[:, 0], mean[:, 2] + 0.07)
    low, high = mean[:, 1].min(), mean[:, 1].max()
    u = 0.5 + 0.5 * np.sign(angle) * (np.abs(angle) / np.pi) ** 0.8
    uv = np.stack([u, (mean[:, 1] - low) / max(high - low, 1e-9)], 1)
    # Triangles across the seam continue on the right: their left corners are doubled there.
    corner = uv[triangles, 0]
    beyond = (np.ptp(corner, axis=1) > 0.5)[:, None] & (corner < 0.5)
    again, index = np.unique(triangles[beyond], return_inverse=True)
    uv_triangles = triangles.copy()
    uv_triangles[beyond] = len(uv) + index
    uv = np.concatenate([uv, uv[again] + [1, 0]])
    return uv / [max(uv[:, 0].max(), 1e-9) if len(again) else 1.0, 1.0], uv_triangles
