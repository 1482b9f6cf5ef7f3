"""From portraits of the pool to crops as photographs show them, truth moved along: another place, size and roll; other backgrounds; things and other
faces in front; colour, blur, noise."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fitjax.initial.image_crop import CROP_OVER_FACE
from fitjax.initial.image_mirror import Mirror, mirrored_rotation
from fitjax.initial.image_tables import chart_from_uv
from fitjax.pytree import pytree, replace
from fitjax.synth.camera_effects import once
from fitjax.synth.settings import LABELS
from fitjax.train.image_pool import HEAD_BIT, LABEL_BITS, SKIN_BIT, VISIBLE_BIT

_HAIR, _OCCLUDER = LABELS.index("hair"), LABELS.index("occluder")
#: Degrees, and spreads of the crop's size (log) and place (face sizes).
TURN, GROW, MOVE = 25.0, 0.1, 0.05


@pytree
class Crops:
    """A batch of B crops with truth, in the coordinates of :mod:`fitjax.initial.image_network`; maps have half the crop's resolution.

    ``image`` (B, S, S, 3) sRGB; ``chart`` (B, h, w, 2), ``depth`` where ``skin`` (B, h, w); ``visible``; ``labels`` (B, h, w); ``points`` (B, 68, 2);
    ``rotation``, ``scale``, ``shift``; ``codes`` (B, M); ``size`` (B,) of the face, crop units.
    """

    image: Float[Array, "B S S 3"]
    chart: Float[Array, "B h w 2"]
    depth: Float[Array, "B h w"]
    skin: Bool[Array, "B h w"]
    visible: Bool[Array, "B h w"]
    labels: Int[Array, "B h w"]
    points: Float[Array, "B 68 2"]
    rotation: Float[Array, "B 3 3"]
    scale: Float[Array, "B"]
    shift: Float[Array, "B 2"]
    codes: Float[Array, "B M"]
    size: Float[Array, "B"]


def centres(size: int) -> Float[Array, "S S 2"]:
    """Crop coordinates of a map's pixels."""
    line = (2 * jnp.arange(size) + 1) / size - 1
    return jnp.stack(jnp.meshgrid(line, line), -1)


def _bilinear(picture: Float[Array, "H W C"], place: Float[Array, "h w 2"]) -> Float[Array, "h w C"]:
    picture, place = once((picture, place))
    height, width = picture.shape[:2]
    x, y = jnp.clip(place[..., 0], 0, width - 1.001), jnp.clip(place[..., 1], 0, height - 1.001)
    column, row = x.astype(jnp.int32), y.astype(jnp.int32)
    right, down = (x - column)[..., None], (y - row)[..., None]
    flat, first = picture.reshape(height * width, -1), row * width + column
    top = flat[first] * (1 - right) + flat[first + 1] * right
    return once(top * (1 - down) + (flat[first + width] * (1 - right) + flat[first + width + 1] * right) * down)


def _nearest(picture: Array, place: Float[Array, "h w 2"]) -> Array:
    height, width = picture.shape[:2]
    column, row = jnp.clip(jnp.round(place).astype(jnp.int32), 0, jnp.array([width - 1, height - 1])).transpose(2, 0, 1)
    return picture.reshape(height * width, *picture.shape[2:])[row * width + column]


def _blurred(image: Array, sigma: Array) -> Array:
    x = jnp.arange(-3, 4)
    kernel = jnp.exp(-0.5 * (x / jnp.maximum(sigma, 0.05)) ** 2)
    kernel = kernel / kernel.sum()
    for axis in (0, 1):
        padded = once(jnp.pad(image, [(3, 3) if a == axis else (0, 0) for a in range(3)], mode="edge"))
        image = sum((kernel[k] * jax.lax.slice_in_dim(padded, k, k + image.shape[axis], axis=axis) for k in range(7)), jnp.zeros(()))
    return image


