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
from jaxtyping import Array, Bool, Float

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
from fitjax.render.ramp import ramp

#: What of the face a loss reads.
Region = Literal["skin", "face"]

#: Default weight: with residuals in units of their own spread and λ = 3e-3 for the priors, as if 200 pixels of the face spoke independently.
PHOTOMETRIC_WEIGHT = 1.8

#: Window (pixels of the crop) over which residuals are averaged to find what hides the face, and how many medians count as too much.
_WINDOW = 9
_TOO_MUCH = 2.5

#: The same for residual maps, which are there for what the model gets wrong: an eye with its rim is as large.
_FEATURE = 49

#: Window in which an untrusted spot may be a feature of the face, and the share of trusted skin around it from which on it is one.
_SPOT = 25
_AMID_SKIN = (0.45, 0.65)

#: Skin in linear light, log(R/G) and log(B/G): the mean of the albedo model under white light (spread over tones and codes 0.1). Warm lamps and
#: cameras make photos up to twice as saturated, never grey: less saturated than the first share of this counts for little, than the second fully.
_SKIN = (0.58, -0.43)
_SATURATED = (0.3, 0.7)

#: Distance of log chromaticity from the photo's own skin at which a window counts half: a share of the skin's own distance from grey, as gloss and
#: shade change saturated skin by more; and the least.
_OTHER_COLOUR = 0.55
_LEAST_OTHER = 0.4

#: Saturation of the skin found (as above) from which on its colour says something, and all: pale skin in cold light is as grey as anything.
_TELLING = (0.5, 0.9)

#: Distance in log chromaticity from the fitted face at which a window counts half, in medians; and the least median.
_TOO_TINTED = 6.0
_LEAST_TINT = 0.08

#: Share of trusted skin around eyes and mouth below which something hides them, and above which nothing does.
_HIDDEN = (0.2, 0.45)

#: Cosine to the view below which a residual map reads nothing, and above which it reads fully.
_GRAZING = (0.15, 0.4)

#: Mean weight around a pixel from which on a residual map begins to read it, and reads it fully.
_WELL_INSIDE = (0.35, 0.6)

#: Median over pixels of the mean absolute second difference, and mean norm over three channels, of noise with spread one.
_SECOND_DIFFERENCES = 4.6
_NORM = 1.6

#: Noise counts twice: what is left of it would be painted.
_NOISE_AND_MORE = 2.0

#: Least spread of residuals, sRGB: noise and compression of a photo.
NOISE = 0.01


