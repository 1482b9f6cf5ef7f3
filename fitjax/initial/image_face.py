"""A face in a photo by the image network: pose, codes, landmarks with confidences, parts and what is visible; in pixels of the photo."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fitjax.errors import FitError
from fitjax.geometry.camera import Camera
from fitjax.image.photo import Photo
from fitjax.initial.image_crop import cut_crop
from fitjax.initial.image_mirror import Mirror, mean_output, mirror_of, mirrored_output
from fitjax.initial.image_network import LAPLACE, SIGMA_UNIT, ImageNet, ImageOutput
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
#: Looks: each crop after the first is centred on the result before it and turned upright. Each is looked at in the mirror too.
LOOKS = 3


@dataclass(frozen=True, eq=False)
class ImageFace:
    """What the network found; all in pixels of the photo.

    Attributes:
        params: ``identity``, ``expression``, ``pose`` of the fused face in the camera. landmarks: (68, 2) of the set ``aflw68``; sigma: (68,)
            expected standard deviation per axis; confidence: (68,) weights of the landmarks, 0 to 1.
        by_branch: ``model``, ``image``, ``refined``, ``fused`` → (68, 2). rotations: all but ``refined`` → (3, 3) in the camera.
        agreement: mean distance between the landmarks of the model-space and the image-space branch over the face size.
        labels: (h, w) uint8, see :data:`IMAGE_LABELS`; visible: (h, w) probability that the face is to be seen there; photo_from_labels: (2, 3) from
            (column, row) of both to pixels. face_size: √(w · h) of the landmarks' box. dense: (478, 2) of ``mediapipe478``, the fused face's.
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
    dense: np.ndarray


@partial(jax.jit, static_argnames=("net",))
def run_network(net: ImageNet, weights: Any, tables: ImageTables, images: Float[Array, "B S S 3"], mirror: Mirror | None = None) -> ImageOutput:
    """The network alone; with a ``mirror`` the mean of what it says of the crops and of the mirrored crops."""
    if mirror is None:
        found: ImageOutput = run(net, weights, images, tables)
        return found
    both = run(net, weights, jnp.concatenate([images, jnp.flip(images, 2)]), tables)
    # Batches lie along the first axis, but for the rounds of the refined landmarks.
    part = lambda k: ImageOutput(**{n: jnp.split(v, 2, 1 if n == "refined" else 0)[k] for n, v in both._asdict().items()})  # noqa: E731
    return mean_output(part(0), mirrored_output(part(1), mirror))


@partial(jax.jit, static_argnames=("alone",))
def solve_branches(out: ImageOutput, tables: ImageTables, alone: bool = True) -> tuple[dict[str, Placed], dict[str, Float[Array, "B N 3"]]]:
    """Faces by branch (:func:`fitjax.initial.image_solve.branches`), and their landmarks and dense points in the crop; leaves have a leading axis."""

    def one(single: ImageOutput) -> tuple[dict[str, Placed], dict[str, Array]]:
        faces = branches(single, tables, alone)
        return faces, {name: show(face, tables) for name, face in faces.items()}

    each = out._replace(refined=jnp.moveaxis(out.refined, 0, 1))
    if len(out.scale) == 1:  # without vmap: small matrices are solved faster one by one
        return jax.tree.map(lambda x: x[None], one(jax.tree.map(lambda x: x[0], each)))
    return jax.vmap(one)(each)


@cache
def _tables(sha256: str) -> ImageTables:
    return image_tables(load_basis(EMBEDDED, 0, sample_sets=(MARKS, DENSE)))


@cache
def load_mirror(path: Path = SHIPPED_IMAGE) -> Mirror:
    """Of the model that the weights belong to.

    Raises:
        BasisError: as :func:`load_looker`.
    """
    return mirror_of(load_looker(path)[2])


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


def _turn_towards(ray: np.ndarray) -> np.ndarray:
    """The shortest turn of the optical axis to a ray in front of the camera; on the host, where small things cost no dispatch."""
    x, y, z = ray / np.linalg.norm(ray)
    cross = np.array([[0, 0, x], [0, 0, y], [-x, -y, 0]])
    return np.eye(3) + cross + cross @ cross / (1 + z)


