"""Finds the simplex of the permutohedral lattice around each point.

The features of a point, in units of their standard deviations, are embedded in the hyperplane of
R^(d+1) whose coordinates sum to zero. The vertices of the lattice have integer coordinates there,
which are equal modulo d + 1; see `permutohedral`.
"""

import functools
import math
import operator
from collections.abc import Iterable, Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float32, Int32

# The least and the greatest value of each feature.
Bounds = Sequence[tuple[float, float]]


def key_code(bounds: Bounds) -> tuple[int, list[int], int]:
    """Numbers the vertices that features within `bounds` can touch by integer keys.

    The coordinates of a vertex are equal modulo d + 1 and sum to zero, so that the d differences
    between coordinate 0 and the others, in multiples of d + 1, identify it. Its key is the
    mixed-radix number of these differences:
    `offset - sum_j falls[j] * (coordinate j div (d + 1))`, j = 0 .. d.
    The key increases by `falls[j]` when coordinate j decreases by d + 1. In a neighbour along axis
    j all coordinates are larger by 1, except that coordinate j is smaller by d: the difference of
    their keys is `falls[j]`.

    Returns:
        `offset`, `falls`, and the number of keys.

    Raises:
        ValueError: int32 cannot hold that number.
    """
    scaled = [
        (math.sqrt(2 / 3 / (m * (m + 1))) * low, math.sqrt(2 / 3 / (m * (m + 1))) * high)
        for m, (low, high) in enumerate(bounds, 1)
    ]
    offset, falls, total = 0, [], 1
    for j, (low, high) in enumerate(scaled, 1):
        before = scaled[: j - 1]
        # The differences of a vertex of a point's simplex, or of its neighbour, are up to 2 outside
        # those of the points; one more is for rounding.
        least = math.floor((j + 1) * low + sum(b[0] for b in before)) - 3
        greatest = math.ceil((j + 1) * high + sum(b[1] for b in before)) + 3
        offset -= total * least
        falls.append(total)
        total *= greatest - least + 1
    if total > np.iinfo(np.int32).max:
        span = [round(high - low, 1) for low, high in bounds]
        raise ValueError(
            f"features that span {span} standard deviations need {total} lattice keys, more than "
            "int32 holds; use larger sigmas or a smaller image"
        )
    return offset, [-sum(falls), *falls], total


def embed(
    points: Float32[Array, "d n"], offset: int, falls: list[int]
) -> tuple[Int32[Array, "axes n"], Float32[Array, "axes n"]]:
    """Keys of the d + 1 vertices of each point's simplex, and the point's barycentric weights.

    Args:
        points: features in standard deviations.
        offset: see `key_code`.
        falls: see `key_code`.
    """
    dim, num = points.shape
    side = dim + 1
    scale = math.sqrt(2 / 3) * side
    elevated: list[Array] = []
    partial_sum = jnp.zeros(num, jnp.float32)
    for m in range(dim, 0, -1):
        scaled = points[m - 1] * np.float32(scale / math.sqrt(m * (m + 1)))
        elevated.insert(0, partial_sum - np.float32(m) * scaled)
        partial_sum = partial_sum + scaled
    elevated.insert(0, partial_sum)

    # The nearest point whose coordinates are multiples of d + 1, and the ranks of the residuals,
    # largest first, ties by coordinate. Its coordinates may not sum to zero: those of extreme rank
    # then move by d + 1.
    rounded = [jnp.rint(e * np.float32(1 / side)) for e in elevated]
    residual = [e - q * np.float32(side) for e, q in zip(elevated, rounded, strict=True)]
    excess = sum_arrays(rounded).astype(jnp.int32)
    ranks = []
    for i, r in enumerate(residual):
        ahead = [s >= r for s in residual[:i]] + [s > r for s in residual[i + 1 :]]
        ranks.append(excess + sum_arrays(a.astype(jnp.int32) for a in ahead))
    rank = jnp.stack(ranks)  # [d + 1, N]
    wrap = (rank < 0).astype(jnp.int32) - (rank > dim).astype(jnp.int32)
    rank = rank + side * wrap
    nearest = jnp.stack(rounded) + wrap.astype(jnp.float32)  # [d + 1, N]
    shift = (jnp.stack(elevated) - nearest * np.float32(side)) * np.float32(1 / side)  # [d + 1, N]
    multiples = nearest.astype(jnp.int32)
    base = offset - sum_arrays(np.int32(f) * q for f, q in zip(falls, multiples, strict=True))

    def vertex(k: Array) -> tuple[Array, Array]:
        # From vertex 0 to vertex k all coordinates rise by k, and the k of the last ranks fall by
        # d + 1.
        gain = sum_arrays(jnp.where(rank[i] == dim - k, shift[i], 0) for i in range(side))
        loss = sum_arrays(jnp.where(rank[i] == (side - k) % side, shift[i], 0) for i in range(side))
        weight = gain + ((k == 0).astype(jnp.float32) - loss)
        key = base + sum_arrays(
            jnp.where(rank[i] > dim - k, np.int32(falls[i]), 0) for i in range(side)
        )
        return key, weight

    # A loop, because XLA would otherwise repeat all of the above for each of the d + 1 vertices.
    return lax.map(vertex, jnp.arange(side))


def sum_arrays(terms: Iterable[Array]) -> Array:
    """Sum of at least one array, in the given order."""
    return functools.reduce(operator.add, terms)
