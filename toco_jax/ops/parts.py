"""Works through the leading axis in equal parts, so that one part's intermediate values exist."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` that is at most `limit`, and at least 1."""
    return max((n for n in range(1, min(number, limit) + 1) if number % n == 0), default=1)


def map_parts(function: Callable, arrays: Any, size: int) -> Any:
    """`function(arrays)`, a function of each entry by itself, over `size` entries at a time."""
    # [N / size, size, ...]
    parts = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), arrays)
    results = jax.lax.map(function, parts)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), results)


def mean_over_parts(function: Callable, arrays: Any, num: int) -> Any:
    """Mean of `function(part)` over `num` parts of the arrays; `num` must divide their length."""
    if num == 1:
        return function(arrays)
    parts = jax.tree.map(lambda x: x.reshape(num, -1, *x.shape[1:]), arrays)  # [num, N / num, ...]
    first = jax.tree.map(lambda x: x[0], parts)
    zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(function, first))
    total, _ = jax.lax.scan(
        lambda total, part: (jax.tree.map(jnp.add, total, function(part)), None), zeros, parts
    )
    return jax.tree.map(lambda x: x / num, total)
