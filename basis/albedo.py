"""Build `fitjax/data/embedded_albedo.safetensors` from the embedded basis: python -m basis.albedo

Everything is computed: no photograph and no measured texture went into it, so the result is free of other people's rights (CC0).
Numbers below are standard deviations or means in log pigment (melanin: in log (melanin + offset)),
chosen by looking at renders (`python -m basis.albedo_look`).
"""

import hashlib
import json
from pathlib import Path

import numpy as np

from basis import albedo_maps, albedo_spectra
from basis.albedo_surface import SIZE, texture_surface
from basis.pack import serialise
from fitjax.model.albedo import FORMAT
from fitjax.model.load import load_basis

DATA = Path(__file__).resolve().parents[1] / "fitjax" / "data"

# Melanin of the whole face, from the lightest to the darkest skin, and the offset that makes its scale linear in lightness.
LIGHTEST, DARKEST, TONE_OFFSET = -0.03, 13.0, 0.55
MELANIN, BLOOD, YELLOW = 0, 1, 2

# Mean of each region, (log melanin, log haemoglobin, log yellow).
REGION_MEAN = {
    "cheeks": (0.0, 0.22, 0.0),
    "nose": (0.03, 0.25, 0.0),
    "nose_bridge": (0.01, 0.0, 0.0),
    "forehead": (0.05, -0.05, 0.1),
    "chin": (0.0, 0.10, 0.0),
    "upper_lids": (0.09, 0.18, 0.1),
    "under_eye": (0.07, 0.14, 0.0),
    "eye_rims": (0.03, 0.55, -0.3),
    "around_mouth": (0.04, 0.0, 0.1),
    "lips": (0.01, 1.60, -0.3),
    "lower_lip": (-0.1, 0.04, 0.0),
    "ears": (0.0, 0.25, 0.0),
    "neck": (0.0, -0.12, 0.1),
    "jaw_side": (0.03, -0.08, 0.0),
}
# Codes that act on a region: name, region, and what a unit adds.
REGION_CODES = (
    ("cheek_blush", "cheeks", (0.0, 0.30, 0.0)),
    ("cheek_melanin", "cheeks", (0.09, 0.0, 0.0)),
    ("nose_blush", "nose", (0.0, 0.25, 0.0)),
    ("nose_bridge_melanin", "nose_bridge", (0.07, 0.08, 0.0)),
    ("forehead_melanin", "forehead", (0.09, 0.04, 0.0)),
    ("chin_blush", "chin", (0.0, 0.20, 0.0)),
    ("upper_lid_dark", "upper_lids", (0.18, 0.28, 0.0)),
    ("under_eye_dark", "under_eye", (0.16, 0.24, 0.0)),
    ("eye_rim_blush", "eye_rims", (0.03, 0.35, 0.0)),
    ("mouth_melanin", "around_mouth", (0.09, 0.0, 0.0)),
    ("lip_blush", "lips", (0.0, 0.40, 0.0)),
    ("lip_melanin", "lips", (0.26, 0.0, 0.0)),
    ("lower_lip_light", "lower_lip", (-0.13, -0.15, 0.0)),
    ("ear_blush", "ears", (0.0, 0.35, 0.0)),
    ("neck_melanin", "neck", (0.12, -0.08, 0.0)),
    ("jaw_melanin", "jaw_side", (0.09, -0.04, 0.0)),
)
GLOBAL_CODES = ("melanin", "haemoglobin", "melanin_slope", "yellow")
HAEMOGLOBIN_SIGMA, SLOPE_SIGMA, YELLOW_SIGMA = 0.30, 0.30, 0.55
SMOOTH_SIGMA = {MELANIN: 0.10, BLOOD: 0.22}

# Kind of hair: logit of its mean density, and how strongly it is coloured relative to the scalp's.
HAIR = {"brow": (0.9, 1.3), "beard": (-3.4, 1.3), "moustache": (-3.2, 1.3), "scalp": (2.6, 1.0), "lash": (1.4, 2.0)}
# Codes of hair: name, kind, logit of density per unit, millimetres of border per unit.
HAIR_CODES = (
    ("brow_density", "brow", 0.9, 0.0),
    ("brow_thickness", "brow", 0.0, 0.55),
    ("beard_density", "beard", 1.6, 0.0),
    ("beard_extent", "beard", 0.0, 3.0),
    ("moustache_density", "moustache", 1.6, 0.0),
    ("scalp_density", "scalp", 1.6, 0.0),
    ("hairline", "scalp", 0.0, 4.0),
)
HAIR_COLOUR_CODES = (("hair_dark", (1.1, -0.2)), ("hair_red", (-0.15, 0.9)))
# Dark skin mostly comes with dark hair and irises; the codes of both move freely about that.
HAIR_WITH_SKIN = (0.45, -0.1)
HAIR_COLOUR_MEAN = (np.log(11.0), np.log(0.6))

