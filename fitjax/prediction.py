"""What losses see of a model: one fully decoded prediction.

Sample sets are decoded when a loss reads them; of the rest, XLA drops under ``jit`` what no loss reads. A loss on landmarks never pays for
the vertices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fitjax.geometry.camera import MINIMUM_DEPTH, Camera, project, scale_focal
from fitjax.geometry.rotation import rotate
from fitjax.geometry.surface import SurfacePoints, facing_camera
from fitjax.model.params import Params
from fitjax.model.protocol import Face, Model
from fitjax.observation.observation import Observation
from fitjax.ondemand import OnDemand
from fitjax.pytree import pytree, static

#: The set behind ``Prediction.landmarks``: the first that the model has.
DEFAULT_68 = ("aflw68", "ibug68")

#: Candidates per jaw point in the set ``contour68``.
CONTOUR_CANDIDATES = 9


@pytree
class PixelTrust:
    """How far each pixel shows the face rather than what is in front of it, and the unit of its residuals, sRGB.

    ``weight`` (P,) and ``spread`` () for losses on the model; ``detail_weight`` (P,) and ``detail_spread`` (P,) for residual maps: larger where
    the model already explains the photo down to its noise.
    """

    weight: Float[Array, "P"]
    detail_weight: Float[Array, "P"]
    spread: Float[Array, ""]
    detail_spread: Float[Array, "P"]


@pytree
class Frozen:
    """Discrete choices that are data during one outer step, so that they are never differentiated.

    Attributes:
        visible: per sample set (S,), 1.0 where the sample faces the camera; of the sets that the losses of a fit may read.
        triangle_id: which triangle each pixel of the crop shows, where a loss reads pixels. face: what those of the face show
            (:class:`fitjax.render.frozen_face.FrozenPixels`). pixels: how far to believe each of these.
        contour: (17,) which candidate of ``contour68`` each jaw point uses, or None where no loss asks.
        area: per sample set of ``visible`` (S,), area in the picture per area of the mean face's surface, up to a common factor; 0 where it
            faces away.
    """

    visible: dict[str, Float[Array, "S"]]
    contour: Int[Array, "17"] | None
    triangle_id: Int[Array, "H W"] | None = None
    face: Any = None
    pixels: PixelTrust | None = None
    area: Any = None


@pytree
class Mesh:
    """What rendering needs of a model besides its decoded face; see docs/basis_format.md for the arrays.

    Attributes:
        face_map, detail_map, occlusion: (H, W), see :class:`fitjax.model.textured.TexturedModel`.
    """

    triangles: Int[Array, "F 3"]
    uv: Float[Array, "T 2"]
    uv_triangles: Int[Array, "F 3"]
    face_map: Float[Array, "H W"]
    detail_map: Float[Array, "H W"]
    occlusion: Float[Array, "H W"]


@pytree
class Prediction:
    """A decoded, posed and projected face.

    Attributes:
        face: vertices and albedo in head space.
        points_head, points_camera: per sample set, positions (S, 3) and normals (S, 3), metres.
        pixels: per sample set (S, 2), pixels of the original image.
        R_camera_head, t_camera_head: (3, 3) and (3,) metres, OpenCV axes.
        camera: with the focal length in use.
        prior: whitened codes per group.
        face_centre, face_size: of the observation, pixels: the origin and unit of :attr:`landmarks`.
        frozen: visibility and contour choices of this outer step.
        params: what was decoded. mesh: of a textured model, else None.
        covered: (H, W) over the crop, where the observed parts say that something is in front of the face; None without parts.
    """

    face: Face
    points_head: Mapping[str, SurfacePoints]
    points_camera: Mapping[str, SurfacePoints]
    pixels: Mapping[str, Float[Array, "S 2"]]
    R_camera_head: Float[Array, "3 3"]
    t_camera_head: Float[Array, "3"]
    camera: Camera
    prior: dict[str, Any]
    face_centre: Float[Array, "2"]
    face_size: Float[Array, ""]
    frozen: Frozen | None
    params: Params
    mesh: Mesh | None = None
    covered: Any = None
    default_set: str = static(default="aflw68")

    @property
    def landmarks(self) -> Float[Array, "68 2"]:
        """The 68 points (``aflw68``, else ``ibug68``) in units of the face size about the face's centre; x right, y down."""
        return self.normalise(self.pixels[self.default_set])

    def normalise(self, pixels: Float[Array, "*b 2"]) -> Float[Array, "*b 2"]:
        """Pixels to units of the face size."""
        return (pixels - self.face_centre) / self.face_size

    @property
    def vertices_camera(self) -> Float[Array, "V 3"]:
        return to_camera(self.face.vertices, self.R_camera_head, self.t_camera_head)

    @property
    def vertices_pixels(self) -> Float[Array, "V 2"]:
        """All vertices in pixels of the original image."""
        return project(self.camera, self.vertices_camera, self.t_camera_head[2])


