"""One head at a time: the same attention and gradient, with one map in memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toco_jax.models import block
from toco_jax.models.block import Attention

PLAIN = Attention(heads=2, dtype=jnp.float32)
FRUGAL = PLAIN.clone(low_memory=True)


@pytest.fixture
def tokens(monkeypatch):
    monkeypatch.setattr(block, "_LARGE_MAPS", 0)
    x = jax.random.normal(jax.random.key(0), (2, 9, 8))
    return x, PLAIN.init(jax.random.key(1), x)


def both(tokens, *args):
    """Output and gradient of the plain layer and of the frugal one."""
    x, variables = tokens

    def loss(layer, variables, x):
        out = layer.apply(variables, x, *args)[0]
        return jnp.sum(out**3), out

    grad = jax.jit(jax.grad(loss, argnums=(1, 2), has_aux=True), static_argnums=0)
    return grad(PLAIN, variables, x), grad(FRUGAL, variables, x)


@pytest.mark.parametrize("padded", [False, True])
def test_one_head_at_a_time_is_the_same_function(tokens, padded):
    is_key = jnp.arange(9)[None] < jnp.array([[6], [9]]) if padded else None
    plain, frugal = both(tokens, is_key)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), plain, frugal)


def test_one_head_at_a_time_never_holds_all_maps(tokens):
    x, variables = tokens

    def lowered(layer):
        grad = jax.grad(lambda v, x: jnp.sum(layer.apply(v, x)[0] ** 2))
        return jax.jit(grad).trace(variables, x).lower().as_text()

    assert "2x2x9x9" in lowered(PLAIN)
    assert "2x2x9x9" not in lowered(FRUGAL)
    assert "4x9x9" not in lowered(FRUGAL)
    assert "9x9xf32" in lowered(FRUGAL)


def test_small_maps_are_taken_together(tokens, monkeypatch):
    x, variables = tokens
    monkeypatch.setattr(block, "_LARGE_MAPS", 4 * 2 * 9 * 9)
    assert "2x2x9x9" in jax.jit(FRUGAL.apply).trace(variables, x).lower().as_text()
