"""The albedo of a model that is not the embedded one: its own linear albedo, or ours in its texture.

A basis file may bring a linear albedo per vertex (``albedo_mean``, ``albedo``, ``albedo_scale``; the Basel models do), and an annotated one
knows where on our texture each of its texels lies (``uv_embedded``): there our pigments and our occlusion are read off.
"""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from fitjax.errors import BasisError
from fitjax.model.albedo import BiophysicalAlbedo, LinearAlbedo, bilinear, default_albedo
from fitjax.model.annotated_file import UV_STEPS
from fitjax.model.basis_file import FORMAT
from fitjax.model.occlusion import default_occlusion
from fitjax.model.tensor_file import read_tensor_file
from fitjax.pytree import replace

#: Side of the maps, texels.
SIZE = 256
#: Modes of a linear albedo that are used, the first ones: each is a map of 0.8 MB, and the last ones hold noise.
MODES = 80


def albedo_fields(path: Path) -> tuple[str, ...]:
    """Which of the two a basis file has, by the names of its fields; none without both."""
    try:
        import safetensors

        with safetensors.safe_open(str(path), framework="np") as handle:
            names = set(handle.keys())
    except Exception:  # a damaged file is explained by whoever reads it
        return ()
    return tuple(name for name in ("albedo_mean", "uv_embedded") if name in names)


def imported_albedo(path: Path) -> tuple[BiophysicalAlbedo | LinearAlbedo, Float[np.ndarray, "S S"] | None]:
    """Albedo in the model's texture, and occlusion where it is known: its own albedo if it brings one, else ours.

    Raises:
        BasisError: the file is damaged, or has neither; `fitjax basis annotate` adds ours.
    """
    tensors, metadata, _ = read_tensor_file(path, "basis", FORMAT)
    uv = _our_uv(path, tensors)
    occlusion = None
    if uv is not None:
        shadow = bilinear(jnp.asarray(default_occlusion())[None], jnp.asarray(uv.reshape(-1, 2)))
        occlusion = np.asarray(shadow).reshape(uv.shape[:2])
    if "albedo_mean" in tensors:
        return _linear(path, tensors, metadata), occlusion
    if uv is None:
        raise BasisError(f"basis {path}: has no albedo, and no place on our texture; `fitjax basis annotate` adds it to a basis file without")
    albedo = default_albedo().at(jnp.asarray(uv.reshape(-1, 2), jnp.float32))
    return replace(albedo, shape=uv.shape[:2]), occlusion


def _our_uv(path: Path, tensors: dict[str, np.ndarray]) -> Float[np.ndarray, "S S 2"] | None:
    value = tensors.get("uv_embedded")
    if value is None:
        return None
    if value.dtype != np.int16 or value.ndim != 3 or value.shape[0] != value.shape[1] or value.shape[2] != 2 or value.min(initial=0) < 0:
        raise BasisError(f"basis {path}: field 'uv_embedded': expected int16 (S, S, 2) from 0, found {value.dtype} {value.shape}")
    return value.astype(np.float32) / UV_STEPS


def _linear(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> LinearAlbedo:
    count = len(tensors["mean"])
    mean = tensors["albedo_mean"].astype(np.float32)
    modes, scale = tensors.get("albedo", np.zeros((0, count, 3), np.int16)), tensors.get("albedo_scale", np.zeros(0, np.float32))
    if mean.shape != (count, 3) or modes.shape[1:] != (count, 3) or scale.shape != (len(modes),):
        raise BasisError(f"basis {path}: fields 'albedo_mean', 'albedo', 'albedo_scale': expected ({count}, 3), (A, {count}, 3) and (A,)")
    if not np.isfinite(mean).all() or not np.isfinite(scale).all():
        raise BasisError(f"basis {path}: field 'albedo_mean' or 'albedo_scale': holds values that are not finite")
    if not len(modes):  # a mean alone: one code that changes nothing
        modes, scale = np.zeros((1, count, 3), np.int16), np.zeros(1, np.float32)
    modes = modes[:MODES].astype(np.float32) * scale[:MODES, None, None]
    albedo = LinearAlbedo(
        jnp.asarray(mean), jnp.asarray(modes), jnp.ones(len(modes)), per_vertex=True, srgb=metadata.get("albedo_space", "srgb") == "srgb"
    )
    return albedo.to_uv(tensors["uv"], tensors["uv_triangles"], tensors["triangles"], SIZE)
