"""The mesh of devices: batches are split over it, everything else is replicated."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"


def mesh_of(devices: Sequence[jax.Device]) -> Mesh:
    """Returns a mesh with one axis over these devices."""
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def make_mesh(num_devices: int | None = None) -> Mesh:
    """Returns a mesh over the first `num_devices` devices of all processes, over all by default."""
    return mesh_of(jax.devices()[:num_devices])


def local_mesh() -> Mesh:
    """Returns a mesh over the devices of this process, for work that processes do on their own."""
    return mesh_of(jax.local_devices())


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that puts a full copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits the leading axis over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def split_over(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """Returns the sharding that splits the longest axis whose length the devices divide.

    Without such an axis every device gets a full copy.
    """
    divisible = [axis for axis, side in enumerate(shape) if side and side % mesh.size == 0]
    if not divisible:
        return replicated(mesh)
    axis = max(divisible, key=lambda axis: shape[axis])
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Turns this process's share of a global batch into global arrays that the mesh splits."""
    sharding = batch_sharded(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }


def local_copy(tree: Any, mesh: Mesh) -> Any:
    """Copies replicated arrays of all processes to the devices of this process.

    Args:
        tree: pytree of arrays that are replicated over the mesh of all processes.
        mesh: the `local_mesh` of this process.
    """
    if jax.process_count() == 1:
        return tree
    own = jax.tree.map(lambda x: x.addressable_data(0), tree)
    return jax.device_put(own, replicated(mesh))


def data_parallel(fn: Callable, mesh: Mesh, in_specs, out_specs) -> Callable:
    """Returns `fn` run by each device on its own share; its collectives name the axis `AXIS`."""
    return jax.shard_map(fn, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
