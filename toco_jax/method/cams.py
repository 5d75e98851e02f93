"""Class activation maps (CAMs), and the labels, regions and patch affinities made from them.

These are the boxes "CAM", "region" and "pairwise label" of the poster (paper, sections 3.2 to 3.4).
Nothing here carries a gradient. A box is `[y0, y1, x0, x1]` in the pixels of the map it belongs to.
Labels are int32: 0 is background, classes count from 1, and 255 is ignored.

In shapes, `c` is the number of all foreground classes and `k` the number of those kept per image.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Float32, Int, Int32

from toco_jax.ops.resize import resize

IGNORE_INDEX = 255

CamFn = Callable[[Array], tuple[Array, Array]]
# JAX's or numpy's arrays: a function of `AnyArray` returns the kind that it is given.
AnyArray = TypeVar("AnyArray", Array, np.ndarray)


def multi_scale_cams(
    cam_fn: CamFn,
    images: Float[Array, "b h w 3"],
    *,
    scales: tuple[float, ...],
    unscaled: tuple[Array, Array] | None = None,
    class_ids: Int32[Array, "b k"] | None = None,
) -> tuple[Float32[Array, "b h w _"], Float32[Array, "b h w _"]]:
    """Sums CAMs over several image sizes and normalises the sum.

    The CAM at each size is the maximum over the image and its mirror image.

    Args:
        cam_fn: maps normalised images `[B, h, w, 3]` to `cam` and `aux_cam`, both `[B, h', w', C]`
            and not normalised.
        images: normalised images.
        scales: factors of the image size; the resulting sizes are rounded down.
        unscaled: the value of `cam_fn(images)` if it is already known, which saves that pass at
            scale 1.
        class_ids: which classes to return for each image, see `of_classes`; all by default.

    Returns:
        `cam` and `aux_cam [B, H, W, C]`, or `[B, H, W, K]` with `class_ids`. The values of each
        image and class lie in [0, 1].
    """

    def full(cam: Array) -> Array:
        wanted = cam if class_ids is None else of_classes(cam, class_ids)
        return resize(wanted.astype(jnp.float32), size)

    size = images.shape[1:3]
    totals: list = [0.0, 0.0]
    for scale in scales:
        scaled = resize(images, (int(scale * size[0]), int(scale * size[1])))
        mirrored = jnp.flip(scaled, axis=2)
        if scale == 1 and unscaled is not None:
            straight, flipped = unscaled, cam_fn(mirrored)
        else:
            pair = cam_fn(jnp.concatenate([scaled, mirrored]))
            straight, flipped = zip(*(jnp.split(cam, 2) for cam in pair), strict=True)
        for i, (cam, cam_of_mirror) in enumerate(zip(straight, flipped, strict=True)):
            mirror_full = full(jnp.flip(cam_of_mirror, axis=2))
            totals[i] += jax.nn.relu(jnp.maximum(full(cam), mirror_full))
    return normalize_cam(totals[0]), normalize_cam(totals[1])


def present_classes(
    cls_label: Float[Array, "b c"], num: int
) -> tuple[Int32[Array, "b k"], Float[Array, "b k"]]:
    """Finds each image's classes, so that maps of the other classes need not be computed.

    Args:
        cls_label: 1 for the classes that an image shows, 0 for the others.
        num: the most classes that any image shows.

    Returns:
        `class_ids [B, K]` in 0..C-1 with `K = min(num, C)`: the image's classes in ascending order,
        filled up with classes that it does not show; and their entries of `cls_label`.
    """
    present, class_ids = jax.lax.top_k(cls_label, min(num, cls_label.shape[1]))
    return class_ids, present


def of_classes(
    cam: Float[Array, "b h w c"], class_ids: Int32[Array, "b k"]
) -> Float[Array, "b h w k"]:
    """Selects the channels `class_ids` of each image's CAM."""
    return jnp.take_along_axis(cam, class_ids[:, None, None, :], axis=-1)


def to_class_labels(
    label: Int32[Array, "b h w"], class_ids: Int32[Array, "b k"]
) -> Int32[Array, "b h w"]:
    """Renumbers labels that count an image's `class_ids` from 1 to labels that count all classes.

    Args:
        label: 0..K and 255, where k stands for the class `class_ids[:, k - 1]`.
        class_ids: see `present_classes`.

    Returns:
        Labels in 0..C; 0 and 255 stay as they are.
    """
    label_of = jnp.pad(class_ids + 1, ((0, 0), (1, 0))).astype(jnp.int32)  # [B, 1 + K]
    flat = label.reshape(len(label), -1)  # [B, H * W]
    named = jnp.take_along_axis(label_of, jnp.where(flat == IGNORE_INDEX, 0, flat), axis=1)
    return jnp.where(label == IGNORE_INDEX, IGNORE_INDEX, named.reshape(label.shape))


