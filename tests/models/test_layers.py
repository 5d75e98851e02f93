"""Parts of a block: attention a few heads at a time, of some tokens, by one product or three."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toco_jax.models import layers
from toco_jax.models.layers import Attention, QueriesKeysValues
from toco_jax.runtime.compute import Compute

PLAIN = Attention(heads=4)
FRUGAL = PLAIN.clone(compute=Compute(attention="in_parts"))
MAP_BYTES = 4 * 9 * 9


@pytest.fixture
def tokens(monkeypatch):
    """An input of 2 images and the parameters; two heads' maps are as many as are made at once."""
    monkeypatch.setattr(layers, "LARGE_MAPS", 0)
    monkeypatch.setattr(layers, "MAPS_AT_ONCE", 2 * MAP_BYTES)
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
def test_a_few_heads_at_a_time_are_the_same_function(tokens, padded):
    is_key = jnp.arange(9)[None] < jnp.array([[6], [9]]) if padded else None
    plain, frugal = both(tokens, is_key)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), plain, frugal)


@pytest.mark.parametrize(("largest", "num_loops"), [(4 * MAP_BYTES - 1, 1), (4 * MAP_BYTES, 0)])
def test_small_maps_are_taken_together(tokens, monkeypatch, largest, num_loops):
    x, variables = tokens
    monkeypatch.setattr(layers, "LARGE_MAPS", largest)
    traced = jax.make_jaxpr(FRUGAL.apply)(variables, x)
    assert sum(eqn.primitive.name == "scan" for eqn in traced.eqns) == num_loops


def test_a_few_heads_at_a_time_take_less_memory(monkeypatch):
    monkeypatch.setattr(layers, "MAPS_AT_ONCE", 4 * 96**2)
    monkeypatch.setattr(layers, "LARGE_MAPS", 0)
    x = jnp.zeros((2, 96, 8))
    variables = PLAIN.init(jax.random.key(1), x)

    def temporary(layer):
        grad = jax.grad(lambda v, x: jnp.sum(layer.apply(v, x)[0] ** 2))
        compiled = jax.jit(grad).lower(variables, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(FRUGAL) < 0.5 * temporary(PLAIN)


@pytest.mark.parametrize("layer", [PLAIN, FRUGAL])
def test_tokens_that_are_no_keys_change_nothing(tokens, layer):
    x, variables = tokens
    attend = jax.jit(layer.apply, static_argnames="num_keys")
    out, attention = attend(variables, x, num_keys=7)
    short, short_attention = attend(variables, x[:, :7])
    assert out.shape == x.shape
    np.testing.assert_allclose(out[:, :7], short, atol=1e-6)
    np.testing.assert_allclose(attention[:, :, :7], short_attention, atol=1e-6)


def test_three_products_are_one_product_cut_in_three():
    x = jax.random.normal(jax.random.key(0), (2, 5, 8))
    whole, apart = (
        QueriesKeysValues(Compute(attention=attention)) for attention in ("xla", "cudnn")
    )
    variables = whole.init(jax.random.key(1), x)
    jax.tree.map(np.testing.assert_array_equal, apart.init(jax.random.key(1), x), variables)
    variables = jax.tree.map(lambda w: w + 0.1, variables)

    def loss(layer, variables, x):
        q, k, v = layer.apply(variables, x)
        return jnp.sum(q + 2 * k**2 + 3 * v**3)

    ours, theirs = (
        jax.value_and_grad(loss, argnums=(1, 2))(layer, variables, x) for layer in (apart, whole)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, theirs)
