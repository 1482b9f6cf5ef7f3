"""Non-rigid registration from pairs of a vertex and its place: the alignment, then `fitjax.model.registration`."""

import numpy as np
import scipy.sparse as sp

from basis.geometry import similarity
from fitjax.model import registration
from fitjax.model.registration import SCHEDULE, Round

__all__ = ["SCHEDULE", "Round", "register"]


def register(
    source: np.ndarray,
    source_triangles: np.ndarray,
    target: np.ndarray,
    target_triangles: np.ndarray,
    pair_index: np.ndarray,
    pair_point: np.ndarray,
    *,
    schedule: tuple[Round, ...] = SCHEDULE,
    reach: float = 0.02,
    aligned_normals: float = 0.5,
) -> np.ndarray:
    """Deform `source` (N, 3) onto the target surface; `pair_index` are source vertices whose place `pair_point` is known."""
    scale, rotation, translation = similarity(source[pair_index], pair_point)
    start = scale * source @ rotation.T + translation
    places = (np.arange(len(pair_index)), np.asarray(pair_index))
    pairs = sp.csr_matrix((np.ones(len(pair_index)), places), (len(pair_index), len(source)))
    return registration.register(
        start, source_triangles, target, target_triangles, pairs, pair_point,
        schedule=schedule, reach=reach, aligned_normals=aligned_normals,
    )  # fmt: skip