def rendered(
    pred: Prediction,
    obs: Observation,
    shape: Version = "full",
    albedo: Version = "full",
    hold_shape: bool = False,
) -> RenderedFace:
    """The face as the losses of this outer step see it, at the pixels of the face; for losses of your own.

    Args:
        hold_shape: the surface is data: gradients reach albedo and light alone.

    Raises:
        FitjaxError: the model has no albedo, or the observation no image.
    """
    if pred.mesh is None or obs.image is None:
        raise FitjaxError(
            "photometric loss: expected a textured model (fj.load_textured) and an observation with pixels (fj.with_image); one is missing"
        )
    assert pred.frozen is not None
    if pred.frozen.face is None:
        raise FitjaxError("photometric loss: nothing was rasterised; this is a loss without the option reads_pixels=True")
    return render_frozen(pred, pred.frozen.face, obs.image.shape[1], shape, albedo, hold_shape)


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
    face = rendered(pred, obs, shape, albedo, hold_shape)
    assert pred.frozen is not None and pred.frozen.pixels is not None
    # Frozen with the triangles: a weight that moved with the face would have a gradient that no solver should follow.
    trust = pred.frozen.pixels
    if region == "skin":
        return Residuals(compare(face, obs) / trust.spread, trust.weight)
    return Residuals(compare(face, obs) / trust.detail_spread[:, None], trust.detail_weight)


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
        region: ``skin``, the face where it looks like one, with eyes and mouth unless something hides them, for models; or ``face``, where it
            looks like the fitted model, for residual maps.
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
    over the face: a window that is off by 2.5 medians counts half, by 5 hardly at all. That breaks down when half of the face is hidden, and a fit
    adapts to what it is shown; so what has another colour than skin counts for little from the start (:func:`_of_skin_colour`).
    """
    height, width = obs.image.shape[:2]
    # The proxies: residual maps explain whatever is in front of the face, too.
    face = rendered(pred, obs, "proxy", "proxy")
    weight = pixel_trust(face, obs)
    size = jnp.sqrt(jnp.sum(compare(face, obs) ** 2, -1) + 1e-12)

    def picture(values: Array) -> Array:
        return jnp.zeros(height * width, values.dtype).at[face.pixel].add(values).reshape(height, width)

    count = jnp.maximum(box_mean(picture(weight), _WINDOW), 1e-3)

    def averaged(values: Float[Array, "P"]) -> Float[Array, "P"]:
        return (box_mean(picture(weight * values), _WINDOW) / count).reshape(-1)[face.pixel]

    def chroma_around(colour: Float[Array, "P 3"]) -> Float[Array, "P 2"]:
        red, green, blue = (jnp.log(averaged(jnp.maximum(c, 0)) + 1e-3) for c in colour.T)
        return jnp.stack([red - green, blue - green], -1)

    mean = averaged(size)
    photographed = chroma_around(obs.image.reshape(-1, 3)[face.pixel])
    skin = _of_skin_colour(weight, photographed)
    trusted = weight * skin > 0.5
    middle = _median(mean, trusted)
    # The residual's norm over three channels is √3 times one channel's. Below two per cent nothing is an occluder.
    spread = jnp.maximum(middle / np.sqrt(3), NOISE)
    too_much = _TOO_MUCH * jnp.maximum(middle, 0.02)
    fitting = 1 / (1 + (mean / too_much) ** 4)
    shown = skin * fitting
    # Small spots amid trusted skin are nostrils, brows and corners of eyes, which no model gets quite right, not things in front of the face.
    around = box_mean(picture(weight), _SPOT).reshape(-1)[face.pixel]
    wide = box_mean(picture(weight * shown), _SPOT).reshape(-1)[face.pixel] / jnp.maximum(around, 1e-3)
    shown = jnp.maximum(shown, ramp(wide, *_AMID_SKIN))
    # Residual maps come when the model is fitted to skin alone: what hides it then stands out, by its colour even where it is as bright, and oddly
    # coloured skin (cold light, gloss) does not.
    tint = jnp.linalg.norm(photographed - chroma_around(face.colour) + 1e-9, axis=-1)
    other = _TOO_TINTED * jnp.maximum(_median(tint, trusted), _LEAST_TINT)
    fitting = fitting / (1 + (tint / other) ** 4)
    around = box_mean(picture(weight), _FEATURE).reshape(-1)[face.pixel]
    wide = box_mean(picture(weight * fitting), _FEATURE).reshape(-1)[face.pixel] / jnp.maximum(around, 1e-3)
    painted = jnp.maximum(fitting, ramp(wide, *_AMID_SKIN))
    # Of eyes and mouth the model knows too little to say that something hides them, unless the skin around them is hidden.
    seen = obs.image_valid.reshape(-1)[face.pixel] * face.covered
    inner = jnp.maximum(face.detailed - face.trusted, 0) * seen * jnp.where(around > 0.05, ramp(wide, *_HIDDEN), 1)
    # At the outline, and beside what hides the face, a pixel shows as much of that, and a texel gets few pixels: a residual would smear.
    detail = weight * painted + inner
    # Pixels that the photo lacks or a mask takes out say nothing for or against their neighbours.
    missing = picture(1 - obs.image_valid.reshape(-1)[face.pixel].astype(weight.dtype))
    around = jnp.maximum(1 - box_mean(missing, _WINDOW), 0.05)
    inside = ramp((box_mean(picture(detail), _WINDOW) / around).reshape(-1)[face.pixel], *_WELL_INSIDE)
    detail = detail * inside * ramp(_facing(pred, face), *_GRAZING)
    everything = face.detailed * seen
    around = box_mean(picture(everything * size), _WINDOW) / jnp.maximum(box_mean(picture(everything), _WINDOW), 1e-3)
    # Noise of what hides the face is not that of its photo.
    more = beyond_noise(around, srgb_from_linear(obs.image), picture(weight * painted)).reshape(-1)[face.pixel]
    return PixelTrust(weight * shown + inner, detail, spread, spread / jnp.sqrt(more))


def beyond_noise(size: Float[Array, "H W"], image: Float[Array, "H W 3"], weight: Float[Array, "H W"]) -> Float[Array, "H W"]:
    """Share of the residual's power that is not noise of the photo, from its mean norm ``size`` around each pixel; never zero.

    The noise of the picture (sRGB) is what second differences in both directions see, of which a face has little (Immerkaer, "Fast noise variance
    estimation", 1996), as a median over the pixels with ``weight``.
    """
    across = image[:, 2:] - 2 * image[:, 1:-1] + image[:, :-2]
    both = jnp.abs(across[2:] - 2 * across[1:-1] + across[:-2]).mean(-1)
    face = weight[1:-1, 1:-1] > 0.5
    ordered = jnp.sort(jnp.where(face, both, jnp.inf).reshape(-1))
    noise = ordered[jnp.sum(face) // 2] / _SECOND_DIFFERENCES
    noise = jnp.where(jnp.isfinite(noise), noise, 0.0)
    return jnp.maximum(1 - _NOISE_AND_MORE * (noise / jnp.maximum(size / _NORM, 1e-6)) ** 2, 0.01)


def _median(values: Float[Array, "P"], chosen: Bool[Array, "P"]) -> Float[Array, ""]:
    """Of the chosen values; 1 if there are none."""
    found = jnp.sort(jnp.where(chosen, values, jnp.inf))[jnp.sum(chosen) // 2]
    return jnp.where(jnp.isfinite(found), found, 1.0)


def _of_skin_colour(weight: Float[Array, "P"], chroma: Float[Array, "P 2"]) -> Float[Array, "P"]:
    """How far the mean chromaticity around each pixel is that of the face's skin, found by mean shift from what skin may look like.

    Brightness does not count: that is the light's. Nor does the fit: what hides half of the face would have its say in it.
    """
    usual = np.array(_SKIN, np.float32)
    saturation = (usual / (usual @ usual)).astype(chroma.dtype)
    # Never zero: under a very cold light all skin is unusual, and then it is what most of the face shows that counts.
    likely = weight * jnp.maximum(ramp(jnp.matmul(chroma, saturation, precision="highest"), *_SATURATED), 0.02)
    near = likely
    for _ in range(4):
        middle = jnp.sum(near[:, None] * chroma, 0) / jnp.maximum(jnp.sum(near), 1e-6)
        distance = jnp.linalg.norm(chroma - middle, axis=-1)
        far = distance / jnp.maximum(_OTHER_COLOUR * jnp.linalg.norm(middle), _LEAST_OTHER)
        near = likely / (1 + far**4)
    # Nothing there that looks like skin (another kind of model, a grey picture): colour does not tell.
    found = ramp(jnp.matmul(middle, saturation, precision="highest"), *_TELLING)
    return 1 - found * (1 - 1 / (1 + far**8))


def _facing(pred: Prediction, face: RenderedFace) -> Float[Array, "P"]:
    """Cosine between the normal and the direction to the camera, about as at the head's middle."""
    towards = safe_normalise(-pred.t_camera_head)
    return jnp.matmul(face.normal, towards, precision="highest")
