"""Photometric losses: the rendered face against the photo, at the pixels that show the face.

Residuals are differences of sRGB values (what a viewer sees, and what PSNR measures), one per covered pixel of the crop with three
components. A pixel counts as far as it lies on the skin of the face (the model's face map), inside the photo, and is trusted to show the face
rather than what is in front of it (:func:`trust_pixels`, frozen per outer step).
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fitjax.errors import FitjaxError
from fitjax.geometry.rotation import safe_normalise
from fitjax.losses.core import Loss, Residuals, residual
from fitjax.losses.robust import make_kernel
from fitjax.observation.observation import Observation
from fitjax.prediction import PixelTrust, Prediction
from fitjax.pytree import replace
from fitjax.render.face import RenderedFace, Version
from fitjax.render.frozen_face import render_frozen
from fitjax.render.lighting import srgb_from_linear

#: What of the face a loss reads.
Region = Literal["skin", "face"]

#: Default weight: with residuals in units of their own spread and λ = 3e-3 for the priors, as if 200 pixels of the face spoke independently.
PHOTOMETRIC_WEIGHT = 1.8

#: Window (pixels of the crop) over which residuals are averaged to find what hides the face, and how many medians count as too much.
_WINDOW = 9
_TOO_MUCH = 2.5

#: Window in which an untrusted spot may be a feature of the face, and the share of trusted skin around it from which on it is one.
_SPOT = 25
_AMID_SKIN = (0.45, 0.65)

#: Cosine to the view below which a residual map reads nothing, and above which it reads fully.
_GRAZING = (0.15, 0.4)

#: Mean weight around a pixel from which on a residual map begins to read it, and reads it fully.
_WELL_INSIDE = (0.5, 0.85)

#: Least spread of residuals, sRGB: noise and compression of a photo.
NOISE = 0.01


def rendered(pred: Prediction, obs: Observation, shape: Version = "full", albedo: Version = "full") -> RenderedFace:
    """The face as the losses of this outer step see it, at the pixels of the face; for losses of your own.

    Raises:
        FitjaxError: the model has no albedo, or the observation no image.
    """
    return _rendered(pred, obs, ((shape, albedo),))[0]


def _rendered(
    pred: Prediction, obs: Observation, pairs: tuple[tuple[Version, Version], ...], hold_shape: bool = False
) -> tuple[RenderedFace, ...]:
    if pred.mesh is None or obs.image is None:
        raise FitjaxError(
            "photometric loss: expected a textured model (fj.load_textured) and an observation with pixels (fj.with_image); one is missing"
        )
    assert pred.frozen is not None
    if pred.frozen.face is None:
        raise FitjaxError("photometric loss: nothing was rasterised; this is a loss without the option reads_pixels=True")
    return render_frozen(pred, pred.frozen.face, obs.image.shape[1], pairs, hold_shape)


def compare(face: RenderedFace, obs: Observation) -> Float[Array, "P 3"]:
    """Rendered minus photographed, sRGB."""
    target = obs.image.reshape(-1, 3)[face.pixel]
    return jnp.where(face.covered[:, None], srgb_from_linear(face.colour) - srgb_from_linear(target), 0)


def pixel_trust(face: RenderedFace, obs: Observation) -> Float[Array, "P"]:
    """Weight of each pixel before occluders are considered."""
    return face.trusted * obs.image_valid.reshape(-1)[face.pixel] * face.covered


def _photometric(
    pred: Prediction,
    obs: Observation,
    *,
    shape: Version,
    albedo: Version,
    region: Region,
    hold_shape: bool,
    reads_pixels: bool,
    visible_sets: tuple[str, ...],
) -> Residuals:
    (face,) = _rendered(pred, obs, ((shape, albedo),), hold_shape)
    assert pred.frozen is not None and pred.frozen.pixels is not None
    # Frozen with the triangles: a weight that moved with the face would have a gradient that no solver should follow.
    trust = pred.frozen.pixels
    return Residuals(compare(face, obs) / trust.spread, trust.weight if region == "skin" else trust.detail_weight)


_make = residual(_photometric)


def photometric(
    shape: Version = "full",
    albedo: Version = "full",
    region: Region = "skin",
    robust_scale: float = 3.0,
    hold_shape: bool = False,
) -> Loss:
    """Robust difference between the rendered face and the photo, in units of its own spread.

    The spread (the median residual over the face, frozen per outer step) makes the loss mean the same on dark and light faces and on good and bad
    photos, and lets it grow sharper as the fit gets better: the likelihood of the photo with its noise estimated along the way.

    Args:
        shape, albedo: ``full`` or ``proxy``. Tran, Liu, Liu (CVPR 2019) sum the pairs (proxy, proxy), (proxy, full) and (full, proxy), so that each
            residual must explain the photo together with a well-regularised partner.
        region: ``skin``, what an albedo model describes; or ``face``, with eyes and mouth, for residual maps.
        hold_shape: the surface is data; the loss moves albedo and light alone.
        robust_scale: where the Charbonnier kernel turns from square to absolute, in spreads.
    """
    loss = _make(shape=shape, albedo=albedo, region=region, hold_shape=hold_shape, reads_pixels=True, visible_sets=())
    return replace(loss, weight=np.float32(PHOTOMETRIC_WEIGHT), kernel=make_kernel("charbonnier", robust_scale))


def box_mean(image: Float[Array, "H W"], size: int) -> Float[Array, "H W"]:
    """Mean over a square window, zero beyond the border."""
    ones = (size, size)
    total = jax.lax.reduce_window(image, jnp.zeros((), image.dtype), jax.lax.add, ones, (1, 1), "SAME")
    return total / size**2


def trust_pixels(pred: Prediction, obs: Observation) -> PixelTrust:
    """How far each pixel of the frozen face shows the face: :func:`pixel_trust`, less what hides it; and the spread of the residuals.

    Hair, glasses and hands differ from the rendered skin by more than it usually differs. The mean residual over a window counts against the median
    over the face: a window that is off by 2.5 medians counts half, by 5 hardly at all.
    """
    height, width = obs.image.shape[:2]
    # The proxies: residual maps explain whatever is in front of the face, too.
    face = rendered(pred, obs, "proxy", "proxy")
    weight = pixel_trust(face, obs)
    size = jnp.sqrt(jnp.sum(compare(face, obs) ** 2, -1) + 1e-12)

    def picture(values: Array) -> Array:
        return jnp.zeros(height * width, values.dtype).at[face.pixel].add(values).reshape(height, width)

    count = box_mean(picture(weight), _WINDOW)
    mean = (box_mean(picture(weight * size), _WINDOW) / jnp.maximum(count, 1e-3)).reshape(-1)[face.pixel]
    trusted = weight > 0.5
    ordered = jnp.sort(jnp.where(trusted, mean, jnp.inf))
    middle = ordered[jnp.sum(trusted) // 2]
    middle = jnp.where(jnp.isfinite(middle), middle, 1.0)
    # The residual's norm over three channels is √3 times one channel's. Below two per cent nothing is an occluder.
    spread = jnp.maximum(middle / np.sqrt(3), NOISE)
    too_much = _TOO_MUCH * jnp.maximum(middle, 0.02)
    shown = 1 / (1 + (mean / too_much) ** 4)
    # Small spots amid trusted skin are nostrils, brows and corners of eyes, which no model gets quite right, not things in front of the face.
    wide = box_mean(picture(weight * shown), _SPOT) / jnp.maximum(box_mean(picture(weight), _SPOT), 1e-3)
    shown = jnp.maximum(shown, _ramp(wide.reshape(-1)[face.pixel], *_AMID_SKIN))
    # Of eyes and mouth the model knows too little to say that something hides them.
    seen = obs.image_valid.reshape(-1)[face.pixel] * face.covered
    inner = jnp.maximum(face.detailed - face.trusted, 0) * seen
    # At the outline, and beside what hides the face, a pixel shows as much of that, and a texel gets few pixels: a residual would smear.
    detail = (weight * shown + inner) * _ramp(_facing(pred, face), *_GRAZING)
    inside = box_mean(picture(detail), _WINDOW).reshape(-1)[face.pixel]
    return PixelTrust(weight * shown, detail * _ramp(inside, *_WELL_INSIDE), spread)


def _ramp(x: Array, low: float, high: float) -> Array:
    """0 below ``low``, 1 above ``high``, smooth between."""
    t = jnp.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _facing(pred: Prediction, face: RenderedFace) -> Float[Array, "P"]:
    """Cosine between the normal and the direction to the camera, about as at the head's middle."""
    towards = safe_normalise(-pred.t_camera_head)
    return jnp.matmul(face.normal, towards, precision="highest")
