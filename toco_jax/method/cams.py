"""Class activation maps to labels, uncertain regions and patch affinities.

The poster's "CAM", "region" and "pairwise label" boxes (paper, sections 3.2 to 3.4). Nothing here
carries a gradient. Boxes are `[y0, y1, x0, x1]` in the pixels of the map they belong to; labels are
int32 with background 0 and 255 ignored.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from toco_jax.ops.resize import resize

IGNORE_INDEX = 255

CamFn = Callable[[jax.Array], tuple[jax.Array, jax.Array]]


def multi_scale_cams(
    cam_fn: CamFn,
    images: jax.Array,
    *,
    scales: tuple[float, ...],
    unscaled: tuple[jax.Array, jax.Array] | None = None,
    class_ids: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """CAMs summed over scales, each the maximum of the image and its mirror image.

    Args:
        cam_fn: normalised images `[B, h, w, 3]` to `cam, aux_cam` `[B, h', w', C]`, unnormalised.
        images: normalised images `[B, H, W, 3]`.
        scales: factors of the image size; sizes are rounded down.
        unscaled: `cam_fn(images)` where the caller has it already; saves that pass of scale 1.
        class_ids: the classes wanted of each image, see `of_classes`; all by default.

    Returns:
        `cam, aux_cam [B, H, W, C]` float32, every class of every image in [0, 1); `[B, H, W, K]`
        with `class_ids`.
    """

    def full(cam: jax.Array) -> jax.Array:
        wanted = cam if class_ids is None else of_classes(cam, class_ids)
        return resize(wanted.astype(jnp.float32), size)

    size = images.shape[1:3]
    totals = [0.0, 0.0]
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


def present_classes(cls_label: jax.Array, num: int) -> tuple[jax.Array, jax.Array]:
    """Classes that hold all of `cls_label [B, C]`, if no image has more than `num` of them.

    Returns:
        `class_ids [B, min(num, C)]` int32 in 0..C-1, those of the image first, in ascending order,
        and the labels of these classes, of the same shape.
    """
    present, class_ids = jax.lax.top_k(cls_label, min(num, cls_label.shape[1]))
    return class_ids, present


def of_classes(cam: jax.Array, class_ids: jax.Array) -> jax.Array:
    """The classes `class_ids [B, K]` of each image's `cam [B, H, W, C]`: `[B, H, W, K]`."""
    return jnp.take_along_axis(cam, class_ids[:, None, None, :], axis=-1)


def to_class_labels(label: jax.Array, class_ids: jax.Array) -> jax.Array:
    """Labels `[B, H, W]` that count `class_ids [B, K]` from 1 to labels that count all classes."""
    label_of = jnp.pad(class_ids + 1, ((0, 0), (1, 0))).astype(jnp.int32)  # [B, 1 + K]
    flat = label.reshape(len(label), -1)  # [B, H * W]
    named = jnp.take_along_axis(label_of, jnp.where(flat == IGNORE_INDEX, 0, flat), axis=1)
    return jnp.where(label == IGNORE_INDEX, IGNORE_INDEX, named.reshape(label.shape))


def normalize_cam(cam: jax.Array) -> jax.Array:
    """`[B, H, W, C]` shifted and scaled per image and class to [0, 1)."""
    cam = cam - cam.min(axis=(1, 2), keepdims=True)
    return cam / (cam.max(axis=(1, 2), keepdims=True) + 1e-5)


def _best_class(cam, cls_label):
    """Highest value and its class id (1-based) among the labelled classes, both `[B, H, W]`."""
    valid_cam = cam * cls_label[:, None, None, :]
    return valid_cam.max(axis=-1), valid_cam.argmax(axis=-1).astype("int32") + 1


def cam_to_label(cam, cls_label, *, bkg_thre: float):
    """Evaluation label: the best labelled class, background where its value is `<= bkg_thre`.

    Args:
        cam: `[B, H, W, C]` in [0, 1]; a numpy array gives a numpy array.
        cls_label: `[B, C]` of 0 and 1.
        bkg_thre: background threshold in [0, 1].

    Returns:
        `[B, H, W]` int32 in 0..C.
    """
    value, label = _best_class(cam, cls_label)
    return label * (value > bkg_thre)


def inside_box(valid_box: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Boxes `[B, 4]` in the pixels of a `size = (H, W)` map to a mask `[B, H, W]` of booleans."""
    y0, y1, x0, x1 = jnp.moveaxis(valid_box[:, :, None, None], 1, 0)  # each [B, 1, 1]
    rows = jnp.arange(size[0])[None, :, None]
    columns = jnp.arange(size[1])[None, None, :]
    return (rows >= y0) & (rows < y1) & (columns >= x0) & (columns < x1)


def box_to_tokens(valid_box: jax.Array, patch: int) -> jax.Array:
    """Pixel boxes `[B, 4]` to boxes of the tokens whose centre lies inside."""
    return (2 * valid_box + patch - 1) // (2 * patch)


def cam_to_pseudo_label(
    cam: jax.Array,
    cls_label: jax.Array,
    valid_box: jax.Array,
    *,
    bkg_thre: float,
    high_thre: float,
    low_thre: float,
) -> jax.Array:
    """Training label: confident foreground, confident background, 255 between and outside the box.

    Args:
        cam: `[B, H, W, C]` in [0, 1].
        cls_label: `[B, C]` of 0 and 1.
        valid_box: `[B, 4]` int32 in the map's pixels, the part that is image and not padding.
        bkg_thre: background threshold of the evaluation label underneath.
        high_thre: values above are foreground.
        low_thre: values up to it are background.

    Returns:
        `[B, H, W]` int32 in 0..C and 255.
    """
    value, _ = _best_class(cam, cls_label)
    label = cam_to_label(cam, cls_label, bkg_thre=bkg_thre)
    label = jnp.where(value <= high_thre, IGNORE_INDEX, label)
    label = jnp.where(value <= low_thre, 0, label)
    return jnp.where(inside_box(valid_box, label.shape[1:]), label, IGNORE_INDEX)


def cam_to_roi_mask(
    aux_cam: jax.Array, cls_label: jax.Array, *, high_thre: float, low_thre: float
) -> jax.Array:
    """Regions for local crops `[B, H, W]` int32: 0 background (`<= low_thre`), 2 confident
    foreground (`>= high_thre`), 1 uncertain. Arguments as in `cam_to_pseudo_label`.
    """
    value, _ = _best_class(aux_cam, cls_label)
    return jnp.where(value <= low_thre, 0, jnp.where(value >= high_thre, 2, 1))


def label_to_affinity(label: jax.Array) -> jax.Array:
    """Pairwise relation of patches: `[B, h, w]` labels to `[B, h * w, h * w]` int32.

    1 where two labels agree, 0 where they differ, 255 where either is ignored and on the diagonal.
    """
    flat = label.reshape(label.shape[0], -1)  # [B, h * w]
    ignored = flat == IGNORE_INDEX
    affinity = (flat[:, :, None] == flat[:, None, :]).astype(jnp.int32)
    skip = ignored[:, :, None] | ignored[:, None, :] | jnp.eye(flat.shape[1], dtype=bool)[None]
    return jnp.where(skip, IGNORE_INDEX, affinity)