# Materials in linear light at code zero.
MATERIAL = {
    "sclera": (0.56, 0.53, 0.50),
    "iris": (0.075, 0.050, 0.033),
    "pupil": (0.006, 0.006, 0.006),
    "limbus": (0.03, 0.025, 0.022),
    "mouth": (0.16, 0.045, 0.040),
    "tongue": (0.34, 0.125, 0.115),
    "teeth": (0.62, 0.57, 0.47),
    "socket": (0.40, 0.20, 0.16),
}
# Codes of materials: name and, per material, the change of the logit per channel.
MATERIAL_CODES = (
    ("melanin", {"iris": (-0.25, -0.35, -0.40)}),
    ("iris_light", {"iris": (0.60, 0.90, 1.12), "limbus": (0.2, 0.3, 0.4)}),
    ("iris_warm", {"iris": (0.14, 0.04, -0.30)}),
    ("sclera_red", {"sclera": (-0.15, -0.30, -0.30)}),
    ("teeth_bright", {"teeth": (0.30, 0.34, 0.42)}),
    ("mouth_bright", {"mouth": (0.35, 0.25, 0.25), "tongue": (0.35, 0.3, 0.3)}),
)


def symmetrised(maps: np.ndarray, rows: int, sign: float = 1.0) -> np.ndarray:
    """Maps (N, H, W) made exactly even (or odd, ``sign`` = -1) in their first rows, the skin's."""
    result = maps.copy()
    result[:, :rows] = 0.5 * (maps[:, :rows] + sign * maps[:, :rows, ::-1])
    return result


def code_names() -> list[str]:
    """Names of all codes, in order."""
    n_even, n_smooth = albedo_maps.N_EVEN, albedo_maps.N_EVEN + albedo_maps.N_ODD
    smooth = [f"{'even' if k < n_even else 'odd'}_{k if k < n_even else k - n_even}" for k in range(n_smooth)]
    groups = (REGION_CODES, HAIR_CODES, HAIR_COLOUR_CODES, MATERIAL_CODES)
    named = [str(row[0]) for group in groups for row in group if row[0] not in GLOBAL_CODES]
    return [*GLOBAL_CODES, *(f"melanin_{s}" for s in smooth), *(f"haemoglobin_{s}" for s in smooth), *named]


def quantised(name: str, maps: np.ndarray, dtype: type) -> dict[str, np.ndarray]:
    """Maps (N, H, W) as integers with a scale and offset per map."""
    info = np.iinfo(dtype)
    low, high = maps.min((1, 2)), maps.max((1, 2))
    scale = np.maximum(high - low, 1e-9) / (info.max - info.min)
    offset = low - info.min * scale
    stored = np.round((maps - offset[:, None, None]) / scale[:, None, None]).clip(info.min, info.max)
    return {
        name: stored.astype(dtype),
        f"{name}.scale": scale.astype(np.float32),
        f"{name}.offset": offset.astype(np.float32),
    }


def spectra() -> tuple[np.ndarray, np.ndarray, float]:
    """Rows floor, dermis, μ, k, η, o, κ (7, 3); log(λ / 550 nm) (3,); largest relative error of the closed form."""
    fitted, error = albedo_spectra.fit_closed_form()
    # Carotenoids absorb blue, and a little green (peaks at 450 and 480 nm).
    kappa = np.array([0.0, 0.10, 1.0])
    rows = [fitted[k] for k in ("floor", "dermis", "melanin", "sieve", "haemoglobin", "offset")]
    # The wavelength at which melanin absorbs as the channel does, relative to 550 nm.
    slope = np.log(fitted["melanin"] / fitted["melanin"][1]) / -3.33
    return np.stack([*rows, kappa]), slope, error


