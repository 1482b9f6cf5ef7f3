"""ICT-FaceKit's light model, from the folder of OBJ files that it comes as, in the terms of `fitjax-basis/1`.

Source: https://github.com/USC-ICT/ICT-FaceKit, `FaceXModel/`; MIT licence, (c) 2020 USC Institute for Creative Technologies. Nothing of it is in
this package. R. Li et al., "Learning Formation of Physically-Based Face Attributes", CVPR 2020. Vertex ranges, landmarks and the substitutes of the
jawline are those of its README; units there are centimetres, and each ``identityNNN.obj`` is the neutral face plus one standard deviation.

What is kept: face, head and neck, sockets of mouth and eyes, eyeballs (their outer shells). Left out: gums, tongue, teeth, irises (inside of the
outer shells), lashes and the helper meshes of the eyes.
"""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import cKDTree

from fitjax.errors import BasisError
from fitjax.geometry.host_mesh import SurfaceIndex, fit_sphere
from fitjax.model.basis_file import FORMAT

NEUTRAL = "generic_neutral_mesh.obj"
N_VERTICES = 26719

#: First vertices of the pieces, in the README's order: face, head and neck | mouth socket | eye sockets | gums ...
_MOUTH_SOCKET, _EYE_SOCKETS, _GUMS = 11248, 13294, 14062
#: Outer shells of the eyeballs, the subject's left and right.
_EYEBALLS = ((21451, 22221), (23021, 23791))

#: Multi-PIE's 68 points with both documented jawline substitutes: the plain ones put the jaw on the cheek.
LANDMARKS68 = (
    1278, 1272, 12, 1834, 243, 781, 2199, 1447, 966, 3661, 4390, 3022, 2484, 4036, 2253, 3490, 3496, 268, 493, 1914, 2044, 1401, 3615,
    4240, 4114, 2734, 2509, 978, 4527, 4942, 4857, 1140, 2075, 1147, 4269, 3360, 1507, 1542, 1537, 1528, 1518, 1511, 3742, 3751, 3756,
    3721, 3725, 3732, 5708, 5695, 2081, 0, 4275, 6200, 6213, 6346, 6461, 5518, 5957, 5841, 5702, 5711, 5533, 6216, 6207, 6470, 5517, 5966,
)  # fmt: skip

#: Where each tile of the texture goes in the one square that a basis has: (offset u, v, size). The face keeps three quarters of the side, so the
#: texture of ICT's face fits after u → 0.75 u, v → 0.25 + 0.75 v. Back of the head and sockets, then the eyes, stand beside it.
ATLAS = {
    "face": (0.0, 0.25, 0.75),
    "head": (0.75, 0.75, 0.25),
    "left_eye": (0.75, 0.5, 0.25),
    "right_eye": (0.75, 0.25, 0.25),
}

_EXPRESSION_SIGMA = 0.5
_LICENCE = "MIT (ICT-FaceKit, (c) 2020 USC Institute for Creative Technologies)"


def is_ict_folder(path: Path) -> bool:
    """Whether a folder holds ICT-FaceKit's neutral mesh."""
    return (path / NEUTRAL).is_file()


def read_ict(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, str], Int[np.ndarray, "68"]]:
    """Tensors and metadata of a basis file without annotations, and the 68 vertices that the README documents.

    Identity: every ``identityNNN.obj`` that is there. Expressions: every other OBJ, in alphabetical order, with names in ARKit's spelling
    (``eyeBlink_L`` is ``eyeBlinkLeft``). Metres, head space, origin midway between the eyeballs.

    Raises:
        BasisError: not such a folder, a damaged or foreign file, or no identity at all.
    """
    if not is_ict_folder(folder):
        raise BasisError(
            f"{folder}: expected ICT-FaceKit's folder FaceXModel with {NEUTRAL}, found none; or give a basis file (.safetensors)"
        )
    neutral, uv, polygons = _read_neutral(folder / NEUTRAL)
    identities = sorted(folder.glob("identity*.obj"), key=_number)
    if not identities:
        raise BasisError(
            f"{folder}: expected identity000.obj to identity099.obj, found none; is the download complete?"
        )
    expressions = sorted(p for p in folder.glob("*.obj") if p.name != NEUTRAL and p not in identities)

    place, place_uv = polygons[..., 0], polygons[..., 1]
    eyes = [np.all((place >= low) & (place < high), axis=1) for low, high in _EYEBALLS]
    kept = (place < _GUMS).all(1) | eyes[0] | eyes[1]
    region = np.where((place >= _MOUTH_SOCKET).any(1), 2, 0) + (place >= _EYE_SOCKETS).any(1)
    region[eyes[0] | eyes[1]] = 1
    atlas, atlas_triangles = _atlas(uv, place_uv[kept], [e[kept] for e in eyes])
    old, triangles = np.unique(place[kept], return_inverse=True)
    triangles = triangles.reshape(-1, 3)

    centres = [fit_sphere(neutral[low:high])[0] for low, high in _EYEBALLS]
    origin = 0.5 * (centres[0] + centres[1])
    mean = (neutral[old] - origin) / 100
    tensors = {
        "mean": mean.astype(np.float32),
        "triangles": triangles.astype(np.int32),
        "uv": atlas.astype(np.float32),
        "uv_triangles": atlas_triangles.astype(np.int32),
        "triangle_region": region[kept].astype(np.uint8),
        "mirror": _mirror(mean),
    }
    for name, files in (("identity", identities), ("expression", expressions)):
        modes = np.zeros((len(files), len(old), 3), np.float32)
        for mode, file in zip(modes, files):
            mode[:] = (_read_vertices(file)[old] - neutral[old]) / 100
        # As they are: steps of int16 would add up to a hundredth of a millimetre over a hundred modes.
        tensors[name] = modes
    one = np.ones(len(expressions), np.float32)
    tensors |= {"expression_sigma": _EXPRESSION_SIGMA * one, "expression_lower": 0 * one, "expression_upper": one}
    tensors |= _calibrated(mean, triangles, region[kept], origin)
    names = [re.sub("_L$", "Left", re.sub("_R$", "Right", p.stem)) for p in expressions]
    source = {"source": "ICT-FaceKit light, FaceXModel", "identities": len(identities), "texture_atlas": ATLAS, "origin_m": (origin / 100).tolist()}
    metadata = {
        "format": FORMAT,
        "name": "ict",
        "licence": _LICENCE,
        "units": "m",
        "expression_names": json.dumps(names),
        "provenance": json.dumps(source),
        "subdivision": "loop",
    }
    return tensors, metadata, np.searchsorted(old, LANDMARKS68)


