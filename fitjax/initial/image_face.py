"""A face in a photo by the image network: pose, codes, landmarks with confidences, parts and what is visible; in pixels of the photo."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fitjax.errors import FitError
from fitjax.geometry.camera import Camera
from fitjax.geometry.rotation import rotation_between_rays, safe_normalise
from fitjax.image.photo import Photo
from fitjax.initial.image_crop import cut_crop
from fitjax.initial.image_network import SIGMA_UNIT, ImageNet
from fitjax.initial.image_solve import Placed, branches, show
from fitjax.initial.image_tables import DENSE, MARKS, ImageTables, image_tables
from fitjax.initial.image_weights import SHIPPED_IMAGE, check_shapes, load_image_net
from fitjax.model.linear import LinearModel
from fitjax.model.load import EMBEDDED, load_basis
from fitjax.networks import run
from fitjax.observation.part_tables import PARTS, LabelTable
from fitjax.synth.settings import LABELS

#: Table of the label maps: eight parts, then what covers a face.
IMAGE_LABELS = LabelTable(
    "image_net",
    {name: (LABELS.index(name),) for name in PARTS},
    tuple(k for k, name in enumerate(LABELS) if name not in PARTS),
    tuple(LABELS.index(name) for name in ("hair", "glasses", "occluder")),
)
#: A landmark whose standard deviation (per axis) is this share of the face size has confidence one; it falls with its square. About FaceMesh's error.
SURE = 0.015
#: Looks: the second crop is centred on the first result and turned upright.
LOOKS = 2


@dataclass(frozen=True, eq=False)
class ImageFace:
    """What the network found; all in pixels of the photo.

    Attributes:
        params: ``identity``, ``expression``, ``pose`` of the fused face in the camera. landmarks: (68, 2) of the set ``aflw68``; sigma: (68,)
            expected standard deviation per axis; confidence: (68,) weights of the landmarks, 0 to 1.
        by_branch: ``model``, ``image``, ``marks``, ``refined``, ``fused`` → (68, 2). rotations: the first three and the last → (3, 3) in the camera.
        agreement: mean distance between the landmarks of the model-space and the image-space branch over the face size.
        labels: (h, w) uint8, see :data:`IMAGE_LABELS`; visible: (h, w) probability that the face is to be seen there; photo_from_labels: (2, 3) from
            (column, row) of both to pixels. face_size: √(w · h) of the landmarks' box.
    """

    params: dict[str, Any]
    landmarks: np.ndarray
    sigma: np.ndarray
    confidence: np.ndarray
    by_branch: dict[str, np.ndarray]
    rotations: dict[str, np.ndarray]
    agreement: float
    labels: np.ndarray
    visible: np.ndarray
    photo_from_labels: np.ndarray
    face_size: float


@partial(jax.jit, static_argnames=("net",))
def look(net: ImageNet, weights: Any, tables: ImageTables, images: Any) -> dict[str, Any]:
    """What one needs of the network's output for a batch of crops (B, S, S, 3): faces and landmarks (B, N, 3) by branch, refined ones with log σ,
    labels, probabilities of being visible."""
    out = run(net, weights, images, tables)

    def one(single: Any) -> dict[str, Any]:
        faces = branches(single, tables)
        return {"faces": faces, "shown": {name: show(face, tables) for name, face in faces.items()}}

    alone = out._replace(refined=jnp.moveaxis(out.refined, 0, 1))
    found = jax.vmap(one)(alone) if len(images) > 1 else jax.tree.map(lambda x: x[None], one(jax.tree.map(lambda x: x[0], alone)))
    labels = jnp.argmax(out.labels, -1).astype(jnp.uint8)
    return found | {"refined": out.refined[-1], "log_sigma": out.mark_log_sigma, "labels": labels, "visible": jax.nn.sigmoid(out.visible)}


@cache
def _tables(sha256: str) -> ImageTables:
    return image_tables(load_basis(EMBEDDED, 0, sample_sets=(MARKS, DENSE)))


@cache
def load_looker(path: Path = SHIPPED_IMAGE) -> tuple[ImageNet, Any, ImageTables, dict[str, Any]]:
    """Module, weights, tables of the embedded basis, and what they belong to.

    Raises:
        BasisError: no such file, a damaged one, or one of another basis.
    """
    net, weights, about = load_image_net(path)
    tables = _tables(about["basis_sha256"])
    check_shapes(path, net, weights, tables)
    return net, weights, tables, about


def knows(model: Any, about: dict[str, Any]) -> bool:
    """Whether the network's codes are those of the model."""
    shape = getattr(model, "shape", model)
    return isinstance(shape, LinearModel) and shape.basis_sha256 == about.get("basis_sha256")


