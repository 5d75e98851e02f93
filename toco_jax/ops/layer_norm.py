"""LayerNorm over the last axis in float32, with its gradient in closed form.

Left to automatic differentiation, the gradient goes through the mean and the variance one after the
other and writes what it needs between; in closed form two means of a row give all of it.
"""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def layer_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float, dtype: jnp.dtype
) -> jax.Array:
    """`scale * (x - mean) / sqrt(variance + eps) + bias` (Ba et al., 2016).

    Args:
        x: `[..., D]` of any floating type.
        scale: float32 `[D]`.
        bias: float32 `[D]`.
        eps: added to the variance, which is the mean square of what differs from the mean.
        dtype: type of the result.

    Returns:
        `[..., D]`; computed in float32, as its gradient is.
    """
    return _forward(x, scale, bias, eps, dtype)[0]


def _row_sum(x: jax.Array) -> jax.Array:
    return jnp.sum(x, axis=-1, keepdims=True)


def _centred(
    x: jax.Array, eps: float, sums: tuple | None = None
) -> tuple[jax.Array, jax.Array, tuple]:
    """Rows less their mean, the inverse of their deviation, and the two sums behind these."""
    width = x.shape[-1]
    x = x.astype(jnp.float32)
    total = _row_sum(x) if sums is None else sums[0]
    centred = x - total / width
    squares = _row_sum(centred**2) if sums is None else sums[1]
    inverse = jax.lax.rsqrt(squares / width + eps)
    return centred, inverse, (total, squares)


def _as_row(weight: jax.Array, ndim: int) -> jax.Array:
    return weight.reshape((1,) * (ndim - 1) + (-1,))


def _forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float, dtype: jnp.dtype
) -> tuple[jax.Array, tuple]:
    centred, inverse, sums = _centred(x, eps)
    y = centred * (inverse * _as_row(scale, x.ndim)) + _as_row(bias, x.ndim)
    return y.astype(dtype), (x, scale, sums)


def _backward(eps: float, _dtype: jnp.dtype, kept: tuple, dy: jax.Array) -> tuple:
    x, scale, sums = kept
    # Kept as they are: a GPU's compiler would reckon them anew for every use.
    centred, inverse, _ = _centred(x, eps, jax.lax.optimization_barrier(sums))
    normed = centred * inverse
    dy = dy.astype(jnp.float32)
    dnormed = dy * _as_row(scale, x.ndim)
    width = x.shape[-1]
    dx = dnormed - _row_sum(dnormed) / width - normed * (_row_sum(dnormed * normed) / width)
    rows = tuple(range(x.ndim - 1))
    return (
        (inverse * dx).astype(x.dtype),
        jnp.sum(dy * normed, axis=rows),
        jnp.sum(dy, axis=rows),
    )


layer_norm.defvjp(_forward, _backward)
