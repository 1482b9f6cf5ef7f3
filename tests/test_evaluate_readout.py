"""The read-out offset is recovered exactly from noise-free synthetic photos, and its Jacobian is that of the camera."""

import numpy as np
import pytest

from fitjax.evaluate.readout import (
    MIRROR68,
    FittedPhoto,
    leave_one_out,
    projection_jacobian,
    solve_readout_offset,
    symmetric_basis,
)

FOCAL = np.array([900.0, 880.0])


def rotation(rng):
    q = rng.normal(size=(3, 3))
    u, _, vt = np.linalg.svd(q)
    return u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt


def planted(rng):
    offset = rng.normal(size=(68, 3)) * 4e-3
    return 0.5 * (offset + offset[MIRROR68] * [-1, 1, 1])


def photos(offset, kind, count=6, noise=0.0, seed=1):
    """Photos whose truth is, to first order, the prediction moved by the offset."""
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(count):
        r, t = rotation(rng), np.array([0.02, -0.01, 0.7])
        head = rng.normal(size=(68, 3)) * 0.05
        camera = head @ r.T + t
        jacobian = projection_jacobian(camera, FOCAL, kind, t[2])
        z = camera[:, 2:] if kind == "perspective" else t[2]
        predicted = FOCAL * camera[:, :2] / z
        moved = np.einsum("nij,jk,nk->ni", jacobian, r, offset)
        truth = predicted + moved + noise * rng.normal(size=(68, 2))
        result.append(FittedPhoto(r, jacobian, predicted, truth, 150.0))
    return result


def test_mirror_map_is_an_involution_of_the_68_points():
    assert sorted(MIRROR68) == list(range(68))
    assert np.array_equal(MIRROR68[MIRROR68], np.arange(68))
    assert np.flatnonzero(np.equal(MIRROR68, np.arange(68))).tolist() == [8, 27, 28, 29, 30, 33, 51, 57, 62, 66]


def test_symmetric_basis_spans_exactly_the_symmetric_offsets():
    basis = symmetric_basis()
    # 29 pairs with three coordinates each, ten points on the middle line with two.
    assert basis.shape == (204, 29 * 3 + 10 * 2)
    offsets = basis.T.reshape(-1, 68, 3)
    assert np.array_equal(offsets, offsets[:, MIRROR68] * [-1, 1, 1])
    assert np.linalg.matrix_rank(basis) == basis.shape[1]


@pytest.mark.parametrize("kind", ["perspective", "weak_perspective"])
def test_jacobian_against_differences(kind):
    rng = np.random.default_rng(2)
    points, depth, step = rng.normal(size=(68, 3)) * 0.1 + [0, 0, 0.8], 0.8, 1e-6

    def pixels(p):
        return FOCAL * p[:, :2] / (p[:, 2:] if kind == "perspective" else depth)

    found = projection_jacobian(points, FOCAL, kind, depth)
    for axis in range(3):
        delta = np.eye(3)[axis] * step
        slope = (pixels(points + delta) - pixels(points - delta)) / (2 * step)
        assert np.allclose(found[..., axis], slope, rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("kind", ["perspective", "weak_perspective"])
def test_a_planted_offset_comes_back(kind):
    offset = planted(np.random.default_rng(3))
    found = solve_readout_offset(photos(offset, kind), offset_sigma=1e3)
    assert np.abs(found - offset).max() < 1e-9
    for one in leave_one_out(photos(offset, kind), offset_sigma=1e3):
        assert np.abs(one - offset).max() < 1e-9


def test_the_default_ridge_shrinks_but_never_breaks_symmetry():
    offset = planted(np.random.default_rng(4))
    found = solve_readout_offset(photos(offset, "perspective", noise=1.0))
    assert np.abs(found - found[MIRROR68] * [-1, 1, 1]).max() == 0
    assert np.linalg.norm(found - offset) < 0.25 * np.linalg.norm(offset)
    tight = solve_readout_offset(photos(offset, "perspective"), offset_sigma=1e-6)
    assert np.abs(tight).max() < 1e-5


def test_a_photo_is_judged_without_itself():
    rng = np.random.default_rng(5)
    faces = photos(planted(rng), "perspective", count=3, noise=2.0)
    offsets = leave_one_out(faces)
    assert np.array_equal(offsets[1], solve_readout_offset([faces[0], faces[2]]))


def test_too_few_photos_are_refused():
    with pytest.raises(ValueError, match="none"):
        solve_readout_offset([])
    with pytest.raises(ValueError, match="at least two"):
        leave_one_out(photos(np.zeros((68, 3)), "perspective", count=1))
