"""The compiled part of a fit: start, stages, and the figures that decide whether to trust it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fitjax.geometry.rotation import aflw2000_from_rotation
from fitjax.losses.core import Loss, residual_arrays
from fitjax.losses.landmarks import is_reprojection, landmarks
from fitjax.model.params import DETAIL, Params
from fitjax.model.protocol import Model
from fitjax.observation.observation import Observation
from fitjax.prediction import Prediction, freeze, predict
from fitjax.pytree import pytree
from fitjax.solve.objective import Problem, frozen_sets
from fitjax.solve.sharing import Sharing
from fitjax.solve.stages import Stage, StageReport, run_stages
from fitjax.solve.start import start_pose
from fitjax.solve.status import Status

#: A fit is not reliable above this mean landmark residual (in face sizes) or this yaw.
MAXIMUM_RESIDUAL = 0.021
MAXIMUM_YAW_DEGREES = 50.0


@pytree
class Outcome:
    """What a compiled fit returns; leaves gain a leading axis in a batch."""

    params: Params
    reports: list[StageReport]
    status: Int[Array, ""]
    landmark_residual: Float[Array, ""]
    yaw: Float[Array, ""]


def head_frame(model: Model, dtype: Any) -> Float[Array, "3 3"]:
    """Rotation from head space to the head frame of the AFLW2000-3D pose convention, identity if the model declares none."""
    frames = getattr(model, "pose_frames", {})
    return jnp.asarray(frames["aflw2000"], dtype) if "aflw2000" in frames else jnp.eye(3, dtype=dtype)


def initial_params(model: Model, observation: Observation, params: Params | None, stages: Sequence[Stage]) -> Params:
    """The model's mean face with a closed-form pose, or the given parameters completed by what they lack."""
    full = dict(model.init())
    if any("camera" in stage.free for stage in stages):
        full["camera"] = {"log_focal": jnp.zeros((), observation.camera.focal.dtype)}
    if any(group in stage.free for stage in stages for group in DETAIL) and hasattr(model, "no_detail"):
        full.update(model.no_detail())
    if params is not None:
        full.update(params)
    if "pose" not in full:
        full["pose"] = start_pose(model, full, observation)
    return full


def landmark_residual(losses: dict[str, Loss], prediction: Prediction, observation: Observation) -> Float[Array, ""]:
    """Mean distance of the observed landmarks from the fitted ones, in face sizes, as the re-projection losses measure it (a jaw that follows
    the outline counts as such); over all observed sets that the model knows where a fit has no such loss."""
    measures = [loss for loss in losses.values() if is_reprojection(loss)]
    if not measures:
        measures = [landmarks(name) for name in observation.landmarks if name in prediction.pixels]
    total: Any = jnp.zeros((), prediction.t_camera_head.dtype)
    count: Any = total
    for loss in measures:
        values, weight = residual_arrays(loss, prediction, observation)
        distance = jnp.sqrt(jnp.sum(values**2, -1))
        total, count = total + jnp.sum(weight * distance), count + jnp.sum(weight)
    return total / jnp.maximum(count, 1e-6)


def finish(
    model: Model, observation: Observation, losses: dict[str, Loss], params: Params, reports: list[StageReport]
) -> Outcome:
    """Status over all stages and the reliability figures."""
    prediction = predict(model, params, observation, freeze(model, params, frozen_sets(losses)))
    status = reports[-1].status
    for report in reports:
        status = jnp.where(report.status == Status.NOT_FINITE, Status.NOT_FINITE, status)
    status = jnp.where(observation.ok, status, Status.NO_INPUT)
    residual = landmark_residual(losses, prediction, observation)
    head = head_frame(model, residual.dtype)
    yaw = aflw2000_from_rotation(jnp.matmul(prediction.R_camera_head, head.T, precision="highest"))[1]
    return Outcome(params, reports, status.astype(jnp.int32), residual, yaw)


def solve_one(
    model: Model, observation: Observation, losses: dict[str, Loss], stages: list[Stage], params: Params | None
) -> Outcome:
    """One photo."""
    start = initial_params(model, observation, params, stages)
    solved, reports = run_stages(stages, Problem(model, observation, losses), start)
    return finish(model, observation, losses, solved, reports)


def solve_joint(
    model: Model,
    observations: Observation,
    losses: dict[str, Loss],
    stages: list[Stage],
    params: Params | None,
    sharing: Sharing,
) -> Outcome:
    """Several photos with shared parameters, in one solve; ``params`` are shared parameters or None."""
    per_photo = jax.vmap(lambda o: initial_params(model, o, None, stages))(observations)
    start = {**sharing.share(per_photo), **(params or {})}
    problem = Problem(model, observations, losses, None, sharing)
    solved, reports = run_stages(stages, problem, start)
    each = jax.vmap(lambda o, p: finish(model, o, losses, p, reports))(observations, sharing.gather(solved))
    return Outcome(solved, reports, each.status, each.landmark_residual, each.yaw)


run_one = jax.jit(solve_one)


def solve_faces(
    model: Model,
    observations: Observation,
    losses: dict[str, Loss],
    stages: list[Stage],
    params: Params | None,
    one_by_one: bool,
) -> Outcome:
    """Independent faces in one program; every leaf of the result has a leading axis.

    Args:
        one_by_one: a loop over faces inside the program instead of ``vmap``. A face then takes just the steps it needs, and its matrices stay in
            the cache: on a CPU 1.3 times faster than batches of 8 and 2 times than one of 128. An accelerator wants ``vmap``.
    """

    def one(args: tuple[Observation, Params | None]) -> Outcome:
        return solve_one(model, args[0], losses, stages, args[1])

    if one_by_one:
        return jax.lax.map(one, (observations, params))
    return jax.vmap(lambda o, p: one((o, p)))(observations, params)


run_batch = jax.jit(solve_faces, static_argnames="one_by_one")


def faces_one_by_one() -> bool:
    """The one place that chooses between a loop and ``vmap`` over faces."""
    return jax.default_backend() == "cpu"


run_joint = jax.jit(solve_joint)


@jax.jit
def predict_final(model: Model, params: Params, observation: Observation) -> Prediction:
    return predict(model, params, observation, freeze(model, params))
