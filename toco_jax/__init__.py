"""ToCo, token contrast for weakly-supervised semantic segmentation, in JAX and Flax."""

from typing import Any

__all__ = ["Segmenter"]


def __getattr__(name: str) -> Any:
    # Looked up when it is asked for: the package itself must not need JAX to be imported.
    if name == "Segmenter":
        from toco_jax.inference.segmenter import Segmenter

        return Segmenter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
