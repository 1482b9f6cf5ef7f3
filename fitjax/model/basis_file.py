"""Reading and checking `fitjax-basis/1` files (see docs/basis_format.md)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fitjax.errors import BasisError
from fitjax.model.skinned_file import Rig, read_rig
from fitjax.model.tensor_file import read_tensor_file

FORMAT = "fitjax-basis/1"


@dataclass(frozen=True)
class Basis:
    """A basis on the host, validated; fields as in docs/basis_format.md, modes dequantised to float32 metres. ``rig``: joints, if it has any."""

    name: str
    licence: str
    sha256: str
    mean: np.ndarray
    triangles: np.ndarray
    uv: np.ndarray
    uv_triangles: np.ndarray
    identity: np.ndarray
    expression: np.ndarray
    expression_sigma: np.ndarray
    expression_lower: np.ndarray
    expression_upper: np.ndarray
    expression_names: tuple[str, ...]
    triangle_region: np.ndarray
    mirror: np.ndarray
    uv_parts: np.ndarray
    samples: dict[str, tuple[np.ndarray, np.ndarray]]
    pose_frames: dict[str, np.ndarray]
    provenance: dict[str, Any] = field(default_factory=dict)
    rig: Rig | None = None


def _dequantise(tensors: dict[str, np.ndarray], name: str, n_vertices: int) -> np.ndarray:
    """(modes, V, 3) float32 metres from int16 steps or as stored."""
    modes = tensors[name]
    if modes.ndim != 3 or modes.shape[1:] != (n_vertices, 3):
        raise BasisError(f"basis field {name!r}: expected shape (modes, {n_vertices}, 3), found {modes.shape}")
    if modes.dtype.kind == "f":
        return modes.astype(np.float32)
    scale = tensors.get(f"{name}_scale")
    if scale is None or scale.shape != (len(modes),):
        raise BasisError(f"basis field '{name}_scale': expected ({len(modes)},) beside integer modes, found none or another shape")
    return modes.astype(np.float32) * scale.astype(np.float32)[:, None, None]


def _index(tensors: dict[str, np.ndarray], name: str, limit: int, columns: int | None) -> np.ndarray:
    value = tensors[name]
    shape_ok = value.ndim == 1 if columns is None else value.ndim == 2 and value.shape[1] == columns
    if value.dtype.kind not in "iu" or not shape_ok:
        shape = "(n,)" if columns is None else f"(n, {columns})"
        raise BasisError(f"basis field {name!r}: expected integers of shape {shape}, found {value.dtype} {value.shape}")
    if value.size and not (value.min() >= 0 and value.max() < limit):
        raise BasisError(f"basis field {name!r}: expected indices in [0, {limit}), found {value.min()} to {value.max()}")
    return value.astype(np.int32)


def read_basis(path: str | Path) -> Basis:
    """Read and validate a basis.

    Raises:
        BasisError: the file is missing, truncated, of another format, or its fields disagree with each other.
    """
    path = Path(path)
    if not path.is_file():
        raise BasisError(f"basis {path}: no such file; `fitjax info` lists the models that are found")
    tensors, metadata, sha256 = read_tensor_file(path, "basis", FORMAT, "; is it a fitjax basis?")
    try:
        return _assemble(path, tensors, metadata, sha256)
    except KeyError as error:
        raise BasisError(f"basis {path}: field {error} is missing; rebuild the file") from None
    except BasisError as error:
        raise BasisError(f"basis {path}: {error}") from None
    except (ValueError, TypeError, RecursionError, IndexError) as error:
        raise BasisError(f"basis {path}: damaged ({str(error)[:80]}); rebuild or import it again") from None


def _assemble(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str], sha256: str) -> Basis:
    for name, value in tensors.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise BasisError(f"basis field {name!r}: holds values that are not finite; rebuild the file")
    mean = tensors["mean"].astype(np.float32)
    if mean.ndim != 2 or mean.shape[1] != 3:
        raise BasisError(f"basis field 'mean': expected shape (V, 3), found {mean.shape}")
    if metadata.get("units", "m") != "m":
        raise BasisError(f"basis field 'units': expected 'm', found {metadata['units']!r}")
    n_vertices = len(mean)
    triangles = _index(tensors, "triangles", n_vertices, 3)
    uv = tensors["uv"].astype(np.float32)
    uv_triangles = _index(tensors, "uv_triangles", len(uv), 3)
    if len(uv_triangles) != len(triangles):
        raise BasisError(f"basis field 'uv_triangles': expected {len(triangles)} rows, found {len(uv_triangles)}")
    expression = _dequantise(tensors, "expression", n_vertices)
    names = tuple(json.loads(metadata.get("expression_names", "[]")))
    n_expression = len(expression)
    if len(names) != n_expression or not all(isinstance(name, str) for name in names):
        raise BasisError(f"basis field 'expression_names': expected {n_expression} names, found {len(names)}")
    per_expression = {}
    for key in ("expression_sigma", "expression_lower", "expression_upper"):
        per_expression[key] = tensors[key].astype(np.float32)
        if per_expression[key].shape != (n_expression,):
            raise BasisError(f"basis field {key!r}: expected shape ({n_expression},), found {per_expression[key].shape}")
    if (per_expression["expression_sigma"] <= 0).any():
        raise BasisError("basis field 'expression_sigma': expected positive spreads, found zero or less")
    for key, shape in (("triangle_region", (len(triangles),)), *((k, (3, 3)) for k in tensors if k.startswith("pose_frame."))):
        if key in tensors and tensors[key].shape != shape:
            raise BasisError(f"basis field {key!r}: expected shape {shape}, found {tensors[key].shape}")
    provenance = json.loads(metadata.get("provenance", "{}"))
    if not isinstance(provenance, dict):
        raise BasisError(f"basis field 'provenance': expected an object, found {type(provenance).__name__}")
    samples = {}
    for key in tensors:
        if key.startswith("samples.") and key.endswith(".triangle"):
            name = key[len("samples.") : -len(".triangle")]
            triangle = _index(tensors, key, len(triangles), None)
            weights = tensors[f"samples.{name}.barycentric"].astype(np.float32)
            if weights.shape != (len(triangle), 3) or (np.abs(weights.sum(-1) - 1) > 1e-3).any() or (weights < -1e-4).any():
                raise BasisError(f"basis field 'samples.{name}.barycentric': expected ({len(triangle)}, 3) weights that sum to 1")
            samples[name] = (triangle, weights)
    identity = _dequantise(tensors, "identity", n_vertices)
    return Basis(
        name=metadata.get("name", path.stem),
        licence=metadata.get("licence", "unknown"),
        sha256=sha256,
        mean=mean,
        triangles=triangles,
        uv=uv,
        uv_triangles=uv_triangles,
        identity=identity,
        expression=expression,
        expression_names=names,
        triangle_region=tensors.get("triangle_region", np.zeros(len(triangles), np.uint8)),
        mirror=_index(tensors, "mirror", n_vertices, None) if "mirror" in tensors else np.arange(n_vertices, dtype=np.int32),
        uv_parts=tensors.get("uv_parts", np.zeros((1, 1), np.uint8)),
        samples=samples,
        pose_frames={k[len("pose_frame.") :]: v.astype(np.float32) for k, v in tensors.items() if k.startswith("pose_frame.")},
        provenance=provenance,
        rig=read_rig(tensors, metadata, n_vertices, len(identity), n_expression),
        **per_expression,
    )
