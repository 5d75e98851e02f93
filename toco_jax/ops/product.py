"""Matrix products with weights, whose gradients are written in the forms that a CPU computes fast.

On a CPU, XLA's product of few rows with a large transposed matrix is slow, a product that sums
over two axes first copies one of its factors, and products of bfloat16 use the instructions made
for them (AMX, AVX-512) only if the sums are float32 and the first factor is not transposed. None of
this holds on an accelerator.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float


def product(
    x: Float[Array, "*b k"],
    kernel: Float[Array, "k n"],
    *,
    dtype: DTypeLike | None = None,
    unrolled: bool = False,
) -> Float[Array, "*b n"]:
    """`x @ kernel`.

    Args:
        x: rows of any floating dtype.
        kernel: weights of the same dtype.
        dtype: dtype of the result, by default that of `x`; sums are at least as exact.
        unrolled: leaves the product and its gradient to XLA, as is best on a GPU or TPU; False
            uses the forms that are fast on a CPU.
    """
    if unrolled:
        return jnp.matmul(x, kernel, preferred_element_type=dtype)
    rows = _product_of_rows(x.reshape(-1, x.shape[-1]), kernel)
    rows = rows.reshape(*x.shape[:-1], kernel.shape[-1])
    return rows.astype(x.dtype if dtype is None else dtype)


_matmul = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)


def _rows_by_rows(x: Array, y: Array) -> Array:
    """`x @ y.T`, which XLA would compute less fast if it were written so."""
    dimensions = (((1,), (1,)), ((), ()))
    return jax.lax.dot_general(x, y, dimensions, preferred_element_type=jnp.float32)


@jax.custom_vjp
def _product_of_rows(x: Array, kernel: Array) -> Array:
    return _matmul(x, kernel)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple]:
    return _matmul(x, kernel), (x, kernel)


def _backward(kept: tuple, dy: Array) -> tuple[Array, Array]:
    x, kernel = kept
    dy = dy.astype(x.dtype)
    dkernel = _matmul(_transposed(x), dy)
    if 2 * len(dy) > min(kernel.shape):
        dx = _rows_by_rows(dy, kernel)
    else:
        # Without the barrier XLA would turn this into the product with the transposed weights.
        dx = jax.lax.optimization_barrier(_rows_by_rows(kernel, dy)).T
    return dx.astype(x.dtype), dkernel.astype(x.dtype)


_product_of_rows.defvjp(_forward, _backward)


def _transposed(x: Array) -> Array:
    if x.dtype == jnp.float32:
        return x.T
    # In two halves, because XLA would make one transposition a part of the product.
    first, second = jnp.split(x, [len(x) // 2])
    return jnp.concatenate([first.T, second.T], axis=1)
