"""Triangles for a cloud of points that samples a surface: for models that come without their mesh.

Candidates are the sides of the three-dimensional Delaunay tetrahedra whose smallest circumscribed ball holds no other point (Gabriel's condition),
which on a well-sampled surface are close to it. Smallest first, each is taken if all its sides are still free and it does not fold back upon a
neighbour.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree
from scipy.spatial import Delaunay, QhullError, cKDTree

from fitjax.errors import BasisError
from fitjax.geometry.host_mesh import triangle_normals

#: Balls larger than this many distances to the nearest neighbours span a gap.
_REACH = 2.5
#: Two triangles at a side lie on top of each other if the directions into them have a larger cosine than this.
_FOLD = -0.3


def triangulated(points: Float[np.ndarray, "V 3"]) -> Int[np.ndarray, "F 3"]:
    """Triangles with sides used at most twice, wound alike within each piece; which side is outside is not known.

    Raises:
        BasisError: the points sample no surface.
    """
    if len(points) < 16 or not np.isfinite(points).all():
        raise BasisError("a surface needs at least 16 finite points")
    try:
        cells = Delaunay(points).simplices
    except (QhullError, ValueError):
        raise BasisError("the points lie in a plane or on a line; expected a surface") from None
    faces = np.unique(
        np.sort(np.concatenate([cells[:, k] for k in ([0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3])]), axis=1), axis=0
    )
    tree = cKDTree(points)
    spacing = tree.query(points, 7)[0][:, 1:].mean(1)
    centre, radius = _balls(points[faces])
    kept = radius < _REACH * spacing[faces].max(1)
    faces, centre, radius = faces[kept], centre[kept], radius[kept]
    nearest = tree.query(centre)[0]
    empty = nearest > radius * (1 - 1e-6)
    faces, radius = faces[empty], radius[empty]
    chosen = _greedy(points, faces[np.argsort(radius, kind="stable")])
    if len(chosen) < len(points) // 2:
        raise BasisError("the points do not sample a surface")
    return _wound_alike(points, chosen)


def _balls(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres and radii of the circles through triangles (N, 3, 3); infinite for thin ones."""
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    ab, ac = b - a, c - a
    normal = np.cross(ab, ac)
    square = (normal**2).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        offset = np.cross((ab**2).sum(1)[:, None] * ac - (ac**2).sum(1)[:, None] * ab, normal) / (2 * square[:, None])
    radius = np.linalg.norm(offset, axis=1)
    thin = ~np.isfinite(radius)
    offset[thin], radius[thin] = 0, np.inf
    return a + offset, radius


def _greedy(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Faces in order, as long as no side has more than two of them and no two lie on top of each other."""
    # Towards the third corner, square to the side, unit length: one vector for each side of each face.
    corner = points[faces]
    inward = []
    for a, b, c in ((0, 1, 2), (0, 2, 1), (1, 2, 0)):
        along, out = corner[:, b] - corner[:, a], corner[:, c] - corner[:, a]
        along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-30)
        out = out - along * (out * along).sum(1, keepdims=True)
        inward.append(out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-30))
    directions = np.stack(inward, 1).tolist()
    taken: dict[tuple[int, int], tuple[float, float, float] | None] = {}
    chosen = []
    for k, (a, b, c) in enumerate(faces.tolist()):
        sides = ((a, b), (a, c), (b, c))
        fits = True
        for side, (x, y, z) in zip(sides, directions[k]):
            if side in taken:
                other = taken[side]
                fits = fits and other is not None and x * other[0] + y * other[1] + z * other[2] < _FOLD
        if not fits:
            continue
        chosen.append(k)
        for side, direction in zip(sides, directions[k]):
            taken[side] = None if side in taken else direction
    return faces[chosen]


def _wound_alike(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Each piece wound in one sense: a common side is walked in opposite directions by its two triangles.

    From triangle to triangle along the flattest sides (H. Hoppe et al., "Surface Reconstruction from Unorganized Points", SIGGRAPH 1992): a few
    doubtful triangles must not turn a whole region over.
    """
    walked = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    owner = np.tile(np.arange(len(faces)), 3)
    forward = walked[:, 0] < walked[:, 1]
    key = np.sort(walked, axis=1) @ [len(points), 1]
    order = np.argsort(key, kind="stable")
    pair = np.flatnonzero(key[order][1:] == key[order][:-1])
    one, other = order[pair], order[pair + 1]
    normals = triangle_normals(points, faces)
    flat = np.abs((normals[owner[one]] * normals[owner[other]]).sum(1))
    turned = forward[one] == forward[other]
    # Two triangles with two common sides count once; weights of zero would be no edges.
    weight = sp.coo_matrix((1.001 - flat, (owner[one], owner[other])), (len(faces), len(faces))).tocsr()
    names = np.minimum(owner[one], owner[other]) * len(faces) + np.maximum(owner[one], owner[other])
    by_name = np.argsort(names, kind="stable")
    tree = minimum_spanning_tree(weight)
    tree = (tree + tree.T).tocsr()
    sign = np.zeros(len(faces))
    for first in np.unique(connected_components(tree, directed=False)[1], return_index=True)[1]:
        sequence, parent = breadth_first_order(tree, first, directed=False)
        sign[first] = 1
        child, above = sequence[1:].astype(np.int64), parent[sequence[1:]].astype(np.int64)
        name = np.minimum(child, above) * len(faces) + np.maximum(child, above)
        step = turned[by_name[np.searchsorted(names[by_name], name)]]
        for face, before, turn in zip(child.tolist(), above.tolist(), step.tolist()):
            sign[face] = -sign[before] if turn else sign[before]
    result = faces.copy()
    result[sign < 0] = result[sign < 0][:, [0, 2, 1]]
    return result
