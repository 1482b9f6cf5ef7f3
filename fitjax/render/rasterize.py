"""Which triangle each pixel shows: any mesh, any zoom, no capacity that could overflow, in pure JAX.

Triangles are sorted into classes by the size of their box (2, 4, 8, 16, 64, … pixels). Each class runs a loop with a dynamic number of
trips; a trip tests a fixed number of pixels and scatters what is covered into the image with a minimum over (depth, triangle id). The rule
for pixels and depths is in `raster_fixed_point`, that for devices in `platform`; the result is the same on all of them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float, Int

from fitjax.errors import FitjaxError
from fitjax.render.platform import Plan, for_platform
from fitjax.render.raster_classes import SMALL, TILE, sort_by_size
from fitjax.render.raster_fixed_point import (
    DEPTH_BITS,
    GUARD_PIXELS,
    FixedVertices,
    covers,
    depth_codes,
    find_boxes,
    fix_vertices,
    make_planes,
    shift_right,
)

#: Added to depth codes before their bits are read as a float, which keeps them clear of denormals.
_NORMAL = 1 << 24
_NO_DEPTH = (1 << DEPTH_BITS) + 1
#: A bit between the two halves of a box's size.
_WIDE = 1 << 15
#: Ids travel as float32 in one of the variants.
MAXIMUM_TRIANGLES = 1 << 24


def rasterize(
    vertices_image: Float[Array, "*b V 3"],
    triangles: Int[Array, "*b F 3"],
    height: int,
    width: int,
    *,
    cull_back: bool = True,
    perspective: bool = True,
    plan: Plan | None = None,
) -> Int[Array, "*b height width"]:
    """The triangle that each pixel shows, -1 where there is none. Not differentiated.

    Args:
        vertices_image: (V, 3) x and y in pixels, the centre of the top-left pixel at (0, 0), and z = camera depth > 0.
        triangles: (F, 3), counter-clockwise from outside.
        height, width: of the image, in pixels.
        cull_back: leave out triangles seen from behind.
        perspective: 1/z is affine over the image; ``False`` (weak perspective): z is.
        plan: instead of the one for the platform, see `fitjax.render.platform`. Changes the speed only.

    Leading axes are batches, as under ``vmap``. The caller guarantees indices in range.

    Raises:
        FitjaxError: wrong shapes, an empty image, or more than 2²⁴ triangles.
    """
    vertices_image, triangles = jnp.asarray(vertices_image), jnp.asarray(triangles)
    if (
        vertices_image.ndim < 2
        or vertices_image.shape[-1] != 3
        or not jnp.issubdtype(vertices_image.dtype, jnp.floating)
    ):
        raise FitjaxError(
            f"rasterize: vertices are {vertices_image.dtype} {vertices_image.shape}; expected floats (V, 3)"
        )
    if triangles.ndim < 2 or triangles.shape[-1] != 3 or not jnp.issubdtype(triangles.dtype, jnp.integer):
        raise FitjaxError(f"rasterize: triangles are {triangles.dtype} {triangles.shape}; expected integers (F, 3)")
    if not (0 < height < GUARD_PIXELS and 0 < width < GUARD_PIXELS):
        raise FitjaxError(f"rasterize: image of {width} × {height} pixels; expected sides from 1 to {GUARD_PIXELS - 1}")
    if triangles.shape[-2] > MAXIMUM_TRIANGLES:
        raise FitjaxError(f"rasterize: {triangles.shape[-2]} triangles; expected at most {MAXIMUM_TRIANGLES}")
    batch = jnp.broadcast_shapes(vertices_image.shape[:-2], triangles.shape[:-2])
    if triangles.shape[-2] == 0 or 0 in batch:
        return jnp.full((*batch, height, width), -1, jnp.int32)
    vertices_image = lax.stop_gradient(vertices_image)
    vertices = jnp.broadcast_to(vertices_image, (*batch, *vertices_image.shape[-2:])).reshape(
        -1, *vertices_image.shape[-2:]
    )
    triangles = triangles.astype(jnp.int32)
    if triangles.ndim > 2:
        triangles = jnp.broadcast_to(triangles, (*batch, *triangles.shape[-2:])).reshape(-1, *triangles.shape[-2:])
    ids = _batched(height, width, cull_back, perspective, plan)(vertices, triangles)
    return ids.reshape(*batch, height, width)


def _batched(height: int, width: int, cull_back: bool, perspective: bool, plan: Plan | None) -> Any:
    """(B, V, 3), (F, 3) or (B, F, 3) → (B, height, width). Under ``vmap`` the new axis joins B: loops stay out of ``vmap``, which would
    copy the whole image on every trip."""

    def run(vertices: Array, triangles: Array, plan: Plan) -> Array:
        one = partial(_raster, height=height, width=width, cull_back=cull_back, perspective=perspective, plan=plan)
        if plan.flat_batch or vertices.shape[0] == 1:
            return one(vertices, triangles)
        if triangles.ndim == 2:
            return lax.map(lambda v: one(v[None], triangles)[0], vertices)
        return lax.map(lambda vt: one(vt[0][None], vt[1])[0], (vertices, triangles))

    @custom_vmap
    def batched(vertices: Array, triangles: Array) -> Array:
        return for_platform(run, vertices, triangles) if plan is None else run(vertices, triangles, plan)

    @batched.def_vmap
    def rule(axis_size: int, is_batched: list[bool], vertices: Array, triangles: Array) -> tuple[Array, bool]:
        inner = vertices.shape[1] if is_batched[0] else vertices.shape[0]
        if not is_batched[0]:
            vertices = jnp.broadcast_to(vertices, (axis_size, *vertices.shape))
        if is_batched[1] and triangles.ndim == 3:
            triangles = jnp.broadcast_to(triangles[:, None], (axis_size, inner, *triangles.shape[1:]))
        elif not is_batched[1] and triangles.ndim == 3:
            triangles = jnp.broadcast_to(triangles, (axis_size, *triangles.shape))
        if triangles.ndim == 4:
            triangles = triangles.reshape(-1, *triangles.shape[2:])
        ids = batched(vertices.reshape(-1, *vertices.shape[2:]), triangles)
        return ids.reshape(axis_size, inner, height, width), True

    return batched


def _raster(
    vertices: Array, triangles: Array, height: int, width: int, cull_back: bool, perspective: bool, plan: Plan
) -> Array:
    """One raster of all faces of a batch (B, V, 3): triangle t of face b is number b F + t, its image starts at pixel b H W."""
    n_faces, n_vertices = vertices.shape[:2]
    n_triangles = triangles.shape[-2]
    fixed = fix_vertices(vertices, perspective)
    table = jnp.stack([c.reshape(-1) for c in fixed], -1)  # one row per vertex: one gather per corner
    if n_faces > 1:
        offset = (jnp.arange(n_faces, dtype=jnp.int32) * n_vertices)[:, None, None]
        triangles = (jnp.broadcast_to(triangles, (n_faces, n_triangles, 3)) + offset).reshape(-1, 3)
    elif triangles.ndim == 3:
        triangles = triangles[0]

    def corners_of(rows: Array) -> tuple[FixedVertices, ...]:
        found = table.at[rows].get(mode="promise_in_bounds")  # (N, 3 corners, 3 numbers)
        return tuple(FixedVertices(found[:, k, 0], found[:, k, 1], found[:, k, 2]) for k in range(3))

    boxes = find_boxes(corners_of(triangles), height, width, cull_back)
    # One number per triangle, so that XLA computes it once: rows and columns of its box, and whether its edge functions may overflow.
    size = ((boxes.y1 - boxes.y0 + 1) << 16) | (boxes.x1 - boxes.x0 + 1) | jnp.where(boxes.wide, _WIDE, 0)
    size = jnp.where(boxes.drawn, size, 0)
    across, along = size & (_WIDE - 1), size >> 16
    is_big = ((size & _WIDE) != 0) | (across > SMALL) | (along > SMALL)
    classes = sort_by_size(jnp.where(is_big, 0, jnp.maximum(across, along)))
    n_pixels = n_faces * height * width
    # Uncovered candidates go behind the image, each to its own place: one place for all would serialise a CPU's stores.
    spare = (
        max(plan.triangles * SMALL**2, plan.tiles * TILE**2)
        if plan.whole_windows
        else max(plan.triangles, plan.tiles * TILE)
    )

    def place(
        number: Array, valid: Array, estimate: bool, first: tuple[Array, Array] | None
    ) -> tuple[Any, Array, Array, Array]:
        """Planes of triangles from the pixel ``first`` on (default: of their box); linear index of that pixel; last offsets in the box."""
        corners = corners_of(triangles.at[number].get(mode="promise_in_bounds"))
        box = find_boxes(corners, height, width, cull_back)
        x0, y0 = (box.x0, box.y0) if first is None else (box.x0 + first[0], box.y0 + first[1])
        start = y0 * width + x0 + (number // n_triangles) * (height * width) if n_faces > 1 else y0 * width + x0
        planes = make_planes(corners, x0, y0, estimate)
        return planes, start, box.x1 - x0, jnp.where(valid, box.y1 - y0, -1)

    def draw(update: Any, image: Array, placed: Any, number: Array, right: Array, down: Array) -> Array:
        planes, start, last_right, last_down = placed
        inside = covers(planes, right, down) & (right <= last_right) & (down <= last_down)
        nowhere = n_pixels + jnp.arange(inside.size, dtype=jnp.int32).reshape(inside.shape)
        pixel = jnp.where(inside, start + (down * width + right), nowhere)
        number = number % n_triangles if n_faces > 1 else number
        return update(image, pixel, depth_codes(planes, right, down), jnp.broadcast_to(number, pixel.shape))

    small_order = jnp.pad(classes.order, (0, plan.triangles))  # so that the last slice stays within
    window = jnp.arange(SMALL, dtype=jnp.int32)

    def small_chunk(update: Any, trip: Array, image: Array) -> Array:
        begin = trip * plan.triangles
        number = lax.dynamic_slice(small_order, (begin,), (plan.triangles,))
        valid = begin + jnp.arange(plan.triangles, dtype=jnp.int32) < classes.n_small
        placed = place(number, valid, False, None)
        if plan.whole_windows:
            return draw(update, image, placed, number, window[:, None], window[:, None, None])
        columns, rows = (jnp.max(jnp.where(valid, last, 0)) + 1 for last in placed[2:])

        def one_offset(k: Array, image: Array) -> Array:
            return draw(update, image, placed, number, k % columns, k // columns)

        # XLA stores what a loop does not change, so what belongs to a triangle is computed once, not for each pixel.
        return lax.fori_loop(0, columns * rows, one_offset, image)

    # Large triangles are cut into tiles. Tile number → triangle by bisection in the running count of tiles.
    big = jnp.where(is_big, _tiles(across) * _tiles(along), 0)
    tiles_up_to = jnp.cumsum(big, dtype=jnp.int32)
    tile_window = jnp.arange(TILE, dtype=jnp.int32)

    def tile_chunk(update: Any, trip: Array, image: Array) -> Array:
        tile = trip * plan.tiles + jnp.arange(plan.tiles, dtype=jnp.int32)
        number = jnp.searchsorted(tiles_up_to, tile, side="right", method="scan").astype(jnp.int32)
        number = jnp.minimum(number, big.shape[0] - 1)
        within = tile - (tiles_up_to[number] - big[number])
        per_row = jnp.maximum(_tiles(across[number]), 1)
        first = (within % per_row) * TILE, (within // per_row) * TILE
        placed = place(number, tile < tiles_up_to[-1], True, first)
        if plan.whole_windows:
            return draw(update, image, placed, number, tile_window[:, None], tile_window[:, None, None])
        # One lane per tile and column; the loop goes down the rows.
        planes, start, last_right, last_down = placed
        column = tile_window[:, None]
        last_down = jnp.where(column <= last_right, last_down, -1).reshape(-1)
        number = jnp.tile(number, TILE)
        lanes = shift_right(planes, column), (start + column).reshape(-1), jnp.zeros_like(last_down), last_down
        rows = jnp.minimum(jnp.max(last_down) + 1, TILE)
        return lax.fori_loop(0, rows, lambda k, held: draw(update, held, lanes, number, jnp.int32(0), k), image)

    def over_all(update: Any, image: Array) -> Array:
        trips = (classes.n_small + (plan.triangles - 1)) // plan.triangles
        image = lax.fori_loop(0, trips, partial(small_chunk, update), image)
        trips = (tiles_up_to[-1] + (plan.tiles - 1)) // plan.tiles
        return lax.fori_loop(0, trips, partial(tile_chunk, update), image)

    if plan.single_pass:
        pair = over_all(_nearest_pair, jnp.full(n_pixels + spare, jnp.inf, jnp.complex64))[:n_pixels]
        ids = jnp.where(jnp.isfinite(pair.real), pair.imag, -1).astype(jnp.int32)
    else:
        depth = over_all(_nearest_depth, jnp.full(n_pixels + spare, _NO_DEPTH, jnp.int32))
        none = jnp.int32(n_triangles)
        ids = over_all(partial(_smallest_id, depth), jnp.full(n_pixels + spare, none))[:n_pixels]
        ids = jnp.where(ids == none, -1, ids)
    return ids.reshape(n_faces, height, width)


def _tiles(pixels: Array) -> Array:
    return (pixels + (TILE - 1)) // TILE


def _nearest_pair(held: Array, pixel: Array, code: Array, number: Array) -> Array:
    """Minimum of (depth, id) pairs; the bits of positive floats are ordered like integers."""
    depth = lax.bitcast_convert_type(code + _NORMAL, jnp.float32)
    return held.at[pixel].min(lax.complex(depth, number.astype(jnp.float32)), mode="promise_in_bounds")


def _nearest_depth(held: Array, pixel: Array, code: Array, number: Array) -> Array:
    return held.at[pixel].min(code, mode="promise_in_bounds")


def _smallest_id(depth: Array, held: Array, pixel: Array, code: Array, number: Array) -> Array:
    wins = depth.at[pixel].get(mode="promise_in_bounds") == code
    return held.at[pixel].min(jnp.where(wins, number, jnp.iinfo(jnp.int32).max), mode="promise_in_bounds")
