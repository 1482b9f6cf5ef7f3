"""Skinned face models: blend shapes, then joints of neck, jaw and eyes that turn the surface by linear blend skinning.

    rest     = mean + Σ identity + Σ expression + Σ_k correctives_k · (R - I)_k        R: the joints' own rotations, row by row
    centres  = joint mean + Σ identity + Σ expression                                  all linear in the code
    vertex   = Σ_j weight_j · (R_j^world · (rest - centre_j) + place_j)

as in M. Loper et al., "SMPL", SIGGRAPH Asia 2015, and T. Li et al., "FLAME", SIGGRAPH Asia 2017. The first joint is the root: it does not turn
here, because the head's pose in front of the camera is the group ``pose``. All others are rows of the group ``joints``, axis-angle in radians, in
the frame of their parent joint. At fixed joints the model is linear (:meth:`SkinnedModel.linear_at`), which is what meshes with morph targets need.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fitjax.errors import BasisError
from fitjax.geometry.rotation import rotation_exp
from fitjax.geometry.surface import SurfacePoints, SurfaceSamples, triangle_normals
from fitjax.model.linear import LinearModel, SampledBasis, slice_basis
from fitjax.model.params import Params
from fitjax.model.protocol import Face
from fitjax.model.skinned_file import Rig
from fitjax.pytree import pytree, replace, static


@pytree
class Skeleton:
    """The moving part of a model, J joints of which the first is the root.

    Attributes:
        joint_mean: (J, 3) metres, head space. joint_modes: (K + E, 3 J), rows as those of the model's modes.
        weights: (V, J), rows sum to one. correctives: (9 (J - 1), 3 V), no rows if the model has none.
        sigma, lower, upper: (J - 1, 3) prior spread and bounds of the axis-angle vectors. free: (J - 1,) 1 for joints that a fit moves by
            default; a neck is none: what a photo shows of it is the head's pose.
        parents: of each joint, -1 for the root; every parent comes before its children. names: of the joints.
    """

    joint_mean: Float[Array, "J 3"]
    joint_modes: Float[Array, "M J3"]
    weights: Float[Array, "V J"]
    correctives: Float[Array, "P V3"]
    sigma: Float[Array, "J-1 3"]
    lower: Float[Array, "J-1 3"]
    upper: Float[Array, "J-1 3"]
    free: Float[Array, "J-1"]
    parents: tuple[int, ...] = static()
    names: tuple[str, ...] = static()


@pytree
class SkinnedSamples(SampledBasis):
    """The rows that a sample set reads, with those of the skinning.

    A sample at corners c with barycentric b is Σ_j [R_j (Σ_c b_c w_cj x_c) + shift_j (Σ_c b_c w_cj)]: what each joint holds of it is linear in the
    code and stored as such, so that solvers linearise small products instead of three corners. Normals need the corners.

    Attributes:
        share: (J, S) of each joint in each sample. held_mean: (3 J, S) positions times share; held_modes, held_correctives: (M, 3 J S),
            (9 (J - 1), 3 J S), likewise.
        corner_weights: (3 S, J). corner_correctives: (9 (J - 1), 9 S).
    """

    share: Float[Array, "J S"] = dataclasses.field(kw_only=True)
    held_mean: Float[Array, "J3 S"] = dataclasses.field(kw_only=True)
    held_modes: Float[Array, "M J3S"] = dataclasses.field(kw_only=True)
    held_correctives: Float[Array, "P J3S"] = dataclasses.field(kw_only=True)
    corner_weights: Float[Array, "S3 J"] = dataclasses.field(kw_only=True)
    corner_correctives: Float[Array, "P S9"] = dataclasses.field(kw_only=True)


def chain(
    parents: tuple[int, ...], centres: Float[Array, "J 3"], turns: Float[Array, "J-1 3 3"]
) -> tuple[Float[Array, "J 3 3"], Float[Array, "J 3"]]:
    """World rotation and shift of each joint: a point x that hangs on joint j goes to ``rotation[j] x + shift[j]``.

    The shifts are linear in ``centres``: without rotation they are zero.
    """
    rotations: list[Array] = [jnp.eye(3, dtype=centres.dtype)]
    places: list[Array] = [centres[0]]
    for joint in range(1, len(parents)):
        parent = parents[joint]
        rotations.append(jnp.matmul(rotations[parent], turns[joint - 1], precision="highest"))
        arm = jnp.matmul(rotations[parent], centres[joint] - centres[parent], precision="highest")
        places.append(places[parent] + arm)
    rotation, place = jnp.stack(rotations), jnp.stack(places)
    return rotation, place - jnp.einsum("jab,jb->ja", rotation, centres, precision="highest")


def skin(
    points: Float[Array, "N 3"], weights: Float[Array, "N J"], rotation: Float[Array, "J 3 3"], shift: Float[Array, "J 3"]
) -> Float[Array, "N 3"]:
    """Linear blend skinning: the joints' maps of each point, mixed by its weights.

    Joint by joint and written out, which XLA makes one loop of: mixing the maps first would write twelve numbers per point and direction of
    derivative to memory.
    """
    x, y, z = points[:, 0:1], points[:, 1:2], points[:, 2:3]
    moved = jnp.zeros_like(points)
    for j in range(weights.shape[1]):
        turn = rotation[j]
        moved = moved + weights[:, j : j + 1] * (x * turn[:, 0] + y * turn[:, 1] + z * turn[:, 2] + shift[j])
    return moved


@pytree
class SkinnedModel(LinearModel):
    """A :class:`LinearModel` whose surface hangs on joints. ``mean`` and ``modes`` are those of the rest pose.

    Parameters: ``identity`` (K,), ``expression`` (E,), ``joints`` (J - 1, 3).
    """

    skeleton: Skeleton = dataclasses.field(kw_only=True)

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Names of the rows of ``joints``."""
        return self.skeleton.names[1:]

    @property
    def free_joints(self) -> Float[Array, "J-1 1"]:
        """Mask for a stage: ``Stage({"joints": model.free_joints, ...})``."""
        return self.skeleton.free[:, None]

    def init(self) -> Params:
        """Zero codes and joints: the mean, neutral face at rest."""
        return super().init() | {"joints": jnp.zeros_like(self.skeleton.sigma)}

    def _motion(self, params: Params) -> tuple[Array, Array, Array]:
        """World rotations and shifts of the joints, and what the correctives multiply (9 (J - 1),)."""
        part = self.skeleton
        code = self._code(params)
        centres = part.joint_mean + jnp.matmul(code, part.joint_modes, precision="highest").reshape(-1, 3)
        turns = rotation_exp(params["joints"])
        feature = (turns - jnp.eye(3, dtype=turns.dtype)).reshape(-1)[: part.correctives.shape[0]]
        return *chain(part.parents, centres, turns), feature

    def joint_centres(self, params: Params) -> Float[Array, "J 3"]:
        """Where the joints are at rest, the root first; head space, metres."""
        offset = jnp.matmul(self._code(params), self.skeleton.joint_modes, precision="highest")
        return self.skeleton.joint_mean + offset.reshape(-1, 3)

    def decode(self, params: Params) -> Face:
        """All vertices (V, 3) in head space, metres."""
        rotation, shift, feature = self._motion(params)
        rest = super().decode(params).vertices
        rest = rest + jnp.matmul(feature, self.skeleton.correctives, precision="highest").reshape(-1, 3)
        vertices = skin(rest, self.skeleton.weights, rotation, shift)
        return Face(vertices, vertices)

    def decode_samples(self, params: Params, name: str) -> SurfacePoints:
        """Positions and unit normals (S, 3) of the set ``name``: only the corners of its triangles are decoded and skinned.

        Raises:
            BasisError: the set is not sliced.
        """
        part = self._sliced(name)
        assert isinstance(part, SkinnedSamples)
        code = self._code(params)
        rotation, shift, feature = self._motion(params)
        held = jnp.matmul(code, part.held_modes, precision="highest") + jnp.matmul(feature, part.held_correctives, precision="highest")
        held = part.held_mean + held.reshape(part.held_mean.shape)
        # (3, 3 J) by (3 J, S), and (3, J) by (J, S).
        beside = jnp.moveaxis(rotation, 0, 1).reshape(3, -1)
        position = jnp.matmul(beside, held, precision="highest") + jnp.matmul(shift.T, part.share, precision="highest")

        rest = jnp.matmul(code, part.corner_modes, precision="highest") + jnp.matmul(feature, part.corner_correctives, precision="highest")
        corners = skin(part.corner_mean.reshape(-1, 3) + rest.reshape(-1, 3), part.corner_weights, rotation, shift)
        return SurfacePoints(position.T, triangle_normals(corners.reshape(-1, 3, 3)))

    def prior(self, params: Params) -> Mapping[str, Array]:
        """As of a linear model; joints divided by their prior spread."""
        return {**super().prior(params), "joints": params["joints"] / self.skeleton.sigma}

    def bounds(self) -> Mapping[str, tuple[Array, Array]]:
        return {**super().bounds(), "joints": (self.skeleton.lower, self.skeleton.upper)}

    def with_samples(self, name: str, samples: SurfaceSamples | None = None) -> SkinnedModel:
        """The model with one more pre-sliced set; without ``samples`` it is taken from the library, else it joins the library under its name.

        Raises:
            BasisError: the name is unknown.
        """
        rest = super().with_samples(name, samples)
        sampled = {**self.sampled, name: slice_skeleton(rest.sampled[name], self)}
        return replace(self, sampled=sampled, sample_library=rest.sample_library)

    def linear_at(self, params: Params) -> LinearModel:
        """The linear model that this one is with its joints held where ``params`` have them; it decodes the same vertices.

        Without sliced sets.
        """
        part = self.skeleton
        turns = rotation_exp(params["joints"])
        feature = (turns - jnp.eye(3, dtype=turns.dtype)).reshape(-1)[: part.correctives.shape[0]]
        rotation, shift = chain(part.parents, part.joint_mean, turns)
        shifts = jax.vmap(lambda centres: chain(part.parents, centres, turns)[1])(part.joint_modes.reshape(-1, *part.joint_mean.shape))
        rest = self.mean + jnp.matmul(feature, part.correctives, precision="highest").reshape(-1, 3)
        modes = jax.vmap(skin, (0, None, None, 0))(self.modes.reshape(-1, *self.mean.shape), part.weights, rotation, shifts)
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(LinearModel)}  # type: ignore[arg-type]
        fields |= {"mean": skin(rest, part.weights, rotation, shift), "modes": modes.reshape(self.modes.shape), "sampled": {}}
        return LinearModel(**fields)