def _camera(key: Array, image: Float[Array, "S S 3"]) -> Float[Array, "S S 3"]:
    """Colour, exposure, blur and noise."""
    k = jax.random.split(key, 10)
    # Most photographers see to it that a face is neither black nor white.
    middle = jnp.exp(-jnp.sum(centres(image.shape[0]) ** 2, -1) / 0.3)
    bright = jnp.sum(image.mean(-1) * middle) / jnp.sum(middle)
    wanted = jax.random.uniform(k[9], minval=0.3, maxval=0.65)
    exposed = (image + 1e-4) ** jnp.clip(jnp.log(wanted) / jnp.log(jnp.clip(bright, 0.02, 0.95)), 0.35, 2.5)
    image = jnp.where(jax.random.uniform(jax.random.fold_in(key, 1)) < 0.75, exposed, image)
    grey = jnp.matmul(image, jnp.array([0.299, 0.587, 0.114]))[..., None]
    vivid = jnp.where(jax.random.uniform(k[0]) < 0.12, 0.0, jnp.exp(0.3 * jax.random.normal(k[1])))
    image = jnp.clip(grey + vivid * (image - grey), 0, 1) + 1e-4
    image = image ** jnp.exp(0.3 * jax.random.normal(k[2])) * jnp.exp(0.15 * jax.random.normal(k[3]) + 0.07 * jax.random.normal(k[4], (3,)))
    mean = image.mean()
    image = mean + (image - mean) * jnp.exp(0.2 * jax.random.normal(k[5])) + 0.06 * jax.random.normal(k[6])
    image = _blurred(image, 1.3 * jax.random.uniform(k[7]) ** 2)
    keys = jax.random.split(k[8])
    return jnp.clip(image + 0.06 * jax.random.uniform(keys[0]) ** 3 * jax.random.normal(keys[1], image.shape), 0, 1)


def _shape_in_front(key: Array, at: Float[Array, "S S 2"], share: float) -> Bool[Array, "S S"]:
    """A turned box, ellipse or half-plane somewhere over the crop, there in ``share`` of the cases."""
    k = jax.random.split(key, 6)
    angle = jax.random.uniform(k[0], maxval=jnp.pi)
    turn = jnp.array([[jnp.cos(angle), jnp.sin(angle)], [-jnp.sin(angle), jnp.cos(angle)]])
    place = jax.random.uniform(k[1], (2,), minval=-0.75, maxval=0.75)
    extent = 0.12 + 0.55 * jax.random.uniform(k[2], (2,)) ** 1.5
    local = jnp.matmul(at - place, turn.T) / extent
    inside = jnp.where(jax.random.bernoulli(k[3]), jnp.sum(local**2, -1) < 1, jnp.abs(local).max(-1) < 1)
    half = local[..., 0] > 0.6
    return jnp.where(jax.random.uniform(k[4]) < 0.2, half, inside) & (jax.random.uniform(k[5]) < share)


def crop_map(key: Array, points: Float[Array, "68 2"], spoilt: bool) -> tuple[Float[Array, "2 2"], Float[Array, "2"], Float[Array, ""]]:
    """How a crop lies in its picture: pixel = A · crop coordinate + b; and the angle of its turn. Unless ``spoilt``, upright and centred."""
    k = jax.random.split(key, 3)
    much = 1.0 if spoilt else 0.0
    angle = jnp.radians(TURN) * jax.random.uniform(k[0], minval=-1, maxval=1) * much
    turn = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
    turned = jnp.matmul(points, turn)  # coordinates along the crop's axes
    low, high = turned.min(0), turned.max(0)
    size = jnp.sqrt(jnp.prod(high - low))
    half = 0.5 * CROP_OVER_FACE * size * jnp.exp(GROW * much * jax.random.normal(k[1]))
    middle = (low + high) / 2 + MOVE * much * size * jax.random.normal(k[2], (2,))
    return half * turn, jnp.matmul(turn, middle), angle


