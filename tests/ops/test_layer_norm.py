"""LayerNorm and its gradient in closed form against flax's and automatic differentiation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toco_jax.ops.layer_norm import layer_norm

EPS = 1e-3


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_value_and_gradient(dtype):
    keys = jax.random.split(jax.random.key(0), 4)
    x = (3 + 2 * jax.random.normal(keys[0], (2, 3, 16))).astype(dtype)
    x = x.at[0, 0].set(0)
    scale, bias, weights = jax.random.normal(keys[1], (3, 16))

    def ours(x, scale, bias):
        return layer_norm(x, scale, bias, EPS, dtype)

    def flax(x, scale, bias):
        norm = nn.LayerNorm(epsilon=EPS, use_fast_variance=False, dtype=dtype)
        with jax.numpy_dtype_promotion("standard"):
            return norm.apply({"params": {"scale": scale, "bias": bias}}, x)

    def loss(norm):
        def weighted(*args):
            return jnp.sum(norm(*args).astype(jnp.float32) ** 2 * weights[None, None])

        return jax.jit(jax.value_and_grad(weighted, argnums=(0, 1, 2)))

    assert ours(x, scale, bias).dtype == dtype
    tolerance = 1e-5 if dtype == jnp.float32 else 2e-2
    np.testing.assert_allclose(
        ours(x, scale, bias).astype(jnp.float32),
        flax(x, scale, bias).astype(jnp.float32),
        atol=tolerance,
    )
    (value, grads), (expected_value, expected) = (
        loss(norm)(x, scale, bias) for norm in (ours, flax)
    )
    np.testing.assert_allclose(value, expected_value, rtol=tolerance)
    for grad, other in zip(grads, expected, strict=True):
        assert grad.dtype == other.dtype
        largest = float(jnp.abs(other).max())
        np.testing.assert_allclose(
            grad.astype(jnp.float32), other.astype(jnp.float32), atol=tolerance * largest
        )
