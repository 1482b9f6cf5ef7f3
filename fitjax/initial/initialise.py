"""``initialise``: parameters to start a fit from."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from fitjax.errors import FitError
from fitjax.initial.image_weights import SHIPPED_IMAGE
from fitjax.initial.network import LandmarkNet, network_start
from fitjax.initial.points import look_at, observed_points, pose_in_photo, table_of
from fitjax.initial.weights import SHIPPED, load_landmark_net
from fitjax.model.linear import LinearModel
from fitjax.model.load import EMBEDDED, load_basis
from fitjax.model.params import APPEARANCE, Params
from fitjax.model.protocol import Model
from fitjax.observation.observation import Observation
from fitjax.observation.observe import as_photo
from fitjax.pytree import replace
from fitjax.solve.start import start_pose

Method = Literal["closed_form", "landmark_net", "image_net", "auto"]

#: Below so many points there is nothing to learn from: the closed form it is.
_FEWEST = 6


def initialise(
    observation: Observation, *, method: Method = "auto", model: Model | None = None, weights: Path | None = None, photo: Any = None
) -> Params:
    """Parameters for ``fj.fit(..., start=...)``: pose, identity, expression (and other codes of the model's geometry at rest).

    Args:
        observation: of one face, or stacked ones (every leaf of the result then has a leading axis too).
        method: ``closed_form``: the mean face with a pose by scaled orthography, where every fit starts by itself. ``landmark_net``: a robust linear
            solve of pose and codes, corrected by a network. ``image_net``: from the pixels around the face, in ``photo`` or the observation's own
            crop; landmarks say only where to look. ``auto``: the landmark network where it knows the model, else the closed form.
        model: default the embedded basis. weights: of the network; default those that come with fitjax. photo: path, Photo or (H, W, 3) RGB array; of
            stacked observations one for each.

    Raises:
        FitError: an unknown method; a network that belongs to another model, ``landmark_net`` without landmarks that the model knows, or
            ``image_net`` without pixels.
        ImageError: the photo cannot be read.
        BasisError: the weights' file is missing or damaged.
    """
    if method not in get_args(Method):
        raise FitError(f"initialise: method {method!r}; expected one of {', '.join(get_args(Method))}")
    model = load_basis(EMBEDDED) if model is None else model
    single = jnp.ndim(observation.face_size) == 0
    if method == "image_net":
        return _by_pixels(model, observation, photo, single, weights)
    observation = replace(observation, image=None, image_valid=None, parts=None)  # read by nothing here
    if method == "closed_form":
        return _closed_form(model, observation, single)
    net, values, about = load_landmark_net(SHIPPED if weights is None else weights)
    names = tuple(name for name in observation.landmarks if name in model.sample_sets)
    problem = _misfit(model, net, about, names)
    if problem and method == "auto":
        return _closed_form(model, observation, single)
    if problem:
        raise FitError(f"initialise: method 'landmark_net': {problem}; use 'closed_form' or 'auto'")
    return _by_network(net, names, single, values, model, observation)


def _by_pixels(model: Model, observation: Observation, photo: Any, single: bool, weights: Path | None) -> Params:
    """A start from the image network for each face; an empty slot of a batch gets the closed form."""
    from fitjax.initial.image_face import knows, load_looker
    from fitjax.initial.image_observe import crop_as_photo, find_observed

    weights = SHIPPED_IMAGE if weights is None else weights
    if not knows(model, load_looker(weights)[3]):
        raise FitError(f"initialise: method 'image_net': {_FOREIGN.format(_name(model))}; use 'closed_form' or 'auto'")
    faces = [observation] if single else [jax.tree.map(lambda x, i=i: x[i], observation) for i in range(len(observation.ok))]
    photos = [photo] if single or photo is None else list(photo)
    if photo is None:
        photos = [None] * len(faces)
    if len(photos) != len(faces):
        raise FitError(f"initialise: method 'image_net': expected a photo for each of {len(faces)} observations, found {len(photos)}")
    plain = _closed_form(model, replace(observation, image=None, image_valid=None, parts=None), single)
    starts = []
    for k, (face, one) in enumerate(zip(faces, photos)):
        start = plain if single else jax.tree.map(lambda x, k=k: x[k], plain)
        if bool(face.ok):
            seen, where = crop_as_photo(face) if one is None else (as_photo(one), face)
            found = find_observed(where, seen, weights=weights).params
            start = {**start, **jax.tree.map(lambda a, b: jnp.asarray(b, a.dtype), {k: start[k] for k in found}, found)}
        starts.append(start)
    return starts[0] if single else jax.tree.map(lambda *x: jnp.stack(x), *starts)


#: What is wrong with a model that a network was not trained on.
_FOREIGN = "the network belongs to another model than {!r}"


def _name(model: Model) -> str:
    shape = getattr(model, "shape", model)
    return getattr(shape, "name", type(shape).__name__)


def _misfit(model: Model, net: LandmarkNet, about: dict[str, Any], names: tuple[str, ...]) -> str:
    """Why the network cannot serve, or nothing."""
    shape = getattr(model, "shape", model)
    if not isinstance(shape, LinearModel) or shape.basis_sha256 != about.get("basis_sha256"):
        return _FOREIGN.format(_name(model))
    if not names:
        return "the observation has no landmarks that the model knows"
    return ""


def _mean_face(model: Model, observation: Observation) -> Params:
    start = {k: v for k, v in model.init().items() if k not in APPEARANCE}
    return {**start, "pose": start_pose(model, start, observation)}


@partial(jax.jit, static_argnames="single")
def _closed_form(model: Model, observation: Observation, single: bool) -> Params:
    return _mean_face(model, observation) if single else jax.vmap(lambda o: _mean_face(model, o))(observation)


@partial(jax.jit, static_argnames=("net", "names", "single"))
def _by_network(net: LandmarkNet, names: tuple[str, ...], single: bool, weights: Any, model: Any, observation: Observation) -> Params:
    table = table_of(model, names)
    n_identity = getattr(model, "shape", model).n_identity

    def one(seen: Observation) -> Params:
        pixels, weight = observed_points(seen, names)
        view = look_at(seen.camera, pixels, weight, seen.face_size)
        rotation, translation, codes = network_start(net, weights, table, view)
        pose = pose_in_photo(view, rotation, translation)
        found = {"identity": codes[:n_identity], "expression": codes[n_identity:], "pose": pose}
        plain = _mean_face(model, seen)
        usable = seen.ok & (jnp.sum(weight > 0) >= _FEWEST) & (pose["translation"][2] > 0)
        usable &= jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(found)]).all()
        return {**plain, **jax.tree.map(lambda a, b: jnp.where(usable, a, b), found, {k: plain[k] for k in found})}

    if single:
        return one(observation)
    # Like the fit itself: small matrices are solved faster one by one on a CPU.
    return jax.lax.map(one, observation) if jax.default_backend() == "cpu" else jax.vmap(one)(observation)
