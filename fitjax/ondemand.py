"""Named values that are computed when first asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax


class OnDemand(Mapping[str, Any]):
    """A read-only mapping that computes a value at its first use and keeps it.

    A prediction offers every sample set, a loss reads one or two: what is not read is not even traced, which is most of the time that a first
    compilation takes. As a pytree (a prediction that leaves a compiled function, say) it holds all its values.
    """

    def __init__(self, names: tuple[str, ...], compute: Callable[[str], Any]):
        self._names = names
        self._compute = compute
        self._known: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._known:
            self._known[name] = self._compute(name)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names


def _flatten(mapping: OnDemand) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    return tuple(mapping[name] for name in mapping), tuple(mapping)


def _unflatten(names: tuple[str, ...], values: tuple[Any, ...]) -> OnDemand:
    filled = OnDemand(names, lambda name: None)
    filled._known.update(zip(names, values))
    return filled


jax.tree_util.register_pytree_node(OnDemand, _flatten, _unflatten)
