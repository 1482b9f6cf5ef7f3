"""From an observation to a solution."""

from fitjax.fit.defaults import default_losses, default_stages
from fitjax.fit.fit import fit, fit_batch, fit_shared
from fitjax.fit.photometric import photometric_losses, photometric_stages
from fitjax.fit.solution import Solution

__all__ = [
    "Solution",
    "default_losses",
    "default_stages",
    "fit",
    "fit_batch",
    "fit_shared",
    "photometric_losses",
    "photometric_stages",
]
