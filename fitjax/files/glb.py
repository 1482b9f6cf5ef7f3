"""glTF 2.0 binary (`.glb`): geometry, normals, texture, and blend shapes as morph targets.

glTF is metres, right-handed, +y up, and a face looks along +z: head space as it is. For a posed mesh pass vertices in
OpenGL camera axes (x right, y up, -z forward). Vertex i of the caller stays vertex i: where a texture seam needs a
vertex twice, the copy is added after the original ones.
"""

import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
import pygltflib as gltf

from fitjax.errors import FitjaxError
from fitjax.files.atomic import atomic_write_bytes
from fitjax.files.obj import check_uv
from fitjax.render.reference import check_mesh, vertex_normals

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def split_uv_seams(
    n_vertices: int, triangles: np.ndarray, uv: np.ndarray, uv_triangles: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One texture coordinate per vertex, by adding copies at the end.

    Args:
        n_vertices: V.
        triangles, uv, uv_triangles: (F, 3), (T, 2), (F, 3).

    Returns:
        ``source`` (W,): the original vertex of each vertex, ``source[:V]`` being 0 to V - 1; triangles (F, 3) into
        the W vertices; uv (W, 2), zero for a vertex in no triangle.
    """
    # Coordinates stored twice with equal values are one: fewer seams.
    distinct_uv, of_uv = np.unique(np.asarray(uv, np.float32), axis=0, return_inverse=True)
    corner_vertex = triangles.ravel().astype(np.int64)
    corner_pair = corner_vertex * len(distinct_uv) + of_uv.reshape(-1)[uv_triangles.ravel()]
    pairs, of_corner = np.unique(corner_pair, return_inverse=True)  # sorted by vertex, then coordinate
    pair_vertex, pair_uv = np.divmod(pairs, len(distinct_uv))
    is_first = np.ones(len(pairs), bool)
    is_first[1:] = pair_vertex[1:] != pair_vertex[:-1]
    new_index = np.where(is_first, pair_vertex, n_vertices + np.cumsum(~is_first) - 1)
    source = np.concatenate([np.arange(n_vertices), pair_vertex[~is_first]])
    out_uv = np.zeros((len(source), 2), np.float32)
    out_uv[new_index] = distinct_uv[pair_uv]
    return source, new_index[of_corner].reshape(-1, 3), out_uv


class _Builder:
    """Collects one binary buffer, its views and accessors."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[gltf.BufferView] = []
        self.accessors: list[gltf.Accessor] = []

    def view(self, payload: bytes, target: int | None = None) -> int:
        self.data += b"\0" * (-len(self.data) % 4)
        self.views.append(gltf.BufferView(buffer=0, byteOffset=len(self.data), byteLength=len(payload), target=target))
        self.data += payload
        return len(self.views) - 1

    def attribute(self, values: np.ndarray, bounds: bool = False) -> int:
        """A float32 vertex attribute (W, 2) or (W, 3); positions need bounds."""
        values = np.ascontiguousarray(values, np.float32)
        self.accessors.append(
            gltf.Accessor(
                bufferView=self.view(values.tobytes(), gltf.ARRAY_BUFFER),
                componentType=gltf.FLOAT,
                count=len(values),
                type=gltf.VEC3 if values.shape[1] == 3 else gltf.VEC2,
                min=values.min(0).astype(float).tolist() if bounds else None,
                max=values.max(0).astype(float).tolist() if bounds else None,
            )
        )
        return len(self.accessors) - 1

    def displacement(self, values: np.ndarray) -> int:
        """A morph target (W, 3); only the vertices that move are stored where they are the minority, as most expressions are local."""
        values = np.ascontiguousarray(values, np.float32)
        moved = np.flatnonzero((values != 0).any(1))
        if not 0 < len(moved) < len(values) / 2:
            return self.attribute(values, bounds=True)
        indices = gltf.AccessorSparseIndices(
            bufferView=self.view(moved.astype(np.uint32).tobytes()), componentType=gltf.UNSIGNED_INT
        )
        rows = gltf.AccessorSparseValues(bufferView=self.view(values[moved].tobytes()))
        self.accessors.append(
            gltf.Accessor(
                bufferView=None,
                byteOffset=None,
                componentType=gltf.FLOAT,
                count=len(values),
                type=gltf.VEC3,
                min=values.min(0).astype(float).tolist(),
                max=values.max(0).astype(float).tolist(),
                sparse=gltf.Sparse(count=len(moved), indices=indices, values=rows),
            )
        )
        return len(self.accessors) - 1

    def indices(self, triangles: np.ndarray) -> int:
        values = triangles.astype(np.uint32).ravel()
        self.accessors.append(
            gltf.Accessor(
                bufferView=self.view(values.tobytes(), gltf.ELEMENT_ARRAY_BUFFER),
                componentType=gltf.UNSIGNED_INT,
                count=len(values),
                type=gltf.SCALAR,
                min=[int(values.min())],
                max=[int(values.max())],
            )
        )
        return len(self.accessors) - 1


def write_glb(
    path: str | os.PathLike,
    vertices: np.ndarray,
    triangles: np.ndarray,
    uv: np.ndarray | None = None,
    uv_triangles: np.ndarray | None = None,
    normals: bool = True,
    morph_targets: Mapping[str, np.ndarray] | None = None,
    morph_weights: Mapping[str, float] | Sequence[float] | None = None,
    texture_png: bytes | None = None,
    name: str = "face",
    roughness: float = 0.75,
) -> None:
    """Write one mesh. The same input gives the same bytes.

    Args:
        vertices: (V, 3) metres, +y up, +z towards the viewer.
        triangles: (F, 3), counter-clockwise from outside.
        uv, uv_triangles: as for `write_obj`, origin bottom-left; stored top-left, as glTF wants.
        normals: add area-weighted vertex normals, smooth across texture seams.
        morph_targets: name to displacement (V, 3) at weight 1; names go to ``mesh.extras.targetNames``.
        morph_weights: weights shown at first, by name or in the order of the targets; 0 by default.
        texture_png: a PNG file's bytes, its first row the top (v = 1).
        name: of mesh, node and material.
        roughness: of the material, 0 to 1; it is never metallic.

    Raises:
        FitjaxError: wrong shapes, an index out of range, no triangle, a value that is not finite, a texture without uv
            or that is no PNG, weights of unknown targets, or an unwritable path.
    """
    vertices, triangles = check_mesh(vertices, triangles)
    if not len(triangles):
        raise FitjaxError(f"{path}: the mesh has no triangles; glTF wants at least one")
    textured = check_uv(len(vertices), triangles, uv, uv_triangles)
    targets = {key: np.asarray(value) for key, value in (morph_targets or {}).items()}
    weights = _weights(path, list(targets), morph_weights)
    for key, value in {"vertices": vertices, "uv": None if textured is None else textured[0], **targets}.items():
        if value is None:
            continue
        if key in targets and value.shape != vertices.shape:
            raise FitjaxError(f"{path}: morph target {key!r} has shape {value.shape}; expected {vertices.shape}")
        if not np.isfinite(value).all():
            raise FitjaxError(f"{path}: {key!r} holds a value that is not finite; expected finite numbers")
    if texture_png is not None and (textured is None or not texture_png.startswith(_PNG_SIGNATURE)):
        raise FitjaxError(f"{path}: a texture needs uv and the bytes of a PNG file")

    source, corners = np.arange(len(vertices)), triangles
    build = _Builder()
    attributes = gltf.Attributes()
    if textured is not None:
        source, corners, uv_top_left = split_uv_seams(len(vertices), triangles, *textured)
        uv_top_left[:, 1] = 1 - uv_top_left[:, 1]
        attributes.TEXCOORD_0 = build.attribute(uv_top_left)
    attributes.POSITION = build.attribute(vertices[source], bounds=True)
    if normals:
        attributes.NORMAL = build.attribute(vertex_normals(vertices, triangles)[source])
    primitive = gltf.Primitive(attributes=attributes, indices=build.indices(corners), material=0, mode=gltf.TRIANGLES)
    primitive.targets = [{"POSITION": build.displacement(delta[source])} for delta in targets.values()]

    surface = gltf.PbrMetallicRoughness(metallicFactor=0.0, roughnessFactor=roughness)
    document = gltf.GLTF2(
        asset=gltf.Asset(version="2.0", generator="fitjax"),
        scene=0,
        scenes=[gltf.Scene(nodes=[0])],
        nodes=[gltf.Node(name=name, mesh=0)],
        meshes=[gltf.Mesh(name=name, primitives=[primitive])],
        materials=[
            gltf.Material(
                name=name,
                pbrMetallicRoughness=surface,
                doubleSided=True,  # face meshes end at the neck: one-sided, the inside vanishes when seen from below
                alphaMode=None,
                alphaCutoff=None,
            )
        ],
    )
    if targets:
        document.meshes[0].weights = weights
        document.meshes[0].extras = {"targetNames": list(targets)}
    if texture_png is None:
        surface.baseColorFactor = [0.72, 0.45, 0.32, 1.0]  # linear; a neutral skin tone
    else:
        surface.baseColorTexture = gltf.TextureInfo(index=0)
        document.textures = [gltf.Texture(source=0, sampler=0)]
        document.images = [gltf.Image(name=name, mimeType="image/png", bufferView=build.view(texture_png))]
        document.samplers = [
            gltf.Sampler(
                magFilter=gltf.LINEAR, minFilter=gltf.LINEAR_MIPMAP_LINEAR,
                wrapS=gltf.CLAMP_TO_EDGE, wrapT=gltf.CLAMP_TO_EDGE,
            )
        ]  # fmt: skip
    document.bufferViews, document.accessors = build.views, build.accessors
    build.data += b"\0" * (-len(build.data) % 4)
    document.buffers = [gltf.Buffer(byteLength=len(build.data))]
    document.set_binary_blob(bytes(build.data))
    atomic_write_bytes(path, b"".join(document.save_to_bytes()))


def _weights(
    path: str | os.PathLike, names: list[str], weights: Mapping[str, float] | Sequence[float] | None
) -> list[float]:
    if weights is None:
        return [0.0] * len(names)
    if isinstance(weights, Mapping):
        unknown = sorted(set(weights) - set(names))
        if unknown:
            raise FitjaxError(f"{path}: a weight for {unknown[0]!r}, which is not a morph target")
        values = [float(weights.get(name, 0.0)) for name in names]
    else:
        values = [float(weight) for weight in weights]
    if len(values) != len(names) or not all(map(math.isfinite, values)):
        raise FitjaxError(f"{path}: {len(values)} morph weights for {len(names)} targets; expected a finite one each")
    return values
