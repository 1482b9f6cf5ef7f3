"""The basis restricted to a set of landmarks on the refined surface: what calibration and evaluation fit."""

from dataclasses import dataclass

import numpy as np

from basis import pack
from basis.surface import Samples, Surface


@dataclass(frozen=True)
class PackedBasis:
    """A basis file in memory, with the surface that its landmarks live on."""

    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]
    surface: Surface
    mean: np.ndarray
    identity: np.ndarray
    expression: np.ndarray

    @property
    def prior_modes(self) -> np.ndarray:
        """(K + E, V, 3) modes in units of the prior's spread."""
        sigma = self.tensors["expression_sigma"].astype(np.float64)[:, None, None]
        return np.concatenate([self.identity, self.expression * sigma])

    def at(self, samples: Samples) -> tuple[np.ndarray, np.ndarray]:
        """Mean (L, 3) and modes (K + E, L, 3), in units of the prior's spread, at landmarks on the refined surface."""
        matrix = self.surface.sample_matrix(samples)
        modes = self.prior_modes
        flat = matrix @ modes.transpose(1, 0, 2).reshape(len(self.mean), -1)
        return matrix @ self.mean, flat.reshape(-1, len(modes), 3).transpose(1, 0, 2)


def load(path=pack.EMBEDDED) -> PackedBasis:
    """Read a basis file written by `basis.build`."""
    tensors, metadata = pack.read(path)
    surface = Surface(tensors["triangles"], tensors["triangle_region"], tensors["mirror"])
    mean = tensors["mean"].astype(np.float64)
    return PackedBasis(
        tensors, metadata, surface, mean, pack.dequantised(tensors, "identity"), pack.dequantised(tensors, "expression")
    )
