"""Photos of people that neither the linear nor the nonlinear model has drawn: held-out heads, albedo of an unseen seed, and what spoils photos."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from benchmarks.photometric_scenes import SIDE, Scene, photograph, random_truth
from fitjax.model.albedo import default_albedo
from fitjax.model.load import load_basis
from fitjax.model.occlusion import default_occlusion
from fitjax.model.params import Params
from fitjax.model.textured import TexturedModel, textured_model
from fitjax.observation.observation import LandmarkObservation
from fitjax.pytree import pytree, replace
from fitjax.render.lighting import linear_from_srgb, srgb_from_linear
from fitjax.train.generator import albedo_batch, albedo_generator
from fitjax.train.texels import texels_of

#: Seed of the generator and first face: nothing was trained or chosen on them.
_SEED, _FIRST = 5, 0
#: What differs from photo to photo of a person; the first is neutral, frontal, in even light.
CONDITIONS = ("nothing", "pose", "light", "expression", "everything")
_SIZE = 256


@pytree
class GivenAlbedo:
    """Albedo whose code is the map itself: (256, 256, 3) in linear light."""

    mean: Float[Array, "H W 3"]

    @property
    def n_codes(self) -> int:
        return int(self.mean.size)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.mean.shape[:2]

    def init(self) -> Array:
        return self.mean

    def decode(self, code: Array) -> Array:
        return code

    def prior(self, code: Array) -> Array:
        return jnp.zeros_like(code)


@dataclass(frozen=True)
class Person:
    """Identity coefficients of the basis, and albedo as a map."""

    identity: Array
    albedo: Array


def truth_model() -> TexturedModel:
    """The linear basis at level 0 with given albedo."""
    return textured_model(load_basis(level=0), GivenAlbedo(jnp.full((_SIZE, _SIZE, 3), 0.4)), default_occlusion())


def people(folder: Path, count: int, size: tuple[int, int] = (192, 224)) -> list[Person]:
    """Held-out MakeHuman heads of a training folder, with generated albedo of another seed."""
    with np.load(folder / "identities.npz") as stored:
        heads = stored["held"][:count]
    texels = texels_of(load_basis(level=0), *size)
    generator = albedo_generator(default_albedo().at(jnp.asarray(texels.uv)), texels)
    maps = albedo_batch(generator, _SEED, _FIRST, count)[1].reshape(count, *size, 3)
    square = jax.image.resize(maps, (count, _SIZE, _SIZE, 3), "linear", antialias=False)
    return [Person(jnp.asarray(head, jnp.float32), albedo) for head, albedo in zip(heads, square)]


def person_scene(model: TexturedModel, person: Person, rng: np.random.Generator, change: str) -> Scene:
    """A photo of a person with one thing (of ``CONDITIONS``, or several by name) drawn at random, 478 landmarks 2 pixels off."""
    plain = replace(model, albedo=default_albedo())  # for the draw of light, pose and expression alone
    drawn: Params = random_truth(plain, rng, angles=(15, 35, 10))
    frontal = random_truth(plain, np.random.default_rng(0), angles=(0, 0, 0))["pose"]
    everything = change == "everything"
    truth = {
        "identity": person.identity,
        "albedo": person.albedo,
        "expression": drawn["expression"] if everything or "expression" in change else jnp.zeros_like(drawn["expression"]),
        "light": drawn["light"] if everything or "light" in change else jnp.zeros(27),
        "pose": drawn["pose"] if everything or "pose" in change else frontal,
    }
    return photograph(model, truth, "mediapipe478", rng)


def spoiled(scene: Scene, how: str, rng: np.random.Generator) -> Scene:
    """The photo half covered (``half grey``, ``half noise``), with the landmarks there 10 pixels off; or ``noisy``: σ = 0.1, all of them 5 off."""
    observation = scene.observation
    affine = np.asarray(observation.camera.crop_from_image)
    name, seen = next(iter(observation.landmarks.items()))
    points = np.array(seen.points)
    across = points[:, 0] * affine[0, 0] + affine[0, 2]
    image = np.array(srgb_from_linear(observation.image))
    left = bool(rng.random() < 0.5)
    if how == "noisy":
        image, hidden, off = image + 0.1 * rng.normal(size=image.shape), np.ones(len(points), bool), 5.0
    else:
        columns = (np.arange(SIDE) < SIDE / 2) == left
        patch = np.full((SIDE, SIDE, 3), 0.5) if how == "half grey" else rng.uniform(size=(SIDE, SIDE, 3))
        image, hidden, off = np.where(columns[None, :, None], patch, image), (across < SIDE / 2) == left, 10.0
    points[hidden] += off / affine[0, 0] * rng.normal(size=(int(hidden.sum()), 2))
    moved: LandmarkObservation = replace(seen, points=jnp.asarray(points, jnp.float32))
    picture: Any = linear_from_srgb(jnp.asarray(np.clip(image, 0, 1), jnp.float32))
    return Scene(scene.truth, replace(observation, image=picture, landmarks={name: moved}))

