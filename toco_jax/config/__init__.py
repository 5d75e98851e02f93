"""The configuration of a run: its keys and defaults, its checks, and what `"auto"` means."""

from ml_collections import ConfigDict

from toco_jax.config.auto import resolve
from toco_jax.config.checks import validate
from toco_jax.config.keys import (
    LOSS_TERMS,
    ConfigError,
    completed,
    defaults,
    flat_values,
    renamed,
    with_values,
)
from toco_jax.config.methods import use_method
from toco_jax.config.quick import quick
from toco_jax.config.types import check_known, check_types

__all__ = [
    "LOSS_TERMS",
    "ConfigDict",
    "ConfigError",
    "check_known",
    "check_types",
    "completed",
    "defaults",
    "flat_values",
    "quick",
    "renamed",
    "resolve",
    "use_method",
    "validate",
    "with_values",
]
