"""Keeping a chatty C++ library off standard error.

MediaPipe, TFLite and absl write to file descriptor 2 from C++, before and beside Python's ``sys.stderr``.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

__all__ = ["quiet_stderr"]

# File descriptor 2 belongs to the whole process, so the redirections of several threads must not interleave.
_LOCK = threading.RLock()
_LOG_LEVELS = {"GLOG_minloglevel": "3", "TF_CPP_MIN_LOG_LEVEL": "3", "ABSL_MIN_LOG_LEVEL": "3"}


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Send file descriptor 2 to the null device for the duration; always restored, also on an exception.

    One thread at a time is inside. What other threads write to standard error meanwhile is lost. Where the process has
    no file descriptor 2 (a windowed program), nothing is redirected.
    """
    with _LOCK:
        saved_env = {key: os.environ.get(key) for key in _LOG_LEVELS}
        saved_fd = null = None
        try:
            os.environ.update(_LOG_LEVELS)
            with contextlib.suppress(OSError, ValueError, AttributeError):
                sys.stderr.flush()  # what was written before must not be lost
            with contextlib.suppress(OSError):
                saved_fd = os.dup(2)
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, 2)
            yield
        finally:
            if saved_fd is not None:
                with contextlib.suppress(OSError, ValueError, AttributeError):
                    sys.stderr.flush()  # what Python wrote inside goes to the null device too
                os.dup2(saved_fd, 2)
                os.close(saved_fd)
            if null is not None:
                os.close(null)
            for key, value in saved_env.items():
                if value is None:
                    os.environ.pop(key, None)
                else:
                    os.environ[key] = value
