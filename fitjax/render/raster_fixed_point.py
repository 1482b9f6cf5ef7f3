"""The pixel rule in integers: which pixel centres a triangle covers, and how deep it is there.

A float32 edge function gives other signs on other devices, and two triangles then both claim, or both leave, a pixel on their common edge.
Here positions are first rounded to 1/256 pixel, as on GPUs; after that everything that decides is exact, in int32:

* **Position.** X = round(256 x), half to even, likewise Y. A vertex with |x| or |y| above 32768, or with a depth outside
  [2⁻⁶⁰, 2⁶⁰], or not finite, makes its triangles invisible.
* **Coverage.** E = Bx (256 j − Y) − By (256 i − X) ≥ 0 (or > 0 if the edge is neither a top nor a left one), for the three edges. Only
  ⌊E / 256⌋ is kept, whose sign is the same. Two's complement wraps, so sums may overflow on the way as long as the result fits, which it
  does for triangles up to 2048 pixels; larger ones ask a float32 estimate whenever it is so large that its sign is certain.
* **Depth.** Each vertex has a code, smaller = nearer: ``2²⁸ − round(s / z)`` (perspective, where 1/z is affine over the image) or
  ``round(s z)`` (weak perspective), with s the power of two that brings the largest to [2²⁷, 2²⁸). Over a triangle the code is
  ``C + Gx Δi + Gy Δj`` in integers, clamped to the codes of its corners. C, Gx and Gy come from float32 operations of which each is
  rounded on its own, so NumPy gives the same (`fitjax.render.reference`).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

SUBPIXELS = 256
GUARD_PIXELS = 32768
DEPTH_BITS = 28
DEPTH_RANGE = (2.0**-60, 2.0**60)
#: Triangles whose box is longer than this need the float32 estimate.
WIDE_PIXELS = 2048
#: Where the float32 estimate of an edge function or an area decides: its error is below 2²⁷.
CERTAIN = 2.0**30
#: Steeper triangles (nearly edge-on slivers) get one depth.
STEEPEST = 2.0**29

_LOWEST = float(np.finfo(np.float32).min)


class FixedVertices(NamedTuple):
    """``x``, ``y`` (…, V) in 1/256 pixel; ``code`` (…, V) of the depth, -1 for a vertex that cannot be drawn."""

    x: Int[Array, "*b V"]
    y: Int[Array, "*b V"]
    code: Int[Array, "*b V"]


class Boxes(NamedTuple):
    """Pixels (inclusive) that a triangle may cover; ``drawn``: it may cover any; ``wide``: edge functions may overflow."""

    x0: Int[Array, "*b F"]
    y0: Int[Array, "*b F"]
    x1: Int[Array, "*b F"]
    y1: Int[Array, "*b F"]
    drawn: Bool[Array, "*b F"]
    wide: Bool[Array, "*b F"]


class Planes(NamedTuple):
    """Affine integer functions of N triangles: value at the first pixel of the box, change per pixel right and down.

    ``edge``: three of (N, 3); ``depth``: (N, 3); ``nearest``, ``farthest`` (N,): range of the depth code.
    """

    edge: tuple[tuple[Array, Array, Array], ...]
    estimate: tuple[tuple[Array, Array, Array], ...]
    depth: tuple[Array, Array, Array]
    nearest: Int[Array, "N"]
    farthest: Int[Array, "N"]


def rounded_product(a: Array, b: Array) -> Array:
    """a · b rounded before it is used. The clamp changes nothing; it keeps compilers from fusing the product into an FMA."""
    return lax.max(a * b, jnp.asarray(_LOWEST, a.dtype))


def _power_of_two(exponent: Array) -> Array:
    return lax.bitcast_convert_type((exponent + 127) << 23, jnp.float32)


def fix_vertices(vertices_image: Float[Array, "*b V 3"], perspective: bool) -> FixedVertices:
    """Rounded positions and depth codes of vertices (…, V, 3): x, y in pixels and camera depth."""
    wide = vertices_image if vertices_image.dtype.itemsize >= 4 else vertices_image.astype(jnp.float32)
    x, y, z = wide[..., 0], wide[..., 1], wide[..., 2].astype(jnp.float32)
    low, high = DEPTH_RANGE
    usable = (jnp.abs(x) <= GUARD_PIXELS) & (jnp.abs(y) <= GUARD_PIXELS) & (z >= low) & (z <= high)
    x, y = (jnp.rint(jnp.where(usable, c, 0) * SUBPIXELS).astype(jnp.int32) for c in (x, y))
    z = jnp.where(usable, z, 1)
    scaled = 1 / z if perspective else z
    largest = jnp.max(jnp.where(usable, scaled, low), -1, keepdims=True)
    # frexp by hand: the scale must be an exact power of two on every device.
    exponent = (lax.bitcast_convert_type(largest, jnp.int32) >> 23) - 127
    code = jnp.rint(scaled * _power_of_two(DEPTH_BITS - 1 - exponent)).astype(jnp.int32)
    code = (1 << DEPTH_BITS) - code if perspective else code
    return FixedVertices(x, y, jnp.where(usable, code, -1))


def double_area(x: tuple[Array, ...], y: tuple[Array, ...]) -> Float[Array, "N"]:
    """Twice the signed area in 1/65536 square pixels: exactly rounded float32 up to 2³⁰, certain in its sign beyond."""
    dx1, dy1, dx2, dy2 = x[1] - x[0], y[1] - y[0], x[2] - x[0], y[2] - y[0]
    exact = dx1 * dy2 - dx2 * dy1
    dx1f, dy1f, dx2f, dy2f = (d.astype(jnp.float32) for d in (dx1, dy1, dx2, dy2))
    estimate = rounded_product(dx1f, dy2f) - rounded_product(dx2f, dy1f)
    return jnp.where(jnp.abs(estimate) > CERTAIN, estimate, exact.astype(jnp.float32))


def find_boxes(corners: tuple[FixedVertices, ...], height: int, width: int, cull_back: bool) -> Boxes:
    """Boxes of triangles whose three corners are arrays (N,)."""
    x, y = tuple(c.x for c in corners), tuple(c.y for c in corners)
    area = double_area(x, y)
    low_x, high_x = _least(x), _most(x)
    low_y, high_y = _least(y), _most(y)
    # First pixel centre at or after, last one at or before; >> rounds towards minus infinity.
    x0, x1 = jnp.maximum((low_x + 255) >> 8, 0), jnp.minimum(high_x >> 8, width - 1)
    y0, y1 = jnp.maximum((low_y + 255) >> 8, 0), jnp.minimum(high_y >> 8, height - 1)
    drawn = (area < 0) if cull_back else (area != 0)
    drawn &= (x0 <= x1) & (y0 <= y1) & (_least(tuple(c.code for c in corners)) >= 0)
    limit = WIDE_PIXELS * SUBPIXELS
    return Boxes(x0, y0, x1, y1, drawn, (high_x - low_x > limit) | (high_y - low_y > limit))


def _least(values: tuple[Array, ...]) -> Array:
    return jnp.minimum(jnp.minimum(values[0], values[1]), values[2])


def _most(values: tuple[Array, ...]) -> Array:
    return jnp.maximum(jnp.maximum(values[0], values[1]), values[2])


def make_planes(corners: tuple[FixedVertices, ...], x0: Array, y0: Array, estimate: bool) -> Planes:
    """Edge functions and depth of triangles, relative to the pixels (x0, y0); ``estimate``: also edge functions in float32."""
    x, y = [c.x for c in corners], [c.y for c in corners]
    area = double_area((x[0], x[1], x[2]), (y[0], y[1], y[2]))
    sign = jnp.where(area < 0, -1, 1)
    # The pixel nearest to each corner, and its distance from it in 1/256 pixel.
    i, j = [(c + 128) >> 8 for c in x], [(c + 128) >> 8 for c in y]
    fx, fy = [(p << 8) - c for p, c in zip(i, x)], [(p << 8) - c for p, c in zip(j, y)]

    edges, estimates = [], []
    for a, b in ((1, 2), (2, 0), (0, 1)):
        bx, by = sign * (x[b] - x[a]), sign * (y[b] - y[a])
        owned = (by < 0) | ((by == 0) & (bx > 0))  # a left or a top edge
        # floor((bx fy - by fx - !owned) / 256), with the high and the low byte apart: the products do not fit in 32 bits.
        low = (bx & 255) * fy[a] - (by & 255) * fx[a] - jnp.where(owned, 0, 1)
        start = (bx >> 8) * fy[a] - (by >> 8) * fx[a] + (low >> 8)
        edges.append((start + bx * (y0 - j[a]) - by * (x0 - i[a]), -by, bx))
        if estimate:
            bxf, byf, down, right = (v.astype(jnp.float32) for v in (bx, by, y0 - j[a], x0 - i[a]))
            estimates.append((start.astype(jnp.float32) + bxf * down - byf * right, -byf, bxf))

    code = [c.code for c in corners]
    dc1, dc2, dx1, dx2, dy1, dy2 = (
        (v[k] - v[0]).astype(jnp.float32) for v in (code, x, y) for k in (1, 2)
    )  # fmt: skip
    divisor = jnp.where(area == 0, 1.0, area)
    gx = (rounded_product(dc1, dy2) - rounded_product(dc2, dy1)) / divisor  # per 1/256 pixel
    gy = (rounded_product(dc2, dx1) - rounded_product(dc1, dx2)) / divisor
    gx_pixel, gy_pixel = gx * SUBPIXELS, gy * SUBPIXELS
    steep = ~((jnp.abs(gx_pixel) < STEEPEST) & (jnp.abs(gy_pixel) < STEEPEST))
    nearest, farthest = _least((code[0], code[1], code[2])), _most((code[0], code[1], code[2]))

    def to_int(value: Array) -> Array:
        return jnp.rint(jnp.where(steep, 0.0, value)).astype(jnp.int32)

    offset = rounded_product(gx, fx[0].astype(jnp.float32)) + rounded_product(gy, fy[0].astype(jnp.float32))
    at_corner = jnp.where(steep, (nearest + farthest) >> 1, code[0] + to_int(offset))
    gxi, gyi = to_int(gx_pixel), to_int(gy_pixel)
    first = at_corner + gxi * (x0 - i[0]) + gyi * (y0 - j[0])
    return Planes(tuple(edges), tuple(estimates), (first, gxi, gyi), nearest, farthest)


def covers(planes: Planes, right: Array, down: Array) -> Bool[Array, "h w N"]:
    """Which triangles cover the pixels ``right`` (w, 1) and ``down`` (h, 1, 1) of their box's first pixel."""
    inside = None
    for k, edge in enumerate(planes.edge):
        at, step_x, step_y = (e for e in edge)
        positive = at + step_x * right + step_y * down >= 0
        if planes.estimate:
            at, step_x, step_y = (e for e in planes.estimate[k])
            guess = at + step_x * right.astype(jnp.float32) + step_y * down.astype(jnp.float32)
            positive = jnp.where(jnp.abs(guess) > CERTAIN, guess > 0, positive)
        inside = positive if inside is None else inside & positive
    assert inside is not None
    return inside


def depth_codes(planes: Planes, right: Array, down: Array) -> Int[Array, "h w N"]:
    """Depth codes at the same pixels; smaller is nearer."""
    at, step_x, step_y = (e for e in planes.depth)
    return jnp.clip(at + step_x * right + step_y * down, planes.nearest, planes.farthest)


def shift_right(planes: Planes, right: Int[Array, "w 1"]) -> Planes:
    """One set of planes per column of the window, ``right`` pixels on: (w N,) triangles, column by column."""

    def shifted(plane: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        at, step_x, step_y = plane
        at = at + step_x * right.astype(at.dtype)
        return (
            at.reshape(-1),
            jnp.broadcast_to(step_x, at.shape).reshape(-1),
            jnp.broadcast_to(step_y, at.shape).reshape(-1),
        )

    nearest, farthest = (
        jnp.broadcast_to(v, (len(right), *v.shape)).reshape(-1) for v in (planes.nearest, planes.farthest)
    )
    return Planes(
        tuple(shifted(e) for e in planes.edge),
        tuple(shifted(e) for e in planes.estimate),
        shifted(planes.depth),
        nearest,
        farthest,
    )