def tensors(surface_model=None) -> tuple[dict[str, np.ndarray], list[str], float]:
    """All tensors of the file, the names of the codes, and the error of the closed form."""
    model = surface_model or load_basis(level=1, sample_sets=())
    # Regions are soft; brows and irises are a few millimetres, and 256 texels across are too few for them.
    surface, sharp = texture_surface(model), texture_surface(model, 2 * SIZE)
    regions, smooth = albedo_maps.region_maps(surface), albedo_maps.smooth_modes(surface)
    hair, material = albedo_maps.hair_maps(sharp), albedo_maps.material_maps(sharp)
    even, coarse = albedo_maps.N_EVEN, albedo_maps.SMOOTH_SIZE
    smooth = np.concatenate([symmetrised(smooth[:even], coarse), symmetrised(smooth[even:], coarse, -1.0)])
    names = code_names()
    row = {name: k for k, name in enumerate(names)}
    n_smooth, n_maps = len(smooth), 1 + len(smooth) + len(regions)
    map_row = {name: 1 + n_smooth + k for k, name in enumerate(regions)}

    mean_mix = np.zeros((3, n_maps))
    mean_mix[:, 0] = (0.0, 0.0, np.log(0.06))
    mix = np.zeros((len(names), 3, n_maps))
    for name, value in REGION_MEAN.items():
        mean_mix[:, map_row[name]] = value
    mix[row["haemoglobin"], BLOOD, 0] = HAEMOGLOBIN_SIGMA
    mix[row["yellow"], YELLOW, 0] = YELLOW_SIGMA
    slope_mix = np.zeros(len(names))
    slope_mix[row["melanin_slope"]] = -SLOPE_SIGMA
    for channel, prefix in ((MELANIN, "melanin_even_0"), (BLOOD, "haemoglobin_even_0")):
        for k in range(n_smooth):
            mix[row[prefix] + k, channel, 1 + k] = SMOOTH_SIGMA[channel]
    for name, region, change in REGION_CODES:
        mix[row[name], :, map_row[region]] = change

    kinds = list(HAIR)
    hair_mean = np.concatenate([[HAIR[k][0] for k in kinds], np.zeros(len(kinds))])
    hair_mix = np.zeros((len(names), 2, len(kinds)))
    for name, kind, density, reach in HAIR_CODES:
        hair_mix[row[name], :, kinds.index(kind)] = density, reach
    hair_colour_mix = np.zeros((len(names), 2))
    hair_colour_mix[row["melanin"]] = HAIR_WITH_SKIN
    for name, change in HAIR_COLOUR_CODES:
        hair_colour_mix[row[name]] = change

    colour = np.array([MATERIAL[k] for k in material])
    material_mix = np.zeros((len(names), len(material), 3))
    for name, changes in MATERIAL_CODES:
        for kind, change in changes.items():
            material_mix[row[name], list(material).index(kind)] = change

    table, slope, error = spectra()
    # Effective absorption of hair's two melanins per RGB channel (d'Eon et al., "An energy-conserving hair reflectance model", EGSR 2011).
    hair_spectra = np.array(
        [[0.008] * 3, [0.62, 0.60, 0.55], 1.7 * np.array([0.419, 0.697, 1.37]), 1.7 * np.array([0.187, 0.4, 1.05])]
    )
    small = {
        "mean_mix": mean_mix,
        "mix": mix.reshape(len(names), -1),
        "slope_mix": slope_mix,
        "tone": np.array([np.log(LIGHTEST + TONE_OFFSET), np.log(DARKEST + TONE_OFFSET), TONE_OFFSET]),
        "spectra": table,
        "slope_basis": slope,
        "hair_softness": np.array([hair[k][1] for k in kinds]),
        "hair_mean": hair_mean,
        "hair_mix": hair_mix.reshape(len(names), -1),
        "hair_colour_mean": np.array(HAIR_COLOUR_MEAN),
        "hair_colour_mix": hair_colour_mix,
        "hair_strength": np.array([HAIR[k][1] for k in kinds]),
        "hair_spectra": hair_spectra,
        "material_mean": np.log(colour / (1 - colour)),
        "material_mix": material_mix.reshape(len(names), -1),
    }
    result = {k: v.astype(np.float32) for k, v in small.items()}
    result |= quantised("fine", symmetrised(np.stack(list(regions.values())), SIZE), np.uint8)
    result |= quantised("smooth", smooth, np.int16)
    # Eight softnesses away from its border hair is there or not: the steps of eight bits are a sixteenth of a softness.
    fields = np.stack([hair[k][0].clip(-8 * hair[k][1], 8 * hair[k][1]) for k in kinds])
    result |= quantised("hair", symmetrised(fields, 2 * SIZE), np.uint8)
    result |= quantised("material", np.stack(list(material.values()))[:, 2 * surface.skin_rows :], np.uint8)
    return result, names, error


def main() -> None:
    """Write the file and its record."""
    basis = load_basis(level=1, sample_sets=())
    data, names, error = tensors(basis)
    metadata = {"format": FORMAT, "kind": "biophysical", "licence": "CC0-1.0", "names": json.dumps(names)}
    raw = serialise({k: np.ascontiguousarray(v) for k, v in data.items()}, metadata)
    (DATA / "embedded_albedo.safetensors").write_bytes(raw)
    record = {
        "file": "embedded_albedo.safetensors",
        "format": FORMAT,
        "licence": "CC0-1.0",
        "bytes": len(raw),
        "sha256": hashlib.sha256(raw).hexdigest(),
        "provenance": {
            "source": "computed; no photograph or measured texture",
            "script": "basis/albedo.py",
            "basis_sha256": basis.basis_sha256,
            "absorption": "Jacques 2013 (melanosomes, scattering), S. Prahl's table (haemoglobin), d'Eon et al. 2011 (hair)",
            "closed_form_largest_relative_error": round(error, 4),
        },
    }
    (DATA / "embedded_albedo.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"{len(raw)} bytes, {len(names)} codes, closed form within {error:.3f}")


if __name__ == "__main__":
    main()
