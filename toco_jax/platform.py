"""The kind of device that programs are made for."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax

_elsewhere: list[str] = []


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
