"""AFA: affinity from attention (Ru et al., CVPR 2022), with the encoder and decoder of ToCo.

A head learns from the encoder's attention which patches show the same class. CAMs are spread by
these affinities before segmentation labels are made from them. Every function is a box as in
`toco`. What differs from the publication:

- The encoder is a ViT in place of MiT-B1, and the head takes the attention of its last two blocks
  in place of the last stage, which has two; and its logarithm, which differs from the published
  attention before the softmax by one number for each query. The decoder is LargeFOV.
- The class map is ToCo's, of which the maximum over patches is classified; published: a pooled map.
- Views, optimiser and schedule are the configuration's. `config.pseudo_label_cam` says from which
  step on labels are made from the spread CAM: affinities have to be learnt before they help.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Float32, Int, Int32
from ml_collections import ConfigDict

from toco_jax.method import cams, losses, par, toco
from toco_jax.method.numbers import numbers_of
from toco_jax.method.phases import Phase, weighted
from toco_jax.method.supervision import supervision
from toco_jax.models.network import ToCo, call, frozen_cams
from toco_jax.ops.resize import resize

# Patches further apart than this many rows or columns are not related.
RADIUS = 8
# Affinities are raised to this power, which drops weak ones, before they spread a CAM.
POWER = 2

init_extra, moved_extra = toco.init_extra, toco.moved_extra


def neighbours(grid: tuple[int, int], *, radius: int = RADIUS) -> Bool[np.ndarray, "n n"]:
    """Returns which patches of a grid are at most `radius` rows and columns apart."""
    rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    near = [abs(x[:, None] - x[None, :]) <= radius for x in (rows, columns)]
    return near[0] & near[1]


def spread(
    cam: Float[Array, "b h w k"], affinity: Float[Array, "b n n"], near: Bool[np.ndarray, "n n"]
) -> Float32[Array, "b h w k"]:
    """One step of a random walk: each patch becomes the mean of those near it, by affinity.

    The CAM becomes `T cam` with `T = D^-1 A^2`, of the affinities `A` between near patches and with
    the square taken elementwise, where `D` has the sums of the rows of `A^2`.

    Args:
        cam: one value per patch and class.
        affinity: affinities in [0, 1].
        near: which patches are related, see `neighbours`.
    """
    weights = jnp.where(near, affinity**POWER, 0.0)
    weights /= jnp.maximum(weights.sum(axis=2, keepdims=True), 1e-8)
    flat = cam.reshape(len(cam), -1, cam.shape[-1])  # [B, N, K]
    return jnp.einsum("bij,bjk->bik", weights, flat).reshape(cam.shape)


def affinity_label(
    label: Int[Array, "b h w"], near: Bool[np.ndarray, "n n"]
) -> Int32[Array, "b n n"]:
    """Pairwise labels: those of `cams.label_to_affinity`, and 255 for patches that are not near."""
    return jnp.where(near, cams.label_to_affinity(label), cams.IGNORE_INDEX)


def affinity_loss(
    affinity: Float[Array, "b n n"], label: Int[Array, "b n n"]
) -> Float32[Array, ""]:
    """Half the mean of `1 - a` over positive pairs, and half that of `a` over negative ones.

    The halves, and the 1 that is added to the numbers of pairs, are those of the released code.

    Args:
        affinity: the affinities `a` in [0, 1].
        label: 1 for positive pairs, 0 for negative ones, 255 for those that are ignored.
    """
    positive = losses.mean_over_pairs(1 - affinity, label == 1)
    return 0.5 * positive + 0.5 * losses.mean_over_pairs(affinity, label == 0)


def affinity(
    net: Callable,
    seen: toco.Arrays,
    *,
    grid: tuple[int, int],
    truncated: bool,
    unrolled: bool,
    **thresholds: float,
) -> toco.Arrays:
    """Learns affinities from pseudo labels, and spreads the CAMs by them.

    Args:
        net: the network.
        seen: the arrays so far.
        grid: rows and columns of the patches.
        truncated: see `toco.segmentation`.
        unrolled: see `Compute`.
        **thresholds: `low_thre` and `high_thre` in [0, 1], see `par.refine_pseudo_label`.

    Returns:
        The term `aff`; `affinity [B, N, N]`, `affinity_label [B, N, N]`; and `full_spread_cam
        [B, H, W, K]`.
    """
    near = neighbours(grid)
    unit = par.unit_image(seen["image"], truncated=truncated)
    cam, present, box = seen["full_cam"], seen["present"], seen["valid_box"]
    label = par.refine_pseudo_label(unit, cam, present, box, unrolled=unrolled, **thresholds)
    small = resize(label[..., None], grid, "nearest")[..., 0]
    pairs = affinity_label(small, near)
    found = net("relate", seen["log_attention"])
    spread_cam = spread(resize(cam, grid), jax.lax.stop_gradient(found), near)
    return {
        "aff": affinity_loss(found, pairs),
        "affinity": found,
        "affinity_label": pairs,
        "full_spread_cam": resize(spread_cam, cam.shape[1:3]),
    }


def make_loss_fn(config: ConfigDict, model: ToCo, phase: Phase, *, num_present: int) -> Callable:
    """Makes the loss function of one device's share of a batch, as `toco.make_loss_fn` does."""
    weights = phase.active
    terms, numbers = set(weights), numbers_of(config, model, phase, num_present=num_present)
    labels = numbers["segmentation"]
    shared = ("truncated", "unrolled", "low_thre", "high_thre")
    relations = {name: labels[name] for name in shared} | {
        "grid": numbers["patch_contrast"]["grid"]
    }

    def loss_fn(params, extra, keys, batch):
        del extra, keys  # AFA has no teacher and cuts no crops
        net = functools.partial(call, model, params)
        seen = batch | toco.classification(net, batch, with_view2=False)
        if terms & {"aff", "seg", "reg"}:
            seen |= toco.class_maps(frozen_cams(model, params), seen, **numbers["class_maps"])
            seen |= affinity(net, seen, **relations)
        if terms & {"seg", "reg"}:
            seen |= toco.segmentation(net, seen, **labels)
        if "cls_img" in terms:
            seen |= toco.image_classification(net, seen)
        if "sup" in terms:
            seen |= supervision(net, seen, **numbers["supervision"])
        return weighted(seen, weights)

    return loss_fn
