"""Calibrate the 68 landmarks and the pose frame of the embedded basis to AFLW2000-3D's conventions.

usage: python -m basis.calibrate DATA [--basis FILE]

DATA is the path of the annotations (`landmarks.npz`), of which only the even rows are used. Each round fits pose, identity and
expression to the annotated points, and moves each landmark over the surface by the offset in the head's frame that explains its
residuals over all faces best (a robust fit, mirror-symmetric). Before that the spreads of modes and expressions are set by
empirical Bayes. `aflw68` follows the re-annotated labels, `aflw68_original` the
original ones. The pose frame is the constant rotation between fitted and published head poses.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np

from basis import landmark_model, pack
from basis.annotations import Annotations, read_annotations
from basis.empirical_bayes import spread_factors
from basis.expressions import mirrored_name
from basis.fit_points import Fits, fit
from basis.landmark_sets import IBUG68_MIRROR
from basis.surface import Samples

ROUNDS = 5
STRENGTH = 0.7
# Ridge of the offsets in faces: a direction that few faces show stays put.
_RIDGE = 5.0
# Spreads are learnt from the re-annotated labels: the original ones are a fitted model that hardly closes its eyes.
SPREAD_STRENGTH, SPREAD_ROUNDS = 0.6, 6
IDENTITY_FACTORS, EXPRESSION_FACTORS = (0.7, 1.2), (0.4, 1.5)
_FLIP = np.array([-1.0, 1.0, 1.0])


def landmark_offsets(fits: Fits, target: np.ndarray) -> np.ndarray:
    """Offsets (68, 3) in head space, metres, that explain the residuals of all faces: reweighted towards the median."""
    residual = (target - fits.points) / fits.scale[:, None, None]
    rows = fits.rotation[:, :2]
    offset = np.zeros((68, 3))
    for _ in range(20):
        error = np.linalg.norm(residual - np.einsum("bij,lj->bli", rows, offset), axis=-1)
        weight = 1 / np.maximum(error, 1e-4)
        weight /= weight.mean(0)
        normal = np.einsum("bl,bij,bik->ljk", weight, rows, rows) + _RIDGE * np.eye(3)
        right = np.einsum("bl,bij,bli->lj", weight, rows, residual)
        offset = np.linalg.solve(normal, right[..., None])[..., 0]
    return 0.5 * (offset + offset[IBUG68_MIRROR] * _FLIP)


def calibrate_landmarks(
    basis: landmark_model.PackedBasis, samples: Samples, target: np.ndarray, rounds: int = ROUNDS
) -> Samples:
    """Move the landmarks over the surface, a round at a time."""
    surface = basis.surface
    refined = surface.refine(basis.mean)
    for number in range(rounds):
        mean, modes = basis.at(samples)
        fits = fit(target, mean, modes, STRENGTH)
        error = np.linalg.norm(fits.points - target, axis=-1).mean()
        offset = landmark_offsets(fits, target)
        moved, distance = surface.project(mean + offset, refined, surface.skin)
        samples = surface.symmetric(moved, IBUG68_MIRROR, basis.mean)
        print(
            f"  round {number + 1}: NME {error:.3f} %, moved {np.linalg.norm(offset, axis=1).mean() * 1e3:.2f} mm, "
            f"left the surface {distance.mean() * 1e3:.2f} mm"
        )
    return samples


def rotation_of_pose(pitch_yaw_roll: np.ndarray) -> np.ndarray:
    """Rotations (B, 3, 3) of AFLW2000-3D's pitch, yaw, roll in degrees (see `docs/basis.md`)."""
    (cp, cy, cr), (sp, sy, sr) = np.cos(np.radians(pitch_yaw_roll)).T, np.sin(np.radians(pitch_yaw_roll)).T
    one, zero = np.ones_like(cp), np.zeros_like(cp)

    def matrix(rows) -> np.ndarray:
        return np.stack([np.stack(row, -1) for row in rows], -2)

    pitch = matrix([[one, zero, zero], [zero, cp, sp], [zero, -sp, cp]])
    yaw = matrix([[cy, zero, -sy], [zero, one, zero], [sy, zero, cy]])
    roll = matrix([[cr, sr, zero], [-sr, cr, zero], [zero, zero, one]])
    return pitch @ yaw @ roll


