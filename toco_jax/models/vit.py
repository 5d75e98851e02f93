"""Plain Vision Transformer that hands out the tokens and the attention of every block.

The encoder of ToCo (paper, section 3.1). Nothing that a caller leaves unused costs anything under
`jit`: the compiler drops it.
"""

import dataclasses
import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from toco_jax.models.layers import KEPT, Block, LayerNorm
from toco_jax.ops.resize import resize
from toco_jax.runtime.compute import Compute
from toco_jax.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class Backbone:
    """Sizes of an encoder: token width, number of blocks, attention heads, patch side in pixels."""

    width: int
    depth: int
    heads: int
    patch: int = 16
    norm_eps: float = 1e-6


BACKBONES = {
    "deit_tiny": Backbone(192, 12, 3),
    "deit_small": Backbone(384, 12, 6),
    "deit_base": Backbone(768, 12, 12),
    "vit_base": Backbone(768, 12, 12),
    "vit_large": Backbone(1024, 24, 16, norm_eps=1e-5),
}


def backbone_from_name(name: str) -> Backbone:
    """A named backbone, or one spelt out as `"width=96,depth=6,heads=3,patch=8"`.

    Raises `UserError` when the name is unknown, a size is missing or not a positive integer, or
    the heads do not divide the width.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    sizes = {}
    for part in name.split(","):
        key, _, value = part.partition("=")
        if key not in ("width", "depth", "heads", "patch") or not value.isdecimal():
            raise UserError(
                f"unknown backbone {name!r}: use one of {', '.join(BACKBONES)} or spell the sizes "
                "out as 'width=96,depth=6,heads=3,patch=8'"
            )
        sizes[key] = int(value)
    if len(sizes) != 4 or min(sizes.values()) < 1 or sizes["width"] % sizes["heads"]:
        raise UserError(
            f"backbone {name!r} needs width, depth, heads and patch, all at least 1, and a width "
            "that the heads divide"
        )
    if sizes["width"] % 4:
        raise UserError(f"backbone {name!r}: the width must be a multiple of 4")
    return Backbone(**sizes)


def sincos_positions(grid: int, width: int, scale: float = 0.2) -> np.ndarray:
    """Two-dimensional sine-cosine positions `[1, 1 + grid * grid, width]` float32, class token 0.

    The starting point of an encoder without pre-trained positions, which are never trained.
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
    """Where the images of a padded batch end, so that each is encoded as if it were alone.

    Attributes:
        valid: `[B, h, w]` booleans, the patches that belong to the image.
        rows: `[B, h, g]` float32, bicubic weights of the stored positions for the image's own rows;
            0 beyond them.
        columns: `[B, w, g]` float32, the same across.
    """

    valid: jax.Array
    rows: jax.Array
    columns: jax.Array


