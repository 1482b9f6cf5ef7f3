"""Faces, label maps and figures of merit that the benchmarks of the part re-projection loss share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

import fitjax as fj
from basis.geometry import similarity
from benchmarks.ict_faces import ict_model
from fitjax.evaluate.parts import crop_placement, render_parts
from fitjax.fit.run import run_one
from fitjax.geometry.rotation import rotation_from_aflw2000
from fitjax.losses.parts import sample_set
from fitjax.model.params import Params
from fitjax.observation.crop import CROP_SIDE
from fitjax.observation.part_tables import PARTS
from fitjax.observation.parts import GRID
from fitjax.prediction import predict

IMAGE = (640, 480)

#: Everything that a fit of geometry frees.
EVERYTHING = {"pose": 1.0, "identity": 1.0, "expression": 1.0}

#: Vertices this near (metres, on the mean face) to landmarks of mouth and eyes count as theirs; of the whole face, to any landmark.
_NEAR, _FACE = 0.008, 0.012

#: Landmarks of eyes and mouth among the 68.
_EYES_MOUTH = slice(36, 68)


@cache
def models() -> tuple[Any, Any]:
    """The embedded model, and ICT-FaceKit in its topology, both with samples of the parts.

    Raises:
        Unavailable: the data is absent.
    """
    model = fj.load_basis()
    return fj.with_part_samples(model), ict_model(model)


@dataclass(frozen=True)
class Scene:
    """A face of ICT-FaceKit in a photo.

    Attributes:
        truth: its parameters. observation: true landmarks (``mediapipe478`` and ``ibug68``). labels: (224, 224) rendered parts over the crop.
        vertices: (V, 3) metres. points: (N, 2) where the samples of all parts are, pixels.
    """

    truth: Params
    observation: fj.Observation
    labels: np.ndarray
    vertices: np.ndarray
    points: np.ndarray

    @property
    def size(self) -> float:
        """Face size, pixels."""
        return float(self.observation.face_size)


@jax.jit
def _points(model: Any, params: Params, observation: fj.Observation) -> tuple[Any, Any, Any]:
    seen = predict(model, params, observation)
    parts = jnp.concatenate([seen.pixels[sample_set(p)] for p in PARTS])
    return parts, seen.pixels["mediapipe478"], seen.pixels["ibug68"]


def make_scene(expression: Mapping[str, float], seed: int) -> Scene:
    """A random identity and pose (yaw within 25°, pitch and roll within 10°) with ICT's expressions as given."""
    _, ict = models()
    rng = np.random.default_rng(seed)
    code = np.zeros(ict.n_expression, np.float32)
    for name, value in expression.items():
        code[ict.expression_names.index(name)] = value
    angles = np.radians(rng.uniform((-10, -25, -10), (10, 25, 10)))
    truth: Params = {
        "identity": jnp.asarray(0.8 * rng.normal(size=ict.n_identity), jnp.float32),
        "expression": jnp.asarray(code),
        "pose": {
            "rotation": jnp.asarray(rotation_from_aflw2000(jnp.asarray(angles)), jnp.float32),
            "translation": jnp.asarray([*rng.uniform(-0.03, 0.03, 2), 0.75], jnp.float32),
        },
    }
    blank = fj.make_observation({"mediapipe478": rng.uniform(100, 300, (478, 2))}, image_size=IMAGE)
    points, dense, sparse = (np.asarray(x) for x in _points(ict, truth, blank))
    observation = fj.make_observation({"mediapipe478": dense, "ibug68": sparse}, image_size=IMAGE)
    labels = render_parts(ict, truth, observation)
    return Scene(truth, observation, labels, np.asarray(ict.decode(truth).vertices), points)


def random_expression(rng: np.random.Generator) -> dict[str, float]:
    """Some of ICT's expressions, moderately."""
    choice = (
        "jawOpen",
        "mouthSmile_L",
        "mouthSmile_R",
        "mouthPucker",
        "browInnerUp_L",
        "browDown_R",
        "eyeBlink_L",
        "mouthLeft",
        "mouthFunnel",
    )
    return {str(n): float(rng.uniform(0.2, 0.7)) for n in rng.choice(choice, 3, replace=False)}


def spoil(labels: np.ndarray, rng: np.random.Generator, *, boundary: float = 0.75, missing: float = 0.1) -> np.ndarray:
    """A label map as a parser might have drawn it: outlines off by some ``boundary`` pixels along either axis, parts missing at this rate."""
    field = ndimage.gaussian_filter(rng.normal(size=(2, *labels.shape)), (0, 5, 5))
    field *= boundary / field.std()
    row, column = np.meshgrid(*map(np.arange, labels.shape), indexing="ij")
    at = np.rint(np.stack([row, column]) + field).astype(int)
    result = labels[at[0].clip(0, labels.shape[0] - 1), at[1].clip(0, labels.shape[1] - 1)]
    lost = [k for k in range(1, len(PARTS) + 1) if rng.random() < missing]
    return np.where(np.isin(result, lost), 0, result).astype(np.uint8)


def with_labels(
    observation: fj.Observation, labels: np.ndarray, crop_of: fj.Observation, **options: Any
) -> fj.Observation:
    """:func:`fitjax.with_parts` for a map that covers the crop of another observation of the photo."""
    return fj.with_parts(observation, labels, "fitjax", image_from_labels=crop_placement(crop_of), **options)


def solve(
    model: Any, observation: fj.Observation, losses: dict[str, Any], stages: list[Any], start: Params | None = None
) -> Params:
    """Fitted parameters; arrays in losses, observation and start may change without compiling anew."""
    return run_one(model, observation, losses, stages, start).params


def reprojection_error(params: Params, scene: Scene, model: Any = None) -> float:
    """Mean distance of the samples of all parts from where they truly are, face sizes."""
    found = np.asarray(_points(model or models()[0], params, scene.observation)[0])
    return float(np.linalg.norm(found - scene.points, axis=1).mean() / scene.size)


@cache
def regions() -> tuple[np.ndarray, np.ndarray]:
    """Vertices of the face, and of its eyes and mouth."""
    model = models()[0]
    mean = np.asarray(model.mean)
    skin = np.zeros(len(mean), bool)
    skin[np.asarray(model.triangles)[np.asarray(model.triangle_region) == 0]] = True

    def near(points: np.ndarray, reach: float) -> np.ndarray:
        from scipy.spatial import cKDTree

        return np.nonzero(skin & (cKDTree(points).query(mean)[0] < reach))[0]

    return near(np.asarray(model.sampled["mediapipe478"].mean), _FACE), near(
        np.asarray(model.sampled["ibug68"].mean)[_EYES_MOUTH], _NEAR
    )


def vertex_errors(params: Params, scene: Scene) -> tuple[float, float]:
    """Mean distance of vertices in mm: mouth and eyes, and the whole face; after the similarity that aligns the whole face best."""
    face, inner = regions()
    found = np.asarray(models()[0].decode(params).vertices, np.float64)
    truth = scene.vertices.astype(np.float64)
    scale, rotation, shift = similarity(found[face], truth[face])
    distance = 1e3 * np.linalg.norm(scale * found @ rotation.T + shift - truth, axis=1)
    return float(distance[inner].mean()), float(distance[face].mean())


def shown(params: Params, scene: Scene) -> np.ndarray:
    """What the fitted model shows over the true crop."""
    return render_parts(models()[0], params, scene.observation)


#: Side of a pixel of the label maps, face sizes.
PIXEL = CROP_SIDE / GRID
