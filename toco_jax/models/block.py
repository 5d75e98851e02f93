"""The transformer block; its attention plain, by cuDNN, or a few heads at a time."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from toco_jax.parts import largest_divisor, map_parts

# What the gradient keeps where it computes most things again: results of the linear layers, and of
# attention where it costs much.
KEPT = "kept"

# Bytes of an image's attention maps from which on `low_memory` takes its heads in parts, and bytes
# of a part's maps, which a processor's cache holds.
_LARGE_MAPS = 2**20
_MAPS_AT_ONCE = 8 * 2**20


class Linear(nn.Dense):
    """A linear layer whose result `KEPT` names."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., D]` to `[..., features]`."""
        return checkpoint_name(super().__call__(x), KEPT)


def _attend(
    q: jax.Array, k: jax.Array, v: jax.Array, is_key: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Softmax attention over `[..., N, d]`, of the keys `is_key [..., N]` only where it is given;
    the probabilities `[..., N, N]` are float32.
    """
    logits = jnp.einsum("...qd,...kd->...qk", q * q.shape[-1] ** -0.5, k).astype(jnp.float32)
    if is_key is not None:
        logits = jnp.where(is_key[..., None, :], logits, -jnp.inf)
    attention = jax.nn.softmax(logits, axis=-1)
    return jnp.einsum("...qk,...kd->...qd", attention.astype(v.dtype), v), attention


def _by_heads(
    q: jax.Array, k: jax.Array, v: jax.Array, is_key: jax.Array | None, num: int
) -> jax.Array:
    """The first result of `_attend` over `[B, heads, N, d]`, `num` heads of an image at a time and
    their maps computed again for the gradient, so that no more than these maps exist at a time.
    """

    def some(arrays: tuple) -> jax.Array:
        return _attend(*arrays)[0]

    if is_key is not None:
        is_key = jnp.broadcast_to(is_key, k.shape[:-1])  # [B, heads, N]
    arrays = (q, k, v, is_key)
    heads = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), arrays)  # [B * heads, ...]
    return checkpoint_name(map_parts(jax.checkpoint(some), heads, num).reshape(q.shape), KEPT)


def _flash(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """The first result of `_attend` over `[B, heads, N, d]` by cuDNN, which never writes the
    probabilities to memory.
    """
    batch, _, num_tokens, _ = q.shape
    # JAX refuses the gradient of odd lengths: they get one more token that takes no part.
    odd = num_tokens % 2
    pad = ((0, 0), (0, odd), (0, 0), (0, 0))
    q, k, v = (jnp.pad(x.swapaxes(1, 2), pad) for x in (q, k, v))  # [B, N + odd, heads, d]
    lengths = jnp.full((batch,), num_tokens, jnp.int32) if odd else None
    out = jax.nn.dot_product_attention(
        *(q, k, v),
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )
    return out[:, :num_tokens].swapaxes(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention.

    Attributes:
        heads: number of heads, a divisor of the width D.
        dtype: compute dtype of the matrix products.
        flash: by cuDNN, for bfloat16 or float16 on a GPU, where all tokens are keys.
        low_memory: a few heads at a time where the maps are large.
    """

    heads: int
    dtype: jnp.dtype
    flash: bool = False
    low_memory: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, is_key: jax.Array | None = None, *, class_token_only: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """`[B, N, D]` to `[B, N, D]` and the map `[B, heads, N, N]`; with `class_token_only` to
        `[B, 1, D]` and `[B, heads, 1, N]`. Only tokens of `is_key [B, N]` are looked at where it is
        given.
        """
        batch, num_tokens, width = x.shape
        qkv = Linear(3 * width, dtype=self.dtype, name="qkv")(x)
        # Not one array's three parts: the gradient of these would be padded with zeros and added.
        q, k, v = (
            x.reshape(batch, num_tokens, self.heads, -1).swapaxes(1, 2)  # [B, heads, N, d]
            for x in jax.lax.split(qkv, (width,) * 3, axis=2)
        )
        if class_token_only:
            q = q[:, :, :1]
        if is_key is not None:
            is_key = is_key[:, None]  # [B, 1, N]
        # The compiler drops the map, and all that only it needs, where nobody asks for it.
        out, attention = _attend(q, k, v, is_key)
        map_bytes = 4 * q.shape[2] * num_tokens
        if self.flash and is_key is None and not class_token_only:
            out = _flash(q, k, v)
        elif self.low_memory and self.heads * map_bytes > _LARGE_MAPS:
            num = largest_divisor(self.heads, _MAPS_AT_ONCE // map_bytes)
            out = _by_heads(q, k, v, is_key, num)
        out = out.swapaxes(1, 2).reshape(batch, -1, width)  # [B, N or 1, D]
        return Linear(width, dtype=self.dtype, name="proj")(out), attention


def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU. Through erf, which compiles and runs in about half the time of the erfc form."""
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = Linear(4 * x.shape[-1], dtype=self.dtype, name="fc1")(x)
        hidden = gelu(hidden)
        return Linear(x.shape[-1], dtype=self.dtype, name="fc2")(hidden)


def layer_norm(eps: float, dtype: jnp.dtype, name: str | None = None) -> nn.LayerNorm:
    """LayerNorm with float32 two-pass statistics, returned in `dtype`."""
    return nn.LayerNorm(epsilon=eps, use_fast_variance=False, dtype=dtype, name=name)


class Block(nn.Module):
    """Pre-norm transformer block; returns the tokens and the attention map.

    With `class_token_only` the other tokens are only looked at: `[B, 1, D]` comes back.
    """

    heads: int
    norm_eps: float
    dtype: jnp.dtype
    flash: bool = False
    low_memory: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, is_key: jax.Array | None = None, *, class_token_only: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        kind = (self.heads, self.dtype, self.flash, self.low_memory)
        out, attention = Attention(*kind, name="attn")(
            layer_norm(self.norm_eps, self.dtype, "norm1")(x),
            is_key,
            class_token_only=class_token_only,
        )
        x = x[:, : out.shape[1]] + out
        x = x + Mlp(self.dtype, name="mlp")(layer_norm(self.norm_eps, self.dtype, "norm2")(x))
        return x, attention
