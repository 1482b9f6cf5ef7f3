"""Random albedo: the embedded biophysical model plus what it lacks, as a smooth function of independent standard normal controls.

Tone, blood and hair colour come from :class:`fitjax.model.albedo.BiophysicalAlbedo`. On top: blotches, freckles, moles, wrinkles with age and with
expression, lipstick, eye shadow, liner, blush and foundation, brows of their own shape and hair, and the cut of a beard. Spreads are choices, not
measurements of people.

**This file is frozen**: :func:`generator_hash` is recorded with whatever is trained on it. The held-out generator is another file with other code.
"""

from __future__ import annotations

import ast
import hashlib
from dataclasses import dataclass
from functools import partial
from importlib import resources
from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fitjax.model.albedo import BiophysicalAlbedo
from fitjax.pytree import pytree, static
from fitjax.train.texels import Texels, smooth_noise, to_jax

#: Names of the controls after those of the biophysical model, each N(0, 1).
DETAIL_CONTROLS = (
    "age", "raise", "frown", "smile", "squint",
    "blotch_amount", "blotch_angle", "blotch_level", "freckle_density", "freckle_contrast", "freckle_extent", "freckle_size",
    "mole0_x", "mole0_y", "mole0_size", "mole1_x", "mole1_y", "mole1_size",
    "forehead_phase", "forehead_spacing", "fold_depth", "crow_phase", "eye_bag",
    "lipstick", "lipstick_hue", "lipstick_depth", "lipstick_border", "shadow", "shadow_hue", "shadow_depth", "shadow_extent",
    "liner", "liner_width", "blush", "blush_x", "blush_y", "foundation",
    "brow_cover", "brow_width", "brow_height", "brow_arch", "brow_tilt", "brow_length", "brow_taper", "brow_strand", "brow_phase",
    "beard_cover", "beard_border", "beard_cut", "beard_goatee", "beard_patch", "stubble_grey",
)  # fmt: skip

_FROZEN = ("train/texels.py", "train/generator.py", "train/generator_shape.py", "model/nonlinear_arcs.py")
_FRECKLE_BINS = 10
_FRECKLES = 900


@dataclass(frozen=True)
class Controls:
    """The detail controls by name."""

    values: dict[str, Array]

    def unit(self, name: str) -> Array:
        """In (0, 1), uniform."""
        return jax.scipy.special.ndtr(self.values[name])

    def gate(self, name: str, share: float) -> Array:
        """0 for all but about ``share`` of the faces, for these up to 1."""
        quantile = NormalDist().inv_cdf(1 - share)
        return 1 - jnp.exp(-2.0 * jax.nn.relu(self.values[name] - quantile))

    def __getitem__(self, name: str) -> Array:
        return self.values[name]


@pytree
class AlbedoGenerator:
    """P texels; ``skin``, ``face`` (P,) and the fields of :class:`fitjax.train.texels.Texels`, with noise and freckles."""

    base: BiophysicalAlbedo
    fields: dict[str, Float[Array, "*n P"]]
    height: int = static(default=192)
    width: int = static(default=224)

    @property
    def n_controls(self) -> int:
        return self.base.n_codes + len(DETAIL_CONTROLS)

    def decode(self, controls: Float[Array, "D"]) -> Float[Array, "P 3"]:
        """Albedo in linear light of standard normal controls (biophysical codes, then :data:`DETAIL_CONTROLS`)."""
        code, rest = controls[: self.base.n_codes], controls[self.base.n_codes :]
        c = Controls(dict(zip(DETAIL_CONTROLS, rest)))
        names = self.base.names
        # Brows are drawn here; lashes stay.
        code = code.at[names.index("brow_density")].set(-6.0)
        skin = self.base.decode(code)
        return _paint(skin, code, c, self.fields, self.base)

    def sample(self, key: Array) -> tuple[Float[Array, "D"], Float[Array, "P 3"]]:
        """Controls and albedo of one random face."""
        controls = jax.random.normal(key, (self.n_controls,))
        return controls, self.decode(controls)


