"""DECA's dictionaries of FLAME parameters (EMOCA's and SMIRK's are the same).

Y. Feng et al., "Learning an Animatable Detailed 3D Face Model from In-the-Wild Images", SIGGRAPH 2021, https://github.com/yfeng95/DECA.
``shape`` (100,), ``exp`` (50,), ``pose`` (6,): axis-angle of the root, then of the jaw; ``cam`` (3,): s, tx, ty; ``light`` (9, 3); ``tex`` (50,).

    X = FLAME(shape, exp, root and jaw; neck and eyes at rest), turned about the root joint
    (u, v) = s · (X_x + tx), -s · (X_y + ty)                       -1 to 1 over a crop of 224 pixels
    pixel of the crop = 112 (u + 1), 112 (v + 1) = tform [pixel of the photo; 1]

``tform`` (3, 3) maps the photo's square onto the pixels 0 to 223 of the crop. There is no perspective. Light is spherical harmonics of the posed
normal (x right, y up, z towards the viewer), in the order 1, x, y, z, xy, xz, yz, x² - y², 3 z² - 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from fitjax.errors import BasisError, FitjaxError
from fitjax.geometry.convert import OpenCVCamera
from fitjax.geometry.rotation import UP_FROM_OPENCV
from fitjax.interop import posed
from fitjax.interop.posed import Exported, Posed
from fitjax.model.basis_file import Basis
from fitjax.model.light_prior import light_from_code, light_prior
from fitjax.render.lighting import DIFFUSE

#: DECA's numbers of codes, pixels of its crop.
N_SHAPE, N_EXPRESSION, N_TEXTURE, CROP = 100, 50, 50, 224

_UP = np.array(UP_FROM_OPENCV)
# Rows of ours (1, y, z, x, xy, yz, 3zz-1, xz, xx-yy) in DECA's order, and the sign that y up and z towards the viewer give them.
_ORDER = np.array([0, 3, 1, 2, 4, 7, 5, 8, 6])
_SIGN = np.array([1, 1, -1, -1, -1, -1, 1, 1, 1])
# Both have the same constants of the harmonics. DECA's shading convolves with π, of a band's factor, where ours divides by it; not in the first.
_FACTOR = np.concatenate([[1], DIFFUSE[1:4] / (2 * np.pi / 3), DIFFUSE[4:] / (np.pi / 4)])


def to_deca(basis: Basis, face: Posed, box: Sequence[float] | None = None) -> Exported:
    """The dictionary, with ``tform``, and ``neck_pose`` (3,) and ``eye_pose`` (6,) for tools that have them.

    ``tex`` is DECA's mean texture (zeros); ``light`` even white light where the fit has none.

    Args:
        basis: FLAME. box: square of the photo (left, top, right, bottom, pixels) that is the crop; default 1.25 times the projected head.

    Raises:
        BasisError: another model, or codes of another. FitjaxError: a box that is no square.
    """
    origin = _origin(basis)
    posed.check_codes(basis, face.codes)
    if box is None:
        box = posed.square(posed.project(posed.vertices(basis, face.codes), face.camera))
    corner, k = _square(box)
    matrix, offset = posed.affine(face.camera)
    # Pixels = A (X_rest - origin) + b; the photo's camera may have two focal lengths, DECA's has one.
    scale = np.linalg.norm(matrix, axis=1).mean()
    turn = _UP @ np.asarray(face.camera.R_camera_head)
    root = _root(basis, face.codes) + origin
    place = (offset - corner - k) / scale * [1, -1] + (turn @ (root - origin) - root)[:2]
    joints = np.asarray(face.codes["joints"], float)
    values = {
        "shape": _fitted(face.codes["identity"], N_SHAPE),
        "exp": _fitted(face.codes["expression"], N_EXPRESSION),
        "pose": np.concatenate([Rotation.from_matrix(turn).as_rotvec(), joints[1]]),
        "cam": np.append(scale / k, place),
        "light": _light_to_deca(face.codes.get("light")),
        "tex": np.zeros(N_TEXTURE),
        "tform": np.array([[112 / k, 0, -corner[0] * 112 / k], [0, 112 / k, -corner[1] * 112 / k], [0, 0, 1]]),
        "neck_pose": joints[0],
        "eye_pose": joints[2:].ravel(),
    }
    decas = {name: value for name, value in values.items() if name not in ("neck_pose", "eye_pose")}
    apart = posed.discrepancy(basis, face, from_deca(basis, decas, face.camera))
    return Exported(values, *apart, _notes(face, joints))


def from_deca(basis: Basis, values: Mapping[str, Any], camera: OpenCVCamera) -> Posed:
    """The face of a dictionary in a photo with the K and size of ``camera``; its camera becomes weak perspective.

    Args:
        values: ``shape``, ``exp``, ``pose``, ``cam``, ``tform``; ``light``, ``neck_pose``, ``eye_pose`` where they are. A leading axis of one is
            dropped.

    Raises:
        BasisError: another model, or more codes than it has. FitjaxError: an entry is missing or has another shape.
    """
    origin = _origin(basis)
    get = _reader(values)
    codes = {
        "identity": _extended(basis, get("shape"), len(basis.identity), "shape"),
        "expression": _extended(basis, get("exp"), len(basis.expression), "exp"),
    }
    pose, cam, tform = get("pose", 6), get("cam", 3), get("tform", 9).reshape(3, 3)
    joints = np.zeros((4, 3))
    joints[0] = get("neck_pose", 3) if "neck_pose" in values else 0
    joints[1] = pose[3:]
    joints[2:] = get("eye_pose", 6).reshape(2, 3) if "eye_pose" in values else 0
    codes["joints"] = joints
    if "light" in values:
        codes["light"] = _light_from_deca(get("light", 27).reshape(9, 3))
    turn = Rotation.from_rotvec(pose[:3]).as_matrix()
    root = _root(basis, codes) + origin
    # u, v are affine in X_rest - origin, and the photo's pixels in u, v by the inverse of tform.
    matrix = cam[0] * turn[:2] * [[1], [-1]]
    offset = cam[0] * ((turn @ (origin - root) + root)[:2] + cam[1:]) * [1, -1]
    back = np.linalg.inv(tform)[:2]
    photo = 112 * back[:, :2] @ matrix
    place = back[:, :2] @ (112 * (offset + 1)) + back[:, 2]
    return Posed(codes, posed.from_affine(photo, place, camera))


def _origin(basis: Basis) -> np.ndarray:
    if basis.rig is None or basis.provenance.get("kind") != "flame":
        raise BasisError(f"model {basis.name!r}: DECA's dictionaries are of FLAME; import FLAME and fit with it")
    return np.asarray(basis.provenance["origin_m"], float)


def _root(basis: Basis, codes: Mapping[str, Any]) -> np.ndarray:
    """The root joint in head space, which moves with the shape."""
    rig = basis.rig
    assert rig is not None
    place = rig.joint_mean[0] + np.tensordot(np.asarray(codes["identity"], float), rig.joint_identity[:, 0], 1)
    return place + np.tensordot(np.asarray(codes["expression"], float), rig.joint_expression[:, 0], 1)


def _square(box: Sequence[float]) -> tuple[np.ndarray, float]:
    """The corner, and pixels of the photo per unit of u: 112 pixels of the crop, whose 223 steps span the box."""
    found = np.asarray(box, float).reshape(-1)
    size = found[2:] - found[:2] if found.shape == (4,) else np.zeros(2)
    if not np.isfinite(found).all() or (size <= 0).any() or abs(size[0] - size[1]) > 0.01 * size.max():
        raise FitjaxError(f"DECA's crop: expected a square left, top, right, bottom in pixels, found {found.tolist()}")
    return found[:2], 112 * float(size.mean()) / (CROP - 1)


def _fitted(code: Any, count: int) -> np.ndarray:
    """Cut or filled with zeros."""
    code = np.asarray(code, float)[:count]
    return np.append(code, np.zeros(count - len(code)))


def _extended(basis: Basis, code: np.ndarray, count: int, name: str) -> np.ndarray:
    if np.any(code[count:] != 0):
        raise BasisError(f"{name!r}: {len(code)} codes, but the model {basis.name!r} was imported with {count}; import it with more")
    return _fitted(code, count)


def _reader(values: Mapping[str, Any]) -> Any:
    def get(name: str, count: int | None = None) -> np.ndarray:
        if name not in values:
            raise FitjaxError(f"DECA's dictionary: expected {name!r}, found {', '.join(map(str, values))[:120]}")
        found = np.asarray(values[name], float).ravel()
        if not np.isfinite(found).all() or (count is not None and len(found) != count):
            raise FitjaxError(f"DECA's dictionary: {name!r}: expected {count or 'some'} finite numbers, found shape {np.shape(values[name])}")
        return found

    return get


def _notes(face: Posed, joints: np.ndarray) -> tuple[str, ...]:
    more = [name for name, count in (("identity", N_SHAPE), ("expression", N_EXPRESSION)) if np.any(np.asarray(face.codes[name])[count:] != 0)]
    texts = (
        (face.camera.model == "perspective", "DECA has no perspective; its vertices are those of weak perspective"),
        (bool(more), f"DECA has {N_SHAPE} shapes and {N_EXPRESSION} expressions; the further codes of {' and '.join(more)} are left out"),
        (bool(np.any(joints[[0, 2, 3]])), "DECA leaves neck and eyes at rest; they are in neck_pose and eye_pose"),
    )
    return tuple(text for holds, text in texts if holds)


def _light_to_deca(code: Any) -> Float[np.ndarray, "9 3"]:
    light = np.zeros((9, 3)) if code is None else np.asarray(light_from_code(jnp.asarray(code)), float)
    if code is None:
        light[0] = np.sqrt(4 * np.pi)
    return (light * _FACTOR[:, None])[_ORDER] * _SIGN[:, None]


def _light_from_deca(light: Float[np.ndarray, "9 3"]) -> Float[np.ndarray, "27"]:
    """The code of the light. Ours has a positive mean; the logarithm of a smaller one goes on as a straight line."""
    ours = np.zeros((9, 3))
    ours[_ORDER] = light * _SIGN[:, None]
    return np.asarray(light_prior(jnp.asarray(ours / _FACTOR[:, None], jnp.float32)))
