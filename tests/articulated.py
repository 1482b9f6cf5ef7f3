"""A small articulated model, and the formulas of skinning in NumPy float64, written from the papers and not from the package."""

from __future__ import annotations

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from scenes import random_truth
from toy import N_EXPRESSION, N_IDENTITY, toy_tensors

import fitjax as fj
from fitjax.fit.run import predict_final
from fitjax.model.basis_file import Basis, read_basis
from fitjax.model.basis_writer import serialise

#: Root, neck, jaw, eyes: FLAME's tree.
NAMES = ("global", "neck", "jaw", "left_eye", "right_eye")
PARENTS = (-1, 0, 1, 1, 1)


def rodrigues(vector: np.ndarray) -> np.ndarray:
    angle = np.linalg.norm(vector)
    if angle == 0:
        return np.eye(3)
    x, y, z = vector / angle
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def skin(rest: np.ndarray, centres: np.ndarray, weights: np.ndarray, parents, turns: np.ndarray) -> np.ndarray:
    """Linear blend skinning with 4×4 matrices: rest (V, 3), centres (J, 3), weights (V, J), turns (J, 3, 3) with the root's."""
    world = []
    for joint, parent in enumerate(parents):
        local = np.eye(4)
        local[:3, :3] = turns[joint]
        local[:3, 3] = centres[joint] - (centres[parent] if parent >= 0 else 0)
        world.append(local if parent < 0 else world[parent] @ local)
    moves = []
    for matrix, centre in zip(world, centres):
        back = np.eye(4)
        back[:3, 3] = -centre
        moves.append(matrix @ back)
    homogeneous = np.concatenate([rest, np.ones((len(rest), 1))], 1)
    return np.einsum("vj,jab,vb->va", weights, np.stack(moves), homogeneous)[:, :3]


def rig_tensors(tensors: dict[str, np.ndarray], seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Joints for the toy head: the neck moves its lower half, the jaw the front of that, the eyes two small balls."""
    rng = np.random.default_rng(seed)
    mean = tensors["mean"].astype(float)
    centres = np.array([[0, -0.12, -0.02], [0, -0.1, -0.03], [0, -0.03, 0.02], [0.03, 0.03, 0.06], [-0.03, 0.03, 0.06]])
    weights = np.zeros((len(mean), 5))
    weights[:, 0] = np.clip((-0.08 - mean[:, 1]) / 0.02, 0, 1)
    jaw = np.clip((-0.01 - mean[:, 1]) / 0.03, 0, 1) * np.clip(mean[:, 2] / 0.03, 0, 1)
    for eye in (3, 4):
        weights[:, eye] = np.maximum(1 - ((mean - centres[eye]) ** 2).sum(1) / 0.03**2, 0)
    weights[:, 2] = jaw * (1 - weights[:, 0])
    weights[:, 3:] *= (1 - weights[:, [0]] - weights[:, [2]])
    weights[:, 1] = 1 - weights[:, [0, 2, 3, 4]].sum(1)
    one = np.ones((4, 3))
    return {
        "joint_mean": centres.astype(np.float32),
        "joint_identity": (0.002 * rng.normal(size=(N_IDENTITY, 5, 3))).astype(np.float32),
        "joint_expression": (0.0005 * rng.normal(size=(N_EXPRESSION, 5, 3))).astype(np.float32),
        "joint_parent": np.array(PARENTS, np.int32),
        "skinning_weights": weights.astype(np.float32),
        "pose_correctives": (0.003 * rng.normal(size=(36, len(mean), 3))).astype(np.float32),
        "joint_sigma": (0.2 * one).astype(np.float32),
        "joint_lower": (-0.6 * one).astype(np.float32),
        "joint_upper": (0.6 * one).astype(np.float32),
        "joint_free": np.array([0, 1, 1, 1], np.uint8),
    }, {"joint_names": json.dumps(NAMES)}


def write_articulated(path: Path, **changes: np.ndarray | None) -> Path:
    tensors, metadata = toy_tensors()
    joints, names = rig_tensors(tensors)
    tensors = {k: v for k, v in (tensors | joints | changes).items() if v is not None}
    path.write_bytes(serialise(tensors, metadata | names))
    return path


def articulated_basis(folder: Path) -> Basis:
    return read_basis(write_articulated(folder / "articulated.safetensors"))


def oracle(basis: Basis, identity: np.ndarray, expression: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """(V, 3) in float64 from the arrays of the file."""
    rig = basis.rig
    assert rig is not None
    code = np.concatenate([identity, expression]).astype(float)
    shapes = np.concatenate([basis.identity, basis.expression]).astype(float)
    centre_shapes = np.concatenate([rig.joint_identity, rig.joint_expression]).astype(float)
    turns = np.stack([np.eye(3), *(rodrigues(np.asarray(j, float)) for j in joints)])
    rest = basis.mean + np.tensordot(code, shapes, 1)
    if len(rig.correctives):
        rest = rest + np.tensordot((turns[1:] - np.eye(3)).reshape(-1), rig.correctives.astype(float), 1)
    centres = rig.joint_mean + np.tensordot(code, centre_shapes, 1)
    return skin(rest, centres, rig.weights.astype(float), rig.parents, turns)


def observed(model, rng: np.random.Generator, name: str, joints: np.ndarray) -> tuple[np.ndarray, fj.Observation]:
    """Pixels (N, 2) of a sample set of a random face with these joints, and their observation."""
    camera = fj.make_camera(640, 480)
    truth = random_truth(model, rng) | {"joints": jnp.asarray(joints, jnp.float32)}
    anywhere = fj.make_observation({name: rng.uniform(0, 100, (len(model.sample_library[name]), 2))}, camera)
    points = np.asarray(predict_final(model, truth, anywhere).pixels[name])
    return points, fj.make_observation({name: points}, camera)