def _one(key: Array, one: Any, other: Any, side: int, spoilt: bool) -> Crops:
    k = jax.random.split(key, 12)
    A, b, angle = crop_map(k[0], one["points"], spoilt)
    fine, coarse = centres(side), centres(side // 2)
    image = _bilinear(one["image"].astype(jnp.float32) / 255, jnp.matmul(fine, A.T) + b)
    # Pixel 2 i of the picture is pixel i of the maps.
    place = (jnp.matmul(coarse, A.T) + b) / 2
    within = ((place > -0.5) & (place < one["labels"].shape[0] - 0.5)).all(-1)
    bits = jnp.where(within, _nearest(one["labels"], place), 0).astype(jnp.int32)
    labels, head, skin, visible = bits & LABEL_BITS, bits & HEAD_BIT > 0, bits & SKIN_BIT > 0, bits & VISIBLE_BIT > 0
    known = (one["labels"] & SKIN_BIT > 0).astype(jnp.float32)[..., None]
    values = jnp.concatenate([one["uv"].astype(jnp.float32) / 65535, one["depth"].astype(jnp.float32)[..., None], jnp.ones_like(known)], -1)
    values = _bilinear(values * known, place)
    values = values / jnp.maximum(values[..., 3:], 1e-3)
    skin = skin & within

    if spoilt:
        # Pieces of the other picture: somewhere else, larger or smaller, turned; its own crop where its face is to be seen.
        size = jnp.exp(0.3 * jax.random.normal(k[1]))
        A2, b2, _ = crop_map(k[2], other["points"], True)
        aside = 0.8 * jax.random.normal(k[3], (2,))
        where = fine * size + aside
        strange = _bilinear(other["image"].astype(jnp.float32) / 255, jnp.matmul(where, A2.T) + b2)
        theirs = (other["labels"] & HEAD_BIT > 0) | (other["labels"] & LABEL_BITS == _HAIR)
        outline = _bilinear(theirs.astype(jnp.float32)[..., None], (jnp.matmul(where, A2.T) + b2) / 2)[..., 0]
        outline = jnp.where((jnp.abs(where) < 1.3).all(-1), outline, 0)
        # Another background.
        held = head | (labels > 0)
        keep = _bilinear(held.astype(jnp.float32)[..., None], ((fine + 1) * side / 2 - 1) / 2)[..., 0]
        plain = jax.random.uniform(k[4], (3,))
        behind = jnp.where(jax.random.bernoulli(k[5]), strange[:, ::-1], plain + 0.15 * (strange - 0.5))
        swapped = jax.random.uniform(k[6]) < 0.35
        image = jnp.where(swapped, image * keep[..., None] + behind * (1 - keep[..., None]), image)
        # In front: another head aside of this one, or shapes of its picture's colours.
        apart = jnp.sum(aside**2) > 0.8**2
        cover = jnp.where((jax.random.uniform(k[7]) < 0.2) & apart, outline, 0.0)
        first, second = (_shape_in_front(k[8 + i], fine, share) for i, share in ((0, 0.45), (1, 0.15)))
        # Of the face something is left to be seen.
        face = _bilinear(visible.astype(jnp.float32)[..., None], ((fine + 1) * side / 2 - 1) / 2)[..., 0]
        few = jnp.sum(face * jnp.maximum(cover, first | second)) < 0.6 * jnp.sum(face)
        cover, first, second = cover * few, first & few, second & few
        filled = jnp.where(jax.random.uniform(k[10]) < 0.5, strange, jax.random.uniform(k[10], (3,)) + 0.2 * (strange - 0.5))
        image = image + cover[..., None] * (strange - image)
        image = jnp.where((first | second)[..., None], filled, image)
        in_front = jnp.maximum(cover, (first | second).astype(jnp.float32)).reshape(side // 2, 2, side // 2, 2).mean((1, 3)) > 0.5
        labels = jnp.where(in_front, _OCCLUDER, labels)
        skin, visible = skin & ~in_front, visible & ~in_front
        image = _camera(k[11], jnp.clip(image, 0, 1))

    turn = jnp.array([[jnp.cos(angle), jnp.sin(angle), 0], [-jnp.sin(angle), jnp.cos(angle), 0], [0, 0, 1.0]])
    back = jnp.linalg.inv(A)
    points = jnp.matmul(one["points"] - b, back.T)
    shift, scale = jnp.matmul(back, one["place"][:2] - b), one["place"][2] * jnp.sqrt(jnp.linalg.det(back))
    size = jnp.sqrt(jnp.prod(points.max(0) - points.min(0)))
    codes = jnp.concatenate([one["identity"], one["expression"]])
    rotation = jnp.matmul(turn, one["rotation"], precision="highest")
    return Crops(image, chart_from_uv(values[..., :2]), values[..., 2], skin, visible, labels, points, rotation, scale, shift, codes, size)


def crops(key: Array, batch: Any, side: int, spoilt: bool = True) -> Crops:
    """Crops of ``side`` × ``side`` pixels of a batch of the pool's portraits; each is spoilt with pieces of its neighbour."""
    keys = jax.random.split(key, len(batch["image"]))
    return jax.vmap(lambda key, one, other: _one(key, one, other, side, spoilt))(keys, batch, jax.tree.map(lambda x: jnp.roll(x, 1, 0), batch))


def mirrored_crops(made: Crops, mirror: Mirror, which: Bool[Array, "B"]) -> Crops:
    """The crops, those of ``which`` with left and right exchanged: truth and all."""
    flip2 = jnp.array([-1.0, 1])
    across = {name: jnp.flip(getattr(made, name), 2) for name in ("image", "depth", "skin", "visible")}
    other = replace(
        made, **across, chart=jnp.flip(made.chart, 2) * flip2, labels=mirror.labels[jnp.flip(made.labels, 2)],
        points=made.points[:, mirror.marks] * flip2, rotation=mirrored_rotation(made.rotation), shift=made.shift * flip2,
        codes=made.codes[:, mirror.codes] * mirror.sign,
    )  # fmt: skip
    return jax.tree.map(lambda a, b: jnp.where(which.reshape(-1, *[1] * (a.ndim - 1)), a, b), other, made)
