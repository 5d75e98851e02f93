"""Products with weights: the result and both gradients, for few rows and for many."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toco_jax.ops.product import product


def loss(multiply, x, kernel):
    return jnp.sum(jnp.sin(multiply(x, kernel).astype(jnp.float32)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [1, 20])
def test_equals_the_plain_product_and_its_gradients(dtype, rows):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, rows, 16)), dtype)
    kernel = jnp.asarray(rng.normal(size=(16, 12)), dtype)
    tolerance = {"atol": 1e-5} if dtype == "float32" else {"atol": 0.05, "rtol": 0.02}

    both = jax.jit(jax.value_and_grad(loss, argnums=(1, 2)), static_argnums=0)
    value, gradients = both(product, x, kernel)
    expected, expected_gradients = both(jnp.matmul, x, kernel)

    np.testing.assert_allclose(value, expected, rtol=1e-5 if dtype == "float32" else 0.02)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        assert gradient.dtype == wanted.dtype and gradient.shape == wanted.shape
        np.testing.assert_allclose(
            gradient.astype(jnp.float32), wanted.astype(jnp.float32), **tolerance
        )


def test_sums_in_the_type_that_is_asked_for():
    x, kernel = jnp.full((1, 512), 1, jnp.bfloat16), jnp.full((512, 1), 1.0078125, jnp.bfloat16)
    assert product(x, kernel).dtype == jnp.bfloat16
    assert product(x, kernel, dtype=jnp.float32) == 516
