"""Rendering: rasterize → interpolate → texture → shade, differentiable; a NumPy reference; the pictures made with it.

The names below load on first use (PEP 562), so that drawing an overlay does not wait for JAX.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fitjax.lazy_names import lazy_names

if TYPE_CHECKING:
    from fitjax.render.interpolate import (
        CoveredPixels,
        Fragments,
        covered_pixels,
        fragments,
        scatter_pixels,
    )
    from fitjax.render.lighting import ambient_light, diffuse_shading, directional_light, shade, specular
    from fitjax.render.raster_sums import sum_over_covered
    from fitjax.render.texture import sample_texture
    from fitjax.render.visibility import sample_visibility, seen, seen_vertices, vertex_visibility

#: Without ``rasterize`` and ``interpolate``, which have the names of their modules: import them from there.
_HOME = {
    "fitjax.render.interpolate": "CoveredPixels Fragments covered_pixels fragments scatter_pixels",
    "fitjax.render.lighting": "ambient_light diffuse_shading directional_light shade specular",
    "fitjax.render.raster_sums": "sum_over_covered",
    "fitjax.render.texture": "sample_texture",
    "fitjax.render.visibility": "sample_visibility seen seen_vertices vertex_visibility",
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names.split()}

__all__ = [  # noqa: RUF022 (in the order of use)
    "CoveredPixels",
    "Fragments",
    "covered_pixels",
    "fragments",
    "scatter_pixels",
    "sum_over_covered",
    "sample_texture",
    "ambient_light",
    "directional_light",
    "diffuse_shading",
    "shade",
    "specular",
    "seen",
    "seen_vertices",
    "vertex_visibility",
    "sample_visibility",
]


__getattr__, __dir__ = lazy_names(globals(), _MODULE_OF)
