"""Principal components of maps, and faces as their coefficients: what stage 1 trains on, with no pixels in the loop.

Maps that mirror themselves about u = ½ split into even and odd parts, which need half the texels each and whose components are exactly even or odd.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fitjax.errors import FitjaxError
from fitjax.render.uv import mirror_uv


class Folding(NamedTuple):
    """How a map (H, W, C) folds: the first ``rows`` rows mirror themselves, the rest stays as it is."""

    height: int
    width: int
    rows: int

    def fold(self, maps: Float[Array, "*b H W C"]) -> tuple[Float[Array, "*b E"], Float[Array, "*b O"]]:
        """Even and odd part, of the same norm together: ½‖A‖² of the mirrored rows is shared between them."""
        half = self.width // 2
        top = maps[..., : self.rows, :, :]
        left, right = top[..., :half, :], top[..., ::-1, :][..., :half, :]
        even, odd, rest = (left + right) / np.sqrt(2), (left - right) / np.sqrt(2), maps[..., self.rows :, :, :]
        batch = maps.shape[:-3]
        flat = [x.reshape(*batch, -1) for x in (even, rest, odd)]
        return jnp.concatenate(flat[:2], -1), flat[2]

    def unfold(
        self, even: Float[Array, "*b E"], odd: Float[Array, "*b O"], channels: int = 3
    ) -> Float[Array, "*b H W C"]:
        """The inverse of :meth:`fold`."""
        half, batch = self.width // 2, even.shape[:-1]
        shape = (*batch, self.rows, half, channels)
        split = self.rows * half * channels
        a, b = even[..., :split].reshape(shape) / np.sqrt(2), odd.reshape(shape) / np.sqrt(2)
        top = jnp.concatenate([a + b, (a - b)[..., ::-1, :]], -2)
        rest = even[..., split:].reshape(*batch, self.height - self.rows, self.width, channels)
        return jnp.concatenate([top, rest], -3)


def folding_of(model: Any, height: int, width: int) -> Folding:
    """How a model's texture folds: rows from the top whose mirror image lies at 1 - u, by its mirror map of vertices."""
    if width % 2:
        raise FitjaxError(f"maps of width {width}: expected an even number of columns")
    size = 256
    mirrored = mirror_uv(model, size)
    u = (np.arange(size) + 0.5) / size
    v = 1 - u
    off = np.hypot(mirrored[..., 0] - (1 - u), mirrored[..., 1] - v[:, None])
    # Gutters repeat a neighbour and may be off by their width: half of a row decides.
    bad = np.flatnonzero(np.median(off, 1) > 16 / size)
    return Folding(height, width, int((bad[0] if len(bad) else size) / size * height))


class Components(NamedTuple):
    """R components of maps in the order of their spread, each even or odd.

    Attributes:
        mean: (H, W, C). modes: (R, H, W, C) orthonormal under ``weight``. sigma: (R,). is_odd: (R,). weight: (H, W) of a texel's square error.
        total: mean square (weighted) of what was decomposed, so that 1 - Σ σ² / total is what R components lose.
    """

    mean: np.ndarray
    modes: np.ndarray
    sigma: np.ndarray
    is_odd: np.ndarray
    weight: np.ndarray
    total: float

    def coefficients(self, maps: Float[Array, "N H W C"]) -> Float[Array, "N R"]:
        """Weighted projections."""
        weighted = (maps - self.mean) * self.weight[..., None]
        flat = jnp.asarray(self.modes).reshape(len(self.modes), -1)
        return jnp.matmul(weighted.reshape(len(maps), -1), flat.T, precision="highest")


def _components(data: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """(rank, P) orthonormal rows and their spreads, of centred data (N, P) with N < P."""
    gram = (data @ data.T).astype(np.float64)
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1][:rank], vectors[:, ::-1][:, :rank]
    values = np.maximum(values, 1e-12 * values[0])
    return ((vectors / np.sqrt(values)).T.astype(np.float32) @ data), np.sqrt(values / len(data)).astype(np.float32)


def components(
    batches: Callable[[int, int], Array], count: int, rank: int, weight: np.ndarray, folding: Folding, batch: int = 64
) -> Components:
    """Principal components of ``count`` maps.

    Args:
        batches: (first, n) → maps (n, H, W, 3). count: maps to use; rank: components to keep. weight: (H, W) of the square error.
    """
    root = np.sqrt(weight)[..., None].astype(np.float32)
    fold = jax.jit(lambda maps: folding.fold(maps * root))
    even, odd = [], []
    for first in range(0, count, batch):
        a, b = fold(batches(first, min(batch, count - first)))
        even.append(np.asarray(a))
        odd.append(np.asarray(b))
    parts = [np.concatenate(even), np.concatenate(odd)]
    del even, odd
    # The mean is even: a side is no different from the other.
    middle = [parts[0].mean(0), np.zeros(parts[1].shape[1], np.float32)]
    parts[0] -= middle[0]
    total = float(sum((p.astype(np.float64) ** 2).sum() for p in parts)) / count
    found = [_components(p, min(rank, count)) if p.shape[1] else (p[:0], np.zeros(0, np.float32)) for p in parts]
    sigma = np.concatenate([f[1] for f in found])
    odd_flag = np.repeat([False, True], [len(f[1]) for f in found])
    order = np.argsort(-sigma, kind="stable")[:rank]
    inverse = np.divide(1, root, out=np.zeros_like(root), where=root > 0)
    modes = np.zeros((len(order), folding.height, folding.width, 3), np.float32)
    for row, k in enumerate(order):
        e, o = np.zeros_like(middle[0]), np.zeros_like(middle[1])
        if odd_flag[k]:
            o = found[1][0][k - len(found[0][1])]
        else:
            e = found[0][0][k]
        modes[row] = np.asarray(folding.unfold(jnp.asarray(e), jnp.asarray(o))) * inverse
    mean = np.asarray(folding.unfold(jnp.asarray(middle[0]), jnp.asarray(middle[1]))) * inverse
    return Components(mean, modes, sigma[order], odd_flag[order], weight.astype(np.float32), total)
