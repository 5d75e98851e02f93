"""Replaces every `"auto"` of a configuration by what it means on a kind of device."""

import jax
from ml_collections import ConfigDict

from toco_jax.config.keys import ConfigError, with_values
from toco_jax.config.methods import network_fields
from toco_jax.models.backbones import backbone_from_name

# An encoder is large if the outputs of one block's linear layers take this many bytes per image.
# Measured on a CPU, 1.4 MB (deit_tiny at 224 pixels) are faster with "parts" and 5.4 MB (vit_base
# at 224 pixels) with "on".
_LARGE_BLOCK = 4 * 2**20


def resolve(config: ConfigDict, platform: str | None = None) -> ConfigDict:
    """Returns a copy of a configuration in which every `"auto"` is replaced by what it means.

    - `compute_dtype` becomes bfloat16 on a GPU or TPU and float32 on a CPU.
    - `machine.attention` becomes cuDNN's for bfloat16 on a GPU and XLA's otherwise.
    - `machine.low_memory` becomes "off" on a GPU or TPU. On a CPU it becomes "on" for large
      encoders and "parts" for others, and for all where attention is used for more than tokens.

    Args:
        config: the configuration of a run.
        platform: `"cpu"`, `"gpu"` or `"tpu"`; by default that of JAX's devices.

    Raises:
        ConfigError: the configuration asks for cuDNN's attention and there is none, or for a
            `low_memory` that keeps no attention where that is used.
    """
    platform = platform or jax.default_backend()
    dtype = config.compute_dtype
    if dtype == "auto":
        dtype = "float32" if platform == "cpu" else "bfloat16"
    attention, low_memory = config.machine.attention, config.machine.low_memory
    has_cudnn = platform == "gpu" and dtype == "bfloat16"
    if attention == "auto":
        attention = "cudnn" if has_cudnn else "xla"
    if attention == "cudnn" and not has_cudnn:
        raise ConfigError(
            "machine.attention='cudnn' needs a GPU and compute_dtype='bfloat16', and this is "
            f"{dtype} on a {platform}: use machine.attention='auto'"
        )
    uses_attention = config.propagate_cams or "affinity_head" in network_fields(config)
    if low_memory == "auto":
        low_memory = "off"
        if platform == "cpu":
            is_large = _has_large_blocks(config) and not uses_attention
            low_memory = "on" if is_large else "parts"
    if low_memory == "on" and uses_attention:
        user = "CAMs are propagated" if config.propagate_cams else f"method={config.method} learns"
        raise ConfigError(
            f"machine.low_memory='on' keeps no attention, from which {user}: use "
            "machine.low_memory='parts'"
        )
    machine = {"attention": attention, "low_memory": low_memory}
    return with_values(config, compute_dtype=dtype, machine=machine)


def _has_large_blocks(config: ConfigDict) -> bool:
    backbone = backbone_from_name(config.backbone)
    num_tokens = backbone.num_leading + (config.crop_size // backbone.patch) ** 2
    return 4 * 9 * backbone.width * num_tokens >= _LARGE_BLOCK  # qkv 3, proj 1, fc1 4, fc2 1
