"""What a fit to pixels does when nothing else is asked for: losses and stages as data, to edit.

    landmarks   Levenberg-Marquardt on the landmarks alone
    model       pose, identity, expression, albedo and light together, on landmarks and pixels
    detail      residual maps: the displacement has to explain the photo together with the model's albedo, its well-regularised partner
                (Tran, Liu, Liu, CVPR 2019); the albedo residual takes what is left on the displaced surface
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import optax

from fitjax.errors import FitError
from fitjax.fit.defaults import default_losses, default_stages
from fitjax.losses.core import Loss
from fitjax.losses.detail import smooth_albedo, smooth_shape, tie_albedo, tie_shape
from fitjax.losses.photometric import photometric
from fitjax.observation.observation import Observation
from fitjax.pytree import replace
from fitjax.solve.first_order import FirstOrder
from fitjax.solve.levenberg_marquardt import LevenbergMarquardt
from fitjax.solve.multiscale import multiscale_adam
from fitjax.solve.stages import Stage

#: How far a fit goes.
Depth = Literal["landmarks", "photometric", "detail"]

#: Steps of the stage that fits residual maps.
DETAIL_STEPS = 120
FAST_DETAIL_STEPS = 60

#: Sizes of one step: log factors, metres, light codes.
DETAIL_RATES = {"detail_albedo": 0.02, "detail_shape": 2e-5, "light": 0.02}

#: Losses that keep residuals small and smooth.
_TIES = ("tie_albedo", "smooth_albedo", "tie_shape", "smooth_shape")


@cache
def _transform(steps: int) -> optax.GradientTransformation:
    """One object per number of steps, so that stages made twice are compiled once."""
    return multiscale_adam(optax.cosine_decay_schedule(1.0, steps))


def photometric_losses(observation: Observation, model: Any = None) -> dict[str, Loss]:
    """Those of the landmarks, the photometric ones, and what keeps residual maps small.

    ``photometric`` compares the model with the photo, ``shape_pair`` the displaced surface under the model's albedo, ``full`` the displaced
    surface under the full albedo, moving only the albedo. (The paper pairs the full albedo with the proxy shape: then each residual explains
    the whole photo, and both together explain it twice.)

    Args:
        model: one that says ``own_proxies`` has full heads of its own: its codes are fitted by the full albedo with the proxy shape.

    Raises:
        FitError: the observation has no landmarks or no pixels.
    """
    if observation.image is None:
        raise FitError("photometric losses: the observation has no pixels; see fj.with_image")
    return default_losses(observation) | {
        "photometric": photometric("proxy", "full" if getattr(model, "own_proxies", False) else "proxy"),
        "shape_pair": photometric("full", "proxy"),
        "full": photometric("full", "full", "face", hold_shape=True),
        "tie_albedo": tie_albedo(0.05),
        "smooth_albedo": smooth_albedo(3.0),
        "tie_shape": tie_shape(3.0),
        "smooth_shape": smooth_shape(1000.0),
    }


def photometric_stages(observation: Observation, until: Depth = "detail", fast: bool = False) -> list[Stage]:
    """Landmarks, then the model on pixels, then residual maps.

    Args:
        until: the last stage of the fit: ``landmarks``, ``photometric`` or ``detail``.
        fast: coarser pixels and fewer steps, about a third of the time.

    Raises:
        FitError: another ``until``.
    """
    if until not in ("landmarks", "photometric", "detail"):
        raise FitError(f"stages until {until!r}: expected landmarks, photometric or detail")
    points = dict.fromkeys(default_losses(observation), 1.0)
    stages = [replace(stage, losses=stage.losses or points) for stage in default_stages(observation)]
    if until == "landmarks":
        return stages
    everything = dict.fromkeys(("pose", "identity", "expression", "albedo", "light"), 1.0)
    pixels = points | {"photometric": 1.0}
    model = LevenbergMarquardt(max_steps=5, initial_damping=1e-2)
    coarse, outer = (2, 2) if fast else (1, 3)
    stages.append(Stage(everything, model, pixels, name="model", halvings=coarse, outer_steps=outer, budget=True))
    if until == "photometric":
        return stages
    steps = FAST_DETAIL_STEPS if fast else DETAIL_STEPS
    adam = FirstOrder(_transform(steps), max_steps=steps, patience=10 * steps, rates=DETAIL_RATES)
    ties = dict.fromkeys(_TIES, 1.0)
    maps = {"detail_albedo": 1.0, "detail_shape": 1.0, "light": 1.0}
    stages.append(Stage(maps, adam, ties | {"shape_pair": 1.0, "full": 1.0}, name="detail", budget=True))
    return stages
