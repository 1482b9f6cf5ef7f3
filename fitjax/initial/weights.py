"""The file of a landmark network's weights, float16, and the one that comes with fitjax."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from fitjax.errors import BasisError
from fitjax.files.atomic import atomic_write_bytes, atomic_write_text
from fitjax.initial.network import LandmarkNet
from fitjax.model.tensor_file import check_record, read_tensor_file

FORMAT = "fitjax-landmark-net/1"
SHIPPED = Path(__file__).parent.parent / "data" / "landmark_net.safetensors"


def write_landmark_net(path: Path, params: Any, about: dict[str, Any]) -> None:
    """Weights (Flax's ``params``) and, in the metadata and in a record beside the file, what they belong to: hidden, depth, basis_sha256."""
    arrays = {name: np.ascontiguousarray(value, np.float16) for name, value in sorted(flatten_dict(params, sep=".").items())}
    raw = safetensors.numpy.save(arrays, {"format": FORMAT, "about": json.dumps(about, sort_keys=True)})
    record = {"file": path.name, "format": FORMAT, "licence": "CC0-1.0", "bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    record |= {"provenance": {"source": "projections of random faces of the embedded basis; no photograph"} | about}
    atomic_write_bytes(path, raw)
    atomic_write_text(path.with_suffix(".json"), json.dumps(record, indent=2) + "\n")


@cache
def load_landmark_net(path: Path = SHIPPED) -> tuple[LandmarkNet, Any, dict[str, Any]]:
    """Module, weights (float32) and what they belong to.

    Raises:
        BasisError: no such file, a damaged one, one that differs from the record beside it, or of other shapes.
    """
    if not path.is_file():
        raise BasisError(f"landmark network {path}: no such file; reinstall fitjax or run `fitjax train landmarks`")
    tensors, metadata, sha256 = read_tensor_file(path, "landmark network", FORMAT, remedy="reinstall fitjax")
    check_record(path, "landmark network", sha256, "reinstall fitjax")
    try:
        about = json.loads(metadata["about"])
        hidden, depth = int(about["hidden"]), int(about["depth"])
        params: dict[str, Any] = unflatten_dict({name: value.astype(np.float32) for name, value in tensors.items()}, sep=".")
        outputs = params["out"]["bias"].shape[0]
        expected = {"trunk.enter.bias": (hidden,), "out.kernel": (hidden, outputs)} | {
            f"trunk.layer{k}.kernel": (hidden, hidden) for k in range(depth)
        }
        wrong = [name for name, shape in expected.items() if tensors[name].shape != shape]
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise BasisError(f"landmark network {path}: {error} is missing or no value of its kind; run `fitjax train landmarks` again") from None
    if wrong or any(not np.isfinite(v).all() for v in tensors.values()):
        raise BasisError(f"landmark network {path}: {(wrong or ['a tensor'])[0]} has another shape or values that are not finite; reinstall fitjax")
    return LandmarkNet(outputs, hidden, depth), {"params": params}, about
