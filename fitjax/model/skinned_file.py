"""Joints and skinning in `fitjax-basis/1` files: reading, checking, refining, writing. Fields as in docs/basis_format.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy import sparse

from fitjax.errors import BasisError

#: Rows of weights may miss one by this much; files hold float32.
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Rig:
    """Joints of a basis on the host, validated. The first joint is the root, which does not turn.

    Attributes:
        joint_mean: (J, 3) metres, head space. joint_identity, joint_expression: (K, J, 3) and (E, J, 3) per coefficient.
        parents: (J,) -1 for the root, every parent before its children. weights: (V, J), not negative, rows sum to one.
        correctives: (9 (J - 1), V, 3) metres per entry of the rotation matrices less identity, row by row; or (0, V, 3).
        sigma, lower, upper: (J - 1, 3) radians. free: (J - 1,) 1 for joints that fits move by default. names: of all J.
    """

    joint_mean: Float[np.ndarray, "J 3"]
    joint_identity: Float[np.ndarray, "K J 3"]
    joint_expression: Float[np.ndarray, "E J 3"]
    parents: Int[np.ndarray, "J"]
    weights: Float[np.ndarray, "V J"]
    correctives: Float[np.ndarray, "P V 3"]
    sigma: Float[np.ndarray, "J-1 3"]
    lower: Float[np.ndarray, "J-1 3"]
    upper: Float[np.ndarray, "J-1 3"]
    free: UInt8[np.ndarray, "J-1"]
    names: tuple[str, ...]


def read_rig(
    tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str], n_vertices: int, n_identity: int, n_expression: int
) -> Rig | None:
    """The rig of a basis file, None for one without joints. Finiteness has been checked by then.

    Raises:
        BasisError: fields that disagree, parents that are no tree, weights that are none.
        KeyError: a field that belongs to a rig is missing.
    """
    if "joint_mean" not in tensors:
        return None
    mean = tensors["joint_mean"].astype(np.float32)
    count = len(mean)
    if mean.shape != (count, 3) or count < 2:
        raise BasisError(f"basis field 'joint_mean': expected (J, 3) with a root and at least one joint, found {mean.shape}")
    names = tuple(json.loads(metadata.get("joint_names", "[]"))) or tuple(f"joint_{i}" for i in range(count))
    if len(names) != count or not all(isinstance(name, str) for name in names):
        raise BasisError(f"basis field 'joint_names': expected {count} names, found {len(names)}")
    blocks = {
        "joint_identity": (n_identity, count, 3),
        "joint_expression": (n_expression, count, 3),
        "skinning_weights": (n_vertices, count),
        "joint_sigma": (count - 1, 3),
        "joint_lower": (count - 1, 3),
        "joint_upper": (count - 1, 3),
        "joint_free": (count - 1,),
    }
    found = {}
    for key, shape in blocks.items():
        found[key] = tensors[key]
        if found[key].shape != shape:
            raise BasisError(f"basis field {key!r}: expected shape {shape}, found {found[key].shape}")
    correctives = tensors.get("pose_correctives", np.zeros((0, n_vertices, 3), np.float32)).astype(np.float32)
    if correctives.shape not in ((0, n_vertices, 3), (9 * (count - 1), n_vertices, 3)):
        raise BasisError(f"basis field 'pose_correctives': expected ({9 * (count - 1)}, {n_vertices}, 3), found {correctives.shape}")
    if (found["joint_sigma"] <= 0).any() or (found["joint_lower"] > 0).any() or (found["joint_upper"] < 0).any():
        raise BasisError("basis fields 'joint_sigma', 'joint_lower', 'joint_upper': expected positive spreads and bounds around zero")
    floats = {key: value.astype(np.float32) for key, value in found.items() if key != "joint_free"}
    return Rig(
        joint_mean=mean,
        joint_identity=floats["joint_identity"],
        joint_expression=floats["joint_expression"],
        parents=check_parents(tensors["joint_parent"], count),
        weights=check_weights(floats["skinning_weights"]),
        correctives=correctives,
        sigma=floats["joint_sigma"],
        lower=floats["joint_lower"],
        upper=floats["joint_upper"],
        free=(found["joint_free"] != 0).astype(np.uint8),
        names=names,
    )


def check_parents(parents: np.ndarray, count: int, field: str = "basis field 'joint_parent'") -> Int[np.ndarray, "J"]:
    """
    Raises:
        BasisError: not one tree with joint 0 as root and every parent before its children.
    """
    found = np.asarray(parents)
    if found.shape != (count,) or found.dtype.kind not in "iu":
        raise BasisError(f"{field}: expected {count} integers, found {found.dtype} {found.shape}")
    found = found.astype(np.int64)
    if found[0] != -1 or (found[1:] < 0).any() or (found[1:] >= np.arange(1, count)).any():
        raise BasisError(f"{field}: expected -1 for the root and then parents before their children, found {found.tolist()[:20]}")
    return found.astype(np.int32)


def check_weights(weights: Float[np.ndarray, "V J"], field: str = "basis field 'skinning_weights'") -> Float[np.ndarray, "V J"]:
    """
    Raises:
        BasisError: negative weights, or rows that do not sum to one.
    """
    if not (weights > -_SUM_TOLERANCE).all() or not (np.abs(weights.sum(1) - 1) < _SUM_TOLERANCE).all():
        raise BasisError(f"{field}: expected weights of at least 0 that sum to 1 per vertex")
    return weights


def refine_rig(rig: Rig, matrix: sparse.csr_matrix) -> Rig:
    """The rig on the refined mesh: weights and correctives are subdivided as positions are; joints stay where they were on the stored mesh."""
    matrix = matrix.astype(np.float32)
    weights = np.maximum(matrix @ rig.weights, 0)
    count, n_vertices = rig.correctives.shape[:2]
    flat = rig.correctives.transpose(1, 0, 2).reshape(n_vertices, 3 * count)
    correctives = (matrix @ flat).reshape(matrix.shape[0], count, 3).transpose(1, 0, 2)
    return replace(rig, weights=weights / weights.sum(1, keepdims=True), correctives=np.ascontiguousarray(correctives))


def rig_tensors(rig: Rig) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and metadata of a basis file."""
    tensors = {
        "joint_mean": rig.joint_mean,
        "joint_identity": rig.joint_identity,
        "joint_expression": rig.joint_expression,
        "skinning_weights": rig.weights,
        "joint_sigma": rig.sigma,
        "joint_lower": rig.lower,
        "joint_upper": rig.upper,
    }
    tensors = {key: np.asarray(value, np.float32) for key, value in tensors.items()}
    tensors |= {"joint_parent": rig.parents.astype(np.int32), "joint_free": rig.free.astype(np.uint8)}
    if len(rig.correctives):
        tensors["pose_correctives"] = rig.correctives.astype(np.float32)
    return tensors, {"joint_names": json.dumps(list(rig.names))}
