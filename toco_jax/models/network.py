"""The ToCo network: one encoder, two classifiers, a decoder and a projection head."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32, UInt8

from toco_jax.models.backbones import Backbone
from toco_jax.models.heads import AffinityHead, Classifier, LargeFOV, ProjectionHead
from toco_jax.models.layers import Linear
from toco_jax.models.vit import Padding, ViT
from toco_jax.ops.parts import largest_divisor, map_parts
from toco_jax.runtime.compute import Compute

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)

# Patches that `frozen_cams` encodes at once where attention goes in parts. With more, whose hidden
# layers fit no cache, a CPU's matrix products are a fifth slower.
PATCHES_AT_ONCE = 4096


def normalize(images: UInt8[Array, "*b 3"]) -> Float32[Array, "*b 3"]:
    """Normalises the colours of RGB images by ImageNet's mean and standard deviation."""
    images = images.astype(jnp.float32) / 255.0
    mean, std = (jnp.reshape(jnp.asarray(v), (1,) * (images.ndim - 1) + (3,))
                 for v in (IMAGE_MEAN, IMAGE_STD))  # fmt: skip
    return (images - mean) / std


class ToCo(nn.Module):
    """The network of the poster's figure (paper, section 3).

    Attributes:
        backbone: sizes of the encoder.
        num_classes: C, the foreground classes.
        aux_layer: the intermediate layer: block whose raw output is the input of the auxiliary
            classifier. Negative numbers count from the end (-3 is the 10th of 12).
        grid: side of the grid of stored positions, in patches.
        decoder_width: hidden channels of the decoder.
        decoder_dilation: dilation of the decoder's 3x3 convolutions.
        propagate_cams: spreads CAMs by the encoder's own attention, see `propagated`.
        affinity_head: has a head that makes affinities of patches from attention, as AFA does.
        image_head: has a classifier of whole images, on an encoder of its own that is not trained.
            Its scores are those of the image, and weigh the classes that the decoder finds.
        compute: how it is executed; without `remat` where attention is used.
    """

    backbone: Backbone
    num_classes: int
    aux_layer: int = -3
    grid: int = 14
    decoder_width: int = 512
    decoder_dilation: int = 5
    propagate_cams: bool = False
    affinity_head: bool = False
    image_head: bool = False
    compute: Compute = Compute()

    def setup(self):
        self.encoder = ViT(self.backbone, self.grid, self.compute)
        self.classifier = Classifier(self.num_classes)
        self.aux_classifier = Classifier(self.num_classes)
        self.decoder = LargeFOV(
            self.num_classes + 1, self.decoder_width, self.decoder_dilation, self.compute
        )
        self.proj_head = ProjectionHead(compute=self.compute)
        if self.affinity_head:
            self.aff_head = AffinityHead()
        if self.image_head:
            float32 = dataclasses.replace(self.compute, dtype="float32")
            self.img_encoder = ViT(self.backbone, self.grid, self.compute)
            self.img_head = Linear(self.num_classes, float32)

    def encode(
        self,
        images: Float[Array, "b h w 3"],
        padding: Padding | None = None,
        *,
        num_mapped: int | None = None,
    ) -> dict[str, Array]:
        """Encodes normalised images.

        Args:
            images: the batch.
            padding: where the images of a padded batch end.
            num_mapped: for how many images, from the first on, patch tokens are computed; all by
                default.

        Returns:
            `cls_token [B, D]`; and unless `num_mapped` is 0, `patch_tokens [num_mapped, N, D]` and
            `aux_patch_tokens [num_mapped, N, D]`, those of the intermediate layer, which do not go
            through the final LayerNorm. If CAMs are propagated also `affinity [num_mapped, N, N]`;
            with the affinity head also `log_attention [num_mapped, 2 heads, N, N]`, the logarithm
            of N times the attention of patches to one another in the last two blocks.
        """
        all_blocks = range(self.backbone.depth)
        aux_block = all_blocks[self.aux_layer]
        blocks = () if num_mapped == 0 else (aux_block,)
        if blocks and (self.propagate_cams or self.affinity_head):
            blocks = tuple(all_blocks)
        out = self.encoder(images, padding, num_mapped=num_mapped, blocks=blocks)
        if num_mapped == 0:
            return {"cls_token": out["cls_token"]}
        leading = self.backbone.num_leading
        tokens = {
            "cls_token": out["cls_token"],
            "patch_tokens": out["patch_tokens"],
            "aux_patch_tokens": out[f"block_{aux_block}"]["tokens"][:num_mapped, leading:],
        }
        if self.propagate_cams or self.affinity_head:
            attentions = [out[f"block_{i}"]["attention"][:num_mapped] for i in blocks]
        if self.propagate_cams:
            tokens["affinity"] = affinity_of(attentions, leading)
        if self.affinity_head:
            last = [x[:, :, leading:, leading:] for x in attentions[-2:]]
            share = jnp.concatenate(last, axis=1) * last[0].shape[-1]  # 1 if all are alike
            tokens["log_attention"] = jnp.log(jnp.maximum(share, 1e-20))
        return tokens

    def classify(
        self, tokens: dict[str, Array], grid: tuple[int, int], padding: Padding | None = None
    ) -> dict[str, Array]:
        """Classifies images, and computes their CAMs, from final and from intermediate tokens.

        Args:
            tokens: the arrays of `encode`.
            grid: rows h and columns w of the patches.
            padding: where the images of a padded batch end.

        Returns:
            `cls_logits` and `aux_cls_logits [B, C]`; `cam` and `aux_cam [B, h, w, C]`, which are
            not normalised.
        """
        batch = tokens["patch_tokens"].shape[0]
        valid = None if padding is None else padding.valid.reshape(batch, -1)  # [B, N]
        cls_logits, cam = self.classifier(tokens["patch_tokens"], valid)
        aux_cls_logits, aux_cam = self.aux_classifier(tokens["aux_patch_tokens"], valid)
        if self.propagate_cams:
            cam, aux_cam = (propagated(x, tokens["affinity"]) for x in (cam, aux_cam))
        map_shape = (cam.shape[0], *grid, self.num_classes)
        return {
            "cls_logits": cls_logits,
            "aux_cls_logits": aux_cls_logits,
            "cam": cam.reshape(map_shape),  # [B, h, w, C]
            "aux_cam": aux_cam.reshape(map_shape),  # [B, h, w, C]
        }

    def decode(
        self, tokens: dict[str, Array], grid: tuple[int, int], padding: Padding | None = None
    ) -> Float32[Array, "b h w l"]:
        """Computes the decoder's `seg_logits [B, h, w, C + 1]`; arguments as in `classify`."""
        patch_tokens = tokens["patch_tokens"]
        batch, _, dim = patch_tokens.shape
        feature_map = patch_tokens.reshape(batch, *grid, dim)  # [B, h, w, D]
        return self.decoder(feature_map, None if padding is None else padding.valid)

    def token_grid(self, images: Array) -> tuple[int, int]:
        """Rows and columns of whole patches in `images [B, H, W, 3]` of any dtype."""
        return images.shape[1] // self.backbone.patch, images.shape[2] // self.backbone.patch

    def cams(
        self, images: Float[Array, "b _ _ 3"]
    ) -> tuple[Float32[Array, "b h w c"], Float32[Array, "b h w c"]]:
        """Computes `cam` and `aux_cam` of normalised images, without decoder and projection."""
        out = self.classify(self.encode(images), self.token_grid(images))
        return out["cam"], out["aux_cam"]

    def relate(self, log_attention: Float[Array, "b heads n n"]) -> Float32[Array, "b n n"]:
        """Computes affinities of patches in [0, 1] from the `log_attention` of `encode`."""
        return self.aff_head(log_attention)

    def classify_image(
        self, images: Float[Array, "b h w 3"], padding: Padding | None = None
    ) -> Float32[Array, "b c"]:
        """Computes the image head's logits of normalised images; only the head has a gradient."""
        token = self.img_encoder(images, padding, num_mapped=0, blocks=())["cls_token"]
        return self.img_head(jax.lax.stop_gradient(token).astype(jnp.float32))

    def project(self, cls_token: Float[Array, "*b d"]) -> Float32[Array, "*b 1024"]:
        """Projects class tokens by the student's head."""
        return self.proj_head(cls_token)

    def __call__(
        self, images: Float[Array, "b h w 3"], padding: Padding | None = None
    ) -> dict[str, Array]:
        """Computes tokens, logits, and maps with one cell per patch, of normalised images.

        Args:
            images: the batch; if it is padded, below and to the right of each image.
            padding: where the images of a padded batch end; the maps beyond have no meaning.

        Returns:
            `cls_token`, `patch_tokens`, `aux_patch_tokens`, `cls_logits`, `aux_cls_logits`,
            `seg_logits`, `cam`, `aux_cam`; shapes as in `encode`, `classify` and `decode`. With the
            image head, `cls_logits` are its own, and `seg_logits` those of `weighed`.
        """
        grid = self.token_grid(images)
        tokens = self.encode(images, padding)
        if self.is_initializing():
            self.proj_head(tokens["cls_token"])
            if self.affinity_head:
                self.aff_head(tokens["log_attention"])
        out = self.classify(tokens, grid, padding)
        out |= {"seg_logits": self.decode(tokens, grid, padding)}
        if self.image_head:
            logits = self.classify_image(images, padding)
            out |= {"cls_logits": logits, "seg_logits": weighed(out["seg_logits"], logits)}
        return tokens | out


