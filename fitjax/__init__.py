"""fitjax: fit 3-D face models to single photographs by differentiable optimisation."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fitjax.lazy_names import lazy_names
from fitjax.version import __version__

if TYPE_CHECKING:
    from fitjax.errors import (
        BasisError,
        DetectionError,
        FitError,
        FitjaxError,
        ImageError,
        LandmarkError,
        ParamsError,
    )
    from fitjax.fit import (
        Solution,
        default_losses,
        default_stages,
        fit,
        fit_batch,
        fit_shared,
        photometric_losses,
        photometric_stages,
    )
    from fitjax.geometry.camera import Camera, camera_from_K, make_camera
    from fitjax.image.photo import Photo, photo_from_array, read_photo
    from fitjax.initial.initialise import initialise
    from fitjax.landmark_files import read_landmarks
    from fitjax.losses import (
        Loss,
        Residuals,
        expression_symmetry,
        landmark_depth,
        landmark_distances,
        landmarks,
        prior,
        residual,
        value,
    )
    from fitjax.losses.parts import part_reprojection, with_part_samples
    from fitjax.losses.photometric import photometric
    from fitjax.model.load import load_basis
    from fitjax.model.textured import load_textured
    from fitjax.observation import Observation, make_observation, stack_observations
    from fitjax.observation.crop import with_image
    from fitjax.observation.observe import observe
    from fitjax.observation.part_tables import LabelTable
    from fitjax.observation.segmentation import observe_parts, with_parts
    from fitjax.solve import FirstOrder, LevenbergMarquardt, Sharing, Stage, Status

__all__ = [
    "BasisError",
    "Camera",
    "DetectionError",
    "FirstOrder",
    "FitError",
    "FitjaxError",
    "ImageError",
    "LabelTable",
    "LandmarkError",
    "LevenbergMarquardt",
    "Loss",
    "Observation",
    "ParamsError",
    "Photo",
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
    "initialise",
    "landmark_depth",
    "landmark_distances",
    "landmarks",
    "load_basis",
    "load_textured",
    "make_camera",
    "make_observation",
    "observe",
    "observe_parts",
    "part_reprojection",
    "photo_from_array",
    "photometric",
    "photometric_losses",
    "photometric_stages",
    "prior",
    "read_landmarks",
    "read_photo",
    "residual",
    "stack_observations",
    "value",
    "with_image",
    "with_part_samples",
    "with_parts",
]

#: Where the public names live. They load on first use (PEP 562), so that ``fitjax --help`` does not wait for JAX.
_HOME = {
    "fitjax.errors": "BasisError DetectionError FitError FitjaxError ImageError LandmarkError ParamsError",
    "fitjax.fit": "Solution default_losses default_stages fit fit_batch fit_shared photometric_losses photometric_stages",
    "fitjax.geometry.camera": "Camera camera_from_K make_camera",
    "fitjax.image.photo": "Photo photo_from_array read_photo",
    "fitjax.initial.initialise": "initialise",
    "fitjax.landmark_files": "read_landmarks",
    "fitjax.losses": "Loss Residuals expression_symmetry landmark_depth landmark_distances landmarks prior residual value",
    "fitjax.losses.parts": "part_reprojection with_part_samples",
    "fitjax.losses.photometric": "photometric",
    "fitjax.model.load": "load_basis",
    "fitjax.model.textured": "load_textured",
    "fitjax.observation": "Observation make_observation stack_observations",
    "fitjax.observation.crop": "with_image",
    "fitjax.observation.observe": "observe",
    "fitjax.observation.part_tables": "LabelTable",
    "fitjax.observation.segmentation": "observe_parts with_parts",
    "fitjax.solve": "FirstOrder LevenbergMarquardt Sharing Stage Status",
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names.split()}


__getattr__, __dir__ = lazy_names(globals(), _MODULE_OF)


class _Package(ModuleType):
    """Importing the subpackage ``fitjax.fit`` binds its name here; the function :func:`fitjax.fit` must win."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and name in _MODULE_OF):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
