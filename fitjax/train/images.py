"""Stage 2: a decoder goes on learning by reconstruction from images, codes optimised jointly with its weights (Tran, Liu, Liu, CVPR 2019).

Each step draws a few photos, takes their visibility anew at the current codes, and moves weights and codes by Adam along the gradient of the losses
of a fit: landmarks and priors, the pairs of proxy and full renders, the regularisers of proxies, and over the batch white shading. What random codes
decode to is held near what stage 1 made of them, so that a handful of photos does not undo it. A step depends on the state alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from fitjax.errors import FitjaxError
from fitjax.fit.defaults import default_losses
from fitjax.losses.core import Loss
from fitjax.losses.detail import constant_albedo, symmetric_albedo
from fitjax.losses.photometric import compare, rendered
from fitjax.losses.proxies import occluded_symmetry, paired_photometric, tie_heads, white_shading_cost
from fitjax.model.light_prior import light_from_code
from fitjax.model.nonlinear import NonlinearModel
from fitjax.model.params import Params, polish, retract, zero_tangent
from fitjax.observation.observation import Observation, stack_observations
from fitjax.prediction import predict
from fitjax.pytree import pytree, replace, static
from fitjax.render.lighting import shade
from fitjax.render.texture import sample_texture
from fitjax.solve.objective import Problem, clip_to_bounds, costs
from fitjax.train.checkpoint import Metrics, load_checkpoint, save_checkpoint
from fitjax.train.devices import spread


@pytree
class ImageSettings:
    """All structure.

    Attributes:
        steps, batch: photos per step. rate, code_rate: of Adam on weights and on codes; both fall to a tenth. pairing: off, (full, full) alone is
            compared.
        symmetry, constancy, tie, hidden, white: weights of the losses on proxies and residuals, 0 leaves one out. keep: of what stage 1 made of
            random codes.
        seed: of batches and random codes.
    """

    steps: int = static(default=400)
    batch: int = static(default=4)
    rate: float = static(default=1e-4)
    code_rate: float = static(default=1e-2)
    pairing: bool = static(default=True)
    symmetry: float = static(default=10.0)
    constancy: float = static(default=1.0)
    tie: float = static(default=0.5)
    hidden: float = static(default=10.0)
    white: float = static(default=10.0)
    keep: float = static(default=10.0)
    seed: int = static(default=0)


class ImageFace(NamedTuple):
    """A photo with what an earlier fit made of it; ``params`` of the model that is trained."""

    name: str
    observation: Observation
    params: Params


@pytree
class DrawnAlbedo:
    """An albedo model whose points are read off its decoded map: many of them cost no more than one, and no rows of a basis are kept."""

    inner: Any
    points: Any = None

    @property
    def n_codes(self) -> int:
        return self.inner.n_codes

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inner.shape if self.points is None else (self.points.shape[0],)

    def init(self) -> Array:
        return self.inner.init()

    def prior(self, code: Array) -> Array:
        return self.inner.prior(code)

    def bounds(self) -> tuple[Array, Array]:
        return self.inner.bounds()

    def decode_both(self, code: Array) -> tuple[Array, Array]:
        """Full and proxy, (S, S, 3) or (P, 3) in linear light."""
        full, proxy = self.inner.decode_both(code)
        return (full, proxy) if self.points is None else (sample_texture(full, self.points), sample_texture(proxy, self.points))

    def decode(self, code: Array) -> Array:
        return self.decode_both(code)[0]

    def decode_proxy(self, code: Array) -> Array:
        return self.decode_both(code)[1]

    def at(self, uv: Float[Array, "P 2"]) -> DrawnAlbedo:
        return replace(self, points=uv)


@pytree
class ImageState:
    """Weights of both decoders, codes of all photos (leading axis N), their optimisers' states, and the number of steps taken."""

    weights: Any
    params: Params
    memory: Any
    code_memory: Any
    step: Any


def weights_of(model: NonlinearModel) -> dict[str, Any]:
    """What stage 2 trains: the decoders' weights; bases, spreads and filters stay."""
    shape: Any = model.shape
    return {"albedo": model.albedo.weights, "shape": shape.weights}


def with_weights(model: NonlinearModel, weights: dict[str, Any]) -> NonlinearModel:
    """The model with other weights."""
    return replace(model, shape=replace(model.shape, weights=weights["shape"]), albedo=replace(model.albedo, weights=weights["albedo"]))


