"""What a code of a given length can represent: the lifted decoder against principal components. ``python -m benchmarks.representation FOLDER``.

FOLDER is that of ``python -m basis.train_nonlinear FOLDER``: it holds the coefficients of the training faces, on which lifts of each length are
trained (or continued) in FOLDER/representation. Both sides see the same faces, and codes of both are fitted by the same L1 with the same optimiser:
projections flatter a decoder that is trained for L1-like errors. Held-out faces are another seed of the generator, and another generator.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fitjax as fj
from benchmarks import report
from benchmarks.report import Report, Table, Target
from fitjax.model.load import load_basis
from fitjax.model.nonlinear_albedo import ConvAlbedo
from fitjax.model.nonlinear_arcs import arcs_of
from fitjax.networks.conv import part_regions
from fitjax.networks.lift import LiftScales
from fitjax.pytree import replace
from fitjax.train.generator import generator_hash
from fitjax.train.generator_shape import random_expressions, random_identities, shape_coefficients
from fitjax.train.lift import LiftSettings, modules
from fitjax.train.run import train_lift
from fitjax.train.shapes import vertex_weights

LENGTHS = (16, 32, 64, 160)
SHAPE_LENGTHS = (32, 64, 160)
SHAPE = LiftSettings(hidden=256, steps=3000, proxy_weight=0.0)
FIT_STEPS, FIT_RATE = 300, 0.03
#: Faces decoded at once, of the times.
BATCHES = (1, 8, 64)
PARTS = ["textures", "shapes", "photos", "times", "conv", "foreign"]
ASKED_SHAPE = {32: 0.10, 64: 0.10, 160: -0.02}


def fit_codes(decode: Callable[[Any], Any], error: Callable[[Any], Any], start: Any, steps: int = FIT_STEPS) -> np.ndarray:
    """Codes (N, k) by Adam on the mean error from a start, the learning rate falling to nothing."""
    optimiser = optax.adam(optax.cosine_decay_schedule(FIT_RATE, steps))

    @jax.jit
    def run(start: Any) -> Any:
        def step(carry: Any, _: None) -> tuple[Any, None]:
            codes, memory = carry
            # Each face has its own optimum: the sum over faces, so that their number changes nothing.
            gradient = jax.grad(lambda z: jnp.sum(error(decode(z))))(codes)
            change, memory = optimiser.update(gradient, memory)
            return (optax.apply_updates(codes, change), memory), None

        return jax.lax.scan(step, (start, optimiser.init(start)), None, length=steps)[0][0]

    return np.asarray(run(start))


def lift_functions(settings: LiftSettings, weights: Any, scales: LiftScales) -> tuple[Callable, Callable]:
    """Codes → coefficients of the full face, and coefficients → codes."""
    decoder, encoder = modules(settings, len(scales.sigma))
    return (
        lambda z: decoder.apply(weights["decoder"], z, scales)[0],
        lambda c: encoder.apply(weights["encoder"], c, scales),
    )


def trained(folder: Path, name: str, settings: LiftSettings, scales: LiftScales, data: Any, held: Any) -> Any:
    """Weights of a lift, trained to the end."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {"generator": generator_hash(), "settings": repr(settings)}

    def progress(name: str, step: int, measured: dict[str, float]) -> None:
        print(f"  {name} {step}/{settings.steps}", {k: round(v, 5) for k, v in measured.items()}, file=sys.stderr, flush=True)

    checkpoint, metrics = folder / f"{name}.checkpoint.safetensors", folder / "metrics.jsonl"
    state = train_lift(settings, scales, data, held, checkpoint, metrics, about, 1000, progress)
    return state.weights


