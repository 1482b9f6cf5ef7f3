"""Smoothness over time: what photos of one person in a row, the frames of a video, have in common from one to the next."""

from __future__ import annotations

from typing import Any, NoReturn

import jax.numpy as jnp
import numpy as np

from fitjax.losses.core import Loss

#: Translations count in halves of a head, so that one weight holds a pose: turning by a radian is as much as moving by this, metres.
HALF_HEAD = 0.15

#: Weight per squared radian (and half head) of the pose, and per squared unit of expression codes, between neighbouring frames: of those tried, what
#: took most of the trembling from a synthetic video without holding back a head that turns by 50° in a second (benchmarks/shared_person.py).
DEFAULT_WEIGHTS = {"pose": 0.5, "expression": 1.5}


def smooth_over_time(weight: float = 1.0, **groups: float) -> Loss:
    """½ Σ w |xₜ₊₁ - xₜ|² over the photos of a joint fit (`fitjax.fit_shared`) in their order, between neighbours of one person.

    Differences are of codes, of translations in units of `HALF_HEAD`, and the rotation vector from one frame to the next in radians. It holds what
    is per photo; what is shared does not change. In the fit of a single photo it is zero. Its blocks between neighbouring photos are diagonal, which
    Levenberg-Marquardt exploits: the cost of a step grows linearly with the photos.

    Args:
        groups: weight by group; default `DEFAULT_WEIGHTS`.
    """
    chosen = groups or DEFAULT_WEIGHTS
    return Loss(np.float32(weight), {k: jnp.asarray(v) for k, v in chosen.items()}, None, _of_several, (), "smooth")


def _of_several(*_: Any, **__: Any) -> NoReturn:
    raise TypeError("smoothness is between photos; solvers compute it")
