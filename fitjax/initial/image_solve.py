"""From dense maps and landmarks to a face: the image-space branch, and its fusion with the model-space branch.

Each pixel of the face says which point of the model it shows (its texture coordinates), how sure that is, and how far away it lies. A weighted
similarity Procrustes places the mean face (DSFNet: Li et al., CVPR 2023; here with weighted centroids and a guard against reflections), and a
regularised linear solve of small turns, shifts and all codes completes it. All of it in crop units, weak perspective.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fitjax.geometry.rotation import cross_matrix, rotation_exp
from fitjax.initial.image_network import SCALE, SIGMA_UNIT, ImageOutput
from fitjax.initial.image_tables import ImageTables, rows_at

#: Half of the chart is about this many metres of skin: what turns an error of texture coordinates into one of place.
CHART_METRES = 0.09
#: Prior spreads of turns (radians), shifts (crop units) and growth (log) in one round of the solve.
_STEP_SIGMA = np.array([0.3] * 3 + [0.3] * 2 + [0.3])
#: A point this far off (crop units) has lost half of its weight.
_ROBUST = 0.08
_ROUNDS = 3
#: Weight of the pixels of a face of which nothing is hidden.
_MANY = 200.0
#: Weight of squared errors in face sizes, as of landmark losses.
_WEIGHT = 1e4


class Placed(NamedTuple):
    """A face in the crop: ``rotation`` (3, 3), ``scale`` () crop units per metre, ``shift`` (2,) of the head's origin, ``codes`` (M,)."""

    rotation: Array
    scale: Array
    shift: Array
    codes: Array


class Points(NamedTuple):
    """Points of the crop that are known on the model: ``mean`` (N, 3), ``modes`` (M, N, 3), ``at`` (N, 2) crop units, ``weight`` (N,)."""

    mean: Array
    modes: Array
    at: Array
    weight: Array


def procrustes(
    source: Float[Array, "N 3"], target: Float[Array, "N 3"], weight: Float[Array, "N"]
) -> tuple[Float[Array, "3 3"], Float[Array, ""], Float[Array, "3"]]:
    """Rotation, scale and shift with target ≈ scale · R source + shift, least squares (Umeyama, 1991). Never a reflection."""
    total = jnp.maximum(jnp.sum(weight), 1e-9)
    share = (weight / total)[:, None]
    a, b = jnp.sum(share * source, 0), jnp.sum(share * target, 0)
    x, y = source - a, target - b
    u, spread, vt = jnp.linalg.svd(jnp.matmul((share * y).T, x, precision="highest"))
    mirrored = jnp.linalg.det(jnp.matmul(u, vt, precision="highest")) < 0
    sign = jnp.stack([jnp.ones(()), jnp.ones(()), jnp.where(mirrored, -1.0, 1.0)]).astype(source.dtype)
    rotation = jnp.matmul(u * sign, vt, precision="highest")
    scale = jnp.sum(spread * sign) / jnp.maximum(jnp.sum(share * x**2), 1e-9)
    return rotation, scale, b - scale * jnp.matmul(rotation, a, precision="highest")


def pixel_points(out: ImageOutput, tables: ImageTables) -> tuple[Points, Float[Array, "N"]]:
    """The pixels of one crop's maps (no batch axis) in 16 × 16 blocks, with their depths (N,) in metres."""
    size, few = out.depth.shape[0], 16
    step = size // few
    line = (2 * jnp.arange(size) + 1) / size - 1
    at = jnp.stack(jnp.meshgrid(line, line), -1)
    spread = SIGMA_UNIT * jnp.exp(out.log_sigma)
    weight = jax.nn.sigmoid(out.skin) ** 2 / (spread**2 + 0.02**2) * 0.02**2
    values = jnp.concatenate([out.chart, at, out.depth[..., None], jnp.ones_like(weight)[..., None]], -1) * weight[..., None]
    # What is left over at the border, of sizes that are no multiple, is background.
    blocks = values[: few * step, : few * step].reshape(few, step, few, step, -1).sum((1, 3)).reshape(few**2, -1)
    total = blocks[:, 5]
    blocks = blocks / jnp.maximum(total, 1e-9)[:, None]
    mean, modes = rows_at(tables, blocks[:, :2])
    return Points(mean, modes, blocks[:, 2:4], total), blocks[:, 4]


