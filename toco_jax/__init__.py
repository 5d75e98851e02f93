"""ToCo, token contrast for weakly-supervised semantic segmentation, in JAX and Flax."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toco_jax.inference.segmenter import Segmenter
    from toco_jax.run.config_files import load_config
    from toco_jax.training.loop import train

# Looked up when they are asked for: the package itself must not need JAX to be imported.
_MODULES = {
    "Segmenter": "toco_jax.inference.segmenter",
    "load_config": "toco_jax.run.config_files",
    "train": "toco_jax.training.loop",
}

__all__ = ["Segmenter", "load_config", "train"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
