"""The head cropped from MakeHuman's base mesh: topology, regions, texture coordinates, mirror pairs, a clean neck cut.

The body mesh has texture islands for the head, the mouth cavity and the two eye cavities, so these need no labels. Under
the head island lie closed loops of 48 quads each; their vertices slide over the surface until the last loop lies on a tilted
plane. Every vertex so moved is a fixed weighted mean of old ones, so `HeadMesh.carry` maps any target.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from basis.anny_assets import Assets
from basis.geometry import closest_point, graph_laplacian, surface_points

SKIN, EYEBALL, MOUTH_CAVITY, EYE_CAVITY, TEETH_TONGUE = range(5)
NECK_LOOPS = 5
# The neck is cut where y + 0.25 z reaches this height (decimetres): perpendicular to the neck, level as on a bust.
NECK_HEIGHT, NECK_TILT = 5.95, 0.25


@dataclass(frozen=True)
class HeadMesh:
    """Topology of the head; arrays of vertices are in the cropped order."""

    weights: sp.csr_matrix
    """(V, N) fixed weights from the base mesh's vertices."""
    triangles: np.ndarray
    """(F, 3), counter-clockwise from outside."""
    region: np.ndarray
    """(F,) region of each triangle."""
    texture: np.ndarray
    """(T, 2) the source's texture coordinates; the neck carries cylindrical ones."""
    texture_triangles: np.ndarray
    """(F, 3)."""
    chart: np.ndarray
    """(F,) name of the texture chart of each triangle."""
    mirror: np.ndarray
    """(V,) mirrored vertex."""
    neck_loop: np.ndarray
    """(V,) 0 on the head island's rim, 1 to NECK_LOOPS below it, -1 elsewhere."""

    def carry(self, field: np.ndarray) -> np.ndarray:
        """Map a per-vertex field (N, 3) of the base mesh to the head, in metres."""
        return (self.weights @ field) / 10.0


def crop_head(assets: Assets, shape: np.ndarray) -> HeadMesh:
    """Crop head, cavities, eyeballs, tongue, teeth and neck, and triangulate symmetrically.

    `shape` (N, 3) is the average person, on which the neck is cut level.
    """
    groups, quads = assets.groups, assets.quads
    island = _texture_islands(assets)
    body = groups == "body"
    kinds = _name_islands(assets, island, body)
    names = np.full(len(quads), "", dtype="U12")
    for name, quad_mask in kinds.items():
        names[quad_mask] = name
    for group, name in (
        ("helper-l-eye", "eye_left"),
        ("helper-r-eye", "eye_right"),
        ("helper-tongue", "tongue"),
        ("helper-upper-teeth", "teeth_upper"),
        ("helper-lower-teeth", "teeth_lower"),
    ):
        names[groups == group] = name
    names[_hidden_socket(assets, names)] = ""
    kept = np.flatnonzero((names != "") & (names != "body"))
    ring_quads, loop = _neck_rings(quads, names)
    fixed = np.unique(quads[kept])
    moving = np.flatnonzero(loop > 0)
    old = np.concatenate([fixed, moving])
    position = np.full(len(assets.vertices), -1)
    position[old] = np.arange(len(old))
    one = (np.ones(len(fixed)), (np.arange(len(fixed)), fixed))
    weights = sp.vstack(
        [sp.csr_matrix(one, (len(fixed), len(assets.vertices))), _slide_neck(assets, shape, ring_quads, loop, moving)]
    ).tocsr()
    base = weights @ assets.vertices

    used = np.unique(assets.texture_quads[kept])
    texture_position = np.full(len(assets.texture), -1)
    texture_position[used] = np.arange(len(used))
    neck_quads = position[ring_quads]
    neck_texture, neck_texture_quads = _neck_texture(base, neck_quads)
    all_quads = np.concatenate([position[quads[kept]], neck_quads])
    texture_quads = np.concatenate([texture_position[assets.texture_quads[kept]], neck_texture_quads + len(used)])
    chart = np.concatenate([names[kept], np.full(len(neck_quads), "neck")])

    mirror = _mirror(base, all_quads)
    triangles, texture_triangles, source = _triangulate(base, all_quads, texture_quads, mirror)
    chart = chart[source]
    region = np.select(
        [np.char.startswith(chart, "eye_"), chart == "mouth", np.char.startswith(chart, "socket"), chart == "tongue",
         np.char.startswith(chart, "teeth")],
        [EYEBALL, MOUTH_CAVITY, EYE_CAVITY, TEETH_TONGUE, TEETH_TONGUE],
        SKIN,
    ).astype(np.uint8)  # fmt: skip
    texture = np.concatenate([assets.texture[used], neck_texture])
    return HeadMesh(weights, triangles, region, texture, texture_triangles, chart, mirror, loop[old])


