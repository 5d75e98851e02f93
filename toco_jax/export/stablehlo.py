"""The network as a function of JAX, serialised for every platform by `jax.export`."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import export as jax_export

from toco_jax.export.files import mask_dtype
from toco_jax.inference.native import SEG_SCALES
from toco_jax.method import cams
from toco_jax.models.network import ToCo, normalize
from toco_jax.ops.resize import resize

PLATFORMS = ("cpu", "cuda", "tpu")


def make_predictor(
    model: ToCo, params: dict, *, cam_scales: tuple[float, ...] | None = None
) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """Makes the function to export.

    Args:
        model: the network.
        params: its parameters, which become constants of the function.
        cam_scales: None for one pass at scale 1. Otherwise the CAM combines these scales and
            mirror images, and the segmentation scales 1, 1.25 and 1.5 and mirror images (paper,
            section 4.1).

    Returns:
        A function of uint8 images `[B, S, S, 3]`. It returns float32 arrays: `segmentation
        [B, S, S, C + 1]`, softmax probabilities; `cam [B, S, S, C]` in [0, 1]; and `class_scores
        [B, C]`, the sigmoid of the class logits; and `mask [B, S, S]`, each pixel's likeliest label
        as uint8 (int32 if there are more than 256).
    """

    def apply(images: jax.Array) -> dict[str, jax.Array]:
        return model.apply({"params": params}, images)

    def cam_fn(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        return model.apply({"params": params}, images, method="cams")

    def predict(images: jax.Array) -> dict[str, jax.Array]:
        size = images.shape[1:3]
        images = normalize(images)
        if cam_scales is None:
            out = apply(images)
            seg_logits, cls_logits = resize(out["seg_logits"], size), out["cls_logits"]
            cam = cams.normalize_cam(jax.nn.relu(resize(out["cam"], size)))
        else:
            seg_logits, cls_logits = _multi_scale_logits(apply, images)
            # The compiler merges these encoder passes with the equal ones above.
            cam, _ = cams.multi_scale_cams(cam_fn, images, scales=cam_scales)
        return {
            "segmentation": jax.nn.softmax(seg_logits, axis=-1),
            "cam": cam,
            "class_scores": jax.nn.sigmoid(cls_logits),
            "mask": seg_logits.argmax(axis=-1).astype(mask_dtype(seg_logits.shape[-1])),
        }

    return predict


def _multi_scale_logits(apply: Callable, images: jax.Array) -> tuple[jax.Array, Any]:
    """Returns segmentation logits `[B, H, W, C + 1]` and class logits `[B, C]` of images.

    The segmentation logits of an image and of its mirror image are summed at each scale; the result
    is the maximum over scales. The class logits are those of the images at scale 1.

    Args:
        apply: images to the network's outputs.
        images: normalised, `[B, H, W, 3]`.
    """
    size = images.shape[1:3]
    seg_logits, cls_logits = [], None
    for scale in SEG_SCALES:
        scaled = resize(images, (int(scale * size[0]), int(scale * size[1])))
        out = apply(jnp.concatenate([scaled, jnp.flip(scaled, axis=2)]))
        straight, mirrored = jnp.split(out["seg_logits"], 2)
        seg_logits.append(resize(straight + jnp.flip(mirrored, axis=2), size))
        if scale == 1:
            cls_logits, _ = jnp.split(out["cls_logits"], 2)
    return functools.reduce(jnp.maximum, seg_logits), cls_logits


def serialize(predict: Callable, *, size: tuple[int, int]) -> bytes:
    """Serialises `predict` by `jax.export` for uint8 images `[b, *size, 3]` of any b."""
    (batch,) = jax_export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, *size, 3), jnp.uint8)
    exported = jax_export.export(jax.jit(predict), platforms=PLATFORMS)(images)
    return bytes(exported.serialize())