def pose_in_camera(face: Placed, photo_from_crop: np.ndarray, marks: np.ndarray, camera: Camera) -> dict[str, np.ndarray]:
    """Rotation (3, 3) and translation (3,) of a face of a crop in the photo's camera; ``marks`` (N, 2) its landmarks, pixels of the photo."""
    scale = np.sqrt(np.linalg.det(photo_from_crop[:, :2]))
    turn = np.eye(3)
    turn[:2, :2] = photo_from_crop[:, :2] / scale
    focal, centre = np.asarray(camera.focal, np.float64), np.asarray(camera.centre, np.float64)
    rotation = turn @ np.asarray(face.rotation, np.float64)
    if camera.kind == "perspective":
        # The network sees the head against the ray through it.
        rotation = _turn_towards(np.append((marks.mean(0) - centre) / focal, 1.0)) @ rotation
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
    mirror = load_mirror(weights)
    place, size, angle = np.asarray(centre, np.float64), float(face_size), 0.0
    for k in range(looks):
        crop, photo_from_crop = cut_crop(photo, place, size, net.side, angle)
        out = run_network(net, values, tables, crop[None], mirror)
        if k + 1 < looks:
            marks = np.asarray(out.refined)[-1, 0] @ photo_from_crop[:, :2].T + photo_from_crop[:, 2]
            own = np.asarray(out.rotation)[0, :2, 1]
            up = photo_from_crop[:, :2] @ own
            # Seen along its own axis a head has no up; then the crop stays as it is.
            angle = float(np.arctan2(up[0], -up[1])) if np.linalg.norm(own) > 0.3 else angle
            axes = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            middle, next_size = _box(marks @ axes)
            # A first look that went astray must not take the second one with it.
            place, size = axes @ middle, float(np.clip(next_size, 0.6 * size, 1.6 * size))
    faces, shown = jax.tree.map(lambda x: np.asarray(x[0]), jax.device_get(solve_branches(out, tables, alone=False)))
    log_sigma, labels = np.asarray(out.mark_log_sigma)[0], np.argmax(np.asarray(out.labels)[0], -1).astype(np.uint8)
    visible = 1 / (1 + np.exp(-np.asarray(out.visible)[0]))
    in_photo = lambda points: points[..., :2] @ photo_from_crop[:, :2].T + photo_from_crop[:, 2]  # noqa: E731
    by_branch = {name: in_photo(points[:68]) for name, points in shown.items()}
    by_branch["refined"] = in_photo(np.asarray(out.refined)[-1, 0])
    scale = np.sqrt(np.linalg.det(photo_from_crop[:, :2]))
    landmarks = by_branch[about.get("landmarks", "refined")]
    own_size = _box(landmarks)[1]
    sigma = np.sqrt(LAPLACE) * SIGMA_UNIT * np.exp(log_sigma) * scale * float(about.get("sigma_factor", 1.0))
    poses = {name: pose_in_camera(face, photo_from_crop, by_branch[name], camera) for name, face in faces.items()}
    n_identity = int(np.sum(~np.isfinite(np.asarray(tables.upper))))
    codes = faces["fused"].codes
    params = {
        "identity": jnp.asarray(codes[:n_identity]), "expression": jnp.asarray(codes[n_identity:]),
        "pose": {k: jnp.asarray(v, jnp.float32) for k, v in poses["fused"].items()},
    }  # fmt: skip
    maps = len(labels)
    step = 2 / maps
    return ImageFace(
        params, landmarks, sigma, np.minimum(1.0, (SURE * own_size / np.maximum(sigma, 1e-6)) ** 2), by_branch,
        {name: pose["rotation"] for name, pose in poses.items()},
        float(np.linalg.norm(by_branch["model"] - by_branch["image"], axis=1).mean() / own_size),
        labels, visible,
        np.concatenate([photo_from_crop[:, :2] * step, (photo_from_crop @ [step / 2 - 1, step / 2 - 1, 1])[:, None]], 1), own_size,
        in_photo(shown["fused"][68:]),
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

