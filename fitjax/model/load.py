"""From a basis file to a model at a chosen mesh density."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from importlib import resources
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from fitjax.errors import BasisError
from fitjax.geometry.surface import make_samples
from fitjax.model.basis_file import Basis, read_basis
from fitjax.model.linear import LinearModel, slice_basis
from fitjax.model.skinned import skinned_model
from fitjax.model.skinned_file import refine_rig
from fitjax.model.subdivision import loop_subdivision, refine_mirror, refine_samples, refine_uv
from fitjax.model.tensor_file import tensor_format

#: Sets that a loaded model has sliced unless others are asked for.
DEFAULT_SAMPLE_SETS = ("ibug68", "aflw68", "aflw68_original", "mediapipe478", "contour68")

EMBEDDED = "embedded"

#: The shipped nonlinear model's name, and the format of files like it (:mod:`fitjax.model.nonlinear_file`).
NONLINEAR, NONLINEAR_FORMAT = "nonlinear", "fitjax-nonlinear/1"


def user_models_folder() -> Path:
    """Where the user's own models live: ``$FITJAX_MODELS``, else ``fitjax/models`` in the user's data folder."""
    if os.environ.get("FITJAX_MODELS"):
        return Path(os.environ["FITJAX_MODELS"])
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "fitjax" / "models"


def find_models() -> dict[str, Path]:
    """Name → file of the embedded model and of those in the user's folder."""
    found = {EMBEDDED: Path(str(resources.files("fitjax") / "data" / "embedded.safetensors"))}
    folder = user_models_folder()
    if folder.is_dir():
        found.update({p.stem: p for p in sorted(folder.glob("*.safetensors")) if p.stem != EMBEDDED})
    return found


def refine(basis: Basis) -> Basis:
    """The basis on the mesh after one Loop subdivision; landmarks, parts, UVs and the mirror map are carried along."""
    step = loop_subdivision(basis.triangles, len(basis.mean))
    n_modes = len(basis.identity) + len(basis.expression)
    # One sparse product for the mean and all modes: columns are (mode, xyz).
    columns = np.concatenate([basis.mean[None], basis.identity, basis.expression]).transpose(1, 0, 2)
    refined = (step.matrix.astype(np.float32) @ columns.reshape(len(basis.mean), -1)).reshape(-1, n_modes + 1, 3)
    refined = np.ascontiguousarray(refined.transpose(1, 0, 2))
    uv, uv_triangles = refine_uv(basis.uv, basis.uv_triangles)
    return replace(
        basis,
        mean=refined[0],
        identity=refined[1 : 1 + len(basis.identity)],
        expression=refined[1 + len(basis.identity) :],
        triangles=step.triangles,
        uv=uv,
        uv_triangles=uv_triangles,
        triangle_region=np.repeat(basis.triangle_region, 4),
        mirror=refine_mirror(basis.mirror, step.edges),
        samples={k: refine_samples(*v) for k, v in basis.samples.items()},
        rig=None if basis.rig is None else refine_rig(basis.rig, step.matrix),
    )


def linear_model(basis: Basis, level: int = 0, sample_sets: Iterable[str] | None = None) -> LinearModel:
    """The model of a basis as it is, a :class:`fitjax.model.skinned.SkinnedModel` if it has joints; ``level`` only labels it. ``sample_sets``: which
    sets are sliced (default: landmarks)."""
    library = {k: make_samples(t, b, len(basis.triangles), f"samples.{k}") for k, (t, b) in basis.samples.items()}
    names = [k for k in DEFAULT_SAMPLE_SETS if k in library] if sample_sets is None else list(sample_sets)
    modes = np.concatenate([basis.identity, basis.expression])
    model = LinearModel(
        mean=jnp.asarray(basis.mean),
        modes=jnp.asarray(modes.reshape(len(modes), -1)),
        expression_sigma=jnp.asarray(basis.expression_sigma),
        expression_lower=jnp.asarray(basis.expression_lower),
        expression_upper=jnp.asarray(basis.expression_upper),
        triangles=jnp.asarray(basis.triangles),
        uv=jnp.asarray(basis.uv),
        uv_triangles=jnp.asarray(basis.uv_triangles),
        triangle_region=jnp.asarray(basis.triangle_region),
        mirror=jnp.asarray(basis.mirror),
        uv_parts=jnp.asarray(basis.uv_parts),
        sampled={},
        sample_library=library,
        pose_frames={k: jnp.asarray(v) for k, v in basis.pose_frames.items()},
        name=basis.name,
        basis_sha256=basis.sha256,
        level=level,
        expression_names=basis.expression_names,
        licence=basis.licence,
    )
    unknown = [k for k in names if k not in library]
    if unknown:
        raise BasisError(f"sample sets {unknown}: expected some of {', '.join(library)}")
    model = replace(model, sampled={k: slice_basis(model, library[k]) for k in names})
    return model if basis.rig is None else skinned_model(model, basis.rig)


def model_path(name_or_path: str | Path) -> Path:
    """The file of a model: by name (the embedded one, or one in the user's folder), else the path itself.

    Raises:
        BasisError: a name that is not known.
    """
    models = find_models()
    text = str(name_or_path)
    if text in models:
        return models[text]
    if Path(text).suffix or os.sep in text or Path(text).is_file():
        return Path(text)
    raise BasisError(
        f"model {text!r}: not found; known models: {', '.join(models)}; give the path of a basis file, or import one with `fitjax basis import`"
    )


def is_nonlinear(name_or_path: str | Path) -> bool:
    """Whether this names a nonlinear model: the shipped one, or a file that `fitjax train decoder` wrote."""
    if str(name_or_path) == NONLINEAR:
        return True
    path = Path(name_or_path)
    return path.suffix == ".safetensors" and path.is_file() and tensor_format(path) == NONLINEAR_FORMAT


def load_basis(
    name_or_path: str | Path = EMBEDDED, level: int = 1, *, sample_sets: Iterable[str] | None = None
) -> LinearModel:
    """Load a face model by name or from a file.

    Args:
        name_or_path: ``"embedded"``, the name of a model in the user's folder, or a path to a basis file.
        level: how many times the stored mesh is subdivided: 0, 1 (the default, about 18,000 vertices for the embedded one) or 2.
        sample_sets: the surface sample sets to slice; by default the landmark sets.

    Raises:
        BasisError: no such model, a damaged file, or a level other than 0, 1, 2.
    """
    if level not in (0, 1, 2):
        raise BasisError(f"level: expected 0, 1 or 2, found {level!r}")
    if is_nonlinear(name_or_path):
        # Imported here: most fits need no network.
        from fitjax.model.nonlinear import load_nonlinear

        return load_nonlinear(name_or_path, level, sample_sets).shape
    basis = read_basis(model_path(name_or_path))
    for _ in range(level):
        basis = refine(basis)
    return linear_model(basis, level, sample_sets)