def place_mean_face(points: Points, depth: Float[Array, "N"]) -> Placed:
    """The mean face by Procrustes; metres of depth are put to scale with the picture in a few rounds."""

    def improve(_: int, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        scale = state[1]
        target = jnp.concatenate([points.at, (depth * scale)[:, None]], 1)
        rotation, scale, shift = procrustes(points.mean, target, points.weight)
        return rotation, jnp.clip(scale, 0.3 * SCALE, 3 * SCALE), shift

    start = (jnp.eye(3, dtype=depth.dtype), jnp.asarray(SCALE, depth.dtype), jnp.zeros(3, depth.dtype))
    rotation, scale, shift = jax.lax.fori_loop(0, 3, improve, start)
    return Placed(rotation, scale, shift[:2], jnp.zeros(points.modes.shape[0], depth.dtype))


def complete(
    start: Placed, points: Points, tables: ImageTables, prior: float, around: Float[Array, "M"] | None = None, size: float = 1.18
) -> Placed:
    """Turns, shift, scale and codes from points by regularised Gauss-Newton rounds, robust against points that are far off.

    Args:
        prior: λ on whitened codes, as in :func:`fitjax.default_losses`; around: (M,) codes that the prior is centred on, default zero. size: of the
            face in crop units.
    """
    sigma = jnp.concatenate([jnp.asarray(_STEP_SIGMA, points.at.dtype), tables.sigma])
    goal = jnp.zeros_like(start.codes) if around is None else around
    total = jnp.maximum(jnp.sum(points.weight), 1e-9)

    def improve(_: int, state: Placed) -> Placed:
        rotation, scale, shift, codes = state
        shape = points.mean + jnp.einsum("m,mna->na", codes, points.modes, precision="highest")
        across = scale * rotation[:2]
        rest = points.at - jnp.matmul(shape, across.T, precision="highest") - shift
        weight = points.weight / (1 + jnp.sum(rest**2, 1) / _ROBUST**2)
        root = jnp.sqrt(_WEIGHT * weight / total) / size
        turns = jnp.einsum("kab,nb->kna", cross_matrix(jnp.eye(3, dtype=shape.dtype)), shape)
        moves = jnp.concatenate([turns, shape[None], points.modes])
        # Written as a sum, XLA goes over the modes once.
        weighed = across[None] * root[:, None, None]
        moved = sum((moves[..., a, None] * weighed[..., a] for a in range(3)), jnp.zeros(()))
        shifts = jnp.eye(2, dtype=shape.dtype)[:, None] * root[:, None]
        whitened = (jnp.concatenate([moved[:3], shifts, moved[3:]]) * sigma[:, None, None]).reshape(len(sigma), -1)
        penalty = jnp.concatenate([jnp.full(6, 1e-3), jnp.full(len(goal), prior)])
        off = jnp.concatenate([jnp.zeros(6), (goal - codes) / tables.sigma])
        curvature = jnp.matmul(whitened, whitened.T, precision="highest") + jnp.diag(penalty)
        right = jnp.matmul(whitened, (rest * root[:, None]).reshape(-1), precision="highest") + penalty * off
        step = sigma * jax.scipy.linalg.solve(curvature, right, assume_a="pos")
        turned = jnp.matmul(rotation, rotation_exp(step[:3]), precision="highest")
        grown = scale * jnp.exp(jnp.clip(step[5], -0.5, 0.5))
        return Placed(turned, grown, shift + step[3:5], jnp.clip(codes + step[6:], tables.lower, tables.upper))

    return jax.lax.fori_loop(0, _ROUNDS, improve, start)


def show(face: Placed, tables: ImageTables) -> Float[Array, "N 3"]:
    """The tables' points in the crop."""
    shape = tables.mean + jnp.einsum("m,mna->na", face.codes, tables.modes)
    return face.scale * jnp.matmul(shape, face.rotation.T, precision="highest") + jnp.pad(face.shift, (0, 1))


#: λ of the image-space branch and of the fusion; weights of landmarks beside pixels. Chosen on held-out portraits of the embedded model.
IMAGE_PRIOR, FUSED_PRIOR, MARKS_SHARE = 0.2, 0.1, 0.7


def mark_points(out: ImageOutput, tables: ImageTables) -> Points:
    """The refined landmarks of one crop, weighted by their precision."""
    spread = SIGMA_UNIT * jnp.exp(out.mark_log_sigma)
    return Points(tables.mean[:68], tables.modes[:, :68], out.refined[-1], 0.02**2 / (spread**2 + 0.01**2))


def branches(out: ImageOutput, tables: ImageTables, alone: bool = True) -> dict[str, Placed]:
    """One crop's faces by branch: ``model``, ``image`` (dense maps alone), ``fused``, and, if asked for, ``marks`` (refined landmarks ``alone``)."""
    pixels, depth = pixel_points(out, tables)
    marks = mark_points(out, tables)
    model = Placed(out.rotation, out.scale, out.shift, out.codes)
    image = complete(place_mean_face(pixels, depth), pixels, tables, IMAGE_PRIOR)
    # Each kind counts by its share, however many pixels a face has; the fewer are seen, the less they say.
    seen = jnp.minimum(jnp.sum(pixels.weight) / _MANY, 1.0) * (1 - MARKS_SHARE)
    share = lambda weight, of: weight / jnp.maximum(jnp.sum(weight), 1e-9) * of  # noqa: E731
    both = Points(
        jnp.concatenate([pixels.mean, marks.mean]), jnp.concatenate([pixels.modes, marks.modes], 1), jnp.concatenate([pixels.at, marks.at]),
        jnp.concatenate([share(pixels.weight, seen), share(marks.weight, MARKS_SHARE)]),
    )  # fmt: skip
    fused = complete(model, both, tables, FUSED_PRIOR, out.codes)
    found = {"model": model, "image": image, "fused": fused}
    return found | {"marks": complete(model, marks, tables, FUSED_PRIOR, out.codes)} if alone else found
