"""What is in front of a face: hair, glasses, masks, hands, things. Hair is a shell around the head and a mask lies on it, both turn with it; glasses
are drawn from points in head space; hands and things are flat.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from fitjax.synth.camera_effects import smooth_noise

#: On the mean head, metres: middle of the hair line; heights of a mask's upper edge and of the chin.
HAIR_LINE, NOSE_BRIDGE, CHIN = (0.0, 0.085, 0.03), 0.005, -0.085
_LENS_POINTS = 20
#: Linear light: black to brown to blond, red, grey.
_HAIR_COLOURS = np.array(
    [[0.008, 0.007, 0.006], [0.02, 0.012, 0.008], [0.06, 0.03, 0.015], [0.25, 0.15, 0.07], [0.16, 0.05, 0.02], [0.35, 0.34, 0.33]]
)
_SKIN_COLOURS = np.array([[0.60, 0.36, 0.26], [0.45, 0.26, 0.17], [0.28, 0.15, 0.09], [0.12, 0.06, 0.04], [0.05, 0.025, 0.018]])


class Layer(NamedTuple):
    """Something flat over the picture: ``cover`` (H, W) 0 to 1, ``colour`` (H, W, 3) linear light."""

    cover: Float[Array, "H W"]
    colour: Float[Array, "H W 3"]


def grid(size: int) -> Float[Array, "S S 2"]:
    """x and y of pixel centres."""
    y, x = jnp.mgrid[:size, :size]
    return jnp.stack([x, y], -1).astype(jnp.float32)


def random_colours(key: Array, count: int) -> Float[Array, "N 3"]:
    """Colours of walls and clothes, linear light: mostly dull, one in five vivid."""
    k = jax.random.split(key, 4)
    vivid = jnp.where(jax.random.bernoulli(k[0], 0.2), 0.7, 0.12)
    grey = 0.02 + 0.8 * jax.random.uniform(k[1], (count, 1)) ** 2
    warm = 0.5 * vivid * jax.random.normal(k[2], (count, 1)) * jnp.array([1.0, 0.0, -1.0])
    return jnp.clip(grey * jnp.exp(warm + vivid * jax.random.normal(k[3], (count, 3))), 0, 1)


def hair_shell(key: Array, mean: Float[Array, "V 3"], face_front: Float[Array, "V"]) -> Float[Array, "V"]:
    """Thickness of hair (metres) at each vertex of the mean head, 0 where there is none.

    Args:
        face_front: (V,) where no hair grows however low the line (eyes, nose, mouth).
    """
    k = jax.random.split(key, 6)
    # The line runs from the forehead backwards and down: steep for short hair, over the cheeks' sides for long hair.
    slope = 0.35 + 1.6 * jax.random.uniform(k[0])
    lift = 0.018 * jax.random.normal(k[1])
    height = mean[:, 1] - HAIR_LINE[1] - lift + slope * (HAIR_LINE[2] - mean[:, 2])
    phases = jax.random.uniform(k[2], (4,), maxval=2 * jnp.pi)
    across = jnp.arctan2(mean[:, 0], mean[:, 2] + 0.03)
    waves = sum(jnp.sin((3 + 4 * i) * across + phases[i]) / (1.5 + i) for i in range(4))
    fringe = 0.035 * jax.nn.relu(jax.random.normal(k[3]) - 0.3) * jnp.exp(-((mean[:, 0] / 0.05) ** 2))
    inside = height + 0.006 * waves + fringe
    full = 0.006 + 0.03 * jax.random.uniform(k[4]) ** 2
    volume = full * jnp.clip(inside / 0.03, 0, 1) ** 0.5 * (1 + 0.15 * waves)
    return jnp.where((inside > 0) & (face_front < 0.5), jnp.maximum(volume, 0.002), 0.0)


def hair_colour(key: Array) -> Float[Array, "3"]:
    k = jax.random.split(key)
    base = jnp.asarray(_HAIR_COLOURS, jnp.float32)[jax.random.choice(k[0], 6, p=jnp.array([0.3, 0.25, 0.2, 0.12, 0.05, 0.08]))]
    return base * jnp.exp(0.2 * jax.random.normal(k[1]))


def lies_under_mask(key: Array, on_mean: Float[Array, "H W 3"]) -> Bool[Array, "H W"]:
    """Pixels whose surface a mask covers: from the nose to the chin, as far as the cheeks."""
    k = jax.random.split(key, 2)
    top = NOSE_BRIDGE + 0.008 * jax.random.normal(k[0])
    upper = top - 0.25 * jnp.abs(on_mean[..., 0])
    reach = -0.035 + 0.01 * jax.random.normal(k[1])
    return (on_mean[..., 1] < upper) & (on_mean[..., 1] > CHIN - 0.02) & (on_mean[..., 2] > reach)


def glasses_points(key: Array, eyes: Float[Array, "2 3"], ears: Float[Array, "2 3"]) -> tuple[Float[Array, "2 P 3"], Float[Array, "2 2 3"], Array]:
    """Rims of both lenses, and both temples' ends, in head space; half of the frame's width, metres."""
    k = jax.random.split(key, 4)
    width, height = 0.026 + 0.004 * jax.random.uniform(k[0]), 0.016 + 0.010 * jax.random.uniform(k[1])
    power = 2.0 + 2.5 * jax.random.uniform(k[2])
    angle = jnp.linspace(0, 2 * jnp.pi, _LENS_POINTS, endpoint=False)
    c, s = jnp.cos(angle), jnp.sin(angle)
    rim = jnp.stack(
        [jnp.sign(c) * jnp.abs(c) ** (2 / power) * width, jnp.sign(s) * jnp.abs(s) ** (2 / power) * height, -0.15 * jnp.abs(c) * width], -1
    )
    middle = eyes + jnp.array([0.0, -0.002, 0.016])
    rims = middle[:, None] + rim[None]
    side = jnp.sign(eyes[:, :1])
    hinge = middle + side * jnp.array([[1.0, 0, 0]]) * width + jnp.array([0, 0.006, -0.006])
    temples = jnp.stack([hinge, ears + side * jnp.array([[0.004, 0, 0]])], 1)
    return rims, temples, 0.0008 + 0.0016 * jax.random.uniform(k[3])


def distance_to_segments(at: Float[Array, "H W 2"], a: Float[Array, "K 2"], b: Float[Array, "K 2"]) -> tuple[Array, Array]:
    """Distance (H, W, K) to each segment and the share (H, W, K) along it."""
    edge = b - a
    share = jnp.sum((at[..., None, :] - a) * edge, -1) / jnp.maximum(jnp.sum(edge**2, -1), 1e-6)
    share = jnp.clip(share, 0, 1)
    return jnp.linalg.norm(at[..., None, :] - a - share[..., None] * edge, axis=-1), share


def inside_polygon(at: Float[Array, "H W 2"], corners: Float[Array, "K 2"]) -> Bool[Array, "H W"]:
    """Even-odd rule."""
    a, b = corners, jnp.roll(corners, -1, 0)
    x, y = at[..., :1], at[..., 1:]
    spans = (a[:, 1] > y) != (b[:, 1] > y)
    rise = jnp.where(a[:, 1] == b[:, 1], 1.0, b[:, 1] - a[:, 1])
    return jnp.sum(spans & (x < a[:, 0] + (y - a[:, 1]) / rise * (b[:, 0] - a[:, 0])), -1) % 2 == 1


def hand(key: Array, size: int, centre: Float[Array, "2"], scale: Float[Array, ""]) -> Layer:
    """A palm with four fingers that comes from a side of the picture; ``scale``: pixels per face height."""
    k = jax.random.split(key, 8)
    angle = jax.random.uniform(k[0], maxval=2 * jnp.pi)
    along = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    across = jnp.stack([-along[1], along[0]])
    tip = centre + 0.45 * scale * jax.random.normal(k[1], (2,))
    palm = tip - 0.45 * scale * along
    spread = jnp.linspace(-1, 1, 4) * 0.14 * scale
    fan = 1 + 0.6 * jax.random.uniform(k[2])
    lengths = jnp.array([0.85, 1.0, 0.97, 0.75]) * (0.5 + 0.5 * jax.random.uniform(k[3], (4,)))
    start = palm + spread[:, None] * across
    end = palm + spread[:, None] * fan * across + lengths[:, None] * 0.5 * scale * along
    start, end = jnp.concatenate([start, palm[None]]), jnp.concatenate([end, (palm - 2 * scale * along)[None]])
    radius = jnp.concatenate([jnp.full(4, 0.062), jnp.array([0.17])]) * scale
    distance = distance_to_segments(grid(size), start, end)[0] / radius
    nearest = jnp.min(distance, -1)
    colour = jnp.asarray(_SKIN_COLOURS, jnp.float32)[jax.random.randint(k[4], (), 0, 5)] * jnp.exp(0.2 * jax.random.normal(k[5]))
    round_off = jnp.sqrt(jnp.clip(1 - nearest**2, 0.04, 1))
    shade = (0.35 + 0.65 * round_off) * (0.8 + 0.4 * smooth_noise(k[6], size, 6, 1)[..., 0])
    return Layer((nearest < 1).astype(jnp.float32), shade[..., None] * colour)


def thing(key: Array, size: int, centre: Float[Array, "2"], scale: Float[Array, ""]) -> Layer:
    """A rounded box or an ellipse of any colour, plain or patterned."""
    k = jax.random.split(key, 8)
    angle = jax.random.uniform(k[0], maxval=jnp.pi)
    turn = jnp.array([[jnp.cos(angle), jnp.sin(angle)], [-jnp.sin(angle), jnp.cos(angle)]])
    place = centre + 0.4 * scale * jax.random.normal(k[1], (2,))
    extent = scale * (0.08 + 0.3 * jax.random.uniform(k[2], (2,)))
    local = jnp.matmul(grid(size) - place, turn.T) / extent
    power = jnp.where(jax.random.bernoulli(k[3]), 2.0, 8.0)
    inside = jnp.sum(jnp.abs(local) ** power, -1) < 1
    colours = random_colours(k[4], 2)
    stripes = 0.5 + 0.5 * jnp.sin(local @ (8 * jax.random.normal(k[5], (2,))))
    mix = jnp.where(jax.random.bernoulli(k[6]), stripes, smooth_noise(k[7], size, 12, 1)[..., 0])
    return Layer(inside.astype(jnp.float32), colours[0] + mix[..., None] * (colours[1] - colours[0]))
