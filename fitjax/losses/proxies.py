"""Losses of the nonlinear 3DMM (Tran, Liu, Liu, CVPR 2019): strong regularisers on the proxies, weak ties on the full maps, and pairing.

First plain functions of arrays, for training; then losses of a fit. Those of residual maps, symmetry and local constancy in a fit are
in :mod:`fitjax.losses.detail`.

| term | here | in the paper's code |
|---|---|---|
| symmetry of the proxy albedo | ``symmetry_cost`` | 10 · mean max(abs(A - flip A), 0.01) |
| constancy of the proxy albedo | ``constancy_cost`` | 10 · Σ ω‖A_i - A_j‖^0.8, ω = exp(-15‖c_i - c_j‖) |
| smoothness of the proxy shape | ``smoothness_cost`` | 5e5 · mean square of (4-neighbour mean - centre) |
| residual | ``residual_cost`` | mean abs(S - S_p) + mean abs(A - A_p) |
| residual of the self-occluded half | ``occluded_symmetry_cost`` | 100 · against the flipped visible half, which is data |
| white shading | ``white_shading_cost`` | 10 · (batch-mean shading - 0.99)² |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fitjax.losses.core import Loss, value
from fitjax.losses.photometric import photometric, rendered
from fitjax.observation.observation import Observation
from fitjax.prediction import Prediction
from fitjax.pytree import replace
from fitjax.render.lighting import shade, srgb_from_linear
from fitjax.render.texture import sample_texture
from fitjax.render.uv import mirror_uv, texture_confidence, uv_points

#: Below these differences symmetry and (rounded) absolute values ask for nothing.
SYMMETRIC = 0.01
_TIP = 1e-3
#: Mean shading of a face under light that white balance and exposure leave: what keeps albedo and light apart over many photos.
WHITE = 0.99
_ALIKE, _POWER = 15.0, 0.8


def _absolute(x: Array, tip: float = _TIP) -> Array:
    return jnp.sqrt(x**2 + tip**2) - tip


def _mean(values: Array, weight: Array | None) -> Float[Array, ""]:
    if weight is None:
        return jnp.mean(values)
    weight = jnp.broadcast_to(weight, values.shape)
    return jnp.sum(weight * values) / jnp.maximum(jnp.sum(weight), 1e-6)


def symmetry_cost(proxy: Float[Array, "*b H W C"], weight: Float[Array, "H W"] | None = None) -> Float[Array, ""]:
    """Mean of max(|A - flip A|, 0.01) - 0.01, for layouts symmetric about u = ½."""
    difference = jnp.maximum(jnp.abs(proxy - proxy[..., ::-1, :]), SYMMETRIC) - SYMMETRIC
    return _mean(difference.mean(-1), weight)


def smoothness_cost(proxy: Float[Array, "*b H W C"], weight: Float[Array, "H W"] | None = None) -> Float[Array, ""]:
    """Mean square of (mean of the four neighbours - centre), summed over channels."""
    padded = jnp.concatenate([proxy[..., :1, :, :], proxy, proxy[..., -1:, :, :]], -3)
    padded = jnp.concatenate([padded[..., :1, :], padded, padded[..., -1:, :]], -2)
    around = padded[..., :-2, 1:-1, :] + padded[..., 2:, 1:-1, :] + padded[..., 1:-1, :-2, :] + padded[..., 1:-1, 2:, :]
    return _mean(jnp.sum((around / 4 - proxy) ** 2, -1), weight)


def constancy_cost(
    proxy: Float[Array, "*b H W 3"], seen: Float[Array, "*b H W 3"], weight: Float[Array, "H W"] | None = None
) -> Float[Array, ""]:
    """Neighbours of equal chromaticity in the photo are likely of equal albedo: Σ ω‖A_i - A_j‖^0.8 / number of pairs.

    ω = exp(-15‖c_i - c_j‖) of the unwrapped photo ``seen`` is data. It is not normalised per texel (in the released code it cancels), so a pair of
    different hue counts for little.
    """
    chromaticity = seen / jnp.maximum(jnp.sum(seen, -1, keepdims=True), 1e-3)
    total: Any = jnp.zeros((), proxy.dtype)
    for axis in (-2, -3):
        neighbour = jnp.roll(chromaticity, 1, axis) - chromaticity
        alike = jax.lax.stop_gradient(jnp.exp(-_ALIKE * jnp.sqrt(jnp.sum(neighbour**2, -1) + 1e-12)))
        both = alike if weight is None else alike * weight * jnp.roll(weight, 1, axis + 1)
        inside = [slice(None)] * both.ndim
        inside[axis + 1] = slice(1, None)  # the first row's neighbour lies across the map
        square = jnp.sum((jnp.roll(proxy, 1, axis) - proxy) ** 2, -1)
        total = total + jnp.mean((both * ((square + 1e-6) ** (_POWER / 2) - 1e-6 ** (_POWER / 2)))[tuple(inside)])
    return total


def residual_cost(full: Float[Array, "*b H W C"], proxy: Float[Array, "*b H W C"], weight: Float[Array, "H W"] | None = None) -> Array:
    """Mean |full - proxy|, rounded at a thousandth."""
    return _mean(_absolute(full - proxy).mean(-1), weight)


def occluded_symmetry_cost(
    residual: Float[Array, "H W C"], mirrored: Float[Array, "H W C"], seen: Float[Array, "H W"], mirrored_seen: Float[Array, "H W"]
) -> Float[Array, ""]:
    """Where the photo does not show a texel but shows its mirror image, the residual there should be the mirrored one, which is data."""
    hidden = jax.lax.stop_gradient((1 - seen) * mirrored_seen)
    return jnp.sum(hidden * _absolute(residual - jax.lax.stop_gradient(mirrored)).mean(-1)) / hidden.size


def white_shading_cost(shading: Float[Array, "B P 3"], weight: Float[Array, "B P"] | None = None) -> Float[Array, ""]:
    """Square of (mean over the batch - 0.99), averaged over the channels: one photo may be dark, all together are not."""
    if weight is None:
        mean = jnp.mean(shading, (0, 1))
    else:
        mean = jnp.sum(shading * weight[..., None], (0, 1)) / jnp.maximum(jnp.sum(weight), 1e-6)
    return jnp.mean((mean - WHITE) ** 2)


def perceptual_cost(features: Callable[[Array], Any], first: Float[Array, "H W 3"], second: Float[Array, "H W 3"]) -> Array:
    """Mean square difference of what ``features`` says of two pictures (sRGB), over all its arrays; any function of a picture will do."""
    leaves = zip(jax.tree.leaves(features(first)), jax.tree.leaves(features(second)), strict=True)
    parts = [jnp.mean((a - b) ** 2) for a, b in leaves]
    return sum(parts, jnp.zeros((), first.dtype)) / max(len(parts), 1)


def paired_photometric(pairing: bool = True, region: str = "skin", robust_scale: float = 3.0) -> dict[str, Loss]:
    """Photometric losses of a model with proxies, by name.

    With pairing (proxy, proxy) and twice (proxy, full) and (full, proxy), halved: each full component must explain the photo with a well-regularised
    partner. Without it the loss of (full, full) alone, at the same total weight: the switch that shows what the pairing buys.
    """
    pairs: tuple[tuple[str, Any, Any, float], ...] = (("full_full", "full", "full", 2.5),)
    if pairing:
        pairs = (
            ("proxy_proxy", "proxy", "proxy", 0.5),
            ("proxy_full", "proxy", "full", 1.0),
            ("full_proxy", "full", "proxy", 1.0),
        )
    return {name: weight * photometric(shape, albedo, region, robust_scale) for name, shape, albedo, weight in pairs}  # type: ignore[arg-type]


@value
def _tie_heads(pred: Prediction, obs: Observation) -> Float[Array, ""]:
    face = pred.face
    assert pred.mesh is not None
    albedo = jnp.log(jnp.maximum(face.albedo, 1e-4) / jnp.maximum(face.proxy_albedo, 1e-4))
    weight = pred.mesh.detail_map
    if weight.shape != albedo.shape[:2]:
        weight = jax.image.resize(weight, albedo.shape[:2], "linear")
    shape = _absolute((face.vertices - face.proxy_vertices) * 1000, 0.01).mean()
    return _mean(_absolute(albedo).mean(-1), weight) + shape


def tie_heads(weight: float = 1.0) -> Loss:
    """L1 tie of the full face to its proxy: mean |log albedo factor| on the face + mean |mm| per coordinate of the vertices."""
    return replace(_tie_heads(), weight=np.float32(weight))


@value
def _white_shading(pred: Prediction, obs: Observation, *, reads_pixels: bool = True) -> Float[Array, ""]:
    from fitjax.model.light_prior import light_from_code

    assert pred.frozen is not None and pred.frozen.pixels is not None
    face = rendered(pred, obs, "proxy", "proxy")
    shading = shade(jnp.ones_like(face.normal), face.normal, light_from_code(pred.params["light"]))
    return white_shading_cost(shading[None], pred.frozen.pixels.weight[None])


def white_shading(weight: float = 1.0) -> Loss:
    """Square of (mean shading over the trusted skin - 0.99) per channel, for one photo; over a batch use :func:`white_shading_cost`."""
    return replace(_white_shading(reads_pixels=True), weight=np.float32(weight))


@value
def _occluded_symmetry(
    pred: Prediction, obs: Observation, *, triangle: Array, barycentric: Array, mirror: Array, reads_pixels: bool = True
) -> Float[Array, ""]:
    from fitjax.render.uv import weight_image

    frozen = pred.frozen
    assert frozen is not None and frozen.pixels is not None and frozen.triangle_id is not None
    trust = weight_image(frozen.face.pixel, frozen.face.used, frozen.pixels.detail_weight, *obs.image.shape[:2])
    seen = texture_confidence(jax.lax.stop_gradient(pred), frozen.triangle_id, trust, triangle, barycentric)
    residual = jnp.log(jnp.maximum(pred.face.albedo, 1e-4) / jnp.maximum(pred.face.proxy_albedo, 1e-4))
    side = triangle.shape[0]
    if residual.shape[0] != side:
        residual = jax.image.resize(residual, (side, side, 3), "linear")
    both = jnp.concatenate([residual, seen[..., None]], -1)
    mirrored = sample_texture(both, mirror)
    return occluded_symmetry_cost(residual, mirrored[..., :3], seen, mirrored[..., 3])


def occluded_symmetry(model: Any, weight: float = 1.0, size: int = 128) -> Loss:
    """The albedo residual (log full / proxy) of what the photo hides should mirror what it shows on the other side.

    Args:
        model: the textured model that is fitted, for its texture's mirror map. size: side of the map on which they are compared.
    """
    points = uv_points(np.asarray(model.uv), np.asarray(model.uv_triangles), size)
    loss = _occluded_symmetry(
        triangle=points.triangle, barycentric=points.barycentric, mirror=mirror_uv(model, size), reads_pixels=True
    )
    return replace(loss, weight=np.float32(weight))


def perceptual(
    features: Callable[[Array], Any], weight: float = 1.0, shape: str = "full", albedo: str = "proxy"
) -> Loss:
    """What a feature function says of the photo with the rendered face in it, against the photo itself.

    Args:
        features: (H, W, 3) sRGB of the crop → array or tree of arrays; a network for faces, or any other differentiable function. It becomes part of
            the compiled program: give the same object each time.
        shape, albedo: which pair is rendered; the paper uses the two mixed ones.
    """

    def compared(pred: Prediction, obs: Observation, *, reads_pixels: bool = True) -> Float[Array, ""]:
        face = rendered(pred, obs, shape, albedo)  # type: ignore[arg-type]
        assert pred.frozen is not None and pred.frozen.pixels is not None
        photo = obs.image.reshape(-1, 3)
        share = jax.lax.stop_gradient(pred.frozen.pixels.weight * face.covered)[:, None]
        change = share * (face.colour - photo[face.pixel])
        # Places that hold no pixel have no share; several may name the same pixel.
        drawn = photo.at[face.pixel].add(change).reshape(obs.image.shape)
        return perceptual_cost(features, srgb_from_linear(drawn), srgb_from_linear(obs.image))

    return replace(value(compared)(reads_pixels=True), weight=np.float32(weight))
