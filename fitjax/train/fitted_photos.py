"""`fitjax train decoder --images`: photos that `fitjax fit` has fitted become the training set of stage 2.

A result folder says which photo it is of (name and hash), with what camera, and where pose, light and codes ended; the photo itself and a mask, if
there is one, lie where the user keeps them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from fitjax.errors import FitjaxError
from fitjax.files.atomic import atomic_write_bytes
from fitjax.files.camera_json import read_camera_json
from fitjax.files.params import load_params
from fitjax.geometry.camera import Camera
from fitjax.image.photo import Photo, read_photo
from fitjax.model.nonlinear import NonlinearModel, load_nonlinear, project_linear
from fitjax.model.nonlinear_file import shipped_nonlinear
from fitjax.model.nonlinear_weights import flatten_weights
from fitjax.model.params import Params
from fitjax.model.textured import TexturedModel, load_textured
from fitjax.observation.crop import with_image
from fitjax.observation.observation import make_observation
from fitjax.train.images import ImageFace, ImageSettings, train_images, weights_of

#: Side of the crops, pixels: half of a fit's, since many are read many times.
CROP = 112
#: Groups that stage 2 moves; residual maps are of one photo and stay out of it.
_GROUPS = ("identity", "expression", "albedo", "light", "pose")


def read_fits(
    photos: Path, fits: Path, model: NonlinearModel, masks: Path | None = None, say: Callable[[str], Any] = print, size: int = CROP
) -> list[ImageFace]:
    """All photos of a folder that have a reliable fit in ``fits``, sorted by name.

    Args:
        photos: folder of the photos. fits: folder of the results, ``fitjax fit -o``. masks: folder with <stem>.png, white where the face is, or None.
        model: what is trained: fits of it are taken as they are, those of the linear model over the same basis are projected onto its codes.

    Raises:
        FitjaxError: a folder is missing, holds no fit of a photo, or a photo is another than the one that was fitted.
    """
    for what, folder in (("photos", photos), ("fits", fits), ("masks", masks)):
        if folder is not None and not folder.is_dir():
            raise FitjaxError(f"train decoder: {what} {folder}: no such folder")
    found = []
    for report_path in sorted(fits.glob("*/report.json")):
        folder = report_path.parent
        report = _report(report_path)
        if not report.get("reliable", False):
            say(f"{folder.name}: left out, its fit is not reliable")
            continue
        name = report.get("photo", {}).get("file")
        path = None if name is None else photos / name
        if path is None or not path.is_file():
            say(f"{folder.name}: left out, {photos} has no {name or 'photo of it'}")
            continue
        photo = read_photo(path)
        if photo.sha256 != report["photo"].get("sha256"):
            raise FitjaxError(f"{path}: is not the photo that was fitted in {folder}; fit it again")
        found.append(ImageFace(folder.name, *_face(folder, photo, model, masks, size)))
    if not found:
        raise FitjaxError(f"train decoder: no reliable fit of a photo of {photos} in {fits}; run `fitjax fit {photos} -o {fits}` first")
    return found


def _report(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise FitjaxError(f"{path}: not readable ({error}); fit the photo again") from None
    if not isinstance(content, dict):
        raise FitjaxError(f"{path}: expected the report of a fit, found {type(content).__name__}; fit the photo again")
    return content


def _face(folder: Path, photo: Photo, model: NonlinearModel, masks: Path | None, size: int) -> tuple[Any, Params]:
    """Observation (camera of the fit, its landmarks, crop, mask) and the codes to start from."""
    camera = read_camera_json(folder / "camera.json")
    K = np.asarray(camera.K, np.float32)
    intrinsics = Camera(jnp.asarray(K[[0, 1], [0, 1]]), jnp.asarray(K[:2, 2]), jnp.eye(2, 3), camera.model)
    try:
        points = json.loads((folder / "landmarks.json").read_text("utf-8"))
        name = next(n for n in ("mediapipe478", "ibug68") if n in points and n in model.sample_sets)
    except (OSError, ValueError, TypeError, StopIteration):
        raise FitjaxError(f"{folder / 'landmarks.json'}: expected landmarks of mediapipe478 or ibug68; fit the photo again") from None
    observation = make_observation({name: points[name]}, intrinsics)
    mask = None
    if masks is not None and (masks / f"{Path(photo.path).stem}.png").is_file():
        # Imported here: the only thing of the command line that this needs.
        from fitjax.cli.reading import read_mask

        mask = read_mask(masks / f"{Path(photo.path).stem}.png", photo)
    return with_image(observation, photo, size=size, mask=mask), start_codes(folder / "params.safetensors", model)


@cache
def _linear() -> TexturedModel:
    return load_textured(level=0)


def start_codes(path: Path, model: NonlinearModel) -> Params:
    """The codes of a fit, of this model or projected from the linear one.

    Raises:
        FitjaxError: they are of another model or basis, or hold no albedo and light.
    """
    params, facts = load_params(path)
    shape: Any = model.shape
    if facts.get("basis_sha256", shape.basis_sha256) != shape.basis_sha256:
        raise FitjaxError(f"{path}: a fit of another basis ({facts.get('model', 'unknown')!r}); fit with the model that is trained")
    missing = [group for group in _GROUPS if group not in params]
    if missing:
        raise FitjaxError(f"{path}: has no {missing[0]}: a fit of landmarks alone; fit with --stages photometric")
    expected = {k: v.shape for k, v in model.init().items()}
    found = {k: np.shape(v) for k, v in params.items()}
    codes: Params = {k: params[k] for k in _GROUPS}
    if all(found[k] == expected[k] for k in ("identity", "albedo", "expression")):
        return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), codes)
    linear = _linear()
    if found["identity"] == (linear.shape.n_identity,) and found["albedo"] == (linear.albedo.n_codes,):
        codes = jax.tree.map(jnp.asarray, codes)
        if hasattr(model.albedo, "encoder"):
            codes = project_linear(model, linear, codes)
        else:  # no encoder: the middle of the codes
            codes |= {k: jnp.zeros(expected[k], jnp.float32) for k in ("identity", "albedo")}
    else:
        lengths = f"identity of {found['identity']} and albedo of {found['albedo']} numbers"
        raise FitjaxError(f"{path}: {lengths}; expected those of the model that is trained or of the linear one; fit again with one of these")
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), codes)


def train_on_photos(
    start: str | Path | None,
    photos: Path,
    fits: Path,
    folder: Path,
    settings: ImageSettings,
    masks: Path | None = None,
    interval: int = 20,
    progress: Any = None,
    say: Callable[[str], Any] = print,
) -> Path | None:
    """Continue from a model file by reconstruction; returns ``folder/model_images.safetensors``, or None if ``progress`` stopped the training.

    Args:
        start: the file of stage 1; None for the shipped one. Others as for :func:`read_fits`.

    Raises:
        FitjaxError: files that cannot be read, or a folder of other settings.
    """
    path = shipped_nonlinear() if start is None else Path(start)
    model = load_nonlinear(path, 0, ("mediapipe478", "ibug68"))
    faces = read_fits(photos, fits, model, masks, say)
    say(f"{len(faces)} fitted photos")
    raw = path.read_bytes()
    tensors = safetensors.numpy.load(raw)
    with safetensors.safe_open(str(path), "np") as handle:
        metadata = dict(handle.metadata())
    about = {"start": hashlib.sha256(raw).hexdigest(), "photos_fitted": [face.name for face in faces]}
    trained, state = train_images(
        settings, model, faces, folder / "images.checkpoint.safetensors", folder / "metrics.jsonl", about, interval, progress
    )
    if int(state.step) < settings.steps:
        return None
    for part, weights in weights_of(trained).items():
        tensors |= flatten_weights(weights["params"], f"{part}.decoder")
    provenance = json.loads(metadata.get("provenance", "{}"))
    provenance["images"] = {"photos": len(faces), "settings": repr(settings), "start_sha256": about["start"]}
    metadata |= {"provenance": json.dumps(provenance, sort_keys=True)}
    # What is made of photos of people is the user's, under whatever terms these photos have.
    metadata["licence"] = "as the photos it was trained on"
    target = folder / "model_images.safetensors"
    atomic_write_bytes(target, safetensors.numpy.save({k: np.ascontiguousarray(v) for k, v in sorted(tensors.items())}, metadata))
    return target
