"""Bake `fitjax/data/occlusion.png`, the ambient occlusion of the embedded head in its texture: python -m basis.build_occlusion

Per vertex: the share of a uniform sky, weighted by the cosine to the normal, that the head itself does not hide. For each of many directions the
turned head is drawn in parallel projection and its vertices are tested against the picture's depth. One map serves all faces, so skin takes the
mean over a few faces and expressions; what lies inside the mouth counts as it is when it can be seen, with the mouth open.
"""

import hashlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from basis.albedo_surface import SIZE, texture_surface
from basis.head_mesh import EYE_CAVITY, EYEBALL, MOUTH_CAVITY, SKIN, TEETH_TONGUE
from fitjax.geometry.surface import vertex_normals
from fitjax.model.albedo import LinearAlbedo
from fitjax.model.linear import LinearModel
from fitjax.model.load import load_basis
from fitjax.model.occlusion import FLOOR
from fitjax.render.rasterize import rasterize
from fitjax.render.visibility import fit_to_square, points_visible

DATA = Path(__file__).resolve().parents[1] / "fitjax" / "data"

DIRECTIONS = 400
RESOLUTION = 384
# The test starts this far above the surface, and depths within the tolerance count as the same surface: metres. Together a little less than a
# pixel, so that a vertex is not hidden by its own triangles, and lids still hide the eyeball below them.
LIFT, TOLERANCE = 4e-4, 4e-4
SMOOTHING = 0.5  # texels

_SMILE = {"mouthSmileLeft": 0.6, "mouthSmileRight": 0.6}
_GRIN = {"mouthUpperUpLeft": 0.6, "mouthUpperUpRight": 0.6, "mouthLowerDownLeft": 0.5, "mouthLowerDownRight": 0.5}
# Expressions that the map of each kind of surface comes from: skin and eyes take the mean, the mouth the most open of its own, since
# tongue and cavity are seen in one of them and teeth in the other.
POSES = {
    "skin": ({}, {"jawOpen": 0.4}, _SMILE),
    "mouth": ({"jawOpen": 0.5, **_SMILE}, {"jawOpen": 0.15, **_SMILE, **_GRIN}),
    "eyes": ({}, {"eyeWideLeft": 1.0, "eyeWideRight": 1.0}),
}
KIND = {SKIN: "skin", EYEBALL: "eyes", EYE_CAVITY: "eyes", MOUTH_CAVITY: "mouth", TEETH_TONGUE: "mouth"}
# Random identities beside the mean, taking turns with the expressions of skin, and the spread of their codes.
SKIN_FACES, FACE_SPREAD = 6, 0.7


def sphere(n: int) -> np.ndarray:
    """Unit vectors (n, 3) spread evenly over the sphere (a Fibonacci lattice)."""
    k = np.arange(n) + 0.5
    z, turn = 1 - 2 * k / n, np.pi * (1 + np.sqrt(5)) * k
    return np.stack([np.sqrt(1 - z * z) * np.cos(turn), np.sqrt(1 - z * z) * np.sin(turn), z], 1)


