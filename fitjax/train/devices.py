"""Training over all devices of a host: the batch is split between them, weights are on each, and gradients are summed by the compiler."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array


def spread(batch: Array) -> Array:
    """The batch (B, ...) split between the devices along its leading axis, inside a compiled function; as it is where their number does not divide it
    or there is one. The numbers are those of one device, up to the order of sums."""
    devices = jax.devices()
    if len(devices) == 1 or batch.shape[0] % len(devices):
        return batch
    mesh = Mesh(np.array(devices), ("batch",))
    return jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, PartitionSpec("batch")))
