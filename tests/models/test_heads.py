"""The decoder's convolutions against the compiler's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toco_jax.models.heads import DilatedConv
from toco_jax.runtime.compute import Compute


# A map of several dilations, one that some taps never meet, one that only the centre meets.
@pytest.mark.parametrize("size", [(9, 7), (6, 4), (3, 2)])
def test_dilated_convolution_equals_the_padded_one(size):
    dilation = 4
    layer = DilatedConv(5, dilation)
    x = jax.random.normal(jax.random.key(0), (2, *size, 3))
    variables = layer.init(jax.random.key(1), x)

    def padded(variables, x):
        return jax.lax.conv_general_dilated(
            *(x, variables["params"]["kernel"], (1, 1), [(dilation, dilation)] * 2),
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    def value_and_grad(function):
        def loss(variables, x):
            out = function(variables, x)
            return jnp.sum(out**3), out

        return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(variables, x)

    ours, theirs = value_and_grad(layer.apply), value_and_grad(padded)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, theirs)


def test_low_precision_adds_up_in_float32():
    layer = DilatedConv(4, 1, Compute("bfloat16", unrolled=True))
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, 64))
    variables = layer.init(jax.random.key(1), x)
    rounded = jax.tree.map(lambda v: v.astype(jnp.bfloat16).astype(jnp.float32), (variables, x))
    exact = DilatedConv(4, 1).apply(*rounded)
    out = layer.apply(variables, x)
    assert out.dtype == jnp.bfloat16
    # Half a unit in the last of bfloat16's 8 bits: the sum was rounded once.
    np.testing.assert_allclose(out.astype(jnp.float32), exact, rtol=2**-8, atol=1e-5)
