"""Several persons and several photos in one fit: which parameters are shared.

Shared parameters are the same nested dict, with a leading axis per group: one row per person, one per photo, or none for global groups.
:meth:`Sharing.gather` gives the per-photo view that models and losses work on. One photo of one person is the trivial case and needs no
``Sharing`` at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from fitjax.errors import ParamsError
from fitjax.model.params import GROUPS, Params
from fitjax.pytree import pytree, static

Level = Literal["photo", "person", "global"]

#: What a person keeps between photos.
DEFAULT_LEVELS: dict[str, Level] = {"identity": "person", "albedo": "person", "detail_shape": "person", "detail_albedo": "person"}


@pytree
class Sharing:
    """A map from groups to photo, person or global.

    Attributes:
        person_of_photo: (P,) which person each photo shows.
        levels: (group, level) pairs; groups not named are per photo.
        n_persons: number of persons.
    """

    person_of_photo: Int[Array, "P"]
    levels: tuple[tuple[str, Level], ...] = static(default=())
    n_persons: int = static(default=1)

    def level(self, group: str) -> Level:
        return dict(self.levels).get(group, "photo")

    def gather(self, shared: Mapping[str, Any]) -> dict[str, Any]:
        """Per-photo parameters: every leaf with leading axis P."""
        n_photos = self.person_of_photo.shape[0]
        result = {}
        for group, part in shared.items():
            level = self.level(group)
            if level == "photo":
                result[group] = part
            elif level == "person":
                result[group] = jax.tree.map(lambda x: x[self.person_of_photo], part)
            else:
                result[group] = jax.tree.map(lambda x: jnp.broadcast_to(x, (n_photos, *x.shape)), part)
        return result

    def share(self, per_photo: Params) -> Params:
        """Shared parameters as the mean over the photos that share them (a start)."""
        count = jax.ops.segment_sum(jnp.ones(self.person_of_photo.shape[0]), self.person_of_photo, self.n_persons)

        def mean_by_person(x: Array) -> Array:
            total = jax.ops.segment_sum(x, self.person_of_photo, self.n_persons)
            return total / count.astype(x.dtype).reshape((-1,) + (1,) * (x.ndim - 1))

        result = {}
        for group, part in per_photo.items():
            level = self.level(group)
            if level == "photo":
                result[group] = part
            elif level == "person":
                result[group] = jax.tree.map(mean_by_person, part)
            else:
                result[group] = jax.tree.map(lambda x: x.mean(0), part)
        return result

    def photos_per_entity(self, group: str) -> Array:
        """(P,) how many photos share the parameters of each photo's entity: a prior must count each entity once."""
        n_photos = self.person_of_photo.shape[0]
        level = self.level(group)
        if level == "photo":
            return jnp.ones(n_photos)
        if level == "global":
            return jnp.full(n_photos, float(n_photos))
        count = jax.ops.segment_sum(jnp.ones(n_photos), self.person_of_photo, self.n_persons)
        return count[self.person_of_photo]


def make_sharing(person_of_photo: np.typing.ArrayLike, levels: Mapping[str, Level] | None = None) -> Sharing:
    """Sharing for photos of persons 0 … n-1.

    Args:
        person_of_photo: (P,) person index of each photo.
        levels: group → ``photo``, ``person`` or ``global``; default: identity, albedo and detail per person.

    Raises:
        ParamsError: an unknown group or level, or person indices that are not 0 … n-1.
    """
    persons = np.asarray(person_of_photo)
    if persons.ndim != 1 or persons.size == 0 or set(np.unique(persons)) != set(range(int(persons.max()) + 1)):
        raise ParamsError(f"sharing: expected person indices 0 … n-1, one per photo, found {persons.tolist()}")
    chosen = dict(DEFAULT_LEVELS if levels is None else levels)
    for group, level in chosen.items():
        if group not in GROUPS or level not in ("photo", "person", "global"):
            raise ParamsError(f"sharing: {group!r}: {level!r}; expected a group of {', '.join(GROUPS)} and photo, person or global")
    if chosen.get("pose", "photo") != "photo":
        raise ParamsError("sharing: the pose belongs to each photo and cannot be shared")
    return Sharing(jnp.asarray(persons, jnp.int32), tuple(sorted(chosen.items())), int(persons.max()) + 1)