def albedo_generator(base: BiophysicalAlbedo, texels: Texels) -> AlbedoGenerator:
    """The generator on the texels of a map, with its fixed patterns."""
    folded, at = texels.mirrored(), texels.centres
    random = np.random.default_rng(20190601)
    chosen = texels.position[random.choice(len(texels.position), _FRECKLES, p=texels.face / texels.face.sum())]
    size, threshold = random.uniform(0.7, 1.5, _FRECKLES), random.uniform(0, 1, _FRECKLES)
    freckles = np.zeros((_FRECKLE_BINS, len(texels.position)))
    for centre, width, bin_of in zip(chosen, size, (threshold * _FRECKLE_BINS).astype(int)):
        near = np.flatnonzero((np.abs(texels.position - centre) < 5).all(1))
        distance = ((texels.position[near] - centre) ** 2).sum(1)
        freckles[bin_of, near] = np.maximum(freckles[bin_of, near], np.exp(-0.5 * distance / width**2))

    def around(name: str, *width: float) -> np.ndarray:
        return np.exp(-0.5 * (((folded - at[name]) / np.array(width)) ** 2).sum(1))

    fields = {
        "skin": texels.skin,
        "face": texels.face,
        "x": texels.position[:, 0],
        "folded_x": folded[:, 0],
        "y": texels.position[:, 1],
        "brow": texels.brow.T,
        "lid": texels.lid.T,
        "canthus": texels.canthus.T,
        "fold": texels.fold,
        "lips": texels.lips,
        "coarse": smooth_noise(texels, 11.0, 2, 1) * texels.face,
        "fine": smooth_noise(texels, 2.6, 2, 2) * texels.face,
        "strand": smooth_noise(texels, 1.6, 2, 3),
        "freckles": freckles * texels.face,
        "freckle_place": np.stack([around("cheek", 20, 15, 25) + around("nose", 14, 14, 18), texels.face]),
        "forehead": around("forehead", 34, 15, 40),
        "glabella": around("glabella", 9, 10, 14),
        "chin": around("chin", 17, 16, 22),
        "cheek": np.stack([folded[:, 0] - at["cheek"][0], folded[:, 1] - at["cheek"][1]]),
        "beard": np.asarray(base.hair_distance[1:3]),
        "forehead_y": texels.position[:, 1] - at["forehead"][1],
        "mouth_y": texels.position[:, 1] - at["mouth"][1],
    }
    return AlbedoGenerator(base, to_jax(fields), texels.height, texels.width)


def _mix(colour: Array, over: Array, weight: Array) -> Array:
    return colour + weight[:, None] * (over - colour)


def _comb(phase: Array) -> Array:
    """Narrow dark lines at whole numbers, 0 to 1."""
    return jnp.exp(-6 * jnp.sin(jnp.pi * phase) ** 2)