def slice_skeleton(part: SampledBasis, model: SkinnedModel) -> SkinnedSamples:
    """A sliced set with the rows of the skinning at its corners."""
    corner = np.asarray(model.triangles)[np.asarray(part.samples.triangle)]
    correctives = np.asarray(model.skeleton.correctives)
    rows = correctives.reshape(len(correctives), model.n_vertices, 3)[:, corner.reshape(-1)].reshape(len(correctives), corner.size * 3)
    weights = np.asarray(model.skeleton.weights)[corner]
    shared = np.asarray(part.samples.barycentric)[..., None] * weights

    def held(rows: np.ndarray) -> np.ndarray:
        """(K, S, 3 corners, xyz) to (K, 3 J S): joint by joint, x, y and z of all samples."""
        found = np.einsum("kscx,scj->kjxs", rows, shared, optimize=True)
        return found.reshape(len(rows), 3 * shared.shape[-1] * len(corner))

    dtype = model.mean.dtype
    modes, bent = (np.asarray(x).reshape(len(x), *corner.shape, 3) for x in (part.corner_modes, rows))
    fields = {f.name: getattr(part, f.name) for f in dataclasses.fields(SampledBasis)}  # type: ignore[arg-type]
    return SkinnedSamples(
        **fields,
        share=jnp.asarray(shared.sum(1).T, dtype),
        held_mean=jnp.asarray(held(np.asarray(part.corner_mean)[None]).reshape(-1, len(corner)), dtype),
        held_modes=jnp.asarray(held(modes), dtype),
        held_correctives=jnp.asarray(held(bent), dtype),
        corner_weights=jnp.asarray(weights.reshape(-1, weights.shape[-1])),
        corner_correctives=jnp.asarray(rows),
    )


