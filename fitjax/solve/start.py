"""Closed-form pose from landmarks: where every fit starts."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from fitjax.geometry.rotation import orthonormalise, rotation_between_rays, safe_normalise
from fitjax.model.params import Params, frontal_pose
from fitjax.model.protocol import Model
from fitjax.observation.observation import Observation


def affine_camera(
    points_head: Float[Array, "N 3"], pixels: Float[Array, "N 2"], weight: Float[Array, "N"]
) -> tuple[Float[Array, "2 3"], Array, Array]:
    """Weighted least-squares affine camera: pixels ≈ A (x - mean) + centroid. Returns A, the weighted mean, the centroid."""
    total = jnp.maximum(jnp.sum(weight), jnp.finfo(weight.dtype).tiny)
    mean = jnp.sum(weight[:, None] * points_head, 0) / total
    centroid = jnp.sum(weight[:, None] * pixels, 0) / total
    x, y = (points_head - mean), (pixels - centroid)
    scatter = jnp.matmul((weight[:, None] * x).T, x, precision="highest")
    # Points in one plane leave a direction open; a small ridge keeps its answer at zero instead of infinity.
    ridge = 1e-6 * jnp.trace(scatter) + jnp.finfo(weight.dtype).tiny
    cross = jnp.matmul((weight[:, None] * x).T, y, precision="highest")
    affine = jnp.linalg.solve(scatter + ridge * jnp.eye(3, dtype=weight.dtype), cross).T
    return affine, mean, centroid


def start_pose(model: Model, params: Params, observation: Observation) -> dict[str, Array]:
    """Rotation and translation by scaled orthography (POS; DeMenthon and Davis 1995) from all valid landmarks.

    The head is then turned towards its place in the picture: orthography measures rotation against the viewing ray through the face.
    """
    positions, pixels, weights = [], [], []
    for name, seen in observation.landmarks.items():
        if name not in model.sample_sets:
            continue
        positions.append(model.decode_samples(params, name).position)
        pixels.append(jnp.where(seen.valid[:, None], seen.points, 0))
        weights.append(jnp.where(seen.valid, seen.confidence, 0))
    dtype = observation.camera.focal.dtype
    if not positions:
        return frontal_pose(dtype)
    camera = observation.camera
    affine, mean, centroid = affine_camera(
        jnp.concatenate(positions), jnp.concatenate(pixels), jnp.concatenate(weights)
    )
    lengths = jnp.linalg.norm(affine, axis=1)
    scale = jnp.maximum(jnp.mean(lengths), 1e-6)
    first, second = safe_normalise(affine[0]), safe_normalise(affine[1])
    rotation = orthonormalise(jnp.stack([first, second, safe_normalise(jnp.cross(first, second))]))
    focal = jnp.mean(camera.focal)
    depth = focal / scale
    ray = jnp.concatenate([(centroid - camera.centre) / camera.focal, jnp.ones(1, dtype)])
    if camera.kind == "perspective":
        forward = jnp.array([0.0, 0.0, 1.0], dtype)
        rotation = jnp.matmul(rotation_between_rays(forward, safe_normalise(ray)), rotation, precision="highest")
    mean_camera = jnp.matmul(rotation, mean, precision="highest")
    if camera.kind == "perspective":
        translation = ray * depth - mean_camera
    else:
        translation = ray * depth - jnp.concatenate([mean_camera[:2], jnp.zeros(1, dtype)])
    pose = {"rotation": rotation, "translation": translation}
    ok = observation.ok & jnp.isfinite(rotation).all() & jnp.isfinite(translation).all() & (translation[2] > 0)
    fallback = frontal_pose(dtype)
    return {k: jnp.where(ok, pose[k], fallback[k]) for k in pose}
