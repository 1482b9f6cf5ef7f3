"""Synthetic photos of the textured model, and figures of merit that the photometric benchmarks share.

Faces are drawn by the model that is fitted: the figures say what the losses and solvers recover when the model is right, not how well it is
one of people.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

import fitjax as fj
from basis.geometry import similarity
from fitjax.fit.run import predict_final
from fitjax.geometry.rotation import rotation_from_aflw2000
from fitjax.model.light_prior import light_from_code
from fitjax.model.params import Params
from fitjax.model.textured import LEVEL_PRIOR, TexturedModel, load_textured
from fitjax.observation.crop import CROP_SIDE
from fitjax.prediction import predict
from fitjax.pytree import replace
from fitjax.render.face import Version, rasterize_face, render_face
from fitjax.render.lighting import diffuse_shading, linear_from_srgb, srgb_from_linear

#: Side of the crop, and of the synthetic photo, pixels.
SIDE, PHOTO = 224, 400

#: Noise of the synthetic photo, sRGB.
PIXEL_NOISE = 0.01

#: Darkest shading (of a white surface) that a drawn light may leave anywhere on the seen half of a sphere: series of second order go negative,
#: light does not.
_DARKEST = 0.05

#: The six equal parts of the tone scale have their middles here (docs/albedo.md), a little beyond the outermost: -2 and 2.
MELANIN = (-2.0, -0.8, -0.25, 0.25, 0.8, 2.0)


@cache
def textured(level: int = 1) -> TexturedModel:
    return load_textured(level=level)


@dataclass(frozen=True)
class Scene:
    """A synthetic photo: true parameters (with residual maps where it has some) and the observation with noisy landmarks and pixels."""

    truth: Params
    observation: fj.Observation


def drawn(model: TexturedModel, params: Params, observation: fj.Observation, version: Version = "full") -> dict[str, jax.Array]:
    """Pictures over the crop: ``colour`` (linear), ``albedo``, ``normal`` (camera axes), ``trusted`` (skin of the face), ``covered``."""
    seen = predict(model, params, observation)
    height, width = observation.image.shape[:2]
    ids = rasterize_face(seen, height, width)
    face = render_face(seen, ids, version, version)
    places = [face.colour, face.albedo, face.normal, face.trusted[:, None]]
    packed = jnp.where(face.covered[:, None], jnp.concatenate(places, -1), 0)
    # Unused places repeat pixel 0: they go behind the picture.
    pixel = jnp.where(face.covered, face.pixel, height * width)
    picture = jnp.zeros((height * width + 1, packed.shape[-1]), packed.dtype).at[pixel].set(packed)[:-1].reshape(height, width, -1)
    return {
        "colour": picture[..., :3], "albedo": picture[..., 3:6], "normal": picture[..., 6:9], "trusted": picture[..., 9], "covered": ids >= 0,
    }  # fmt: skip


draw = jax.jit(drawn, static_argnames="version")


def _light(rng: np.random.Generator, directions: np.ndarray) -> np.ndarray:
    """A code of light from the fit's own prior: its level varies by 5 % (the prior's width, ``LEVEL_PRIOR``), its colour and directions by all that
    `light_prior` allows; drawn again until nothing on the seen side is lit negatively."""
    while True:
        code = rng.normal(size=27)
        code[0] /= LEVEL_PRIOR
        if float(diffuse_shading(directions, light_from_code(jnp.asarray(code, jnp.float32))).min()) > _DARKEST:
            return code


def _seen_directions() -> np.ndarray:
    """Unit vectors of the half sphere that faces the camera, evenly."""
    k = np.arange(400)
    z = -(k + 0.5) / 400
    angle = k * np.pi * (3 - np.sqrt(5))
    r = np.sqrt(1 - z**2)
    return np.stack([r * np.cos(angle), r * np.sin(angle), z], -1).astype(np.float32)


def random_truth(model: TexturedModel, rng: np.random.Generator, angles: tuple[float, float, float] = (15, 30, 15)) -> Params:
    """Identity, albedo and light from their priors, a quarter of the expressions up to 0.8, and a pose within ``angles`` (degrees)."""
    shape = model.shape
    expression = rng.uniform(0, 0.8, shape.n_expression) * (rng.random(shape.n_expression) < 0.25)
    rotation = rotation_from_aflw2000(jnp.asarray(np.radians(rng.uniform(-1, 1, 3) * angles)))
    codes = {
        "identity": rng.normal(size=shape.n_identity),
        "expression": expression,
        "albedo": np.clip(rng.normal(size=model.albedo.n_codes), -3, 3),
        "light": _light(rng, _seen_directions()),
    }
    pose = {"rotation": jnp.asarray(rotation, jnp.float32), "translation": jnp.array([0.0, 0.0, 0.6], jnp.float32)}
    return {**{k: jnp.asarray(v, jnp.float32) for k, v in codes.items()}, "pose": pose}


def random_residuals(model: TexturedModel, rng: np.random.Generator) -> Params:
    """Residual maps that no code of the model draws: wrinkles (directed noise, 0.3 mm) and freckles with blotches (dark spots, ± 10 %)."""
    n = model.detail_size
    wrinkles = ndimage.gaussian_filter(rng.normal(size=(n, n)), (2.0, 10.0), mode="wrap")
    wrinkles -= ndimage.gaussian_filter(wrinkles, 12, mode="wrap")
    wrinkles *= 3e-4 / (np.sqrt(2) * wrinkles.std())
    blotches = ndimage.gaussian_filter(rng.normal(size=(n, n)), 8, mode="wrap")
    spots = ndimage.gaussian_filter((rng.random((n, n)) < 0.004).astype(float), 1.2, mode="wrap")
    amount = 0.1 * blotches / blotches.std() - 0.4 * spots / spots.max()
    # Melanin darkens blue most.
    albedo = amount[..., None] * np.array([0.7, 1.0, 1.3])
    return {"detail_shape": jnp.asarray(wrinkles, jnp.float32), "detail_albedo": jnp.asarray(albedo, jnp.float32)}


def photograph(model: TexturedModel, truth: Params, name: str, rng: np.random.Generator, noise: float = 2.0) -> Scene:
    """The face before a background of one colour, clipped to [0, 1] as a photo is, landmarks of the set ``name`` off by ``noise`` pixels
    of the crop (standard deviation per coordinate)."""
    n = len(model.shape.sample_library[name])
    camera = fj.make_camera(PHOTO, PHOTO)
    shown = predict_final(model.shape, truth, fj.make_observation({name: rng.uniform(0, 100, (n, 2))}, camera))
    points = np.asarray(shown.pixels[name])
    exact = fj.make_observation({name: points}, camera)
    scale = SIDE / (float(exact.face_size) * CROP_SIDE)
    observation = fj.make_observation({name: points + noise / scale * rng.normal(size=points.shape)}, camera)
    low = np.asarray(exact.face_centre) - SIDE / scale / 2
    affine = np.array([[scale, 0, -low[0] * scale - 0.5], [0, scale, -low[1] * scale - 0.5]])
    observation = replace(
        observation,
        camera=replace(observation.camera, crop_from_image=jnp.asarray(affine, jnp.float32)),
        image=jnp.zeros((SIDE, SIDE, 3)),
        image_valid=jnp.ones((SIDE, SIDE), bool),
    )
    picture = draw(model, truth, observation)
    background = jnp.asarray(rng.uniform(0, 1, 3), jnp.float32)
    image = jnp.clip(jnp.where(picture["covered"][..., None], picture["colour"], background), 0, 1)
    noisy = srgb_from_linear(image) + PIXEL_NOISE * jnp.asarray(rng.normal(size=image.shape), jnp.float32)
    return Scene(truth, replace(observation, image=linear_from_srgb(jnp.clip(noisy, 0, 1))))


@dataclass(frozen=True)
class Errors:
    """Of one fit. ``vertex`` mm, the face after the best similarity; ``normal`` degrees, mean over pixels of skin that both show; ``light`` (shading
    of a white surface with the true normals there) and ``albedo`` (there) as relative RMS, ``_scaled`` up to the best single factor."""

    vertex: float
    normal: float
    light: float
    light_scaled: float
    albedo: float
    albedo_scaled: float


@cache
def _face_vertices(level_vertices: int) -> np.ndarray:
    model = next(m for m in (textured(k) for k in (0, 1)) if m.shape.n_vertices == level_vertices)
    uv, face = np.asarray(model.vertex_uv), np.asarray(model.face_map)
    n = len(face)
    row, column = ((1 - uv[:, 1]) * n).astype(int).clip(0, n - 1), (uv[:, 0] * n).astype(int).clip(0, n - 1)
    return np.flatnonzero(face[row, column] > 0.5)


def _relative(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Relative RMS, and the same up to one factor."""
    size = np.linalg.norm(truth)
    factor = (found * truth).sum() / max((found * found).sum(), 1e-12)
    return float(np.linalg.norm(found - truth) / size), float(np.linalg.norm(factor * found - truth) / size)


