"""The image network: a crop of a photo → parameters and pose, dense maps, and landmarks with confidences.

Two branches, as in DSFNet (Li et al., CVPR 2023): *model space*, parameters and pose from a global feature; *image space*, dense maps of texture
coordinates, visibility, depth and parts. Landmarks of the first are refined with features of the second (the forward direction of SynergyNet, Wu,
Xu and Neumann, 3DV 2021): each looks up the maps where it lies, and so learns how far off it is. Plain convolutions with standardised weights (Qiao
et al., 2019; Brock et al., "Characterizing signal propagation", ICLR 2021): no statistics of batches, so a picture's result depends on it alone.

Coordinates: the crop runs from -1 to 1, x to the right, y down, pixel *i* of *n* at (2 i + 1) / n - 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fitjax.initial.image_tables import ImageTables
from fitjax.synth.settings import LABELS

#: Crop units per metre of a face that fills the crop as usual; what one unit of each pose output is.
SCALE, SCALE_UNIT, SHIFT_UNIT = 7.5, 0.3, 0.3
#: Standard deviations are predicted as 10^-2 exp(output): hundredths of the chart's or the crop's half extent.
SIGMA_UNIT = 0.01
#: Variance per axis over σ², of the density exp(-r / σ) / (2 π σ²) whose likelihood σ is trained by.
LAPLACE = 3.0
#: Rounds of refinement.
ROUNDS = 2
#: Keeps the variance of a standardised layer behind a ReLU.
_RELU_GAIN = float(np.sqrt(2 / (1 - 1 / np.pi)))
_SMALL = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")


class ImageOutput(NamedTuple):
    """Of a batch of B crops; maps have half the crop's resolution.

    ``rotation`` (B, 3, 3), ``scale`` (B,) crop units per metre and ``shift`` (B, 2) of the head's origin: weak perspective; ``codes`` (B, M).
    ``chart`` (B, h, w, 2) texture coordinates in units of the face's chart, ``log_sigma`` (B, h, w) of their error; ``depth`` (B, h, w) metres behind
    the head's origin; ``visible``, ``skin`` (B, h, w) logits; ``labels`` (B, h, w, 12) logits of the parts. ``marks`` (B, 68, 3) of the model-space
    branch, ``refined`` (rounds, B, 68, 2), ``mark_log_sigma`` (B, 68).
    """

    rotation: Array
    scale: Array
    shift: Array
    codes: Array
    chart: Array
    log_sigma: Array
    depth: Array
    visible: Array
    skin: Array
    labels: Array
    marks: Array
    refined: Array
    mark_log_sigma: Array


def standardised(kernel: Array, gain: Array) -> Array:
    """The kernel (k, k, in, out) with zero mean and unit gain per output, times ``gain`` (out,)."""
    fan = kernel.shape[0] * kernel.shape[1] * kernel.shape[2]
    mean = jnp.mean(kernel, (0, 1, 2))
    spread = jnp.sqrt(jnp.var(kernel, (0, 1, 2)) * fan + 1e-4)
    return (kernel - mean) / spread * gain


def gathered_pixels(x: Float[Array, "B h w c"]) -> Float[Array, "B h2 w2 c4"]:
    """The four pixels of a block become four groups of channels: with a convolution behind it a strided one, whose gradient is cheap on a CPU."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h // 2, w // 2, 4 * c)


