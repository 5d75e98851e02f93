"""Other kinds of devices than those at hand, for code that asks JAX which it has."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import pytest


@contextmanager
def made_for(name: str) -> Iterator[None]:
    """Within, JAX says that its devices are of this kind, `"gpu"` or `"tpu"`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: name)
        yield
