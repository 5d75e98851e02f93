import jax
import numpy as np
import pytest

from toco_jax.ops import vertex_table
from toco_jax.ops.vertex_table import find_neighbours, insert, number_rows


def test_colliding_keys_are_told_apart():
    # 700 different keys in a table of 2048: many share a first slot.
    rng = np.random.default_rng(5)
    key = rng.choice(rng.choice(2**31 - 1, 700, replace=False), 1000).astype(np.int32)
    _, first = jax.jit(insert)(key)
    _, where, inverse = np.unique(key, return_index=True, return_inverse=True)
    np.testing.assert_array_equal(first, where[inverse])


@pytest.mark.parametrize("block", [8192, 64])
def test_rows_and_neighbours(monkeypatch, block):
    """Keys of which many are 3 or 5 apart; with few rows a block, several blocks are looked up."""
    monkeypatch.setattr(vertex_table, "_BLOCK", block)
    rng = np.random.default_rng(6)
    key = rng.integers(10, 500, 601).astype(np.int32)
    falls = [3, -5]
    distinct, where = np.unique(key, return_index=True)
    size = len(distinct)

    def rows_and_neighbours(key):
        table, first = insert(key)
        row, count = number_rows(first)
        return row, count, find_neighbours(size, falls, key, row, count, table)

    row, count, neighbours = (np.asarray(a) for a in jax.jit(rows_and_neighbours)(key))
    order = list(distinct[np.argsort(where)])
    assert count == size
    np.testing.assert_array_equal(row, [order.index(k) + 1 for k in key])
    expected = np.zeros((2, 2, size + 1), int)
    for axis, fall in enumerate(falls):
        for i, k in enumerate(order):
            for side, step in enumerate((fall, -fall)):
                if k + step in order:
                    expected[axis, side, i + 1] = order.index(k + step) + 1
    assert 50 < (expected > 0).sum() < expected.size
    np.testing.assert_array_equal(neighbours, expected)


def test_a_smaller_table_beside_a_larger(monkeypatch):
    """Rows that only the larger one has stay without neighbours, though a step from 0 is a key."""
    monkeypatch.setattr(vertex_table, "_BLOCK", 8)
    few = np.resize(np.int32([3, 5, 8]), 40)
    many = np.arange(100, 140, dtype=np.int32)

    def neighbours(key, axis_name=None):
        table, first = insert(key)
        row, count = number_rows(first)
        largest = count if axis_name is None else jax.lax.pmax(count, axis_name)
        return find_neighbours(len(many), [3, -5], key, row, count, table, largest)

    together = jax.vmap(lambda key: neighbours(key, "tables"), axis_name="tables")
    found = np.asarray(jax.jit(together)(np.stack([few, many])))
    for keys, rows in zip((few, many), found, strict=True):
        np.testing.assert_array_equal(rows, jax.jit(neighbours)(keys))
    assert found[0, :, :, :4].any() and not found[0, :, :, 4:].any()