def _calibrated(
    mean: Float[np.ndarray, "V 3"], triangles: Int[np.ndarray, "F 3"], region: Int[np.ndarray, "F"], origin: Float[np.ndarray, "3"]
) -> dict[str, np.ndarray]:
    """The 68 points in the two conventions of AFLW2000-3D (docs/models/ict.md), found by their positions: polygons may be cut either way."""
    skin = SurfaceIndex(mean, triangles, region == 0)
    found = {}
    for name in ("aflw68", "aflw68_original"):
        table = resources.files("fitjax") / "data" / "landmarks" / f"ict_{name}.txt"
        rows = [line.split() for line in table.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
        triangle, weight, _ = skin.closest((np.array(rows, float) - origin) / 100)
        found[f"samples.{name}.triangle"] = triangle.astype(np.int32)
        found[f"samples.{name}.barycentric"] = weight.astype(np.float32)
    return found


def _number(path: Path) -> tuple[int, str]:
    digits = re.findall(r"\d+", path.stem)
    return (int(digits[0]) if digits else -1, path.stem)


def _lines(path: Path, kind: bytes) -> list[bytes]:
    try:
        return [line[len(kind) :] for line in path.read_bytes().splitlines() if line.startswith(kind)]
    except OSError as error:
        raise BasisError(f"{path}: cannot be read ({error.strerror})") from None


def _numbers(path: Path, lines: list[bytes], columns: int) -> Float[np.ndarray, "N C"]:
    try:
        values = np.array(b" ".join(lines).split(), float).reshape(len(lines), -1)[:, :columns]
    except ValueError:
        raise BasisError(
            f"{path}: expected {columns} numbers per line, found something else; the file is damaged"
        ) from None
    if values.shape[1] != columns or not np.isfinite(values).all():
        raise BasisError(f"{path}: expected {columns} finite numbers per line; the file is damaged")
    return values


def _read_vertices(path: Path) -> Float[np.ndarray, "V 3"]:
    """Vertices in centimetres.

    Raises:
        BasisError: another count than ICT-FaceKit's.
    """
    lines = _lines(path, b"v ")
    if len(lines) != N_VERTICES:
        raise BasisError(f"{path}: expected the {N_VERTICES} vertices of ICT-FaceKit's light model, found {len(lines)}")
    return _numbers(path, lines, 3)


def _read_neutral(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (V, 3), texture coordinates (T, 2), and triangles (F, 3, 2) as (vertex, texture coordinate); polygons become fans."""
    vertices, uv = _read_vertices(path), _numbers(path, _lines(path, b"vt "), 2)
    corners = []
    for line in _lines(path, b"f "):
        try:
            polygon = [[int(k) - 1 for k in corner.split(b"/")[:2]] for corner in line.split()]
        except ValueError:
            polygon = []
        if len(polygon) < 3 or any(len(c) != 2 for c in polygon):
            raise BasisError(
                f"{path}: expected faces of vertex/texture indices, found {line[:40].decode(errors='replace')!r}"
            )
        corners += [(polygon[0], polygon[k], polygon[k + 1]) for k in range(1, len(polygon) - 1)]
    triangles = np.array(corners, int).reshape(-1, 3, 2)
    if not len(triangles) or triangles.min() < 0 or (triangles.max((0, 1)) >= [len(vertices), len(uv)]).any():
        raise BasisError(
            f"{path}: faces refer to vertices or texture coordinates that are not there; the file is damaged"
        )
    return vertices, uv, triangles


def _atlas(uv: np.ndarray, uv_triangles: np.ndarray, eyes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """All charts in one square. By tile, not by vertex: some vertices of the face belong to triangles of the back of the head too."""
    tile = np.floor(uv[uv_triangles].mean(1)[:, 0]).astype(int)
    chart = np.select([eyes[0], eyes[1], tile == 0], [2, 3, 0], 1)
    # A texture coordinate that two charts share becomes two.
    key, triangles = np.unique(uv_triangles + chart[:, None] * len(uv), return_inverse=True)
    owner, row = np.divmod(key, len(uv))
    u, v, size = np.array(list(ATLAS.values())).T[:, owner]
    shifted = uv[row] - np.stack([(owner == 1).astype(float), np.zeros(len(row))], 1)
    return np.stack([u, v], 1) + size[:, None] * np.clip(shifted, 0, 1), triangles.reshape(-1, 3)


def _mirror(mean: Float[np.ndarray, "V 3"]) -> Int[np.ndarray, "V"]:
    """The vertex mirrored in x; vertices without one within half a millimetre stand for themselves."""
    distance, mirror = cKDTree(mean).query(mean * [-1, 1, 1])
    return np.where((distance < 5e-4) & (mirror[mirror] == np.arange(len(mean))), mirror, np.arange(len(mean))).astype(
        np.int32
    )
