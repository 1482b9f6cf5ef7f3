"""Convolutional models in `fitjax-nonlinear/1` files (docs/nonlinear.md), kind ``conv``: the mean albedo and the weights of two networks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fitjax.model.nonlinear_albedo import ConvAlbedo
from fitjax.model.nonlinear_shape import ConvShape, conv_shape
from fitjax.model.nonlinear_weights import flatten_weights, nest_weights

#: Fields of a network that are plain numbers, and those that are tuples of them.
_NUMBERS = ("code_length", "first", "local_first")
_CHANNELS = ("channels", "local_channels")


def conv_tensors(weights: Any, part: str) -> dict[str, np.ndarray]:
    """Half-precision tensors of a decoder's weights; part ``albedo`` or ``shape``."""
    return flatten_weights(weights["params"], f"{part}.decoder")


def conv_network(settings: Any, height: int, width: int) -> dict[str, Any]:
    """What a file says of a network: the fields of :class:`fitjax.train.conv.ConvSettings` that its maps depend on, and their size."""
    about = {name: getattr(settings, name) for name in (*_NUMBERS, *_CHANNELS)}
    return about | {"regions": settings.regions, "height": height, "width": width, "scale": settings.scale}


def _network(about: dict[str, Any]) -> tuple[dict[str, Any], tuple[Any, ...]]:
    fields: dict[str, Any] = {name: int(about[name]) for name in _NUMBERS}
    fields |= {name: tuple(int(n) for n in about[name]) for name in _CHANNELS}
    return fields, tuple(tuple(int(n) for n in box) for box in about["regions"])


def assemble_conv(tensors: dict[str, np.ndarray], settings: dict[str, Any], linear: Any) -> tuple[ConvShape, ConvAlbedo]:
    """Shape and albedo of a file's content over a linear model.

    Raises:
        KeyError: a field is missing. ValueError: weights that do not fit the network.
    """
    parts = {}
    for part in ("albedo", "shape"):
        fields, regions = _network(settings[part])
        height, width = int(settings[part]["height"]), int(settings[part]["width"])
        parts[part] = fields, regions, {"params": nest_weights(tensors, f"{part}.decoder")}, (height, width)
    fields, regions, weights, size = parts["albedo"]
    mean = tensors["albedo.mean"].astype(np.float32) / 65535
    if mean.shape != (*size, 3):
        raise ValueError(f"field 'albedo.mean': expected shape {(*size, 3)}, found {mean.shape}")
    albedo = ConvAlbedo(jnp.asarray(mean), jnp.float32(settings["albedo"]["scale"]), weights, regions=regions, **fields)
    fields, regions, weights, size = parts["shape"]
    # Files hold millimetres per unit of the map.
    scale = float(settings["shape"]["scale"]) / 1000
    shape = conv_shape(linear, weights, regions, scale=scale, height=size[0], width=size[1], **fields)
    for name, module, found in (("albedo", albedo.module, albedo.weights), ("shape", shape.module, shape.weights)):
        _check(name, module, found, settings[name]["code_length"])
    return shape, albedo


def _check(name: str, module: Any, weights: Any, length: int) -> None:
    expected = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, int(length))))
    flat = [{jax.tree_util.keystr(p): x.shape for p, x in jax.tree_util.tree_flatten_with_path(tree)[0]} for tree in (expected, weights)]
    for key in flat[0].keys() | flat[1].keys():
        if flat[0].get(key) != flat[1].get(key):
            raise ValueError(f"{name} network: expected {key} of shape {flat[0].get(key)}, found {flat[1].get(key)}")
