"""Solvers over the shared objective: Levenberg-Marquardt, any optax transform, closed-form starts, stages."""

from fitjax.solve.first_order import FirstOrder
from fitjax.solve.levenberg_marquardt import LevenbergMarquardt
from fitjax.solve.sharing import Sharing
from fitjax.solve.stages import Stage
from fitjax.solve.status import Status

__all__ = ["FirstOrder", "LevenbergMarquardt", "Sharing", "Stage", "Status"]
