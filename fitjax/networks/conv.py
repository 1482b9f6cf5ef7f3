"""The global-local convolutional decoder (Tran, Liu, Liu, "Towards high-fidelity nonlinear 3D face morphable model", CVPR 2019).

A global path draws the whole map; local paths draw the eyes, the mouth and the nose at the same resolution with weights of their own, placed where
those are; two heads read both: proxy and full. Maps grow by nearest-neighbour resizing followed by a convolution, which leaves no
checkerboard; the pair is computed as one 2 × 2 convolution per phase, exactly and at less than half the cost.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fitjax.errors import FitjaxError

#: (top, left, height, width) in texels of the map.
Region = tuple[int, int, int, int]

#: Channels of the global path after each doubling, and of a local one. Both end in 16 that the heads read.
GLOBAL_CHANNELS = (128, 96, 64, 32, 16)
LOCAL_CHANNELS = (64, 32, 16)


class ResizeConv(nn.Module):
    """Nearest-neighbour resize by two, then a 3 × 3 convolution with zeros beyond the border."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "B h w c"]) -> Float[Array, "B h2 w2 f"]:
        kernel = self.param("kernel", nn.initializers.he_normal(), (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        # Of three taps on doubled rows, an even row reads (row - 1; row, row) and an odd one (row, row; row + 1).
        rows = [jnp.stack([kernel[0], kernel[1] + kernel[2]]), jnp.stack([kernel[0] + kernel[1], kernel[2]])]
        phases = [jnp.stack([r[:, 0], r[:, 1] + r[:, 2]], 1) for r in rows], [jnp.stack([r[:, 0] + r[:, 1], r[:, 2]], 1) for r in rows]
        both = jnp.concatenate([phases[b][a] for a in (0, 1) for b in (0, 1)], -1)
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        y = jax.lax.conv_general_dilated(padded, both, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        batch, height, width = x.shape[:3]
        f = self.features
        parts = [y[:, a : a + height, b : b + width, (2 * a + b) * f : (2 * a + b + 1) * f] for a in (0, 1) for b in (0, 1)]
        tiled = jnp.stack([jnp.stack(parts[:2], 3), jnp.stack(parts[2:], 3)], 2)  # (B, h, phase, w, phase, f)
        return tiled.reshape(batch, 2 * height, 2 * width, f) + bias


class Path(nn.Module):
    """A code drawn on a small map, which then grows by two per layer."""

    height: int
    width: int
    first: int
    channels: tuple[int, ...]

    @nn.compact
    def __call__(self, code: Float[Array, "B k"]) -> Float[Array, "B H W c"]:
        factor = 2 ** len(self.channels)
        if self.height % factor or self.width % factor:
            raise FitjaxError(f"map of {self.height} × {self.width}: expected multiples of {factor}, 2 to the number of layers; see channels")
        shape = (self.height // factor, self.width // factor, self.first)
        x = nn.Dense(int(np.prod(shape)), name="enter")(code).reshape(len(code), *shape)
        for k, features in enumerate(self.channels):
            x = nn.elu(ResizeConv(features, name=f"grow{k}")(nn.elu(x) if k == 0 else x))
        return x


def _window(height: int, width: int) -> np.ndarray:
    """(h, w, 1) that fades to zero at the border over four texels, so that a local path leaves no seam."""
    fade = lambda n: np.minimum(np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5, 4) / 4  # noqa: E731
    return (fade(height)[:, None] * fade(width))[..., None].astype(np.float32)


def fading(regions: tuple[Region, ...], height: int, width: int) -> list[np.ndarray]:
    """Per region (h, w, 1): its window, which fades over four texels; where several overlap, they add up to one at most."""
    total = np.zeros((height, width, 1))
    for top, left, h, w in regions:
        total[top : top + h, left : left + w] += _window(h, w)
    return [_window(h, w) / np.maximum(total[top : top + h, left : left + w], 1) for top, left, h, w in regions]


class GlobalLocalDecoder(nn.Module):
    """Code (B, k) → full and proxy map (B, H, W, 3), in units of ``scale`` around zero, between ±``limit``.

    Attributes:
        height, width: multiples of 2 to the number of ``channels``, 32. regions: boxes of local paths, sides multiples of 8; none for a global
            network.
        first: channels of the smallest global map; local_first of a local one. limit: of tanh.
    """

    height: int = 192
    width: int = 224
    regions: tuple[Region, ...] = ()
    first: int = 160
    local_first: int = 128
    channels: tuple[int, ...] = GLOBAL_CHANNELS
    local_channels: tuple[int, ...] = LOCAL_CHANNELS
    limit: float = 1.0

    @nn.compact
    def __call__(self, code: Float[Array, "B k"]) -> tuple[Float[Array, "B H W 3"], Float[Array, "B H W 3"]]:
        whole = Path(self.height, self.width, self.first, self.channels, name="global")(code)
        maps = [whole]
        if self.regions:
            local: Any = jnp.zeros((len(code), self.height, self.width, self.local_channels[-1]), whole.dtype)
            for k, (top, left, height, width) in enumerate(self.regions):
                part = Path(height, width, self.local_first, self.local_channels, name=f"local{k}")(code)
                part = part * _window(height, width).astype(part.dtype)
                local = local.at[:, top : top + height, left : left + width].add(part)
            maps.append(local)
        x = jnp.concatenate(maps, -1)
        x = nn.elu(nn.Conv(2 * self.channels[-1], (3, 3), name="blend")(x))
        small = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")
        full, proxy = (nn.Conv(3, (1, 1), kernel_init=small, name=name)(x) for name in ("full", "proxy"))
        return self.limit * jnp.tanh(full), self.limit * jnp.tanh(proxy)


def part_regions(uv_parts: np.ndarray, height: int, width: int, nose: bool) -> tuple[Region, ...]:
    """Boxes of the local paths in a map of H × W: right eye, left eye, mouth, and the nose if asked for; from a basis's label map of parts.

    An eye's box hangs from its brow (labels 3, 4), since in texture space lids are closed slits; nose 5; lips 6 and 7. A part that the map lacks has
    no box.
    """
    from scipy.ndimage import label

    rows, columns = uv_parts.shape
    wanted: list[tuple[tuple[int, ...], float, float]] = [((3,), 0.25, 1.1), ((4,), 0.25, 1.1), ((6, 7), 0.35, 0.35)]
    if nose:
        wanted.append(((5,), 0.12, 0.12))
    boxes = []
    for labels, above, below in wanted:
        pieces, count = label(np.isin(uv_parts, labels))
        if not count:
            continue
        # Lips touch; eyeballs and other charts do not belong to the face.
        largest = 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
        y, x = np.nonzero(pieces == largest)
        top, bottom, left, right = y.min(), y.max() + 1, x.min(), x.max() + 1
        side = (right - left) * height / width * columns / rows
        aside = 0.15 * (right - left)
        span = side if labels != (5,) else bottom - top
        edges = (top - above * span) / rows * height, (bottom + below * span) / rows * height
        sides = (left - aside) / columns * width, (right + aside) / columns * width
        tall, wide = (max(8, 8 * round((b - a) / 8)) for a, b in (edges, sides))
        tall, wide = min(tall, height // 8 * 8), min(wide, width // 8 * 8)
        first = int(np.clip(round(sum(edges) / 2 - tall / 2), 0, height - tall))
        start = int(np.clip(round(sum(sides) / 2 - wide / 2), 0, width - wide))
        boxes.append((first, start, tall, wide))
    return tuple(boxes)