def _paint(skin: Array, code: Array, c: Controls, f: dict[str, Array], base: BiophysicalAlbedo) -> Array:
    """All layers from the skin outwards."""
    names, face = base.names, f["face"]
    dark = jax.nn.sigmoid(code[names.index("melanin")])
    covered = 0.75 * c.gate("foundation", 0.3)
    tint = jnp.array([0.45, 0.85, 1.0]) + dark * jnp.array([0.25, 0.05, 0.0])

    angle = 1.1 * c["blotch_angle"]
    noise = jnp.cos(angle) * f["coarse"][0] + jnp.sin(angle) * f["coarse"][1]
    blotch = jax.nn.sigmoid((noise - 0.8 - 0.5 * c["blotch_level"]) / 0.3) * 0.15 * jnp.exp(0.5 * c["blotch_amount"])
    size = c.unit("freckle_size")
    dense = 1.15 * c.unit("freckle_density") - 0.35
    bins = (jnp.arange(_FRECKLE_BINS) + 0.5) / _FRECKLE_BINS
    shown = jax.nn.sigmoid((dense - bins) / 0.06)
    freckle = jnp.matmul(shown, f["freckles"] ** (0.6 + 0.9 * size))
    place = c.unit("freckle_extent")
    freckle = freckle * ((1 - place) * jnp.minimum(f["freckle_place"][0], 1) + place * f["freckle_place"][1])
    freckle = 0.42 * jnp.exp(0.4 * c["freckle_contrast"]) * freckle
    log = -(1 - covered) * (blotch + freckle)[:, None] * tint

    age = c.unit("age")
    lift, frown, smile, squint = (jax.nn.relu(c[k] - 0.2) / 1.3 for k in ("raise", "frown", "smile", "squint"))
    spacing = 8.5 * jnp.exp(0.12 * c["forehead_spacing"])
    bow = 0.0011 * f["folded_x"] ** 2
    lines = _comb((f["forehead_y"] + bow) / spacing + 0.22 * c["forehead_phase"]) * f["forehead"]
    upright = _comb((f["folded_x"] - 5.5 + 1.5 * frown) / 11.0) * f["glabella"]
    out, up = f["canthus"]
    radius = jnp.sqrt(out**2 + up**2 + 1e-3)
    fan = (
        _comb(jnp.arctan2(up, out + 3.0) * 2.4 + 0.2 * c["crow_phase"])
        * jnp.exp(-0.5 * ((radius - 12) / 6) ** 2)
        * (out > 0)
    )
    fold = jnp.exp(-0.5 * (f["fold"] / (1.0 + 1.3 * smile)) ** 2) * jax.nn.sigmoid((f["mouth_y"] + 8) / 3)
    bag = jnp.exp(-0.5 * ((f["lid"][1] + 11 + 2 * squint) / 1.8) ** 2) * (f["lid"][0] < 24)
    deep = 0.15 + age**2
    crease = (
        0.30 * deep * (0.35 + lift) * lines
        + 0.28 * deep * (0.2 + frown) * upright
        + 0.30 * deep * (0.15 + 0.6 * squint + 0.5 * smile) * fan
        + 0.22 * (0.2 + 0.6 * age + smile) * jnp.exp(0.4 * c["fold_depth"]) * fold
        + 0.20 * deep * jnp.exp(0.5 * c["eye_bag"]) * bag
    )
    log = log - (crease * face)[:, None] * jnp.array([0.75, 1.0, 1.05])
    colour = skin * jnp.exp(log * f["skin"][:, None])

    for k, side in enumerate((1.0, -1.0)):
        x, y = 18 * c[f"mole{k}_x"] + 30 * side, 24 * c[f"mole{k}_y"] - 18
        width = 1.2 * jnp.exp(0.3 * c[f"mole{k}_size"])
        spot = jnp.exp(-(((f["x"] - x) ** 2 + (f["y"] - y) ** 2) / width**2)) * face
        colour = colour * jnp.exp(-1.1 * spot[:, None] * jnp.array([0.8, 1.0, 1.1]))
    colour = _make_up(colour, c, f)
    return _hair(colour, code, c, f, base)


def _palette(hue: Array, depth: Array, stops: Array) -> Array:
    """A colour between stops (N, 3), linear light, made darker or lighter."""
    at = hue * (stops.shape[0] - 1)
    weight = jnp.maximum(0, 1 - jnp.abs(at - jnp.arange(stops.shape[0])))
    return jnp.matmul(weight, stops) * jnp.exp(0.35 * depth)


_LIP_COLOURS = np.array(
    [[0.36, 0.10, 0.10], [0.45, 0.03, 0.05], [0.30, 0.02, 0.10], [0.42, 0.16, 0.12], [0.12, 0.02, 0.04]]
)
_LID_COLOURS = np.array(
    [[0.10, 0.06, 0.05], [0.30, 0.18, 0.12], [0.10, 0.12, 0.20], [0.22, 0.08, 0.20], [0.06, 0.16, 0.14]]
)


def _make_up(colour: Array, c: Controls, f: dict[str, Array]) -> Array:
    skin = f["skin"]
    lips = jax.nn.sigmoid((f["lips"] + 0.7 * c["lipstick_border"]) / 0.6)
    shade = _palette(c.unit("lipstick_hue"), c["lipstick_depth"], jnp.asarray(_LIP_COLOURS))
    colour = _mix(colour, shade, 0.8 * c.gate("lipstick", 0.35) * lips * skin)
    reach = 7.0 * jnp.exp(0.3 * c["shadow_extent"])
    above = jax.nn.sigmoid(f["lid"][1] + 0.5) * jax.nn.sigmoid((reach - f["lid"][0]) / 1.2)
    shade = _palette(c.unit("shadow_hue"), c["shadow_depth"], jnp.asarray(_LID_COLOURS))
    colour = _mix(colour, shade, 0.65 * c.gate("shadow", 0.3) * above * skin)
    liner = jax.nn.sigmoid((0.7 + 0.5 * c.unit("liner_width") - f["lid"][0]) / 0.3)
    colour = _mix(colour, jnp.array([0.01, 0.01, 0.012]), 0.85 * c.gate("liner", 0.3) * liner * skin)
    x, y = f["cheek"][0] - 5 * c["blush_x"], f["cheek"][1] - 4 * c["blush_y"]
    rouge = jnp.exp(-0.5 * ((x * 0.85 - y * 0.5) ** 2 / 15**2 + (y * 0.85 + x * 0.5) ** 2 / 8**2)) * f["face"]
    return _mix(colour, jnp.array([0.55, 0.16, 0.17]), 0.32 * c.gate("blush", 0.35) * rouge)


