"""``fitjax unpack``: folders of results from a pack."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fitjax.cli.archives import find_member
from fitjax.cli.inputs import PHOTO_ENDINGS
from fitjax.cli.manifest import MANIFEST, PACK
from fitjax.errors import BasisError, FitjaxError, ImageError
from fitjax.files.manifest import read_manifest
from fitjax.files.pack import Record, Shard, read_shard, record_params, shard_path
from fitjax.files.result import shape_model, write_meshes, write_result
from fitjax.fit import Solution
from fitjax.geometry.camera import Camera
from fitjax.image.photo import Photo, photo_from_bytes, read_photo
from fitjax.model.basis_file import read_basis
from fitjax.model.load import find_models, load_basis
from fitjax.model.textured import load_textured
from fitjax.observation.crop import with_image
from fitjax.observation.observation import LandmarkObservation, Observation, face_box
from fitjax.solve.status import Status

if TYPE_CHECKING:
    from fitjax.cli.pack_options import Unpack


def run_unpack(options: Unpack) -> int:
    """Write the folders; 0.

    Raises:
        FitjaxError: no pack, a face that is not in it, another model, or nowhere to write.
    """
    manifest = options.packed / MANIFEST
    rows = {str(row["name"]): row for row in read_manifest(manifest)[0] if row.get("shard") is not None}
    if not rows:
        raise FitjaxError(f"{manifest}: expected the manifest of a pack, as `fitjax fit --pack` writes it, found {_found(manifest)}")
    wanted = options.names or list(rows)
    for name in wanted:
        if name not in rows:
            raise FitjaxError(f"{manifest}: has no face {name!r}; expected names such as {', '.join(list(rows)[:3])}")
    read = lru_cache(maxsize=4)(lambda number: read_shard(shard_path(options.packed / PACK, number)))
    without = 0
    for name in wanted:
        shard: Shard = read(int(rows[name]["shard"]))
        row = int(rows[name]["row"])
        record = shard.record(row)
        if shard.names[row] != name:
            raise FitjaxError(f"{manifest}: {name!r} should lie in row {row} of shard {rows[name]['shard']}, where {shard.names[row]!r} is")
        folder = (options.out or options.packed) / name
        photo = _photo(rows[name], options.photos)
        without += photo is None
        write_face(folder, record, shard.facts, rows[name], photo, options.model)
        print(folder)
    if without:
        print(f"fitjax: {without} of {len(wanted)} without their photos: meshes, no pictures; --photos says where the photos are", file=sys.stderr)
    return 0


def _found(manifest: Path) -> str:
    return "one without packed faces" if manifest.is_file() else "no such file"


def _photo(row: Mapping[str, Any], photos: Path | None) -> Photo | None:
    """The photo that was fitted, if it is there."""
    source = Path(str(row["source"]))
    path = source if photos is None else photos / source.name
    try:
        member = next(find_member(path, PHOTO_ENDINGS), None)
        photo = read_photo(path) if member is None else photo_from_bytes(member.read(), str(path))
    except ImageError:
        return None
    if photo.sha256 != row.get("photo_sha256"):
        raise ImageError(f"{path}: another photo than the one that was fitted (their hashes differ); --photos says where that one is")
    return photo


@lru_cache(maxsize=2)
def _model(given: str | None, named: str, sha256: str, level: int, textured: bool) -> Any:
    """The model that was fitted: the one given, else the one of these bytes among those that are found."""
    models = find_models()
    if given is None:
        given = next((n for n in sorted(models, key=lambda n: n != named) if read_basis(models[n]).sha256 == sha256), None)
        if given is None:
            raise BasisError(f"the pack's model {named!r} is not among those that `fitjax info` lists; give its file with --model")
    model = (load_textured if textured else load_basis)(given, level)
    if shape_model(model).basis_sha256 != sha256:
        raise BasisError(f"--model {given}: another model than the pack's ({named!r}): the hashes of their files differ")
    return model


def write_face(folder: Path, record: Record, facts: Mapping[str, Any], row: Mapping[str, Any], photo: Photo | None, model: str | None = None) -> None:
    """The folder of one face: what `fitjax fit` writes where the photo is there, else parameters, camera, meshes and landmarks.

    Raises:
        FitjaxError: the model is not found, or nowhere to write.
    """
    solution = unpacked_solution(record, facts, row, photo, model)
    if photo is None:
        write_meshes(folder, solution, tuple(int(x) for x in record["image_size"]))  # type: ignore[arg-type]
    else:
        write_result(folder, solution, photo, dict(row.get("timings", {})), row.get("detector"))


def unpacked_solution(
    record: Record, facts: Mapping[str, Any], row: Mapping[str, Any], photo: Photo | None = None, model: str | None = None
) -> Solution:
    """A fitted face as the fit returned it, less its losses and stages.

    Raises:
        FitjaxError: the model is not found or another one.
    """
    params = record_params(record)
    textured = photo is not None and "albedo" in params
    found = _model(model, str(facts["model"]), str(facts["basis_sha256"]), int(facts["level"]), textured)
    sets = {}
    for name in sorted({k.split("/")[1] for k in record if k.startswith("landmarks/")}):
        points, confidence, valid = (record[f"landmarks/{name}/{part}"] for part in ("points", "confidence", "valid"))
        if valid.any():
            nowhere = np.zeros(len(points), points.dtype)
            sets[name] = LandmarkObservation(points, confidence, valid, nowhere, nowhere > 0)  # type: ignore[arg-type]
    centre, size = face_box(*max(((s.points, s.valid) for s in sets.values()), key=lambda s: s[1].sum()))  # type: ignore[arg-type]
    camera = Camera(record["camera/focal"], record["camera/centre"], np.eye(2, 3, dtype=np.float32), facts["camera"])  # type: ignore[arg-type]
    observation = Observation(sets, camera, np.asarray(centre, np.float32), np.float32(size), np.bool_(True))  # type: ignore[arg-type]
    if textured and photo is not None:
        observation = with_image(observation, photo)
    before, after = row.get("losses_before", {}), row.get("losses", {})
    history = {"fit": {k: np.array([before.get(k, v), v], float) for k, v in after.items()}}
    status = Status[str(row["status"]).upper().replace(" ", "_")]
    return Solution(
        params=params,
        status=status,
        steps={k: int(v) for k, v in row.get("steps", {}).items()},
        history=history,
        landmark_residual=float(row.get("residual_percent", 0)) / 100,
        yaw_degrees=float(row.get("yaw_degrees", 0)),
        model=found,
        observation=observation,
        losses={},
        stages=[],
        seconds=float(row.get("timings", {}).get("solve", 0)),
        warnings=tuple(row.get("warnings", ())),
    )
