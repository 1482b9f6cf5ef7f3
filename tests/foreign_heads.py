"""Small files in the published layouts of FLAME and GNM, written without anything of the package: a head with eyeballs, joints and random shapes."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
from toy import toy_tensors

#: Where the eyes of the toy head are; its own origin is elsewhere, as in the files of these models.
EYES = np.array([[0.031, 0.027, 0.062], [-0.031, 0.027, 0.062]])
OFFSET = np.array([0.0, -0.03, 0.04])
FACE_RINGS, FACE_SEGMENTS = 14, 16


def ball(rings: int = 5, segments: int = 6, radius: float = 0.012) -> tuple[np.ndarray, np.ndarray]:
    """A closed sphere, outside counter-clockwise."""
    theta, phi = np.meshgrid(np.linspace(0.4, np.pi - 0.4, rings), np.arange(segments) * 2 * np.pi / segments, indexing="ij")
    sides = np.stack([np.sin(theta) * np.sin(phi), np.cos(theta), np.sin(theta) * np.cos(phi)], -1).reshape(-1, 3)
    points = radius * np.concatenate([sides, [[0, 1, 0], [0, -1, 0]]])
    index = np.arange(rings * segments).reshape(rings, segments)
    after = np.roll(index, -1, axis=1)
    faces = [(index[i, j], index[i + 1, j], after[i + 1, j]) for i in range(rings - 1) for j in range(segments)]
    faces += [(index[i, j], after[i + 1, j], after[i, j]) for i in range(rings - 1) for j in range(segments)]
    top, bottom = len(sides), len(sides) + 1
    faces += [(top, index[0, j], after[0, j]) for j in range(segments)]
    faces += [(bottom, after[-1, j], index[-1, j]) for j in range(segments)]
    return points, np.array(faces)


def head() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (V, 3) metres in the file's own space, triangles (F, 3), and for each vertex 0 skin, 1 left eyeball, 2 right eyeball."""
    tensors, _ = toy_tensors(0, FACE_RINGS, FACE_SEGMENTS)
    points, faces = ball()
    skin, count = tensors["mean"].astype(float), len(tensors["mean"])
    vertices = np.concatenate([skin, points + EYES[0], points + EYES[1]]) + OFFSET
    triangles = np.concatenate([tensors["triangles"], faces + count, faces + count + len(points)])
    return vertices, triangles.astype(np.int64), np.repeat([0, 1, 2], [count, len(points), len(points)])


def smooth_modes(vertices: np.ndarray, count: int, size: float, rng: np.random.Generator) -> np.ndarray:
    """(count, V, 3) bumps."""
    centres = vertices[rng.choice(len(vertices), count)]
    bump = np.exp(-((vertices[None] - centres[:, None]) ** 2).sum(-1) / 0.06**2)
    return size * bump[..., None] * rng.normal(size=(count, 1, 3))