def image_losses(settings: ImageSettings, observation: Observation, model: Any) -> dict[str, Loss]:
    """The losses of one photo; white shading and what is kept of stage 1 are of a batch."""
    losses = default_losses(observation) | paired_photometric(settings.pairing)
    made: dict[str, Callable[[float], Loss]] = {
        "symmetry": symmetric_albedo,
        "constancy": constant_albedo,
        "tie": tie_heads,
        "hidden": lambda weight: occluded_symmetry(model, weight),
    }
    return losses | {name: make(getattr(settings, name)) for name, make in made.items() if getattr(settings, name) > 0}


def _transforms(settings: ImageSettings) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """Of weights and of codes. The latter know no schedule: each photo counts its own steps."""
    schedule = optax.cosine_decay_schedule(settings.rate, settings.steps, 0.1)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule, b2=0.99)), optax.scale_by_adam(b2=0.99)


def start_images(settings: ImageSettings, model: NonlinearModel, params: Params) -> ImageState:
    """The state before the first step; ``params`` with a leading axis of photos."""
    transform, code_transform = _transforms(settings)
    memory = jax.vmap(code_transform.init)(zero_tangent(params))
    weights = weights_of(model)
    return ImageState(weights, params, transform.init(weights), memory, jnp.zeros((), jnp.int32))


def _seen(problem: Problem, params: Params) -> tuple[Array, Array, Array]:
    """Shading of a white face (P, 3) at the trusted pixels, their weight (P,), and the mean |sRGB| difference of the full render from the photo: the
    losses themselves are in units of their own spread, which falls with it."""
    pred = predict(problem.model, params, problem.observation, problem.frozen)
    assert problem.frozen is not None and problem.frozen.pixels is not None
    weight = problem.frozen.pixels.weight
    face = rendered(pred, problem.observation, "proxy", "proxy")
    shading = shade(jnp.ones_like(face.normal), face.normal, light_from_code(params["light"]))
    off = jnp.abs(compare(rendered(pred, problem.observation), problem.observation)).mean(-1)
    return shading, weight, jax.lax.stop_gradient(jnp.sum(weight * off) / jnp.maximum(jnp.sum(weight), 1e-6))


def _kept(model: NonlinearModel, first: NonlinearModel, key: Array) -> Float[Array, ""]:
    """How far random codes decode from what they did: mean difference of sRGB values and of vertices in units of 20 mm, full and proxy."""
    keys = jax.random.split(key)
    code = jax.random.normal(keys[0], (model.albedo.n_codes,))
    rest = first.shape.init()
    face = {**rest, "identity": jax.random.normal(keys[1], rest["identity"].shape, rest["identity"].dtype)}
    now, then = model.albedo.values(code), jax.lax.stop_gradient(first.albedo.values(code))
    colour = jnp.mean(jnp.abs(jnp.stack(now) - jnp.stack(then)))
    shapes = [jnp.stack([m.shape.decode(face).vertices, m.shape.decode(face).proxy_vertices]) for m in (model, first)]
    # As in the network of shapes, 20 mm count as much as the range of sRGB.
    return colour + 50 * jnp.mean(jnp.abs(shapes[0] - jax.lax.stop_gradient(shapes[1])))


