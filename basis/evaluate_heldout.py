"""Held-out landmark error: fit 45 of the 68 points, measure the other 23.

usage: python -m basis.evaluate_heldout DATA [--basis FILE]

DATA is the path of the annotations (`landmarks.npz`). The faces are the odd rows, which calibration never sees; labels are the
original ones; the error of a face is the mean distance over the 23 points in percent of sqrt(w h) of the annotated box.
"""

import argparse
from pathlib import Path

import numpy as np

from basis import landmark_model, pack
from basis.annotations import read_annotations
from basis.fit_points import fit
from basis.landmark_sets import HELD_OUT

STRENGTHS = (1.4, 1.0, 0.7, 0.5, 0.35, 0.25)


def held_out_error(target: np.ndarray, mean: np.ndarray, modes: np.ndarray, strength: float) -> float:
    """Mean over faces of the mean distance at the held-out points, in percent."""
    weight = np.ones(68)
    weight[HELD_OUT] = 0
    fits = fit(target, mean, modes, strength, weight)
    return float(np.linalg.norm(fits.points - target, axis=-1)[:, HELD_OUT].mean())


def fitted_error(target: np.ndarray, mean: np.ndarray, modes: np.ndarray, strength: float) -> float:
    """Mean distance over all points when all are fitted, in percent."""
    return float(np.linalg.norm(fit(target, mean, modes, strength).points - target, axis=-1).mean())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="annotations, landmarks.npz")
    parser.add_argument("--basis", type=Path, default=pack.EMBEDDED)
    arguments = parser.parse_args()
    basis = landmark_model.load(arguments.basis)
    _, odd = read_annotations(arguments.data)
    for labels, name in (("original", "aflw68_original"), ("reannotated", "aflw68")):
        target = getattr(odd, labels)
        documented = basis.at(pack.read_samples(basis.tensors, "ibug68"))
        calibrated = basis.at(pack.read_samples(basis.tensors, name))
        print(f"{labels} labels, {len(target)} faces, NME %")
        for title, model in (("ibug68", documented), (name, calibrated)):
            errors = ", ".join(f"{s:g}: {fitted_error(target, *model, s):.3f}" for s in (1.0, 0.5))
            print(f"  {title:16s} all 68 points fitted, lambda {errors}")
        for title, model in (("ibug68", documented), (name, calibrated)):
            errors = {s: held_out_error(target, *model, s) for s in STRENGTHS}
            best = min(errors, key=errors.get)
            table = ", ".join(f"{s:g}: {e:.3f}" for s, e in errors.items())
            print(f"  {title:16s} 23 held out, lambda {table}; best {errors[best]:.3f}")


if __name__ == "__main__":
    main()
