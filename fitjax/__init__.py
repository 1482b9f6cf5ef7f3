"""fitjax: fit 3-D face models to single photographs by differentiable optimisation."""

from fitjax.errors import (
    BasisError,
    DetectionError,
    FitError,
    FitjaxError,
    ImageError,
    LandmarkError,
    ParamsError,
)
from fitjax.fit import Solution, default_losses, default_stages, fit, fit_batch, fit_shared
from fitjax.geometry.camera import Camera, camera_from_K, make_camera
from fitjax.losses import Loss, Residuals, expression_symmetry, landmark_distances, landmarks, prior, residual, value
from fitjax.model.load import load_basis
from fitjax.observation import Observation, make_observation, stack_observations
from fitjax.solve import FirstOrder, LevenbergMarquardt, Sharing, Stage, Status
from fitjax.version import __version__

__all__ = [
    "BasisError",
    "Camera",
    "DetectionError",
    "FirstOrder",
    "FitError",
    "FitjaxError",
    "ImageError",
    "LandmarkError",
    "LevenbergMarquardt",
    "Loss",
    "Observation",
    "ParamsError",
    "Residuals",
    "Sharing",
    "Solution",
    "Stage",
    "Status",
    "__version__",
    "camera_from_K",
    "default_losses",
    "default_stages",
    "expression_symmetry",
    "fit",
    "fit_batch",
    "fit_shared",
    "landmark_distances",
    "landmarks",
    "load_basis",
    "make_camera",
    "make_observation",
    "prior",
    "residual",
    "stack_observations",
    "value",
]
