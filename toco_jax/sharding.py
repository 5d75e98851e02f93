"""One mesh over all devices: batches split along it, everything else replicated."""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"


def make_mesh(num_devices: int | None = None) -> Mesh:
    """Mesh of one axis over the first `num_devices` devices of all processes (default: all)."""
    devices = jax.devices()[:num_devices]
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Placement of a full copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    """Placement that splits the leading axis over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's share of a global batch to global arrays, split over the mesh."""
    sharding = batch_sharded(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }


def data_parallel(fn: Callable, mesh: Mesh, in_specs, out_specs) -> Callable:
    """`fn` run by each device on its own share, with the mesh's axis name for its collectives."""
    return jax.shard_map(fn, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
