"""What a lift of albedo learns from: components, spreads, coefficients of faces, and what its settings ask for besides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fitjax.errors import FitjaxError
from fitjax.networks.lift import LiftScales
from fitjax.train.lift import feature_metric, proxy_filter
from fitjax.train.local import LocalComponents
from fitjax.train.more_faces import LOCAL_FACES, LOCAL_RANK, make_local, more_faces


class AlbedoData(NamedTuple):
    """R components of the whole face, L local ones after them.

    Attributes:
        scales: of training. modes: (R + L, H, W, 3). data, held_out: coefficients (N, R + L). local: the local components, or None.
    """

    scales: LiftScales
    modes: np.ndarray
    data: np.ndarray
    held_out: np.ndarray
    local: LocalComponents | None


def texel_weights(face: np.ndarray, rows: int) -> np.ndarray:
    """(H, W) that sum to one: the front of the face fully, hair and neck an eighth, eyes and teeth a quarter, per texel."""
    weight = 0.12 + face
    weight[rows:] = 0.3
    weight = 0.5 * (weight + weight[:, ::-1])
    return weight / weight.sum()


def feature_texels(model: Any, height: int, width: int) -> np.ndarray:
    """(H, W) bool around brows, lids and lips: the parts of the basis, four texels wider at the shipped size."""
    from scipy.ndimage import binary_dilation, zoom

    parts = np.asarray(model.uv_parts)
    scaled = zoom(parts, (height / parts.shape[0], width / parts.shape[1]), order=0, grid_mode=True, mode="nearest")
    return binary_dilation(np.isin(scaled, (1, 2, 3, 4, 6, 7)), iterations=4)


def check_albedo(settings: Any) -> None:
    """
    Raises:
        FitjaxError: settings of the albedo that do not go together.
    """
    if settings.local < 0:
        raise FitjaxError(f"train decoder: local: expected 0 or more components per region, found {settings.local}")
    if settings.albedo.local:
        raise FitjaxError("train decoder: albedo local: expected none, local components are asked for by the decoder's own setting `local`")
    if settings.local and settings.mirrored:
        raise FitjaxError("train decoder: mirrored: expected False with local components, which have no mirror images")
    if settings.local and settings.feature_weight and not settings.albedo.texel_weight:
        raise FitjaxError("train decoder: feature_weight: expected an albedo texel_weight above 0 with it where there are local components")


def albedo_data(
    settings: Any, faces: dict[str, np.ndarray], model: Any, folder: Path, count: int | None = None, say: Callable[[str], Any] = print
) -> AlbedoData:
    """What the settings (:class:`fitjax.train.run.DecoderSettings`) ask for.

    Args:
        faces: of :func:`fitjax.train.run.make_faces`. count: faces to learn, default the settings'; more are drawn and kept in the folder.
    """
    check_albedo(settings)
    count = settings.faces if count is None else count
    is_odd, modes, sigma = faces["is_odd"].astype(bool), faces["modes"], faces["sigma"]
    height, width = faces["mean"].shape[:2]
    data, held = faces["coefficients"][:count], faces["held_out"]
    local = None
    if settings.local or count > len(data):
        local = make_local(faces, settings.seed, folder, min(LOCAL_FACES, settings.analysed), settings.local or LOCAL_RANK)
        data, regional = more_faces(faces, local, settings.seed, folder, count, say)
        if settings.local:
            held = np.concatenate(more_faces(faces, local, settings.seed + 1, folder, len(held)), 1)
            data = np.concatenate([data, regional], 1)
            modes, sigma = np.concatenate([modes, local.placed(height, width)]), np.concatenate([sigma, local.sigma])
        else:
            local = None
    front = faces["weight"] > 0.5 * faces["weight"].max()
    front[int(faces["rows"][0]) :] = False
    chosen = feature_texels(model, height, width) & front
    more, by_texels = settings.feature_weight, settings.albedo.texel_weight > 0
    parity = np.where(is_odd, -1, 1).astype(np.float32) if settings.mirrored else None
    metric = feature_metric(faces["modes"], faces["weight"], chosen, more) if more > 0 and not by_texels else None
    scales = LiftScales(sigma, proxy_filter(faces["modes"], is_odd, faces["weight"]), parity, metric)
    if by_texels:
        weight = 1 + more * chosen[front].astype(np.float32)
        scales = scales._replace(texels=np.ascontiguousarray(np.moveaxis(modes[:, front], 0, -1)), texel_weight=weight / weight.mean())
    return AlbedoData(jax.tree.map(jnp.asarray, scales), modes, data, held, local)
