"""Products with a matrix of weights, and their gradients in the forms that a CPU computes fast.

XLA's products on a CPU are slow where few rows meet a large transposed matrix, and a sum over two
axes copies one of its factors first. On an accelerator neither is so.
"""

import jax
import jax.numpy as jnp


def product(
    x: jax.Array, kernel: jax.Array, *, dtype: jnp.dtype | None = None, unrolled: bool = False
) -> jax.Array:
    """`x @ kernel`.

    Args:
        x: `[..., K]` of any floating type.
        kernel: `[K, N]` of the same type.
        dtype: type of the sums and of the result, by default that of `x`; float32 for float32.
        unrolled: leaves the product as it is, for a GPU or TPU; False gives it a CPU's forms.

    Returns:
        `[..., N]`.
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
def _product_of_rows(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return x @ kernel


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple]:
    return x @ kernel, (x, kernel)


def _backward(kept: tuple, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    if 2 * len(dy) > min(kernel.shape):
        return dy @ kernel.T, x.T @ dy
    columns = jax.lax.dot_general(kernel, dy, (((1,), (1,)), ((), ())))
    # Without the barrier the compiler would turn this into the product with the transposed weights.
    return jax.lax.optimization_barrier(columns).T, x.T @ dy


_product_of_rows.defvjp(_forward, _backward)
