"""A hash table that numbers the vertices of a lattice and finds their neighbours.

All keys are inserted, and looked up, at the same time, so that the table runs on any device.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Int, Int32, Num

# Rows whose neighbours are looked up at a time.
_BLOCK = 8192
# Options of indexing where every index is known to be inside the array.
INSIDE: dict[str, Any] = {"mode": "promise_in_bounds", "wrap_negative_indices": False}


def take(array: Num[Array, "r ..."], index: Int[Array, "..."]) -> Num[Array, "..."]:
    """`array[index]` for indices that are inside the array."""
    return array.at[index].get(**INSIDE)


def _slot(key: Array, table: Array) -> Array:
    bits = table.size.bit_length() - 1
    mixed = key.astype(jnp.uint32) * np.uint32(2654435769)
    return (mixed >> np.uint32(32 - bits)).astype(jnp.int32)


def insert(key: Int32[Array, " p"]) -> tuple[Int32[Array, " slots"], Int32[Array, " p"]]:
    """Inserts keys, of which some may be equal, into a hash table.

    All keys try their slots at once; those that find another key there go on to their next slot.
    Equal keys move together.

    Returns:
        The table, whose slots hold the index of the first of equal keys, or P if they are empty;
        and for each key the index of the first key that is equal to it.
    """
    num = key.size
    index = jnp.arange(num, dtype=jnp.int32)
    table = jnp.full(1 << (2 * num - 1).bit_length(), num, jnp.int32)
    slot = _slot(key, table)

    def put(state: tuple) -> tuple:
        table, slot, _, step = state
        free = take(table, slot) == num
        table = table.at[slot].min(jnp.where(free, index, num), **INSIDE)
        lost = take(key, take(table, slot)) != key
        return table, jnp.where(lost, _next(slot, step, table), slot), lost, step + 1

    state = put((table, slot, None, jnp.int32(1)))
    table, slot, _, _ = lax.while_loop(lambda state: jnp.any(state[2]), put, state)
    return table, take(table, slot)


def _next(slot: Array, step: Array, table: Array) -> Array:
    """The next slot to try: steps 1, 2, 3, ... reach every slot of a table of 2^n slots."""
    return (slot + step) & (table.size - 1)


def number_rows(first: Int32[Array, " p"]) -> tuple[Int32[Array, " p"], Int32[Array, ""]]:
    """Numbers the distinct keys from 1, in order of appearance, so that nearby points are close.

    The first appearances before each key are counted in words of 32 bits, because a running sum
    over all keys is slow in XLA.

    Args:
        first: index of the first key that is equal to each key, see `insert`.

    Returns:
        The row of each key, and the number of distinct keys.
    """
    num = first.size
    new = first == jnp.arange(num, dtype=jnp.int32)
    new = jnp.pad(new, (0, -num % 32)).reshape(-1, 32)  # [W, 32]
    word = jnp.sum(new.astype(jnp.uint32) << jnp.arange(32, dtype=jnp.uint32)[None], axis=1)
    added = lax.population_count(word).astype(jnp.int32)
    end = jnp.cumsum(added)
    upto = np.uint32(2**32 - 1) >> (31 - (first & 31)).astype(jnp.uint32)
    within = lax.population_count(take(word, first >> 5) & upto).astype(jnp.int32)
    return take(end - added, first >> 5) + within, end[-1]


def find_neighbours(
    size: int,
    falls: list[int],
    key: Int32[Array, " p"],
    row: Int32[Array, " p"],
    count: Int32[Array, ""],
    table: Int32[Array, " slots"],
    largest: Int32[Array, ""] | None = None,
) -> Int32[Array, "axes 2 {size}+1"]:
    """Finds the rows of both neighbours of each vertex along each axis.

    Args:
        size: number of rows to allow for, at least `count`.
        falls: differences of the keys of neighbours along each axis.
        key: keys of vertices, of which some may be equal.
        row: rows of the keys, see `number_rows`.
        count: number of distinct keys.
        table: the hash table, see `insert`.
        largest: under `vmap`, the largest `count` among the tables that are searched together.

    Returns:
        Rows; 0 where there is no neighbour. Row 0 stands for no vertex.
    """
    largest = count if largest is None else largest
    num = key.size
    block = min(_BLOCK, size + 1)
    rows = -(-(size + 1) // block) * block
    vertex_key = jnp.zeros(rows, jnp.int32).at[row].set(key)
    step = np.array([[fall, -fall] for fall in falls], np.int32).reshape(-1, 1)  # [2 (d + 1), 1]

    def find(i: Array, neighbours: Array) -> Array:
        index = i * block + jnp.arange(block, dtype=jnp.int32)
        exists = ((index > 0) & (index <= count))[None]
        wanted = lax.dynamic_slice_in_dim(vertex_key, i * block, block)[None] + step

        def look(slot: Array) -> tuple[Array, Array]:
            """The content of the slot, -1 if it is empty, and whether it is another key."""
            found = take(table, slot)
            found = jnp.where(exists & (found < num), found, -1)
            return found, (found >= 0) & (take(key, jnp.maximum(found, 0)) != wanted)

        def probe(state: tuple) -> tuple:
            slot, _, missed, step = state
            slot = jnp.where(missed, _next(slot, step, table), slot)
            return slot, *look(slot), step + 1

        slot = _slot(wanted, table)
        state = (slot, *look(slot), jnp.int32(1))
        _, found, _, _ = lax.while_loop(lambda state: jnp.any(state[2]), probe, state)
        found = jnp.where(found >= 0, take(row, jnp.maximum(found, 0)), 0)
        return lax.dynamic_update_slice(neighbours, found, (0, i * block))

    neighbours = jnp.zeros((2 * len(falls), rows), jnp.int32)
    neighbours = lax.fori_loop(0, largest // block + 1, find, neighbours)
    return neighbours[:, : size + 1].reshape(len(falls), 2, size + 1)  # [d + 1, 2, R]
