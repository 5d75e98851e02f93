"""The transformer block, whose attention runs in XLA, in cuDNN, or for a few heads at a time."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Float32

from toco_jax.models.backbones import Backbone
from toco_jax.models.rotary import Rotary, rotated
from toco_jax.ops.layer_norm import layer_norm
from toco_jax.ops.parts import largest_divisor, map_parts
from toco_jax.ops.product import product
from toco_jax.runtime.compute import Compute

# Name of the values that the gradient keeps when it recomputes the others: the results of linear
# layers, and those of attention in parts, which are expensive.
KEPT = "kept"

# With `in_parts`, the heads of an image are computed in parts if their attention maps exceed the
# first number of bytes, and those of a part do not exceed the second, which a CPU's cache holds.
LARGE_MAPS = 2**20
MAPS_AT_ONCE = 8 * 2**20


class Linear(nn.Module):
    """A linear layer whose result the gradient keeps (`KEPT`).

    Attributes:
        features: width of the result.
        compute: how it is executed.
        kernel_init: initialisation of the kernel; the bias starts at 0.
    """

    features: int
    compute: Compute = Compute()
    kernel_init: Callable = nn.linear.default_kernel_init

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b features"]:
        """Computes `x @ kernel + bias`."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return _linear(self.compute, x, jnp.asarray(kernel), jnp.asarray(bias))


def _linear(compute: Compute, x: Array, kernel: Array, bias: Array) -> Array:
    """`x @ kernel + bias` of factors in the compute dtype, in that of tokens."""
    x, kernel = x.astype(compute.jax_dtype), kernel.astype(compute.jax_dtype)
    out = product(x, kernel, dtype=compute.tokens_dtype, unrolled=compute.unrolled)
    bias = bias.astype(out.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
    return checkpoint_name(out + bias, KEPT)


def _attend(
    q: Float[Array, "*b n d"],
    k: Float[Array, "*b k d"],
    v: Float[Array, "*b k d"],
    is_key: Bool[Array, "... k"] | None,
) -> tuple[Float[Array, "*b n d"], Float32[Array, "*b n k"]]:
    """Softmax attention, and its probabilities; queries see only the tokens `is_key` if given."""
    logits = jnp.einsum("...qd,...kd->...qk", q * q.shape[-1] ** -0.5, k).astype(jnp.float32)
    if is_key is not None:
        logits = jnp.where(is_key[..., None, :], logits, -jnp.inf)
    attention = jax.nn.softmax(logits, axis=-1)
    return jnp.einsum("...qk,...kd->...qd", attention.astype(v.dtype), v), attention


def _by_heads(
    q: Float[Array, "b heads n d"],
    k: Float[Array, "b heads k d"],
    v: Float[Array, "b heads k d"],
    is_key: Bool[Array, "b 1 k"] | None,
    num: int,
) -> Float[Array, "b heads n d"]:
    """Softmax attention for `num` heads of an image at a time.

    The gradient computes the maps again, so that those of only `num` heads exist at a time.
    """

    def some(arrays: tuple) -> Array:
        return _attend(*arrays)[0]

    if is_key is not None:
        is_key = jnp.broadcast_to(is_key, k.shape[:-1])  # [B, heads, N]
    arrays = (q, k, v, is_key)
    heads = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), arrays)  # [B * heads, ...]
    return checkpoint_name(map_parts(jax.checkpoint(some), heads, num).reshape(q.shape), KEPT)


def _flash(
    q: Float[Array, "b n heads d"],
    k: Float[Array, "b n heads d"],
    v: Float[Array, "b n heads d"],
    num_keys: int,
) -> Float[Array, "b n heads d"]:
    """Softmax attention by cuDNN, which never writes the probabilities to memory.

    Queries see only the first `num_keys` tokens. The other keys and values get zero gradients,
    which JAX's own tests of cuDNN check.
    """
    lengths = None if num_keys == k.shape[1] else jnp.full(k.shape[:1], num_keys, jnp.int32)
    return jax.nn.dot_product_attention(
        q, k, v, key_value_seq_lengths=lengths, implementation="cudnn"
    )


class QueriesKeysValues(nn.Module):
    """Computes queries, keys and values by linear layers that share one kernel and one bias.

    For cuDNN's attention each has its own product. This costs a little more than one product for
    all three, but no result has to be copied out of a larger array.

    Attributes:
        compute: how it is executed.
        key_bias: whether keys have a bias; the bias `[2 D]` is that of queries and values if not.
    """

    compute: Compute = Compute()
    key_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> list[Float[Array, "*b d"]]:
        """Queries, keys and values in the dtype of tokens; the gradient keeps them (`KEPT`)."""
        width = x.shape[-1]
        init = nn.linear.default_kernel_init
        kernel = jnp.asarray(self.param("kernel", init, (width, 3 * width)))
        parts = 3 if self.key_bias else 2
        bias = jnp.asarray(self.param("bias", nn.initializers.zeros, (parts * width,)))
        if not self.key_bias:
            bias = jnp.concatenate([bias[:width], jnp.zeros_like(bias[:width]), bias[width:]])
        # `split` and not slices, whose gradients would be padded with zeros and added.
        if self.compute.attention == "cudnn":
            kernels, biases = (jax.lax.split(w, (width,) * 3, w.ndim - 1) for w in (kernel, bias))
            return [_linear(self.compute, x, *pair) for pair in zip(kernels, biases, strict=True)]
        together = _linear(self.compute, x, kernel, bias)  # [..., 3 D]
        return list(jax.lax.split(together, (width,) * 3, x.ndim - 1))


