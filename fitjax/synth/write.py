"""A dataset of portraits as files: per portrait a PNG and an .npz of its truth; a table of labels and settings; a contact sheet."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from fitjax.errors import FitjaxError
from fitjax.files.atomic import atomic_write_bytes, atomic_write_text
from fitjax.synth.draw import Sample, SynthModel, sample_batches
from fitjax.synth.settings import LABELS, SynthSettings, check_settings
from fitjax.train.generator import generator_hash

#: Portraits on a contact sheet, and in one of its rows.
SHEET, ROW = 64, 8


def to_uint8(image: np.ndarray) -> np.ndarray:
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def truth_arrays(sample: Sample) -> dict[str, np.ndarray]:
    """What the .npz of one portrait holds: float32, but ``labels`` uint8, ``head`` and ``visible`` bool, ``uv`` and ``depth`` float16."""
    arrays: dict[str, Any] = {k: sample.params[k] for k in ("identity", "expression", "light")}
    arrays |= {"rotation": sample.params["pose"]["rotation"], "translation": sample.params["pose"]["translation"]}
    arrays |= {"albedo": sample.albedo, "K": sample.camera.K, "pitch_yaw_roll": sample.pose}
    for name in sample.pixels:
        arrays |= {f"{name}.pixels": sample.pixels[name], f"{name}.points": sample.points[name], f"{name}.hidden": sample.hidden[name]}
    arrays |= {"head": sample.head, "visible": sample.visible}
    found = {k: np.asarray(v) for k, v in arrays.items()}
    return found | {
        "labels": np.asarray(sample.labels, np.uint8), "uv": np.asarray(sample.uv, np.float16), "depth": np.asarray(sample.depth, np.float16)
    }  # fmt: skip


def contact_sheet(images: np.ndarray) -> np.ndarray:
    """(N, S, S, 3) → rows of :data:`ROW`, white where there is none."""
    n, size = images.shape[:2]
    rows = -(-n // ROW)
    whole = np.full((rows * ROW, *images.shape[1:]), 255, np.uint8)
    whole[:n] = images
    return whole.reshape(rows, ROW, size, size, 3).transpose(0, 2, 1, 3, 4).reshape(rows * size, ROW * size, 3)


def write_dataset(
    model: SynthModel,
    settings: SynthSettings,
    folder: Path,
    count: int,
    *,
    seed: int = 0,
    batch: int = 8,
    progress: Callable[[int], Any] | None = None,
) -> Path:
    """Write ``count`` portraits: NNNNNN.png and NNNNNN.npz, ``dataset.json``, and ``sheet.png`` of the first 64. Returns the sheet's path.

    A folder that holds some of the same dataset is completed; portraits do not depend on how many are drawn at a time.

    Raises:
        FitjaxError: settings that cannot be drawn, no portrait asked for, or a folder that holds another dataset.
    """
    check_settings(settings)
    if count < 1:
        raise FitjaxError(f"synth: count: expected at least 1, found {count}")
    about = {"format": "fitjax-synth/1", "labels": LABELS, "seed": seed, "settings": dataclasses.asdict(settings)}
    about |= {"basis_sha256": model.shape.basis_sha256, "albedo_generator": generator_hash()}
    table = folder / "dataset.json"
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(about, indent=2) + "\n"
    if table.is_file() and table.read_text() != text:
        raise FitjaxError(f"synth: {folder} holds a dataset of other settings ({table.name}); give another folder")
    atomic_write_text(table, text)
    first = 0
    while first < count and all((folder / f"{first:06d}{end}").is_file() for end in (".png", ".npz")):
        first += 1
    for samples in sample_batches(model, settings, seed=seed, batch=batch, first=first):
        if first >= count:
            break
        host = jax.device_get(samples)
        for i in range(min(batch, count - first)):
            one = jax.tree.map(lambda x, i=i: x[i], host)
            buffer = io.BytesIO()
            np.savez_compressed(buffer, allow_pickle=False, **truth_arrays(one))
            atomic_write_bytes(folder / f"{first + i:06d}.npz", buffer.getvalue())
            # The picture last: where it lies the truth is complete.
            atomic_write_bytes(folder / f"{first + i:06d}.png", png(to_uint8(one.image)))
        first += min(batch, count - first)
        if progress is not None:
            progress(first)
    shown = [np.asarray(Image.open(folder / f"{i:06d}.png")) for i in range(min(count, SHEET))]
    atomic_write_bytes(folder / "sheet.png", png(contact_sheet(np.stack(shown))))
    return folder / "sheet.png"
