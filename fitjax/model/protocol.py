"""What every face model answers, be it linear, skinned or a neural decoder.

Models are pytrees: their arrays are arguments of compiled functions, so that another model of the same shape recompiles nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float, Int

from fitjax.geometry.surface import SurfacePoints
from fitjax.model.params import Params
from fitjax.pytree import pytree


@pytree
class Face:
    """A decoded face in head space (metres; albedo in linear light).

    ``proxy_*`` are the strongly regularised versions of Tran, Liu, Liu (CVPR 2019); for models without a proxy they are the same
    arrays. Albedo is ``None`` for models that have none.
    """

    vertices: Float[Array, "V 3"]
    proxy_vertices: Float[Array, "V 3"]
    albedo: Any = None
    proxy_albedo: Any = None


@runtime_checkable
class Model(Protocol):
    """A face model. ``params`` holds at least the groups that :meth:`init` returns."""

    @property
    def triangles(self) -> Int[Array, "F 3"]: ...

    @property
    def sample_sets(self) -> tuple[str, ...]:
        """Names that :meth:`decode_samples` knows."""
        ...

    def init(self) -> Params:
        """Parameters of the model's own groups for its mean, neutral face."""
        ...

    def decode(self, params: Params) -> Face:
        """All vertices (and albedo) in head space."""
        ...

    def decode_samples(self, params: Params, name: str) -> SurfacePoints:
        """Positions and normals of one named sample set in head space, without decoding all vertices where possible."""
        ...

    def prior(self, params: Params) -> Mapping[str, Any]:
        """Whitened codes per group: residual *i* depends on parameter *i* alone, so solvers treat it as a diagonal."""
        ...

    def bounds(self) -> Mapping[str, tuple[Any, Any]]:
        """(lower, upper) per bounded group."""
        ...
