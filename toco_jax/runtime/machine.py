"""What a process runs on and with, as plain values: devices, versions, the command."""

import os
import pathlib
import platform
import shlex
import sys
from importlib import metadata
from typing import Any

import jax

_PACKAGES = ("toco_jax", "jax", "jaxlib", "flax", "optax", "numpy", "grain", "orbax-checkpoint")


def hardware() -> dict[str, Any]:
    """Returns the devices, the cores and what decides how programs are compiled for them."""
    return {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "platform": jax.default_backend(),
        "CPU cores usable": len(os.sched_getaffinity(0)),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "jax": jax.__version__,
    }


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that compute."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # a checkout that is not installed
            found[name] = "not installed"
    return found


def command() -> str:
    """Returns the command line of this process, as a shell takes it."""
    program = pathlib.Path(sys.argv[0])
    modules = {"__main__.py": "toco_jax", "main.py": "toco_jax.main"}
    is_module = program.parent.name == "toco_jax" and program.name in modules
    words = ["python", "-m", modules[program.name]] if is_module else [program.name]
    return shlex.join([*words, *sys.argv[1:]])
