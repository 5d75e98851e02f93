"""Applies a function to slices of the leading axis in turn, to save memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` that is at most `limit`, and at least 1."""
    return max((n for n in range(1, min(number, limit) + 1) if number % n == 0), default=1)


def map_parts(function: Callable, arrays: Any, size: int) -> Any:
    """Applies `function` to slices of `size` entries and concatenates the results.

    Args:
        function: maps arrays to arrays, both pytrees, and treats each entry of the leading axis
            independently of the others.
        arrays: pytree of arrays `[N, ...]`.
        size: entries per slice, a divisor of N.

    Returns:
        `function(arrays)`; the intermediate values of only one slice exist at a time.
    """
    # [N / size, size, ...]
    parts = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), arrays)
    results = jax.lax.map(function, parts)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), results)


def mean_over_parts(function: Callable, arrays: Any, num: int) -> Any:
    """Averages `function` over `num` equal slices of the leading axis.

    Args:
        function: maps a slice of the arrays to a pytree of arrays.
        arrays: pytree of arrays `[N, ...]`.
        num: number of slices, a divisor of N.
    """
    if num == 1:
        return function(arrays)
    parts = jax.tree.map(lambda x: x.reshape(num, -1, *x.shape[1:]), arrays)  # [num, N / num, ...]
    first = jax.tree.map(lambda x: x[0], parts)
    zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(function, first))
    total, _ = jax.lax.scan(
        lambda total, part: (jax.tree.map(jnp.add, total, function(part)), None), zeros, parts
    )
    return jax.tree.map(lambda x: x / num, total)