def skinned_model(model: LinearModel, rig: Rig) -> SkinnedModel:
    """Hang a linear model on joints; its sliced sets are sliced again.

    Raises:
        BasisError: the rig has another number of vertices or modes.
    """
    n_joints = len(rig.joint_mean)
    if rig.weights.shape != (model.n_vertices, n_joints):
        raise BasisError(f"skinning_weights: expected ({model.n_vertices}, {n_joints}), found {rig.weights.shape}")
    skeleton = Skeleton(
        joint_mean=jnp.asarray(rig.joint_mean),
        joint_modes=jnp.asarray(np.concatenate([rig.joint_identity, rig.joint_expression]).reshape(-1, 3 * n_joints)),
        weights=jnp.asarray(rig.weights),
        correctives=jnp.asarray(rig.correctives.reshape(len(rig.correctives), 3 * model.n_vertices)),
        sigma=jnp.asarray(rig.sigma),
        lower=jnp.asarray(rig.lower),
        upper=jnp.asarray(rig.upper),
        free=jnp.asarray(rig.free, rig.joint_mean.dtype),
        parents=tuple(int(p) for p in rig.parents),
        names=rig.names,
    )
    fields = {f.name: getattr(model, f.name) for f in dataclasses.fields(LinearModel)}  # type: ignore[arg-type]
    skinned = SkinnedModel(**fields, skeleton=skeleton)
    return replace(skinned, sampled={k: slice_skeleton(slice_basis(model, v.samples), skinned) for k, v in model.sampled.items()})
