"""Checkpoints of training: one safetensors file, replaced in one rename: killing the process at any moment loses at most the last interval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from fitjax.errors import FitjaxError
from fitjax.files.atomic import atomic_write_bytes, atomic_write_text
from fitjax.model.tensor_file import read_tensor_file

FORMAT = "fitjax-checkpoint/1"


def _named(state: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def save_checkpoint(path: Path, state: Any, about: dict[str, Any]) -> None:
    """Write the arrays of a pytree, with what they belong to: settings, seeds, hashes."""
    arrays = {name: np.asarray(jax.device_get(leaf), order="C") for name, leaf in _named(state).items()}
    atomic_write_bytes(path, safetensors.numpy.save(arrays, {"format": FORMAT, "about": json.dumps(about, sort_keys=True)}))


def load_checkpoint(path: Path, like: Any, about: dict[str, Any]) -> Any:
    """The state of a file in the structure of ``like``.

    Raises:
        FitjaxError: the file is damaged, or of a run with other settings; the message names the first that differs.
    """
    tensors, metadata, _ = read_tensor_file(path, "checkpoint", FORMAT, remedy="delete it to start over")
    found = json.loads(metadata["about"])
    for name in {*about, *found}:
        if found.get(name) != about.get(name):
            raise FitjaxError(
                f"checkpoint {path}: {name} was {found.get(name)!r}, is {about.get(name)!r}; give the same settings, or another folder to start over"
            )
    expected = _named(like)
    if set(expected) != set(tensors) or any(np.shape(v) != tensors[k].shape for k, v in expected.items()):
        raise FitjaxError(f"checkpoint {path}: expected the arrays of these settings, found others; delete it to start over")
    leaves = [jnp.asarray(tensors[name]) for name in expected]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


class Metrics:
    """A file of one JSON object per line. Lines beyond a step are dropped when a run resumes from it, so that each step is there once."""

    def __init__(self, path: Path, network: str, step: int) -> None:
        self.path, self.network = path, network
        self.lines = []
        if path.is_file():
            self.lines = [line for line in path.read_text().splitlines() if self._kept(line, step)]

    def _kept(self, line: str, step: int) -> bool:
        try:
            row = json.loads(line)
            return row["network"] != self.network or row["step"] <= step
        except (ValueError, KeyError, TypeError):
            return False

    def add(self, step: int, values: dict[str, float]) -> None:
        """Append a line; the file is replaced as a whole, it is small."""
        row = {"network": self.network, "step": step} | {k: round(float(v), 9) for k, v in values.items()}
        self.lines.append(json.dumps(row))
        atomic_write_text(self.path, "\n".join(self.lines) + "\n")
