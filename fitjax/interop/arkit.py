"""Expression weights under Apple's 52 names, as JSON (a name and a number each) and CSV (a row per face).

Apple, ARKit, ARFaceAnchor.BlendShapeLocation. ICT-FaceKit splits two of them into a left and a right one; ARKit's weight is their mean.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from fitjax.errors import BasisError, FitjaxError
from fitjax.files.atomic import atomic_write_text

#: ARKit's names in the order of its documentation.
NAMES = (
    "eyeBlinkLeft", "eyeLookDownLeft", "eyeLookInLeft", "eyeLookOutLeft", "eyeLookUpLeft", "eyeSquintLeft", "eyeWideLeft", "eyeBlinkRight",
    "eyeLookDownRight", "eyeLookInRight", "eyeLookOutRight", "eyeLookUpRight", "eyeSquintRight", "eyeWideRight", "jawForward", "jawLeft", "jawRight",
    "jawOpen", "mouthClose", "mouthFunnel", "mouthPucker", "mouthLeft", "mouthRight", "mouthSmileLeft", "mouthSmileRight", "mouthFrownLeft",
    "mouthFrownRight", "mouthDimpleLeft", "mouthDimpleRight", "mouthStretchLeft", "mouthStretchRight", "mouthRollLower", "mouthRollUpper",
    "mouthShrugLower", "mouthShrugUpper", "mouthPressLeft", "mouthPressRight", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthUpperUpLeft",
    "mouthUpperUpRight", "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff", "cheekSquintLeft",
    "cheekSquintRight", "noseSneerLeft", "noseSneerRight", "tongueOut",
)  # fmt: skip

#: Names that some models split by side.
SPLIT = {name: (f"{name}Left", f"{name}Right") for name in ("browInnerUp", "cheekPuff")}


def arkit_weights(expression_names: Sequence[str], expression: Float[np.ndarray, "E"]) -> dict[str, float]:
    """Weights by ARKit's names, in ARKit's order; names that the model does not have are left out.

    Raises:
        BasisError: the model has none of them (its expressions are statistical), or another number of expressions.
    """
    code = np.asarray(expression, float)
    if code.shape != (len(expression_names),):
        raise BasisError(f"expression: expected {len(expression_names)} weights, found shape {code.shape}; is it the model of this fit?")
    known = dict(zip(expression_names, code.tolist()))
    found = {}
    for name in NAMES:
        parts = [known[part] for part in (name, *SPLIT.get(name, ())) if part in known]
        if parts:
            found[name] = float(np.mean(parts))
    if not found:
        raise BasisError(
            f"the model's expressions ({', '.join(expression_names[:3])}, ...) have no names of ARKit's; the embedded model and ICT-FaceKit have them"
        )
    return found


def expression_from_arkit(expression_names: Sequence[str], weights: Mapping[str, float]) -> Float[np.ndarray, "E"]:
    """The model's expression code; its other expressions are zero.

    Raises:
        BasisError: a weight that is not zero and that the model cannot show, or a name that is not ARKit's.
    """
    places = {name: i for i, name in enumerate(expression_names)}
    code = np.zeros(len(expression_names))
    for name, weight in weights.items():
        if name not in NAMES:
            raise BasisError(f"ARKit weights: unknown name {name!r}; expected names such as {', '.join(NAMES[:3])}")
        parts = [part for part in (name, *SPLIT.get(name, ())) if part in places]
        if not parts and weight != 0:
            raise BasisError(f"ARKit weights: the model has no {name!r}; leave it out or set it to 0")
        for part in parts:
            code[places[part]] = weight
    return code


def write_arkit_json(path: str | Path, weights: Mapping[str, float]) -> None:
    """One face: an object of names and weights.

    Raises:
        FitjaxError: an unwritable path.
    """
    atomic_write_text(path, json.dumps({k: round(float(v), 6) for k, v in weights.items()}, indent=2, allow_nan=False) + "\n")


def write_arkit_csv(path: str | Path, faces: Mapping[str, Mapping[str, float]]) -> None:
    """A header ``name`` and ARKit's names, then a row per face; a weight that a model does not have stays empty.

    Raises:
        FitjaxError: an unwritable path.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["name", *NAMES])
    for name, weights in faces.items():
        table.writerow([name, *(f"{weights[k]:.6f}" if k in weights else "" for k in NAMES)])
    atomic_write_text(path, text.getvalue())


def read_arkit(path: str | Path) -> dict[str, dict[str, float]]:
    """Face → weights, of a CSV or JSON file as written here (a JSON file's one face is named after the file).

    Raises:
        FitjaxError: no such file, or one that holds something else.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FitjaxError(f"{path}: cannot be read ({error}); expected ARKit weights as .json or .csv") from None
    try:
        if text.lstrip().startswith("{"):
            return {path.stem: _numbers(json.loads(text).items())}
        rows = list(csv.reader(io.StringIO(text)))
        header = rows[0]
        if header[0] != "name" or any(len(row) != len(header) for row in rows):
            raise ValueError("no column 'name', or rows of different lengths")
        return {row[0]: _numbers((k, v) for k, v in zip(header[1:], row[1:]) if v) for row in rows[1:]}
    except (ValueError, TypeError, IndexError) as error:
        raise FitjaxError(f"{path}: expected ARKit names and weights as .json or .csv ({error})") from None


def _numbers(pairs: object) -> dict[str, float]:
    found = {str(name): float(value) for name, value in pairs}  # type: ignore[attr-defined]
    if not all(np.isfinite(v) for v in found.values()):
        raise ValueError("a weight that is not finite")
    return found
