"""What the image network is trained on: errors of pose, points, maps and landmarks, the likelihood of its own confidences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fitjax.geometry.rotation import geodesic_angle
from fitjax.initial.image_network import LAPLACE, SIGMA_UNIT, ImageOutput, posed
from fitjax.initial.image_tables import ImageTables
from fitjax.train.image_augment import Crops

#: Of the labels, in the cross entropy: small parts count for more than their pixels.
LABEL_WEIGHTS = np.array([0.6, 5, 5, 4, 4, 1.5, 4, 4, 1, 0.7, 2.5, 1.0])
#: Weights of the terms.
WEIGHTS = {
    "model": 1.0, "points": 0.5, "rotation": 2.0, "identity": 0.1, "expression": 0.1,
    "chart": 0.5, "depth": 0.1, "visible": 0.5, "skin": 0.5, "labels": 1.0, "refined": 2.0, "sigma": 0.3,
}  # fmt: skip
#: Width and bend of the wing loss (Feng et al., CVPR 2018), percent of the face size.
_WIDTH, _BEND = 10.0, 2.0


def wing(error: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Logarithmic near zero, linear beyond :data:`_WIDTH`; of errors that are not negative."""
    return jnp.where(error < _WIDTH, _WIDTH * jnp.log1p(error / _BEND), error - _WIDTH + _WIDTH * np.log1p(_WIDTH / _BEND)) / _WIDTH


def _length(x: Array) -> Array:
    return jnp.sqrt(jnp.sum(x**2, -1) + 1e-10)


def _mean_where(value: Array, mask: Array) -> Array:
    return jnp.sum(jnp.where(mask, value, 0)) / jnp.maximum(jnp.sum(mask), 1)


def _cross_entropy(logit: Array, truth: Array) -> Array:
    return jnp.mean(jax.nn.softplus(logit) - logit * truth)


def terms(out: ImageOutput, truth: Crops, tables: ImageTables) -> dict[str, Array]:
    """The unweighted terms of the loss."""
    size = truth.size[:, None]
    percent = lambda found, wanted: 100 * _length(found - wanted) / size  # noqa: E731
    shown = posed(tables.mean, tables.modes, out.rotation, out.scale, out.shift, out.codes)
    exact = posed(tables.mean, tables.modes, truth.rotation, truth.scale, truth.shift, truth.codes)
    off = (out.codes - truth.codes) / tables.sigma
    is_identity = ~jnp.isfinite(tables.upper)
    chart = 100 * _length(out.chart - truth.chart)
    sigma = 100 * SIGMA_UNIT * jnp.exp(out.log_sigma)
    refined = percent(out.refined, truth.points)
    spread = 100 * SIGMA_UNIT * jnp.exp(out.mark_log_sigma)
    last = 100 * _length(out.refined[-1] - truth.points)
    weight = jnp.asarray(LABEL_WEIGHTS, jnp.float32)[truth.labels]
    chosen = jnp.take_along_axis(jax.nn.log_softmax(out.labels), truth.labels[..., None], -1)[..., 0]
    return {
        "model": jnp.mean(wing(percent(out.marks[..., :2], truth.points))),
        "points": jnp.mean(wing(100 * _length(shown - exact) / size)),
        "rotation": jnp.mean(jnp.sum(jnp.abs(out.rotation - truth.rotation), (1, 2))) / 3,
        "identity": jnp.sum(jnp.where(is_identity, off**2, 0)) / (len(off) * jnp.sum(is_identity)),
        "expression": jnp.sum(jnp.where(is_identity, 0, jnp.abs(off))) / (len(off) * jnp.sum(~is_identity)),
        "chart": _mean_where(chart / sigma + 2 * out.log_sigma, truth.skin),
        "depth": _mean_where(jnp.abs(out.depth - truth.depth) * 100, truth.skin),
        "visible": _cross_entropy(out.visible, truth.visible),
        "skin": _cross_entropy(out.skin, truth.skin),
        "labels": -jnp.sum(weight * chosen) / jnp.sum(weight),
        "refined": jnp.mean(wing(refined)),
        "sigma": jnp.mean(last / spread + 2 * out.mark_log_sigma),
    }


def loss(out: ImageOutput, truth: Crops, tables: ImageTables) -> tuple[Array, dict[str, Array]]:
    """The weighted sum, and its terms."""
    found = terms(out, truth, tables)
    return sum((WEIGHTS[name] * value for name, value in found.items()), jnp.zeros(())), found


def measures(out: ImageOutput, truth: Crops) -> dict[str, Array]:
    """Means over a batch, by face: landmark errors of both branches (percent of the face size), ``degrees``, ``chart`` (percent of the chart's half),
    ``face_iou`` of the labels that are face, in percent; ``spread`` and ``sigma``, of the landmarks per axis, found and predicted: root mean squares,
    percent of the crop's half."""
    percent = lambda found: jnp.mean(100 * _length(found - truth.points) / truth.size[:, None])  # noqa: E731
    face = lambda labels: (labels >= 1) & (labels <= 8)  # noqa: E731
    found, wanted = face(jnp.argmax(out.labels, -1)), face(truth.labels)
    iou = jnp.sum(found & wanted, (1, 2)) / jnp.maximum(jnp.sum(found | wanted, (1, 2)), 1)
    return {
        "model": percent(out.marks[..., :2]),
        "refined": percent(out.refined[-1]),
        "degrees": jnp.mean(jnp.degrees(geodesic_angle(out.rotation, truth.rotation))),
        "chart": _mean_where(100 * _length(out.chart - truth.chart), truth.skin),
        "face_iou": 100 * jnp.mean(iou),
        "spread": 100 * jnp.sqrt(jnp.mean((out.refined[-1] - truth.points) ** 2)),
        "sigma": 100 * SIGMA_UNIT * jnp.sqrt(LAPLACE * jnp.mean(jnp.exp(2 * out.mark_log_sigma))),
    }