def pose_in_camera(face: Placed, photo_from_crop: np.ndarray, marks: np.ndarray, camera: Camera) -> dict[str, np.ndarray]:
    """Rotation (3, 3) and translation (3,) of a face of a crop in the photo's camera; ``marks`` (N, 2) its landmarks, pixels of the photo."""
    scale = np.sqrt(np.linalg.det(photo_from_crop[:, :2]))
    turn = np.eye(3)
    turn[:2, :2] = photo_from_crop[:, :2] / scale
    focal, centre = np.asarray(camera.focal, np.float64), np.asarray(camera.centre, np.float64)
    rotation = turn @ np.asarray(face.rotation, np.float64)
    if camera.kind == "perspective":
        # The network sees the head against the ray through it.
        ray = np.append((marks.mean(0) - centre) / focal, 1.0).astype(np.float32)
        rotation = np.asarray(rotation_between_rays(jnp.array([0.0, 0.0, 1.0]), safe_normalise(jnp.asarray(ray))), np.float64) @ rotation
    origin = photo_from_crop[:, :2] @ np.asarray(face.shift, np.float64) + photo_from_crop[:, 2]
    depth = focal.mean() / (float(face.scale) * scale)
    return {"rotation": rotation, "translation": depth * np.append((origin - centre) / focal, 1.0)}


def _box(points: np.ndarray) -> tuple[np.ndarray, float]:
    low, high = points.min(0), points.max(0)
    return (low + high) / 2, float(np.sqrt(np.prod(np.maximum(high - low, 1e-3))))


def image_face(
    photo: Photo, centre: Any, face_size: float, camera: Camera, *, weights: Path = SHIPPED_IMAGE, looks: int = LOOKS
) -> ImageFace:
    """The face around ``centre`` (2,), of about ``face_size`` = √(w · h) of its landmarks, both in pixels.

    Args:
        looks: crops to look at, each where the one before found the face, upright.

    Raises:
        FitjaxError: the face lies outside the photo. BasisError: the weights are missing or damaged. FitError: ``looks`` below 1.
    """
    if looks < 1:
        raise FitError(f"image_face: looks: expected at least 1, found {looks}")
    net, values, tables, about = load_looker(weights)
    place, size, angle = np.asarray(centre, np.float64), float(face_size), 0.0
    for k in range(looks):
        crop, photo_from_crop = cut_crop(photo, place, size, net.side, angle)
        found = jax.tree.map(lambda x: np.asarray(x[0]), jax.device_get(look(net, values, tables, crop[None])))
        marks = found["shown"]["fused"][:68, :2] @ photo_from_crop[:, :2].T + photo_from_crop[:, 2]
        if k + 1 < looks:
            up = photo_from_crop[:, :2] @ found["faces"]["fused"].rotation[:2, 1]
            # Seen along its own axis a head has no up; then the crop stays as it is.
            steady = np.linalg.norm(found["faces"]["fused"].rotation[:2, 1]) > 0.3
            angle = float(np.arctan2(up[0], -up[1])) if steady else angle
            axes = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            middle, next_size = _box(marks @ axes)
            # A first look that went astray must not take the second one with it.
            place, size = axes @ middle, float(np.clip(next_size, 0.6 * size, 1.6 * size))
    in_photo = lambda points: points[..., :2] @ photo_from_crop[:, :2].T + photo_from_crop[:, 2]  # noqa: E731
    by_branch = {name: in_photo(shown[:68]) for name, shown in found["shown"].items()} | {"refined": in_photo(found["refined"])}
    scale = np.sqrt(np.linalg.det(photo_from_crop[:, :2]))
    landmarks = by_branch[about.get("landmarks", "refined")]
    own_size = _box(landmarks)[1]
    sigma = np.sqrt(3) * SIGMA_UNIT * np.exp(found["log_sigma"]) * scale * float(about.get("sigma_factor", 1.0))
    faces = found["faces"]
    poses = {name: pose_in_camera(face, photo_from_crop, by_branch[name], camera) for name, face in faces.items()}
    n_identity = int(np.sum(~np.isfinite(np.asarray(tables.upper))))
    codes = faces["fused"].codes
    params = {
        "identity": jnp.asarray(codes[:n_identity]), "expression": jnp.asarray(codes[n_identity:]),
        "pose": {k: jnp.asarray(v, jnp.float32) for k, v in poses["fused"].items()},
    }  # fmt: skip
    maps = len(found["labels"])
    step = 2 / maps
    return ImageFace(
        params, landmarks, sigma, np.minimum(1.0, (SURE * own_size / np.maximum(sigma, 1e-6)) ** 2), by_branch,
        {name: pose["rotation"] for name, pose in poses.items()},
        float(np.linalg.norm(by_branch["model"] - by_branch["image"], axis=1).mean() / own_size),
        found["labels"], found["visible"],
        np.concatenate([photo_from_crop[:, :2] * step, (photo_from_crop @ [step / 2 - 1, step / 2 - 1, 1])[:, None]], 1), own_size,
    )  # fmt: skip


def in_photo(values: np.ndarray, photo_from_labels: np.ndarray, photo: Photo, outside: float = 0) -> np.ndarray:
    """(height, width) of the photo: the nearest value of a map of the crop, ``outside`` elsewhere."""
    back = np.linalg.inv(photo_from_labels[:, :2])
    x, y = np.meshgrid(np.arange(photo.width), np.arange(photo.height))
    at = np.rint((np.stack([x, y], -1) - photo_from_labels[:, 2]) @ back.T).astype(int)
    within = (at >= 0).all(-1) & (at[..., 0] < values.shape[1]) & (at[..., 1] < values.shape[0])
    result = np.full((photo.height, photo.width), outside, values.dtype)
    result[within] = values[at[within][:, 1], at[within][:, 0]]
    return result


def size_of_box(width: float, height: float) -> float:
    """Size of the landmarks of a face whose box, from the brows or the hair line to the chin, is given."""
    return float(np.sqrt(width * height))
