"""How the network is executed on a kind of device: types, attention, memory, and XLA's options."""

import dataclasses
import os
import platform as machine

import jax
import jax.numpy as jnp

# The passes of the encoder share weights, for which XLA would join their products, concatenating
# the tokens and cutting the result apart again. The products are large enough alone.
_GPU_OPTIONS: dict[str, int | str] = {"xla_gpu_dot_merger_threshold_mb": 0}

# Matrix products by Eigen: on the tokens of an encoder it is faster than YNNPACK, which XLA would
# take for them too and not for reductions alone.
_X86_OPTIONS: dict[str, int | str] = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"
}


@dataclasses.dataclass(frozen=True)
class Compute:
    """How the network is executed. It changes a result by rounding alone.

    Attributes:
        dtype: compute dtype of the encoder's and the decoder's matrix products.
        attention: `"xla"` writes the attention maps to memory, `"in_parts"` those of a few heads at
            a time where they are large, and `"cudnn"`, in bfloat16 or float16 on a GPU, none.
        remat: one loop over the blocks that keeps the results of their linear layers for the
            gradient and computes everything else again.
        unrolled: all neighbours, images and taps in one program, as a GPU or TPU likes it. False
            loops over them, so that what is worked on stays in a processor's cache, and gives
            matrix products the forms that a CPU computes fast.
    """

    dtype: str = "float32"
    attention: str = "xla"
    remat: bool = False
    unrolled: bool = False

    @property
    def jax_dtype(self) -> jnp.dtype:
        """`dtype` as JAX has it."""
        return jnp.dtype(self.dtype)

    @property
    def in_parts(self) -> bool:
        """Whether large attention maps are computed a few heads at a time."""
        return self.attention == "in_parts" or self.remat


def platform_of(device: jax.Device) -> str:
    """`"cpu"`, `"gpu"` or `"tpu"`."""
    return {"cuda": "gpu", "rocm": "gpu"}.get(device.platform, device.platform)


def compiler_options(platform: str) -> dict[str, int | str]:
    """Flags of XLA for the network's programs on a platform, as `jax.jit` takes them; those that
    `XLA_FLAGS` sets are left to it.
    """
    x86_options = _X86_OPTIONS if machine.machine() in ("x86_64", "AMD64") else {}
    options = {"gpu": _GPU_OPTIONS, "cpu": x86_options}.get(platform, {})
    users = os.environ.get("XLA_FLAGS", "")
    return {name: value for name, value in options.items() if name not in users}
