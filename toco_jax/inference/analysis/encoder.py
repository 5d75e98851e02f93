"""`PhotoEncoder`: runs the encoder of a trained network on photos and measures its tokens."""

import dataclasses
import os

import jax
import numpy as np
from jax import Array

from toco_jax.data.picture_files import PhotoError
from toco_jax.inference.analysis.tokens import class_attention, mean_similarity
from toco_jax.inference.buckets import Buckets
from toco_jax.inference.native import make_padding, resize_map
from toco_jax.inference.segmenter import scaled_down
from toco_jax.models.network import normalize
from toco_jax.models.vit import Padding, ViT
from toco_jax.run import runs
from toco_jax.runtime.compute import compiler_options, platform_of
from toco_jax.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class Attention:
    """What the class token attends to in the last block, as the mean over heads.

    Attributes:
        patches: float32 `[h, w]`.
        leading: float32 `[1 + R]`, to the class token itself and to the registers; together with
            `patches` the sum is 1.
    """

    patches: np.ndarray
    leading: np.ndarray


class PhotoEncoder:
    """The encoder of a run, on one device.

    Attributes:
        checkpoint: the run, as it was named.
        step: the number of training steps taken.
        depth: the number of blocks.
        max_side: photos with a longer side are scaled down to it, as `Segmenter` does.

    Args:
        checkpoint: a run's folder, one checkpoint in it, or `hf:owner/name[@revision]`.
        max_side: in pixels; by default 500 for a network trained at 448, in proportion for others.

    Raises:
        CheckpointError: there is no run; `HubError`: the hub refuses it.
        UserError: `max_side` is out of range.
    """

    def __init__(self, checkpoint: str | os.PathLike, *, max_side: int | None = None):
        if max_side is not None and max_side < 1:
            raise UserError(f"max_side={max_side} must be at least 1")
        run = runs.load(checkpoint)
        model, device = run.model, jax.local_devices()[0]
        self.checkpoint, self.step = str(checkpoint), run.step
        self._backbone, self.depth = model.backbone, model.backbone.depth
        self._grid = model.grid
        self._buckets = Buckets(run.config.crop_size, model.backbone.patch, [1.0])
        self.max_side = max_side or self._buckets.longest
        encoder = ViT(model.backbone, model.grid, model.compute)
        self._params = jax.device_put(run.params["encoder"], device)
        depth, leading = model.backbone.depth, model.backbone.num_leading

        def encode(params: dict, image: Array, padding: Padding) -> dict:
            return encoder.apply({"params": params}, normalize(image), padding)

        def similarity(params: dict, image: Array, padding: Padding) -> list[Array]:
            out = encode(params, image, padding)
            tokens = [out[f"block_{i}"]["tokens"][0, leading:] for i in range(depth)]
            valid = padding.valid.reshape(-1)  # [N]
            return [mean_similarity(x, valid) for x in (*tokens, out["patch_tokens"][0])]

        def attention(params: dict, image: Array, padding: Padding) -> tuple[Array, Array]:
            out = encode(params, image, padding)
            return class_attention(out[f"block_{depth - 1}"]["attention"][0], num_leading=leading)

        options = compiler_options(platform_of(device))
        self._similarity = jax.jit(similarity, compiler_options=options)
        self._attention = jax.jit(attention, compiler_options=options)

    def similarity(self, image: np.ndarray) -> list[float]:
        """Mean cosine similarity of a photo's patch tokens.

        Args:
            image: uint8 `[H, W, 3]` of any size.

        Returns:
            One number for the raw output of each block, and last one for the tokens after the
            final LayerNorm, on which the patch token contrast acts.

        Raises:
            PhotoError: the photo has one patch only, and so no pair of patches.
            UserError: the network's tokens are not finite.
        """
        padded, padding, grid = self._prepare(image)
        if grid[0] * grid[1] < 2:
            raise PhotoError(
                f"one patch of {self._backbone.patch} pixels covers all of it at max_side="
                f"{self.max_side}, so that there is no pair of patches: use a larger photo or "
                "max_side"
            )
        found = jax.device_get(self._similarity(self._params, padded, padding))
        self._refuse_nan(found)
        return [float(x) for x in found]

    def attention(self, image: np.ndarray) -> Attention:
        """The class token's attention over a photo, uint8 `[H, W, 3]` of any size.

        Raises:
            UserError: the network's attention is not finite.
        """
        padded, padding, (rows, columns) = self._prepare(image)
        patches, leading = jax.device_get(self._attention(self._params, padded, padding))
        self._refuse_nan(patches)
        patches = patches.reshape(padding.valid.shape[1:])  # [h, w] of the padded photo
        return Attention(patches[:rows, :columns], leading)

    def _refuse_nan(self, found: np.ndarray | list[np.ndarray]) -> None:
        if not np.isfinite(found).all():
            raise UserError(
                f"{self.checkpoint} computes tokens that are not finite, so its training has "
                "diverged: use an earlier checkpoint"
            )

    def _prepare(self, image: np.ndarray) -> tuple[np.ndarray, Padding, tuple[int, int]]:
        """Returns a padded photo `[1, H, W, 3]`, its padding, and its rows and columns of patches.

        As `NativeNetwork` does at scale 1.
        """
        image = scaled_down(image, self.max_side)
        size, patch = image.shape[:2], self._backbone.patch
        grid = self._buckets.grid(size, 1.0)
        shape = self._buckets.shape(self._buckets.frame(size), 1.0)
        scaled = resize_map(image.astype(np.float32), self._buckets.scaled(size, 1.0))
        height, width = (n * patch for n in grid)
        padded = np.zeros((1, shape[0] * patch, shape[1] * patch, 3), np.float32)
        padded[0, :height, :width] = scaled[:height, :width]
        method = self._backbone.position_resize
        both = make_padding([grid], shape, grid=self._grid, method=method)
        return padded, Padding(*(x[:1] for x in both)), grid
