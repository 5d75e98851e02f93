"""`PhotoEncoder`: runs the encoder of a trained network on photos and measures its tokens."""

import dataclasses
import functools
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from toco_jax.config import defaults, resolve, with_values
from toco_jax.data.picture_files import PhotoError
from toco_jax.inference.analysis.tokens import class_attention, mean_similarity
from toco_jax.inference.buckets import Buckets
from toco_jax.inference.native import make_padding, resize_map
from toco_jax.inference.segmenter import scaled_down
from toco_jax.models.backbones import BACKBONES
from toco_jax.models.network import ToCo, normalize
from toco_jax.models.vit import Padding, ViT
from toco_jax.run import runs
from toco_jax.run.network import make_model
from toco_jax.runtime.compute import compiler_options, platform_of
from toco_jax.runtime.errors import UserError
from toco_jax.weights import checks, load

CROPS = 3  # local crops in a row and in a column, where a photo is large enough


@dataclasses.dataclass(frozen=True)
class Attention:
    """What the class token attends to in the last block, as the mean over heads.

    Attributes:
        patches: float32 `[h, w]`.
        leading: float32 `[1 + R]`, to the class token itself and to the registers; together with
            `patches` the sum is 1.
        cls_token: the class token after the final LayerNorm, float32 `[D]`.
    """

    patches: np.ndarray
    leading: np.ndarray
    cls_token: np.ndarray


@dataclasses.dataclass(frozen=True)
class Crop:
    """A local crop of a photo, encoded by itself as the class token contrast does.

    Attributes:
        box: `(y0, y1, x0, x1)` in the pixels of the scaled photo, half-open.
        pixels: uint8 `[s, s, 3]`.
        attention: what its class token attends to.
        similarity: cosine similarity of its class token to that of the photo.
    """

    box: tuple[int, int, int, int]
    pixels: np.ndarray
    attention: Attention
    similarity: float


class PhotoEncoder:
    """The encoder of a run, on one device.

    Attributes:
        checkpoint: the run, as it was named.
        step: the number of training steps taken.
        depth: the number of blocks.
        max_side: photos with a longer side are scaled down to it, as `Segmenter` does.

    Args:
        checkpoint: a run's folder, one checkpoint in it, or `hf:owner/name[@revision]`; the name of
            a backbone, for its published weights; or with `backbone` a file of weights.
        backbone: which backbone a file of weights is of; none for a run.
        max_side: in pixels; by default 500 for a network trained at 448, in proportion for others.

    Raises:
        CheckpointError: there is no run; `HubError`: the hub refuses it.
        WeightsError: the weights cannot be read, or are of another backbone.
        UserError: `max_side` is out of range, or a file has no `backbone`.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike,
        *,
        backbone: str | None = None,
        max_side: int | None = None,
    ):
        if max_side is not None and max_side < 1:
            raise UserError(f"max_side={max_side} must be at least 1")
        model, config, params, self.step = _loaded(str(checkpoint), backbone)
        self.checkpoint, device = str(checkpoint), jax.local_devices()[0]
        self._backbone, self.depth = model.backbone, model.backbone.depth
        self._grid = model.grid
        self._buckets = Buckets(config.crop_size, model.backbone.patch, [1.0])
        self._crop_size = config.local_crop_size
        self.max_side = max_side or self._buckets.longest
        encoder = ViT(model.backbone, model.grid, model.compute)
        self._params = jax.device_put(params, device)
        depth, leading = model.backbone.depth, model.backbone.num_leading

        def encode(params: dict, image: Array, padding: Padding | None) -> dict:
            return encoder.apply({"params": params}, normalize(image), padding)

        def similarity(params: dict, image: Array, padding: Padding) -> list[Array]:
            out = encode(params, image, padding)
            tokens = [out[f"block_{i}"]["tokens"][0, leading:] for i in range(depth)]
            valid = padding.valid.reshape(-1)  # [N]
            return [mean_similarity(x, valid) for x in (*tokens, out["patch_tokens"][0])]

        def attention(params: dict, images: Array, padding: Padding | None) -> tuple[Array, ...]:
            out = encode(params, images, padding)
            maps = out[f"block_{depth - 1}"]["attention"]
            attend = functools.partial(class_attention, num_leading=leading)
            return *jax.vmap(attend)(maps), out["cls_token"].astype(jnp.float32)

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
        found = jax.device_get(self._attention(self._params, padded, padding))
        patches, leading, cls_token = (x[0] for x in found)
        self._refuse_nan(patches)
        patches = patches.reshape(padding.valid.shape[1:])  # [h, w] of the padded photo
        return Attention(patches[:rows, :columns], leading, cls_token)

    def crops(self, image: np.ndarray, whole: Attention) -> list[Crop]:
        """Encodes local crops of a photo, of training's size, evenly spread over it.

        Args:
            image: uint8 `[H, W, 3]` of any size.
            whole: what `attention` returned for it.

        Returns:
            `CROPS` rows and columns of crops, row by row, or fewer of a small photo.
        """
        padded, _, (rows, columns) = self._prepare(image)
        patch = self._backbone.patch
        photo = padded[0, : rows * patch, : columns * patch]
        most = min(rows, columns, max(self._crop_size // patch, 1))
        side = most * patch
        starts = [
            np.unique(np.linspace(0, length * patch - side, CROPS).round().astype(int))
            for length in (rows, columns)
        ]
        places = [(int(y), int(x)) for y in starts[0] for x in starts[1]]
        cut = np.stack([photo[y : y + side, x : x + side] for y, x in places])
        found = jax.device_get(self._attention(self._params, cut, None))
        self._refuse_nan(found[0])
        crops = []
        for (y, x), pixels, patches, leading, token in zip(places, cut, *found, strict=True):
            attention = Attention(patches.reshape(most, most), leading, token)
            lengths = np.linalg.norm(token) * np.linalg.norm(whole.cls_token)
            similarity = float(token @ whole.cls_token / max(lengths, 1e-12))
            uint8 = np.clip(pixels.round(), 0, 255).astype(np.uint8)
            crops.append(Crop((y, y + side, x, x + side), uint8, attention, similarity))
        return crops

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


def _loaded(checkpoint: str, backbone: str | None) -> tuple[ToCo, ConfigDict, dict, int]:
    """Returns network, configuration, encoder's parameters and step of a run or of weights."""
    path = pathlib.Path(checkpoint)
    if backbone is None and path.is_file():
        raise UserError(
            f"{checkpoint} is a file of weights: say which backbone it is of, as in "
            "--backbone=deit_small, or give a run"
        )
    if backbone is None and (path.exists() or checkpoint not in BACKBONES):
        run = runs.load(checkpoint)
        return run.model, run.config, run.params["encoder"], run.step
    name = backbone or checkpoint
    checks.check_name(checkpoint, name)
    weights = load.load(checkpoint, backbone=name, num_classes=1)
    config = resolve(with_values(defaults(), backbone=name, num_classes=1))
    return make_model(config, grid=weights["grid"]), config, weights["params"]["encoder"], 0