def weighed(
    seg_logits: Float32[Array, "b h w l"], cls_logits: Float32[Array, "b c"]
) -> Float32[Array, "b h w l"]:
    """Multiplies the odds of each class, to background, by its probability in the whole image.

    Args:
        seg_logits: one channel per label, background first.
        cls_logits: of the image's classes.
    """
    prior = jnp.pad(jax.nn.log_sigmoid(cls_logits), ((0, 0), (1, 0)))
    return seg_logits + prior[:, None, None, :]


def affinity_of(
    attentions: Sequence[Float[Array, "b heads m k"]], num_leading: int
) -> Float32[Array, "b n n"]:
    """Affinity of patches: their attention to one another, averaged over heads, summed over blocks.

    Without gradient. Rows do not sum to 1, because patches attend to leading tokens as well.

    Args:
        attentions: the attention map of each block.
        num_leading: the number of tokens before the patches.
    """
    patches = [jnp.mean(x[:, :, num_leading:, num_leading:], axis=1) for x in attentions]
    return jax.lax.stop_gradient(sum(patches[1:], patches[0]).astype(jnp.float32))


def propagated(
    cam: Float32[Array, "b n c"], affinity: Float32[Array, "b n n"]
) -> Float32[Array, "b n c"]:
    """Spreads the positive part of a CAM to patches that attend to it: `affinity @ relu(cam)`.

    Xu et al., Multi-class token transformer for weakly supervised semantic segmentation
    (MCTformer, CVPR 2022), where the map is one of class-specific attention.
    """
    return jnp.einsum("bij,bjc->bic", affinity, jax.nn.relu(cam))


def call(model: ToCo, params: dict, method: str, *args: Any, **kwargs: Any) -> Any:
    """Calls a method of the network, by its name, with parameters."""
    return model.apply({"params": params}, *args, method=method, **kwargs)


def frozen_cams(model: ToCo, params: dict) -> Callable:
    """Makes the function from normalised images to `ToCo.cams`, without gradient.

    If attention goes in parts, so do large batches, whose hidden layers would fit no cache.
    """
    one_batch = functools.partial(call, model, jax.lax.stop_gradient(params), "cams")

    def cam_fn(images: Array) -> tuple[Array, Array]:
        rows, columns = model.token_grid(images)
        num = largest_divisor(len(images), PATCHES_AT_ONCE // (rows * columns))
        if model.compute.in_parts and num < len(images):
            return map_parts(one_batch, images, num)
        return one_batch(images)

    return cam_fn
