"""Losses: pure functions of (prediction, observation), composed in plain dicts."""

from fitjax.losses.core import Loss, Residuals, residual, value
from fitjax.losses.landmarks import landmark_depth, landmarks
from fitjax.losses.prior import prior
from fitjax.losses.relative import expression_symmetry, landmark_distances

__all__ = ["Loss", "Residuals", "expression_symmetry", "landmark_depth", "landmark_distances", "landmarks", "prior", "residual", "value"]