def geodesic_degrees(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Angles between rotations."""
    trace = np.einsum("bij,bij->b", a, np.broadcast_to(b, a.shape))
    return np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1)))


def pose_frame(rotation: np.ndarray, published: np.ndarray) -> np.ndarray:
    """The rotation C, symmetric in x, with rotation = published @ C over all faces, as a robust mean of rotations.

    C maps head space to the head frame of the convention: the published pose of a face is `rotation @ C.T`.
    """
    relative = np.swapaxes(published, 1, 2) @ rotation
    weight = np.ones(len(relative))
    for _ in range(20):
        u, _, vt = np.linalg.svd((weight[:, None, None] * relative).sum(0))
        mean = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
        weight = 1 / np.maximum(geodesic_degrees(relative, mean), 0.3)
    # A head and its mirror image share the frame, so only a pitch is left.
    angle = np.arctan2(mean[2, 1] - mean[1, 2], mean[1, 1] + mean[2, 2])
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def calibrate_pose(basis: landmark_model.PackedBasis, samples: Samples, faces: Annotations) -> np.ndarray:
    """The pose frame from fits to the original labels, with the residual angles printed."""
    mean, modes = basis.at(samples)
    fits = fit(faces.original, mean, modes, STRENGTH)
    used = ~faces.pose_excluded
    published = rotation_of_pose(faces.pose)
    frame = pose_frame(fits.rotation[used], published[used])
    before = geodesic_degrees(fits.rotation[used], published[used])
    after = geodesic_degrees(fits.rotation[used] @ frame.T, published[used])
    angle = np.degrees(np.arctan2(frame[2, 1], frame[1, 1]))
    print(
        f"  pitch of the frame {angle:.2f} degrees; geodesic error mean {before.mean():.2f} -> {after.mean():.2f}, "
        f"median {np.median(after):.2f}"
    )
    return frame


def calibrate_spreads(basis: landmark_model.PackedBasis, samples: Samples, target: np.ndarray) -> np.ndarray:
    """Factors (K + E,) on the spreads of identity modes and expressions, kept within bounds so that samples stay human.

    Eye and tongue expressions keep their spread: neither 68 landmarks nor these annotations say much about them. Left and right
    share one spread.
    """
    names = json.loads(basis.metadata["expression_names"])
    held = np.array([name.startswith("eye") or name == "tongueOut" for name in names])
    count = len(basis.identity)
    (low, high), (low_expression, high_expression) = IDENTITY_FACTORS, EXPRESSION_FACTORS
    lowest = np.concatenate([np.full(count, low), np.where(held, 1.0, low_expression)])
    highest = np.concatenate([np.full(count, high), np.where(held, 1.0, high_expression)])
    factor = spread_factors(
        target, *basis.at(samples), SPREAD_STRENGTH, rounds=SPREAD_ROUNDS, lowest=lowest, highest=highest
    )
    partner = count + np.array([names.index(mirrored_name(name)) for name in names])
    factor[count:] = np.sqrt(factor[count:] * factor[partner])
    print(f"  identity factors {np.percentile(factor[:count], [0, 10, 50, 90, 100]).round(2)}")
    print(f"  expression factors {np.percentile(factor[count:], [0, 10, 50, 90, 100]).round(2)}")
    return factor


def with_spreads(basis: landmark_model.PackedBasis, factor: np.ndarray) -> landmark_model.PackedBasis:
    """The basis with its spreads at `factor` times those of the random faces, whatever they were before.

    Factors only touch the steps of the integer modes and the expression sigmas, so this loses nothing.
    """
    count = len(basis.identity)
    provenance = json.loads(basis.metadata["provenance"])
    before = np.array(provenance.get("spread_factors", np.ones(len(factor))))
    provenance["spread_factors"] = factor.round(4).tolist()
    ratio = factor.round(4) / before
    tensors = dict(basis.tensors)
    tensors["identity_scale"] = (tensors["identity_scale"] * ratio[:count]).astype(np.float32)
    tensors["expression_sigma"] = (tensors["expression_sigma"] * ratio[count:]).astype(np.float32)
    return dataclasses.replace(
        basis,
        tensors=tensors,
        metadata=basis.metadata | {"provenance": json.dumps(provenance)},
        identity=pack.dequantised(tensors, "identity"),
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="annotations, landmarks.npz")
    parser.add_argument("--basis", type=Path, default=pack.EMBEDDED)
    arguments = parser.parse_args()
    basis = landmark_model.load(arguments.basis)
    even, odd = read_annotations(arguments.data)
    start = pack.read_samples(basis.tensors, "ibug68")
    basis = with_spreads(basis, np.ones(len(basis.identity) + len(basis.expression)))
    print(f"spreads, {len(even.original)} faces")
    first = calibrate_landmarks(basis, start, even.reannotated)
    basis = with_spreads(basis, calibrate_spreads(basis, first, even.reannotated))
    print("aflw68_original")
    original = calibrate_landmarks(basis, start, even.original)
    print("aflw68")
    reannotated = calibrate_landmarks(basis, start, even.reannotated)
    tensors = basis.tensors | pack.sample_tensors({"aflw68": reannotated, "aflw68_original": original})
    print("pose, even rows")
    tensors["pose_frame.aflw2000"] = calibrate_pose(basis, original, even).astype(np.float32)
    print("pose, odd rows (only a check)")
    calibrate_pose(basis, original, odd)
    pack.write(arguments.basis, tensors, basis.metadata)


if __name__ == "__main__":
    main()
