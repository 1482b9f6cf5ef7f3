"""The other side of the face: what the image network says of a crop whose left and right are swapped, in terms of the crop itself.

The embedded basis is symmetric: a mirrored face is a face of the model, with signs of identity codes changed and expressions of both sides exchanged.
So every portrait is two for the training, and a second look at a mirrored crop is a second opinion.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.spatial import cKDTree

from fitjax.geometry.rotation import orthonormalise
from fitjax.initial.image_network import ImageOutput
from fitjax.initial.image_tables import ImageTables
from fitjax.observation.part_tables import PAIRS
from fitjax.pytree import pytree
from fitjax.synth.settings import LABELS


@pytree
class Mirror:
    """Which landmark, code and label of a mirrored crop is that of the crop: ``marks`` (68,), ``codes`` (M,) with ``sign`` (M,), ``labels`` (12,)."""

    marks: Int[Array, "68"]
    codes: Int[Array, "M"]
    sign: Float[Array, "M"]
    labels: Int[Array, "L"]


def mirror_of(tables: ImageTables) -> Mirror:
    """From the rows of a symmetric basis; each code goes to the one whose mirrored shape is nearest to its own."""
    mean, modes = np.asarray(tables.mean, np.float64), np.asarray(tables.modes, np.float64)
    flip = np.array([-1.0, 1, 1])
    # Points of the denser set are symmetric to a millimetre or so.
    other = cKDTree(mean).query(mean * flip)[1]
    flat = modes.reshape(len(modes), -1)
    there = (modes[:, other] * flip).reshape(len(modes), -1)
    size = np.maximum(np.linalg.norm(flat, axis=1), 1e-12)
    alike = there @ flat.T / size / size[:, None]
    identity = ~np.isfinite(np.asarray(tables.upper))
    # Identity goes to identity; an expression has no sign, and one that moves no landmark is its own.
    alike = np.where(identity[:, None] & identity, np.abs(alike), np.where(identity[:, None] | identity, -1.0, alike))
    codes = np.where(size > 1e-9, alike.argmax(1), np.arange(len(modes)))
    sign = np.where(identity, np.sign((there * flat[codes]).sum(1)), 1.0)
    marks = cKDTree(mean[:68]).query(mean[:68] * flip)[1]
    labels = np.arange(len(LABELS))
    for right, left in PAIRS:
        a, b = LABELS.index(right), LABELS.index(left)
        labels[[a, b]] = b, a
    return Mirror(jnp.asarray(marks), jnp.asarray(codes), jnp.asarray(np.where(sign == 0, 1.0, sign), jnp.float32), jnp.asarray(labels))


def mirrored_rotation(rotation: Float[Array, "*b 3 3"]) -> Float[Array, "*b 3 3"]:
    """Of the head in the mirror."""
    flip = jnp.array([-1.0, 1, 1], rotation.dtype)
    return rotation * flip[:, None] * flip


def mirrored_output(out: ImageOutput, mirror: Mirror) -> ImageOutput:
    """What the network said of mirrored crops, for the crops themselves."""
    flip2, flip3 = jnp.array([-1.0, 1]), jnp.array([-1.0, 1, 1])
    across = lambda maps: jnp.flip(maps, 2)  # noqa: E731
    return ImageOutput(
        mirrored_rotation(out.rotation), out.scale, out.shift * flip2, out.codes[:, mirror.codes] * mirror.sign, across(out.chart) * flip2,
        across(out.log_sigma), across(out.depth), across(out.visible), across(out.skin), across(out.labels)[..., mirror.labels],
        out.marks[:, mirror.marks] * flip3, out.refined[:, :, mirror.marks] * flip2, out.mark_log_sigma[:, mirror.marks],
    )  # fmt: skip


def mean_output(a: ImageOutput, b: ImageOutput) -> ImageOutput:
    """Of two looks at the same crops."""
    mean = jax.tree.map(lambda x, y: (x + y) / 2, a, b)
    return mean._replace(rotation=orthonormalise(mean.rotation))