def _hair(colour: Array, code: Array, c: Controls, f: dict[str, Array], base: BiophysicalAlbedo) -> Array:
    """Brows with strands and their own shape; beards cut, goateed, patchy, grey."""
    amount = jnp.exp(base.hair_colour_mean + jnp.matmul(code, base.hair_colour_mix))
    floor, white, eu, pheo = base.hair_spectra
    hair = floor + (1 - floor) * white * jnp.exp(-jnp.sqrt(amount[0] * eu + amount[1] * pheo))
    along, height = f["brow"]
    middle = (
        1.1 * c["brow_height"]
        + 1.5 * c["brow_arch"] * (1 - (2.4 * along - 1) ** 2)
        + 1.6 * c["brow_tilt"] * (along - 0.5)
    )
    width = (0.9 + 2.4 * jnp.clip(along, 0.02, 1) ** jnp.exp(0.35 * c["brow_taper"] - 0.6)) * jnp.exp(
        0.25 * c["brow_width"]
    )
    cover = jax.nn.sigmoid((width - jnp.abs(height - middle)) / 0.55)
    start = 0.12 + 0.09 * c["brow_length"]
    ends = jax.nn.sigmoid((along - start) / 0.05) * jax.nn.sigmoid((0.98 - along) / 0.03)
    cover = cover * ends * (jnp.abs(height) < 30)
    lean = (along - 0.3) * 40 * 0.8 + (height - middle) * 0.9
    strands = jnp.sin(2 * jnp.pi * lean / 4.6 + c["brow_phase"])
    thick = 1 - 0.45 * c.unit("brow_strand") * (0.5 + 0.5 * strands)
    dense = jax.nn.sigmoid(1.1 + 1.2 * c["brow_cover"])
    colour = _mix(colour, hair, dense * cover * thick * f["skin"])

    cheek, above = f["beard"]
    goatee = jax.nn.sigmoid(3.0 * c["beard_goatee"] - 2.0)
    border = 2.5 * c["beard_border"] - 2.0
    cut = jax.nn.sigmoid((f["mouth_y"] * 0.6 - 14 + 6 * c["beard_cut"]) / 3.0)
    cheek_cover = (
        jax.nn.sigmoid((cheek + border) / 2.2) * (1 - cut) * (1 - goatee * (1 - jnp.minimum(1.3 * f["chin"], 1)))
    )
    cover = jnp.maximum(cheek_cover, jax.nn.sigmoid((above + border) / 1.6))
    patchy = 1 - 0.6 * c.unit("beard_patch") * jax.nn.sigmoid(2.5 * f["fine"][0])
    tuft = 1 - 0.35 * jax.nn.sigmoid(2.0 * f["strand"][0])
    grey = 0.7 * c.gate("stubble_grey", 0.25)
    bristle = hair + grey * (jnp.array([0.32, 0.31, 0.30]) - hair)
    return _mix(colour, bristle, 0.8 * c.gate("beard_cover", 0.35) * cover * patchy * tuft * f["face"])


@partial(jax.jit, static_argnames=("count",))
def albedo_batch(generator: AlbedoGenerator, seed: Any, first: Any, count: int) -> tuple[Array, Array]:
    """Faces ``first`` … ``first + count`` of a seed: controls (N, D) and albedo in linear light (N, P, 3). Any batch size gives the same faces."""
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(first + jnp.arange(count))
    return jax.vmap(generator.sample)(keys)


def generator_hash() -> str:
    """sha256 of the code that defines the generators of training faces; spaces and comments do not count."""
    folder = resources.files("fitjax")
    text = "\n".join(ast.dump(ast.parse((folder / name).read_text("utf-8"))) for name in _FROZEN)
    return hashlib.sha256(text.encode()).hexdigest()
