"""Identity modes: principal components of random faces."""

from dataclasses import dataclass

import numpy as np

from basis.anny_assets import Assets
from basis.geometry import batched_similarity, triangle_areas
from basis.head_mesh import SKIN, HeadMesh
from basis.sample_faces import FacePrior, sample_faces

_FLIP = np.array([-1.0, 1.0, 1.0])


@dataclass(frozen=True)
class IdentityModel:
    """A mean face and modes of unit variance, in metres."""

    mean: np.ndarray
    """(V, 3), symmetric in x."""
    modes: np.ndarray
    """(K, V, 3), each scaled by its standard deviation; each is symmetric or antisymmetric in x."""
    explained: float
    """Fraction of the weighted variance that the modes hold."""
    spread: float
    """Root mean square displacement of the front of the face over the random faces, in metres."""


def front_of_face(base: np.ndarray, mesh: HeadMesh) -> np.ndarray:
    """Mask of the skin vertices of the face's front (no ears, no neck, no skull), from the base mesh's geometry."""
    skin = np.zeros(len(base), bool)
    skin[mesh.triangles[mesh.chart == "head"]] = True
    return skin & (base[:, 1] > 0.605) & (base[:, 1] < 0.80) & (base[:, 2] > 0.045) & (np.abs(base[:, 0]) < 0.075)


def vertex_importance(base: np.ndarray, mesh: HeadMesh) -> np.ndarray:
    """Weights (V,) of the principal component analysis: area, and less where a photograph shows less."""
    area = np.zeros(len(base))
    np.add.at(area, mesh.triangles.ravel(), np.repeat(triangle_areas(base, mesh.triangles), 3) / 3)
    hidden = np.ones(len(base), bool)
    hidden[mesh.triangles[mesh.region == SKIN]] = False
    front = front_of_face(base, mesh)
    weight = np.where(front, 1.0, np.where(np.abs(base[:, 0]) > 0.075, 0.25, 0.15))
    return area * np.where(hidden, 0.03, weight)


def identity_model(
    assets: Assets, mesh: HeadMesh, prior: FacePrior, count: int, keep: int, seed: int = 0
) -> IdentityModel:
    """Principal components of random faces aligned by similarity on the front of the face.

    Each face counts twice, as drawn and mirrored, so the modes split into symmetric and antisymmetric ones exactly.
    """
    base = mesh.carry(assets.vertices)
    names, weights = sample_faces(assets, prior, count, seed)
    targets = np.stack([mesh.carry((assets.macro | assets.detail)[name]) for name in names]).astype(np.float32)
    shapes = (weights.astype(np.float32) @ targets.reshape(len(names), -1)).reshape(count, -1, 3) + base.astype(
        np.float32
    )
    front = front_of_face(base, mesh)
    reference = shapes.mean(0)
    for _ in range(3):
        aligned = batched_similarity(shapes, reference, front)
        reference = aligned.mean(0)
        reference = 0.5 * (reference + reference[mesh.mirror] * _FLIP)
    difference = (aligned - reference).astype(np.float32)
    mirrored = difference[:, mesh.mirror] * _FLIP.astype(np.float32)
    spread = float(np.sqrt((difference[:, front] ** 2).sum(-1).mean()))
    root = np.sqrt(vertex_importance(base, mesh)).astype(np.float32)[:, None]
    modes, variances, total = [], [], 0.0
    for part in (0.5 * (difference + mirrored), 0.5 * (difference - mirrored)):
        weighted = (part * root).reshape(count, -1)
        variance, u = np.linalg.eigh((weighted @ weighted.T).astype(np.float64) / count)
        top = np.argsort(variance)[::-1][:keep]
        variances.append(variance[top])
        total += variance.sum()
        modes.append(
            (u[:, top].T.astype(np.float32) @ part.reshape(count, -1) / np.sqrt(count)).reshape(len(top), -1, 3)
        )
    variance, mode = np.concatenate(variances), np.concatenate(modes)
    order = np.argsort(variance)[::-1][:keep]
    return IdentityModel(reference, _fix_signs(mode[order], front), float(variance[order].sum() / total), spread)


def _fix_signs(modes: np.ndarray, front: np.ndarray) -> np.ndarray:
    """Make the largest displacement of each mode positive, so that rebuilding does not flip modes."""
    flat = modes[:, front].reshape(len(modes), -1)
    largest = np.take_along_axis(flat, np.abs(flat).argmax(1)[:, None], 1)[:, 0]
    return modes * np.sign(largest)[:, None, None]
