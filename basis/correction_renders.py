"""Synthetic portraits with exact landmarks, and what FaceMesh says about them: the training data of the detector's correction.

    python -m basis.correction_renders --count 3500 --seed 1 --out cache/correction_1.npz

Every face is drawn from the priors of the embedded models: identity, skin and light N(0, 1), a quarter of the expressions. No photograph goes in.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.ndimage import gaussian_filter, zoom

import fitjax as fj
from fitjax.detect import DetectedFace, FaceMeshDetector
from fitjax.geometry.rotation import rotation_from_aflw2000
from fitjax.model.albedo import default_albedo
from fitjax.model.textured import textured_model
from fitjax.prediction import predict
from fitjax.pytree import replace
from fitjax.render.face import rasterize_face, render_face
from fitjax.render.shading import srgb_from_linear

SIZE = 320
POINTS = "mediapipe478"
PITCH, ROLL, YAW = 30.0, 20.0, 80.0
FIELD_OF_VIEW = (25.0, 60.0)
#: Height of a mean face in metres, and the range of its share of the image's height.
FACE_METRES, SHARE = 0.2, (0.4, 0.7)


@dataclass(frozen=True)
class Render:
    """A portrait: (H, W, 3) uint8 sRGB; (478, 3) true pixels and depth about the head's origin at the scale of x; pitch, yaw, roll in
    degrees (AFLW2000-3D convention)."""

    rgb: np.ndarray
    points: np.ndarray
    pose: np.ndarray


def _renderer(model: Any) -> Any:
    fixed = fj.make_observation(
        {POINTS: np.random.default_rng(0).uniform(0, 100, (478, 2))}, fj.make_camera(SIZE, SIZE)
    )

    def draw(params: Any, focal: Any) -> Any:
        camera = replace(fixed.camera, focal=jnp.broadcast_to(focal, (2,)))
        seen = predict(model, params, replace(fixed, camera=camera))
        face = render_face(seen, rasterize_face(seen, SIZE, SIZE))
        image = jnp.zeros((SIZE * SIZE, 3)).at[face.pixel].add(jnp.where(face.covered[:, None], face.colour, 0))
        cover = jnp.zeros(SIZE * SIZE).at[face.pixel].add(face.covered)
        depth = (seen.points_camera[POINTS].position[:, 2:] / seen.t_camera_head[2] - 1) * focal
        points = jnp.concatenate([seen.pixels[POINTS], depth], -1)
        return image.reshape(SIZE, SIZE, 3), cover.reshape(SIZE, SIZE), points

    return jax.jit(draw)


def _yaw(rng: np.random.Generator) -> float:
    """More of what the detector gets wrong: two thirds between 20° and 75°."""
    return float(rng.choice([-1, 1]) * rng.uniform(20, 75) if rng.random() < 0.67 else rng.uniform(-YAW, YAW))


def _background(rng: np.random.Generator) -> np.ndarray:
    """Plain, a gradient, or blurred noise; (H, W, 3) in linear light."""
    colour = rng.uniform(0, 1, (2, 3)) ** 2
    kind = rng.integers(3)
    if kind == 0:
        return np.broadcast_to(colour[0], (SIZE, SIZE, 3))
    if kind == 1:
        angle = rng.uniform(0, 2 * np.pi)
        y, x = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
        t = np.clip(0.5 + x * np.cos(angle) + y * np.sin(angle), 0, 1)[..., None]
        return colour[0] * (1 - t) + colour[1] * t
    cells = int(rng.choice([4, 8, 16, 40]))
    noise = rng.uniform(0, 1, (cells, cells, 3)) ** 2
    return np.clip(zoom(noise, (SIZE / cells, SIZE / cells, 1), order=1, mode="nearest", grid_mode=True), 0, 1)


def renders(seed: int, model: Any = None) -> Iterator[Render]:
    """Endless portraits."""
    model = textured_model(fj.load_basis(level=0), default_albedo()) if model is None else model
    draw = _renderer(model)
    rng = np.random.default_rng(seed)
    shape = model.shape
    while True:
        yaw = _yaw(rng)
        pose = np.array([rng.uniform(-PITCH, PITCH), yaw, rng.uniform(-ROLL, ROLL)])
        view = np.radians(rng.uniform(*FIELD_OF_VIEW))
        focal = SIZE / (2 * np.tan(view / 2))
        depth = FACE_METRES * focal / (rng.uniform(*SHARE) * SIZE)
        place = rng.uniform(-0.1, 0.1, 2) * SIZE * depth / focal
        expression = rng.uniform(0, 0.8, shape.n_expression) * (rng.random(shape.n_expression) < 0.25 * rng.random())
        params = {
            "identity": rng.normal(size=shape.n_identity).astype(np.float32),
            "expression": expression.astype(np.float32),
            "pose": {
                "rotation": np.asarray(rotation_from_aflw2000(jnp.asarray(np.radians(pose))), np.float32),
                "translation": np.array([*place, depth], np.float32),
            },
            "albedo": rng.normal(size=model.albedo.n_codes).astype(np.float32),
            "light": rng.normal(size=27).astype(np.float32),
        }
        colour, cover, points = (np.asarray(x) for x in draw(params, np.float32(focal)))
        cover = cover[..., None]
        image = srgb_from_linear(np.clip(colour * cover + _background(rng) * (1 - cover), 0, 1))
        # The raster has hard edges: at least a little blur.
        image = gaussian_filter(image, (s := rng.uniform(0.5, 1.2), s, 0)) + rng.uniform(0, 0.03) * rng.normal(
            size=image.shape
        )
        yield Render((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8), points.astype(np.float64), pose)


def detections(render: Render, detector: FaceMeshDetector) -> DetectedFace | None:
    """The face that the detector finds, if it is the one drawn."""
    found = detector.detect(render.rgb)
    if not found:
        return None
    size = np.sqrt(np.ptp(render.points[:, :2], axis=0).prod())
    near = np.linalg.norm(found[0].landmarks - render.points[:, :2], axis=1).mean() < 0.35 * size
    return found[0] if near and found[0].depth is not None else None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after this long, whatever the count")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows: list[tuple[np.ndarray, ...]] = []
    start, drawn = time.monotonic(), 0
    with FaceMeshDetector(retry=False, mirrored=True, corrected=False) as detector:
        for render in renders(options.seed):
            face = detections(render, detector)
            drawn += 1
            if face is not None and face.depth is not None:
                rows.append((face.landmarks, face.depth, render.points, render.pose))
            if len(rows) >= options.count or time.monotonic() - start > options.seconds:
                break
    landmarks, depth, points, pose = (np.stack(x).astype(np.float32) for x in zip(*rows))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez(options.out, landmarks=landmarks, depth=depth, points=points, pose=pose, drawn=drawn, seed=options.seed)
    print(f"{len(rows)} of {drawn} found in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
