"""GNM Head v3 (`gnm_head.npz`) in the terms of `fitjax-basis/1`.

Source: https://huggingface.co/google/gnm-v3, Apache-2.0, (c) Google LLC; https://github.com/google/GNM. S. Ploumpis et al., "GNM Head: A Generative
aNthropometric Model of the human head", arXiv 2607.23687. Nothing of it is in this package. The package `gnm` of the Python index is unrelated.

    rest = template + Σ identity + Σ expression + Σ_k correctives_k · (R - 1)_k,   joints = template joints + Σ identity

with R the rotations of all joints (neck, head, left eye, right eye), row by row; then linear blend skinning. Here the neck hangs on one more joint,
``world``, which moves nothing: so the rows of the group ``joints`` are GNM's own ``rotations``, in its order, the neck's included. There is no jaw;
mouths open by expressions. What each field is: docs/models/gnm.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Int

from fitjax.errors import BasisError
from fitjax.importers.articulated import Articulated, articulated_basis
from fitjax.importers.flame import file_sha256
from fitjax.importers.linear_file import Imported
from fitjax.importers.safe.arrays import read_npz
from fitjax.importers.safe.fields import Fields

_LICENCE = "Apache-2.0 (GNM Head, (c) Google LLC)"
_FIELDS = (
    "version", "variant", "template_vertex_positions", "template_joint_positions", "vertex_identity_basis", "joint_identity_basis",
    "expression_basis", "expression_names", "joint_names", "joint_parent_indices", "skinning_weights", "triangles", "triangle_uvs", "mirror_indices",
    "pose_correctives_regressor", "vertex_groups", "vertex_group_names",
)  # fmt: skip

#: GNM's regions, by vertex groups that all have to hold a triangle, in the order of its UDIM tiles; and what they are here: 0 skin, 1 eyeball
#: (the cornea is what one sees), 3 hidden in the eye's socket, 4 teeth and tongue.
REGIONS: tuple[tuple[str, tuple[str, ...], int], ...] = (
    ("skin", ("skin",), 0),
    ("left_eye_interior", ("left_eye", "eye_interiors"), 3),
    ("left_eye_exterior", ("left_eye", "eye_exteriors"), 1),
    ("right_eye_interior", ("right_eye", "eye_interiors"), 3),
    ("right_eye_exterior", ("right_eye", "eye_exteriors"), 1),
    ("teeth_and_gums", ("teeth_and_gums",), 4),
    ("tongue", ("tongue",), 4),
)
#: Names that stand for one group here.
_UNIONS = {"teeth_and_gums": ("upper_teeth_and_gums", "lower_teeth_and_gums", "teeth", "gums")}
_MOUTH = "mouth_sock"

#: Where each region's own unit square goes in the one square of a basis: (offset u, offset v, size).
ATLAS: dict[str, tuple[float, float, float]] = {
    "skin": (0.0, 0.25, 0.75),
    "left_eye_interior": (0.75, 0.75, 0.25),
    "left_eye_exterior": (0.75, 0.5, 0.25),
    "right_eye_interior": (0.75, 0.25, 0.25),
    "right_eye_exterior": (0.75, 0.0, 0.25),
    "teeth_and_gums": (0.0, 0.0, 0.25),
    "tongue": (0.25, 0.0, 0.25),
}


def read_gnm(path: Path, n_identity: int | None = None, n_expression: int | None = None) -> Imported:
    """A basis without annotations; GNM's file has no landmarks, so ours are carried over.

    Args:
        n_identity, n_expression: keep the first so many, default all (253 and 383). Their order is by region, not by size: see docs/models/gnm.md.

    Raises:
        BasisError: another file, a damaged one, or counts that it does not have.
    """
    fields = Fields(path, read_npz(path, "GNM Head"), "GNM Head")
    lacking = [name for name in _FIELDS if name not in fields]
    if lacking:
        what = "; this is FLAME" if "v_template" in fields else ""
        raise BasisError(f"{path}: expected GNM's gnm_head.npz; this lacks {', '.join(lacking)[:200]}{what}")
    version, variant = (str(np.asarray(fields[name]).reshape(-1)[0]) for name in ("version", "variant"))
    if variant.lower() != "head" or not version.startswith("3"):
        raise BasisError(f"{path}: expected GNM Head version 3, found variant {variant[:40]!r} of version {version[:40]!r}")
    vertices = fields.floats("template_vertex_positions", (None, 3))
    count = len(vertices)
    triangles = fields.indices("triangles", count, (None, 3))
    names = fields.names("joint_names")
    joints = len(names)
    centres = fields.floats("template_joint_positions", (joints, 3))
    # The largest arrays stay in float32, as they are.
    identity = fields.floats("vertex_identity_basis", (None, count, 3), np.float32)
    expression = fields.floats("expression_basis", (None, count, 3), np.float32)
    joint_identity = fields.floats("joint_identity_basis", (len(identity), joints, 3))
    kept_identity, kept_expression = _kept(path, n_identity, len(identity), "identities"), _kept(path, n_expression, len(expression), "expressions")
    weights = fields.floats("skinning_weights", (joints, count)).T
    regressor = fields.floats("pose_correctives_regressor", (9 * joints, 3 * count), np.float32).reshape(9 * joints, count, 3)
    groups = dict(zip(fields.names("vertex_group_names"), fields.floats("vertex_groups", (None, count), np.float32)))
    chart = _charts(groups, triangles)
    atlas, atlas_triangles = _atlas(fields.floats("triangle_uvs", (len(triangles), 3, 2)), chart)
    # A root above the neck, at its place.
    centres = np.concatenate([centres[:1], centres])
    joint_identity = np.concatenate([joint_identity[:, :1], joint_identity], 1)[:kept_identity]
    # Files write the root's parent as -1, or as itself.
    parents = np.concatenate([[-1, 0], fields.indices("joint_parent_indices", joints + 1, (joints,), -1)[1:]])
    source = {
        "source": f"GNM Head {version}", "kind": "gnm", "file": path.name, "sha256": file_sha256(path),
        "kept": {"identity": kept_identity, "expression": kept_expression}, "texture_atlas": ATLAS,
    }  # fmt: skip
    model = Articulated(
        file=str(path), name="gnm", licence=_LICENCE, source=source, vertices=vertices, triangles=triangles,
        identity=identity[:kept_identity], expression=expression[:kept_expression], joints=centres, joint_identity=joint_identity,
        joint_expression=np.zeros((kept_expression, joints + 1, 3)), parents=parents,
        weights=np.concatenate([np.zeros((count, 1)), weights], 1), correctives=regressor if regressor.any() else None,
        joint_names=("world", *names), expression_names=tuple(fields.names("expression_names", len(expression))[:kept_expression]),
        uv=atlas, uv_triangles=atlas_triangles, region=_regions(groups, triangles, chart),
        mirror=fields.indices("mirror_indices", count, (count,)),
    )  # fmt: skip
    return articulated_basis(model)


def _kept(path: Path, wanted: int | None, there: int, what: str) -> int:
    if wanted is None:
        return there
    if not 1 <= wanted <= there:
        raise BasisError(f"{path}: expected 1 to {there} {what}, asked for {wanted}")
    return wanted


def _member(groups: dict[str, np.ndarray], name: str, triangles: np.ndarray, least: float = 1e-4) -> np.ndarray:
    """Triangles whose corners all belong to a group; any weight beyond ``least`` counts, by default as for GNM itself."""
    found = [groups[part] for part in (name, *_UNIONS.get(name, ())) if part in groups]
    if not found:
        return np.zeros(len(triangles), bool)
    return (np.max(found, axis=0) > least)[triangles].all(1)


def _charts(groups: dict[str, np.ndarray], triangles: np.ndarray) -> Int[np.ndarray, "F"]:
    """Which of :data:`REGIONS` each triangle belongs to, skin where none does."""
    chart = np.zeros(len(triangles), int)
    for k, (_, parts, _) in enumerate(REGIONS):
        chart[np.logical_and.reduce([_member(groups, part, triangles) for part in parts])] = k
    return chart


def _regions(groups: dict[str, np.ndarray], triangles: np.ndarray, chart: np.ndarray) -> Int[np.ndarray, "F"]:
    region = np.array([kind for _, _, kind in REGIONS])[chart]
    region[(region == 0) & _member(groups, _MOUTH, triangles, 0.5)] = 2
    return region


def _atlas(uv: np.ndarray, chart: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per-corner coordinates (F, 3, 2) of overlapping regions as one table (T, 2) of places that are apart, and triangles (F, 3) into it."""
    table = np.array(list(ATLAS.values()))[chart]
    placed = table[:, None, :2] + table[:, None, 2:] * np.clip(uv, 0, 1)
    # Corners that meet have equal numbers in the file.
    places, index = np.unique(placed.reshape(-1, 2), axis=0, return_inverse=True)
    return places, index.reshape(-1, 3)
