"""The pool of portraits that the image network is trained on: drawn once, kept as plain arrays in shards, read in any order.

Drawing a portrait takes longer than a step of training takes for one, so each is seen several times, spoilt differently each time
(:mod:`fitjax.train.image_augment`). A shard holds :data:`SHARD` portraits, one ``.npy`` file per field; pictures of texture coordinates, depth and
labels have half the resolution.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from fitjax.errors import FitjaxError
from fitjax.files.atomic import atomic_write_bytes, atomic_write_text
from fitjax.geometry.rotation import rotation_between_rays, safe_normalise
from fitjax.render.texture import sample_texture
from fitjax.synth.draw import Sample, SynthModel, draw
from fitjax.synth.settings import SynthSettings, check_settings
from fitjax.train.generator import generator_hash

SHARD = 250
FORMAT, TABLE = "fitjax-pool/1", "pool.json"
#: Bits of the label pictures above the label itself: the head's surface; the face with nothing in front; its skin, one chart of the texture.
LABEL_BITS, HEAD_BIT, VISIBLE_BIT, SKIN_BIT = 15, 16, 32, 64
#: In the order in which a shard's files are written: where the last lies the shard is complete.
FIELDS = ("image", "uv", "depth", "labels", "identity", "expression", "rotation", "place", "points", "hidden")
#: Portraits for training: nearer to photographs than the ranges of `fitjax synth`. Half of the yaws are below 32°, a quarter beyond 58°.
POOL = SynthSettings(
    size=128, roll=35.0, bend=1.5, share_low=0.55, share_high=0.85, jitter=0.04, view_low=5.0, view_high=28.0,
    expression=0.45, glasses=0.2, mask=0.05, hand=0.15, thing=0.12, blur=1.2, noise=0.02, quality=45.0,
)  # fmt: skip


def packed(model: SynthModel, sample: Sample) -> dict[str, Array]:
    """What the pool keeps of a portrait of S × S pixels.

    ``image`` (S, S, 3) uint8; at every second pixel ``uv`` uint16 (65535 is 1), ``depth`` float16, metres behind the head's origin, and ``labels``
    uint8 with bits; ``rotation`` (3, 3) of the head against the ray through the middle of its landmarks; ``place`` (3,) pixel of the head's origin
    and pixels per metre there; ``points`` (68, 2) pixels of ``aflw68`` and ``hidden`` (68,).
    """
    t, camera = sample.params["pose"]["translation"], sample.camera
    points = sample.pixels["aflw68"]
    ray = jnp.concatenate([(points.mean(0) - camera.centre) / camera.focal, jnp.ones(1)])
    turn = rotation_between_rays(jnp.array([0.0, 0.0, 1.0]), safe_normalise(ray))
    rotation = jnp.matmul(turn.T, sample.params["pose"]["rotation"], precision="highest")
    place = jnp.concatenate([camera.focal * t[:2] / t[2] + camera.centre, camera.focal[:1] / t[2]])
    skin = sample.visible & (sample_texture(model.face_map[..., None], sample.uv)[..., 0] > 0.5)
    labels = sample.labels + HEAD_BIT * sample.head + VISIBLE_BIT * sample.visible + SKIN_BIT * skin
    half = np.s_[::2, ::2]
    return {
        "image": jnp.round(jnp.clip(sample.image, 0, 1) * 255).astype(jnp.uint8),
        "uv": jnp.round(sample.uv[half] * 65535).astype(jnp.uint16),
        "depth": jnp.where(sample.head[half], sample.depth[half] - t[2], 0).astype(jnp.float16),
        "labels": labels[half].astype(jnp.uint8),
        "identity": sample.params["identity"], "expression": sample.params["expression"], "rotation": rotation, "place": place,
        "points": points, "hidden": sample.hidden["aflw68"],
    }  # fmt: skip


@partial(jax.jit, static_argnames=("count", "settings"))
def draw_packed(model: SynthModel, seed: Any, first: Any, count: int, settings: SynthSettings) -> dict[str, Array]:
    """Portraits ``first`` to ``first + count`` of a seed; portrait *i* does not depend on the others."""
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(first + jnp.arange(count))
    return jax.lax.map(lambda key: packed(model, draw(model, key, settings)), keys)


def pool_about(model: SynthModel, settings: SynthSettings, seed: int, shard: int) -> dict[str, Any]:
    """What decides a pool's portraits."""
    about = {"format": FORMAT, "seed": seed, "shard": shard, "settings": dataclasses.asdict(settings)}
    return about | {"basis_sha256": model.shape.basis_sha256, "albedo_generator": generator_hash()}


def _file(folder: Path, shard: int, field: str) -> Path:
    return folder / f"{shard:05d}.{field}.npy"


def _complete(folder: Path) -> int:
    """Shards that are complete, counted from the first."""
    count = 0
    while _file(folder, count, FIELDS[-1]).is_file():
        count += 1
    return count


def portraits_in(folder: Path) -> int:
    """How many portraits the complete shards of a folder hold; 0 where there is no pool."""
    table = folder / TABLE
    return _complete(folder) * int(json.loads(table.read_text())["shard"]) if table.is_file() else 0


def draw_pool(
    model: SynthModel,
    settings: SynthSettings,
    folder: Path,
    count: int,
    *,
    seed: int = 0,
    batch: int = 10,
    size: int = SHARD,
    progress: Callable[[int], Any] | None = None,
) -> None:
    """Draw until the folder holds at least ``count`` portraits, whole shards of them; what is there stays.

    Args:
        size: portraits per shard, a multiple of ``batch``. progress: called with the number of portraits after each shard; True stops.

    Raises:
        FitjaxError: settings that cannot be drawn, or a folder with a pool of other settings.
    """
    check_settings(settings)
    folder.mkdir(parents=True, exist_ok=True)
    text, table = json.dumps(pool_about(model, settings, seed, size), indent=2) + "\n", folder / TABLE
    if table.is_file() and table.read_text() != text:
        raise FitjaxError(f"train image: {folder} holds portraits of other settings ({table.name}); give another folder")
    atomic_write_text(table, text)
    shard = _complete(folder)
    while shard * size < count:
        parts = [jax.device_get(draw_packed(model, seed, shard * size + k, batch, settings)) for k in range(0, size, batch)]
        for name in FIELDS:
            buffer = io.BytesIO()
            np.save(buffer, np.concatenate([p[name] for p in parts]), allow_pickle=False)
            atomic_write_bytes(_file(folder, shard, name), buffer.getvalue())
        shard += 1
        if progress is not None and progress(shard * size) is True:
            return


class Pool:
    """The portraits of a folder, read from its files as they are asked for."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            FitjaxError: the folder holds no complete shard, or a damaged one.
        """
        shards = _complete(folder)
        if not shards or not (folder / TABLE).is_file():
            raise FitjaxError(f"train image: {folder}: expected portraits ({_file(folder, 0, FIELDS[0]).name}, ...), found none; draw them first")
        try:
            self.about: dict[str, Any] = json.loads((folder / TABLE).read_text())
            self._size = int(self.about["shard"])
            self._arrays = {n: [np.load(_file(folder, k, n), mmap_mode="r", allow_pickle=False) for k in range(shards)] for n in FIELDS}
        except (OSError, ValueError, KeyError) as error:
            raise FitjaxError(f"train image: {folder}: a damaged shard ({error}); delete the folder and draw again") from None
        self.count = shards * self._size

    def take(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """The portraits ``index`` (B,), each field with a leading axis."""
        return {name: np.stack([arrays[i // self._size][i % self._size] for i in index]) for name, arrays in self._arrays.items()}
