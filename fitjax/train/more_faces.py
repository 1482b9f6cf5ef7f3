"""More faces than those that components were computed from, and what their components leave: coefficients alone, made and kept in chunks.

Short codes learn faces by heart: at 16 numbers a lift of 48,000 faces is a fifth better on those than on others. A face costs the generator some
milliseconds and its coefficients 3 kB, so there may be as many as there is time for.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from fitjax.errors import FitjaxError
from fitjax.files.atomic import atomic_write_bytes
from fitjax.model.albedo import default_albedo
from fitjax.model.load import EMBEDDED, load_basis
from fitjax.model.tensor_file import read_tensor_file
from fitjax.networks.conv import part_regions
from fitjax.render.lighting import srgb_from_linear
from fitjax.train.checkpoint import FORMAT
from fitjax.train.generator import albedo_batch, albedo_generator, generator_hash
from fitjax.train.local import LocalComponents, local_components
from fitjax.train.texels import texels_of

#: Faces per kept file, and at once; faces that local components are computed from, and components per region.
CHUNK, BATCH = 8000, 50
LOCAL_FACES, LOCAL_RANK = 2400, 96


def _drawer(faces: dict[str, np.ndarray]) -> Callable[[Any, int], tuple[jax.Array, jax.Array]]:
    """(first face, seed) → coefficients (BATCH, R) and the maps less their mean (BATCH, H, W, 3)."""
    height, width = faces["mean"].shape[:2]
    texels = texels_of(load_basis(EMBEDDED, 0, sample_sets=()), height, width)
    generator = albedo_generator(default_albedo().at(jnp.asarray(texels.uv)), texels)
    flat = jnp.asarray(faces["modes"].reshape(len(faces["modes"]), -1))
    reader = (flat * jnp.asarray(np.repeat(faces["weight"].ravel(), 3))).T
    mean = jnp.asarray(faces["mean"].ravel())

    @partial(jax.jit, static_argnames=("seed",))
    def draw(first: Any, seed: int) -> tuple[jax.Array, jax.Array]:
        away = srgb_from_linear(albedo_batch(generator, seed, first, BATCH)[1]).reshape(BATCH, -1) - mean
        return jnp.matmul(away, reader, precision="highest"), away.reshape(BATCH, height, width, 3)

    return draw


def _about(faces: dict[str, np.ndarray], seed: int) -> dict[str, Any]:
    spreads = np.asarray(faces["sigma"], float).round(6).tolist()
    return {"generator": generator_hash(), "seed": seed, "map": list(faces["mean"].shape[:2]), "sigma": spreads}


def _read(path: Path, about: dict[str, Any]) -> dict[str, np.ndarray]:
    tensors, metadata, _ = read_tensor_file(path, "faces", FORMAT, remedy="delete it to make it again")
    if json.loads(metadata["about"]) != about:
        raise FitjaxError(f"faces {path}: made from other components, another seed or generator; delete it to make it again")
    return tensors


def _write(path: Path, tensors: dict[str, np.ndarray], about: dict[str, Any]) -> None:
    whole = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    atomic_write_bytes(path, safetensors.numpy.save(whole, {"format": FORMAT, "about": json.dumps(about)}))


def make_local(faces: dict[str, np.ndarray], seed: int, folder: Path, count: int = LOCAL_FACES, rank: int = LOCAL_RANK) -> LocalComponents:
    """Local components of ``count`` faces around eyes, mouth and nose: read if the folder has them, else made and kept.

    Raises:
        FitjaxError: the folder's are of other faces or settings.
    """
    path, about = folder / "local.safetensors", _about(faces, seed) | {"analysed": count, "rank": rank}
    if path.is_file():
        kept = _read(path, about)
        regions = tuple(tuple(int(n) for n in box) for box in kept["regions"])
        numbered = [tuple(kept[f"{name}{k}"] for k in range(len(regions))) for name in ("modes", "reader")]
        return LocalComponents(regions, tuple(len(m) for m in numbered[0]), numbered[0], kept["sigma"], numbered[1])  # type: ignore[arg-type]
    height, width = faces["mean"].shape[:2]
    regions = part_regions(np.asarray(load_basis(EMBEDDED, 0, sample_sets=()).uv_parts), height, width, nose=True)
    draw, flat = _drawer(faces), jnp.asarray(faces["modes"].reshape(len(faces["modes"]), -1))

    def left(first: int, n: int) -> jax.Array:
        c, away = draw(first, seed)
        return (away - jnp.matmul(c, flat).reshape(away.shape))[:n]

    found = local_components(left, count, rank, faces["weight"], regions, BATCH)
    tensors = {"regions": np.asarray(regions, np.int32), "sigma": found.sigma}
    for k, (modes, reader) in enumerate(zip(found.modes, found.readers)):
        tensors |= {f"modes{k}": modes, f"reader{k}": reader}
    _write(path, tensors, about)
    return found


def more_faces(
    faces: dict[str, np.ndarray], local: LocalComponents, seed: int, folder: Path, count: int, say: Callable[[str], Any] = print
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of ``count`` training faces, (count, R) and local (count, L): read from the folder, or made and kept there, chunk by chunk.

    Args:
        faces: of :func:`fitjax.train.run.make_faces`; seed: theirs, or another for faces to measure on.

    Raises:
        FitjaxError: chunks in the folder belong to other faces.
    """
    about = _about(faces, seed) | {"local": np.asarray(local.sigma, float).round(8).tolist()}
    draw: Any = None
    # Both are linear: what the components leave need not be drawn.
    across = local.coefficients(jnp.asarray(faces["modes"]))
    read = jax.jit(lambda c, away: local.coefficients(away) - jnp.matmul(c, across, precision="highest"))
    parts = []
    for first in range(0, count, CHUNK):
        path = folder / f"faces_{seed}_{first:07d}.safetensors"
        if path.is_file():
            parts.append(_read(path, about))
            continue
        draw = draw or _drawer(faces)
        made = []
        for k in range(first, min(first + CHUNK, count), BATCH):
            c, away = draw(k, seed)
            made.append((np.asarray(c), np.asarray(read(c, away))))
        whole = {"coefficients": np.concatenate([m[0] for m in made]), "local": np.concatenate([m[1] for m in made])}
        if first + CHUNK <= count:
            _write(path, whole, about)
            say(f"coefficients of faces {first} to {first + CHUNK}")
        parts.append(whole)
    return tuple(np.concatenate([p[name] for p in parts])[:count] for name in ("coefficients", "local"))  # type: ignore[return-value]