def flame_arrays(seed: int = 0, n_shape: int = 300, n_expression: int = 100, whole_head: bool = True) -> dict[str, np.ndarray]:
    """The arrays of FLAME 2020's generic_model.pkl, in float64 as there."""
    rng = np.random.default_rng(seed)
    vertices, triangles, part = head()
    skin = part == 0
    centres = np.array([[0, -0.13, -0.02], [0, -0.11, -0.03], [0, -0.02, 0.0], *EYES]) + OFFSET
    weights = np.zeros((len(vertices), 5))
    height, depth = vertices[:, 1] - OFFSET[1], vertices[:, 2] - OFFSET[2]
    weights[:, 0] = np.clip((-0.085 - height) / 0.015, 0, 1)
    weights[:, 2] = (1 - weights[:, 0]) * np.clip((-0.01 - height) / 0.03, 0, 1) * np.clip(depth / 0.03, 0, 1)
    weights[:, 1] = 1 - weights[:, 0] - weights[:, 2]
    for eye in (1, 2):
        weights[part == eye] = np.eye(5)[2 + eye]
    # A joint is a mean of vertices: least squares with weights that sum to one.
    regressor = np.zeros((5, len(vertices)))
    for joint, centre in enumerate(centres):
        near = np.flatnonzero((part == max(joint - 2, 0)) | (joint < 3) & skin)
        system = np.vstack([vertices[near].T, np.ones(len(near))])
        regressor[joint, near] = np.linalg.lstsq(system, np.append(centre, 1), rcond=None)[0]
    modes = smooth_modes(vertices, n_shape, 0.0015, rng)
    expressions = smooth_modes(vertices, n_expression, 0.002, rng)
    if not whole_head:
        expressions *= (depth > 0)[:, None]
    return {
        "v_template": vertices,
        "f": triangles.astype(np.uint32),
        "shapedirs": np.moveaxis(np.concatenate([modes, expressions]), 0, 2),
        "posedirs": np.moveaxis(smooth_modes(vertices, 36, 0.002, rng), 0, 2),
        "J_regressor": regressor,
        "weights": weights,
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.uint32),
    }


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined]
    """Writes as Python 2.7 with NumPy 1 and SciPy 0.19 did: byte strings for text and buffers, the old names of modules."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def __init__(self, file: Any):
        super().__init__(file, protocol=2)

    def _string(self, data: bytes) -> None:
        self.write(b"U" + bytes([len(data)]) + data if len(data) < 256 else b"T" + struct.pack("<i", len(data)) + data)

    def save_str(self, text: str) -> None:
        self._string(text.encode("latin1"))
        self.memoize(text)

    def save_bytes(self, data: bytes) -> None:
        self._string(data)
        self.memoize(data)

    def save_global(self, item: Any, name: str | None = None) -> None:
        module, name = item.__module__, name or item.__qualname__
        old = {"numpy._core.multiarray": "numpy.core.multiarray", "scipy.sparse._csc": "scipy.sparse.csc", "copyreg": "copy_reg"}
        module = old.get(module, module).replace("builtins", "__builtin__")
        self.write(b"c" + f"{module}\n{name}\n".encode())
        self.memoize(item)

    dispatch[str] = save_str
    dispatch[bytes] = save_bytes
    dispatch[type] = save_global
    dispatch[types.FunctionType] = save_global
    dispatch[types.BuiltinFunctionType] = save_global


def chumpy_stand_ins() -> dict[str, type]:
    """Classes with chumpy's names and layout; the real package runs on no present NumPy."""
    found = {}
    for module, name in (("chumpy.ch", "Ch"), ("chumpy.ch", "MatVecMult"), ("chumpy.reordering", "Select")):
        found[name] = type(name, (), {"__module__": module, "__qualname__": name})
    return found


def as_chumpy(classes: dict[str, type], name: str, **state: Any) -> Any:
    item = classes[name]()
    item.__dict__.update({"_dirty_vars": {}, "_itr": None, "_parents": {}, "_cache": {}, **state})
    return item


def write_flame_pkl(path: Path, arrays: dict[str, np.ndarray], **more: Any) -> Path:
    """generic_model.pkl: chumpy objects, one of them a selection of another; a sparse regressor; texts."""
    classes = chumpy_stand_ins()
    modules = {name: types.ModuleType(name) for name in ("chumpy", "chumpy.ch", "chumpy.reordering")}
    for item in classes.values():
        setattr(modules[item.__module__], item.__name__, item)
    directions = arrays["shapedirs"]
    both = as_chumpy(classes, "Ch", x=np.concatenate([directions, directions[:, :, :3]], 2))
    index = np.arange(both.x.size).reshape(both.x.shape)[:, :, : directions.shape[2]].ravel()
    regressor = sp.csc_matrix(arrays["J_regressor"])
    template = as_chumpy(classes, "Ch", x=arrays["v_template"])
    fields = dict(arrays) | {
        "v_template": template,
        "shapedirs": as_chumpy(classes, "Select", a=both, idxs=index, preferred_shape=directions.shape),
        "posedirs": as_chumpy(classes, "Ch", x=np.asfortranarray(arrays["posedirs"])),
        "J_regressor": regressor,
        "J": as_chumpy(classes, "MatVecMult", mtx=regressor, vec=template),
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }
    sys.modules.update(modules)
    try:
        stream = io.BytesIO()
        Python2Pickler(stream).dump(fields | more)
    finally:
        for name in modules:
            del sys.modules[name]
    path.write_bytes(stream.getvalue())
    return path


