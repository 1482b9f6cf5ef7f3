"""Dense errors of a folder of UV position maps, added to an evaluation of AFLW2000-3D."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fitjax.errors import FitjaxError
from fitjax.evaluate.curve import Curve
from fitjax.evaluate.dense import OUTER_EYE_CORNERS, dense_nme, reconstruction_nme
from fitjax.evaluate.plain_files import read_npy, read_text_numbers
from fitjax.evaluate.published import AFLW2000_DENSE
from fitjax.evaluate.report import Evaluation, Table


def position_maps(folder: Path) -> dict[str, Path]:
    """Name → ``NAME.npy``.

    Raises:
        FitjaxError: no folder, or nothing in it.
    """
    files = sorted(p for p in folder.glob("*.npy") if not p.name.startswith(".")) if folder.is_dir() else []
    if not files:
        raise FitjaxError(
            f"{folder}: expected a folder of position maps NAME.npy (H, W, 3), found {'none in it' if folder.is_dir() else 'no folder'}"
        )
    return {p.stem: p for p in files}


def read_mask(path: Path) -> np.ndarray:
    """(H, W) True on the face: a ``.npy``, or a picture with one channel.

    Raises:
        FitjaxError: neither.
    """
    if path.suffix.lower() == ".npy":
        mask = read_npy(path, "a mask (H, W)")
    else:
        from PIL import Image

        try:
            with Image.open(path) as picture:
                mask = np.asarray(picture.convert("L"))
        except (
            OSError,
            ValueError,
            SyntaxError,
            Image.DecompressionBombError,
        ) as error:  # SyntaxError: Pillow's word for a damaged PNG
            raise FitjaxError(
                f"{path}: cannot be read ({' '.join(str(error).split())}); expected a mask, .npy or a picture"
            ) from None
    if mask.ndim != 2 or not (mask > 0).any():
        raise FitjaxError(
            f"{path}: expected a mask (H, W) that is positive on the face, found shape {mask.shape}, {int((mask > 0).sum())} positive"
        )
    return mask > 0


def read_texels(path: Path) -> np.ndarray:
    """(68, 2) row and column in the map of the 68 landmarks: 68 lines ``row column``, or two lines of 68, columns then rows (PRNet's uv_kpt_ind.txt).

    Raises:
        FitjaxError: another shape.
    """
    table = read_text_numbers(path, "68 lines 'row column', or 68 columns then 68 rows in two lines")
    if table.shape == (2, 68):
        table = table[::-1].T
    if table.shape != (68, 2) or (table < 0).any():
        raise FitjaxError(
            f"{path}: expected 68 lines 'row column', or two lines of 68 (columns, rows), found {table.shape}"
        )
    return table.astype(int)


def add_dense(
    evaluation: Evaluation, predicted: Path, truth: Path, mask: Path, landmarks: Path | None, name: str = "yours"
) -> None:
    """DSFNet's dense NME, and with ``landmarks`` its reconstruction error, of maps of one size in pixels of one picture.

    Raises:
        FitjaxError: no maps, no common names, different sizes, values that are not finite.
    """
    found, true, face = position_maps(predicted), position_maps(truth), read_mask(mask)
    corners = None if landmarks is None else read_texels(landmarks)[list(OUTER_EYE_CORNERS)]
    missing = [n for n in true if n not in found]
    if len(missing) == len(true):
        raise FitjaxError(
            f"{predicted}: none of its position maps has the name of a true one, such as {next(iter(true))!r}"
        )
    dense, rebuilt = {}, {}
    for face_name in [n for n in true if n in found]:
        pair = read_npy(found[face_name]), read_npy(true[face_name])
        try:
            dense[face_name] = dense_nme(*pair, face)
            if corners is not None:
                if (corners >= pair[1].shape[:2]).any():
                    raise ValueError(f"landmarks lie beyond the map's {pair[1].shape[:2]}")
                rebuilt[face_name] = reconstruction_nme(*pair, pair[1][corners[:, 0], corners[:, 1]], face)
        except ValueError as error:
            raise FitjaxError(f"{found[face_name]} against {true[face_name]}: {error}") from None
    means = [float(np.mean(list(dense.values()))), float(np.mean(list(rebuilt.values()))) if rebuilt else None]
    rows: list[list[Any]] = [list(r) for r in AFLW2000_DENSE] + [[f"**{name}** ({len(dense)} faces)", *means]]
    note = f"{len(missing)} of {len(true)} faces have no predicted map: {', '.join(missing[:10])}." if missing else ""
    columns = ["%", "dense NME", "reconstruction"]
    evaluation.tables.append(Table("Dense, mean over faces: published beside yours", columns, rows, note))
    evaluation.followed += [
        "dense NME (DSFNet): mean 3-D distance over the face mask of the UV position maps, each map's mean depth removed, nothing aligned, over "
        "sqrt(width · height) of the box of the true masked points; plain mean over faces, no bins",
        "reconstruction error (DSFNet): the same points after a similarity alignment (Kabsch; scale by summed distances from the first point, as "
        "published), over the 3-D distance of the outer corners of the eyes",
        "neither compares with the sparse table",
    ]
    evaluation.results["dense"] = {
        "nme": means[0],
        "reconstruction": means[1],
        "faces": dense,
        "reconstruction_faces": rebuilt,
        "missing": missing,
    }
    evaluation.curves.append(Curve("dense", np.array(list(dense.values())), len(true)))
