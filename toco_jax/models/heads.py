"""The heads on top of the encoder: classifiers, LargeFOV decoder, projection head."""

import dataclasses
import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from toco_jax.models.layers import Linear, gelu
from toco_jax.ops.product import product
from toco_jax.runtime.compute import Compute


def fan_in_uniform(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Uniform in +-1/sqrt(fan_in), the default initialisation of torch's convolutions."""
    bound = math.prod(shape[:-1]) ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


class Classifier(nn.Module):
    """Bias-free linear map `W [D, C]` that serves both image logits and class activation maps."""

    num_classes: int

    @nn.compact
    def __call__(
        self, patch_tokens: jax.Array, valid: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """`[B, N, D]` to logits `[B, C]` (`W` on the maximum over tokens, over those of
        `valid [B, N]` where it is given) and CAM `[B, N, C]` (`W` on every token), both float32.
        """
        shape = (patch_tokens.shape[-1], self.num_classes)
        kernel = self.param("kernel", fan_in_uniform, shape)
        patch_tokens = patch_tokens.astype(jnp.float32)
        counted = patch_tokens
        if valid is not None:
            counted = jnp.where(valid[:, :, None], patch_tokens, -jnp.inf)
        return _max_over_tokens(counted) @ kernel, patch_tokens @ kernel


def _max_over_tokens(tokens: jax.Array) -> jax.Array:
    """Largest entry over the tokens of `[B, N, D]`, its gradient to the first place that has it.

    The derivative of `max` divides by the number of places equal to the maximum, which is 0 where
    the compiler computes the tokens twice and rounds them differently.
    """
    place = jax.lax.stop_gradient(tokens).argmax(axis=1, keepdims=True)  # [B, 1, D]
    chosen = jnp.arange(tokens.shape[1])[None, :, None] == place
    return jnp.sum(jnp.where(chosen, tokens, 0.0), axis=1)


class DilatedConv(nn.Module):
    """A 3x3 convolution without bias, zeros beyond the border: one product a tap.

    Each product is over the cells whose neighbour lies on the map. With a dilation of 5 a padded
    convolution would spend two fifths of its work on zeros on a 14 x 14 map, a fifth on 28 x 28.

    Attributes:
        features: output channels.
        dilation: distance of the taps, in cells.
        compute: how it is executed; the taps are added up in float32.
    """

    features: int
    dilation: int
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, h, w, D]` to `[B, h, w, features]` in the compute dtype."""
        batch, height, width, dim = x.shape
        kernel = self.param("kernel", fan_in_uniform, (3, 3, dim, self.features))
        dtype = self.compute.jax_dtype
        x, kernel = x.astype(dtype), kernel.astype(dtype)
        taps = jax.lax.split(kernel.reshape(9 * dim, -1), [dim] * 9)  # each [D, features]
        steps = (-self.dilation, 0, self.dilation)
        total = jnp.zeros((batch, height, width, self.features), jnp.float32)
        for tap, (dy, dx) in zip(taps, itertools.product(steps, repeat=2), strict=True):
            rows, columns = height - abs(dy), width - abs(dx)
            if rows <= 0 or columns <= 0:
                continue
            seen = x[:, max(0, dy) :, max(0, dx) :][:, :rows, :columns]
            seen = seen.reshape(-1, dim)
            part = product(seen, tap, dtype=jnp.float32, unrolled=self.compute.unrolled)
            part = part.reshape(batch, rows, columns, self.features)
            top, left = max(0, -dy), max(0, -dx)
            part += total[:, top : top + rows, left : left + columns]
            # Not `at[].add`: as a scatter it adds in an order of its own on a GPU.
            total = jax.lax.dynamic_update_slice(total, part, (0, top, left, 0))
        return total.astype(dtype)


class LargeFOV(nn.Module):
    """Segmentation decoder: two dilated 3x3 convolutions and a 1x1, no biases (DeepLab-LargeFOV).

    Attributes:
        num_labels: outputs, background included.
        width: channels of the two hidden layers.
        dilation: distance of the 3x3 taps, in tokens.
        compute: how it is executed; the logits are float32.
    """

    num_labels: int
    width: int = 512
    dilation: int = 5
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, feature_map: jax.Array, valid: jax.Array | None = None) -> jax.Array:
        """`[B, h, w, D]` to logits `[B, h, w, num_labels]`; cells outside `valid [B, h, w]` count
        as beyond the border where it is given.
        """
        x = feature_map
        for name in ("conv6", "conv7"):
            if valid is not None:
                x = jnp.where(valid[..., None], x, 0)
            x = DilatedConv(self.width, self.dilation, self.compute, name=name)(x)
            x = nn.relu(x)
        out = nn.Conv(
            self.num_labels,
            (1, 1),
            use_bias=False,
            kernel_init=fan_in_uniform,
            dtype=self.compute.jax_dtype,
            name="conv8",
        )(x)
        return out.astype(jnp.float32)


def _l2_normalize(x: jax.Array, axis: int) -> jax.Array:
    """`x` over its Euclidean norm, the norm bounded below by 1e-12; finite gradient at 0."""
    square = jnp.sum(x * x, axis=axis, keepdims=True)
    is_zero = square == 0
    return x / jnp.maximum(jnp.sqrt(jnp.where(is_zero, 1.0, square)), 1e-12) * ~is_zero


class ProjectionHead(nn.Module):
    """Class token to the space of the class token contrast (paper, section 3.4).

    Linear, GELU, Linear, GELU, Linear, L2 normalisation, then a weight-normalised bias-free linear
    map of gain 1. Computed in float32 whatever the compute dtype.
    """

    compute: Compute = Compute()

    hidden: int = 2048
    bottleneck: int = 256
    features: int = 1024

    @nn.compact
    def __call__(self, cls_token: jax.Array) -> jax.Array:
        """`[..., D]` to `[..., features]`, every entry in [-1, 1]."""
        init = nn.initializers.truncated_normal(0.02)
        x = cls_token.astype(jnp.float32)
        kind = (dataclasses.replace(self.compute, dtype="float32"), init)
        x = gelu(Linear(self.hidden, *kind, name="mlp_0")(x))
        x = gelu(Linear(self.hidden, *kind, name="mlp_2")(x))
        x = Linear(self.bottleneck, *kind, name="mlp_4")(x)
        x = _l2_normalize(x, axis=-1)
        direction = self.param("last_layer", init, (self.bottleneck, self.features))
        return product(x, _l2_normalize(direction, axis=0), unrolled=self.compute.unrolled)
