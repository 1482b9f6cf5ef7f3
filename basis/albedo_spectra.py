"""Skin reflectance from absorption spectra, and the RGB closed form that `fitjax.model.albedo` evaluates.

Layers, from the outside (Jacques, "Optical properties of biological tissues: a review", Phys. Med. Biol. 58, 2013; Alotaibi and
Smith, "A Biophysical 3D Morphable Model of Face Appearance", ICCV Workshops 2017):

- surface: a small white part that is scattered before any pigment is met (`FLOOR`); skin is never darker than that.
- epidermis: melanosomes, absorption 6.6e11 λ^-3.33 per cm (λ in nm) times their volume fraction. Melanin lies in grains and caps, so light
  paths meet very different amounts of it (the sieve effect). With gamma-distributed amounts the mean of exp(-x) is
  (1 + x / k)^-k: Beer's law for little melanin, and a flatter spectrum than Beer's for much. Without it dark skin comes out orange.
- dermis: blood (oxy- and deoxyhaemoglobin, Prahl's table) and a bloodless background, with scattering
  46 (λ / 500)^-1.42 per cm; diffuse reflectance exp(-A / sqrt(3 (1 + μs' / μa))) (Jacques, "Skin optics", OMLC, 1998).

Spectra become linear sRGB under D65 through Gaussian fits of the CIE 1931 functions (Wyman, Sloan, Shirley, JCGT 2013), and the
three channels of the closed form are fitted to them over all melanin and blood contents at once.
"""

import numpy as np
from scipy.optimize import least_squares

WAVELENGTH = np.arange(400.0, 701.0, 10.0)

# Molar extinction in 1/(cm M) every 10 nm from 400 nm: oxy- and deoxyhaemoglobin (S. Prahl's compilation, omlc.org), rounded.
_OXY = np.array(
    [
        "266232",
        "466840",
        "480360",
        "246072",
        "102580",
        "62816",
        "44480",
        "33209",
        "26629",
        "23684",
        "20933",
        "20035",
        "24202",
        "39957",
        "53236",
        "43016",
        "32613",
        "44496",
        "50104",
        "14401",
        "3200",
        "1506",
        "942",
        "610",
        "442",
        "368",
        "320",
        "294",
        "278",
        "276",
        "290",
    ],
    float,
)
_DEOXY = np.array(
    [
        "223296",
        "303956",
        "407560",
        "528600",
        "413280",
        "103292",
        "23389",
        "16156",
        "14550",
        "16684",
        "20862",
        "25774",
        "31590",
        "39036",
        "46592",
        "53412",
        "53788",
        "45072",
        "37020",
        "28324",
        "14677",
        "9444",
        "6510",
        "5149",
        "4345",
        "3750",
        "3227",
        "2795",
        "2408",
        "2052",
        "1794",
    ],
    float,
)
FLOOR = 0.024
SIEVE = 0.9
EPIDERMIS_PATH = 0.020  # cm: both passes through about 60 µm, along slanted paths
BLOOD_FRACTION = 0.014  # haemoglobin = 1
VESSEL_RADIUS = 0.0012  # cm
MELANIN_FRACTION = 0.10  # melanin = 1
OXYGENATION = 0.70
_DIFFUSE = 6.3  # Jacques' A: 6 to 8 in his range


def blood_absorption(oxygenation: float = OXYGENATION) -> np.ndarray:
    """Absorption (31,) in 1/cm of whole blood with 150 g/l of haemoglobin, as tissue sees it.

    Where blood absorbs strongly, the cores of vessels lie in the shade: absorption times (1 - exp(-d)) / d with d = 2 r μa (van Veen,
    Verkruysse, Sterenborg, Opt. Lett. 27, 2002). It weakens the violet band and makes skin pink rather than yellow.
    """
    absorption = 2.303 * 150 / 64500 * (oxygenation * _OXY + (1 - oxygenation) * _DEOXY)
    across = 2 * VESSEL_RADIUS * absorption
    return absorption * (1 - np.exp(-across)) / across


def dermis(haemoglobin: np.ndarray, oxygenation: float = OXYGENATION) -> np.ndarray:
    """Diffuse reflectance (..., 31) below the epidermis; haemoglobin 1 is typical."""
    background = 0.244 + 85.3 * np.exp(-(WAVELENGTH - 154) / 66.2)
    absorption = background + np.multiply.outer(haemoglobin, BLOOD_FRACTION * blood_absorption(oxygenation))
    scattering = 46 * (WAVELENGTH / 500) ** -1.42
    return np.exp(-_DIFFUSE / np.sqrt(3 * (1 + scattering / absorption)))


def melanin_depth(melanin: np.ndarray, exponent: float = -3.33) -> np.ndarray:
    """Optical depth (..., 31) of melanin; 1 stands for `MELANIN_FRACTION`. The exponent's change leaves 550 nm as it is."""
    absorption = 6.6e11 * WAVELENGTH**-3.33 * (WAVELENGTH / 550) ** (exponent + 3.33)
    return np.multiply.outer(melanin, MELANIN_FRACTION * EPIDERMIS_PATH * absorption)


