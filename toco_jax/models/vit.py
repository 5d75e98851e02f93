"""The encoder of ToCo (paper, section 3.1): a plain Vision Transformer.

It returns the tokens and the attention of every block. Under `jit` the compiler drops those that
the caller does not use.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Float32

from toco_jax.models.backbones import Backbone
from toco_jax.models.layers import KEPT, Block, LayerNorm
from toco_jax.models.rotary import Rotary, rotary
from toco_jax.ops.resize import resize
from toco_jax.runtime.compute import Compute


def sincos_positions(
    grid: int, width: int, scale: float = 0.2
) -> Float32[np.ndarray, "1 1+{grid}*{grid} {width}"]:
    """Two-dimensional sine-cosine positions of a square grid; that of the class token is 0.

    They are the initial values of an encoder without pre-trained weights.
    """
    frequency = 1e4 ** -(np.arange(width // 4) / (width // 4))
    angle = np.arange(grid)[:, None] * frequency  # [grid, width / 4]
    one_axis = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)  # [grid, width / 2]
    rows = np.repeat(one_axis, grid, axis=0)
    columns = np.tile(one_axis, (grid, 1))
    positions = np.concatenate([rows, columns], axis=1)  # [grid * grid, width]
    positions = np.concatenate([np.zeros((1, width)), positions])
    return (scale * positions[None]).astype(np.float32)


class Padding(NamedTuple):
    """Where the images of a padded batch end, so that each is encoded as if it were not padded.

    Attributes:
        valid: the patches that belong to the image.
        rows: weights of the bicubic interpolation of the stored positions to the image's rows of
            patches; 0 beyond them.
        columns: the same for the columns.
    """

    valid: Bool[Array | np.ndarray, "b h w"]
    rows: Float32[Array | np.ndarray, "b h g"]
    columns: Float32[Array | np.ndarray, "b w g"]


class ViT(nn.Module):
    """The encoder.

    Attributes:
        backbone: the sizes.
        grid: side of the grid of stored positions, in patches (14 for weights trained at 224 pixels
            with patch 16); the positions are resized to the input's grid by bicubic interpolation,
            see `Backbone.position_resize`. Rotary positions have none.
        compute: how it is executed. Parameters and statistics are always float32. With `remat` only
            the last block returns its attention.
    """

    backbone: Backbone
    grid: int = 14
    compute: Compute = Compute()

    def setup(self):
        spec = self.backbone
        token_init = nn.initializers.truncated_normal(0.02)
        self.patch_embed = nn.Conv(
            spec.width,
            (spec.patch,) * 2,
            (spec.patch,) * 2,
            "VALID",
            dtype=self.compute.tokens_dtype,
        )
        self.cls_token = self.param("cls_token", token_init, (1, 1, spec.width))
        if not spec.rotary:
            self.pos_embed = self.param("pos_embed", self._init_positions)
        if spec.registers:
            shape = (1, spec.registers, spec.width)
            self.register_tokens = self.param("register_tokens", token_init, shape)
        self.blocks = [Block(spec, self.compute) for _ in range(spec.depth)]
        self.norm = LayerNorm(spec.norm_eps, self.compute.tokens_dtype)

    def _init_positions(self, _key: Array) -> Array:
        return jnp.asarray(sincos_positions(self.grid, self.backbone.width))

    def _positions(
        self, height: int, width: int, padding: Padding | None
    ) -> Float[Array, "_ 1+{height}*{width} d"]:
        """Positions of the class token and of the patches; the same for all images if unpadded."""
        stored = jnp.asarray(self.pos_embed)
        cls_position, positions = stored[:, :1], stored[:, 1:]
        dim = positions.shape[-1]
        positions = positions.reshape(1, self.grid, self.grid, dim)  # [1, g, g, D]
        if padding is None:
            positions = resize(positions, (height, width), self.backbone.position_resize)
        else:
            positions = jnp.einsum(
                "bhg,gkd,bwk->bhwd",
                padding.rows,
                positions[0],
                padding.columns,
                precision=jax.lax.Precision.HIGHEST,
            )
        batch = positions.shape[0]
        positions = positions.reshape(batch, height * width, dim)  # [1 or B, h * w, D]
        cls_position = jnp.broadcast_to(cls_position, (batch, 1, dim))
        return jnp.concatenate([cls_position, positions], axis=1)

    def embed(
        self, images: Float[Array, "b h w 3"], padding: Padding | None = None
    ) -> Float[Array, "b n d"]:
        """Computes the tokens before the first block: class token, registers, patches.

        Rows and columns of pixels beyond the last whole patch are dropped.
        """
        dtype = self.compute.tokens_dtype
        patches = self.patch_embed(images.astype(dtype))
        batch, height, width, dim = patches.shape
        patches = patches.reshape(batch, height * width, dim)  # [B, N, D]
        cls_token = jnp.broadcast_to(self.cls_token, (batch, 1, dim)).astype(dtype)
        tokens = jnp.concatenate([cls_token, patches], axis=1)
        if not self.backbone.rotary:
            tokens = tokens + self._positions(height, width, padding).astype(dtype)
        if not self.backbone.registers:
            return tokens
        registers = jnp.broadcast_to(self.register_tokens, (batch, self.backbone.registers, dim))
        return jnp.concatenate([tokens[:, :1], registers.astype(dtype), tokens[:, 1:]], axis=1)

    def _rotary(self, shape: tuple[int, ...], num_tokens: int, padding: Padding | None) -> Rotary:
        """Rotations of `num_tokens` tokens of images `[B, H, W, 3]`."""
        spec = self.backbone
        return rotary(
            (shape[1] // spec.patch, shape[2] // spec.patch),
            spec.width // spec.heads,
            valid=None if padding is None else padding.valid,
            num_leading=spec.num_leading,
            num_tokens=num_tokens,
        )

    def _all_but_last(
        self, tokens: Array, wanted: tuple[int, ...], **attended: Any
    ) -> tuple[Array, dict[int, dict]]:
        """Runs all blocks but the last.

        Args:
            tokens: the tokens before the first block.
            wanted: numbers of the blocks whose outputs are returned.
            **attended: arguments of `Attention`.

        Returns:
            The tokens before the last block, and `tokens` and `attention` of each wanted block.
        """
        if self.compute.remat and not self.is_initializing():
            return self._scan_blocks(tokens, wanted, **attended)
        outputs = {}
        for i, block in enumerate(self.blocks[:-1]):
            tokens, attention = block(tokens, **attended)
            if i in wanted:
                outputs[i] = {"tokens": tokens, "attention": attention}
        return tokens, outputs

    def _scan_blocks(
        self, tokens: Array, wanted: tuple[int, ...], **attended: Any
    ) -> tuple[Array, dict[int, dict]]:
        """`_all_but_last` as one loop that saves memory and returns no attention."""
        params = [block.variables["params"] for block in self.blocks[:-1]]
        if not params:
            return tokens, {}
        block = self.blocks[0].clone(parent=None)

        @functools.partial(
            jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names(KEPT)
        )
        def one_block(tokens: Array, params: dict) -> Array:
            return block.apply({"params": params}, tokens, **attended)[0]

        def step(carry: tuple, numbered: tuple) -> tuple[tuple, None]:
            tokens, kept = carry
            index, params = numbered
            tokens = one_block(tokens, params)
            # Not the loop's stacked outputs, which would hold the tokens of all blocks.
            kept = {i: jnp.where(index == i, tokens, old) for i, old in kept.items()}
            return (tokens, kept), None

        stacked = jax.tree.map(lambda *x: jnp.stack(x), *params)
        numbered = (jnp.arange(len(params)), stacked)
        kept = {i: tokens for i in wanted if i < len(params)}
        (tokens, kept), _ = jax.lax.scan(step, (tokens, kept), numbered)
        return tokens, {i: {"tokens": x} for i, x in kept.items()}

    def __call__(
        self,
        images: Float[Array, "b h w 3"],
        padding: Padding | None = None,
        *,
        num_mapped: int | None = None,
        blocks: tuple[int, ...] | None = None,
    ) -> dict[str, Any]:
        """Encodes normalised images of any size of at least one patch.

        Args:
            images: the batch; if it is padded, below and to the right of each image.
            padding: where the images of a padded batch end. The results for the patches beyond
                have no meaning.
            num_mapped: for how many images, from the first on, the last block computes all tokens;
                for the others it computes the class token only. All by default.
            blocks: numbers of the blocks whose outputs are returned, all by default. Without
                `remat`, outputs that are not used cost nothing.

        Returns:
            `cls_token [B, D]` and `patch_tokens [num_mapped, N, D]` after the final LayerNorm, with
            patches in row-major order. For each of `blocks`, `block_i`: a dictionary of its raw
            output, `tokens [B, M, D]` and `attention [B, heads, M, M]`, which for the last block
            has the mapped images only. The M = 1 + R + N tokens are class, registers and patches.
        """
        tokens = self.embed(images, padding)
        num_tokens, num_leading = tokens.shape[1], self.backbone.num_leading
        is_key = None
        if padding is not None:
            valid = padding.valid.reshape(images.shape[0], -1)  # [B, N]
            is_key = jnp.pad(valid, ((0, 0), (num_leading, 0)), constant_values=True)
        elif self.compute.attention == "cudnn" and num_tokens % 2:
            # JAX refuses the gradient of cuDNN's attention for odd numbers of tokens.
            tokens = jnp.pad(tokens, ((0, 0), (0, 1), (0, 0)))
        attended: dict[str, Any] = {"is_key": is_key}
        if self.backbone.rotary:
            attended["rotary"] = self._rotary(images.shape, tokens.shape[1], padding)
        last = self.backbone.depth - 1
        wanted = tuple(range(last + 1)) if blocks is None else blocks
        tokens, outputs = self._all_but_last(tokens, wanted, num_keys=num_tokens, **attended)
        # Slices, because the number of images may be symbolic; `[:None]` is all of them.
        some, others = slice(num_mapped), slice(num_mapped, None)
        cls_tokens, patch_tokens = [], None
        if num_mapped != 0:
            mapped, attention = self.blocks[-1](
                tokens[some], num_keys=num_tokens, **_of_images(attended, some, padding)
            )
            if last in wanted:
                outputs[last] = {"tokens": mapped, "attention": attention}
            normed = self.norm(mapped)
            patch_tokens = normed[:, num_leading:num_tokens]
            cls_tokens.append(normed[:, 0])
        if num_mapped is not None and num_mapped < len(images):
            rest, _ = self.blocks[-1](
                tokens[others],
                num_keys=num_tokens,
                class_token_only=True,
                **_of_images(attended, others, padding),
            )
            cls_tokens.append(self.norm(rest)[:, 0])
        out: dict[str, Any] = {
            f"block_{i}": {name: x[..., :num_tokens, :] for name, x in output.items()}
            for i, output in outputs.items()
        }
        out["cls_token"] = cls_tokens[0] if len(cls_tokens) == 1 else jnp.concatenate(cls_tokens)
        return out if patch_tokens is None else out | {"patch_tokens": patch_tokens}


def _of_images(attended: dict, some: slice, padding: Padding | None) -> dict:
    """Picks the entries of some images, where they differ by image: if the batch is padded."""
    return attended if padding is None else jax.tree.map(lambda x: x[some], attended)


def stored_grid(encoder: Mapping) -> int:
    """Returns the side of the grid of positions in an encoder's parameters; 0 if it has none."""
    positions = encoder.get("pos_embed")
    return 0 if positions is None else math.isqrt(positions.shape[1] - 1)
