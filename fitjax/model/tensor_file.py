"""Reading the safetensors files that models come in: bytes, hash, metadata and arrays, or one clear error."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from fitjax.errors import BasisError


def tensor_format(path: Path) -> str | None:
    """The format that a file's metadata name, None for a file that is no safetensors file or names none."""
    try:
        with safetensors.safe_open(str(path), framework="np") as handle:
            return (handle.metadata() or {}).get("format")
    except Exception:  # safetensors raises its own unexported error types
        return None


def read_tensor_file(
    path: Path, kind: str, expected_format: str, hint: str = "", remedy: str = "download or rebuild it"
) -> tuple[dict[str, np.ndarray], dict[str, str], str]:
    """Arrays, metadata and sha256 of an existing file.

    Args:
        kind: what the file is, for messages. expected_format: of its metadata. hint: ends the message about another format.
        remedy: what to do about a damaged file.

    Raises:
        BasisError: the file is damaged, or of another format.
    """
    raw = path.read_bytes()
    try:
        with safetensors.safe_open(str(path), framework="np") as handle:
            metadata = handle.metadata() or {}
        tensors = safetensors.numpy.load(raw)
    except Exception as error:  # safetensors raises its own unexported error types
        raise BasisError(f"{kind} {path}: not a readable safetensors file ({error}); {remedy}") from None
    if metadata.get("format") != expected_format:
        raise BasisError(f"{kind} {path}: expected format {expected_format!r}, found {metadata.get('format')!r}{hint}")
    return tensors, metadata, hashlib.sha256(raw).hexdigest()


def check_record(path: Path, kind: str, sha256: str, remedy: str) -> None:
    """Compare a file with the JSON record beside it, where there is one.

    Raises:
        BasisError: the file has another hash than its record says.
    """
    record = path.with_suffix(".json")
    if record.is_file() and json.loads(record.read_text()).get("sha256") != sha256:
        raise BasisError(f"{kind} {path}: the file differs from its record {record.name}; {remedy}")
