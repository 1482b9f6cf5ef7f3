"""The errors that fitjax raises for bad input: one clear line each, never a traceback from deep inside.

Every message names the file or field, what was expected, what was found and what to do.
"""


class FitjaxError(Exception):
    """Base of all errors that fitjax raises on purpose; the command line prints it without a traceback."""


class ImageError(FitjaxError):
    """A photo cannot be read or is not usable."""


class LandmarkError(FitjaxError):
    """Landmarks are missing, not finite, of the wrong count, or degenerate."""


class DetectionError(FitjaxError):
    """The detector is missing, failed, or found no face."""


class BasisError(FitjaxError):
    """A model file is missing, truncated, inconsistent or not a fitjax basis."""


class ParamsError(FitjaxError):
    """Parameters do not match the model: an unknown group, a wrong shape or a value that is not finite."""


class FitError(FitjaxError):
    """A fit failed (raised with ``throw=True``); the message says why."""
