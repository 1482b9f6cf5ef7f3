"""`fitjax train decoder --network conv`: the paper's global-local network on the faces of stage 1, albedo and identity → a model file.

The folder holds the same faces as one of the lift, so both networks can be trained in one place on the same data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy.ndimage import map_coordinates

from fitjax.errors import FitjaxError
from fitjax.model.load import EMBEDDED, load_basis
from fitjax.model.nonlinear_conv_file import conv_network, conv_tensors
from fitjax.model.nonlinear_file import write_nonlinear
from fitjax.networks.conv import part_regions
from fitjax.render.uv import uv_points
from fitjax.train.conv import ConvSettings, MapFaces, map_faces, train_conv
from fitjax.train.generator import generator_hash
from fitjax.train.generator_shape import random_identities
from fitjax.train.run import HELD_OUT, IDENTITIES, PRESETS, DecoderSettings, Progress, make_faces
from fitjax.train.shapes import IdentityComponents, identity_components
from fitjax.train.texels import texel_centres

#: Millimetres per unit of the map of shapes, and how far its tanh lets it go, in units (the paper's 2).
SHAPE_SCALE, SHAPE_LIMIT = 20.0, 2.0
#: Side of the square map on which displacements are placed before they are read at the texels.
_FINE = 256


@dataclass(frozen=True)
class ConvRun:
    """What `fitjax train decoder --network conv` makes.

    Attributes:
        faces: size of the maps, faces, rank, interval and seed as for the lift; its lifts are not used. halvings: of the maps that the networks draw.
        albedo, shape: of the two networks; boxes of local paths are found from the basis's part masks where ``local`` is true.
    """

    faces: DecoderSettings = PRESETS["full"]
    halvings: int = 0
    local: bool = True
    albedo: ConvSettings = field(default_factory=lambda: ConvSettings(batch=32, steps=100_000))
    shape: ConvSettings = field(default_factory=lambda: ConvSettings(code_length=80, batch=32, steps=40_000))


_SMALL = ConvSettings(code_length=32, first=64, local_first=48, channels=(48, 32, 24, 16), local_channels=(32, 24, 16), batch=8, steps=600)

#: Sizes of the command line: the paper's network at 192 × 224, for a GPU; and one of minutes on two cores.
CONV_PRESETS = {"full": ConvRun(), "small": ConvRun(replace(PRESETS["small"], interval=100), albedo=_SMALL, shape=_SMALL)}


def paper_at_half(steps: int, shape_steps: int, batch: int = 8) -> ConvRun:
    """The paper's widths at 96 × 112, for a CPU: one doubling fewer."""
    base = ConvSettings(channels=(96, 64, 32, 16), batch=batch)
    faces = replace(PRESETS["full"], interval=100)
    return ConvRun(faces, 1, albedo=replace(base, steps=steps), shape=replace(base, code_length=80, steps=shape_steps))


def conv_with_steps(run: ConvRun, steps: int | None, seed: int | None) -> ConvRun:
    """The run with another number of steps of both networks, or another seed."""
    if steps is not None:
        run = replace(run, albedo=replace(run.albedo, steps=steps), shape=replace(run.shape, steps=steps))
    return run if seed is None else replace(run, faces=replace(run.faces, seed=seed))


def network_settings(run: ConvRun, model: Any) -> dict[str, ConvSettings]:
    """Both networks with the boxes of their local paths; the shape's units and limit, and no symmetry: x turns its sign there."""
    height, width = run.faces.height >> run.halvings, run.faces.width >> run.halvings
    parts = np.asarray(model.uv_parts)
    boxes = {part: part_regions(parts, height, width, nose=part == "shape") if run.local else () for part in ("albedo", "shape")}
    return {
        "albedo": replace(run.albedo, regions=boxes["albedo"], seed=run.faces.seed),
        "shape": replace(run.shape, regions=boxes["shape"], seed=run.faces.seed, scale=SHAPE_SCALE, limit=SHAPE_LIMIT, symmetry=0.0),
    }


def albedo_faces(faces: dict[str, np.ndarray], halvings: int) -> MapFaces:
    """The generated albedo (sRGB) of :func:`fitjax.train.run.make_faces`."""
    return map_faces(faces["mean"], faces["modes"], faces["weight"], faces["sigma"], halvings)


