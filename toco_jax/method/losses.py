"""The loss terms of ToCo, each a function from arrays to a float32 scalar (paper, section 3).

A term over an empty set of pixels, patches or crops is 0 and has a finite gradient. Where the
released code and the paper's formula differ, the released code is followed, because the published
numbers come from it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Float32, Int, Num

from toco_jax.method.cams import IGNORE_INDEX, inside_box
from toco_jax.ops.permutohedral import bilateral_filter_images
from toco_jax.ops.resize import resize

_HIGHEST = jax.lax.Precision.HIGHEST


def by_group(loss: Callable, *arrays: Array, group_size: int) -> Array:
    """Mean of a `loss` that pools over images, taken over groups of `group_size` images."""
    if len(arrays[0]) == group_size:  # without a `vmap`, so that losses can share a softmax
        return loss(*arrays)
    groups = [x.reshape(-1, group_size, *x.shape[1:]) for x in arrays]  # [G, g, ...]
    return jax.vmap(loss)(*groups).mean()


def multilabel_soft_margin(
    logits: Float[Array, "*b c"], labels: Float[Array, "*b c"]
) -> Float32[Array, ""]:
    """Mean over images and classes of the sigmoid cross-entropy; labels are 0 or 1."""
    logits, labels = logits.astype(jnp.float32), labels.astype(jnp.float32)
    log_likelihood = labels * jax.nn.log_sigmoid(logits) + (1 - labels) * jax.nn.log_sigmoid(
        -logits
    )
    return -log_likelihood.mean()


def patch_token_contrast(
    patch_tokens: Float[Array, "b n d"], affinity: Int[Array, "b n n"]
) -> Float32[Array, ""]:
    """Pulls patches of the same pseudo class together and pushes others apart (paper, section 3.3).

    With `c = |cos|` of two patch tokens, the loss is
    `0.5 (1 - sum_pos c / (n_pos + 1)) + 0.5 sum_neg c / (n_neg + 1)`; sums and counts run over the
    pairs of all images. The paper's equation has the signed cosine, and neither the halves nor the
    ones.

    Args:
        patch_tokens: one token per patch.
        affinity: 1 for positive pairs, 0 for negative ones, 255 for those that are ignored.
    """
    tokens = patch_tokens.astype(jnp.float32)
    # Squares of long tokens would overflow; a power of two changes no digit of a cosine.
    longest = jnp.max(jnp.abs(tokens), axis=-1, keepdims=True)
    tokens = tokens * jnp.where(longest > 1e15, 2.0**-70, 1.0)
    square = jnp.sum(tokens * tokens, axis=-1, keepdims=True)
    is_zero = square == 0
    norm = jnp.maximum(jnp.sqrt(jnp.where(is_zero, 1.0, square)), 1e-8)
    unit = jnp.where(is_zero, tokens / 1e-8, tokens / norm)
    cosine = jnp.einsum("bid,bjd->bij", unit, unit, precision=_HIGHEST)
    # Unlike `jnp.abs`, flat at 0: a zero token must not receive a gradient of 1 / 1e-8.
    similarity = cosine * jax.lax.stop_gradient(jnp.sign(cosine))
    positive, negative = (mean_over_pairs(similarity, affinity == k) for k in (1, 0))
    return 0.5 * (1 - positive) + 0.5 * negative


def mean_over_pairs(
    values: Float[Array, "b n n"], pairs: Bool[Array, "b n n"]
) -> Float32[Array, ""]:
    """Sum of the values of some pairs of patches, over their number plus 1, as published."""
    total = jnp.sum(values * pairs.astype(jnp.float32))
    return total / (jnp.sum(pairs) + 1).astype(jnp.float32)


def class_token_contrast(
    student: Float[Array, "v b e"],
    teacher: Float[Array, "2 b e"],
    positive: Bool[Array, "b v"] | Num[Array, "b v"],
    *,
    temperature: float,
) -> Float32[Array, ""]:
    """InfoNCE between the class tokens of global views and of crops (paper, section 3.4).

    For a teacher view `p` and a student view `q`, let `s = exp(p . q / temperature)`, and `S-` the
    sum of `s` over the image's negatives. Each positive contributes `-log(s / (s + S- + 1e-4))`,
    and there is one extra contribution with `s = 1`. The sum over positives and teacher views,
    divided by `2 (n_pos + 1e-4)`, is averaged over images. It is computed from logarithms and so
    finite for all `p . q / temperature` from -1e30 to 1e30. The paper does not have the extra
    contribution.

    Args:
        student: projections of the V views of each image, global views first.
        teacher: the teacher's projections of the two global views.
        positive: which views show foreground, 0 or 1.
        temperature: tau > 0.
    """
    student, teacher = student.astype(jnp.float32), teacher.astype(jnp.float32)
    positive = positive.astype(bool)
    logits = jnp.einsum("tbe,vbe->tbv", teacher, student, precision=_HIGHEST) / temperature
    log_eps = jnp.full_like(logits[..., :1], jnp.log(1e-4))
    negatives = jnp.where(positive[None], -jnp.inf, logits)
    # log(S- + 1e-4), finite also when an image has no negative.
    log_negative = jax.nn.logsumexp(
        jnp.concatenate([negatives, log_eps], axis=-1), axis=-1, keepdims=True
    )  # [2, B, 1]
    per_view = jnp.where(positive[None], jnp.logaddexp(logits, log_negative) - logits, 0.0)
    extra = jnp.logaddexp(0.0, log_negative[..., 0])
    per_image = (per_view.sum(axis=-1) + extra).sum(axis=0)  # [B]
    num_positive = positive.sum(axis=1).astype(jnp.float32)  # [B]
    return jnp.mean(per_image / (2 * (num_positive + 1e-4)))


def segmentation(
    seg_logits: Float[Array, "b h w l"],
    pseudo_label: Int[Array, "b h w"],
    *,
    ignore_index: int = IGNORE_INDEX,
) -> Float32[Array, ""]:
    """Cross-entropy, averaged over background and over foreground pixels separately.

    The loss is half the sum of the two means. The mean over no pixels is 0.

    Args:
        seg_logits: one channel per label, background first.
        pseudo_label: labels in 0..L-1, and `ignore_index`.
        ignore_index: label of pixels that are left out.
    """
    valid = pseudo_label != ignore_index
    target = jnp.where(valid, pseudo_label, 0)
    nll = _negative_log_likelihood(seg_logits, target)
    background, foreground = valid & (target == 0), valid & (target != 0)
    return 0.5 * (_mean_over(nll, background) + _mean_over(nll, foreground))


def cross_entropy(
    seg_logits: Float[Array, "b h w l"], label: Num[Array, "b h w"]
) -> Float32[Array, ""]:
    """Cross-entropy, averaged over all pixels with a label; 0 if there are none.

    Args:
        seg_logits: one channel per label, background first.
        label: labels in 0..L-1; pixels with larger ones are left out.
    """
    valid = label < seg_logits.shape[-1]
    target = jnp.where(valid, label, 0).astype(jnp.int32)
    return _mean_over(_negative_log_likelihood(seg_logits, target), valid)


def _negative_log_likelihood(logits: Array, target: Array) -> Array:
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    # Not a gather, whose gradient would be a scatter over the whole map.
    is_target = jax.nn.one_hot(target, log_probs.shape[-1], dtype=bool)
    return -jnp.sum(jnp.where(is_target, log_probs, 0), axis=-1)


def _mean_over(values: Array, pixels: Array) -> Array:
    total = jnp.sum(values * pixels.astype(jnp.float32))
    return total / jnp.maximum(jnp.sum(pixels), 1).astype(jnp.float32)


def dense_energy(
    image: Num[Array, "b h w 3"],
    seg_logits: Float[Array, "b h w l"],
    pseudo_label: Int[Array, "b h w"],
    valid_box: Int[Array, "b 4"],
    *,
    sigma_rgb: float = 15.0,
    sigma_xy: float = 100.0,
    scale: float = 0.5,
    weight: float = 1e-7,
    unrolled: bool = False,
) -> Float32[Array, ""]:
    """Gated dense CRF energy: pixels alike in colour and near each other should get the same label.

    Let `S` be the probabilities inside the valid box, on maps of `scale` times the image's size,
    and `A` the result of filtering them with a bilateral kernel. The energy is
    `-weight / B * <S, gate A>` and its gradient `-2 weight / B * gate A` (Tang et al., ECCV 2018).
    The gate is constant: 1 minus a pixel's largest probability, or 1 where the label is ignored.

    Args:
        image: colours in 0..255.
        seg_logits: one channel per label.
        pseudo_label: labels; only which of them are 255 matters.
        valid_box: the part of the image that is not padding.
        sigma_rgb: standard deviation of the kernel in grey levels.
        sigma_xy: standard deviation of the kernel in pixels of the full size.
        scale: size of the maps over the size of the image; sizes are rounded down.
        weight: factor of the energy.
        unrolled: see `bilateral_filter_images`.

    Raises:
        ValueError: a side of the maps would be 0 pixels, or a sigma is so small that int32 cannot
            number the lattice.
    """
    size = tuple(int(side * scale) for side in image.shape[1:3])
    probs = resize(jax.nn.softmax(seg_logits.astype(jnp.float32), axis=-1), size)
    small_image = resize(image.astype(jnp.float32), size, "nearest")
    label = resize(pseudo_label[..., None], size, "nearest")[..., 0]
    box = inside_box(valid_box, image.shape[1:3])[..., None].astype(jnp.float32)
    box = resize(box, size, "nearest")

    gate = box[..., 0] - probs.max(axis=-1)
    gate = jnp.maximum(jnp.where(label == IGNORE_INDEX, 1.0, gate), 0.0)[..., None]
    inside = probs * box
    filtered = bilateral_filter_images(
        small_image,
        jax.lax.stop_gradient(inside),
        sigma_rgb=sigma_rgb,
        sigma_xy=sigma_xy * scale,
        unrolled=unrolled,
    )
    energy = jnp.sum(inside * jax.lax.stop_gradient(gate * filtered))
    # The energy is quadratic in the probabilities, and the filtered factor is held constant: the
    # gradient is twice that of the product, the value is not.
    energy = 2 * energy - jax.lax.stop_gradient(energy)
    return -weight / image.shape[0] * energy
