"""Files of lifted nonlinear models, `fitjax-nonlinear/1` (docs/nonlinear.md): packed components, spreads, weights of the networks, provenance."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from fitjax.errors import BasisError
from fitjax.files.atomic import atomic_write_bytes
from fitjax.model.load import EMBEDDED, load_basis
from fitjax.model.load import NONLINEAR_FORMAT as FORMAT
from fitjax.model.nonlinear import NonlinearModel, nonlinear_model
from fitjax.model.nonlinear_albedo import LiftedAlbedo
from fitjax.model.nonlinear_codec import decode_maps, encode_maps
from fitjax.model.nonlinear_conv_file import assemble_conv
from fitjax.model.nonlinear_shape import extended_shape
from fitjax.model.nonlinear_weights import nest_weights
from fitjax.model.occlusion import default_occlusion
from fitjax.model.tensor_file import read_tensor_file
from fitjax.networks.conv import Region
from fitjax.networks.lift import LiftScales

SHIPPED = "nonlinear.safetensors"

#: Rounding of a component's unit on a face, sRGB: 400 of them add noise of less than 0.1 / 255; 0.05 cost a tenth of the accuracy at 160 codes.
STEP = 0.02 / 255


def pack_albedo(
    mean: np.ndarray, modes: np.ndarray, sigma: np.ndarray, is_odd: np.ndarray, weight: np.ndarray, rows: int, step: float = STEP
) -> dict[str, np.ndarray]:
    """Tensors of the components (R, H, W, 3) of sRGB maps, folded about their middle column in the first ``rows`` rows."""
    half = modes.shape[2] // 2
    scaled = modes * sigma[:, None, None, None]
    parts = {"even": scaled[~is_odd][:, :rows, :half], "odd": scaled[is_odd][:, :rows, :half], "rest": scaled[~is_odd][:, rows:]}
    packed = {f"albedo.{name}": encode_maps(part, step) if part.size else np.zeros(0, np.uint8) for name, part in parts.items()}
    return packed | {
        "albedo.mean": np.round(np.clip(mean, 0, 1) * 65535).astype(np.uint16),
        "albedo.sigma": sigma.astype(np.float32),
        "albedo.is_odd": is_odd.astype(np.uint8),
        "albedo.texel_weight": np.round(weight / weight.max() * 255).astype(np.uint8),
    }


def pack_local(modes: tuple[np.ndarray, ...], sigma: np.ndarray, spreads: np.ndarray, step: float = STEP) -> dict[str, np.ndarray]:
    """Tensors of local components, per region (n, h, w, 3), with their spreads (L,) after those of the whole face, ``spreads``."""
    packed, first = {}, 0
    for k, part in enumerate(modes):
        packed[f"albedo.local{k}"] = encode_maps(part * sigma[first : first + len(part), None, None, None], step)
        first += len(part)
    return packed | {"albedo.sigma": np.concatenate([spreads, sigma]).astype(np.float32)}


def unpack_local(tensors: dict[str, np.ndarray], regions: tuple[Region, ...], counts: tuple[int, ...], step: float) -> tuple[np.ndarray, ...]:
    """The inverse: per region (n, h, w, 3)."""
    sigma = tensors["albedo.sigma"][-sum(counts) :]
    found, first = [], 0
    for k, ((_, _, height, width), count) in enumerate(zip(regions, counts)):
        part = decode_maps(tensors[f"albedo.local{k}"], count, height, width, step)
        found.append((part / sigma[first : first + count, None, None, None]).astype(np.float32))
        first += count
    return tuple(found)


def unpack_albedo(tensors: dict[str, np.ndarray], rows: int, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean (H, W, 3) and components (R, H, W, 3) in sRGB, float32."""
    mean = tensors["albedo.mean"].astype(np.float32) / 65535
    height, width = mean.shape[:2]
    is_odd = tensors["albedo.is_odd"].astype(bool)
    sigma = tensors["albedo.sigma"][: len(is_odd)]
    half = width // 2
    modes = np.zeros((len(sigma), height, width, 3), np.float32)
    for name, chosen, sign in (("even", ~is_odd, 1.0), ("odd", is_odd, -1.0)):
        if rows and chosen.any():
            part = decode_maps(tensors[f"albedo.{name}"], int(chosen.sum()), rows, half, step)
            modes[chosen, :rows, :half] = part
            modes[chosen, :rows, half:] = sign * part[:, :, ::-1]
    if rows < height:
        modes[~is_odd, rows:] = decode_maps(tensors["albedo.rest"], int((~is_odd).sum()), height - rows, width, step)
    return mean, modes / sigma[:, None, None, None]