def view_axes(directions: np.ndarray) -> np.ndarray:
    """Axes (n, 3, 3) of cameras that look back along each direction: rows are x right, y down, z away from the camera."""
    forward = -directions
    # Some other direction of the lattice as a guide turns each picture differently: the pixel grid leaves no pattern.
    right = np.cross(np.roll(directions, len(directions) // 3, 0), forward)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    return np.stack([right, np.cross(forward, right), forward], 1)


@jax.jit
def openness(vertices: Float[Array, "V 3"], triangles: Array, axes: Float[Array, "n 3 3"]) -> Float[Array, "V"]:
    """Cosine-weighted share of the hemisphere above each vertex, 0 to 1, that the mesh does not hide.

    Args:
        vertices: metres. triangles: (F, 3). axes: of the cameras, see `view_axes`.
    """
    normals = vertex_normals(vertices, triangles)
    n = len(vertices)

    def add(total: tuple[Array, Array], turn: Array) -> tuple[tuple[Array, Array], None]:
        # One metre in front of the camera, depth in metres is its own relative measure; lifted points share the mesh's fit to the square.
        both = jnp.concatenate([vertices, vertices + LIFT * normals]) @ turn.T + jnp.array([0.0, 0.0, 1.0])
        both = fit_to_square(both, RESOLUTION)
        mesh, points = both[:n], both[n:]
        # Back faces hide too: what enters the front of the neck may leave through its open end, and is hidden all the same.
        ids = rasterize(mesh, triangles, RESOLUTION, RESOLUTION, cull_back=False, perspective=False)
        visible = points_visible(points, mesh, triangles, ids, perspective=False, tolerance=TOLERANCE)
        cosine = jnp.maximum(-(normals @ turn[2]), 0)
        return (total[0] + cosine * visible, total[1] + cosine), None

    (seen, all_), _ = jax.lax.scan(add, (jnp.zeros(n), jnp.zeros(n)), axes)
    return seen / jnp.maximum(all_, 1e-6)


def vertex_maps(model: LinearModel) -> dict[str, np.ndarray]:
    """Openness (V,) per kind of surface, left-right symmetric, 0 to 1."""
    axes = jnp.asarray(view_axes(sphere(DIRECTIONS)), jnp.float32)
    mean = np.asarray(model.mean)
    # The mean head is its own mirror image to rounding, so nearest vertices are partners.
    distance, partner = cKDTree(mean).query(mean * [-1, 1, 1])
    if distance.max() > 1e-6 or (partner[partner] != np.arange(len(mean))).any():
        raise ValueError(f"mirror images of vertices are {distance.max():.1e} m off; expected a symmetric mean head")
    start = model.init()

    def of(pose: dict[str, float], identity: np.ndarray | None = None) -> np.ndarray:
        expression = np.zeros(model.n_expression, np.float32)
        for name, value in pose.items():
            expression[model.expression_names.index(name)] = value
        params = {**start, "expression": jnp.asarray(expression)}
        if identity is not None:
            params["identity"] = jnp.asarray(identity, jnp.float32)
        value = np.asarray(openness(model.decode(params).vertices, model.triangles, axes))
        return 0.5 * (value + value[partner])

    rng, poses = np.random.default_rng(0), POSES["skin"]
    codes = FACE_SPREAD * rng.standard_normal((SKIN_FACES, len(start["identity"])))
    skin = [of(pose) for pose in poses] + [of(poses[k % len(poses)], code) for k, code in enumerate(codes)]
    return {
        "skin": np.mean(skin, 0),
        "mouth": np.max([of(pose) for pose in POSES["mouth"]], 0),
        "eyes": np.mean([of(pose) for pose in POSES["eyes"]], 0),
    }


def texels(model: LinearModel, values: dict[str, np.ndarray], size: int = SIZE) -> np.ndarray:
    """Values (V,) per kind of surface as one map (size, size) in [FLOOR, 1], row 0 at v = 1; symmetric in the skin's rows."""
    kinds = list(values)
    stacked = np.stack([values[kind] for kind in kinds], 1).astype(np.float32)
    # Three kinds, three channels: the albedo's way from vertices to texels serves as it is.
    carrier = LinearAlbedo(
        jnp.asarray(stacked), jnp.zeros((0, *stacked.shape), jnp.float32), jnp.zeros(0), per_vertex=True
    )
    uv, uv_triangles, triangles = (np.asarray(x) for x in (model.uv, model.uv_triangles, model.triangles))
    channels = np.asarray(carrier.to_uv(uv, uv_triangles, triangles, size).mean)
    surface = texture_surface(model, size)
    row = np.array([kinds.index(KIND[region]) for region in range(len(KIND))])[surface.region]
    value = np.take_along_axis(channels, row[..., None], -1)[..., 0]
    # Only within a chart: what the gutter or the next chart holds is no neighbour on the head.
    same = [(surface.covered & (surface.region == region)).astype(float) for region in KIND]
    for mask in same:
        blurred = gaussian_filter(mask * value, SMOOTHING) / np.maximum(gaussian_filter(mask, SMOOTHING), 1e-6)
        value = np.where(mask > 0, blurred, value)
    value[: surface.skin_rows] = 0.5 * (value[: surface.skin_rows] + value[: surface.skin_rows, ::-1])
    return value.clip(FLOOR, 1)


def main() -> None:
    """Write the map and its record."""
    model = load_basis(level=1, sample_sets=("mediapipe478",))
    levels = np.round(texels(model, vertex_maps(model)) * 255)
    levels = np.maximum(levels, np.ceil(FLOOR * 255)).astype(np.uint8)
    path = DATA / "occlusion.png"
    Image.fromarray(levels).save(path, optimize=True)
    raw = path.read_bytes()
    record = {
        "file": path.name,
        "licence": "CC0-1.0",
        "bytes": len(raw),
        "sha256": hashlib.sha256(raw).hexdigest(),
        "provenance": {
            "source": "computed from the embedded basis",
            "script": "basis/build_occlusion.py",
            "basis_sha256": model.basis_sha256,
            "directions": DIRECTIONS,
            "resolution": RESOLUTION,
            "floor": FLOOR,
        },
    }
    path.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"{len(raw)} bytes, mean {levels.mean() / 255:.3f}")


if __name__ == "__main__":
    main()
