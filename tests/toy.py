"""A small synthetic face-like model for fast tests: an ellipsoid with a nose, smooth random modes, and random surface samples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import safetensors.numpy

from fitjax.model.basis_file import Basis, read_basis

N_IDENTITY, N_EXPRESSION = 12, 6


def toy_tensors(seed: int = 0, rings: int = 18, segments: int = 24) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and metadata of a basis file."""
    rng = np.random.default_rng(seed)
    theta, phi = np.meshgrid(np.linspace(0.05, np.pi - 0.05, rings), np.linspace(0, 2 * np.pi, segments, endpoint=False), indexing="ij")
    unit = np.stack([np.sin(theta) * np.sin(phi), np.cos(theta), np.sin(theta) * np.cos(phi)], -1).reshape(-1, 3)
    mean = unit * (0.07, 0.1, 0.09)
    nose = np.exp(-((unit - (0, -0.05, 1)) ** 2).sum(-1) / 0.03)
    mean[:, 2] += 0.025 * nose
    index = np.arange(rings * segments).reshape(rings, segments)
    a, b = index[:-1], index[1:]
    right = np.roll(index, -1, axis=1)
    c, d = right[:-1], right[1:]
    triangles = np.concatenate([np.stack([a, b, d], -1).reshape(-1, 3), np.stack([a, d, c], -1).reshape(-1, 3)]).astype(np.int32)
    uv = np.stack([phi.reshape(-1) / (2 * np.pi), 1 - theta.reshape(-1) / np.pi], -1).astype(np.float32)

    def modes(count: int, size: float) -> np.ndarray:
        centres = rng.normal(size=(count, 3))
        centres[:, 2] = np.abs(centres[:, 2])
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
        bump = np.exp(-((unit[None] - centres[:, None]) ** 2).sum(-1) / 0.4)
        return (size * bump[..., None] * rng.normal(size=(count, 1, 3))).astype(np.float32)

    front = np.flatnonzero(mean[triangles].mean(1)[:, 2] > 0.01)

    def samples(count: int) -> tuple[np.ndarray, np.ndarray]:
        triangle = rng.choice(front, count).astype(np.int32)
        return triangle, rng.dirichlet([2, 2, 2], count).astype(np.float32)

    tensors = {
        "mean": mean.astype(np.float32),
        "triangles": triangles,
        "uv": uv,
        "uv_triangles": triangles,
        "identity": modes(N_IDENTITY, 0.004),
        "expression": modes(N_EXPRESSION, 0.006),
        "expression_sigma": np.full(N_EXPRESSION, 0.5, np.float32),
        "expression_lower": np.zeros(N_EXPRESSION, np.float32),
        "expression_upper": np.ones(N_EXPRESSION, np.float32),
        "triangle_region": np.zeros(len(triangles), np.uint8),
        "pose_frame.aflw2000": np.eye(3, dtype=np.float32),
    }
    for name, count in (("ibug68", 68), ("aflw68", 68), ("mediapipe478", 478), ("contour68", 17 * 9)):
        tensors[f"samples.{name}.triangle"], tensors[f"samples.{name}.barycentric"] = samples(count)
    metadata = {
        "format": "fitjax-basis/1",
        "name": "toy",
        "licence": "CC0-1.0",
        "units": "m",
        "expression_names": json.dumps(["smileLeft", "smileRight", "jawOpen", "blinkLeft", "blinkRight", "pucker"]),
    }
    return tensors, metadata


def write_toy(path: Path, **changes: np.ndarray) -> Path:
    tensors, metadata = toy_tensors()
    tensors.update(changes)
    safetensors.numpy.save_file(tensors, str(path), metadata)
    return path


def toy_basis(folder: Path) -> Basis:
    return read_basis(write_toy(folder / "toy.safetensors"))
