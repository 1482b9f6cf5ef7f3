"""Local components: what the components of the whole face leave around eyes, mouth and nose, decomposed once more, region by region.

Regions are the boxes of the paper's local paths (:func:`fitjax.networks.conv.part_regions`); each fades to nothing at its border, and where boxes
overlap they share. The components of a region see what a few hundred of the whole face cannot spend a number on: lashes, lips, single hairs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fitjax.networks.conv import Region, fading
from fitjax.train.coefficients import _components


class LocalComponents(NamedTuple):
    """L components of all regions together, region after region.

    Attributes:
        regions: (top, left, height, width) in texels. counts: components per region. modes: per region (n, h, w, 3), in the unit of the maps.
        sigma: (L,) spreads, in the units of the whole face's. readers: per region (3 h w, n): a map's box times it gives its coefficients.
    """

    regions: tuple[Region, ...]
    counts: tuple[int, ...]
    modes: tuple[np.ndarray, ...]
    sigma: np.ndarray
    readers: tuple[np.ndarray, ...]

    def coefficients(self, left: Float[Array, "N H W 3"]) -> Float[Array, "N L"]:
        """Of what the whole face's components leave of maps."""
        parts = []
        for (top, start, height, width), reader in zip(self.regions, self.readers):
            box = left[:, top : top + height, start : start + width].reshape(len(left), -1)
            parts.append(jnp.matmul(box, jnp.asarray(reader), precision="highest"))
        return jnp.concatenate(parts, -1)

    def placed(self, height: int, width: int) -> np.ndarray:
        """(L, H, W, 3): the components on whole maps, nought outside their boxes."""
        maps = np.zeros((len(self.sigma), height, width, 3), np.float32)
        first = 0
        for (top, left, h, w), modes in zip(self.regions, self.modes):
            maps[first : first + len(modes), top : top + h, left : left + w] = modes
            first += len(modes)
        return maps


def local_components(
    left: Callable[[int, int], Any], count: int, rank: int, weight: Float[np.ndarray, "H W"], regions: tuple[Region, ...], batch: int = 50
) -> LocalComponents:
    """Components of ``count`` maps of what is left, ``rank`` per region at most.

    Args:
        left: (first, n) → maps (n, H, W, 3): faces less what their components draw. weight: of a texel's square error.
    """
    windows = fading(regions, *weight.shape)
    roots = [np.sqrt(weight[t : t + h, s : s + w, None]) for t, s, h, w in regions]

    @jax.jit
    def cut(maps: Array) -> list[Array]:
        boxes = [maps[:, t : t + h, s : s + w] for t, s, h, w in regions]
        return [(box * window * root).reshape(len(maps), -1) for box, window, root in zip(boxes, windows, roots)]

    rows: list[list[np.ndarray]] = [[] for _ in regions]
    for first in range(0, count, batch):
        for kept, part in zip(rows, cut(left(first, min(batch, count - first)))):
            kept.append(np.asarray(part, np.float32))
    modes, sigma, readers = [], [], []
    for kept, window, root, (_, _, h, w) in zip(rows, windows, roots, regions):
        data = np.concatenate(kept)
        basis, spread = _components(data, min(rank, len(data) - 1, data.shape[1]))
        shape = (len(basis), h, w, 3)
        modes.append((basis.reshape(shape) / np.maximum(root, 1e-9)).astype(np.float32))
        readers.append((basis.reshape(shape) * window * root).reshape(len(basis), -1).T.astype(np.float32))
        sigma.append(spread)
    counts = tuple(len(m) for m in modes)
    return LocalComponents(tuple(regions), counts, tuple(modes), np.concatenate(sigma).astype(np.float32), tuple(readers))
