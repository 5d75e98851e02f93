"""The kind of device that programs are made for, and how XLA compiles the network for it."""

import os
import platform as machine
from collections.abc import Iterator
from contextlib import contextmanager

import jax

_elsewhere: list[str] = []

# The passes of the encoder share weights, for which XLA would join their products, concatenating
# the tokens and cutting the result apart again. The products are large enough alone.
_GPU_OPTIONS = {"xla_gpu_dot_merger_threshold_mb": 0}

# Matrix products by Eigen: on the tokens of an encoder it is faster than YNNPACK, which XLA would
# take for them too and not for reductions alone.
_X86_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}


def platform() -> str:
    """`"cpu"`, `"gpu"` or `"tpu"`: what is at hand, or what `made_for` says."""
    return _elsewhere[-1] if _elsewhere else jax.default_backend()


@contextmanager
def made_for(name: str) -> Iterator[None]:
    """Within, programs are made for devices of another kind than those at hand."""
    _elsewhere.append(name)
    try:
        yield
    finally:
        _elsewhere.pop()


def compiler_options() -> dict[str, int | str]:
    """Flags of XLA for the network's programs on `platform()`, as `jax.jit` takes them; those that
    `XLA_FLAGS` sets are left to it.
    """
    x86_options = _X86_OPTIONS if machine.machine() in ("x86_64", "AMD64") else {}
    options = {"gpu": _GPU_OPTIONS, "cpu": x86_options}.get(platform(), {})
    users = os.environ.get("XLA_FLAGS", "")
    return {name: value for name, value in options.items() if name not in users}