class ViT(nn.Module):
    """The encoder.

    Attributes:
        backbone: the sizes.
        grid: side of the stored positional grid, in patches (14 for weights trained at 224 pixels
            with patch 16); it is resized to the input's grid by bicubic interpolation.
        compute: how it is executed. Parameters and statistics are float32 in any case; with `remat`
            all blocks but the last return no attention.
    """

    backbone: Backbone
    grid: int = 14
    compute: Compute = Compute()

    def setup(self):
        spec = self.backbone
        token_init = nn.initializers.truncated_normal(0.02)
        self.patch_embed = nn.Conv(
            spec.width, (spec.patch,) * 2, (spec.patch,) * 2, "VALID", dtype=self.compute.jax_dtype
        )
        self.cls_token = self.param("cls_token", token_init, (1, 1, spec.width))
        self.pos_embed = self.param("pos_embed", self._init_positions)
        block = functools.partial(Block, spec.heads, spec.norm_eps, self.compute)
        self.blocks = [block() for _ in range(spec.depth)]
        self.norm = LayerNorm(spec.norm_eps, self.compute.jax_dtype)

    def _init_positions(self, _key: jax.Array) -> jax.Array:
        return jnp.asarray(sincos_positions(self.grid, self.backbone.width))

    def _positions(self, height: int, width: int, padding: Padding | None) -> jax.Array:
        """Positions `[1 or B, 1 + height * width, D]` for a grid of `height` x `width` patches."""
        cls_position, positions = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        dim = positions.shape[-1]
        positions = positions.reshape(1, self.grid, self.grid, dim)  # [1, g, g, D]
        if padding is None:
            positions = resize(positions, (height, width), "bicubic")
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

    def embed(self, images: jax.Array, padding: Padding | None = None) -> jax.Array:
        """Normalised images `[B, H, W, 3]` to the tokens before the first block `[B, 1 + N, D]`.

        Rows and columns beyond the last whole patch are dropped.
        """
        dtype = self.compute.jax_dtype
        patches = self.patch_embed(images.astype(dtype))
        batch, height, width, dim = patches.shape
        patches = patches.reshape(batch, height * width, dim)  # [B, N, D]
        cls_token = jnp.broadcast_to(self.cls_token, (batch, 1, dim)).astype(dtype)
        tokens = jnp.concatenate([cls_token, patches], axis=1)
        return tokens + self._positions(height, width, padding).astype(dtype)

    def _all_but_last(
        self,
        tokens: jax.Array,
        is_key: jax.Array | None,
        num_keys: int,
        wanted: tuple[int, ...],
    ) -> tuple[jax.Array, dict[int, dict]]:
        """Tokens before the last block, and `tokens` and `attention` after each of the `wanted`."""
        if self.compute.remat and not self.is_initializing():
            return self._scan_blocks(tokens, is_key, num_keys, wanted)
        outputs = {}
        for i, block in enumerate(self.blocks[:-1]):
            tokens, attention = block(tokens, is_key, num_keys=num_keys)
            if i in wanted:
                outputs[i] = {"tokens": tokens, "attention": attention}
        return tokens, outputs

    def _scan_blocks(
        self,
        tokens: jax.Array,
        is_key: jax.Array | None,
        num_keys: int,
        wanted: tuple[int, ...],
    ) -> tuple[jax.Array, dict[int, dict]]:
        """`_all_but_last` without the attention."""
        params = [block.variables["params"] for block in self.blocks[:-1]]
        if not params:
            return tokens, {}
        block = self.blocks[0].clone(parent=None)

        @functools.partial(
            jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names(KEPT)
        )
        def one_block(tokens: jax.Array, params: dict) -> jax.Array:
            return block.apply({"params": params}, tokens, is_key, num_keys=num_keys)[0]

        def step(carry: tuple, numbered: tuple) -> tuple[tuple, None]:
            tokens, kept = carry
            index, params = numbered
            tokens = one_block(tokens, params)
            # Stacked, the tokens of all blocks would be written and only some of them ever read.
            kept = {i: jnp.where(index == i, tokens, old) for i, old in kept.items()}
            return (tokens, kept), None

        stacked = jax.tree.map(lambda *x: jnp.stack(x), *params)
        numbered = (jnp.arange(len(params)), stacked)
        kept = {i: tokens for i in wanted if i < len(params)}
        (tokens, kept), _ = jax.lax.scan(step, (tokens, kept), numbered)
        return tokens, {i: {"tokens": x} for i, x in kept.items()}

    def __call__(
        self,
        images: jax.Array,
        padding: Padding | None = None,
        *,
        num_mapped: int | None = None,
        blocks: tuple[int, ...] | None = None,
    ) -> dict:
        """Encodes normalised images `[B, H, W, 3]` of any size of at least one patch.

        Args:
            images: the batch, with the images at the top left if it is padded.
            padding: where the images of a padded batch end; what comes out for the patches beyond
                means nothing.
            num_mapped: how many images, from the first on, have their patch tokens taken through
                the last block; of the others it computes the class token alone. All by default.
            blocks: numbers of the blocks whose outputs come back, all by default. Without
                `remat` those that nobody uses cost nothing.

        Returns:
            `cls_token [B, D]` and `patch_tokens [num_mapped, N, D]` after the final LayerNorm,
            patches in row-major order; and for each of `blocks`, `block_i` with its raw output
            `tokens [B, 1 + N, D]` and `attention [B, heads, 1 + N, 1 + N]`, of the last block for
            the mapped images only.
        """
        tokens = self.embed(images, padding)
        num_tokens = tokens.shape[1]
        is_key = None
        if padding is not None:
            valid = padding.valid.reshape(images.shape[0], -1)  # [B, N]
            is_key = jnp.pad(valid, ((0, 0), (1, 0)), constant_values=True)
        elif self.compute.attention == "cudnn" and num_tokens % 2:
            # JAX refuses the gradient of cuDNN's attention for odd numbers of tokens.
            tokens = jnp.pad(tokens, ((0, 0), (0, 1), (0, 0)))
        last = self.backbone.depth - 1
        wanted = tuple(range(last + 1)) if blocks is None else blocks
        tokens, outputs = self._all_but_last(tokens, is_key, num_tokens, wanted)
        # Slices, because a number of images may be symbolic: `[:None]` is all of them.
        some, others = slice(num_mapped), slice(num_mapped, None)
        cls_tokens, patch_tokens = [], None
        if num_mapped != 0:
            mapped_key = None if is_key is None else is_key[some]
            mapped, attention = self.blocks[-1](tokens[some], mapped_key, num_keys=num_tokens)
            if last in wanted:
                outputs[last] = {"tokens": mapped, "attention": attention}
            normed = self.norm(mapped)
            patch_tokens = normed[:, 1:num_tokens]
            cls_tokens.append(normed[:, 0])
        if num_mapped is not None and num_mapped < len(images):
            rest_key = None if is_key is None else is_key[others]
            rest, _ = self.blocks[-1](
                tokens[others], rest_key, num_keys=num_tokens, class_token_only=True
            )
            cls_tokens.append(self.norm(rest)[:, 0])
        out = {
            f"block_{i}": {name: x[..., :num_tokens, :] for name, x in output.items()}
            for i, output in outputs.items()
        }
        out["cls_token"] = cls_tokens[0] if len(cls_tokens) == 1 else jnp.concatenate(cls_tokens)
        return out if patch_tokens is None else out | {"patch_tokens": patch_tokens}
