"""Albedo models: codes → a map of diffuse reflectance in linear light, in the texture of a face model.

The biophysical one is *log-linear in its pigments*. Per texel and colour channel (derived in ``basis/albedo_spectra.py`` from absorption
spectra; Jacques, Phys. Med. Biol. 58, 2013; Alotaibi and Smith, ICCV Workshops 2017)

    skin = floor + (1 - floor) · dermis · (1 + m μ / k)^-k · exp(-η √(h + o)) · exp(-κ y)

with haemoglobin h and a yellow pigment y = exp(mean map + Σ codes · maps), and melanin m = exp(tone + mean map + Σ codes · maps) - offset, kept
positive by a soft threshold. So skin stays in (0, 1). The offset (half of what medium skin has) makes a step of tone, and of every melanin
code, about the same step of log albedo on all skins: otherwise a pattern would cost light skin more prior than dark skin.
(1 + x / k)^-k is Beer's law averaged over unequal amounts of melanin (the sieve effect); Beer's law itself makes dark skin orange.
Hair (brows, beard, moustache, scalp, lashes) covers skin by a soft level set; eyes and mouth have colours of their own.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fitjax.errors import BasisError
from fitjax.model.tensor_file import read_tensor_file
from fitjax.pytree import pytree, replace, static

FORMAT = "fitjax-albedo/1"
EMBEDDED = "embedded"
CODE_LIMIT = 4.0
_TONE_LEAK = 0.04  # keeps a slope at the ends of the tone scale
_TONE_PRIOR = 0.1  # weight of code 0 in the prior, see BiophysicalAlbedo.prior
_SOFT = 0.1  # melanin at which the threshold at zero starts to bend
_MARGIN = 0.02  # where LinearAlbedo starts to bend values back into (0, 1)


@runtime_checkable
class AlbedoModel(Protocol):
    """What an albedo model answers. Codes are N(0, 1) a priori; the prior is elementwise, as for `fitjax.model.protocol.Model`."""

    @property
    def n_codes(self) -> int: ...

    def init(self) -> Float[Array, "K"]:
        """The codes of the mean."""
        ...

    def decode(self, code: Float[Array, "K"]) -> Float[Array, "*S 3"]:
        """Albedo in linear light, in (0, 1): (H, W, 3) with row 0 at v = 1, or whatever ``shape`` says, and channels."""
        ...

    def at(self, uv: Float[Array, "S 2"]) -> AlbedoModel:
        """The same model, its codes and all, at texture coordinates: its decode returns (S, 3)."""
        ...

    def prior(self, code: Float[Array, "K"]) -> Float[Array, "K"]:
        """Whitened codes."""
        ...

    def bounds(self) -> tuple[Float[Array, "K"], Float[Array, "K"]]:
        """(lower, upper): beyond these the model means nothing."""
        ...


class _UnitCodes:
    """Codes that are already whitened."""

    @property
    def n_codes(self) -> int:
        raise NotImplementedError

    @property
    def _dtype(self) -> Any:
        raise NotImplementedError

    def init(self) -> Float[Array, "K"]:
        return jnp.zeros(self.n_codes, self._dtype)

    def prior(self, code: Float[Array, "K"]) -> Float[Array, "K"]:
        return code

    def bounds(self) -> tuple[Float[Array, "K"], Float[Array, "K"]]:
        limit = jnp.full(self.n_codes, CODE_LIMIT, self._dtype)
        return -limit, limit


@pytree
class BiophysicalAlbedo(_UnitCodes):
    """Pigments, hair, eyes and mouth. P points (texels of a map, or samples), K codes, R maps, J kinds of hair, M materials.

    Attributes:
        maps: (R, P) spatial patterns; ``channel_mean`` (3, P) log melanin relative to the tone, log haemoglobin, log yellow at code zero.
        mix: (K, 3 R) what a unit of each code adds to the three channels, per map.
        slope_mix: (K,) change of the exponent of melanin's spectrum (eumelanin to pheomelanin).
        tone: (3,) [low, high, offset] of log (melanin + offset), see :meth:`log_melanin`.
        spectra: (7, 3) rows floor, dermis, μ, k, η, o, κ of the formula above, per RGB channel.
        slope_basis: (3,) log(λ / 550 nm) per channel.
        hair_distance: (J, P) mm inside the border of each kind of hair; ``hair_softness`` (J,) mm.
        hair_mean, hair_mix: (2 J,) and (K, 2 J): logit of the density, then shift of the border in mm.
        hair_colour_mean, hair_colour_mix: (2,) and (K, 2) log eumelanin and log pheomelanin of hair; ``hair_strength`` (J,) multiplies both.
        hair_spectra: (4, 3) floor, white, eumelanin, pheomelanin.
        material: (M, P) weights of what is not skin; ``material_mean`` (M, 3), ``material_mix`` (K, 3 M) logits of their colours.
        shape: of the points: (H, W), or (S,) for samples. ``names``: of the codes.
    """

    maps: Float[Array, "R P"]
    channel_mean: Float[Array, "3 P"]
    mix: Float[Array, "K R3"]
    slope_mix: Float[Array, "K"]
    tone: Float[Array, "3"]
    spectra: Float[Array, "7 3"]
    slope_basis: Float[Array, "3"]
    hair_distance: Float[Array, "J P"]
    hair_softness: Float[Array, "J"]
    hair_mean: Float[Array, "J2"]
    hair_mix: Float[Array, "K J2"]
    hair_colour_mean: Float[Array, "2"]
    hair_colour_mix: Float[Array, "K 2"]
    hair_strength: Float[Array, "J"]
    hair_spectra: Float[Array, "4 3"]
    material: Float[Array, "M P"]
    material_mean: Float[Array, "M 3"]
    material_mix: Float[Array, "K M3"]
    shape: tuple[int, ...] = static(default=(256, 256))
    names: tuple[str, ...] = static(default=())
    sha256: str = static(default="")
    licence: str = static(default="")

    @property
    def n_codes(self) -> int:
        return self.mix.shape[0]

    @property
    def _dtype(self) -> Any:
        return self.maps.dtype

    def code(self, **named: float) -> Float[Array, "K"]:
        """Codes by name, zero elsewhere: ``albedo.code(melanin=1.0, beard_density=2.0)``.

        Raises:
            BasisError: a name is unknown.
        """
        unknown = [name for name in named if name not in self.names]
        if unknown:
            raise BasisError(f"albedo codes {unknown}: expected some of {', '.join(self.names)}")
        return jnp.asarray([named.get(name, 0.0) for name in self.names], self._dtype)

    def log_melanin(self, code: Float[Array, "K"]) -> Float[Array, ""]:
        """Log of (melanin + offset) of the whole face, from code 0. Φ, the normal distribution function, makes N(0, 1) uniform on a scale that
        is about linear in CIELAB lightness. A little of the code itself keeps the slope at the ends above zero.
        """
        c = code[0]
        t = (1 - _TONE_LEAK) * jax.scipy.special.ndtr(c) + _TONE_LEAK * (0.5 + 0.5 * jnp.tanh(0.5 * c))
        return self.tone[0] + (self.tone[1] - self.tone[0]) * t

    def decode(self, code: Float[Array, "K"]) -> Float[Array, "*S 3"]:
        """Albedo (*shape, 3) in linear light, in (0, 1) for any finite code."""
        dot = lambda a, b: jnp.matmul(a, b, precision="highest")  # noqa: E731
        # Points run along the last axis: three colours there would leave vector units idle.
        pigment = self.channel_mean + dot(dot(code, self.mix).reshape(3, -1), self.maps)
        m = jnp.exp(pigment[0] + self.log_melanin(code)) - self.tone[2]
        m, h, y = _SOFT * jax.nn.softplus(m / _SOFT), jnp.exp(pigment[1]), jnp.exp(pigment[2])
        floor, dermis, mu, sieve, eta, offset, kappa = self.spectra[..., None]
        mu = mu * jnp.exp(dot(code, self.slope_mix) * self.slope_basis)[:, None]
        depth = sieve * jnp.log1p(m * mu / sieve) + eta * jnp.sqrt(h + offset) + kappa * y
        colour = floor + (1 - floor) * dermis * jnp.exp(-depth)

        density, reach = (self.hair_mean + dot(code, self.hair_mix)).reshape(2, -1)
        inside = (self.hair_distance + reach[:, None]) / self.hair_softness[:, None]
        cover = jax.nn.sigmoid(density)[:, None] * jax.nn.sigmoid(inside)
        amount = jnp.exp(self.hair_colour_mean + dot(code, self.hair_colour_mix))
        hair_floor, white, eu, pheo = self.hair_spectra
        absorbed = (amount[0] * eu + amount[1] * pheo) * self.hair_strength[:, None]
        hair = hair_floor + (1 - hair_floor) * white * jnp.exp(-jnp.sqrt(absorbed))
        for j in range(self.hair_strength.shape[0]):
            colour = colour + cover[j] * (hair[j][:, None] - colour)

        materials = jax.nn.sigmoid(self.material_mean + dot(code, self.material_mix).reshape(-1, 3))
        colour = (1 - self.material.sum(0)) * colour + dot(materials.T, self.material)
        return colour.T.reshape(*self.shape, 3)

    def prior(self, code: Float[Array, "K"]) -> Float[Array, "K"]:
        """The codes; that of the face's melanin divided by ten.

        Drawn from N(0, 1) it is uniform over tones, but the *most probable* value depends on the coordinate: Gaussian in the code, the mode
        is a medium skin, and a fit would darken light faces and lighten dark ones. Uniform in tone there is no pull; a trace of it
        keeps the ends of the scale, where the picture hardly changes, determined.
        """
        return code.at[0].multiply(_TONE_PRIOR)

    def at(self, uv: Float[Array, "S 2"]) -> BiophysicalAlbedo:
        """The same model at texture coordinates (S, 2), origin bottom-left: its codes are the same, its decode returns (S, 3).

        Pigments, not colours, are interpolated (bilinearly), once and for all: the way to fit many pixels without decoding a map.
        """
        height, width = self.shape
        points = lambda x: bilinear(x.reshape(-1, height, width), uv)  # noqa: E731
        return replace(
            self,
            maps=points(self.maps),
            channel_mean=points(self.channel_mean),
            hair_distance=points(self.hair_distance),
            material=points(self.material),
            shape=(len(uv),),
        )

    def astype(self, dtype: np.typing.DTypeLike) -> BiophysicalAlbedo:
        """The model in another floating dtype (float64 needs JAX's x64 mode)."""
        return jax.tree.map(lambda x: x.astype(dtype), self)


@pytree
class LinearAlbedo(_UnitCodes):
    """Mean + Σ codes · σ · basis, for models that bring a linear albedo (Blanz and Vetter 1999): as a UV map or per vertex.

    Attributes:
        mean: (*shape, 3); basis (K, *shape, 3); sigma (K,) standard deviations.
        per_vertex: ``shape`` is (V,) and decode returns (V, 3); :meth:`to_uv` turns such a model into one of maps.
        srgb: the data are sRGB-encoded in [0, 1] (as in BFM after division by 255); decode returns linear light either way.
    """

    mean: Float[Array, "*S 3"]
    basis: Float[Array, "K *S 3"]
    sigma: Float[Array, "K"]
    per_vertex: bool = static(default=False)
    srgb: bool = static(default=False)

    @property
    def n_codes(self) -> int:
        return self.basis.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.mean.shape[:-1]

    @property
    def _dtype(self) -> Any:
        return self.mean.dtype

    def decode(self, code: Float[Array, "K"]) -> Float[Array, "*S 3"]:
        """Albedo in linear light. Values within 0.02 of 0 and 1, and beyond, are bent smoothly into (0, 1); others are exact."""
        flat = jnp.matmul(code * self.sigma, self.basis.reshape(self.n_codes, -1), precision="highest")
        return _linear_light(self.mean + flat.reshape(self.mean.shape), self.srgb)

    def at(self, uv: Float[Array, "S 2"]) -> LinearAlbedo:
        """The model of maps at texture coordinates (S, 2), origin bottom-left; decode returns (S, 3).

        Raises:
            BasisError: the model is per vertex.
        """
        if self.per_vertex:
            raise BasisError("LinearAlbedo.at: expected a model of maps; LinearAlbedo.to_uv makes one of a model per vertex")
        height, width = self.shape

        def points(maps: Array) -> Array:
            channels = jnp.moveaxis(maps, -1, -3).reshape(-1, height, width)
            return jnp.moveaxis(bilinear(channels, uv).reshape(*maps.shape[:-3], 3, len(uv)), -2, -1)

        return replace(self, mean=points(self.mean), basis=points(self.basis))

    def to_uv(self, uv: np.ndarray, uv_triangles: np.ndarray, triangles: np.ndarray, size: int = 256) -> LinearAlbedo:
        """A per-vertex model as maps (size, size): texel centres interpolate their triangle; gutters repeat their nearest texel.

        Args:
            uv: (T, 2) origin bottom-left; uv_triangles, triangles: (F, 3).

        Raises:
            BasisError: the model is not per vertex, or no triangle covers a texel.
        """
        from scipy.ndimage import distance_transform_edt

        from fitjax.render.reference import rasterize_reference

        if not self.per_vertex:
            raise BasisError("LinearAlbedo.to_uv: expected a model with per_vertex=True; this one is in maps already")
        screen = np.concatenate([np.asarray(uv) * [size, -size] + [-0.5, size - 0.5], np.ones((len(uv), 1))], 1)
        raster = rasterize_reference(screen, np.asarray(uv_triangles), size, size, cull_back=False)
        if (raster.triangle_id < 0).all():
            raise BasisError("LinearAlbedo.to_uv: no triangle covers a texel; expected texture coordinates in [0, 1]")
        near = tuple(distance_transform_edt(raster.triangle_id < 0, return_distances=False, return_indices=True))
        corner, weight = np.asarray(triangles)[raster.triangle_id[near]], raster.barycentric[near]

        def spread(per_vertex: Array) -> Array:
            mixed = np.einsum("hwk,...hwkc->...hwc", weight, np.asarray(per_vertex)[..., corner, :])
            return jnp.asarray(mixed, self._dtype)

        return replace(self, mean=spread(self.mean), basis=spread(self.basis), per_vertex=False)


def _linear_light(value: Array, srgb: bool) -> Array:
    """Into (0, 1), and from sRGB to linear light."""
    low = _MARGIN * jnp.exp((jnp.minimum(value, _MARGIN) - _MARGIN) / _MARGIN)
    high = 1 - _MARGIN * jnp.exp((1 - _MARGIN - jnp.maximum(value, 1 - _MARGIN)) / _MARGIN)
    # Far out the exponentials reach 0 and 1 in floating point; a trace keeps the interval open.
    value = jnp.clip(jnp.where(value < _MARGIN, low, jnp.where(value > 1 - _MARGIN, high, value)), 1e-6, 1 - 1e-6)
    if not srgb:
        return value
    return jnp.where(value <= 0.04045, value / 12.92, ((jnp.maximum(value, 0.04045) + 0.055) / 1.055) ** 2.4)


def bilinear(maps: Float[Array, "C H W"], uv: Float[Array, "S 2"]) -> Float[Array, "C S"]:
    """Maps at texture coordinates, origin bottom-left; texel (row r, column c) has its centre at ((c + ½) / W, 1 - (r + ½) / H)."""
    height, width = maps.shape[-2:]
    x = jnp.clip(uv[:, 0] * width - 0.5, 0, width - 1)
    y = jnp.clip((1 - uv[:, 1]) * height - 0.5, 0, height - 1)
    left, top = jnp.minimum(x.astype(int), width - 2), jnp.minimum(y.astype(int), height - 2)
    fx, fy = x - left, y - top
    upper = maps[:, top, left] * (1 - fx) + maps[:, top, left + 1] * fx
    lower = maps[:, top + 1, left] * (1 - fx) + maps[:, top + 1, left + 1] * fx
    return upper * (1 - fy) + lower * fy


def default_albedo(size: int = 256) -> BiophysicalAlbedo:
    """The albedo model of the embedded basis, in its texture; 512 draws brows and irises better, at four times the cost of a decode."""
    model = load_albedo(EMBEDDED, size)
    assert isinstance(model, BiophysicalAlbedo)
    return model


def load_albedo(name_or_path: str | Path = EMBEDDED, size: int = 256) -> BiophysicalAlbedo | LinearAlbedo:
    """Load an albedo model: ``"embedded"``, or the path of a `fitjax-albedo/1` file (docs/albedo.md).

    Args:
        size: rows and columns of the maps of a biophysical model: 256 or 512. Linear models keep the size they have.

    Raises:
        BasisError: no such file, a damaged file, one whose hash differs from the record beside it, another format or size.
    """
    if size not in (256, 512):
        raise BasisError(f"albedo size: expected 256 or 512, found {size!r}")
    path = Path(name_or_path)
    if str(name_or_path) == EMBEDDED:
        path = Path(str(resources.files("fitjax") / "data" / "embedded_albedo.safetensors"))
    if not path.is_file():
        raise BasisError(f"albedo {path}: no such file; expected {EMBEDDED!r} or the path of a {FORMAT} file")
    tensors, metadata, sha256 = read_tensor_file(path, "albedo", FORMAT)
    record = path.with_suffix(".json")
    if str(name_or_path) == EMBEDDED and json.loads(record.read_text())["sha256"] != sha256:
        raise BasisError(f"albedo {path}: the file differs from its record {record.name}; reinstall or rebuild it")
    try:
        tensors = {k: _finite(k, v) for k, v in tensors.items()}
        if metadata.get("kind") == "linear":
            return _linear(tensors, metadata)
        return _biophysical(tensors, metadata, sha256, size)
    except KeyError as error:
        raise BasisError(f"albedo {path}: field {error} is missing; rebuild the file") from None
    except (BasisError, ValueError, TypeError) as error:
        raise BasisError(f"albedo {path}: {error}") from None


def _finite(name: str, value: np.ndarray) -> np.ndarray:
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise BasisError(f"field {name!r}: holds values that are not finite; rebuild the file")
    return value


def _expect(name: str, value: Any, shape: tuple[int, ...]) -> Any:
    if value.shape != shape:
        raise BasisError(f"field {name!r}: expected shape {shape}, found {value.shape}")
    return value


def _stored(tensors: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Maps (N, H, W) float32 from integers with a scale and an offset per map."""
    value = tensors[name]
    if value.ndim != 3 or value.dtype.kind not in "iu":
        raise BasisError(
            f"field {name!r}: expected integers of shape (maps, rows, columns), found {value.dtype} {value.shape}"
        )
    scale = _expect(f"{name}.scale", tensors[f"{name}.scale"], (len(value),))
    offset = _expect(f"{name}.offset", tensors[f"{name}.offset"], (len(value),))
    return value.astype(np.float32) * scale[:, None, None] + offset[:, None, None]


def _resized(maps: np.ndarray, size: int) -> np.ndarray:
    """Maps (N, h, w) with ``size`` columns: cubic splines between texel centres, or means of blocks where they get smaller."""
    from scipy.ndimage import zoom

    n, rows, columns = maps.shape
    if columns > size:
        step = columns // size
        return maps.reshape(n, rows // step, step, size, step).mean((2, 4))
    # Splines overshoot at an edge by a little; the range of the map is kept.
    enlarged = [zoom(x, size / columns, order=3, mode="nearest", grid_mode=True).clip(x.min(), x.max()) for x in maps]
    return np.stack(enlarged).astype(np.float32) if columns < size else maps


def _biophysical(tensors: dict[str, np.ndarray], metadata: dict[str, str], sha256: str, size: int) -> BiophysicalAlbedo:
    names = tuple(json.loads(metadata["names"]))
    fine, smooth, hair, below = (_resized(_stored(tensors, k), size) for k in ("fine", "smooth", "hair", "material"))
    # What is not skin lies in the last rows of the texture: only those are stored.
    if below.shape[1] > size or any(x.shape[1] != size for x in (fine, smooth, hair)):
        raise BasisError("fields 'fine', 'smooth', 'hair': expected square maps, and no more rows of 'material'")
    maps = np.concatenate([np.ones((1, size, size), np.float32), smooth, fine])
    material = np.concatenate([np.zeros((len(below), size - below.shape[1], size), np.float32), below], 1)
    k, r, j, m = len(names), len(maps), len(hair), len(material)
    shapes = {
        "mix": (k, 3 * r), "slope_mix": (k,), "tone": (3,), "spectra": (7, 3), "slope_basis": (3,), "hair_softness": (j,),
        "hair_mean": (2 * j,), "hair_mix": (k, 2 * j), "hair_colour_mean": (2,), "hair_colour_mix": (k, 2), "hair_strength": (j,),
        "hair_spectra": (4, 3), "material_mean": (m, 3), "material_mix": (k, 3 * m),
    }  # fmt: skip
    small = {name: jnp.asarray(_expect(name, tensors[name], shape)) for name, shape in shapes.items()}
    mean_mix = _expect("mean_mix", tensors["mean_mix"], (3, r))
    flat = maps.reshape(r, -1)
    return BiophysicalAlbedo(
        maps=jnp.asarray(flat),
        channel_mean=jnp.asarray(mean_mix @ flat),
        hair_distance=jnp.asarray(hair.reshape(j, -1)),
        material=jnp.asarray(material.reshape(m, -1)),
        shape=(size, size),
        names=names,
        sha256=sha256,
        licence=metadata.get("licence", "unknown"),
        **small,
    )


def _linear(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> LinearAlbedo:
    mean, basis, sigma = (jnp.asarray(tensors[k], jnp.float32) for k in ("mean", "basis", "sigma"))
    _expect("basis", basis, (len(sigma), *mean.shape))
    per_vertex = mean.ndim == 2
    if mean.ndim not in (2, 3) or mean.shape[-1] != 3:
        raise BasisError(f"field 'mean': expected shape (V, 3) or (H, W, 3), found {mean.shape}")
    return LinearAlbedo(mean, basis, sigma, per_vertex, metadata.get("space", "linear") == "srgb")