def to_camera(points_head: Float[Array, "*b 3"], R: Float[Array, "3 3"], t: Float[Array, "3"]) -> Float[Array, "*b 3"]:
    """x_camera = R x_head + t."""
    return rotate(points_head, R) + t


def _pose(points: SurfacePoints, R: Array, t: Array) -> SurfacePoints:
    return SurfacePoints(to_camera(points.position, R, t), rotate(points.normal, R))


def predict(model: Model, params: Params, observation: Observation, frozen: Frozen | None = None) -> Prediction:
    """Decode, pose and project ``params`` into the photo of ``observation``."""
    R, t = params["pose"]["rotation"], params["pose"]["translation"]
    camera = observation.camera
    if "camera" in params:
        camera = scale_focal(camera, params["camera"]["log_focal"])
    names = tuple(model.sample_sets)
    points_head = OnDemand(names, lambda name: model.decode_samples(params, name))
    points_camera = OnDemand(names, lambda name: _pose(points_head[name], R, t))
    pixels = OnDemand(names, lambda name: project(camera, points_camera[name].position, t[2]))
    default = next((n for n in DEFAULT_68 if n in names), next(iter(names), ""))
    return Prediction(
        model.decode(params),
        points_head,
        points_camera,
        pixels,
        R,
        t,
        camera,
        dict(model.prior(params)),
        observation.face_centre,
        observation.face_size,
        frozen,
        params,
        mesh_of(model),
        None if observation.parts is None else observation.parts.covered,
        default,
    )


def mesh_of(model: Model) -> Mesh | None:
    """Topology and texture coordinates of a textured model, None for others."""
    textured: Any = model
    if not hasattr(textured, "face_map"):
        return None
    return Mesh(textured.triangles, textured.uv, textured.uv_triangles, textured.face_map, textured.detail_map, textured.occlusion)


def freeze(model: Model, params: Params, names: Iterable[str] | None = None) -> Frozen:
    """Visibility of sample sets (``names``, default all) and the visible candidate of each contour line, at the current parameters.

    A jaw point of a 2-D annotation sits on the visible outline: the first candidate on its line, from the documented point
    inwards, that faces the camera (Zhu et al., "High-fidelity pose and expression normalization", CVPR 2015).
    """
    R, t = params["pose"]["rotation"], params["pose"]["translation"]
    names = model.sample_sets if names is None else tuple(n for n in model.sample_sets if n in set(names))
    points = {name: _pose(model.decode_samples(params, name), R, t) for name in names}
    facing = {name: facing_camera(one) for name, one in points.items()}
    visible = {name: (cosine > 0).astype(t.dtype) for name, cosine in facing.items()}
    contour = None
    if "contour68" in facing:
        lines = facing["contour68"].reshape(-1, CONTOUR_CANDIDATES) > 0
        # With no candidate in view the innermost one is nearest to the outline.
        contour = jnp.where(lines.any(1), jnp.argmax(lines, axis=1), CONTOUR_CANDIDATES - 1)
    stretch = _stretch(model, params, names)
    area = {
        name: stretch.get(name, 1.0) * jnp.maximum(facing[name], 0) / jnp.maximum(points[name].position[:, 2], MINIMUM_DEPTH) ** 2
        for name in names
    }
    return Frozen(visible, contour, area=area)


def _stretch(model: Model, params: Params, names: Iterable[str]) -> dict[str, Float[Array, "S"]]:
    """Per sample set whose triangles the model names (S,): area of the surface there per area on the mean face. A cheek below an open jaw has
    twice its area, and samples that are uniform on the mean face are half as dense there."""
    shape: Any = getattr(model, "shape", model)
    library = getattr(shape, "sample_library", {})
    known = [name for name in names if name in library]
    if not known:
        return {}

    def areas(params: Params, triangle: Array) -> Array:
        corners = shape.decode(params).vertices[shape.triangles[triangle]]
        return jnp.linalg.norm(jnp.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=-1)

    rest = shape.init()
    # Triangles of the mean face without area hold no samples of an area-uniform set.
    return {n: areas(params, library[n].triangle) / jnp.maximum(areas(rest, library[n].triangle), 1e-12) for n in known}
