"""LayerNorm over the last axis in float32, with a gradient that reads its input once.

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


def _row_mean(x: jax.Array) -> jax.Array:
    return jnp.mean(x, axis=-1, keepdims=True)


def _forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float, dtype: jnp.dtype
) -> tuple[jax.Array, tuple]:
    centred = x.astype(jnp.float32)
    mean = _row_mean(centred)
    centred = centred - mean
    inverse = jax.lax.rsqrt(_row_mean(centred**2) + eps)
    scale, bias = (w.reshape((1,) * (x.ndim - 1) + (-1,)) for w in (scale, bias))
    y = centred * (inverse * scale) + bias
    return y.astype(dtype), (x, scale, mean, inverse)


def _backward(_eps: float, _dtype: jnp.dtype, kept: tuple, dy: jax.Array) -> tuple:
    x, scale, mean, inverse = kept
    mean, inverse = jax.lax.optimization_barrier((mean, inverse))
    normed = (x.astype(jnp.float32) - mean) * inverse
    dy = dy.astype(jnp.float32)
    dnormed = dy * scale
    along = _row_mean(dnormed * normed)
    dx = inverse * (dnormed - _row_mean(dnormed) - normed * along)
    rows = tuple(range(x.ndim - 1))
    return dx.astype(x.dtype), jnp.sum(dy * normed, axis=rows), jnp.sum(dy, axis=rows)


layer_norm.defvjp(_forward, _backward)
