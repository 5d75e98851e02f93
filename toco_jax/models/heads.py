"""The heads on the encoder: classifier, decoder (LargeFOV), projection head, affinity head."""

import dataclasses
import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Float32

from toco_jax.models.layers import Linear, gelu
from toco_jax.ops.product import product
from toco_jax.runtime.compute import Compute


def fan_in_uniform(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
    """Draws from the uniform distribution on +-1/sqrt(fan_in), torch's default for convolutions."""
    bound = math.prod(shape[:-1]) ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


class Classifier(nn.Module):
    """Linear map without bias that computes both an image's logits and its CAM.

    Attributes:
        num_classes: C, the foreground classes.
    """

    num_classes: int

    @nn.compact
    def __call__(
        self, patch_tokens: Float[Array, "b n d"], valid: Bool[Array, "b n"] | None = None
    ) -> tuple[Float32[Array, "b c"], Float32[Array, "b n c"]]:
        """Computes logits and CAM.

        Args:
            patch_tokens: tokens of the encoder.
            valid: tokens over which the maximum is taken; all by default.

        Returns:
            The logits, which are the map of the maximum over tokens; and the CAM, which is the map
            of every token.
        """
        shape = (patch_tokens.shape[-1], self.num_classes)
        kernel = self.param("kernel", fan_in_uniform, shape)
        patch_tokens = patch_tokens.astype(jnp.float32)
        counted = patch_tokens
        if valid is not None:
            counted = jnp.where(valid[:, :, None], patch_tokens, -jnp.inf)
        return _max_over_tokens(counted) @ kernel, patch_tokens @ kernel


def _max_over_tokens(tokens: Float[Array, "b n d"]) -> Float[Array, "b d"]:
    """Maximum over the tokens, whose gradient goes to the first token that attains it.

    The derivative of `jnp.max` divides by the number of entries equal to the maximum. This is 0 if
    XLA computes the tokens twice and rounds them differently.
    """
    place = jax.lax.stop_gradient(tokens).argmax(axis=1, keepdims=True)  # [B, 1, D]
    chosen = jnp.arange(tokens.shape[1])[None, :, None] == place
    return jnp.sum(jnp.where(chosen, tokens, 0.0), axis=1)


class DilatedConv(nn.Module):
    """A 3x3 convolution without bias and with zeros beyond the border, as one product per tap.

    Each product covers only the cells whose neighbour lies on the map. With a dilation of 5, a
    padded convolution would spend two fifths of its work on zeros for a 14 x 14 map, and a fifth
    for 28 x 28.

    Attributes:
        features: output channels.
        dilation: distance of the taps, in cells.
        compute: how it is executed; the products are summed in float32.
    """

    features: int
    dilation: int
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h w features"]:
        """Convolves a map; the result has the dtype of tokens."""
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
            # Not `at[].add`, which on a GPU is a scatter with no fixed order of its sums.
            total = jax.lax.dynamic_update_slice(total, part, (0, top, left, 0))
        return total.astype(self.compute.tokens_dtype)


class LargeFOV(nn.Module):
    """Segmentation decoder (DeepLab-LargeFOV): two dilated 3x3 convolutions and a 1x1, no biases.

    Attributes:
        num_labels: L, the foreground classes and background.
        width: channels of the two hidden layers.
        dilation: distance of the taps of the 3x3 convolutions, in patches.
        compute: how it is executed; the logits are float32.
    """

    num_labels: int
    width: int = 512
    dilation: int = 5
    compute: Compute = Compute()

    @nn.compact
    def __call__(
        self, feature_map: Float[Array, "b h w d"], valid: Bool[Array, "b h w"] | None = None
    ) -> Float32[Array, "b h w l"]:
        """Computes the logits of each cell.

        Args:
            feature_map: the final patch tokens on their grid.
            valid: cells that belong to the image; the others are treated like those beyond the
                border. All by default.
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
            dtype=self.compute.tokens_dtype,
            name="conv8",
        )(x)
        return out.astype(jnp.float32)


def _l2_normalize(x: Array, axis: int) -> Array:
    """Divides `x` by its Euclidean norm, at least 1e-12; the gradient is finite at 0."""
    square = jnp.sum(x * x, axis=axis, keepdims=True)
    is_zero = square == 0
    norm = jnp.maximum(jnp.sqrt(jnp.where(is_zero, 1.0, square)), 1e-12)
    return x / norm * (~is_zero).astype(x.dtype)


class ProjectionHead(nn.Module):
    """Projects class tokens for the class token contrast (paper, section 3.4).

    The layers are linear, GELU, linear, GELU, linear, L2 normalisation, and a linear map without
    bias whose columns have norm 1. They are computed in float32 whatever the compute dtype.

    Attributes:
        compute: how it is executed.
        hidden: width of the two hidden layers.
        bottleneck: width before the last map.
        features: width of the result.
    """

    compute: Compute = Compute()
    hidden: int = 2048
    bottleneck: int = 256
    features: int = 1024

    @nn.compact
    def __call__(self, cls_token: Float[Array, "*b d"]) -> Float32[Array, "*b features"]:
        """Projects class tokens; every entry of the result lies in [-1, 1]."""
        init = nn.initializers.truncated_normal(0.02)
        x = cls_token.astype(jnp.float32)
        kind = (dataclasses.replace(self.compute, dtype="float32"), init)
        x = gelu(Linear(self.hidden, *kind, name="mlp_0")(x))
        x = gelu(Linear(self.hidden, *kind, name="mlp_2")(x))
        x = Linear(self.bottleneck, *kind, name="mlp_4")(x)
        x = _l2_normalize(x, axis=-1)
        direction = self.param("last_layer", init, (self.bottleneck, self.features))
        return product(x, _l2_normalize(direction, axis=0), unrolled=self.compute.unrolled)


def init_projection(width: int) -> dict:
    """Returns the parameters of a projection head of tokens of a width that has learnt nothing."""
    return ProjectionHead().init(jax.random.key(0), jnp.zeros((1, width)))["params"]


class AffinityHead(nn.Module):
    """Affinities of patches from their attention, as AFA makes them."""

    @nn.compact
    def __call__(self, log_attention: Float[Array, "b heads n n"]) -> Float32[Array, "b n n"]:
        """Computes affinities in [0, 1], which are symmetric, from maps over patches."""
        logits = log_attention.astype(jnp.float32)
        symmetric = logits + logits.swapaxes(2, 3)
        kernel = self.param("kernel", fan_in_uniform, (logits.shape[1], 1))
        bias = self.param("bias", nn.initializers.zeros, (1,))
        return jax.nn.sigmoid(jnp.einsum("bhij,ho->bij", symmetric, jnp.asarray(kernel)) + bias[0])
