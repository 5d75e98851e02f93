"""Exponential moving averages of parameters."""

from typing import Any

import jax


def moved_average(average: Any, new: Any, decay: float | jax.Array) -> Any:
    """Returns `decay * average + (1 - decay) * new` of each array of two trees."""
    return jax.tree.map(lambda old, now: decay * old + (1 - decay) * now, average, new)
