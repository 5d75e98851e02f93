"""One mesh over all devices: batches split along it, everything else replicated."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"


def mesh_of(devices: Sequence[jax.Device]) -> Mesh:
    """Mesh of one axis over these devices."""
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def make_mesh(num_devices: int | None = None) -> Mesh:
    """Mesh over the first `num_devices` devices of all processes (default: all)."""
    return mesh_of(jax.devices()[:num_devices])


def local_mesh() -> Mesh:
    """Mesh over the devices of this process, for work that each process does at its own pace."""
    return mesh_of(jax.local_devices())


def replicated(mesh: Mesh) -> NamedSharding:
    """Placement of a full copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    """Placement that splits the leading axis over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def split_over(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """Placement that splits the longest axis that the devices divide; a copy each without one."""
    divisible = [axis for axis, side in enumerate(shape) if side and side % mesh.size == 0]
    if not divisible:
        return replicated(mesh)
    axis = max(divisible, key=lambda axis: shape[axis])
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's share of a global batch to global arrays, split over the mesh."""
    sharding = batch_sharded(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }


def local_copy(tree: Any, mesh: Mesh) -> Any:
    """Replicated arrays of a mesh over several processes as this process's own; `mesh` is its
    `local_mesh`.
    """
    if jax.process_count() == 1:
        return tree
    own = jax.tree.map(lambda x: x.addressable_data(0), tree)
    return jax.device_put(own, replicated(mesh))


def data_parallel(fn: Callable, mesh: Mesh, in_specs, out_specs) -> Callable:
    """`fn` run by each device on its own share, with the mesh's axis name for its collectives."""
    return jax.shard_map(fn, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
