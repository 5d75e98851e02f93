"""What the figures measure on tokens and attention; arrays in, arrays out."""

import jax.numpy as jnp
import numpy as np
from jax import Array

_EPS = 1e-12


def mean_similarity(patch_tokens: Array, valid: Array | np.ndarray) -> Array:
    """Mean cosine similarity of the pairs of different patches.

    The sum over all pairs is the squared length of the sum of the unit vectors, so that no `[N, N]`
    array is needed.

    Args:
        patch_tokens: `[N, D]`, the tokens of one image, without class token and registers.
        valid: bool `[N]`, which of them count.

    Returns:
        float32 in [-1, 1]. A token of zeros has the similarity 0 to all others. With
        fewer than two valid patches there is no pair and the result is NaN.
    """
    tokens = jnp.where(valid[:, None], patch_tokens.astype(jnp.float32), 0.0)
    # Divided by the largest entry first, because squares of large tokens overflow.
    tokens = tokens / jnp.maximum(jnp.abs(tokens).max(axis=1, keepdims=True), _EPS)
    lengths = jnp.linalg.norm(tokens, axis=1, keepdims=True)
    unit = tokens / jnp.maximum(lengths, _EPS)  # [N, D]
    with_itself = (unit**2).sum()
    count = valid.sum().astype(jnp.float32)
    return ((unit.sum(axis=0) ** 2).sum() - with_itself) / (count * (count - 1))


def class_attention(attention: Array, *, num_leading: int) -> tuple[Array, Array]:
    """The class token's attention, as the mean over heads.

    Args:
        attention: `[heads, M, M]`, the attention map of one image; each row sums to 1.
        num_leading: number of tokens before the patches, 1 + R: the class token and the registers.

    Returns:
        float32 `[M - num_leading]`, the attention to each patch, and `[num_leading]`, to each of
        the leading tokens, the class token itself first. All of them together sum to 1.
    """
    row = attention[:, 0].astype(jnp.float32).mean(axis=0)  # [M]
    return row[num_leading:], row[:num_leading]