def errors(model: TexturedModel, params: Params, scene: Scene) -> Errors:
    """Of fitted parameters (with residual maps where they have some) against the truth."""
    face = _face_vertices(model.shape.n_vertices)
    found_points, true_points = (np.asarray(model.shape.decode(p).vertices, np.float64)[face] for p in (params, scene.truth))
    scale, rotation, shift = similarity(found_points, true_points)
    vertex = 1e3 * np.linalg.norm(scale * found_points @ rotation.T + shift - true_points, axis=1).mean()
    found, true = ({k: np.asarray(v) for k, v in draw(model, p, scene.observation).items()} for p in (params, scene.truth))
    skin = (found["trusted"] > 0.5) & (true["trusted"] > 0.5)
    cosine = (found["normal"][skin] * true["normal"][skin]).sum(-1)
    shading = [np.asarray(diffuse_shading(jnp.asarray(true["normal"][skin]), light_from_code(p["light"]))) for p in (params, scene.truth)]
    return Errors(
        float(vertex),
        float(np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean()),
        *_relative(*shading),
        *_relative(found["albedo"][skin], true["albedo"][skin]),
    )


def without_detail(params: Params) -> Params:
    return {k: v for k, v in params.items() if not k.startswith("detail")}


def picture_row(model: TexturedModel, params: Params, scene: Scene) -> np.ndarray:
    """Photo, render, normals true and found, albedo true and found; sRGB, uint8."""
    found, true = draw(model, params, scene.observation), draw(model, scene.truth, scene.observation)
    tiles = [srgb_from_linear(scene.observation.image), srgb_from_linear(jnp.maximum(found["colour"], 0))]
    tiles += [jnp.where(x["covered"][..., None], 0.5 - 0.5 * x["normal"], 1) for x in (true, found)]
    tiles += [srgb_from_linear(x["albedo"]) for x in (true, found)]
    return (np.clip(np.concatenate([np.asarray(t) for t in tiles], 1), 0, 1) * 255).astype(np.uint8)