def shape_report(folder: Path, count: int, lengths: tuple[int, ...]) -> tuple[list[Table], list[Target], dict]:
    """Table of shapes with expressions, one code for both."""
    model = load_basis(level=0, sample_sets=())
    rule, extra = arcs_of(model)
    k_id, names, upper = model.n_identity, model.expression_names, np.asarray(model.expression_upper)
    linear = np.asarray(model.modes)
    modes = np.concatenate([linear[:k_id], extra.reshape(len(extra), -1), linear[k_id:]]).reshape(-1, model.n_vertices, 3) * 1000
    with np.load(folder / "identities.npz") as stored:
        people = {"train": stored["train"], "held": stored["held"]}

    def faces(ids: np.ndarray, seed: int) -> np.ndarray:
        expression = random_expressions(names, upper, len(ids), seed)
        return shape_coefficients(rule, ids, random_identities(k_id, len(ids), seed)[1], expression)

    train, held = faces(people["train"], 0), faces(people["held"], 1)
    weight = vertex_weights(model)
    flat = (modes * np.sqrt(weight)[:, None]).reshape(len(modes), -1).astype(np.float64)
    gram = flat @ flat.T
    factor = np.linalg.cholesky(gram + 1e-9 * np.trace(gram) / len(gram) * np.eye(len(gram)))
    centre = train.mean(0)
    values, vectors = np.linalg.eigh(np.cov(((train - centre) @ factor).T))
    keep = np.argsort(-values)[: int((values > 1e-6).sum())]
    values, vectors = values[keep], vectors[:, keep]
    data, others = (((x - centre) @ factor @ vectors).astype(np.float32) for x in (train, held))
    sigma = jnp.asarray(np.sqrt(values), jnp.float32)
    scales = LiftScales(sigma, jnp.eye(len(sigma)))
    front = weight > 0.5 * np.median(weight[weight > 0])
    back = vectors.T @ np.linalg.inv(factor)
    basis = jnp.asarray((back @ modes[:, front].reshape(len(modes), -1)).astype(np.float32))
    test = others[:count]
    target = jnp.asarray(test) @ basis
    arcs = held[:count] * np.r_[np.zeros(k_id), np.ones(len(modes) - k_id)]
    strength = np.sqrt(((arcs @ flat) ** 2).sum(1))
    strong = strength > np.quantile(strength, 2 / 3)
    distance = lambda x: jnp.sqrt(jnp.sum((x - target).reshape(count, -1, 3) ** 2, -1) + 1e-8).mean(-1)  # noqa: E731
    rows, targets, facts = [], [], {}
    for k in lengths:
        one = replace(SHAPE, code_length=k)
        weights = trained(folder / "representation", f"shape{k}", one, scales, data, others[-512:])
        decode, encode = lift_functions(one, weights, scales)
        found = {}
        for name, to_coefficients, start, rank in (
            ("PCA L1", lambda z, k=k: z * sigma[:k], jnp.asarray(test)[:, :k] / sigma[:k], k),
            ("lift", decode, encode(jnp.asarray(test)), len(sigma)),
        ):
            draw = lambda z, f=to_coefficients, r=rank: jnp.matmul(f(z), basis[:r])  # noqa: E731
            codes = fit_codes(draw, distance, start)
            found[name] = np.asarray(jax.jit(lambda z, draw=draw: distance(draw(z)))(codes))
        pca, lift = found["PCA L1"], found["lift"]
        projected = float(distance(jnp.asarray(test)[:, :k] @ basis[:k]).mean())
        gain, gain_strong = 100 * (1 - lift.mean() / pca.mean()), 100 * (1 - lift[strong].mean() / pca[strong].mean())
        rows.append([k, projected, pca.mean(), lift.mean(), gain, pca[strong].mean(), lift[strong].mean(), gain_strong])
        facts[str(k)] = {"pca": float(pca.mean()), "lift": float(lift.mean())}
        targets.append(Target(f"shapes, {k} codes: error below PCA's", 100 * ASKED_SHAPE[k], gain, "%", True))
        targets.append(Target(f"shapes, {k} codes, strong expressions", 15.0, gain_strong, "%", True))
        print("shape", k, f"PCA {pca.mean():.3f} lift {lift.mean():.3f}", file=sys.stderr, flush=True)
    columns = ["codes", "PCA projected", "PCA L1", "lift", "lower by %", "strong expressions: PCA L1", "lift", "lower by %"]
    note = f"Mean distance of the face's vertices, millimetres; {count} held-out faces. One code for identity and expression together."
    return [Table("Shapes with expressions at equal code length", columns, rows, note)], targets, facts


