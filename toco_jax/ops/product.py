"""Matrix products with weights, whose gradients are written in the forms that a CPU computes fast.

On a CPU, XLA's product of few rows with a large transposed matrix is slow, and a product that sums
over two axes first copies one of its factors. Neither holds on an accelerator.
"""

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
        dtype: dtype of the sums and of the result, by default that of `x`; always float32 for
            float32.
        unrolled: leaves the product and its gradient to XLA, as is best on a GPU or TPU; False
            uses the forms that are fast on a CPU.
    """
    if unrolled:
        return jnp.matmul(x, kernel, preferred_element_type=dtype)
    rows = x.reshape(-1, x.shape[-1])
    if x.dtype == jnp.float32:
        rows = _product_of_rows(rows, kernel)
    else:
        rows = jnp.matmul(rows, kernel, preferred_element_type=dtype)
    return rows.reshape(*x.shape[:-1], kernel.shape[-1])


@jax.custom_vjp
def _product_of_rows(x: Array, kernel: Array) -> Array:
    return x @ kernel


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple]:
    return x @ kernel, (x, kernel)


def _backward(kept: tuple, dy: Array) -> tuple[Array, Array]:
    x, kernel = kept
    if 2 * len(dy) > min(kernel.shape):
        return dy @ kernel.T, x.T @ dy
    columns = jax.lax.dot_general(kernel, dy, (((1,), (1,)), ((), ())))
    # Without the barrier XLA would turn this into the product with the transposed weights.
    return jax.lax.optimization_barrier(columns).T, x.T @ dy


_product_of_rows.defvjp(_forward, _backward)
