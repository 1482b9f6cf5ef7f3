"""Writing and reading the basis file `fitjax-basis/1` (see `docs/basis_format.md`) and its descriptor."""

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors import safe_open

from basis.surface import Samples
from fitjax.model.basis_writer import quantise, serialise

__all__ = ["dequantised", "quantise", "read", "read_samples", "sample_tensors", "serialise", "write"]

DATA = Path(__file__).parent.parent / "fitjax" / "data"
EMBEDDED = DATA / "embedded.safetensors"


def sample_tensors(samples: dict[str, Samples]) -> dict[str, np.ndarray]:
    """The tensors of named sample sets."""
    tensors = {}
    for name, value in samples.items():
        tensors[f"samples.{name}.triangle"] = value.triangle.astype(np.int32)
        tensors[f"samples.{name}.barycentric"] = value.barycentric.astype(np.float32)
    return tensors


def write(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write the file and, beside it, the descriptor with licence, provenance and hash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = serialise(tensors, metadata)
    path.write_bytes(raw)
    descriptor = {
        "file": path.name,
        "format": metadata["format"],
        "licence": metadata["licence"],
        "bytes": len(raw),
        "sha256": hashlib.sha256(raw).hexdigest(),
        "provenance": json.loads(metadata["provenance"]),
    }
    path.with_suffix(".json").write_text(json.dumps(descriptor, indent=2) + "\n")


def read(path: Path = EMBEDDED) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All tensors and the metadata of a basis file."""
    with safe_open(path, framework="numpy") as handle:
        return {key: handle.get_tensor(key) for key in handle.keys()}, handle.metadata()  # noqa: SIM118


def read_samples(tensors: dict[str, np.ndarray], name: str) -> Samples:
    """One named sample set."""
    return Samples(tensors[f"samples.{name}.triangle"], tensors[f"samples.{name}.barycentric"].astype(np.float64))


def dequantised(tensors: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Modes in metres as float32."""
    return tensors[name].astype(np.float32) * tensors[f"{name}_scale"][:, None, None]