def photos_report() -> tuple[list[Table], list[Target], dict]:
    """Five photos fitted by codes alone (the stages before residual maps): the linear model, the lift, and the lift without its gate, which is
    principal components with as many codes."""
    from benchmarks.photometric_photos import load, psnr, shown
    from benchmarks.shared_data import require

    lifted = fj.load_textured("nonlinear", level=0)
    gates = {"identity": replace(lifted.shape, gate=0.0), "albedo": replace(lifted.albedo, gate=0.0)}
    models = {
        "linear": fj.load_textured(level=0),
        "principal components": replace(lifted, shape=gates["identity"], albedo=gates["albedo"]),
        "lift": lifted,
    }
    columns, facts = ["photo"], {}
    for name, model in models.items():
        codes = sum(len(model.init()[group]) for group in ("identity", "albedo"))
        columns += [f"{name} ({codes} codes), dB", "s"]
    rows, gains = [], []
    for path in sorted(require("ffhq").glob("*.png")):
        case = load(path)
        row: list[Any] = [case.name]
        found = {}
        for name, model in models.items():
            stages = fj.photometric_stages(case.observation, until="photometric")
            losses = fj.photometric_losses(case.observation, model)
            if not rows:
                fj.fit(case.observation, model=model, losses=losses, stages=stages, throw=False)  # compiles
            solution = fj.fit(case.observation, model=model, losses=losses, stages=stages, throw=False)
            drawn = shown(model, solution.params, case)
            where = case.skin & (drawn["trusted"] > 0.5)
            found[name] = psnr(drawn["srgb"], case.target, where)
            row += [found[name], solution.seconds]
        gains.append(found["lift"] - found["linear"])
        facts[case.name] = found
        rows.append(row)
        print(case.name, found, file=sys.stderr, flush=True)
    note = "PSNR of the render by codes alone inside the skin mask, level 0; seconds of one fit, compiled."
    targets = [Target("photos, codes alone: least gain over the linear model", 2.0, min(gains), "dB", True)]
    return [Table("Five FFHQ photos", columns, rows, note)], targets, facts


