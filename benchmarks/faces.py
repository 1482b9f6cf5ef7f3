"""Faces for the speed benchmark: annotated ones where the data is there, else drawn from the model itself."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

import fitjax as fj
from benchmarks import shared_data
from benchmarks.shared_data import Unavailable
from fitjax.fit.run import predict_final
from fitjax.geometry.rotation import rotation_from_aflw2000
from fitjax.model.linear import LinearModel


def faces68(model: LinearModel, count: int) -> tuple[np.ndarray, str]:
    """(count, 68, 2) pixels of 450 × 450 images in the order of 3-D annotations, and where they come from."""
    try:
        points = shared_data.aflw_annotations().original[1::2]
    except Unavailable:
        return synthetic68(model, count), "synthetic faces (the annotated ones are absent)"
    return points[np.arange(count) % len(points)], "annotated AFLW2000-3D faces, original labels"


def synthetic68(model: LinearModel, count: int, seed: int = 0) -> np.ndarray:
    """Projected landmarks of random faces within 45° of frontal, with 1 px of noise."""
    rng = np.random.default_rng(seed)
    camera = fj.make_camera(*shared_data.IMAGE_SIZE)
    blank = fj.make_observation({"aflw68_original": rng.uniform(100, 300, (68, 2))}, camera)
    faces = []
    for _ in range(count):
        params = dict(model.init())
        params["identity"] = jnp.asarray(rng.normal(size=model.n_identity), jnp.float32)
        params["expression"] = jnp.asarray(rng.uniform(0, 0.4, model.n_expression), jnp.float32)
        angles = jnp.asarray(np.radians(rng.uniform((-20, -45, -20), (20, 45, 20))), jnp.float32)
        params["pose"] = {
            "rotation": rotation_from_aflw2000(angles),
            "translation": jnp.asarray([0, 0, 0.6], jnp.float32),
        }
        pixels = np.asarray(predict_final(model, params, blank).pixels["aflw68_original"])
        faces.append(pixels + rng.normal(size=pixels.shape))
    return np.stack(faces)


def observe68(points: np.ndarray, set_name: str) -> list[fj.Observation]:
    """Observations of (N, 68, 2) pixels of 450 × 450 images."""
    return [fj.make_observation({set_name: p}, image_size=shared_data.IMAGE_SIZE) for p in points]


def detected478() -> tuple[list[fj.Observation], str]:
    """FaceMesh's 478 points on the photos of the shared data, else on scikit-image's astronaut.

    Raises:
        Unavailable: no detector or no photo.
    """
    from fitjax.detect import default_detector
    from fitjax.errors import DetectionError
    from fitjax.observation.observe import as_photo, observe

    sources: list[object] = []
    try:
        sources += sorted(shared_data.require("aflw2000/dev").glob("*.jpg"))
        what = f"FaceMesh on {len(sources)} photos"
    except Unavailable:
        try:
            from skimage import data
        except ImportError:
            raise Unavailable("478 points: neither the shared photos nor scikit-image is here") from None
        sources.append(data.astronaut())
        what = "FaceMesh on the astronaut photo"
    try:
        with default_detector() as detector:
            return [observe(as_photo(source), detector=detector)[0] for source in sources], what
    except DetectionError as error:
        raise Unavailable(f"478 points: {error}") from None
