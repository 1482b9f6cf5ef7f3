"""What a fit does when nothing else is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import optax

from fitjax.errors import FitError
from fitjax.losses.core import Loss
from fitjax.losses.landmarks import is_reprojection, landmark_depth, landmarks
from fitjax.losses.parts import part_reprojection
from fitjax.losses.prior import prior
from fitjax.observation.observation import Observation
from fitjax.pytree import replace
from fitjax.solve.first_order import FirstOrder
from fitjax.solve.levenberg_marquardt import LevenbergMarquardt
from fitjax.solve.stages import Stage

#: λ of the priors with landmarks at their default weight, by what was observed: near the best on held-out points of annotated faces
#: (λ_d = 0.6 at 68 points), flat from half to three times as much on photos; see docs/accuracy.md.
PRIOR_WEIGHT = {"mediapipe478": 3e-3}
OTHER_PRIOR_WEIGHT = 5e-3

#: Name of the default loss on facial parts.
PARTS_LOSS = "parts"

#: Next to parts, a landmark this far off (face sizes) has lost three quarters of its say: landmarks of an open mouth or a closed eye are biased
#: together, and the parts know better. Chosen among 0.01, 0.02 and 0.03 on synthetic faces (docs/parts.md).
ROBUST_BESIDE_PARTS = 0.02

#: Sets whose jaw points follow the visible outline: 2-D annotations.
OUTLINE_SETS = ("ibug68",)


#: First-order steps of a stage over codes of a convolutional network, and the size of a step beside that of the codes.
CODE_STEPS = 72
CODE_RATES = {"pose": 0.05, "expression": 0.3, "light": 0.5, "joints": 0.3}


def default_losses(observation: Observation) -> dict[str, Loss]:
    """Landmarks of every observed set, their depth where the detector estimates it, and the model's priors. With parts their loss too, and
    landmarks that are robust against it.

    Raises:
        FitError: the observation has no landmarks.
    """
    if not observation.landmarks:
        raise FitError("default losses: the observation has no landmarks; give losses of your own")
    losses = {
        (name if len(observation.landmarks) > 1 else "landmarks"): landmarks(name, contour=name in OUTLINE_SETS)
        for name in observation.landmarks
    }
    losses |= {
        ("depth" if len(observation.landmarks) == 1 else f"{name}_depth"): landmark_depth(name)
        for name, seen in observation.landmarks.items()
        if np.any(np.asarray(seen.depth_valid))
    }
    weight = min(PRIOR_WEIGHT.get(name, OTHER_PRIOR_WEIGHT) for name in observation.landmarks)
    if observation.parts is not None:
        losses = {
            name: loss.robust("geman_mcclure", ROBUST_BESIDE_PARTS) if is_reprojection(loss) else loss
            for name, loss in losses.items()
        }
        losses |= {PARTS_LOSS: part_reprojection(occlusion=True)}
    return losses | {"prior": prior(weight)}


def with_joints(stages: Sequence[Stage], model: Any) -> list[Stage]:
    """The stages with an articulated model's joints free wherever its expression is: those that a photo shows, not the neck (``model.free_joints``).
    Stages of models without joints stay as they are."""
    free = getattr(getattr(model, "shape", model), "free_joints", None)
    if free is None:
        return list(stages)
    return [replace(s, free=s.free | {"joints": free}) if "expression" in s.free and "joints" not in s.free else s for s in stages]


def for_model(stages: Sequence[Stage], model: Any) -> list[Stage]:
    """The stages as a model wants them: with its joints (:func:`with_joints`), and with Adam over codes that a convolutional network decodes
    (``model.network_groups``), whose Jacobian Levenberg-Marquardt would take through the whole network, column by column: those codes stay where they
    are while it finds the rest, and then everything moves together by a fixed number of first-order steps."""
    through = frozenset(getattr(model, "network_groups", ()))
    chosen: list[Stage] = []
    for stage in with_joints(stages, model):
        if not (isinstance(stage.solver, LevenbergMarquardt) and through & stage.free.keys()):
            chosen.append(stage)
            continue
        rest = {group: mask for group, mask in stage.free.items() if group not in through}
        if rest:
            solver = replace(stage.solver, max_steps=min(stage.solver.max_steps, 10))
            chosen.append(replace(stage, free=rest, solver=solver, outer_steps=1, budget=True))
        steps = -(-CODE_STEPS // stage.outer_steps)
        adam = FirstOrder(_adam(steps * stage.outer_steps), max_steps=steps, patience=10 * steps, rates=CODE_RATES)
        chosen.append(replace(stage, solver=adam, name=f"{stage.name} codes", budget=True))
    return chosen


@cache
def _adam(steps: int) -> optax.GradientTransformation:
    """One object per number of steps, so that stages made twice are compiled once."""
    return optax.adam(optax.cosine_decay_schedule(0.1, steps, 0.02), b2=0.99)


def default_stages(observation: Observation) -> list[Stage]:
    """One stage of pose, identity and expression; contours are taken anew a few times where they are used. With parts a second one of all losses."""
    outlines = any(name in OUTLINE_SETS for name in observation.landmarks)
    everything = {"pose": 1.0, "identity": 1.0, "expression": 1.0}
    solver = LevenbergMarquardt(max_steps=40)
    first = Stage(everything, solver, name="landmarks", outer_steps=4 if outlines else 1)
    if observation.parts is None:
        return [first]
    every = dict.fromkeys(default_losses(observation), 1.0)
    without = {name: weight for name, weight in every.items() if name != PARTS_LOSS}
    parts = LevenbergMarquardt(max_steps=10, initial_damping=1e-3)
    return [
        replace(first, losses=without),
        Stage(everything, parts, every, name="parts", outer_steps=3, budget=True),
    ]
