"""Which triangles of an unknown head are skin, eyeballs, cavities or teeth, by comparison with ours."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from fitjax.geometry.host_mesh import SurfaceIndex, fit_sphere, triangle_normals, vertex_components
from fitjax.model.basis_file import Basis

#: Regions of docs/basis_format.md that matter here; ``LOOSE`` pieces are teeth, tongue and what else is not tied to the skin.
SKIN, EYEBALL, LOOSE = 0, 1, 4


def eyeballs(basis: Basis) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Vertices, centre and radius of our right and left eyeball."""
    found = []
    vertices = np.unique(basis.triangles[basis.triangle_region == EYEBALL])
    for side in (-1, 1):
        chosen = vertices[side * basis.mean[vertices, 0] > 0]
        found.append((chosen, *fit_sphere(basis.mean[chosen].astype(float))[:2]))
    return found


def loose_pieces(ours: Basis, other: np.ndarray, triangles: np.ndarray) -> Int[np.ndarray, "F"]:
    """0 for the largest piece of a mesh, 1 for eyeballs (loose spheres where ours are), 4 for any other piece."""
    piece = vertex_components(other, triangles)
    of_triangle = piece[triangles[:, 0]]
    largest = np.bincount(of_triangle).argmax()
    result = np.where(of_triangle == largest, SKIN, LOOSE)
    for number in np.unique(of_triangle[of_triangle != largest]):
        points = other[np.unique(triangles[of_triangle == number])]
        if len(points) < 12:
            continue
        centre, radius, off = fit_sphere(points)
        near = min(float(np.linalg.norm(centre - middle)) for _, middle, _ in eyeballs(ours))
        if 0.007 < radius < 0.02 and off < 0.15 * radius and near < 0.02:
            result[of_triangle == number] = EYEBALL
    return result


def nearest_regions(
    ours: Basis, deformed: np.ndarray, other: np.ndarray, triangles: np.ndarray, loose: np.ndarray
) -> np.ndarray:
    """Regions of triangles by the nearest of ours that face the same way."""
    middle, normal = other[triangles].mean(1), triangle_normals(other, triangles)
    main = np.flatnonzero(loose == SKIN)
    ours_main = (ours.triangle_region != EYEBALL) & (ours.triangle_region != LOOSE)
    found, _, distance = SurfaceIndex(deformed, ours.triangles, ours_main).closest(
        middle[main], normal[main], neighbours=24
    )
    result = loose.copy()
    result[main] = np.where(distance < 0.03, ours.triangle_region[found], SKIN)
    return result
