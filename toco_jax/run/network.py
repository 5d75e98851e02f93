"""Makes the network of a configuration, and says how it is executed."""

import jax
from ml_collections import ConfigDict

from toco_jax.config import resolve
from toco_jax.config.methods import network_fields
from toco_jax.models.backbones import backbone_from_name
from toco_jax.models.network import ToCo
from toco_jax.runtime.compute import Compute


def compute_of(config: ConfigDict, platform: str) -> Compute:
    """Returns how a configuration is executed on a platform, `"cpu"`, `"gpu"` or `"tpu"`.

    Raises:
        ConfigError: the configuration asks for cuDNN's attention and there is none.
    """
    config = resolve(config, platform)
    attention, low_memory = config.machine.attention, config.machine.low_memory
    if attention == "xla" and low_memory in ("on", "parts"):
        attention = "in_parts"
    return Compute(
        dtype=config.compute_dtype,
        attention=attention,
        remat=low_memory == "on",
        unrolled=platform != "cpu",
    )


def make_model(config: ConfigDict, *, grid: int, platform: str | None = None) -> ToCo:
    """Makes the network of a configuration.

    Args:
        config: a validated configuration; for what `"auto"` means see `config.resolve`.
        grid: side in patches of the grid of stored positional embeddings.
        platform: `"cpu"`, `"gpu"` or `"tpu"`; by default that of JAX's devices.

    Raises:
        ConfigError: the configuration asks for cuDNN's attention and there is none.
    """
    return ToCo(
        backbone_from_name(config.backbone),
        num_classes=config.num_classes,
        aux_layer=config.aux_layer,
        grid=grid,
        decoder_width=config.decoder_width,
        decoder_dilation=config.decoder_dilation,
        propagate_cams=config.propagate_cams,
        compute=compute_of(config, platform or jax.default_backend()),
        **network_fields(config),
    )
