"""FLAME 2017 to 2023: `.pkl` of Python 2 with chumpy and SciPy objects, or `.npz`, in the terms of `fitjax-basis/1`.

Source: https://flame.is.tue.mpg.de (registration). T. Li, T. Bolkart, M. J. Black, H. Li, J. Romero, "Learning a model of facial shape and expression
from 4D scans", SIGGRAPH Asia 2017. Nothing of it is in this package.

Fields: ``v_template`` (V, 3) metres, ``f`` (F, 3), ``shapedirs`` (V, 3, 400): 300 shapes and 100 expressions of unit variance, ``posedirs``
(V, 3, 36), ``J_regressor`` (5, V) sparse, ``weights`` (V, 5), ``kintree_table`` (2, 5). Joints: the root, neck, jaw, left eye, right eye.

    rest = v_template + shapedirs · (shape, expression) + posedirs · (R_neck, R_jaw, R_left eye, R_right eye - 1),  joints = J_regressor · shaped

Landmarks (``landmark_embedding.npy``) and texture coordinates (``FLAME_texture.npz``: ``vt``, ``ft``) are files of their own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from fitjax.errors import BasisError
from fitjax.importers.articulated import Articulated, articulated_basis
from fitjax.importers.linear_file import Imported
from fitjax.importers.safe.arrays import read_npy, read_npz
from fitjax.importers.safe.fields import Fields
from fitjax.importers.safe.kinds import FileKind, expect, sniff
from fitjax.importers.safe.pickle_reader import read_pickle

#: FLAME's joints, in its order.
JOINT_NAMES = ("global", "neck", "jaw", "left_eye", "right_eye")

#: Of ``shapedirs`` these are shapes, the rest expressions.
N_SHAPE, N_EXPRESSION = 300, 100

_VERTICES = 5023
_FIELDS = ("v_template", "f", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table")
_LICENCE = "FLAME's own (https://flame.is.tue.mpg.de/modellicense.html); FLAME 2023 Open: CC BY 4.0"
#: Expressions of FLAME 2017 and 2019 move less than this share of the vertices; later ones move all.
_WHOLE_HEAD = 0.95


def read_flame(
    path: Path,
    n_identity: int = N_SHAPE,
    n_expression: int = N_EXPRESSION,
    landmarks: Path | None = None,
    texture: Path | None = None,
) -> Imported:
    """A basis without annotations; the 68 points (head space) if a file of them is given.

    Args:
        n_identity, n_expression: how many of the 300 shapes and 100 expressions to keep, the largest first.
        landmarks: ``landmark_embedding.npy``, as DECA and MICA have it (``full_lmk_faces_idx``, ``full_lmk_bary_coords``).
        texture: ``FLAME_texture.npz``; default the one beside the model, else the head is unrolled.

    Raises:
        BasisError: another file, a damaged one, or counts that it does not have; the message says which and what to do.
    """
    fields = _fields(path)
    vertices = fields.floats("v_template", (None, 3))
    count = len(vertices)
    directions = fields.floats("shapedirs", (count, 3, None))
    shapes, expressions = _split(fields, directions, n_identity, n_expression)
    regressor = fields.floats("J_regressor", (len(JOINT_NAMES), count))
    joint_modes = np.stack([regressor @ mode for mode in (*shapes, *expressions)])
    # FLAME stores the entries of the matrices last.
    correctives = np.moveaxis(fields.floats("posedirs", (count, 3, 9 * (len(JOINT_NAMES) - 1))), 2, 0)
    triangles = fields.indices("f", count, (None, 3))
    tree = fields.indices("kintree_table", 1 << 32, (2, len(JOINT_NAMES)))
    weights = fields.floats("weights", (count, len(JOINT_NAMES)))
    found_texture = path.with_name("FLAME_texture.npz") if texture is None else texture
    uv = _texture(found_texture, len(triangles)) if texture is not None or found_texture.is_file() else (None, None)
    version, told_by = flame_version(path, directions)
    source = {
        "source": f"FLAME {version}", "kind": "flame", "told_by": told_by, "file": path.name, "sha256": file_sha256(path),
        "kept": {"identity": len(shapes), "expression": len(expressions)},
        "texture": "unrolled" if uv[0] is None else found_texture.name,
    }  # fmt: skip
    model = Articulated(
        file=str(path), name="flame", licence=_LICENCE, source=source, vertices=vertices, triangles=triangles,
        identity=shapes, expression=expressions, joints=regressor @ vertices, joint_identity=joint_modes[: len(shapes)],
        joint_expression=joint_modes[len(shapes) :], parents=np.append(-1, tree[0, 1:]), weights=weights, correctives=correctives,
        joint_names=JOINT_NAMES, uv=uv[0], uv_triangles=uv[1], region=(weights[:, 3:].sum(1) > 0.9)[triangles].all(1),
    )  # fmt: skip
    found = articulated_basis(model)
    if landmarks is None:
        return found
    return found._replace(landmarks68=_landmarks(landmarks, found.tensors["mean"], triangles))


def flame_version(path: Path, directions: Float[np.ndarray, "V 3 C"]) -> tuple[str, str]:
    """Which FLAME a file holds, and what tells it.

    The files carry no version. 2017 and 2019 have expressions of the face alone, later ones of the whole head; 2023 is known by its file's name.
    """
    name = path.name.lower()
    if "2023" in name:
        return ("2023 without jaw" if "no_jaw" in name else "2023"), "the name of the file"
    expression = directions[:, :, min(N_SHAPE, directions.shape[2]) :]
    moved = np.abs(expression).max((1, 2), initial=0) > 1e-9
    if expression.size and moved.mean() < _WHOLE_HEAD:
        return "2019 or earlier", f"its expressions move {moved.mean():.0%} of the vertices; those of FLAME 2020 move all"
    return "2020 or later", "its expressions move the whole head"


def version_note(metadata: Mapping[str, str]) -> str | None:
    """What the user should know of an old version, None if nothing."""
    source = json.loads(metadata.get("provenance", "{}"))
    if "2019" not in str(source.get("source", "")):
        return None
    return "this is FLAME 2019 or earlier, which lacks the expressions of the whole head that FLAME 2020 has; codes of one do not fit the other"


def _fields(path: Path) -> Fields:
    """The fields of the model, or what the file is instead."""
    expect(path, FileKind.PICKLE, FileKind.NPZ, what="FLAME")
    found = read_npz(path, "FLAME", objects=True) if sniff(path) is FileKind.NPZ else read_pickle(path, "FLAME")
    fields = Fields(path, found, "FLAME")
    lacking = [name for name in _FIELDS if name not in fields]
    if lacking:
        raise BasisError(f"{path}: {_instead(found)}; FLAME has {', '.join(_FIELDS)}, and this lacks {', '.join(lacking)}")
    return fields


def _instead(found: dict[str, Any]) -> str:
    """What a dictionary without the model's fields is."""
    names = {str(name) for name in found}
    known = (
        ({"vt", "ft"}, "this is FLAME's texture space (FLAME_texture.npz)"),
        ({"texture_dir"}, "this is FLAME's texture space"),
        ({"face", "neck", "scalp"}, "these are FLAME's vertex masks (FLAME_masks.pkl)"),
        ({"lmk_face_idx"}, "these are FLAME's landmarks (flame_static_embedding.pkl)"),
        ({"static_lmk_faces_idx"}, "these are FLAME's landmarks (landmark_embedding.npy)"),
        ({"vertex_identity_basis"}, "this is GNM"),
        ({"hands_components"}, "this is MANO or SMPL-X"),
    )
    for keys, words in known:
        if keys <= names:
            return f"{words}, not the model; give generic_model.pkl or flame2023.pkl"
    return f"this is no FLAME model (it holds {', '.join(sorted(names))[:80] or 'nothing'})"