class Attention(nn.Module):
    """Multi-head self-attention.

    Attributes:
        heads: number of heads, a divisor of the width D.
        compute: how it is executed; cuDNN is not used if `is_key` is given.
    """

    heads: int
    compute: Compute = Compute()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        is_key: Bool[Array, "b k"] | None = None,
        *,
        num_keys: int | None = None,
        class_token_only: bool = False,
        rotary: Rotary | None = None,
    ) -> tuple[Float[Array, "b _ d"], Float32[Array, "b heads _ k"]]:
        """Computes new tokens and the attention map.

        Args:
            x: the tokens, the class token first.
            is_key: which of the first K tokens the queries may see; all by default.
            num_keys: K, the number of tokens, from the first on, that the queries may see; all by
                default. cuDNN's attention has no gradient if N is odd.
            class_token_only: computes only the new class token and its map, with 1 in place of N.
            rotary: rotations of queries and keys; keys have no bias then.

        Returns:
            Tokens `[B, N, D]` and map `[B, heads, N, K]`.
        """
        batch, num_tokens, width = x.shape
        qkv = [
            part.reshape(batch, num_tokens, self.heads, -1)  # [B, N, heads, d]
            for part in QueriesKeysValues(self.compute, rotary is None, name="qkv")(x)
        ]
        if rotary is not None:
            qkv[:2] = [rotated(part, rotary) for part in qkv[:2]]
        q, k, v = (part.swapaxes(1, 2) for part in qkv)  # [B, heads, N, d]
        k, v = k[:, :, :num_keys], v[:, :, :num_keys]  # [B, heads, K, d]
        if class_token_only:
            q = q[:, :, :1]
        if is_key is not None:
            is_key = is_key[:, None]  # [B, 1, K]
        # If the map is not used, the compiler drops it and everything that only it needs.
        out, attention = _attend(q, k, v, is_key)
        map_bytes = 4 * q.shape[2] * k.shape[2]
        if self.compute.attention == "cudnn" and is_key is None and not class_token_only:
            out = _flash(qkv[0], qkv[1], qkv[2], k.shape[2]).swapaxes(1, 2)
        elif self.compute.in_parts and self.heads * map_bytes > LARGE_MAPS:
            num = largest_divisor(self.heads, MAPS_AT_ONCE // map_bytes)
            out = _by_heads(q, k, v, is_key, num)
        out = out.swapaxes(1, 2).reshape(batch, -1, width)  # [B, N or 1, D]
        return Linear(width, self.compute, name="proj")(out), attention


def gelu(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Exact GELU by erf, which compiles and runs in about half the time of JAX's form by erfc."""
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


class Mlp(nn.Module):
    """Two linear layers, and between them an exact GELU or a gate (SwiGLU).

    Attributes:
        hidden: width of the first layer's result.
        gated: takes one half of the hidden channels, by SiLU, times the other.
        compute: how it is executed.
    """

    hidden: int
    gated: bool = False
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        hidden = Linear(self.hidden, self.compute, name="fc1")(x)
        if self.gated:
            gate, value = jnp.split(hidden, 2, axis=-1)
            hidden = jax.nn.silu(gate) * value
        else:
            hidden = gelu(hidden)
        return Linear(x.shape[-1], self.compute, name="fc2")(hidden)


class LayerNorm(nn.Module):
    """LayerNorm over the last axis, computed in float32.

    Attributes:
        eps: added to the variance.
        dtype: dtype of the result.
    """

    eps: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        """Normalises each row, then scales and shifts its entries."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return layer_norm(x, jnp.asarray(scale), jnp.asarray(bias), self.eps, self.dtype)


class Block(nn.Module):
    """Pre-norm transformer block.

    Attributes:
        backbone: the sizes.
        compute: how it is executed.
    """

    backbone: Backbone
    compute: Compute = Compute()

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], **attended: Any
    ) -> tuple[Float[Array, "b _ d"], Float32[Array, "b heads _ k"]]:
        """Computes new tokens and the attention map; the keyword arguments are `Attention`'s."""
        spec = self.backbone
        norm = functools.partial(LayerNorm, spec.norm_eps, self.compute.tokens_dtype)
        out, attention = Attention(spec.heads, self.compute, name="attn")(
            norm(name="norm1")(x), **attended
        )
        x = x[:, : out.shape[1]] + self._scaled(out, "layer_scale1")
        mlp = Mlp(spec.hidden, spec.gated, self.compute, name="mlp")
        out = mlp(norm(name="norm2")(x))
        return x + self._scaled(out, "layer_scale2"), attention

    def _scaled(self, out: Float[Array, "b n d"], name: str) -> Float[Array, "b n d"]:
        if not self.backbone.layer_scale:
            return out
        # As DINOv2 starts: each block is nearly the identity.
        factors = self.param(name, nn.initializers.constant(1e-5), (out.shape[-1],))
        return out * factors.astype(out.dtype)[None, None, :]
