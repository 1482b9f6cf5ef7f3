"""Linear face models: mean + identity modes + expression modes.

Bases are stored (modes, 3 V), one long row per mode: the product for one face is then a single pass over memory.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fitjax.errors import BasisError
from fitjax.geometry.surface import SurfacePoints, SurfaceSamples, points_from_corners
from fitjax.model.params import Params
from fitjax.model.protocol import Face
from fitjax.pytree import pytree, replace, static


@pytree
class SampledBasis:
    """The rows of a basis that one sample set reads, at the three corners of each sample's triangle.

    Attributes:
        samples: the S samples.
        mean: (S, 3) positions on the mean face.
        modes: (M, 3 S) modes of the positions.
        corner_mean, corner_modes: (S, 3, 3) and (M, 9 S), the same for the corners (normals need them).
    """

    samples: SurfaceSamples
    mean: Float[Array, "S 3"]
    modes: Float[Array, "M S3"]
    corner_mean: Float[Array, "S 3 3"]
    corner_modes: Float[Array, "M S9"]


@pytree
class LinearModel:
    """Linear 3-D morphable model (Blanz and Vetter 1999), with separate identity and expression codes.

    Attributes:
        mean: (V, 3) metres, head space.
        modes: (K + E, 3 V): K identity modes scaled to unit variance, then E expressions.
        expression_sigma, expression_lower, expression_upper: (E,) prior spread and bounds of the expression coefficients.
        triangles: (F, 3); uv (T, 2) with origin bottom-left; uv_triangles (F, 3); triangle_region (F,); mirror (V,).
        sampled: the pre-sliced sets; ``sample_library`` the sets that can be sliced with :meth:`with_samples`.
        pose_frames: rotation from head space to the head frame of a named pose convention.
    """

    mean: Float[Array, "V 3"]
    modes: Float[Array, "M V3"]
    expression_sigma: Float[Array, "E"]
    expression_lower: Float[Array, "E"]
    expression_upper: Float[Array, "E"]
    triangles: Int[Array, "F 3"]
    uv: Float[Array, "T 2"]
    uv_triangles: Int[Array, "F 3"]
    triangle_region: Int[Array, "F"]
    mirror: Int[Array, "V"]
    uv_parts: Int[Array, "H W"]
    sampled: dict[str, SampledBasis]
    sample_library: dict[str, SurfaceSamples]
    pose_frames: dict[str, Float[Array, "3 3"]]
    name: str = static(default="linear")
    basis_sha256: str = static(default="")
    level: int = static(default=0)
    expression_names: tuple[str, ...] = static(default=())
    licence: str = static(default="")

    @property
    def n_expression(self) -> int:
        return self.expression_sigma.shape[0]

    @property
    def n_identity(self) -> int:
        return self.modes.shape[0] - self.n_expression

    @property
    def n_vertices(self) -> int:
        return self.mean.shape[0]

    @property
    def sample_sets(self) -> tuple[str, ...]:
        return tuple(self.sampled)

    def init(self) -> Params:
        """Zero codes: the mean, neutral face."""
        dtype = self.mean.dtype
        return {"identity": jnp.zeros(self.n_identity, dtype), "expression": jnp.zeros(self.n_expression, dtype)}

    def _code(self, params: Params) -> Float[Array, "M"]:
        return jnp.concatenate([params["identity"], params["expression"]])

    def decode(self, params: Params) -> Face:
        """All vertices (V, 3) in head space, metres. The proxy of a linear model is itself."""
        offset = jnp.matmul(self._code(params), self.modes, precision="highest")
        vertices = self.mean + offset.reshape(-1, 3)
        return Face(vertices, vertices)

    def decode_samples(self, params: Params, name: str) -> SurfacePoints:
        """Positions and unit normals (S, 3) of the set ``name`` in head space.

        Raises:
            BasisError: the set is not sliced.
        """
        part = self._sliced(name)
        code = self._code(params)
        position = part.mean + jnp.matmul(code, part.modes, precision="highest").reshape(-1, 3)
        corners = part.corner_mean + jnp.matmul(code, part.corner_modes, precision="highest").reshape(-1, 3, 3)
        return SurfacePoints(position, points_from_corners(corners, part.samples.barycentric).normal)

    def _sliced(self, name: str) -> SampledBasis:
        if name not in self.sampled:
            raise BasisError(
                f"sample set {name!r}: not sliced in model {self.name!r}, which has {', '.join(self.sampled) or 'none'}; "
                f"use model.with_samples({name!r}, ...)"
            )
        return self.sampled[name]

    def prior(self, params: Params) -> Mapping[str, Array]:
        """Whitened codes: identity as it is, expression divided by its prior spread."""
        return {"identity": params["identity"], "expression": params["expression"] / self.expression_sigma}

    def bounds(self) -> Mapping[str, tuple[Array, Array]]:
        return {"expression": (self.expression_lower, self.expression_upper)}

    def with_samples(self, name: str, samples: SurfaceSamples | None = None) -> LinearModel:
        """The model with one more pre-sliced set; without ``samples`` it is taken from the library, else it joins the library under its name.

        Raises:
            BasisError: the name is unknown.
        """
        if samples is None:
            if name not in self.sample_library:
                raise BasisError(f"sample set {name!r}: expected one of {', '.join(self.sample_library)}")
            samples = self.sample_library[name]
        # What else reads the set (areas of its triangles) must not find another one of that name.
        library = {**self.sample_library, name: samples}
        return replace(self, sampled={**self.sampled, name: slice_basis(self, samples)}, sample_library=library)

    def astype(self, dtype: np.typing.DTypeLike) -> LinearModel:
        """The model with its floating arrays in another dtype (float64 needs JAX's x64 mode)."""
        return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, self)


def slice_basis(model: LinearModel, samples: SurfaceSamples) -> SampledBasis:
    """Rows of the basis at the corners of samples, and their barycentric mean (on the host, once)."""
    triangles = np.asarray(model.triangles)
    corner = triangles[np.asarray(samples.triangle)]
    weights = np.asarray(samples.barycentric)
    mean = np.asarray(model.mean)[corner]
    modes = np.asarray(model.modes).reshape(model.modes.shape[0], -1, 3)[:, corner]
    position_modes = np.einsum("mskc,sk->msc", modes, weights, optimize=True)
    dtype = model.mean.dtype
    return SampledBasis(
        SurfaceSamples(samples.triangle, samples.barycentric.astype(dtype)),
        jnp.asarray(np.einsum("skc,sk->sc", mean, weights), dtype),
        jnp.asarray(position_modes.reshape(len(modes), -1), dtype),
        jnp.asarray(mean, dtype),
        jnp.asarray(modes.reshape(len(modes), -1), dtype),
    )


def vertex_uvs(model: LinearModel) -> np.ndarray:
    """(V, 2) one UV per vertex (at a seam, one of its several)."""
    uv = np.zeros((model.n_vertices, 2), np.float32)
    uv[np.asarray(model.triangles).reshape(-1)] = np.asarray(model.uv)[np.asarray(model.uv_triangles).reshape(-1)]
    return uv
