"""The map of ambient occlusion: known places, symmetry, damaged files, and the measure against a bowl whose value is known."""

import hashlib
import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import map_coordinates

from basis.build_occlusion import openness, sphere, view_axes
from fitjax import load_basis
from fitjax.errors import BasisError
from fitjax.model.occlusion import FLOOR, default_occlusion, read_occlusion

DATA = Path(__file__).resolve().parents[1] / "fitjax" / "data"
FOREHEAD, CHEEKS, CHIN, IRISES, INNER_CORNERS = (10, 151), (50, 280), (152,), (468, 473), (133, 362)


@pytest.fixture(scope="module")
def model():
    return load_basis(level=1)


@pytest.fixture(scope="module")
def occlusion():
    return default_occlusion()


def sample(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Bilinear values (N,) at (N, 2)."""
    return map_coordinates(texture, [(1 - uv[:, 1]) * 256 - 0.5, uv[:, 0] * 256 - 0.5], order=1, mode="nearest")


@pytest.fixture(scope="module")
def at_landmarks(model, occlusion):
    """Values (478,) at MediaPipe's points."""
    samples = model.sample_library["mediapipe478"]
    corners = np.asarray(model.uv)[np.asarray(model.uv_triangles)[np.asarray(samples.triangle)]]
    uv = (corners * np.asarray(samples.barycentric)[..., None]).sum(1)
    return sample(occlusion, uv)


def at_vertices(model, occlusion, region: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions (N, 3) mm on the mean head and values (N,) at the corners of a region's triangles."""
    of = np.asarray(model.triangle_region) == region
    uv = np.asarray(model.uv)[np.asarray(model.uv_triangles)[of]].reshape(-1, 2)
    position = np.asarray(model.mean)[np.asarray(model.triangles)[of]].reshape(-1, 3) * 1000
    return position, sample(occlusion, uv)


def test_shape_and_range(occlusion):
    assert occlusion.shape == (256, 256) and occlusion.dtype == np.float32
    assert occlusion.min() >= FLOOR and 0.99 < occlusion.max() <= 1


def test_open_skin_is_open(at_landmarks):
    assert at_landmarks[[*FOREHEAD, *CHEEKS, *CHIN]].min() >= 0.95


def test_hollows_are_dark(model, occlusion, at_landmarks):
    position, value = at_vertices(model, occlusion, 0)
    for side in (-1, 1):
        nostril = np.linalg.norm(position - [10 * side, -15, 41], axis=1) < 3
        assert value[nostril].min() <= 0.5
        assert value[nostril].mean() <= 0.6
    assert at_landmarks[list(INNER_CORNERS)].max() <= 0.5
    assert at_vertices(model, occlusion, 2)[1].max() <= 0.4  # mouth cavity
    teeth = at_vertices(model, occlusion, 4)[1]
    assert 0.25 <= teeth.max() <= 0.5
    assert np.median(teeth) <= 0.2


def test_eyes(model, occlusion, at_landmarks):
    centre = at_landmarks[list(IRISES)]
    assert (centre >= 0.4).all() and (centre <= 0.9).all()
    position, value = at_vertices(model, occlusion, 1)
    assert value[position[:, 2] < position[:, 2].max() - 15].max() <= 0.2  # behind the lids


def test_left_equals_right(occlusion, at_landmarks):
    skin = occlusion[:215]
    assert (skin == skin[:, ::-1]).all()
    # The eyeballs' charts are no mirror images texel by texel.
    assert abs(np.diff(at_landmarks[list(IRISES)])[0]) < 0.02


def test_the_record_names_the_basis_it_was_made_from():
    record = json.loads((DATA / "occlusion.json").read_text())
    assert record["bytes"] == (DATA / "occlusion.png").stat().st_size
    assert record["provenance"]["basis_sha256"] == json.loads((DATA / "embedded.json").read_text())["sha256"]


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "occlusion.png"
    with pytest.raises(BasisError, match="cannot read"):
        read_occlusion(path)
    for name in ("occlusion.png", "occlusion.json"):
        shutil.copy(DATA / name, tmp_path / name)
    assert read_occlusion(path).shape == (256, 256)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(BasisError, match="differs from its record"):
        read_occlusion(path)

    def record(raw: bytes) -> None:
        path.with_suffix(".json").write_text(json.dumps({"sha256": hashlib.sha256(raw).hexdigest()}))

    path.write_bytes(b"no picture")
    record(b"no picture")
    with pytest.raises(BasisError, match="not a readable PNG"):
        read_occlusion(path)
    Image.new("L", (64, 64), 200).save(path)
    record(path.read_bytes())
    with pytest.raises(BasisError, match="expected 256"):
        read_occlusion(path)
    path.with_suffix(".json").write_text("{}")
    with pytest.raises(BasisError, match="record"):
        read_occlusion(path)


def test_openness_of_a_bowl():
    """Inside a hemisphere every point sees the half of its sphere that is there under the same share of its sky: one half is open."""
    rings, sectors, radius = 16, 32, 0.1
    polar, turn = np.meshgrid(
        np.linspace(0.02, np.pi / 2, rings), np.arange(sectors) * 2 * np.pi / sectors, indexing="ij"
    )
    bowl = np.stack([np.sin(polar) * np.cos(turn), np.sin(polar) * np.sin(turn), -np.cos(polar)], -1).reshape(-1, 3)
    ring, sector = np.meshgrid(np.arange(rings - 1), np.arange(sectors), indexing="ij")
    a, b = ring * sectors + sector, ring * sectors + (sector + 1) % sectors
    quads = np.stack([a, a + sectors, b + sectors, b], -1).reshape(-1, 4)
    inward = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    axes = jnp.asarray(view_axes(sphere(100)), jnp.float32)
    value = np.asarray(openness(jnp.asarray(bowl * radius, jnp.float32), jnp.asarray(inward), axes))
    # Normals at the rim and in the hole at the bottom are one-sided; a hundred directions leave a few hundredths of noise.
    inner = value[sectors : 12 * sectors]
    assert abs(inner.mean() - 0.5) < 0.02 and inner.std() < 0.04
