"""Surfaces: triangle meshes, and points that live on them.

:class:`SurfaceSamples` is the one notion behind landmarks, parts and photometric points: a triangle and barycentric
coordinates per sample. Position, normal and visibility follow from them and the vertices.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fitjax.errors import BasisError
from fitjax.geometry.rotation import safe_normalise
from fitjax.pytree import pytree


@pytree
class SurfaceSamples:
    """Points on a triangle mesh.

    Attributes:
        triangle: (S,) index of the triangle that holds each sample.
        barycentric: (S, 3) weights of its three corners, summing to one.
    """

    triangle: Int[Array, "S"]
    barycentric: Float[Array, "S 3"]

    def __len__(self) -> int:
        return self.triangle.shape[0]


@pytree
class SurfacePoints:
    """What follows from samples and vertices: ``position`` (S, 3) and unit ``normal`` (S, 3), in one named frame."""

    position: Float[Array, "S 3"]
    normal: Float[Array, "S 3"]


def make_samples(
    triangle: np.typing.ArrayLike, barycentric: np.typing.ArrayLike, n_triangles: int, field: str = "samples"
) -> SurfaceSamples:
    """Validated samples.

    Raises:
        BasisError: shapes disagree, a triangle index is out of range, or weights are not finite, negative or off one.
    """
    t, b = np.asarray(triangle), np.asarray(barycentric)
    if t.ndim != 1 or b.shape != (len(t), 3):
        raise BasisError(f"{field}: expected triangle (S,) and barycentric (S, 3), found {t.shape} and {b.shape}")
    if len(t) and not (t.min() >= 0 and t.max() < n_triangles):
        raise BasisError(f"{field}.triangle: expected indices in [0, {n_triangles}), found {t.min()} to {t.max()}")
    if not np.isfinite(b).all() or (b < -1e-4).any() or (np.abs(b.sum(-1) - 1) > 1e-3).any():
        raise BasisError(f"{field}.barycentric: expected finite weights in [0, 1] that sum to 1; rebuild the file")
    return SurfaceSamples(jnp.asarray(t, jnp.int32), jnp.asarray(b))


def triangle_normals(corners: Float[Array, "*b 3 3"]) -> Float[Array, "*b 3"]:
    """Unit normals of triangles given by their three corners; zero for a triangle without area."""
    a, b, c = corners[..., 0, :], corners[..., 1, :], corners[..., 2, :]
    return safe_normalise(jnp.cross(b - a, c - a), floor=1e-14)


def points_from_corners(corners: Float[Array, "S 3 3"], barycentric: Float[Array, "S 3"]) -> SurfacePoints:
    """Sample positions and flat normals from the corners of their triangles."""
    return SurfacePoints(jnp.sum(corners * barycentric[..., None], -2), triangle_normals(corners))


def evaluate_samples(
    samples: SurfaceSamples, vertices: Float[Array, "V 3"], triangles: Int[Array, "F 3"]
) -> SurfacePoints:
    """Positions and normals of samples on a decoded mesh, in the frame of ``vertices``."""
    return points_from_corners(vertices[triangles[samples.triangle]], samples.barycentric)


def vertex_normals(vertices: Float[Array, "V 3"], triangles: Int[Array, "F 3"]) -> Float[Array, "V 3"]:
    """Area-weighted unit vertex normals; zero where all adjacent triangles have no area."""
    corners = vertices[triangles]
    face = jnp.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    summed = jnp.zeros_like(vertices).at[triangles.reshape(-1)].add(jnp.repeat(face, 3, axis=0))
    return safe_normalise(summed, floor=1e-14)


def facing_camera(points_camera: SurfacePoints) -> Float[Array, "S"]:
    """Cosine between the normal and the direction to the camera: positive for samples that face it."""
    to_camera = safe_normalise(-points_camera.position)
    return jnp.sum(points_camera.normal * to_camera, -1)
