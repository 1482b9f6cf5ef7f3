"""The file of an image network's weights, float16, and the one that comes with fitjax."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from fitjax.errors import BasisError
from fitjax.files.atomic import atomic_write_bytes, atomic_write_text
from fitjax.initial.image_network import ImageNet
from fitjax.initial.image_tables import ImageTables
from fitjax.model.tensor_file import check_record, read_tensor_file

FORMAT = "fitjax-image-net/1"
SHIPPED_IMAGE = Path(__file__).parent.parent / "data" / "image_net.safetensors"


def write_image_net(path: Path, params: Any, about: dict[str, Any]) -> None:
    """Folded weights (Flax's ``params``) and, in the metadata and in a record beside the file, what they belong to."""
    arrays = {name: np.asarray(value, np.float16, order="C") for name, value in sorted(flatten_dict(params, sep=".").items())}
    raw = safetensors.numpy.save(arrays, {"format": FORMAT, "about": json.dumps(about, sort_keys=True)})
    record = {"file": path.name, "format": FORMAT, "licence": "CC0-1.0", "bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    record |= {"provenance": {"source": "renders of random faces of the embedded basis; no photograph"} | about}
    atomic_write_bytes(path, raw)
    atomic_write_text(path.with_suffix(".json"), json.dumps(record, indent=2) + "\n")


def module_of(about: dict[str, Any]) -> ImageNet:
    """The module, with folded kernels, that a record describes."""
    channels, blocks = (tuple(int(v) for v in about[name]) for name in ("channels", "blocks"))
    return ImageNet(int(about["side"]), channels, blocks, int(about["width"]), int(about["hidden"]), folded=True)  # type: ignore[arg-type]


@cache
def load_image_net(path: Path = SHIPPED_IMAGE) -> tuple[ImageNet, Any, dict[str, Any]]:
    """Module, weights (float32) and what they belong to.

    Raises:
        BasisError: no such file, a damaged one, one that differs from the record beside it, or values that are not finite.
    """
    if not path.is_file():
        raise BasisError(f"image network {path}: no such file; reinstall fitjax or run `fitjax train image`")
    tensors, metadata, sha256 = read_tensor_file(path, "image network", FORMAT, remedy="reinstall fitjax")
    check_record(path, "image network", sha256, "reinstall fitjax")
    try:
        about = json.loads(metadata["about"])
        module = module_of(about)
        about["basis_sha256"]
    except (KeyError, ValueError, TypeError) as error:
        raise BasisError(f"image network {path}: {error} is missing or no value of its kind; run `fitjax train image` again") from None
    params = unflatten_dict({name: value.astype(np.float32) for name, value in tensors.items()}, sep=".")
    bad = next((name for name, value in tensors.items() if not np.isfinite(value).all()), None)
    if bad is not None:
        raise BasisError(f"image network {path}: {bad} holds values that are not finite; reinstall fitjax")
    return module, {"params": params}, about


def check_shapes(path: Path, module: ImageNet, weights: Any, tables: ImageTables) -> None:
    """Raises BasisError where the file's tensors are not those of its module and the model's tables."""
    example = jnp.zeros((1, module.side, module.side, 3))
    expected = jax.eval_shape(lambda: module.init(jax.random.key(0), example, tables))
    wanted = {k: tuple(v.shape) for k, v in flatten_dict(expected["params"], sep=".").items()}
    found = {k: tuple(v.shape) for k, v in flatten_dict(weights["params"], sep=".").items()}
    if wanted != found:
        name = sorted(set(wanted.items()) ^ set(found.items()))[0][0]
        raise BasisError(f"image network {path}: {name} has another shape than its record says; reinstall fitjax")