def times_report() -> tuple[list[Table], list[Target], dict]:
    """Milliseconds to decode one face, forward and with a gradient, median of 15; and faces per second of batches, median of 5."""
    lifted = fj.load_textured("nonlinear", level=0)
    height, width = lifted.albedo.height, lifted.albedo.width
    regions = part_regions(np.asarray(lifted.shape.uv_parts), height, width, nose=False)
    conv = ConvAlbedo(jnp.zeros((height, width, 3)), jnp.float32(0.5), None, regions=regions, size=256)
    conv = replace(conv, weights=jax.jit(conv.module.init)(jax.random.key(0), jnp.zeros((1, conv.code_length))))
    small = part_regions(np.asarray(lifted.shape.uv_parts), height // 2, width // 2, nose=False)
    half = replace(conv, mean=jnp.zeros((height // 2, width // 2, 3)), regions=small, channels=conv.channels[1:])
    half = replace(half, weights=jax.jit(half.module.init)(jax.random.key(0), jnp.zeros((1, half.code_length))))
    rows, facts = [], {}

    def median(function: Callable[[Any], Any], code: Any, times: int = 15) -> float:
        jax.block_until_ready(function(code))
        seconds = []
        for _ in range(times):
            began = time.perf_counter()
            jax.block_until_ready(function(code))
            seconds.append(time.perf_counter() - began)
        return 1000 * float(np.median(seconds))

    for name, model in {"lift": lifted.albedo, "global-local": conv, f"global-local, {height // 2} × {width // 2}": half}.items():
        code = jnp.zeros(model.code_length)
        forward = jax.jit(lambda z, model=model: model.values(z))
        backward = jax.jit(jax.value_and_grad(lambda z, model=model: sum(jnp.sum(x**2) for x in model.values(z))))
        together = jax.jit(jax.vmap(lambda z, model=model: model.values(z)))
        rates = [1000 * n / median(together, jnp.zeros((n, model.code_length)), 5) for n in BATCHES]
        facts[name] = median(forward, code), median(backward, code), *rates
        rows.append([name, *facts[name]])
    asked = {"lift": (30, 80), "global-local": (30, 80), f"global-local, {height // 2} × {width // 2}": (10, 30)}
    targets = [
        Target(f"decode, {name}{what}", limit, facts[name][k], "ms")
        for name, limits in asked.items()
        for k, (what, limit) in enumerate(zip(("", " with gradient"), limits))
    ]
    note = f"Full and proxy albedo map of one face at {height} × {width}."
    columns = ["model", "forward, ms", "with gradient, ms", *[f"faces/s, {n} at once" for n in BATCHES]]
    return [Table("Decoding", columns, rows, note)], targets, facts


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.representation", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of python -m basis.train_nonlinear")
    parser.add_argument("--faces", type=int, default=48, help="held-out faces per table")
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    textures = parser.add_argument_group("lifts of --only textures")
    textures.add_argument("--train-faces", type=int, default=48_000, help="faces that they learn; more than 48000 are drawn and kept in FOLDER")
    textures.add_argument("--feature-weight", type=float, default=0.0, help="how much more texels of features weigh")
    textures.add_argument("--texel-weight", type=float, default=0.0, help="of the L1 at texels, beside the error of the coefficients")
    textures.add_argument("--local", action="store_true", help="local residual: components and paths around eyes, mouth and nose")
    textures.add_argument("--steps", type=int, default=4000)
    textures.add_argument("--hidden", type=int, default=384, help="width of the networks")
    parser.add_argument("--textures", type=Path, help="results of fits of photos, for --only foreign")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "representation")
    options = parser.parse_args(arguments)
    print(f"generator {generator_hash()}", file=sys.stderr)
    around, began = report.environment(), time.perf_counter()
    result = Report("representation", "Representation power at equal code length")
    if "textures" in options.only:
        from benchmarks.representation_textures import Recipe, texture_report

        recipe = Recipe(options.train_faces, options.feature_weight, options.texel_weight, options.local, options.steps, options.hidden)
        tables, targets, facts, worst = texture_report(options.folder, options.faces, tuple(options.lengths), recipe)
        result.tables += tables
        result.targets += targets
        result.facts |= {"textures": facts, "worst": worst}
    if "shapes" in options.only:
        lengths = tuple(k for k in SHAPE_LENGTHS if k in options.lengths)
        tables, targets, facts = shape_report(options.folder, options.faces, lengths)
        result.tables += tables
        result.targets += targets
        result.facts |= {"shapes": facts}
    if "conv" in options.only:
        from benchmarks.representation_conv import conv_report

        tables, targets, facts, pictures = conv_report(options.folder)
        result.tables += tables
        result.targets += targets
        result.facts |= {"conv": facts}
        result.pictures |= pictures
    if "foreign" in options.only:
        from benchmarks.representation_foreign import foreign_report

        tables, targets, facts = foreign_report(options.folder, options.textures)
        result.tables += tables
        result.targets += targets
        result.facts |= {"foreign": facts}
    for name, measure in (("photos", photos_report), ("times", times_report)):
        if name in options.only:
            tables, targets, facts = measure()
            result.tables += tables
            result.targets += targets
            result.facts |= {name: facts}
    result.facts |= {"generator": generator_hash(), "seconds": round(time.perf_counter() - began)}
    print(report.write(options.out, [result], around, f"python -m benchmarks.representation FOLDER --faces {options.faces}"))
    print(json.dumps(result.facts), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
