"""The loss terms of ToCo, each a function from arrays to a float32 scalar (paper, section 3).

Sets may be empty: an empty set contributes 0 and a finite gradient. Where the released code and the
paper's formula differ the released code is followed, for the published numbers come from it.
"""

import jax
import jax.numpy as jnp

from toco_jax.method.cams import IGNORE_INDEX, inside_box
from toco_jax.ops.permutohedral import bilateral_filter_images
from toco_jax.ops.resize import resize

_HIGHEST = jax.lax.Precision.HIGHEST


def multilabel_soft_margin(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Sigmoid cross-entropy of `logits [..., C]` against `labels [..., C]` of 0 and 1, averaged."""
    logits = logits.astype(jnp.float32)
    log_likelihood = labels * jax.nn.log_sigmoid(logits) + (1 - labels) * jax.nn.log_sigmoid(
        -logits
    )
    return -log_likelihood.mean()


def patch_token_contrast(patch_tokens: jax.Array, affinity: jax.Array) -> jax.Array:
    """Pulls patches of one pseudo class together and pushes others apart (paper, section 3.3).

    With `c = |cos|`: `0.5 (1 - sum_pos c / (n_pos + 1)) + 0.5 sum_neg c / (n_neg + 1)`. The paper's
    equation has the signed cosine and neither the halves nor the ones.

    Args:
        patch_tokens: `[B, N, D]`; sums and counts run over all `B` images.
        affinity: `[B, N, N]` with 1 positive, 0 negative, 255 ignored.
    """
    tokens = patch_tokens.astype(jnp.float32)
    square = jnp.sum(tokens * tokens, axis=-1, keepdims=True)
    is_zero = square == 0
    norm = jnp.maximum(jnp.sqrt(jnp.where(is_zero, 1.0, square)), 1e-8)
    unit = jnp.where(is_zero, tokens / 1e-8, tokens / norm)
    cosine = jnp.einsum("bid,bjd->bij", unit, unit, precision=_HIGHEST)
    # Unlike `jnp.abs`, flat at 0: a zero token must not receive a gradient of 1 / 1e-8.
    similarity = cosine * jax.lax.stop_gradient(jnp.sign(cosine))
    positive, negative = affinity == 1, affinity == 0
    pull = jnp.sum(similarity * positive) / (jnp.sum(positive) + 1)
    push = jnp.sum(similarity * negative) / (jnp.sum(negative) + 1)
    return 0.5 * (1 - pull) + 0.5 * push


def class_token_contrast(
    student: jax.Array, teacher: jax.Array, positive: jax.Array, *, temperature: float
) -> jax.Array:
    """InfoNCE between global and local class tokens (paper, section 3.4).

    For a teacher view `p` and positives `q+`: `-log(s+ / (s+ + S- + 1e-4))` with
    `s = exp(p . q / temperature)` and `S-` the sum over negatives, summed over the positives, plus
    one term with `s+ = 1`; over `2 (n_pos + 1e-4)`, summed over teacher views and averaged over
    images. Computed in log space: finite for any dot products. The paper has no extra term.

    Args:
        student: `[V, B, E]`, global views first.
        teacher: `[2, B, E]`.
        positive: `[B, V]` of 0 and 1, or booleans.
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
    return jnp.mean(per_image / (2 * (positive.sum(axis=1) + 1e-4)))


def segmentation(
    seg_logits: jax.Array, pseudo_label: jax.Array, *, ignore_index: int = IGNORE_INDEX
) -> jax.Array:
    """Cross-entropy: the mean over background and the mean over foreground pixels, averaged.

    Args:
        seg_logits: `[B, H, W, K]`, background at 0.
        pseudo_label: `[B, H, W]` in 0..K-1 and `ignore_index`. A side without pixels gives 0.
        ignore_index: label of pixels that are left out.
    """
    log_probs = jax.nn.log_softmax(seg_logits.astype(jnp.float32), axis=-1)
    valid = pseudo_label != ignore_index
    target = jnp.where(valid, pseudo_label, 0)
    # Not a gather: its gradient would be a scatter over the whole map.
    is_target = jax.nn.one_hot(target, log_probs.shape[-1], dtype=bool)
    nll = -jnp.sum(jnp.where(is_target, log_probs, 0), axis=-1)
    background, foreground = valid & (target == 0), valid & (target != 0)

    def mean_over(mask: jax.Array) -> jax.Array:
        return jnp.sum(nll * mask) / jnp.maximum(jnp.sum(mask), 1)

    return 0.5 * (mean_over(background) + mean_over(foreground))


def dense_energy(
    image: jax.Array,
    seg_logits: jax.Array,
    pseudo_label: jax.Array,
    valid_box: jax.Array,
    *,
    sigma_rgb: float = 15.0,
    sigma_xy: float = 100.0,
    scale: float = 0.5,
    weight: float = 1e-7,
    unrolled: bool = False,
) -> jax.Array:
    """Gated dense CRF energy: similar pixels should agree (Tang et al., ECCV 2018).

    At `scale` of the image's size, with `S` the probabilities inside the valid box and `A` their
    bilateral filtering, `-weight / B * <S, gate A>`. The gate is 1 minus the largest probability, 1
    where the label is ignored, and is a constant: the gradient is `-2 weight / B * gate A`.

    Args:
        image: `[B, H, W, 3]` in 0..255.
        seg_logits: `[B, H, W, K]`.
        pseudo_label: `[B, H, W]`.
        valid_box: `[B, 4]` in the image's pixels.
        sigma_rgb: colour bandwidth in grey levels.
        sigma_xy: position bandwidth in pixels of the full size.
        scale: the energy is taken on maps of this share of the size, rounded down.
        weight: factor of the energy.
        unrolled: see `bilateral_filter_images`.
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
    # The energy is quadratic in the probabilities: with the filtered side held constant, its value
    # once and its gradient twice.
    energy = 2 * energy - jax.lax.stop_gradient(energy)
    return -weight / image.shape[0] * energy
