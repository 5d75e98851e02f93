"""How much memory a device has, how much was in use, and what a compiled program plans to take."""

from typing import Any

import jax


def planned_bytes(compiled: jax.stages.Compiled) -> int:
    """Memory that one device's program takes by its own plan, arguments and results included."""
    plan: Any = compiled.memory_analysis()
    planned = plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
    return planned - plan.alias_size_in_bytes


def temporary_bytes(compiled: jax.stages.Compiled) -> int:
    """The part of `planned_bytes` that is neither an argument nor a result."""
    plan: Any = compiled.memory_analysis()
    return plan.temp_size_in_bytes


def device_bytes() -> int | None:
    """Memory of one device that JAX may use, None where the backend does not say, as on a CPU."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def peak_bytes() -> int | None:
    """Most memory of one device that was in use at once, None where the backend does not say."""
    peaks = [
        (device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()
    ]
    return max((peak for peak in peaks if peak is not None), default=None)
