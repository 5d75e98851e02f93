"""Says in one sentence what to change where a training step does not fit in a device's memory."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
from ml_collections import ConfigDict

from toco_jax.run.state import TrainState
from toco_jax.runtime.device_memory import device_bytes, planned_bytes, temporary_bytes
from toco_jax.runtime.errors import UserError


class DeviceMemoryError(UserError):
    """A step does not fit in a device's memory; the message says which would."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one device needs for a step, in bytes.

    Attributes:
        total: all of it, by the plan of the compiled step.
        per_image: what each image adds that the device works on at a time.
        limit: the memory of the device.
    """

    total: int
    per_image: int
    limit: int


@contextmanager
def explained(
    config: ConfigDict, num_devices: int, get_plan: Callable[[], Plan | None] = lambda: None
) -> Iterator[None]:
    """Within, a device that runs out of memory is one sentence on what would fit.

    Args:
        config: the resolved configuration.
        num_devices: the number of devices of all processes.
        get_plan: called then; returns None where there is no plan.

    Raises:
        DeviceMemoryError: JAX has run out of memory.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise DeviceMemoryError(advice(config, num_devices, get_plan())) from error


def plan_of(
    config: ConfigDict, num_devices: int, train_step: Any, state: TrainState, batch: dict
) -> Plan | None:
    """Returns the plan of a step, compiled once more; None where the backend does not give one.

    Args:
        config: the resolved configuration.
        num_devices: the number of devices of all processes.
        train_step: what `make_train_step` returns.
        state: its arguments, of which only shapes, types and placements are looked at: their
            memory may have been donated.
        batch: likewise.
    """
    limit = device_bytes()
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), (state, batch)
    )
    try:
        compiled = train_step.lower(*shapes).compile()
    except jax.errors.JaxRuntimeError:  # on a TPU it is the compiler that runs out of memory
        return None
    if limit is None or compiled.memory_analysis() is None:
        return None
    # The gradient is temporary too, but of one size for any number of images.
    grads = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.params))
    per_image = (temporary_bytes(compiled) - grads) // _images_at_once(config, num_devices)
    return Plan(planned_bytes(compiled), max(per_image, 1), limit)


def _images_at_once(config: ConfigDict, num_devices: int, accumulate: int | None = None) -> int:
    """Images that a device works on at a time."""
    return config.batch_size // (num_devices * (accumulate or config.machine.accumulate))


def advice(config: ConfigDict, num_devices: int, plan: Plan | None) -> str:
    """Returns the sentence on what would fit.

    Args:
        config: the resolved configuration.
        num_devices: the number of devices of all processes.
        plan: what the step needs; without it half as many images are taken to fit.
    """
    images = _images_at_once(config, num_devices)
    parts = f" in {config.machine.accumulate} parts" if config.machine.accumulate > 1 else ""
    message = f"the memory of {jax.local_devices()[0].device_kind}"
    message += f" ({_shown(plan.limit)})" if plan else ""
    message += f" does not hold a step of {config.batch_size // num_devices} images{parts}"
    message += f", which takes {_shown(plan.total)} by the compiler's plan" if plan else ""

    # Where the plan fits, other programs or fragments of free memory are in its way.
    fitting = images // 2
    if plan and plan.total > plan.limit:
        fitting = max(images - -(-(plan.total - plan.limit) // plan.per_image), 0)
    would = "would" if plan else "may"
    remedies = []
    unit = num_devices * config.group_size
    accumulates = [
        number
        for number in range(config.machine.accumulate + 1, config.batch_size // unit + 1)
        if config.batch_size % (unit * number) == 0
        and _images_at_once(config, num_devices, number) <= fitting
    ]
    if accumulates:
        remedies.append(f"machine.accumulate={accumulates[0]} {would} fit, with the same result")
    if batch := fitting // config.group_size * unit * config.machine.accumulate:
        remedies.append(f"batch_size={batch} {would} fit")
    if config.machine.low_memory != "on":
        remedies.append("machine.low_memory=on keeps less for the gradient")
    if num_devices > 1 and not config.machine.shard_optimizer:
        remedies.append("machine.shard_optimizer=True gives each device a share of the optimiser")
    if not remedies or not batch:
        remedies.append(
            f"group_size={config.group_size} images need a smaller crop_size or backbone"
        )
    return f"{message}: {'; '.join(remedies)}"


def _shown(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
