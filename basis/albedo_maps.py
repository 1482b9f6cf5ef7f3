"""Maps of the biophysical albedo: smooth modes, face regions, hair, and what is not skin. All in the texture of the embedded basis."""

import numpy as np
from scipy.ndimage import distance_transform_edt, label

from basis.albedo_surface import (
    TextureSurface,
    bump,
    curve,
    distance_to_curve,
    inside_polygon,
    sigmoid,
)

# MediaPipe face mesh indices of the subject's right side (documented with the canonical face).
_LIPS_OUTER = (61, 146, 91, 181, 84, 17, 0, 37, 39, 40, 185)
_LID_UPPER = (33, 246, 161, 160, 159, 158, 157, 173, 133)
_LID_LOWER = (33, 7, 163, 144, 145, 153, 154, 155, 133)
_CREASE = (247, 30, 29, 27, 28, 56)
_TEAR_TROUGH = (228, 229, 230, 231, 232)
_BROW_TOP, _BROW_BOTTOM = (70, 63, 105, 66, 107), (46, 53, 52, 65, 55)

SMOOTH_SIZE = 64
N_EVEN, N_ODD = 8, 4
_LENGTH = 32.0  # mm, of the smooth modes


def smooth_modes(surface: TextureSurface, seed: int = 0) -> np.ndarray:
    """Modes (12, 64, 64) of a Gaussian process on the skin: 8 even and 4 odd under reflection; unit variance in total on the face.

    Squared-exponential covariance in 3-D distance, split by symmetry (Lüthi et al., "Gaussian process morphable models", PAMI 2018), over
    points that cover the front of the head evenly; extended to all texels by Nyström's formula.
    """
    position = surface.position
    step = position.shape[0] // SMOOTH_SIZE
    coarse = position.reshape(SMOOTH_SIZE, step, SMOOTH_SIZE, step, 3).mean((1, 3))
    front = sigmoid((position[..., 2] + 25) / 8) * sigmoid((position[..., 1] + 95) / 6) * (surface.region == 0)
    weight = (front * surface.millimetres**2 * surface.covered)[:, : position.shape[1] // 2].ravel()
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(weight), 700, replace=False, p=weight / weight.sum())
    points = position[:, : position.shape[1] // 2].reshape(-1, 3)[chosen]
    mirror = np.array([-1.0, 1, 1])

    def kernel(a: np.ndarray, b: np.ndarray, sign: int) -> np.ndarray:
        def one(p: np.ndarray, q: np.ndarray) -> np.ndarray:
            return np.exp(-0.5 * ((p[:, None] - q[None]) ** 2).sum(-1) / _LENGTH**2)

        return 0.5 * (one(a, b) + sign * one(a, b * mirror))

    modes = []
    side = np.where(np.arange(SMOOTH_SIZE) < SMOOTH_SIZE // 2, 1.0, -1.0)
    for sign, count in ((1, N_EVEN), (-1, N_ODD)):
        values, vectors = np.linalg.eigh(kernel(points, points, sign))
        values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
        extended = kernel(coarse.reshape(-1, 3), points, sign) @ vectors / np.sqrt(values)
        extended = extended.T.reshape(count, SMOOTH_SIZE, SMOOTH_SIZE)
        modes.append(extended if sign > 0 else extended * side)
    return np.concatenate(modes)


def _ear(surface: TextureSurface) -> tuple[np.ndarray, np.ndarray]:
    """Centre and radii in UV of the ear on the right half: where the surface sticks out beside the head."""
    x, y = surface.position[..., 0], surface.position[..., 1]
    size = x.shape[0]
    out = (x > 74.5) & (y < 40) & (surface.region == 0)
    out[surface.skin_rows :] = False
    rows, columns = np.nonzero(out[:, : size // 2])
    uv = np.stack([(columns + 0.5) / size, 1 - (rows + 0.5) / size], -1)
    return uv.mean(0), 2.1 * uv.std(0)


def lips(surface: TextureSurface) -> tuple[np.ndarray, np.ndarray]:
    """Weight (H, W) of the lips, and that of the lower lip among them."""
    uv = surface.landmark_uv[list(_LIPS_OUTER)]
    lower, upper = curve(uv[:6], 60), curve(uv[6:][:, :], 60)
    polygon = np.concatenate([lower, upper, uv[:1]])
    signed = inside_polygon(surface, polygon)
    line = curve(surface.landmark[[13, 82, 81, 80, 191, 78]])
    order = np.argsort(line[:, 0])
    middle = np.interp(surface.position[..., 0], line[order, 0], line[order, 1])
    return sigmoid((signed + 0.2) / 0.75), sigmoid((middle - surface.position[..., 1]) / 0.9)


def region_maps(surface: TextureSurface) -> dict[str, np.ndarray]:
    """Named weights (H, W) in [0, 1] of face regions, even under reflection."""
    at = surface.landmark
    y, z = surface.position[..., 1], surface.position[..., 2]
    size = y.shape[0]
    lip, lower = lips(surface)
    ear_centre, ear_radius = _ear(surface)
    u, v = np.meshgrid((np.arange(size) + 0.5) / size, 1 - (np.arange(size) + 0.5) / size)
    ear = sigmoid(
        6
        * (1.15 - np.hypot((np.minimum(u, 1 - u) - ear_centre[0]) / ear_radius[0], (v - ear_centre[1]) / ear_radius[1]))
    )

    def band(indices: tuple[int, ...], width: float, offset: float = 0.0) -> np.ndarray:
        points = at[list(indices)] + np.array([0, offset, 0])
        distance, _, _ = distance_to_curve(surface, points)
        return np.exp(-0.5 * (distance / width) ** 2)

    # Where lids fold in, front and back lie close together in space: only what faces outwards counts.
    upper_lid = band(_CREASE, 4.2, -1.5)
    under_eye = band(_TEAR_TROUGH, 4.0, 1.5)
    rim = np.maximum(band(_LID_UPPER, 1.1), band(_LID_LOWER, 1.1))
    maps = {
        "cheeks": bump(surface, at[50] * [0.95, 1, 1] + [0, -2, 0], (15, 13, 16)),
        "nose": np.maximum(bump(surface, at[4], (11, 9, 12)), 0.8 * bump(surface, at[129] + [0, -2, 2], (6, 6, 7))),
        "nose_bridge": bump(surface, at[6] + [0, -6, 0], (8, 14, 10)),
        "forehead": bump(surface, at[151] + [0, 4, 0], (42, 19, 40)),
        "chin": bump(surface, at[199] + [0, -5, 0], (14, 9, 14)),
        "upper_lids": upper_lid * (1 - 0.5 * rim),
        "under_eye": under_eye * (1 - 0.5 * rim),
        "eye_rims": rim,
        "around_mouth": bump(surface, 0.5 * (at[0] + at[17]), (27, 19, 25)) * (1 - lip),
        "lips": lip,
        "lower_lip": lip * (2 * lower - 1),
        "ears": ear,
        "neck": sigmoid((at[152, 1] - 6 - y) / 4) * sigmoid((at[152, 2] + 2 - z) / 4),
        "jaw_side": bump(surface, at[58] * [1, 1, 1] + [0, 5, 5], (14, 22, 26)),
    }
    skin = np.arange(size)[:, None] < surface.skin_rows
    return {name: value * skin for name, value in maps.items()}


def hair_maps(surface: TextureSurface) -> dict[str, tuple[np.ndarray, float]]:
    """Named (signed distance (H, W) in mm, positive where hair grows, clipped to ±20; softness of the border in mm)."""
    at, uv = surface.landmark, surface.landmark_uv
    position = surface.position
    skin = np.zeros(position.shape[:2], bool)
    skin[: surface.skin_rows] = True
    lip, _ = lips(surface)
    ear_centre, ear_radius = _ear(surface)

    # Brow: a tapering band about the middle line between its upper and lower contour.
    axis = 0.5 * (at[list(_BROW_TOP)] + at[list(_BROW_BOTTOM)])
    axis = axis + np.array([[1.5, -0.5, -1.5], [0, 0.6, 0], [0, 0.6, 0], [0, 0, 0], [0, -0.3, 0]])
    distance, along, _ = distance_to_curve(surface, axis)
    half_width = np.interp(along, [0, 0.25, 0.55, 0.85, 1.0], [0.7, 2.0, 3.1, 3.4, 2.6])
    brow = half_width - distance

    # Lashes: thin lines on the lid margins.
    upper = 0.95 - distance_to_curve(surface, at[list(_LID_UPPER)])[0]
    lower = 0.25 - distance_to_curve(surface, at[list(_LID_LOWER)])[0]
    lash = np.maximum(upper, lower)

    # Scalp: above the hairline, down the sideburn, around the ear, down to the nape.
    pairs = (
        (10, 151, 1.65),
        (109, 108, 1.6),
        (67, 69, 1.4),
        (103, 104, 1.25),
        (54, 68, 0.95),
        (21, 71, 0.45),
        (162, 139, 0.2),
    )
    line = [uv[a] + f * (uv[a] - uv[b]) for a, b, f in pairs]
    line += [uv[127] + [-0.008, 0], np.array([uv[234][0] + 0.004, ear_centre[1] + 0.1 * ear_radius[1]])]
    # With its mirror image, so that the line is level in the middle: no peak, no notch.
    mirrored = [np.array([1 - p[0], p[1]]) for p in line[:0:-1]]
    front = curve(np.array([*mirrored, *line]), 161)[77:]  # starts beyond the middle, so that the halves overlap
    (eu, ev), (ru, rv) = ear_centre, ear_radius
    around = [(eu + 1.25 * ru, ev - 0.05 * rv), (eu + 1.3 * ru, ev + 0.7 * rv), (eu, ev + 1.25 * rv)]
    around += [
        (eu - 1.3 * ru, ev + 0.6 * rv),
        (eu - 1.4 * ru, ev - 0.9 * rv),
        (eu - 1.6 * ru, ev - 1.9 * rv),
        (-0.05, ev - 2.3 * rv),
    ]
    scalp = inside_polygon(surface, np.concatenate([front, around, [(-0.05, 1.1), (front[0, 0], 1.1)]]))

    # Beard: below a line from the sideburn over the cheek to the wing of the nose; fades out below the jaw.
    corner, wing, subnasale = uv[61], uv[98], uv[2]
    sideburn = np.array([eu + 1.4 * ru, ev + 0.1 * rv])
    cheek = [
        sideburn + np.array([0.03, 0.0]),
        uv[177] + [0.035, 0.01],
        uv[213] + [0.02, -0.005],
        uv[214] + [0.0, 0.012],
    ]
    outward = np.array([[-0.018, 0.022], [-0.012, 0.004], [-0.004, -0.012]])
    lip_side = np.array([corner, 0.5 * (corner + wing), wing]) + outward
    top = curve(np.array([sideburn, *cheek, *lip_side, subnasale + np.array([0, -0.008])]), 120)
    bottom = [(0.5, 0.1), (0.12, 0.1), (eu + 1.0 * ru, ev - 1.4 * rv)]
    beard = inside_polygon(surface, np.concatenate([top, bottom]))
    beard = np.minimum(beard, position[..., 1] - (at[152, 1] - 14))
    beard = np.minimum(beard, 6 * np.log((1 - lip).clip(1e-3) / lip.clip(1e-3)).clip(-3, 3) + 3)
    above = sigmoid((position[..., 1] - at[61, 1] - 1.0) / 2.0) * sigmoid((at[61, 0] + 7 - position[..., 0]) / 2.5)
    moustache = np.minimum(beard, 24 * above - 12)
    beard = np.minimum(beard, 12 - 24 * above)
    fields = {
        "brow": (brow, 0.85),
        "beard": (beard, 3.2),
        "moustache": (moustache, 2.0),
        "scalp": (scalp, 2.6),
        "lash": (lash, 0.35),
    }
    return {k: (np.where(skin, d, -20).clip(-20, 20), softness) for k, (d, softness) in fields.items()}


def material_maps(surface: TextureSurface) -> dict[str, np.ndarray]:
    """Named weights (H, W) of what is not skin, in [0, 1]; they sum to one there and to zero on the skin."""
    region, position, at = surface.region, surface.position, surface.landmark
    eye = (region == 1).astype(float)
    radius = np.linalg.norm(position - at[468], axis=-1)
    front = sigmoid((position[..., 2] - at[468, 2] + 6) / 0.5)
    iris = eye * front * sigmoid((5.9 - radius) / 0.3)
    pupil = iris * sigmoid((1.9 - radius) / 0.3)
    limbus = (iris - pupil) * (0.5 * np.exp(-0.5 * ((radius - 5.9) / 0.8) ** 2))
    # Teeth and tongue share a region: the tongue's chart is the one that is narrowest from side to side in 3-D.
    parts, count = label((region == 4) & surface.covered)
    width = [position[parts == k + 1][:, 0].max() for k in range(count)]
    near = distance_transform_edt(parts == 0, return_distances=False, return_indices=True)
    tongue = ((region == 4) & (parts[tuple(near)] == 1 + int(np.argmin(width)))).astype(float)
    return {
        "sclera": eye - iris,
        "iris": iris - pupil - limbus,
        "pupil": pupil,
        "limbus": limbus,
        "mouth": (region == 2).astype(float),
        "tongue": tongue,
        "teeth": (region == 4) - tongue,
        "socket": (region == 3).astype(float),
    }
