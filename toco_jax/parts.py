"""Works through the leading axis in equal parts, so that one part's intermediate values exist."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` that is at most `limit`, and at least 1."""
    return max((n for n in range(1, min(number, limit) + 1) if number % n == 0), default=1)


def split_parts(arrays: Any, size: int) -> Any:
    """Arrays `[N, ...]` to `[N / size, size, ...]`."""
    return jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), arrays)


def map_parts(function: Callable, arrays: Any, size: int) -> Any:
    """`function(arrays)`, a function of each entry by itself, over `size` entries at a time."""
    results = jax.lax.map(function, split_parts(arrays, size))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), results)


def mean_over_parts(function: Callable, arrays: Any, num: int) -> Any:
    """Mean of `function(part)` over `num` parts of the arrays."""
    if num == 1:
        return function(arrays)
    size = len(jax.tree.leaves(arrays)[0]) // num
    parts = split_parts(arrays, size)
    first = jax.tree.map(lambda x: x[0], parts)
    zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(function, first))
    total, _ = jax.lax.scan(
        lambda total, part: (jax.tree.map(jnp.add, total, function(part)), None), zeros, parts
    )
    return jax.tree.map(lambda x: x / num, total)
