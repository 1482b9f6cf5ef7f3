"""A basis file with the annotations that fits need, made from a model that has none: ICT-FaceKit's folder, or a basis file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from fitjax.errors import BasisError
from fitjax.geometry.host_mesh import surface_points
from fitjax.model.basis_file import FORMAT, read_basis
from fitjax.model.basis_writer import serialise
from fitjax.model.ict import read_ict
from fitjax.model.load import EMBEDDED, find_models
from fitjax.model.tensor_file import read_tensor_file
from fitjax.model.transfer import POINT_SETS, Annotation, Report, annotate
from fitjax.observation.part_tables import PARTS

#: Steps of `uv_embedded` from 0 to 1.
UV_STEPS = 32767

#: All sets that an annotated basis has.
SETS = (*POINT_SETS, *(f"part_{part}" for part in PARTS))


def annotated_basis(
    source: Path, name: str | None = None, landmarks68: Int[np.ndarray, "68"] | None = None
) -> tuple[bytes, Report]:
    """The bytes of an annotated basis file, and how well our head and the model met.

    What a basis file has already stays: geometry to the last bit, its own sets, regions and map of parts.

    Args:
        source: ICT-FaceKit's folder `FaceXModel`, or a basis file in which at least one set of :data:`SETS` is missing.
        name: of the model; default its own. landmarks68: vertices of the 68 points; default those that are documented (ICT), or the file's `ibug68`.

    Raises:
        BasisError: no such source, a damaged one, one that lacks nothing, or landmarks that are not its vertices.
    """
    landmarks = landmarks68
    if source.is_dir():
        tensors, metadata, documented = read_ict(source)
        landmarks = documented if landmarks is None else landmarks
    elif source.is_file():
        tensors, metadata = _read(source)
        if landmarks is None and "samples.ibug68.triangle" in tensors:
            weights = tensors["samples.ibug68.triangle"], tensors["samples.ibug68.barycentric"].astype(float)
            landmarks = surface_points(tensors["mean"].astype(float), tensors["triangles"], *weights)
    else:
        raise BasisError(
            f"{source}: no such file or folder; expected ICT-FaceKit's folder FaceXModel or a basis file (.safetensors)"
        )
    return annotated(tensors, metadata, landmarks, str(source), name)


def annotated(
    tensors: dict[str, np.ndarray],
    metadata: dict[str, str],
    landmarks68: Int[np.ndarray, "68"] | Float[np.ndarray, "68 3"] | None,
    source: str,
    name: str | None = None,
) -> tuple[bytes, Report]:
    """The bytes of a basis file from its tensors and metadata, with the annotations that they lack, and how well our head and the model met.

    Args:
        landmarks68: as for :func:`fitjax.model.transfer.annotate`. source: for messages. name: of the model; default its own.

    Raises:
        BasisError: landmarks that are not the model's, or a mesh that is no head.
    """
    region = tensors.get("triangle_region")
    try:
        found = annotate(
            tensors["mean"].astype(float), tensors["triangles"], uv=tensors["uv"], uv_triangles=tensors["uv_triangles"],
            region=region if region is not None and region.any() else None, landmarks68=landmarks68,
        )  # fmt: skip
    except BasisError as error:
        raise BasisError(f"{source}: {error}") from None
    # What the file brings wins; a region of zeros only says that nobody looked.
    brought = {k: v for k, v in tensors.items() if k != "triangle_region" or v.any()}
    tensors = _tensors(found) | brought
    metadata = metadata | {"provenance": json.dumps(_provenance(metadata, found.report))}
    if name is not None:
        metadata["name"] = name
    return serialise({k: _plain(v) for k, v in tensors.items()}, metadata), found.report


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """A basis file as it is stored, after it has been checked."""
    basis = read_basis(path)
    if all(name in basis.samples for name in SETS) and basis.uv_parts.size > 1:
        raise BasisError(f"basis {path}: has landmarks and parts already; nothing to annotate")
    tensors, metadata, _ = read_tensor_file(path, "basis", FORMAT)
    return tensors, metadata


def _tensors(found: Annotation) -> dict[str, np.ndarray]:
    tensors = {"triangle_region": found.triangle_region}
    for name, (triangle, barycentric) in found.samples.items():
        tensors |= {f"samples.{name}.triangle": triangle, f"samples.{name}.barycentric": barycentric}
    if found.uv_parts is not None:
        tensors["uv_parts"] = found.uv_parts
    if found.uv_embedded is not None:
        tensors["uv_embedded"] = np.rint(found.uv_embedded.clip(0, 1) * UV_STEPS).astype(np.int16)
    return tensors | {f"pose_frame.{k}": v for k, v in found.pose_frames.items()}


def _provenance(metadata: dict[str, str], report: Report) -> dict[str, object]:
    """The model's own, and where the annotations come from."""
    figures = {
        k: round(float(getattr(report, k)), 4) for k in ("residual", "residual_90", "held", "moved", "landmarks")
    }
    known = {k: v for k, v in figures.items() if np.isfinite(v)}
    ours = read_basis(find_models()[EMBEDDED])
    added = {"from": EMBEDDED, "sha256": ours.sha256, "licence": ours.licence, "figures_mm": known}
    return {**json.loads(metadata.get("provenance", "{}")), "annotations": added}


def _plain(value: np.ndarray) -> np.ndarray:
    """In one of the dtypes of the format."""
    if value.dtype.name in ("float32", "int32", "int16", "uint8"):
        return value
    return value.astype(np.float32 if value.dtype.kind == "f" else np.int32)