def shape_faces(model: Any, shapes: IdentityComponents, weight: np.ndarray) -> MapFaces:
    """Displacements from the mean face, millimetres, on maps as large as ``weight`` (H, W): each component of identities placed in texture space."""
    height, width = weight.shape
    points = uv_points(np.asarray(model.uv), np.asarray(model.uv_triangles), _FINE)
    corners = np.asarray(model.triangles)[points.triangle]
    k = model.n_identity
    modes = 1000 * shapes.to_modes[:, :k] @ np.asarray(model.modes)[:k]
    uv = texel_centres(height, width)
    at = np.stack([(1 - uv[:, 1]) * _FINE - 0.5, uv[:, 0] * _FINE - 0.5])
    placed = []
    for mode in modes.reshape(len(modes), -1, 3):
        fine = np.einsum("hwk,hwkc->hwc", points.barycentric, mode[corners])
        read = [map_coordinates(fine[..., axis], at, order=1, mode="nearest") for axis in range(3)]
        placed.append(np.stack(read, -1).reshape(height, width, 3))
    return map_faces(np.zeros((height, width, 3)), np.stack(placed), weight, shapes.sigma)


def check_run(run: ConvRun) -> None:
    """Raises FitjaxError, naming the setting, for one that cannot work."""
    for name in ("albedo", "shape"):
        settings: ConvSettings = getattr(run, name)
        for key in ("code_length", "steps", "batch", "first", "local_first"):
            if getattr(settings, key) < 1:
                raise FitjaxError(f"train decoder: {name} {key}: expected at least 1, found {getattr(settings, key)}")
        factor = 2 ** (len(settings.channels) + run.halvings)
        if run.faces.height % factor or run.faces.width % factor:
            found = f"{run.faces.height} × {run.faces.width}"
            raise FitjaxError(f"train decoder: maps of {found}: expected multiples of {factor}, 2 to the number of {name} layers and halvings")
        if settings.channels[-1] != settings.local_channels[-1] and run.local:
            raise FitjaxError(f"train decoder: {name} channels: expected both paths to end in as many, found {settings.channels[-1]} and other")


def train_conv_decoder(
    run: ConvRun,
    folder: Path,
    identities: tuple[np.ndarray, np.ndarray] | None = None,
    progress: Progress | None = None,
    say: Callable[[str], Any] = print,
) -> Path | None:
    """Make or continue everything in ``folder``; returns the model file ``model_conv.safetensors``, or None if ``progress`` stopped the training.

    Arguments and errors as for :func:`fitjax.train.run.train_decoder`.
    """
    check_run(run)
    faces = make_faces(run.faces, folder, say)
    model = load_basis(EMBEDDED, 0, sample_sets=())
    if identities is None:
        identities = random_identities(model.n_identity, max(run.faces.faces, IDENTITIES), run.faces.seed)
    shapes = identity_components(model, *identities)
    others = random_identities(model.n_identity, HELD_OUT, run.faces.seed + 1)
    coefficients = [np.concatenate([i, a[:, None]], 1) @ shapes.from_modes for i, a in (identities, others)]
    albedo = albedo_faces(faces, run.halvings)
    height, width = albedo.mean.shape[:2]
    maps = {"albedo": albedo, "shape": shape_faces(model, shapes, np.asarray(albedo.weight))}
    data = {"albedo": (faces["coefficients"], faces["held_out"]), "shape": (coefficients[0], coefficients[1])}
    people = hashlib.sha256(b"".join(np.ascontiguousarray(x, np.float32).tobytes() for x in identities)).hexdigest()
    networks = network_settings(run, model)
    tensors: dict[str, np.ndarray] = {"albedo.mean": np.round(np.clip(np.asarray(albedo.mean), 0, 1) * 65535).astype(np.uint16)}
    settings: dict[str, Any] = {"basis": EMBEDDED, "basis_sha256": model.basis_sha256}
    provenance: dict[str, Any] = {}
    for part, network in networks.items():
        if network.code_length > len(maps[part].sigma):
            raise FitjaxError(f"train decoder: {part} code of {network.code_length}: expected at most {len(maps[part].sigma)}, its components")
    for part, network in networks.items():
        about = {"generator": generator_hash(), "settings": repr(network), "faces": run.faces.faces, "rank": run.faces.rank, "identities": people}
        checkpoint = folder / f"conv_{part}.checkpoint.safetensors"
        state = train_conv(network, maps[part], *data[part], checkpoint, folder / "metrics.jsonl", about, run.faces.interval, progress)
        if int(state[2]) < network.steps:
            return None
        tensors |= conv_tensors(state[0]["decoder"], part)
        settings[part] = conv_network(network, height, width)
        provenance[part] = about
    provenance |= {"command": "fitjax train decoder --network conv", "hardware": f"{jax.device_count()} × {jax.devices()[0].device_kind}"}
    path = folder / "model_conv.safetensors"
    write_nonlinear(path, tensors, settings, provenance, kind="conv")
    return path
