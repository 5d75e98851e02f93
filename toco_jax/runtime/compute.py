"""How the network is executed: dtype, attention, memory, loops, and the options of XLA."""

import dataclasses
import os
import platform as machine

import jax
import jax.numpy as jnp

# The passes of the encoder share weights. XLA would merge their matrix products by concatenating
# the tokens and splitting the result, but the products are large enough without that.
_GPU_OPTIONS: dict[str, int | str] = {"xla_gpu_dot_merger_threshold_mb": 0}

# XLA uses YNNPACK for reductions and for matrix products by themselves. It has the instructions for
# bfloat16 (AMX, AVX-512), which XLA's own products have not.
_X86_OPTIONS: dict[str, int | str] = {
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
    )
}


@dataclasses.dataclass(frozen=True)
class Compute:
    """How the network is executed, which changes results by rounding at most.

    Attributes:
        dtype: dtype of the factors of products with weights in the encoder and the decoder.
        attention: `"xla"` writes all attention maps to memory, `"in_parts"` writes large ones a few
            heads at a time, and `"cudnn"` writes none; it needs a GPU and bfloat16 or float16.
        remat: runs the encoder's blocks in a loop that stores the outputs of their linear layers
            for the gradient and computes everything else a second time.
        unrolled: computes all neighbours, images and filter taps at once, which is fast on a GPU or
            TPU. False loops over them, so that the data stay in a CPU's cache, and gives matrix
            products the shapes that a CPU computes fast.
    """

    dtype: str = "float32"
    attention: str = "xla"
    remat: bool = False
    unrolled: bool = False

    @property
    def jax_dtype(self) -> jnp.dtype:
        """Returns `dtype` as a JAX dtype."""
        return jnp.dtype(self.dtype)

    @property
    def tokens_dtype(self) -> jnp.dtype:
        """Returns the dtype of tokens, and of all that is computed between products with weights.

        It is float32 on a CPU, which computes nothing but products faster in a shorter one.
        """
        return self.jax_dtype if self.unrolled else jnp.dtype("float32")

    @property
    def in_parts(self) -> bool:
        """Returns whether large attention maps are computed a few heads at a time."""
        return self.attention == "in_parts" or self.remat


def platform_of(device: jax.Device) -> str:
    """Returns the platform of a device: `"cpu"`, `"gpu"` or `"tpu"`."""
    return {"cuda": "gpu", "rocm": "gpu"}.get(device.platform, device.platform)


def compiler_options(platform: str) -> dict[str, int | str]:
    """Returns the `compiler_options` of `jax.jit` for the network's programs on a platform.

    Options that the user sets in `XLA_FLAGS` are left out.
    """
    x86_options = _X86_OPTIONS if machine.machine() in ("x86_64", "AMD64") else {}
    options = {"gpu": _GPU_OPTIONS, "cpu": x86_options}.get(platform, {})
    users = os.environ.get("XLA_FLAGS", "")
    return {name: value for name, value in options.items() if name not in users}
