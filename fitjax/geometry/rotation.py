"""Rotations without singularities.

A rotation is a 3×3 matrix. Solvers never touch its nine numbers: they move by an axis-angle vector in the tangent space at
the current matrix (:func:`rotation_exp`), always differentiated at zero, where the map is smooth. Euler angles exist only for
reports, in one named convention.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

#: Axes of an OpenCV camera (y down, z forward) seen from one with y up and z towards the viewer; its own inverse.
UP_FROM_OPENCV = ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0))


def cross_matrix(v: Float[Array, "*b 3"]) -> Float[Array, "*b 3 3"]:
    """The matrix of the cross product: ``cross_matrix(v) @ x == cross(v, x)``."""
    zero = jnp.zeros_like(v[..., 0])
    x, y, z = v[..., 0], v[..., 1], v[..., 2]
    rows = [jnp.stack(r, -1) for r in ((zero, -z, y), (z, zero, -x), (-y, x, zero))]
    return jnp.stack(rows, -2)


def rotate(points: Float[Array, "*b 3"], R: Float[Array, "3 3"]) -> Float[Array, "*b 3"]:
    """R x for every point, written out: a dot product with an inner dimension of three is slow on a CPU and rounded on a GPU."""
    return points[..., 0:1] * R[:, 0] + points[..., 1:2] * R[:, 1] + points[..., 2:3] * R[:, 2]


def rotation_exp(axis_angle: Float[Array, "*b 3"]) -> Float[Array, "*b 3 3"]:
    """Rotation matrix of an axis-angle vector in radians (Rodrigues), smooth everywhere, zero included.

    Near zero the quotients sin(t)/t and (1 - cos t)/t² are replaced by their series; the argument of the division is made
    safe first, so that the unused branch cannot send NaN into the gradient.
    """
    square = jnp.sum(axis_angle**2, -1)
    # Below this the third term of the series is under the rounding error of the dtype.
    small = square < jnp.finfo(axis_angle.dtype).eps ** 0.5
    safe = jnp.where(small, 1.0, square)
    angle = jnp.sqrt(safe)
    sinc = jnp.where(small, 1 - square / 6 + square**2 / 120, jnp.sin(angle) / angle)
    # 2 sin²(t/2) avoids the cancellation in 1 - cos t.
    cosc = jnp.where(small, 0.5 - square / 24 + square**2 / 720, 2 * jnp.sin(angle / 2) ** 2 / safe)
    k = cross_matrix(axis_angle)
    # K² = w wᵀ - |w|² I, without a matrix product.
    outer = axis_angle[..., :, None] * axis_angle[..., None, :]
    identity = jnp.eye(3, dtype=axis_angle.dtype)
    k_square = outer - square[..., None, None] * identity
    return identity + sinc[..., None, None] * k + cosc[..., None, None] * k_square


def rotation_log(rotation: Float[Array, "*b 3 3"]) -> Float[Array, "*b 3"]:
    """Axis-angle vector (radians, length at most pi) of a rotation matrix, by way of the unit quaternion."""
    r = rotation
    trace = r[..., 0, 0] + r[..., 1, 1] + r[..., 2, 2]
    d0, d1, d2 = r[..., 0, 0], r[..., 1, 1], r[..., 2, 2]
    # Four equivalent formulas; the one with the largest divisor is well conditioned.
    squares = jnp.stack([1 + trace, 1 + 2 * d0 - trace, 1 + 2 * d1 - trace, 1 + 2 * d2 - trace], -1)
    a, b, c = r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]
    p, q, s = r[..., 1, 0] + r[..., 0, 1], r[..., 0, 2] + r[..., 2, 0], r[..., 2, 1] + r[..., 1, 2]
    table = jnp.stack(
        [
            jnp.stack([squares[..., 0], a, b, c], -1),
            jnp.stack([a, squares[..., 1], p, q], -1),
            jnp.stack([b, p, squares[..., 2], s], -1),
            jnp.stack([c, q, s, squares[..., 3]], -1),
        ],
        -2,
    )
    best = jnp.argmax(squares, -1)
    quaternion = jnp.take_along_axis(table, best[..., None, None], -2)[..., 0, :]
    quaternion = quaternion / jnp.linalg.norm(quaternion, axis=-1, keepdims=True)
    quaternion = jnp.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    w, v = quaternion[..., 0], quaternion[..., 1:]
    square = jnp.sum(v**2, -1)
    tiny = square < jnp.finfo(r.dtype).eps ** 2
    norm = jnp.sqrt(jnp.where(tiny, 1.0, square))
    scale = jnp.where(tiny, 2.0 / w, 2 * jnp.arctan2(norm, w) / norm)
    return scale[..., None] * v


def orthonormalise(matrix: Float[Array, "*b 3 3"]) -> Float[Array, "*b 3 3"]:
    """The rotation nearest to ``matrix`` (determinant +1, reflections guarded)."""
    u, _, vt = jnp.linalg.svd(matrix)
    sign = jnp.linalg.det(jnp.matmul(u, vt, precision="highest"))
    fix = jnp.concatenate([jnp.ones_like(u[..., :2, 0]), jnp.sign(sign)[..., None]], -1)
    return jnp.matmul(u * fix[..., None, :], vt, precision="highest")


def polish_rotation(matrix: Float[Array, "*b 3 3"]) -> Float[Array, "*b 3 3"]:
    """One Newton step back to orthonormality; removes the drift of many small products without an SVD."""
    product = jnp.matmul(jnp.swapaxes(matrix, -1, -2), matrix, precision="highest")
    return jnp.matmul(matrix, 1.5 * jnp.eye(3, dtype=matrix.dtype) - 0.5 * product, precision="highest")


def geodesic_angle(a: Float[Array, "*b 3 3"], b: Float[Array, "*b 3 3"]) -> Float[Array, "*b"]:
    """Angle in radians of the rotation from ``a`` to ``b``; accurate for small angles too."""
    half_chord = jnp.sqrt(jnp.sum((a - b) ** 2, (-1, -2)) / 8)
    return 2 * jnp.arcsin(jnp.clip(half_chord, 0, 1))


def _axis_rotations(pitch: Array, yaw: Array, roll: Array) -> tuple[Array, Array, Array]:
    """The three factors of the AFLW2000-3D convention; its sines sit where the transposes of the usual matrices have them."""
    one, zero = jnp.ones_like(pitch), jnp.zeros_like(pitch)

    def matrix(*rows: tuple[Array, Array, Array]) -> Array:
        return jnp.stack([jnp.stack(r, -1) for r in rows], -2)

    cp, sp, cy, sy, cr, sr = jnp.cos(pitch), jnp.sin(pitch), jnp.cos(yaw), jnp.sin(yaw), jnp.cos(roll), jnp.sin(roll)
    rx = matrix((one, zero, zero), (zero, cp, sp), (zero, -sp, cp))
    ry = matrix((cy, zero, -sy), (zero, one, zero), (sy, zero, cy))
    rz = matrix((cr, sr, zero), (-sr, cr, zero), (zero, zero, one))
    return rx, ry, rz


def rotation_from_aflw2000(pitch_yaw_roll: Float[Array, "*b 3"]) -> Float[Array, "*b 3 3"]:
    """R_camera_head in OpenCV axes from (pitch, yaw, roll) in radians, AFLW2000-3D ``Pose_Para`` convention.

    There R = Rx(pitch) Ry(yaw) Rz(roll) in an image frame with y up and z towards the viewer; positive yaw turns the nose to
    the image's left, positive pitch lifts it.
    """
    rx, ry, rz = _axis_rotations(pitch_yaw_roll[..., 0], pitch_yaw_roll[..., 1], pitch_yaw_roll[..., 2])
    up = jnp.matmul(jnp.matmul(rx, ry, precision="highest"), rz, precision="highest")
    return jnp.asarray(UP_FROM_OPENCV, up.dtype) @ up


def aflw2000_from_rotation(R_camera_head: Float[Array, "*b 3 3"]) -> Float[Array, "*b 3"]:
    """(pitch, yaw, roll) in radians of R_camera_head in OpenCV axes; inverse of :func:`rotation_from_aflw2000`."""
    up = jnp.asarray(UP_FROM_OPENCV, R_camera_head.dtype) @ R_camera_head
    yaw = jnp.arcsin(jnp.clip(-up[..., 0, 2], -1, 1))
    roll = jnp.arctan2(up[..., 0, 1], up[..., 0, 0])
    pitch = jnp.arctan2(up[..., 1, 2], up[..., 2, 2])
    return jnp.stack([pitch, yaw, roll], -1)


def rotation_between_rays(a: Float[Array, "3"], b: Float[Array, "3"]) -> Float[Array, "3 3"]:
    """The smallest rotation that turns unit vector ``a`` into unit vector ``b`` (not for opposite vectors)."""
    v = jnp.cross(a, b)
    cosine = jnp.sum(a * b)
    k = cross_matrix(v)
    return jnp.eye(3, dtype=a.dtype) + k + k @ k / (1 + cosine)


def safe_normalise(v: Float[Array, "*b n"], floor: float = 1e-12) -> Float[Array, "*b n"]:
    """Unit vectors; the zero vector (a zero-area face's normal) stays zero, with a zero gradient instead of NaN."""
    square = jnp.sum(v**2, -1, keepdims=True)
    tiny = square <= floor**2
    return jnp.where(tiny, 0.0, v * jax.lax.rsqrt(jnp.where(tiny, 1.0, square)))
