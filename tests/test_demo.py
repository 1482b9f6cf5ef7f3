"""``fitjax demo``: the astronaut is fitted, and the fitted face covers the face that a person sees in the photo."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.path import Path as Polygon
from PIL import Image
from scipy.ndimage import binary_fill_holes

import fitjax as fj
from fitjax.cli.main import main
from fitjax.files.camera_json import read_camera_json
from fitjax.files.params import load_params
from fitjax.files.result import RESULT_FILES
from fitjax.model.linear import LinearModel
from fitjax.render.overlay import intersection_over_union, mesh_silhouette

DRAWN = Path(__file__).parent / "data" / "astronaut_face.json"

# MediaPipe's outline of the face, in order around it.
FACE_OVAL = [
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """The folder that ``make demo`` shows, by the same code: the default path of ``fitjax fit`` as well."""
    out = tmp_path_factory.mktemp("demo")
    assert main(["demo", "--out", str(out)]) == 0
    return out / "astronaut"


def drawn_face(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The mask drawn by hand and, both (H, W) bool, where hair hides what lies behind."""
    drawn = json.loads(DRAWN.read_text())
    rows, columns = np.mgrid[:height, :width]
    outline = Polygon(drawn["hair_line"] + drawn["cheeks_and_jaw"])
    face = outline.contains_points(np.stack([columns.ravel(), rows.ravel()], 1)).reshape(height, width)
    hair = np.array(drawn["hair_line"])
    return face, rows < np.interp(columns, hair[:, 0], hair[:, 1])


def face_triangles(model: LinearModel) -> np.ndarray:
    """(F,) bool: the face without ears, neck and skull, i.e. inside MediaPipe's face oval in texture space."""
    uv, corners = np.asarray(model.uv), np.asarray(model.uv_triangles)
    samples = model.sample_library["mediapipe478"]
    points = np.einsum("sk,skc->sc", np.asarray(samples.barycentric), uv[corners[np.asarray(samples.triangle)]])
    return Polygon(points[FACE_OVAL]).contains_points(uv[corners].mean(1))


def test_silhouette_matches_the_mask_drawn_by_hand(result):
    # From the files alone, as a user would: parameters and camera, decoded and projected again.
    model = fj.load_basis()
    params, _ = load_params(result / "params.safetensors")
    camera = read_camera_json(result / "camera.json")
    head = np.asarray(model.decode(params).vertices, np.float64)
    in_camera = head @ np.asarray(camera.R_camera_head).T + np.asarray(camera.t_camera_head)
    pixels = in_camera @ np.asarray(camera.K).T
    projected = np.concatenate([pixels[:, :2] / pixels[:, 2:], in_camera[:, 2:]], 1)
    triangles = np.asarray(model.triangles)[face_triangles(model)]
    fitted = binary_fill_holes(mesh_silhouette(projected, triangles, 512, 512))
    face, hidden = drawn_face(512, 512)
    assert 7000 < np.count_nonzero(face) < 8000
    # What hair hides is counted on neither side; sides, cheeks and jaw count in full.
    assert intersection_over_union(fitted & ~hidden, face & ~hidden) >= 0.9


def test_the_mask_is_strict(result):
    """Moved by a tenth of its width the drawn face would fail: the threshold means something."""
    face, _ = drawn_face(512, 512)
    assert intersection_over_union(face, np.roll(face, 9, axis=1)) < 0.9


def test_folder_and_report(result, capsys):
    assert {p.name for p in result.iterdir()} == RESULT_FILES
    report = json.loads((result / "report.json").read_text())
    assert report["status"] == "converged" and report["reliable"] is True
    assert report["landmark_residual"]["mean_percent_of_face_size"] < 1.5
    pitch, yaw, roll = report["pose"]["pitch_yaw_roll_degrees"]
    assert abs(yaw) < 10 and abs(roll) < 10 and abs(pitch) < 20
    # In full: landmarks, the model on pixels, residual maps.
    psnr = report["photometric"]["psnr_decibels"]
    assert psnr["model_only"] > 20 and psnr["with_residual"] > 25.5
    assert report["albedo"]["residual"] == ["detail_albedo", "detail_shape"]
    assert set(report["timings_seconds"]) >= {"read", "detect", "load_model", "compile", "solve", "write"}
    assert all(v >= 0 for v in report["timings_seconds"].values())
    with Image.open(result / "overlay.png") as picture:
        assert picture.width > 900 and picture.height >= 300


def test_landmarks_lie_on_the_features(result, astronaut):
    """Eye centres and mouth corners read off the photo by eye, within 4 pixels of a face 88 pixels wide."""
    points = np.array(json.loads((result / "landmarks.json").read_text())["ibug68"])
    assert np.linalg.norm(points[36:42].mean(0) - [203, 101]) < 4
    assert np.linalg.norm(points[42:48].mean(0) - [246, 103]) < 4
    assert np.linalg.norm(points[48] - [203, 139]) < 4
    assert np.linalg.norm(points[54] - [246, 140]) < 4