def write_nonlinear(path: Path, tensors: dict[str, np.ndarray], settings: dict[str, Any], provenance: dict[str, Any], kind: str = "lift") -> None:
    """Write a model file completely or not at all.

    Args:
        tensors: of a lift those of :func:`pack_albedo`, with ``albedo.filter``, ``shape.sigma``, ``shape.filter``, ``shape.to_modes`` and weights;
            of a ``conv`` see :mod:`fitjax.model.nonlinear_conv_file`.
        settings: ``basis``, ``basis_sha256``, of a lift ``rows``, ``step``, and per ``albedo`` and ``shape`` those of the network.
    """
    metadata = {
        "format": FORMAT,
        "kind": kind,
        "licence": "CC0-1.0",
        "settings": json.dumps(settings, sort_keys=True),
        "provenance": json.dumps(provenance, sort_keys=True),
    }
    contiguous = {name: np.ascontiguousarray(value) for name, value in sorted(tensors.items())}
    atomic_write_bytes(path, safetensors.numpy.save(contiguous, metadata))


def shipped_nonlinear() -> Path:
    """The file that comes with fitjax."""
    return Path(str(resources.files("fitjax") / "data" / SHIPPED))


class NonlinearFacts(NamedTuple):
    """What a file says of its model, without building it: kind, lengths of both codes, the basis it is over, licence and hash."""

    kind: str
    identity: int
    albedo: int
    basis: str
    licence: str
    sha256: str


def describe_nonlinear(path: str | Path | None = None) -> NonlinearFacts:
    """The facts of a file, default the shipped one.

    Raises:
        BasisError: no such file, or a damaged one.
    """
    path = shipped_nonlinear() if path is None else Path(path)
    if not path.is_file():
        raise BasisError(f"nonlinear model {path}: no such file")
    _, metadata, sha256 = read_tensor_file(path, "nonlinear model", FORMAT, remedy="train it again or reinstall")
    try:
        settings = json.loads(metadata["settings"])
        lengths = (int(settings["shape"]["code_length"]), int(settings["albedo"]["code_length"]))
        return NonlinearFacts(metadata["kind"], *lengths, str(settings["basis"]), metadata.get("licence", "unknown"), sha256)
    except (KeyError, ValueError, TypeError) as error:
        raise BasisError(f"nonlinear model {path}: field {error} is missing or damaged; train it again or reinstall") from None


