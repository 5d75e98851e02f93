"""Numbers the vertices of a lattice: the keys of all points to rows of a table, and neighbours.

A hash table in which all keys are looked up at once, so that it runs on any device.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Rows whose neighbours are looked up at a time.
_BLOCK = 8192
# How arrays are indexed where every index is known to be inside.
INSIDE = {"mode": "promise_in_bounds", "wrap_negative_indices": False}


def take(array: jax.Array, index: jax.Array) -> jax.Array:
    """Rows of an array; the indices must be inside it."""
    return array.at[index].get(**INSIDE)


def _slot(key: jax.Array, table: jax.Array) -> jax.Array:
    bits = table.size.bit_length() - 1
    mixed = key.astype(jnp.uint32) * np.uint32(2654435769)
    return (mixed >> np.uint32(32 - bits)).astype(jnp.int32)


def insert(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Hash table of the distinct keys, and the first occurrence of each key: int32 [P].

    A slot of the table holds the index of a key, or P while empty. All keys try their slots at
    once; those that find another key there go on to their next slot. Equal keys move together.
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


def _next(slot: jax.Array, step: jax.Array, table: jax.Array) -> jax.Array:
    """The next slot to try: growing steps reach every slot of a table of 2^n."""
    return (slot + step) & (table.size - 1)


def number_rows(first: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rows, from 1 in order of first appearance so that nearby points use nearby ones; how many.

    Counts the first appearances before each key in words of 32 bits: XLA's running sums are slow.
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
    key: jax.Array,
    row: jax.Array,
    count: jax.Array,
    table: jax.Array,
    largest: jax.Array | None = None,
) -> jax.Array:
    """Rows of both neighbours of rows 1 .. count <= size, 0 if missing: int32 [d + 1, 2, R].

    `largest` is the count of the largest of the tables that are searched together under `vmap`.
    """
    largest = count if largest is None else largest
    num = key.size
    block = min(_BLOCK, size + 1)
    rows = -(-(size + 1) // block) * block
    vertex_key = jnp.zeros(rows, jnp.int32).at[row].set(key)
    step = np.array([[fall, -fall] for fall in falls], np.int32).reshape(-1, 1)  # [2 (d + 1), 1]

    def find(i: jax.Array, neighbours: jax.Array) -> jax.Array:
        index = i * block + jnp.arange(block, dtype=jnp.int32)
        exists = ((index > 0) & (index <= count))[None]
        wanted = lax.dynamic_slice_in_dim(vertex_key, i * block, block)[None] + step

        def look(slot: jax.Array) -> tuple[jax.Array, jax.Array]:
            """What is in the slot, or -1; whether it is another key."""
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
