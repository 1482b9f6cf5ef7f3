"""Fitted parameters as a safetensors file, `fitjax-params/1`: nested names joined by '/', no pickle."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fitjax.errors import ParamsError
from fitjax.files.atomic import atomic_write_bytes

FORMAT = "fitjax-params/1"


def flatten_params(params: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """Nested arrays by their joined names, such as ``pose/rotation``.

    Raises:
        ParamsError: a key with '/', or a value that is not an array of numbers.
    """
    flat: dict[str, np.ndarray] = {}
    for key, value in params.items():
        if not isinstance(key, str) or not key or "/" in key or key == "__metadata__":
            raise ParamsError(f"params: key {key!r} under {prefix or 'the top'!r}; expected a name without '/'")
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten_params(value, f"{name}/")
            continue
        array = np.asarray(value)
        if array.dtype.kind == "V":  # bfloat16, which NumPy does not know by itself
            array = array.astype(np.float32)
        if array.dtype.kind not in "biuf":
            raise ParamsError(f"params: {name} has dtype {array.dtype}; expected numbers")
        # order="C": safetensors copies the buffer as it lies.
        flat[name] = np.array(array, order="C", dtype=array.dtype.newbyteorder("="))
    return flat


def save_params(path: str | os.PathLike, params: Mapping[str, Any], metadata: Mapping[str, Any] | None = None) -> None:
    """Write nested dictionaries of arrays; ``params["pose"]["rotation"]`` becomes ``pose/rotation``.

    Values that are not finite are saved too (a failed fit is worth looking at); `load_params` refuses them.

    Args:
        params: nested mappings of NumPy or JAX arrays, any shape including ().
        metadata: what JSON can hold: model name, hashes, version.

    Raises:
        ParamsError: a key with '/', a value that is not an array of numbers, or metadata that JSON cannot hold.
        FitjaxError: an unwritable path.
    """
    try:
        text = json.dumps(dict(metadata or {}), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ParamsError(f"params: metadata is not JSON ({error}); expected text, numbers, lists") from None
    atomic_write_bytes(path, sorted_header(save(flatten_params(params), {"format": FORMAT, "metadata": text})))


def safetensors_header(data: bytes) -> tuple[dict[str, Any], int]:
    """The JSON header of a whole safetensors file, and where the tensors begin."""
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), end


def sorted_header(data: bytes) -> bytes:
    """The same file with sorted keys: safetensors writes metadata in random order, and equal fits should hash alike."""
    header, end = safetensors_header(data)
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors stay aligned
    return len(text).to_bytes(8, "little") + text + data[end:]


def _metadata(path: Path, data: bytes) -> dict[str, Any]:
    found = safetensors_header(data)[0].get("__metadata__", {})  # `load` has checked the header by now
    if found.get("format") != FORMAT:
        raise ParamsError(f"{path}: format {found.get('format')!r}; expected {FORMAT!r}, as this version writes")
    try:
        metadata = json.loads(found.get("metadata", "{}"))
    except ValueError:
        metadata = None
    if not isinstance(metadata, dict):
        raise ParamsError(f"{path}: its metadata is not a JSON object; write the file again")
    return metadata


def load_params(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read what `save_params` wrote: (nested params as NumPy arrays, metadata).

    Raises:
        ParamsError: a missing, truncated or foreign file, another format version, or a value that is not finite.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ParamsError(f"cannot read {path}: {error.strerror or error}; expected a params.safetensors") from None
    try:
        flat = load(data)
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise ParamsError(f"{path}: not a whole safetensors file ({error}); write it again") from None
    metadata = _metadata(path, data)
    for name in sorted(flat):
        if flat[name].dtype.kind == "f" and not np.isfinite(flat[name]).all():
            raise ParamsError(f"{path}: {name} holds a value that is not finite; this fit failed")
    return nested_params(flat, str(path)), metadata


def nested_params(flat: Mapping[str, np.ndarray], what: str = "params") -> dict[str, Any]:
    """Nested arrays from their joined names: the inverse of `flatten_params`.

    Raises:
        ParamsError: a name that lies under another one.
    """
    params: dict[str, Any] = {}
    for name in sorted(flat):
        *folders, last = name.split("/")
        node = params
        for folder in folders:
            node = node.setdefault(folder, {})
            if not isinstance(node, dict):
                raise ParamsError(f"{what}: {name} lies under a name that is an array itself")
        node[last] = flat[name]
    return params
