"""The transformer block; its attention plain, by cuDNN, or a few heads at a time."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from toco_jax.ops.layer_norm import layer_norm
from toco_jax.ops.parts import largest_divisor, map_parts
from toco_jax.ops.product import product
from toco_jax.runtime.compute import Compute

# What the gradient keeps where it computes most things again: results of the linear layers, and of
# attention where it costs much.
KEPT = "kept"

# Bytes of an image's attention maps from which on `in_parts` takes its heads in parts, and bytes
# of a part's maps, which a processor's cache holds.
_LARGE_MAPS = 2**20
_MAPS_AT_ONCE = 8 * 2**20


class Linear(nn.Module):
    """A linear layer whose result `KEPT` names."""

    features: int
    compute: Compute = Compute()
    kernel_init: Callable = nn.linear.default_kernel_init

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., D]` to `[..., features]`."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return _linear(self.compute, *promoted(self.compute, x, kernel, bias))


def promoted(compute: Compute, *arrays: jax.Array) -> list[jax.Array]:
    """The arrays in the compute dtype."""
    return nn.dtypes.promote_dtype(*arrays, dtype=compute.jax_dtype)


def _linear(compute: Compute, x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    out = product(x, kernel, unrolled=compute.unrolled)
    return checkpoint_name(out + bias.reshape((1,) * (x.ndim - 1) + (-1,)), KEPT)


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


def _flash(q: jax.Array, k: jax.Array, v: jax.Array, num_keys: int) -> jax.Array:
    """The first result of `_attend` over `[B, N, heads, d]` by cuDNN, which never writes the
    probabilities to memory. Looked at are the first `num_keys` tokens only; the other keys and
    values have zero gradients, as JAX's own tests of cuDNN ask.
    """
    lengths = None if num_keys == k.shape[1] else jnp.full(k.shape[:1], num_keys, jnp.int32)
    return jax.nn.dot_product_attention(
        q, k, v, key_value_seq_lengths=lengths, implementation="cudnn"
    )


class QueriesKeysValues(nn.Module):
    """Three linear layers of the tokens that share one kernel and one bias.

    For cuDNN's attention each has a product of its own. That costs a little more than one product
    for all, but each result is an array of its own that nothing needs to copy out of the whole.
    """

    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: jax.Array) -> list[jax.Array]:
        """`[..., D]` to three `[..., D]`, which `KEPT` names."""
        width = x.shape[-1]
        kernel = self.param("kernel", nn.linear.default_kernel_init, (width, 3 * width))
        bias = self.param("bias", nn.initializers.zeros, (3 * width,))
        x, kernel, bias = promoted(self.compute, x, kernel, bias)
        # Split, not sliced: the gradient of slices would be padded with zeros and added.
        if self.compute.attention == "cudnn":
            kernels, biases = (jax.lax.split(w, (width,) * 3, w.ndim - 1) for w in (kernel, bias))
            return [_linear(self.compute, x, *pair) for pair in zip(kernels, biases, strict=True)]
        return jax.lax.split(_linear(self.compute, x, kernel, bias), (width,) * 3, x.ndim - 1)


class Attention(nn.Module):
    """Multi-head self-attention.

    Attributes:
        heads: number of heads, a divisor of the width D.
        compute: how it is executed; cuDNN takes no part where `is_key` is given.
    """

    heads: int
    compute: Compute = Compute()

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        is_key: jax.Array | None = None,
        *,
        num_keys: int | None = None,
        class_token_only: bool = False,
    ) -> tuple[jax.Array, jax.Array]:
        """`[B, N, D]` to `[B, N, D]` and the map `[B, heads, N, K]`; with `class_token_only` to
        `[B, 1, D]` and `[B, heads, 1, K]`.

        Looked at are only the first K = `num_keys` tokens, all by default, and of these only those
        of `is_key [B, K]` where it is given. cuDNN's attention has no gradient where N is odd.
        """
        batch, num_tokens, width = x.shape
        qkv = [
            part.reshape(batch, num_tokens, self.heads, -1)  # [B, N, heads, d]
            for part in QueriesKeysValues(self.compute, name="qkv")(x)
        ]
        q, k, v = (part.swapaxes(1, 2) for part in qkv)  # [B, heads, N, d]
        k, v = k[:, :, :num_keys], v[:, :, :num_keys]  # [B, heads, K, d]
        if class_token_only:
            q = q[:, :, :1]
        if is_key is not None:
            is_key = is_key[:, None]  # [B, 1, K]
        # The compiler drops the map, and all that only it needs, where nobody asks for it.
        out, attention = _attend(q, k, v, is_key)
        map_bytes = 4 * q.shape[2] * k.shape[2]
        if self.compute.attention == "cudnn" and is_key is None and not class_token_only:
            out = _flash(*qkv, k.shape[2]).swapaxes(1, 2)
        elif self.compute.in_parts and self.heads * map_bytes > _LARGE_MAPS:
            num = largest_divisor(self.heads, _MAPS_AT_ONCE // map_bytes)
            out = _by_heads(q, k, v, is_key, num)
        out = out.swapaxes(1, 2).reshape(batch, -1, width)  # [B, N or 1, D]
        return Linear(width, self.compute, name="proj")(out), attention


def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU. Through erf, which compiles and runs in about half the time of the erfc form."""
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = Linear(4 * x.shape[-1], self.compute, name="fc1")(x)
        hidden = gelu(hidden)
        return Linear(x.shape[-1], self.compute, name="fc2")(hidden)


class LayerNorm(nn.Module):
    """LayerNorm over the last axis with float32 statistics, returned in `dtype`."""

    eps: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., D]` to `[..., D]`."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return layer_norm(x, scale, bias, self.eps, self.dtype)


class Block(nn.Module):
    """Pre-norm transformer block; returns the tokens and the attention map.

    The arguments are those of `Attention`: with `class_token_only` the other tokens are only looked
    at, and `[B, 1, D]` comes back.
    """

    heads: int
    norm_eps: float
    compute: Compute = Compute()

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        is_key: jax.Array | None = None,
        *,
        num_keys: int | None = None,
        class_token_only: bool = False,
    ) -> tuple[jax.Array, jax.Array]:
        norm = functools.partial(LayerNorm, self.norm_eps, self.compute.jax_dtype)
        out, attention = Attention(self.heads, self.compute, name="attn")(
            norm(name="norm1")(x),
            is_key,
            num_keys=num_keys,
            class_token_only=class_token_only,
        )
        x = x[:, : out.shape[1]] + out
        x = x + Mlp(self.compute, name="mlp")(norm(name="norm2")(x))
        return x, attention
