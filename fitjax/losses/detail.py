"""What keeps per-image residual maps close to their proxies, and proxies simple (Tran, Liu, Liu, CVPR 2019; docs/rendering.md).

Strong regularisers act on the proxies; the residuals are tied to them by their L1 norm and a little smoothness, without which a single photo's
shading has no scale. Texels off the face's map count for nothing.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fitjax.errors import FitjaxError
from fitjax.losses.core import Loss, value
from fitjax.observation.observation import Observation
from fitjax.prediction import Prediction
from fitjax.pytree import replace

#: A displacement of one millimetre counts as much as a factor e on the albedo.
MILLIMETRE = 1e-3

#: Half-width of the rounded tip of the absolute value, and the least |difference| that the symmetry of albedo punishes (as in the paper's code).
_TIP = 1e-3
_SYMMETRIC = 0.01


def _absolute(x: Array, tip: float = _TIP) -> Array:
    return jnp.sqrt(x**2 + tip**2) - tip


def _weighted_mean(values: Float[Array, "H W"], weight: Float[Array, "H W"]) -> Float[Array, ""]:
    return jnp.sum(weight * values) / jnp.maximum(jnp.sum(weight), 1e-6)


def _map(pred: Prediction, name: str) -> Array:
    if name not in pred.params:
        raise FitjaxError(
            f"loss on {name!r}: the parameters have no such map; free it in a stage, or start from params | model.no_detail()"
        )
    return pred.params[name]


def _face(pred: Prediction, size: int) -> Float[Array, "H W"]:
    if pred.mesh is None:
        raise FitjaxError("loss on residual maps: expected a textured model (fj.load_textured)")
    face = pred.mesh.detail_map
    return face if face.shape[0] == size else jax.image.resize(face, (size, size), "linear")


@value
def _tie_albedo(pred: Prediction, obs: Observation) -> Float[Array, ""]:
    detail = _map(pred, "detail_albedo")
    return _weighted_mean(_absolute(detail).mean(-1), _face(pred, detail.shape[0]))


@value
def _tie_shape(pred: Prediction, obs: Observation) -> Float[Array, ""]:
    detail = _map(pred, "detail_shape") / MILLIMETRE
    return _weighted_mean(_absolute(detail, 0.01), _face(pred, detail.shape[0]))


@value
def _smooth_shape(pred: Prediction, obs: Observation) -> Float[Array, ""]:
    detail = _map(pred, "detail_shape") / MILLIMETRE
    around = jnp.pad(detail, 1, mode="edge")
    mean = (around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:]) / 4
    return _weighted_mean((mean - detail) ** 2, _face(pred, detail.shape[0]))


@value
def _smooth_albedo(pred: Prediction, obs: Observation) -> Float[Array, ""]:
    detail = _map(pred, "detail_albedo")
    right = jnp.pad(detail[:, 1:] - detail[:, :-1], ((0, 0), (0, 1), (0, 0)))
    down = jnp.pad(detail[1:] - detail[:-1], ((0, 1), (0, 0), (0, 0)))
    size = jnp.sum(right**2 + down**2, -1)
    return _weighted_mean(_absolute(jnp.sqrt(size + 1e-12), 0.03), _face(pred, detail.shape[0]))


@value
def _symmetric_albedo(pred: Prediction, obs: Observation) -> Float[Array, ""]:
    proxy = pred.face.proxy_albedo
    difference = jnp.maximum(jnp.abs(proxy - proxy[:, ::-1]), _SYMMETRIC) - _SYMMETRIC
    return _weighted_mean(difference.mean(-1), _face(pred, proxy.shape[0]))


@value
def _constant_albedo(pred: Prediction, obs: Observation, *, reads_pixels: bool = True) -> Float[Array, ""]:
    from fitjax.losses.photometric import rendered

    assert pred.frozen is not None and pred.frozen.pixels is not None
    face = rendered(pred, obs, albedo="proxy")
    photo = obs.image.reshape(-1, 3)[face.pixel]
    chromaticity = photo / jnp.maximum(photo.sum(-1, keepdims=True), 1e-3)
    total: Array = jnp.zeros((), photo.dtype)
    weight: Array = total
    # Places are in row-major order: neighbours in the list are neighbours in the row, those a few strides on lie elsewhere on the face.
    for stride in (1, 37, 389):
        alike = jnp.exp(-15 * jnp.linalg.norm(chromaticity - jnp.roll(chromaticity, stride, 0) + 1e-9, axis=-1))
        alike = jax.lax.stop_gradient(alike * pred.frozen.pixels.weight * jnp.roll(pred.frozen.pixels.weight, stride))
        difference = jnp.sum((face.albedo - jnp.roll(face.albedo, stride, 0)) ** 2, -1)
        total = total + jnp.sum(alike * ((difference + 1e-6) ** 0.4 - 1e-6**0.4))
        weight = weight + jnp.sum(alike)
    return total / jnp.maximum(weight, 1e-6)


def _weighted(loss: Loss, weight: float) -> Loss:
    return replace(loss, weight=np.float32(weight))


def tie_albedo(weight: float = 1.0) -> Loss:
    """L1 norm of the albedo residual (mean |log factor|). Raises FitjaxError if the parameters hold no such map."""
    return _weighted(_tie_albedo(), weight)


def tie_shape(weight: float = 1.0) -> Loss:
    """L1 norm of the displacement (mean |mm|). Raises FitjaxError if the parameters hold no such map."""
    return _weighted(_tie_shape(), weight)


def smooth_shape(weight: float = 1.0) -> Loss:
    """Mean square of (mean of the four neighbours - centre) of the displacement, mm². Raises FitjaxError if the parameters hold no such map."""
    return _weighted(_smooth_shape(), weight)


def smooth_albedo(weight: float = 1.0) -> Loss:
    """Total variation of the albedo residual, rounded at small differences: what no pixel shows continues its surroundings. Raises FitjaxError if
    the parameters hold no such map."""
    return _weighted(_smooth_albedo(), weight)


def symmetric_albedo(weight: float = 1.0) -> Loss:
    """Mean of max(|A - flip A|, 0.01) - 0.01 over the proxy albedo map, for layouts symmetric about u = ½, as the embedded one's is."""
    return _weighted(_symmetric_albedo(), weight)


def constant_albedo(weight: float = 1.0) -> Loss:
    """Σ ω ‖A_i - A_j‖^0.8 over pairs of pixels, ω = exp(-15 ‖c_i - c_j‖) with c the photo's chromaticity: equal hue is likely equal albedo, and
    what differs then is light. Pairs are direct neighbours and two fixed strides; the weights are not normalised per pixel, so that they count.
    """
    return _weighted(_constant_albedo(reads_pixels=True), weight)