def normalize_cam(cam: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Shifts and scales the map of each image and class to [0, 1]; a map of equal values to 0."""
    cam = cam - cam.min(axis=(1, 2), keepdims=True)
    return cam / (cam.max(axis=(1, 2), keepdims=True) + 1e-5)


def _best_class(cam: AnyArray, cls_label: AnyArray) -> tuple[AnyArray, AnyArray]:
    """Highest value among the labelled classes, and the label of that class; both `[B, H, W]`."""
    valid_cam = cam * cls_label[:, None, None, :].astype(cam.dtype)
    return valid_cam.max(axis=-1), valid_cam.argmax(axis=-1).astype("int32") + 1


def cam_to_label(
    cam: Float[AnyArray, "b h w c"], cls_label: Float[AnyArray, "b c"], *, bkg_thre: float
) -> Int32[AnyArray, "b h w"]:
    """Evaluation label: the labelled class of the highest value, background if that is low.

    Args:
        cam: values in [0, 1]; a numpy array gives a numpy array.
        cls_label: 1 for the classes that an image shows, 0 for the others.
        bkg_thre: values up to this one are background.

    Returns:
        Labels in 0..C.
    """
    value, label = _best_class(cam, cls_label)
    return label * (value > bkg_thre).astype("int32")


def inside_box(valid_box: Int[Array, "b 4"], size: Sequence[int]) -> Bool[Array, "b h w"]:
    """Mask of the pixels inside each box, on maps of `size = (H, W)`."""
    y0, y1, x0, x1 = jnp.moveaxis(valid_box[:, :, None, None], 1, 0)  # each [B, 1, 1]
    rows = jnp.arange(size[0])[None, :, None]
    columns = jnp.arange(size[1])[None, None, :]
    return (rows >= y0) & (rows < y1) & (columns >= x0) & (columns < x1)


def box_to_tokens(valid_box: Int[Array, "b 4"], patch: int) -> Int[Array, "b 4"]:
    """Converts boxes of pixels to boxes of those tokens whose centre lies inside."""
    return (2 * valid_box + patch - 1) // (2 * patch)


def cam_to_pseudo_label(
    cam: Float[Array, "b h w c"],
    cls_label: Float[Array, "b c"],
    valid_box: Int[Array, "b 4"],
    *,
    bkg_thre: float,
    high_thre: float,
    low_thre: float,
) -> Int32[Array, "b h w"]:
    """Training label: confident foreground, confident background, and 255 for everything else.

    Args:
        cam: values in [0, 1].
        cls_label: 1 for the classes that an image shows, 0 for the others.
        valid_box: the part of the map that is image and not padding; 255 outside.
        bkg_thre: background threshold of `cam_to_label`, on which this label is based.
        high_thre: values above this one are foreground.
        low_thre: values up to this one are background; those between the two are 255.

    Returns:
        Labels in 0..C and 255.
    """
    value, _ = _best_class(cam, cls_label)
    label = cam_to_label(cam, cls_label, bkg_thre=bkg_thre)
    label = jnp.where(value <= high_thre, IGNORE_INDEX, label)
    label = jnp.where(value <= low_thre, 0, label)
    return jnp.where(inside_box(valid_box, label.shape[1:]), label, IGNORE_INDEX)


def cam_to_roi_mask(
    aux_cam: Float[Array, "b h w c"],
    cls_label: Float[Array, "b c"],
    *,
    high_thre: float,
    low_thre: float,
) -> Int32[Array, "b h w"]:
    """Regions from which local crops are drawn.

    Args:
        aux_cam: values in [0, 1].
        cls_label: 1 for the classes that an image shows, 0 for the others.
        high_thre: values from this one on are confident foreground.
        low_thre: values up to this one are background.

    Returns:
        0 for background, 1 for uncertain pixels, 2 for confident foreground.
    """
    value, _ = _best_class(aux_cam, cls_label)
    return jnp.where(value <= low_thre, 0, jnp.where(value >= high_thre, 2, 1))


def label_to_affinity(label: Int[Array, "b h w"]) -> Int32[Array, "b n n"]:
    """Pairwise relation of an image's `N = H * W` patches, from their labels.

    Returns:
        1 where two labels agree and 0 where they differ; 255 where either is 255, and on the
        diagonal.
    """
    flat = label.reshape(label.shape[0], -1)  # [B, h * w]
    ignored = flat == IGNORE_INDEX
    affinity = (flat[:, :, None] == flat[:, None, :]).astype(jnp.int32)
    skip = ignored[:, :, None] | ignored[:, None, :] | jnp.eye(flat.shape[1], dtype=bool)[None]
    return jnp.where(skip, IGNORE_INDEX, affinity)
