"""Ordinary and extreme inputs for property tests; shapes are the caller's, so that few programs
are compiled.
"""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

# The smallest subnormal, the smallest normal number, and what squares to the smallest.
_TINY = (0.0, 1e-45, 1.1754944e-38, 1e-23, 1e-8)
# Subnormal numbers may count as 0, as XLA and processors have it, in any step of a computation.
FLUSHED = 1e-37
BF16 = jnp.bfloat16


def seeds():
    """Generators of numpy; a strategy that draws each entry would take most of a test's time."""
    return st.integers(0, 2**32 - 1).map(np.random.default_rng)


@st.composite
def arrays(draw, shape, *, low=-1e30, high=1e30, dtype=np.float32):
    """Numbers in [low, high]: all equal, one-hot, of one order of magnitude, or of all."""
    rng, pattern = draw(seeds()), draw(st.sampled_from(("equal", "one-hot", "mixed", "normal")))
    special = [x for x in (low, high, 1.0, -1.0, *_TINY, *(-x for x in _TINY)) if low <= x <= high]
    if pattern == "equal":
        values = np.full(shape, draw(st.sampled_from(special)), float)
    elif pattern == "one-hot":
        values = np.full(shape, draw(st.sampled_from(special)), float)
        values.flat[rng.integers(values.size)] = draw(st.sampled_from(special))
    elif pattern == "mixed":
        values = rng.choice(special, shape)
    else:
        largest = max(abs(low), abs(high))
        size = min(10.0 ** draw(st.integers(-40, 30)), largest)
        values = size * rng.standard_normal(shape)
    return np.clip(values, low, high).astype(np.float32).astype(dtype)


@st.composite
def label_maps(draw, shape, num_labels):
    """Labels in 0..num_labels-1 and 255: all ignored, all equal, or mixed; int32."""
    rng = draw(seeds())
    some = draw(st.lists(st.sampled_from([*range(num_labels), 255]), min_size=1, max_size=3))
    every = draw(st.booleans())
    return rng.choice([*range(num_labels), 255] if every else some, shape).astype(np.int32)


@st.composite
def class_labels(draw, shape, dtype=np.float32):
    """Which classes each image shows, 0 or 1: none, one, some, or all of them."""
    rng, share = draw(seeds()), draw(st.sampled_from((0.0, 0.3, 0.7, 1.0, "one")))
    if share == "one":
        return np.eye(shape[1])[rng.integers(0, shape[1], shape[0])].astype(dtype)
    return (rng.random(shape) < share).astype(dtype)


@st.composite
def boxes(draw, num, size):
    """Valid boxes [num, 4] on maps of `size`: empty, of one pixel, of all pixels, or any; int32."""
    rng, kind = draw(seeds()), draw(st.sampled_from(("empty", "pixel", "all", "any")))
    sides = []
    for side in size:
        start = rng.integers(0, side, num)
        length = {"empty": 0, "pixel": 1, "all": side}.get(kind, rng.integers(0, side + 1, num))
        start = np.zeros(num, int) if kind == "all" else start
        sides += [start, np.minimum(start + length, side)]
    return np.stack(sides, axis=1).astype(np.int32)


def assert_finite(tree):
    for x in jax.tree.leaves(tree):
        assert np.isfinite(np.float32(x)).all(), x


def permuted(rng, num):
    """An order of `num` things and the order that undoes it."""
    order = rng.permutation(num)
    return order, np.argsort(order)