def reflectance(melanin: np.ndarray, haemoglobin: np.ndarray, exponent: float = -3.33) -> np.ndarray:
    """Spectral reflectance (..., 31) of skin."""
    melanin, haemoglobin = np.broadcast_arrays(melanin, haemoglobin)
    through = (1 + melanin_depth(melanin, exponent) / SIEVE) ** -SIEVE
    return FLOOR + (1 - FLOOR) * through * dermis(haemoglobin)


def _lobe(mean: float, below: float, above: float) -> np.ndarray:
    return np.exp(-0.5 * ((WAVELENGTH - mean) * np.where(mean > WAVELENGTH, below, above)) ** 2)


def _xyz_weights() -> np.ndarray:
    """(31, 3) from reflectance to XYZ under D65, so that white has Y = 1."""
    x = (
        1.056 * _lobe(599.8, 0.0264, 0.0323)
        + 0.362 * _lobe(442.0, 0.0624, 0.0374)
        - 0.065 * _lobe(501.1, 0.0490, 0.0382)
    )
    y = 0.821 * _lobe(568.8, 0.0213, 0.0247) + 0.286 * _lobe(530.9, 0.0613, 0.0322)
    z = 1.217 * _lobe(437.0, 0.0845, 0.0278) + 0.681 * _lobe(459.0, 0.0385, 0.0725)
    # Daylight at 6504 K every 50 nm; its fine structure does not matter for skin.
    daylight = np.interp(WAVELENGTH, np.arange(400, 701, 50), [82.8, 117.0, 109.4, 104.0, 90.0, 80.0, 71.6])
    weights = np.stack([x, y, z], -1) * daylight[:, None]
    return weights / weights[:, 1].sum()


_XYZ = _xyz_weights()
_TO_RGB = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])


def linear_rgb(spectrum: np.ndarray) -> np.ndarray:
    """Linear sRGB (..., 3) of reflectances (..., 31); a white surface has (1, 1, 1)."""
    weights = _XYZ @ _TO_RGB.T
    return spectrum @ (weights / weights.sum(0))


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB (..., 3) of linear sRGB under D65."""
    xyz = rgb @ np.linalg.inv(_TO_RGB).T / np.linalg.inv(_TO_RGB).sum(1)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def individual_typology_angle(rgb: np.ndarray) -> np.ndarray:
    """Degrees: above 55 very light, 41 light, 28 intermediate, 10 tan, -30 brown, below that dark (Chardon et al. 1991)."""
    values = lab(rgb)
    return np.degrees(np.arctan2(values[..., 0] - 50, values[..., 2]))


def closed_form(parameters: dict[str, np.ndarray], melanin: np.ndarray, haemoglobin: np.ndarray) -> np.ndarray:
    """Linear RGB (..., 3) by the formula of `fitjax.model.albedo`."""
    p = parameters
    m, h = np.asarray(melanin)[..., None], np.asarray(haemoglobin)[..., None]
    through = (1 + m * p["melanin"] / p["sieve"]) ** -p["sieve"]
    blood = np.exp(-p["haemoglobin"] * np.sqrt(h + p["offset"]))
    return p["floor"] + (1 - p["floor"]) * p["dermis"] * through * blood


def fit_closed_form() -> tuple[dict[str, np.ndarray], float]:
    """Parameters of the closed form, and its largest error in linear light relative to the spectra over the fitted range."""
    m, h = np.meshgrid(np.geomspace(0.02, 6, 24), np.geomspace(0.25, 5, 12), indexing="ij")
    target = linear_rgb(reflectance(m, h))
    floor = np.full(3, FLOOR)

    def unpack(x: np.ndarray) -> dict[str, np.ndarray]:
        x = np.exp(x.reshape(5, 3))
        dermis_colour = 1 / (1 + x[0])  # stays below one
        return {
            "dermis": dermis_colour,
            "melanin": x[1],
            "sieve": x[2],
            "haemoglobin": x[3],
            "offset": x[4],
            "floor": floor,
        }

    start = np.log(np.stack([[0.3, 0.4, 0.5], [0.6, 1.0, 1.8], [1.6] * 3, [0.1, 0.4, 0.5], [0.3] * 3])).ravel()
    found = least_squares(lambda x: np.log(closed_form(unpack(x), m, h) / target).ravel(), start)
    parameters = unpack(found.x)
    return parameters, float(np.abs(closed_form(parameters, m, h) / target - 1).max())


if __name__ == "__main__":
    fitted, error = fit_closed_form()
    print({k: v.round(4).tolist() for k, v in fitted.items()}, f"largest relative error {error:.3f}")
    for level in np.geomspace(0.05, 4, 10):
        rgb = linear_rgb(reflectance(np.array(level), np.array(1.0)))
        approximate = closed_form(fitted, level, 1.0)
        print(
            f"{level:.2f}",
            rgb.round(3),
            approximate.round(3),
            lab(rgb).round(1),
            f"ITA {individual_typology_angle(rgb):.0f}",
        )