def _split(fields: Fields, directions: np.ndarray, n_identity: int, n_expression: int) -> tuple[np.ndarray, np.ndarray]:
    """(K, V, 3) shapes and (E, V, 3) expressions."""
    count = directions.shape[2]
    have = min(count, N_SHAPE), max(count - N_SHAPE, 0)
    if have[1] == 0:
        other = "; is it SMPL, a body?" if len(directions) > _VERTICES else ""
        raise fields.wrong("shapedirs", f"expected {N_SHAPE} shapes and then expressions, found {count} columns{other}")
    for wanted, there, what in ((n_identity, have[0], "shapes"), (n_expression, have[1], "expressions")):
        if not 1 <= wanted <= there:
            raise BasisError(f"{fields.path}: expected 1 to {there} {what}, asked for {wanted}")
    modes = np.moveaxis(directions, 2, 0)
    return np.ascontiguousarray(modes[:n_identity]), np.ascontiguousarray(modes[N_SHAPE : N_SHAPE + n_expression])


def _texture(path: Path, n_triangles: int) -> tuple[np.ndarray, np.ndarray]:
    what = "FLAME's texture space"
    fields = Fields(path, read_npz(path, what), what)
    uv = fields.floats("vt", (None, 2))
    return uv, fields.indices("ft", len(uv), (n_triangles, 3))


def _landmarks(path: Path, mean: np.ndarray, triangles: np.ndarray) -> Float[np.ndarray, "68 3"]:
    """The 68 points on the mean head."""
    kind = expect(path, FileKind.NPY, FileKind.NPZ, FileKind.PICKLE, what="FLAME's landmarks")
    readers: dict[FileKind, Any] = {FileKind.NPY: read_npy, FileKind.NPZ: read_npz}
    found = readers[kind](path, "FLAME's landmarks", objects=True) if kind in readers else read_pickle(path, "FLAME's landmarks")
    if not isinstance(found, dict) or "full_lmk_faces_idx" not in found:
        inner = " (it has the 51 inner ones alone)" if isinstance(found, dict) and {"lmk_face_idx", "static_lmk_faces_idx"} & set(found) else ""
        raise BasisError(
            f"{path}: expected landmark_embedding.npy with 68 points in 'full_lmk_faces_idx'{inner}; leave it out to carry ours over"
        )
    fields = Fields(path, found, "FLAME's landmarks")
    # DECA's file has a leading axis of one.
    triangle, weight = fields.indices("full_lmk_faces_idx", len(triangles)).ravel(), fields.floats("full_lmk_bary_coords")
    if triangle.size != 68 or weight.size != 3 * 68:
        raise fields.wrong("full_lmk_bary_coords", f"expected three weights of 68 points, found {weight.size} of {triangle.size}")
    weight = weight.reshape(68, 3)
    if not (np.abs(weight.sum(1) - 1) < 1e-2).all() or (weight < -1e-2).any():
        raise fields.wrong("full_lmk_bary_coords", "expected weights of at least 0 that sum to 1")
    return np.einsum("skc,sk->sc", mean[triangles[triangle]].astype(float), weight)


def file_sha256(path: Path) -> str:
    """Of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
