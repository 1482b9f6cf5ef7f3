"""Calibrate the 68 points of an imported model to AFLW2000-3D's conventions, as `basis.calibrate` does for the embedded one.

usage: python -m basis.calibrate_imported DATA MODEL PREFIX

DATA is the path of the annotations (`landmarks.npz`), of which only the even rows are used; MODEL a name or file of an imported basis; the points are
written to PREFIX_aflw68.txt and PREFIX_aflw68_original.txt as positions on the mean face in the model's own units and space, from which an importer
finds them again on whatever triangles the user's files have. Prints the NME of landmark fits to the odd rows before and after.
"""

import argparse
from pathlib import Path

import numpy as np

from basis.annotations import Annotations, read_annotations
from basis.calibrate import ROUNDS, STRENGTH, geodesic_degrees, landmark_offsets, pose_frame, rotation_of_pose
from basis.fit_points import fit
from fitjax.geometry.host_mesh import SurfaceIndex, surface_points
from fitjax.model.basis_file import Basis, read_basis
from fitjax.model.load import model_path

_SKIN = 0

_HEAD = """# The 68 points of {name} moved over its mean face to the convention of AFLW2000-3D's {labels} labels: x y z in {unit}, in the
# space of the model's own files. Made by `python -m basis.calibrate_imported` from annotated points of the even rows alone; no photo and nothing
# of the data set is in here.
"""


def at(basis: Basis, samples: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean (68, 3) and modes (K + E, 68, 3) in units of the prior's spread."""
    corner, weight = basis.triangles[samples[0]], samples[1].astype(float)
    modes = np.concatenate([basis.identity, basis.expression * basis.expression_sigma[:, None, None]])
    return surface_points(basis.mean.astype(float), basis.triangles, *samples), np.einsum("mskc,sk->msc", modes[:, corner], weight)


def calibrated(basis: Basis, samples: tuple[np.ndarray, np.ndarray], target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move the points over the skin, a round at a time."""
    skin = SurfaceIndex(basis.mean.astype(float), basis.triangles, basis.triangle_region == _SKIN)
    for number in range(ROUNDS):
        mean, modes = at(basis, samples)
        fits = fit(target, mean, modes, STRENGTH)
        offset = landmark_offsets(fits, target)
        triangle, weight, distance = skin.closest(mean + offset)
        samples = triangle, weight
        error = np.linalg.norm(fits.points - target, axis=-1).mean()
        moved = np.linalg.norm(offset, axis=1).mean()
        print(f"  round {number + 1}: NME {error:.3f} %, moved {moved * 1e3:.2f} mm, left the surface {distance.mean() * 1e3:.2f} mm", flush=True)
    return samples


def error(basis: Basis, samples: tuple[np.ndarray, np.ndarray], target: np.ndarray) -> list[float]:
    """NME in percent at lambda 1 and 0.5."""
    fits = (fit(target, *at(basis, samples), strength) for strength in (1.0, 0.5))
    return [round(float(np.linalg.norm(f.points - target, axis=-1).mean()), 3) for f in fits]


def pose(basis: Basis, samples: tuple[np.ndarray, np.ndarray], faces: Annotations, frame: np.ndarray | None = None) -> np.ndarray:
    """The pose frame from fits to the original labels, or a given one, with the residual angles printed."""
    fits = fit(faces.original, *at(basis, samples), STRENGTH)
    used = ~faces.pose_excluded
    published = rotation_of_pose(faces.pose[used])
    frame = pose_frame(fits.rotation[used], published) if frame is None else frame
    left = geodesic_degrees(fits.rotation[used] @ frame.T, published)
    pitch = np.degrees(np.arctan2(frame[2, 1], frame[1, 1]))
    print(f"  pitch of the frame {pitch:.2f} degrees; geodesic error mean {left.mean():.2f}, median {np.median(left):.2f}", flush=True)
    return frame


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="annotations, landmarks.npz")
    parser.add_argument("model", help="name or file of an imported model")
    parser.add_argument("prefix", type=Path, help="of the files to write")
    parser.add_argument("--pose-only", action="store_true", help="keep the points, find the pitch of the head frame of AFLW2000-3D alone")
    parser.add_argument("--unit", choices=("m", "cm", "mm"), default="cm", help="of the model's own files")
    arguments = parser.parse_args()
    basis = read_basis(model_path(arguments.model))
    even, odd = read_annotations(arguments.data)
    origin = np.array(basis.provenance["origin_m"])
    if arguments.pose_only:
        samples = basis.samples["aflw68_original"]
        frame = pose(basis, samples, even)
        for given in (frame, basis.pose_frames["aflw2000"].astype(float), np.eye(3)):
            print("odd rows, this frame, the basis's, none:")
            pose(basis, samples, odd, given)
        return
    per_metre = {"m": 1, "cm": 100, "mm": 1000}[arguments.unit]
    for name, labels, target, check in (
        ("aflw68_original", "original", even.original, odd.original),
        ("aflw68", "re-annotated", even.reannotated, odd.reannotated),
    ):
        start = basis.samples["ibug68"]
        print(name, "odd rows:", {key: error(basis, basis.samples[key], check) for key in ("ibug68", name)}, flush=True)
        samples = calibrated(basis, start, target)
        print(name, "odd rows, calibrated:", error(basis, samples, check), flush=True)
        points = (surface_points(basis.mean.astype(float), basis.triangles, *samples) + origin) * per_metre
        text = _HEAD.format(name=basis.name, labels=labels, unit=arguments.unit)
        text += "".join(f"{x:.4f} {y:.4f} {z:.4f}\n" for x, y, z in points)
        arguments.prefix.with_name(f"{arguments.prefix.name}_{name}.txt").write_text(text)


if __name__ == "__main__":
    main()
