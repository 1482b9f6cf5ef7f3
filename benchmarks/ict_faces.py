"""Faces that the embedded model did not make: ICT-FaceKit's scans and expressions, registered to its topology.

A fit to a face drawn from the model itself is an inverse crime: what the model cannot show never occurs. Here the mean of ICT-FaceKit is
registered to the embedded mesh once, each vertex is attached to the point of ICT's surface that it came to lie on, and follows it through ICT's
own identities and expressions. So the truth has landmarks, parts and vertices that correspond, and shapes that lie outside the fitted span.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

import fitjax as fj
from basis.geometry import closest_point, graph_laplacian, similarity, surface_points, vertex_normals
from basis.registration import register
from benchmarks.shared_data import require
from fitjax.model.linear import LinearModel
from fitjax.pytree import replace

#: ICT's vertices before this one are the skin of face, head and neck; ranges of its eyeballs, the subject's left and right.
_SKIN = 11248
_EYEBALLS = {"left": (21451, 23021), "right": (23021, 24591)}

#: Regions of the embedded mesh (docs/basis_format.md).
_REGION_SKIN, _REGION_EYEBALL, _REGION_TEETH = 0, 1, 4

#: A vertex farther from ICT's surface than this (metres), or with another normal, follows its neighbours.
_REACH, _AGREES = 0.003, 0.5

#: Identities used of the hundred: the rest are finer than the registration.
IDENTITIES = 50


def ict_model(model: LinearModel) -> LinearModel:
    """ICT-FaceKit as a model of the embedded one's topology, with its sample sets and map of parts.

    Its expressions are not the embedded model's: names are ICT's (``jawOpen``, ``eyeBlink_L``, ...).

    Raises:
        Unavailable: the data is absent.
    """
    with np.load(require("ict/ict_packed.npz"), allow_pickle=False) as data:
        neutral = data["vertices_cm"].astype(np.float64) / 100
        triangles = data["triangles"].astype(int)
        marks = data["landmarks68_readme"]
        names = tuple(str(n) for n in data["expression_names"])
        deltas = (
            np.concatenate([data["identity_001mm"][:IDENTITIES], data["expression_001mm"]]).astype(np.float64) * 1e-5
        )
    skin = triangles[(triangles < _SKIN).all(1)]
    # Landmarks of the jaw are drawn differently from model to model; the chin alone is the same.
    used = np.array([8, *range(17, 68)])
    samples = model.sample_library["ibug68"]
    corner, weight = np.asarray(model.triangles)[np.asarray(samples.triangle)], np.asarray(samples.barycentric)
    index = corner[np.arange(68), weight.argmax(1)][used]
    source = np.asarray(model.mean, np.float64)
    ours, region = np.asarray(model.triangles), np.asarray(model.triangle_region)
    faces = ours[region == _REGION_SKIN]
    placed = register(source, faces, neutral[:_SKIN], skin, index, neutral[marks[used]])

    # Lips and lids lie close together: without the normals, one would follow the other.
    triangle, barycentric, distance = closest_point(placed, neutral, skin)
    normal = surface_points(vertex_normals(neutral, skin), skin, triangle, barycentric)
    agrees = (normal * vertex_normals(placed, faces)).sum(1) > _AGREES * np.maximum(
        np.linalg.norm(normal, axis=1), 1e-9
    )
    on_skin = np.zeros(len(source), bool)
    on_skin[faces] = True
    held = on_skin & agrees & (distance < _REACH)
    moves = np.einsum("sk,mskc->msc", barycentric, deltas[:, skin[triangle]])
    scale, rotation, shift = similarity(source[index], neutral[marks[used]])
    moved = placed - (scale * source @ rotation.T + shift)
    moved[~on_skin] = 0
    # Cavities, and what is held by nothing, follow smoothly; those of the registration itself too.
    fields = np.concatenate([moved[None], moves])
    spread = _follow(fields, ours, np.stack([on_skin, held]))
    mean = scale * source @ rotation.T + shift + spread[0]
    modes = spread[1:]
    for side, (low, high) in _EYEBALLS.items():
        ball = np.zeros(len(source), bool)
        ball[ours[region == _REGION_EYEBALL]] = True
        ball &= (source[:, 0] > 0) == (side == "left")
        middle, radius = _sphere(source[ball])
        goal, size = _sphere(neutral[low:high])
        mean[ball] = goal + (source[ball] - middle) @ rotation.T * (size / radius)
        modes[:, ball] = deltas[:, low:high].mean(1)[:, None]
        modes[IDENTITIES:, ball] = 0
    # Teeth belong to no part; ours, unattached, would stand in the open mouth.
    teeth = np.zeros(len(source), bool)
    teeth[ours[region == _REGION_TEETH]] = True
    mean[teeth], modes[:, teeth] = source[teeth].mean(0) * [0, 0, 1], 0
    dtype = model.mean.dtype
    count = len(names)
    result = replace(
        model,
        mean=jnp.asarray(mean, dtype),
        modes=jnp.asarray(modes.reshape(len(modes), -1), dtype),
        expression_sigma=jnp.ones(count, dtype),
        expression_lower=jnp.zeros(count, dtype),
        expression_upper=jnp.ones(count, dtype),
        sampled={},
        name="ict",
        expression_names=names,
    )
    for name in ("mediapipe478", "ibug68"):
        result = result.with_samples(name)
    return fj.with_part_samples(result)


def _follow(fields: np.ndarray, triangles: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Displacement fields (M, V, 3) continued smoothly from where they are known (2, V): of the first field, and of all others."""
    laplacian = graph_laplacian(triangles, fields.shape[1])
    result = fields.copy()
    for chosen, rows in ((known[0], slice(0, 1)), (known[1], slice(1, None))):
        free = np.nonzero(~chosen)[0]
        # A component without any known vertex stays where it is.
        inner = laplacian[free][:, free] + 1e-9 * sp.identity(len(free))
        values = fields[rows][:, chosen].transpose(1, 0, 2).reshape(int(chosen.sum()), -1)
        solved = splu(inner.tocsc()).solve(-(laplacian[free][:, np.nonzero(chosen)[0]] @ values))
        result[rows, free] = solved.reshape(len(free), -1, 3).transpose(1, 0, 2)
    return result


def _sphere(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre and radius of the best sphere: an eyeball."""
    system = np.concatenate([2 * points, np.ones((len(points), 1))], 1)
    solved: Any = np.linalg.lstsq(system, (points**2).sum(1), rcond=None)[0]
    return solved[:3], float(np.sqrt(solved[3] + (solved[:3] ** 2).sum()))