def _texture_islands(assets: Assets) -> np.ndarray:
    """Label of the texture island of each quad."""
    first = np.repeat(assets.texture_quads[:, :1], 3, 1).ravel()
    other = assets.texture_quads[:, 1:].ravel()
    count = len(assets.texture)
    graph = sp.coo_matrix((np.ones(len(first)), (first, other)), (count, count))
    return connected_components(graph, directed=False)[1][assets.texture_quads[:, 0]]


def _name_islands(assets: Assets, island: np.ndarray, body: np.ndarray) -> dict[str, np.ndarray]:
    """Masks over quads of the islands `head`, `mouth`, `socket_left`, `socket_right` and `body` (trunk and neck)."""
    centre = assets.vertices[assets.quads].mean(1)
    found: dict[str, np.ndarray] = {}
    for label in np.unique(island[body]):
        mask = body & (island == label)
        low, high = centre[mask].min(0), centre[mask].max(0)
        if low[1] > 7.0:
            found["socket_left" if low[0] > 0 else "socket_right"] = mask
        elif low[1] > 6.0:
            found["head" if high[1] > 8 else "mouth"] = mask
        elif high[1] > 6.0:
            found["body"] = mask
    return found


def _hidden_socket(assets: Assets, names: np.ndarray) -> np.ndarray:
    """Quads of the eye sockets behind the middle of the eyeballs: never seen, and a third of a megabyte of modes."""
    depth = assets.vertices[assets.quads].mean(1)[:, 2]
    eye = assets.vertices[assets.quads[np.char.startswith(names, "eye_")], 2]
    return np.char.startswith(names, "socket") & (depth < 0.5 * (eye.min() + eye.max()))