def read_nonlinear(path: str | Path | None = None, level: int = 1, sample_sets: Iterable[str] | None = None) -> NonlinearModel:
    """The model of a file; see :func:`fitjax.model.nonlinear.load_nonlinear`.

    Raises:
        BasisError: no such file, a damaged one, or one trained for another basis.
    """
    path = shipped_nonlinear() if path is None else Path(path)
    if not path.is_file():
        raise BasisError(f"nonlinear model {path}: no such file; expected a {FORMAT} file, as `fitjax train decoder` writes")
    tensors, metadata, _ = read_tensor_file(path, "nonlinear model", FORMAT, remedy="train it again or reinstall")
    try:
        settings = json.loads(metadata["settings"])
        linear = load_basis(settings["basis"], level, sample_sets=sample_sets)
        if linear.basis_sha256 != settings["basis_sha256"]:
            hashes = settings["basis_sha256"][:12], linear.basis_sha256[:12]
            raise BasisError(f"was trained for the basis {settings['basis']!r} of {hashes[0]}, found {hashes[1]}; train it again")
        for name, value in tensors.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise ValueError(f"field {name!r} holds values that are not finite")
        occlusion = default_occlusion() if settings["basis"] == EMBEDDED else None
        kind = metadata["kind"]
        if kind == "conv":
            return nonlinear_model(*assemble_conv(tensors, settings, linear), occlusion)
        if kind != "lift":
            raise BasisError(f"expected kind 'lift' or 'conv', found {kind!r}; a newer fitjax may read it")
        return _assemble(tensors, settings, linear, occlusion)
    except KeyError as error:
        raise BasisError(f"nonlinear model {path}: field {error} is missing; train it again or reinstall") from None
    except (ValueError, TypeError) as error:
        raise BasisError(f"nonlinear model {path}: {error}; train it again or reinstall") from None
    except BasisError as error:
        raise BasisError(f"nonlinear model {path}: {error}") from None


def _assemble(tensors: dict[str, np.ndarray], settings: dict[str, Any], linear: Any, occlusion: Any) -> NonlinearModel:
    mean, modes = unpack_albedo(tensors, int(settings["rows"]), float(settings["step"]))
    height, width = mean.shape[:2]
    rank = len(modes)
    weight = tensors["albedo.texel_weight"].astype(np.float32).reshape(-1)
    about = settings["albedo"]
    regions: tuple[Region, ...] = tuple(tuple(int(n) for n in box) for box in about.get("regions", ()))  # type: ignore[misc]
    counts = tuple(int(n) for n in about.get("local", ()))
    spreads = len(tensors["albedo.sigma"])
    if len(regions) != len(counts) or spreads != rank + sum(counts):
        raise ValueError(f"field 'albedo.sigma': expected {rank + sum(counts)} spreads of {len(regions)} regions, found {spreads}")
    local = unpack_local(tensors, regions, counts, float(settings["step"])) if counts else ()
    albedo = LiftedAlbedo(
        local_modes=tuple(jnp.asarray(part.reshape(len(part), -1)) for part in local),
        regions=regions,
        local=counts,
        mean=jnp.asarray(mean.reshape(-1, 3)),
        basis=jnp.asarray(modes.reshape(rank, -1)),
        scales=_scales(tensors, "albedo"),
        weights={"params": nest_weights(tensors, "albedo.decoder")},
        encoder={"params": nest_weights(tensors, "albedo.encoder")},
        texel_weight=jnp.asarray(weight / weight.sum()),
        # Components are orthonormal under the weight, up to their rounding.
        whitening=jnp.eye(rank),
        height=height,
        width=width,
        **_network(settings["albedo"]),
    )
    network: dict[str, Any] = {
        "scales": _scales(tensors, "shape"),
        "to_modes": jnp.asarray(tensors["shape.to_modes"], jnp.float32),
        "weights": {"params": nest_weights(tensors, "shape.decoder")},
        **_network(settings["shape"]),
    }
    if network["to_modes"].shape[1] != linear.n_identity + 1:
        raise ValueError(f"field 'shape.to_modes': expected {linear.n_identity + 1} columns, found {network['to_modes'].shape[1]}")
    return nonlinear_model(extended_shape(linear, **network), albedo, occlusion)


def _scales(tensors: dict[str, np.ndarray], part: str) -> LiftScales:
    """The filter's rows beyond the code are never read, and not stored."""
    sigma = jnp.asarray(tensors[f"{part}.sigma"], jnp.float32)
    return LiftScales(sigma, jnp.asarray(tensors[f"{part}.filter"], jnp.float32))


def _network(settings: dict[str, Any]) -> dict[str, int]:
    return {name: int(settings[name]) for name in ("code_length", "hidden", "depth")}
