"""LayerNorm over the last axis in float32, with its gradient in closed form.

In closed form the gradient needs two means over each row. Automatic differentiation goes through
the variance and then the mean, and writes more intermediate values to memory.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Float32


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def layer_norm(
    x: Float[Array, "*b d"],
    scale: Float32[Array, " d"],
    bias: Float32[Array, " d"],
    eps: float,
    dtype: DTypeLike,
) -> Float[Array, "*b d"]:
    """`scale * (x - mean) / sqrt(variance + eps) + bias` (Ba et al., 2016).

    The value and the gradient are computed in float32.

    Args:
        x: rows of any floating dtype. Where float32 cannot hold a row's variance (spreads above
            1e18), the row's result is the bias and its gradient 0.
        scale: factor of each entry of a row.
        bias: offset of each entry of a row.
        eps: added to the variance, which is the biased one; above 0.
        dtype: dtype of the result.
    """
    return _forward(x, scale, bias, eps, dtype)[0]


def _row_sum(x: Array) -> Array:
    return jnp.sum(x, axis=-1, keepdims=True)


def _centred(
    x: Array, eps: float, sums: tuple | None = None
) -> tuple[Array, Array, tuple[Array, Array]]:
    """Rows minus their mean, the inverse of their standard deviation, and the sums these need.

    The sums are not computed again if they are given.
    """
    width = x.shape[-1]
    x = x.astype(jnp.float32)
    total = _row_sum(x) if sums is None else sums[0]
    centred = x - total / width
    squares = _row_sum(centred**2) if sums is None else sums[1]
    inverse = jax.lax.rsqrt(squares / width + eps)
    return centred, inverse, (total, squares)


def _as_row(weight: Array, ndim: int) -> Array:
    return weight.reshape((1,) * (ndim - 1) + (-1,))


def _forward(
    x: Array, scale: Array, bias: Array, eps: float, dtype: DTypeLike
) -> tuple[Array, tuple]:
    centred, inverse, sums = _centred(x, eps)
    y = centred * (inverse * _as_row(scale, x.ndim)) + _as_row(bias, x.ndim)
    return y.astype(dtype), (x, scale, sums)


def _backward(eps: float, _dtype: DTypeLike, kept: tuple, dy: Array) -> tuple:
    x, scale, sums = kept
    # The barrier keeps XLA from computing the sums again for every use on a GPU.
    centred, inverse, _ = _centred(x, eps, jax.lax.optimization_barrier(sums))
    normed = centred * inverse
    dy = dy.astype(jnp.float32)
    dnormed = dy * _as_row(scale, x.ndim)
    width = x.shape[-1]
    dx = dnormed - _row_sum(dnormed) / width - normed * (_row_sum(dnormed * normed) / width)
    rows = tuple(range(x.ndim - 1))
    return ((inverse * dx).astype(x.dtype), jnp.sum(dy * normed, axis=rows), jnp.sum(dy, axis=rows))


layer_norm.defvjp(_forward, _backward)
