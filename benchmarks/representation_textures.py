"""Textures at equal code length, lifts against principal components: ``python -m benchmarks.representation FOLDER --only textures``."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.report import Table, Target
from benchmarks.representation import fit_codes, lift_functions, trained
from fitjax.model.albedo import default_albedo
from fitjax.model.load import load_basis
from fitjax.networks.lift import LiftScales
from fitjax.pytree import replace
from fitjax.render.lighting import srgb_from_linear
from fitjax.train.albedo_data import albedo_data, feature_texels
from fitjax.train.generator import albedo_batch, albedo_generator
from fitjax.train.heldout import heldout_albedo
from fitjax.train.lift import LiftSettings
from fitjax.train.local import LocalComponents
from fitjax.train.more_faces import LOCAL_RANK
from fitjax.train.run import PRESETS, make_faces
from fitjax.train.texels import texels_of

ALBEDO = LiftSettings(hidden=384, steps=4000)
#: The least reduction of the error asked for, by length; and around eyes, brows and mouth at all of them.
ASKED = {16: 0.33, 32: 0.33, 64: 0.33, 160: 0.25}
ASKED_FEATURES = 0.25
#: First of the held-out faces, whose seed is the training's next: those before it are for metrics.
FIRST = 512


@dataclass(frozen=True)
class Recipe:
    """How the lifts of a table are trained: faces, weight of features, of the L1 at texels, local paths, steps, width."""

    faces: int = 48_000
    feature_weight: float = 0.0
    texel_weight: float = 0.0
    local: bool = False
    steps: int = 4000
    hidden: int = 384

    def name(self, length: int) -> str:
        """Of a checkpoint."""
        parts = {"faces": self.faces // 1000 * (self.faces > 48_000), "features": self.feature_weight, "texels": self.texel_weight}
        parts |= {"steps": self.steps * (self.steps != 4000), "hidden": self.hidden * (self.hidden != 384)}
        told = "".join(f"_{name}{value:g}" for name, value in parts.items() if value)
        return f"albedo{length}{told}" + "_local" * self.local


@dataclass(frozen=True)
class Textures:
    """What all lengths share: components (R + L, T, 3) at the T texels of the front, × 255, training and held-out coefficients, faces to measure."""

    scales: LiftScales
    local: LocalComponents | None
    at_front: jax.Array
    mean: jax.Array
    features: np.ndarray
    data: np.ndarray
    held: np.ndarray
    kinds: dict[str, tuple[jax.Array, jax.Array]]


def textures(folder: Path, count: int, recipe: Recipe) -> Textures:
    """Faces and components of a recipe; those of the folder, drawn where it lacks them."""
    settings = PRESETS["full"]
    height, width = settings.height, settings.width
    faces = make_faces(settings, folder)
    model = load_basis(level=0, sample_sets=())
    texels = texels_of(model, height, width)
    base = default_albedo().at(jnp.asarray(texels.uv))
    front = texels.face.reshape(height, width) > 0.5
    chosen = feature_texels(model, height, width) & front
    # Without texels the weight on features is a metric of the coefficients, and faces are mirrored.
    mirrored = recipe.feature_weight > 0 and not recipe.texel_weight
    lift = replace(ALBEDO, texel_weight=recipe.texel_weight)
    asked = dataclasses.replace(
        settings, albedo=lift, feature_weight=recipe.feature_weight, mirrored=mirrored, local=LOCAL_RANK if recipe.local else 0
    )
    learned = albedo_data(asked, faces, model, folder, recipe.faces)
    modes, local, scales = learned.modes, learned.local, learned.scales
    generator = albedo_generator(base, texels)
    drawn = albedo_batch(generator, settings.seed + 1, FIRST, count)[1]
    maps = {
        "held-out faces": srgb_from_linear(drawn).reshape(count, height, width, 3),
        "held-out generator": srgb_from_linear(jnp.asarray(heldout_albedo(base, texels.face.reshape(height, width), count, 7))),
    }
    flat = jnp.asarray(faces["modes"]).reshape(len(faces["modes"]), -1)

    def coefficients(value: jax.Array) -> jax.Array:
        away = value - faces["mean"]
        c = jnp.matmul((away * faces["weight"][..., None]).reshape(count, -1), flat.T)
        return c if local is None else jnp.concatenate([c, local.coefficients(away - jnp.matmul(c, flat).reshape(away.shape))], -1)

    kinds = {kind: (255 * value[:, front].reshape(count, -1), coefficients(value)) for kind, value in maps.items()}
    at_front = jnp.asarray(255 * modes[:, front].reshape(len(modes), -1))
    mean = jnp.asarray(255 * faces["mean"][front].reshape(-1))
    return Textures(scales, local, at_front, mean, chosen[front], learned.data, learned.held_out, kinds)


def texture_report(folder: Path, count: int, lengths: tuple[int, ...], recipe: Recipe) -> tuple[list[Table], list[Target], dict, dict]:
    """The table of textures at each length: its rows, targets, facts and the worst faces."""
    t = textures(folder, count, recipe)
    sigma = t.scales.sigma
    counts = () if t.local is None else t.local.counts
    rows, targets, facts, worst = [], [], {}, {}
    for k in lengths:
        one = replace(ALBEDO, code_length=k, steps=recipe.steps, hidden=recipe.hidden, texel_weight=recipe.texel_weight, local=counts)
        weights = trained(folder / "representation", recipe.name(k), one, t.scales, t.data, t.held)
        decode, encode = lift_functions(one, weights, t.scales)
        for kind, (target, c) in t.kinds.items():
            found = {}
            for name, to_coefficients, start, rank in (
                ("PCA L1", lambda z, k=k: z * sigma[:k], c[:, :k] / sigma[:k], k),
                ("lift", decode, encode(c), len(sigma)),
            ):
                basis = t.at_front[:rank]
                draw = lambda z, f=to_coefficients, b=basis: t.mean + jnp.matmul(f(z), b)  # noqa: E731
                codes = fit_codes(draw, lambda x, t=target: jnp.mean(jnp.abs(x - t), -1), start)
                error = np.abs(np.asarray(jax.jit(draw)(codes) - target)).reshape(count, -1, 3).mean(-1)
                found[name] = error.mean(), error[:, t.features].mean(), error.mean(1)
            projected = np.abs(np.asarray(t.mean + c[:, :k] @ t.at_front[:k] - target)).mean()
            (pca, pca_f, _), (lift, lift_f, each) = found["PCA L1"], found["lift"]
            rows.append([kind, k, projected, pca, lift, 100 * (1 - lift / pca), pca_f, lift_f, 100 * (1 - lift_f / pca_f)])
            facts[f"{kind} {k}"] = {"pca": float(pca), "lift": float(lift), "pca_features": float(pca_f), "lift_features": float(lift_f)}
            worst[f"{kind} {k}"] = int(np.argmax(each))
            if kind == "held-out faces":
                targets.append(Target(f"textures, {k} codes: error below PCA's", 100 * ASKED[k], 100 * (1 - lift / pca), "%", True))
                targets.append(Target(f"textures, {k} codes, features", 100 * ASKED_FEATURES, 100 * (1 - lift_f / pca_f), "%", True))
            else:
                targets.append(Target(f"textures, {k} codes, other generator", 0.0, 100 * (1 - lift / pca), "%", True))
            print(kind, k, f"PCA {pca:.3f} lift {lift:.3f}; features {pca_f:.3f} {lift_f:.3f}", file=sys.stderr, flush=True)
    columns = ["faces", "codes", "PCA projected", "PCA L1", "lift", "lower by %", "features: PCA L1", "lift", "lower by %"]
    note = f"Mean absolute sRGB error, of 255, on the front of the face; {count} faces each. Features: around eyes, brows and mouth. {recipe}"
    return [Table("Textures at equal code length", columns, rows, note)], targets, facts, worst
