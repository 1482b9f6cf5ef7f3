"""Shapes as coefficients: a metric in millimetres, principal components of identities in it, and their way back to the modes of a basis."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fitjax.geometry.host_mesh import graph_laplacian, triangle_areas

#: What one spread of the age counts in the metric, millimetres (root mean square over the face): about what its wrinkles do.
AGE_MILLIMETRES = 0.1
#: Share that a square millimetre off the front of the face counts.
_BEHIND = 0.1


def vertex_weights(model: Any) -> np.ndarray:
    """(V,) that sum to one: area, on the front of the face's skin fully, elsewhere a tenth."""
    vertices, triangles = np.asarray(model.mean, np.float64), np.asarray(model.triangles)
    area = np.zeros(len(vertices))
    np.add.at(area, triangles.ravel(), np.repeat(triangle_areas(vertices, triangles), 3) / 3)
    skin = np.zeros(len(vertices), bool)
    skin[triangles[np.asarray(model.triangle_region) == 0]] = True
    # Head space has its origin in the face: the front is what lies before it, above the chin.
    front = skin & (vertices[:, 2] > 0) & (vertices[:, 1] > vertices[skin][:, 1].min() * 0.75)
    weight = area * np.where(front, 1, _BEHIND)
    return weight / weight.sum()


class IdentityComponents(NamedTuple):
    """R components of identity coefficients with, last, the age.

    Attributes:
        sigma: (R,) millimetres. to_modes: (R, K + 1) components → coefficients and age. from_modes: (K + 1, R) the way back.
        filter: (R, R) of the proxy: smoother shapes.
    """

    sigma: np.ndarray
    to_modes: np.ndarray
    from_modes: np.ndarray
    filter: np.ndarray


def identity_components(model: Any, identity: np.ndarray, age: np.ndarray, smoothness: float = 30.0) -> IdentityComponents:
    """Components of random identities (N, K) with ages (N,) about the mean face, in the metric of :func:`vertex_weights`.

    Args:
        smoothness: weight of the squared Laplacian (mean of the neighbours - vertex) in the proxy, against the square distance to the full shape.
    """
    k = model.n_identity
    modes = np.asarray(model.modes, np.float64)[:k].reshape(k, -1, 3) * 1000
    root = np.sqrt(vertex_weights(model))[None, :, None]
    flat = (modes * root).reshape(k, -1)
    gram = np.zeros((k + 1, k + 1))
    gram[:k, :k] = flat @ flat.T
    gram[k, k] = AGE_MILLIMETRES**2
    # Modes that the weights hardly see stay apart by a trace.
    factor = np.linalg.cholesky(gram + 1e-9 * np.trace(gram) * np.eye(k + 1))
    coefficients = np.concatenate([identity, age[:, None]], 1) @ factor
    values, vectors = np.linalg.eigh(coefficients.T @ coefficients / len(coefficients))
    values, vectors = values[::-1], vectors[:, ::-1]
    to_modes = vectors.T @ np.linalg.inv(factor)
    laplacian = graph_laplacian(np.asarray(model.triangles), model.n_vertices)
    rough = np.stack([laplacian @ mode for mode in modes]) * root
    rough = to_modes[:, :k] @ rough.reshape(k, -1)
    smooth = np.linalg.inv(np.eye(k + 1) + smoothness * (rough @ rough.T))
    single = [x.astype(np.float32) for x in (np.sqrt(values), to_modes, factor @ vectors, smooth)]
    return IdentityComponents(*single)
