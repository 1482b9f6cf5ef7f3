"""A batch over several devices: each fits its own faces, and none waits for what another computes."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fitjax.fit.run import Outcome, solve_faces
from fitjax.losses.core import Loss
from fitjax.model.params import Params
from fitjax.model.protocol import Model
from fitjax.observation.observation import Observation
from fitjax.solve.stages import Stage

#: The axis of the mesh of devices along which a batch is cut.
FACES = "faces"

_EVERYWHERE, _CUT = PartitionSpec(), PartitionSpec(FACES)

#: The last model that was copied to all devices of a mesh: one batch after the other uses the same.
_copied: list[tuple[weakref.ref[Any], Mesh, Any]] = []


def run_on_devices(
    model: Model,
    observations: Observation,
    losses: dict[str, Loss],
    stages: list[Stage],
    params: Params | None,
    one_by_one: bool,
    devices: Sequence[jax.Device],
) -> Outcome:
    """As `run_batch`, with the faces shared out between devices in equal, consecutive parts.

    Each device runs the program of its own part, without any communication: what a face's fit gives depends neither on the device it comes to nor on
    their number, except that XLA compiles a program for one device by other passes than one for several: fits of pixels then differ by rounding.

    Args:
        observations, params: leading axis a multiple of the number of devices.
    """
    mesh = Mesh(np.array(devices), (FACES,))
    faces = NamedSharding(mesh, _CUT)
    observations, params = jax.device_put((observations, params), faces)
    return _run(_everywhere(model, mesh), observations, losses, stages, params, one_by_one, mesh)


@partial(jax.jit, static_argnames=("one_by_one", "mesh"))
def _run(
    model: Model, observations: Observation, losses: dict[str, Loss], stages: list[Stage], params: Params | None, one_by_one: bool, mesh: Mesh
) -> Outcome:
    def own(model: Model, observations: Observation, losses: dict[str, Loss], stages: list[Stage], params: Params | None) -> Outcome:
        return solve_faces(model, observations, losses, stages, params, one_by_one)

    # Not left to the compiler's partitioning: it would run a loop over faces on all devices in step, each face wherever its data lie.
    specs = (_EVERYWHERE, _CUT, _EVERYWHERE, _EVERYWHERE, _CUT)
    mapped = jax.shard_map(own, mesh=mesh, in_specs=specs, out_specs=_CUT, check_vma=False)
    return mapped(model, observations, losses, stages, params)


def _everywhere(model: Model, mesh: Mesh) -> Any:
    """A copy of the model on every device."""
    for known, where, copy in _copied:
        if known() is model and where == mesh:
            return copy
    copy = jax.device_put(model, NamedSharding(mesh, _EVERYWHERE))
    _copied[:] = [(weakref.ref(model), mesh, copy)]
    return copy


def padded(stacked: Any, multiple: int) -> Any:
    """A batch whose last face is repeated until it can be shared out equally; every leaf has a leading axis of faces."""
    count = len(jax.tree.leaves(stacked)[0])
    more = -count % multiple
    return jax.tree.map(lambda x: np.concatenate([x, np.repeat(np.asarray(x)[-1:], more, 0)]), stacked) if more else stacked