@partial(jax.jit, static_argnames=("settings",), donate_argnames=("state",))
def advance_images(
    settings: ImageSettings, state: ImageState, first: NonlinearModel, observations: Observation, losses: dict[str, Loss]
) -> tuple[ImageState, dict[str, Array]]:
    """One step; ``first`` is the model of stage 1, ``observations`` all photos. Returns the state and the mean cost per loss, and as ``off`` the mean
    absolute sRGB difference between full renders and photos."""
    transform, code_transform = _transforms(settings)
    n = state.params["light"].shape[0]
    key = jax.random.fold_in(jax.random.key(settings.seed), state.step)
    chosen = jax.random.permutation(key, n)[: min(settings.batch, n)]
    params = jax.tree.map(lambda x: spread(x[chosen]), state.params)
    photos = jax.tree.map(lambda x: spread(x[chosen]), observations)
    before = with_weights(first, state.weights)
    drawn = lambda model: replace(model, albedo=DrawnAlbedo(model.albedo))  # noqa: E731

    def freeze(args: Any) -> Any:
        frozen = Problem(drawn(before), args[1], losses).refreeze(args[0]).frozen
        assert frozen is not None
        # The albedo model there is a copy of the weights: it is put back where the gradient can see it.
        return replace(frozen, face=replace(frozen.face, albedo=None))

    frozen = jax.lax.map(freeze, (params, photos))

    def objective(weights: Any, tangent: Any) -> tuple[Array, dict[str, Array]]:
        model = with_weights(first, weights)

        def one(args: Any) -> Any:
            params, tangent, photo, frozen = args
            shown = drawn(model)
            frozen = replace(frozen, face=replace(frozen.face, albedo=shown.albedo.at(frozen.face.uv)))
            problem, moved = Problem(shown, photo, losses, frozen), retract(params, tangent)
            return costs(problem, moved), _seen(problem, moved)

        parts, (shading, weight, off) = jax.lax.map(one, (params, tangent, photos, frozen))
        terms = {name: jnp.mean(value) for name, value in parts.items()}
        if settings.white > 0:
            terms["white"] = settings.white * white_shading_cost(shading, weight)
        if settings.keep > 0:
            terms["keep"] = settings.keep * _kept(model, first, jax.random.fold_in(key, 1))
        return sum(terms.values(), jnp.zeros(())), terms | {"off": jnp.mean(off)}

    zero = zero_tangent(params)
    (_, terms), (slope, code_slope) = jax.value_and_grad(objective, (0, 1), has_aux=True)(state.weights, zero)
    change, memory = transform.update(slope, state.memory, state.weights)
    rows = jax.tree.map(lambda x: x[chosen], state.code_memory)
    step, rows = jax.vmap(code_transform.update)(code_slope, rows)
    falling = 0.1 + 0.45 * (1 + jnp.cos(jnp.pi * jnp.minimum(state.step / settings.steps, 1)))
    rate = settings.code_rate * falling
    # A tenth for the pose, whose units are radians and shares of the distance.
    step = {group: jax.tree.map(lambda x, r=0.1 if group == "pose" else 1.0: -rate * r * x, part) for group, part in step.items()}
    moved = jax.vmap(lambda p, t: clip_to_bounds(first, polish(retract(p, t))))(params, step)
    put = lambda whole, part: whole.at[chosen].set(part)  # noqa: E731
    after = ImageState(
        optax.apply_updates(state.weights, change),
        jax.tree.map(put, state.params, moved),
        memory,
        jax.tree.map(put, state.code_memory, rows),
        state.step + 1,
    )
    return after, terms


def train_images(
    settings: ImageSettings,
    model: NonlinearModel,
    faces: list[ImageFace],
    checkpoint: Path,
    metrics: Path,
    about: dict[str, Any],
    interval: int = 20,
    progress: Any = None,
) -> tuple[NonlinearModel, ImageState]:
    """Train to the end of the settings' steps, from the checkpoint if there is one; the trained model and the state with the codes of all photos.

    Raises:
        FitjaxError: no photos, or a checkpoint of other settings or photos.
    """
    if not faces:
        raise FitjaxError("training from images: expected at least one fitted photo, found none")
    observations = stack_observations([face.observation for face in faces])
    params = jax.tree.map(lambda *x: jnp.stack([jnp.asarray(a) for a in x]), *[face.params for face in faces])
    about = about | {"settings": repr(settings), "photos": [face.name for face in faces]}
    state = start_images(settings, model, params)
    if checkpoint.is_file():
        state = load_checkpoint(checkpoint, state, about)
    losses = image_losses(settings, faces[0].observation, model)
    record = Metrics(metrics, "images", int(state.step))
    sums: list[dict[str, float]] = []
    while int(state.step) < settings.steps:
        # The state is given away; the start's arrays are the model's own.
        state, terms = advance_images(settings, jax.tree.map(jnp.array, state), model, observations, losses)
        sums.append({name: float(value) for name, value in terms.items()})
        step = int(state.step)
        if step % interval and step < settings.steps:
            continue
        if not all(np.isfinite(v) for row in sums for v in row.values()):
            raise FitjaxError(f"training from images: the losses are not finite at step {step}; lower the rate or leave out photos that fit badly")
        measured = {name: float(np.mean([row[name] for row in sums])) for name in sums[0]}
        sums = []
        record.add(step, measured)
        save_checkpoint(checkpoint, state, about)
        if progress is not None and progress("images", step, measured) is True:
            break
    return with_weights(model, state.weights), state
