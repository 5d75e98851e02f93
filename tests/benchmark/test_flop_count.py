"""FLOPs are counted as often as they are computed, and those of attention by formula."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from toco_jax.benchmark import (
    attention,
    flop_count,
    measure,
)
from toco_jax.models.layers import Attention
from toco_jax.runtime.compute import Compute
from toco_jax.runtime.sharding import AXIS, data_parallel, make_mesh


def products_of(function, *shapes):
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return flop_count.product_flops(jax.jit(function).trace(*inputs))


def test_products_are_counted_as_often_as_they_are_computed():
    product = 2 * 8**3
    square = (8, 8)
    assert products_of(lambda x: jnp.einsum("bij,bkj->bik", x, x), (3, 4, 5)) == 2 * 3 * 4 * 4 * 5
    looped = products_of(lambda x: jax.lax.fori_loop(0, 7, lambda _, y: y @ x, x), square)
    assert looped == 7 * product
    assert products_of(lambda x: ((x @ x), x)[1], square) == 0
    branches = [lambda x: x, lambda x: x @ x, lambda x: x @ x @ x]
    assert products_of(lambda x: jax.lax.switch(jnp.int32(x[0, 0]), branches, x), square) == (
        2 * product
    )
    # One way, once more, and two products for the gradient.

    @jax.checkpoint
    def layer(x, y):
        return jnp.sum(jnp.sin(x @ y))

    again = jax.value_and_grad(layer, (0, 1))
    assert products_of(again, square, square) == 4 * product


def test_products_of_a_convolution_and_of_one_device():
    def convolve(images, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=layout
        )

    per_image = 2 * 6 * 5 * 3 * 3 * 2 * 7
    assert products_of(convolve, (4, 6, 5, 2), (3, 3, 2, 7)) == 4 * per_image
    images, kernel = PartitionSpec(AXIS), PartitionSpec()
    split = data_parallel(convolve, make_mesh(4), (images, kernel), images)
    assert products_of(split, (4, 6, 5, 2), (3, 3, 2, 7)) == per_image


@pytest.mark.usefixtures("cudnn")
def test_products_of_attention_by_cudnn():
    plain = Attention(heads=2, compute=Compute("bfloat16", unrolled=True))
    x = jax.ShapeDtypeStruct((3, 6, 16), jnp.bfloat16)
    variables = jax.eval_shape(plain.init, jax.random.key(0), x)

    def gradient(layer):
        def loss(variables, x):
            return jnp.sum(layer.apply(variables, x)[0].astype(jnp.float32) ** 2)

        return jax.jit(jax.value_and_grad(loss, (0, 1)))

    counted, expected = (
        flop_count.product_flops(gradient(layer).trace(variables, x))
        for layer in (plain.clone(compute=Compute("bfloat16", "cudnn", unrolled=True)), plain)
    )
    assert counted == expected


def test_attention_flops_are_those_of_its_products():
    layer = attention.Attention(2)
    x = jnp.ones((3, 40, 32))
    params = layer.init(jax.random.key(0), x)["params"]
    counted = measure.flops(
        attention.passes(layer, num_keys=x.shape[1])[0].lower(params, x).compile()
    )
    # XLA also counts the softmax and the biases.
    assert 1 < counted / attention.layer_flops(3, 40, 32) < 1.2


def test_flops_of_a_matrix_product():
    compiled = jax.jit(jnp.matmul).lower(jnp.ones((32, 64)), jnp.ones((64, 16))).compile()
    assert measure.flops(compiled) == 2 * 32 * 64 * 16