class Conv(nn.Module):
    """A convolution with a standardised kernel; ``folded``: the stored one is already what is applied."""

    features: int
    size: int = 3
    folded: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B h w c"]) -> Float[Array, "B h w f"]:
        kernel = self.param("kernel", nn.initializers.he_normal(), (self.size, self.size, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if not self.folded:
            kernel = standardised(kernel, self.param("gain", nn.initializers.ones, (self.features,)))
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")) + bias


def _relu(x: Array) -> Array:
    return jax.nn.relu(x) * _RELU_GAIN


class Block(nn.Module):
    """x + share · conv(relu(conv(relu(x))))."""

    features: int
    folded: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        share = self.param("share", nn.initializers.constant(0.3), ())
        h = Conv(self.features, folded=self.folded, name="first")(_relu(x))
        return x + share * Conv(self.features, folded=self.folded, name="second")(_relu(h))


def doubled(x: Float[Array, "B h w c"]) -> Float[Array, "B h2 w2 c"]:
    """Each pixel four times."""
    return jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)


def spread_pixels(x: Float[Array, "B h w c4"]) -> Float[Array, "B h2 w2 c"]:
    """Four groups of channels become the four pixels of a block."""
    b, h, w, c = x.shape
    return x.reshape(b, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, c // 4)


def look_up(maps: Float[Array, "h w c"], at: Float[Array, "N 2"]) -> Float[Array, "N c"]:
    """Bilinear values of a map that covers the crop, at crop coordinates; beyond its border the border's."""
    height, width = maps.shape[:2]
    place = (at + 1) / 2 * jnp.array([width, height], at.dtype) - 0.5
    x, y = jnp.clip(place[:, 0], 0, width - 1.001), jnp.clip(place[:, 1], 0, height - 1.001)
    column, row = jnp.floor(x).astype(jnp.int32), jnp.floor(y).astype(jnp.int32)
    right, down = (x - column)[:, None], (y - row)[:, None]
    flat = maps.reshape(height * width, -1)
    first = row * width + column
    top = flat[first] * (1 - right) + flat[first + 1] * right
    bottom = flat[first + width] * (1 - right) + flat[first + width + 1] * right
    return top * (1 - down) + bottom * down


def rotation_of(six: Float[Array, "*b 6"]) -> Float[Array, "*b 3 3"]:
    """Two columns by Gram-Schmidt (Zhou et al., CVPR 2019), as offsets from a head that looks into the camera."""
    a, b = six[..., :3] + jnp.array([1.0, 0, 0]), six[..., 3:] + jnp.array([0, -1.0, 0])
    a = a / jnp.sqrt(jnp.sum(a**2, -1, keepdims=True) + 1e-8)
    b = b - jnp.sum(a * b, -1, keepdims=True) * a
    b = b / jnp.sqrt(jnp.sum(b**2, -1, keepdims=True) + 1e-8)
    return jnp.stack([a, b, jnp.cross(a, b)], -1)


def posed(mean: Array, modes: Array, rotation: Array, scale: Array, shift: Array, codes: Array) -> Float[Array, "B N 3"]:
    """Points in crop units: weak perspective, depth counted from the head's origin."""
    shape = mean + jnp.einsum("bm,mna->bna", codes, modes)
    turned = jnp.einsum("bna,bca->bnc", shape, rotation) * scale[:, None, None]
    return turned + jnp.pad(shift, ((0, 0), (0, 1)))[:, None]


class ImageNet(nn.Module):
    """Crops (B, side, side, 3), sRGB 0 to 1, and tables of the model → :class:`ImageOutput`.

    Attributes:
        side: of the crop, a multiple of 16. channels, blocks: at strides 2, 4, 8, 16. width: of the decoder. hidden: of the global feature.
        folded: kernels are stored as they are applied, see :func:`folded_weights`.
    """

    side: int = 96
    channels: tuple[int, int, int, int] = (24, 48, 96, 160)
    blocks: tuple[int, int, int, int] = (0, 1, 1, 2)
    width: int = 48
    hidden: int = 256
    folded: bool = False

    @nn.compact
    def __call__(self, images: Float[Array, "B S S 3"], tables: ImageTables) -> ImageOutput:
        stages = []
        x = (images - 0.45) / 0.25
        for k, (features, blocks) in enumerate(zip(self.channels, self.blocks)):
            x = Conv(features, 3 if k == 0 else 1, folded=self.folded, name=f"down{k}")(gathered_pixels(x if k == 0 else _relu(x)))
            for j in range(blocks):
                x = Block(features, self.folded, name=f"block{k}_{j}")(x)
            stages.append(x)
        top = _relu(x)
        flat = Conv(32, 1, folded=self.folded, name="squeeze")(top).reshape(len(x), -1)
        feature = nn.relu(nn.Dense(self.hidden, name="global0")(nn.relu(jnp.concatenate([flat, top.mean((1, 2))], -1))))
        feature = nn.relu(nn.Dense(self.hidden, name="global1")(feature))
        pose = nn.Dense(9, kernel_init=_SMALL, name="pose")(feature)
        codes = nn.Dense(tables.sigma.shape[0], kernel_init=_SMALL, name="codes")(feature)
        codes = jnp.clip(codes * tables.sigma, tables.lower, tables.upper)
        rotation, scale, shift = rotation_of(pose[:, :6]), SCALE * jnp.exp(SCALE_UNIT * pose[:, 6]), SHIFT_UNIT * pose[:, 7:]

        wide = self.width
        y = Conv(wide, 1, folded=self.folded, name="enter")(top) + nn.Dense(wide, name="told")(feature)[:, None, None]
        for k in (2, 1):
            y = doubled(y) + Conv(wide, 1, folded=self.folded, name=f"side{k}")(_relu(stages[k]))
            y = y + Conv(wide, folded=self.folded, name=f"up{k}")(_relu(y))
        y = _relu(y)
        maps = spread_pixels(nn.Conv(4 * (6 + len(LABELS)), (1, 1), kernel_init=_SMALL, name="maps")(y))

        marks = posed(tables.mean[:68], tables.modes[:, :68], rotation, scale, shift, codes)
        known = self.param("known", nn.initializers.normal(0.5), (68, 24))
        told = nn.Dense(48, name="told_marks")(feature)
        first, second, last = nn.Dense(96, name="mark0"), nn.Dense(96, name="mark1"), nn.Dense(3, kernel_init=_SMALL, name="mark2")
        at, refined = jax.lax.stop_gradient(marks[..., :2]), []
        for _ in range(ROUNDS):
            seen = jax.vmap(look_up)(y, at)
            there = jax.vmap(look_up)(jax.lax.stop_gradient(maps[..., :6]), at)
            away = jnp.clip((there[..., :2] - tables.marks_uv) * 5, -2, 2)
            others = [jnp.broadcast_to(known, (len(x), *known.shape)), jnp.broadcast_to(told[:, None], (len(x), 68, told.shape[-1]))]
            h = jnp.concatenate([seen, away, there[..., 2:], at, jax.lax.stop_gradient(marks[..., 2:]), *others], -1)
            h = last(nn.relu(second(nn.relu(first(h)))))
            refined.append(at + 0.1 * h[..., :2])
            at = jax.lax.stop_gradient(refined[-1])
        clipped = lambda v: 4 * jnp.tanh(v / 4)  # noqa: E731
        return ImageOutput(
            rotation, scale, shift, codes, maps[..., :2], clipped(maps[..., 2]), 0.1 * maps[..., 3], maps[..., 4], maps[..., 5],
            maps[..., 6:], marks, jnp.stack(refined), clipped(h[..., 2]),
        )  # fmt: skip


def folded_weights(params: Any) -> Any:
    """Flax's ``params`` with standardised kernels written out, for a network with ``folded``."""
    if not isinstance(params, dict):
        return params
    if "gain" in params:
        return {"kernel": standardised(params["kernel"], params["gain"]), "bias": params["bias"]}
    return {name: folded_weights(value) for name, value in params.items()}