def _neck_rings(quads: np.ndarray, names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The NECK_LOOPS closed rings of quads under the head island, and the loop (0 = rim) of every base vertex or -1."""
    rest = quads[names == "body"]
    loop = np.full(quads.max() + 1, -1)
    head = np.unique(quads[names == "head"])
    reached = np.zeros(len(loop), bool)
    reached[head] = True
    rings = []
    for number in range(NECK_LOOPS):
        touching = reached[rest].any(1)
        ring, rest = rest[touching], rest[~touching]
        above = reached[ring]
        loop[ring[above]], loop[ring[~above]] = number, number + 1
        reached[ring] = True
        rings.append(ring)
    return np.concatenate(rings), loop


def _slide_neck(
    assets: Assets, shape: np.ndarray, ring_quads: np.ndarray, loop: np.ndarray, moving: np.ndarray
) -> sp.csr_matrix:
    """Weights that slide the `moving` neck vertices over the body so that the last loop lies on the cutting plane.

    A Laplacian smoothing on the surface spaces the vertices evenly.
    """
    quads = assets.quads
    base_mirror = cKDTree(assets.vertices).query(assets.vertices * [-1, 1, 1])[1]
    vertices = 0.5 * (shape + shape[base_mirror] * [-1, 1, 1])
    centre = vertices[quads].mean(1)
    near = (assets.groups == "body") & (np.abs(centre[:, 0]) < 1.4) & (centre[:, 1] > 5.0) & (centre[:, 1] < 7.0)
    body = np.concatenate([quads[near][:, [0, 1, 2]], quads[near][:, [0, 2, 3]]])
    ring = np.concatenate([ring_quads[:, [0, 1, 2]], ring_quads[:, [0, 2, 3]]])
    normal = np.array([0.0, 1.0, NECK_TILT])
    last = loop[moving] == NECK_LOOPS
    # The last loop is smoothed along itself only; a side given as a degenerate triangle makes the same graph.
    side = np.sort(np.concatenate([ring_quads[:, [k, (k + 1) % 4]] for k in range(4)]), 1)
    side = side[(loop[side] == NECK_LOOPS).all(1)]
    inner, along = (graph_laplacian(t, len(vertices))[moving] for t in (ring, side[:, [0, 1, 1]]))
    smooth = sp.diags((~last).astype(float)) @ inner + sp.diags(last.astype(float)) @ along
    position = vertices.copy()
    for _ in range(60):
        target = position[moving]
        target = target - 0.5 * (smooth @ position)
        target = target + last[:, None] * (NECK_HEIGHT - target @ normal)[:, None] * normal / (normal @ normal)
        triangle, barycentric, _ = closest_point(target, vertices, body)
        position[moving] = surface_points(vertices, body, triangle, barycentric)
    columns = body[triangle]
    rows = np.repeat(np.arange(len(moving))[:, None], 3, 1)
    weights = sp.csr_matrix((barycentric.ravel(), (rows.ravel(), columns.ravel())), (len(moving), len(vertices)))
    # The nearest point is found anew on either side, so make the weights mirror each other exactly.
    swap = np.searchsorted(moving, base_mirror[moving])
    return 0.5 * (weights + weights[swap][:, base_mirror])


def _neck_texture(base: np.ndarray, neck_quads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cylindrical texture coordinates (angle, height) in the unit square, with a seam down the back."""
    used = np.unique(neck_quads)
    axis_depth = 0.5 * (base[used, 2].min() + np.percentile(base[used, 2], 75))
    angle = np.arctan2(base[:, 0], base[:, 2] - axis_depth) / (2 * np.pi) + 0.5
    height = base[:, 1] + NECK_TILT * base[:, 2]
    low, high = height[used].min(), height[used].max()
    corner = np.stack([angle, (height - low) / (high - low)], 1)[neck_quads]
    # Vertices on the seam sit at 0 or 1 depending on the side that the quad lies on.
    on_seam = (np.abs(base[neck_quads, 0]) < 1e-6) & (base[neck_quads, 2] < axis_depth)
    right = base[neck_quads, 0].mean(1, keepdims=True) < 0
    corner[..., 0] = np.where(on_seam, np.where(right, 0.0, 1.0), corner[..., 0])
    texture, inverse = np.unique(corner.reshape(-1, 2).round(9), axis=0, return_inverse=True)
    return texture, inverse.reshape(neck_quads.shape)


def _mirror(base: np.ndarray, quads: np.ndarray) -> np.ndarray:
    """Vertex pairs mirrored in x, checked to map quads onto quads."""
    mirror = cKDTree(base).query(base * [-1, 1, 1])[1]
    if (mirror[mirror] != np.arange(len(base))).any():
        raise ValueError("mirrored vertices do not pair up")
    sorted_quads = {tuple(quad) for quad in np.sort(quads, 1)}
    if any(tuple(quad) not in sorted_quads for quad in np.sort(mirror[quads], 1)):
        raise ValueError("the mirrored mesh has other quads")
    return mirror


def _triangulate(
    base: np.ndarray, quads: np.ndarray, texture_quads: np.ndarray, mirror: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split quads along the shorter diagonal, and a mirrored pair of quads along mirrored diagonals."""
    length = np.linalg.norm(base[quads[:, [0, 1]]] - base[quads[:, [2, 3]]], axis=-1)
    first = length[:, 0] <= length[:, 1] * 1.0001
    row = {tuple(quad): i for i, quad in enumerate(np.sort(quads, 1))}
    partner = np.array([row[tuple(quad)] for quad in np.sort(mirror[quads], 1)])
    for i, j in enumerate(partner):
        if i < j:
            diagonal = set(quads[i, [0, 2]] if first[i] else quads[i, [1, 3]])
            first[j] = set(mirror[quads[j, [0, 2]]]) == diagonal
    order = np.where(first[:, None], [[0, 1, 2, 0, 2, 3]], [[0, 1, 3, 1, 2, 3]]).reshape(-1, 2, 3)
    source = np.repeat(np.arange(len(quads)), 2)

    def split(table: np.ndarray) -> np.ndarray:
        return np.take_along_axis(table[:, None], order, axis=2).reshape(-1, 3)

    return split(quads), split(texture_quads), source