def write_flame_npz(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """As users make it: ``np.savez(path, **pickled)``, with the sparse matrix in an array of objects."""
    boxed = np.empty((), object)
    boxed[()] = sp.csc_matrix(arrays["J_regressor"])
    np.savez(path, **(arrays | {"J_regressor": boxed, "bs_type": "lrotmin"}))  # type: ignore[arg-type]
    return path


def write_embedding(path: Path, rng: np.random.Generator, front: np.ndarray) -> dict[str, np.ndarray]:
    """DECA's landmark_embedding.npy: an array of one object, a dictionary of arrays with a leading axis, and of two tensors of PyTorch."""
    modules = {name: types.ModuleType(name) for name in ("torch", "torch._utils", "torch.storage")}

    def _rebuild_tensor_v2(*arguments: Any) -> None: ...

    def _load_from_bytes(data: bytes) -> None: ...

    for function, home in ((_rebuild_tensor_v2, "torch._utils"), (_load_from_bytes, "torch.storage")):
        function.__module__, function.__qualname__ = home, function.__name__
        setattr(modules[home], function.__name__, function)

    class Storage:
        def __reduce__(self) -> Any:
            return _load_from_bytes, (b"\x80\x02 not read",)

    class Tensor:
        def __reduce__(self) -> Any:
            return _rebuild_tensor_v2, (Storage(), 0, (79, 17), (17, 1), False, OrderedDict())

    found = {
        "full_lmk_faces_idx": rng.choice(front, 68)[None].astype(np.int64),
        "full_lmk_bary_coords": rng.dirichlet([2, 2, 2], 68)[None],
        "static_lmk_faces_idx": rng.choice(front, 51),
    }
    boxed = np.empty((), object)
    boxed[()] = {**found, "dynamic_lmk_faces_idx": Tensor(), "dynamic_lmk_bary_coords": Tensor()}
    sys.modules.update(modules)
    try:
        np.save(path, boxed, allow_pickle=True)
    finally:
        for name in modules:
            del sys.modules[name]
    return found


def gnm_arrays(seed: int = 0, n_identity: int = 14, n_expression: int = 9) -> dict[str, np.ndarray]:
    """The arrays of gnm_head.npz, smaller; float32 and int32 as there, correctives that are not zero, and an orientation that nothing uses."""
    rng = np.random.default_rng(seed)
    vertices, triangles, part = head()
    count = len(vertices)
    joints = np.array([[0, -0.12, -0.03], [0, -0.07, -0.02], *EYES]) + OFFSET
    height = vertices[:, 1] - OFFSET[1]
    weights = np.zeros((4, count))
    weights[0] = np.clip((-0.05 - height) / 0.03, 0, 1)
    weights[1] = 1 - weights[0]
    for eye in (1, 2):
        weights[:, part == eye] = np.eye(4)[1 + eye][:, None]
    groups = {"skin": part == 0, "mouth_sock": (part == 0) & (np.abs(height + 0.05) < 0.02), "eyes": part > 0}
    groups |= {"left_eye": part == 1, "right_eye": part == 2, "eye_exteriors": part > 0, "eye_interiors": part < 0, "tongue": part < 0}
    uv = rng.uniform(0.02, 0.98, (count, 2))
    floats = {
        "template_vertex_positions": vertices, "template_joint_positions": joints,
        "vertex_identity_basis": smooth_modes(vertices, n_identity, 0.003, rng), "joint_identity_basis": 0.001 * rng.normal(size=(n_identity, 4, 3)),
        "expression_basis": smooth_modes(vertices, n_expression, 0.003, rng), "skinning_weights": weights,
        "triangle_uvs": uv[triangles], "quad_uvs": np.zeros((0, 4, 2)), "joint_regressor": np.zeros((4, count)),
        "pose_correctives_regressor": 0.002 * rng.normal(size=(36, 3 * count)),
        "bone_aligned_template_joint_orientations": np.tile(np.diag([1.0, -1, -1]), (4, 1, 1)),
        "vertex_groups": np.stack([g.astype(float) for g in groups.values()]),
    }  # fmt: skip
    whole = {"joint_parent_indices": np.array([-1, 0, 1, 1]), "quads": np.zeros((0, 4)), "triangles": triangles, "mirror_indices": np.arange(count)}
    names = {
        "identity_names": [f"head_{i:03d}" for i in range(n_identity)],
        "expression_names": [f"lower_face_region_{i:03d}" for i in range(n_expression)],
        "joint_names": ["neck", "head", "left_eye", "right_eye"], "mesh_component_names": ["skin", "left_eye", "right_eye"],
        "vertex_group_names": list(groups), "version": "3.0", "variant": "head",
    }  # fmt: skip
    found = {k: np.asarray(v, np.float32) for k, v in floats.items()} | {k: np.asarray(v, np.int32) for k, v in whole.items()}
    return found | {k: np.array(v) for k, v in names.items()}
