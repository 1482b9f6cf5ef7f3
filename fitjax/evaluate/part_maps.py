"""Part IoU of many faces: label maps of a face parser against those of another tool, or against fitted faces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fitjax.errors import FitjaxError
from fitjax.evaluate.curve import Curve
from fitjax.evaluate.published import PART_IOU
from fitjax.evaluate.report import Evaluation, Table
from fitjax.observation.part_tables import PAIRS, PARTS, LabelTable

#: Pixels of a part below which its IoU says little: it is counted all the same, and the table says how often that was so.
SMALL = 20

MAP_ENDINGS = (".png", ".npy")

#: From a file to (H, W) integers.
ReadLabels = Callable[[Path], np.ndarray]


def map_files(path: Path) -> dict[str, Path]:
    """Name → label map, of a folder or of one file.

    Raises:
        FitjaxError: nothing there, or two maps of one name.
    """
    if path.is_file():
        return {path.stem: path}
    if not path.is_dir():
        raise FitjaxError(f"{path}: no such file or folder; expected label maps NAME.png or .npy")
    found: dict[str, Path] = {}
    for file in sorted(p for p in path.iterdir() if p.suffix.lower() in MAP_ENDINGS and not p.name.startswith(".")):
        if file.stem in found:
            raise FitjaxError(
                f"{path}: two label maps of the name {file.stem!r} ({found[file.stem].name}, {file.name}); keep one"
            )
        found[file.stem] = file
    if not found:
        raise FitjaxError(f"{path}: the folder holds no label map; expected NAME.png with one channel, or NAME.npy")
    return found


def part_numbers(labels: np.ndarray, table: LabelTable, what: str) -> np.ndarray:
    """(H, W) 0, or 1 to 8 in the order of the parts, of a parser's labels; pairs with one label for both sides become their right part.

    Raises:
        FitjaxError: labels that the table does not know.
    """
    known = {label for values in table.parts.values() for label in values}
    if table.other is not None:
        unknown = sorted(set(np.unique(labels).tolist()) - known - set(table.other))
        if unknown:
            raise FitjaxError(
                f"{what}: labels {unknown[:8]} that table {table.name!r} does not know; choose another --label-table"
            )
    result = np.zeros(labels.shape, np.uint8)
    for number, name in reversed(list(enumerate(PARTS, 1))):
        if name in table.parts:
            result[np.isin(labels, table.parts[name])] = number
    return result


def has_sides(table: LabelTable) -> bool:
    """Whether right and left eye, right and left brow have labels of their own."""
    return all(set(table.parts.get(a, ())).isdisjoint(table.parts.get(b, ())) for a, b in PAIRS)


def merge_sides(numbers: np.ndarray) -> np.ndarray:
    """Both eyes under the right eye's number, both brows under the right brow's."""
    result = numbers.copy()
    for right, left in PAIRS:
        result[numbers == PARTS.index(left) + 1] = PARTS.index(right) + 1
    return result


def evaluate_parts(
    found: Mapping[str, Callable[[], tuple[np.ndarray, np.ndarray]]],
    names: list[str],
    *,
    parts: tuple[str, ...] = PARTS[:-1],
    unused: list[str] | None = None,
    followed: tuple[str, ...] = (),
    name: str = "yours",
) -> Evaluation:
    """IoU per part and its mean over parts, per face and over faces.

    Args:
        found: name → reader of (predicted, true) label maps of one shape, 0 or 1 to 8; called one by one.
        names: all faces of the truth. parts: those that count; default the seven of the published protocol, without skin.
        followed: further sentences about the protocol.

    Raises:
        FitjaxError: no face, or maps of different shapes.
    """
    from fitjax.evaluate.parts import part_iou

    missing = [n for n in names if n not in found]
    if not found:
        raise FitjaxError(
            "predictions: none of their names is one of the truth's; name label maps like those of the truth"
        )
    evaluation = Evaluation(
        "parts",
        f"Part IoU: {name}",
        [
            "intersection over union of pixels, per part and face; a part that the truth does not show does not count for that face, one "
            "that only the prediction lacks counts 0",
            f"mean of a face: over its parts out of {', '.join(parts)}; left and right are the subject's own",
            "mean of a part: over the faces that show it; 'mean of parts' is the mean of those, 'mean of faces' that of the faces' means",
            *followed,
        ],
        len(names),
        missing=missing,
        unused=unused or [],
        unit="100 - mean IoU of a face, %",
    )
    scores: dict[str, dict[str, float]] = {}
    small = dict.fromkeys(parts, 0)
    for face, read in found.items():
        prediction, truth = read()
        scores[face] = {k: 100 * v for k, v in part_iou(prediction, truth, parts).items()}
        for part in parts:
            small[part] += int(0 < (truth == PARTS.index(part) + 1).sum() < SMALL)
    columns = [k for k in parts if any(np.isfinite(s[k]) for s in scores.values())]
    if not columns:
        raise FitjaxError("truth: shows none of the parts in any face; check the label maps and --label-table")
    of_part = {k: float(np.nanmean([s[k] for s in scores.values()])) for k in columns}
    of_face = {n: s["mean"] for n, s in scores.items()}
    kept = np.array([v for v in of_face.values() if np.isfinite(v)])
    overall = float(np.mean(list(of_part.values())))
    rows: list[list[Any]] = [[name, *of_part.values(), overall, float(kept.mean()), len(scores)]]
    few = [f"{k} in {n}" for k, n in small.items() if n]
    note = f"Fewer than {SMALL} pixels of the truth: {', '.join(few)} faces." if few else ""
    evaluation.tables.append(Table("IoU %", ["", *columns, "mean of parts", "mean of faces", "faces"], rows, note))
    if tuple(parts) == PARTS[:-1]:
        published: list[list[Any]] = [list(r) for r in PART_IOU] + [[f"**{name}**", overall]]
        note = "Published on other pictures: set them side by side with care."
        evaluation.tables.append(
            Table("Mean of 7 parts, IoU %: published beside yours", ["method", "mean IoU"], published, note)
        )
    each: list[list[Any]] = [[n, *(scores[n][k] for k in columns), of_face[n]] for n in scores]
    evaluation.tables.append(Table("Each face, IoU %", ["face", *columns, "mean"], each))
    evaluation.results |= {
        "parts": of_part,
        "mean_of_parts": overall,
        "mean_of_faces": float(kept.mean()),
        "faces": scores,
    }
    evaluation.curves.append(Curve(name, 100 - kept, len(names)))
    return evaluation


def map_pair(
    predicted: Path, truth: Path, predicted_table: LabelTable, table: LabelTable, read: ReadLabels
) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """Reader of two label maps; the predicted one is resampled (nearest) to the size of the truth where they have the same shape but for scale."""

    def pair() -> tuple[np.ndarray, np.ndarray]:
        true = part_numbers(read(truth), table, str(truth))
        found = part_numbers(read(predicted), predicted_table, str(predicted))
        if found.shape != true.shape:
            h, w = true.shape
            if abs(found.shape[0] * w - found.shape[1] * h) > max(h, w):
                raise FitjaxError(
                    f"{predicted}: expected a label map like {truth}, {w} × {h}, found {found.shape[1]} × {found.shape[0]}"
                )
            rows, columns = ((np.arange(n) + 0.5) * m / n for n, m in zip(true.shape, found.shape))
            found = found[rows.astype(int)[:, None], columns.astype(int)]
        if not (has_sides(table) and has_sides(predicted_table)):
            found, true = merge_sides(found), merge_sides(true)
        return found, true

    return pair


def fit_pair(
    folder: Path, truth: Path, table: LabelTable, read: ReadLabels, model: str | None = None
) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """Reader of what a result of ``fitjax fit`` shows, and of the true map of its photo, in the crop around the face."""

    def pair() -> tuple[np.ndarray, np.ndarray]:
        from fitjax.evaluate.fit_results import read_fit_observation
        from fitjax.evaluate.parts import observed_labels, render_parts

        fitted, params, observation, size = read_fit_observation(folder, model)
        try:
            true = observed_labels(observation, read(truth), table, image_size=size)
        except FitjaxError as error:
            raise FitjaxError(f"{truth}: {error}") from None
        return render_parts(fitted, params, observation), true

    return pair
