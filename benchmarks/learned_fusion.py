"""Fusion of the image network's two spaces: the solve weighted by predicted precision, which is what is shipped, against a network trained for it.

    python -m benchmarks --only learned_fusion

The learned one sees, through the frozen image network, where each branch puts each landmark, their confidences, both branches' codes and poses, and
gives each landmark shares of all branches and a small residual. It is trained on portraits of the embedded model, spoilt as in training, and measured
on ICT's heads by yaw and by hidden share. The portraits lie beside the cache of compiled programs; they are drawn where they are missing.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.image_net import BINS, HIDDEN, crops_of, hide, ict_pool, interval, yaw_of
from benchmarks.report import Report, Table, Target
from fitjax.cli.main import compilation_cache_folder
from fitjax.evaluate.nme import nme, yaw_bin
from fitjax.initial.image_face import load_looker, load_mirror, run_network, solve_branches
from fitjax.networks import run as apply
from fitjax.synth.draw import load_synth
from fitjax.train.image_pool import POOL, Pool, draw_pool, portraits_in
from fitjax.train.image_run import spoilt_crops

#: Where landmarks come from; the last is what the learned fusion starts as.
PLACES = ("model", "image", "marks", "refined", "fused")
#: Portraits of a seed of their own, which the image network was not trained on; crops of each; steps of 64.
PORTRAITS, VARIANTS, STEPS, SEED = 1250, 4, 2500, 991
_BATCH = 25


class Fusion(nn.Module):
    """Points (B, 68, F), what is known of the face (B, G) and places (B, 68, P, 2) → landmarks (B, 68, 2)."""

    width: int = 64

    @nn.compact
    def __call__(self, points: Any, known: Any, places: Any) -> Any:
        face = nn.relu(nn.Dense(self.width)(jnp.concatenate([known, points.reshape(len(points), -1)], -1)))
        which = self.param("which", nn.initializers.normal(0.5), (68, 16))
        told = [jnp.broadcast_to(face[:, None], (len(points), 68, self.width)), jnp.broadcast_to(which, (len(points), 68, 16))]
        h = nn.relu(nn.Dense(self.width)(jnp.concatenate([points, *told], -1)))
        h = nn.Dense(len(PLACES) + 2, kernel_init=nn.initializers.variance_scaling(0.01, "fan_in", "normal"))(nn.relu(nn.Dense(self.width)(h)))
        share = jax.nn.softmax(h[..., : len(PLACES)] + 3 * jax.nn.one_hot(len(PLACES) - 1, len(PLACES)))
        return jnp.einsum("bkp,bkpa->bka", share, places) + 0.02 * h[..., len(PLACES) :]


def seen(images: np.ndarray) -> dict[str, np.ndarray]:
    """What the frozen network says of crops: places of the landmarks, features of points and of faces."""
    net, weights, tables, _ = load_looker()
    parts = []
    for k in range(0, len(images), _BATCH):
        block = images[k : k + _BATCH]
        padded = np.concatenate([block, np.zeros((_BATCH - len(block), *block.shape[1:]), block.dtype)])
        out = run_network(net, weights, tables, padded, load_mirror())
        faces, shown = jax.device_get(solve_branches(out, tables))
        refined, log_sigma = np.asarray(out.refined[-1]), np.asarray(out.mark_log_sigma)
        places = np.stack([refined if p == "refined" else shown[p][:, :68, :2] for p in PLACES], 2)
        # Positions against the fused one, in hundredths of the crop's half.
        offsets = (100 * (places[:, :, :-1] - places[:, :, -1:])).clip(-40, 40).reshape(len(padded), 68, -1)
        depth = 5 * shown["fused"][:, :68, 2:]
        points = np.concatenate([offsets / 5, log_sigma[..., None], depth, places[:, :, -1]], -1)
        sigma = np.asarray(tables.sigma)
        codes = [(faces[p].codes / sigma).clip(-4, 4) for p in ("model", "image")]
        many = (1 / (1 + np.exp(-np.asarray(out.skin)))).mean((1, 2))[:, None]
        known = np.concatenate([*codes, faces["fused"].rotation.reshape(-1, 9), faces["image"].rotation.reshape(-1, 9), many, log_sigma], -1)
        parts.append({n: v[: len(block)].astype(np.float32) for n, v in {"places": places, "points": points, "known": known}.items()})
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def own_pool(count: int) -> Pool:
    """Portraits of the embedded model that no network was trained on, drawn where they are missing."""
    folder = compilation_cache_folder().parent / "fusion_portraits"
    if portraits_in(folder) < count:
        draw_pool(load_synth(), POOL, folder, count, seed=SEED)
    return Pool(folder)


def training_data(pool: Pool, count: int) -> dict[str, np.ndarray]:
    """Features and true landmarks of spoilt crops."""
    side, parts = load_looker()[0].side, []
    for variant in range(VARIANTS):
        for k in range(0, count, _BATCH):
            made = jax.device_get(spoilt_crops(side, 7 + variant, k, pool.take(np.arange(k, k + _BATCH))))
            parts.append(seen(made.image) | {"truth": made.points, "size": made.size})
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


@partial(jax.jit, static_argnames=("steps",))
def train(data: dict[str, Any], steps: int) -> Any:
    """Weights after ``steps`` of Adam on the mean error in percent of the face size."""
    module, optimiser = Fusion(), optax.adamw(optax.cosine_decay_schedule(1e-3, steps), weight_decay=0.02)
    weights = module.init(jax.random.key(0), *(data[n][:1] for n in ("points", "known", "places")))

    def loss(weights: Any, index: Any) -> Any:
        one = {name: value[index] for name, value in data.items()}
        found = apply(module, weights, one["points"], one["known"], one["places"])
        return jnp.mean(100 * jnp.sqrt(jnp.sum((found - one["truth"]) ** 2, -1) + 1e-8) / one["size"][:, None])

    def step(state: Any, key: Any) -> Any:
        gradient = jax.grad(loss)(state[0], jax.random.randint(key, (64,), 0, len(data["size"])))
        change, memory = optimiser.update(gradient, state[1], state[0])
        return (optax.apply_updates(state[0], change), memory), None

    return jax.lax.scan(step, (weights, optimiser.init(weights)), jax.random.split(jax.random.key(1), steps))[0][0]


def run(quick: bool = False) -> Report:
    """The benchmark.

    Raises:
        Unavailable: the data is absent.
    """
    report = Report("learned_fusion", "Fusion of both spaces: by precision, and learned")
    count = 250 if quick else PORTRAITS
    data = training_data(own_pool(count), count)
    spare = len(data["size"]) // 10
    weights = train({name: jnp.asarray(value[spare:]) for name, value in data.items()}, 200 if quick else STEPS)
    fused = jax.jit(lambda one: apply(Fusion(), weights, one["points"], one["known"], one["places"]))
    rows: list[list[Any]] = []
    gains: dict[str, np.ndarray] = {}

    def add(what: str, one: dict[str, np.ndarray], truth: np.ndarray) -> None:
        error = [nme(one["places"][:, :, k], truth) for k in range(len(PLACES))]
        error.append(nme(np.asarray(fused({n: one[n] for n in ("points", "known", "places")})), truth))
        gains[what] = error[-2] - error[-1]
        low, high = interval(gains[what])
        rows.append([what, len(truth), *(float(e.mean()) for e in error), f"{gains[what].mean():.3f} [{low:.3f}, {high:.3f}]"])

    held = {name: value[:spare] for name, value in data.items()}
    add("embedded model, spoilt, held out", held, held["truth"])
    truth = crops_of(ict_pool(1750), 125 if quick else 1750, load_looker()[0].side)
    one, kind = seen(np.asarray(truth.image)), yaw_bin(yaw_of(truth.rotation))
    for k, (low, high) in enumerate(BINS):
        add(f"ICT, {low}-{high}°", {name: value[kind == k] for name, value in one.items()}, truth.points[kind == k])
    few = jax.tree.map(lambda x: x[: 75 if quick else 500], truth)
    for share in HIDDEN[2::2]:
        add(f"ICT, {100 * share:.0f} % hidden", seen(hide(np.asarray(few.image), few, share, 5)[0]), few.points)
    names = ["model space", "image space", "solve of landmarks", "refined landmarks", "fused by precision", "fused by a network"]
    note = f"Mean NME, percent; trained on {len(data['size']) - spare} crops. The last column: precision less network, with its 95 % interval."
    report.tables.append(Table("Landmarks", ["faces", "count", *names, "gain"], rows, note))
    for what in ("ICT, 0-30°", "ICT, 60-90°", "ICT, 40 % hidden"):
        what_for = f"{what}: NME of the learned fusion less that of the one by precision, which is shipped"
        report.targets.append(Target(what_for, 0.0, -float(gains[what].mean()), "%", True))
    return report
