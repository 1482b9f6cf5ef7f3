"""Reading UV maps.

The texel rule: a map (H, W, C) covers the unit square with u to the right and **v up**: row 0 is the top, v = 1. The centre of texel
(row r, column c) is at u = (c + ½) / W, v = 1 − (r + ½) / H, as in OBJ files and OpenGL with the image's first row on top. Between centres
values are bilinear; beyond the outermost centres the border's value goes on.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def texel_from_uv(uv: Float[Array, "*s 2"], height: int, width: int) -> Float[Array, "*s 2"]:
    """(column, row) of points in UV space, the centre of the first texel at (0, 0)."""
    return jnp.stack([uv[..., 0] * width - 0.5, (1 - uv[..., 1]) * height - 0.5], -1)


def uv_from_texel(texel: Float[Array, "*s 2"], height: int, width: int) -> Float[Array, "*s 2"]:
    """The inverse of `texel_from_uv`."""
    return jnp.stack([(texel[..., 0] + 0.5) / width, 1 - (texel[..., 1] + 0.5) / height], -1)


def sample_texture(texture: Float[Array, "H W C"], uv: Float[Array, "*s 2"]) -> Float[Array, "*s C"]:
    """The map's value at ``uv``; differentiable in both. Coordinates that are not finite read the border."""
    texture, uv = jnp.asarray(texture), jnp.asarray(uv)
    height, width = texture.shape[:2]
    texel = texel_from_uv(uv, height, width)
    texel = jnp.where(jnp.isfinite(texel), texel, 0)
    x, y = jnp.clip(texel[..., 0], 0, width - 1), jnp.clip(texel[..., 1], 0, height - 1)
    # The last texel's left neighbour starts the last interval, so the four texels always exist.
    column = jnp.clip(jnp.floor(x), 0, max(width - 2, 0)).astype(jnp.int32)
    row = jnp.clip(jnp.floor(y), 0, max(height - 2, 0)).astype(jnp.int32)
    right, down = (x - column.astype(x.dtype))[..., None], (y - row.astype(y.dtype))[..., None]
    flat = texture.reshape(height * width, *texture.shape[2:])
    first = row * width + column
    next_column, next_row = min(1, width - 1), min(1, height - 1) * width

    def at(offset: int) -> Array:
        return flat.at[first + offset].get(mode="promise_in_bounds")

    top = at(0) * (1 - right) + at(next_column) * right
    bottom = at(next_row) * (1 - right) + at(next_row + next_column) * right
    return top * (1 - down) + bottom * down
