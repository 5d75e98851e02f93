"""ToCo plus: a teacher of the whole network makes the maps, and segmentation teaches the CAM.

The boxes are those of `toco`. What differs:

- The teacher is the network with parameters averaged over the steps (`config.ema_decay`), and it is
  what is evaluated. Its CAMs take the place of the student's in every box: regions, affinities and
  pseudo labels.
- `swap`: the teacher's segmentation, as soft labels, supervises the student's CAM (Yang et al.,
  Weakly supervised co-training with swapping assignments for semantic segmentation, ECCV 2024).
- `cons`: where the pseudo label is unknown and the teacher is confident, the student must segment
  another view of the same pixels as the teacher does (Wu et al., DuPL, CVPR 2024, who take their
  target from a second network and a stronger view).
- `absent`: wherever a pixel's label is not known, it is still none of the classes that the image
  does not show. The student's segmentation learns that on all pixels.
- `cls_img`: an image head, a linear classifier on the class token of a frozen copy of the encoder,
  weighs the decoder's classes where the network is used (`network.weighed`).
- The score that a pixel needs to become foreground falls by `config.high_thre_drop` from the first
  step of `seg` to the last step, along a cosine (DuPL).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Float32, Int
from ml_collections import ConfigDict

from toco_jax.config.methods import first_step
from toco_jax.method import cams, losses, toco
from toco_jax.method.numbers import numbers_of
from toco_jax.method.phases import Phase, weighted
from toco_jax.models.network import ToCo, call, frozen_cams, normalize
from toco_jax.ops.resize import resize
from toco_jax.run.state import TrainState

# The teacher's segmentation is made nearly hard before it teaches the CAM.
SWAP_TEMPERATURE = 0.01
# The probability from which on the teacher is confident.
CONFIDENCE = 0.9
_ABSENT = -1e5  # the logit of a class that the image does not show


def of_present(
    seg_logits: Float[Array, "b h w l"], cls_label: Float[Array, "b c"]
) -> Float32[Array, "b h w l"]:
    """Returns segmentation logits in which the classes that an image does not show have none.

    Args:
        seg_logits: one channel per label, background first.
        cls_label: 1 for the classes that an image shows, 0 for the others.
    """
    shown = jnp.pad(cls_label > 0, ((0, 0), (1, 0)), constant_values=True)  # background always
    return jnp.where(shown[:, None, None, :], seg_logits.astype(jnp.float32), _ABSENT)


def swapped(
    cam: Float[Array, "b h w c"], target: Float[Array, "b h w l"], inside: Bool[Array, "b h w"]
) -> Float32[Array, ""]:
    """Sigmoid cross-entropy of the positive part of a CAM, with segmentation as the soft label.

    Args:
        cam: the CAM, not normalised. Its negative values are taken as 0 and have no gradient.
        target: probabilities of the labels, background first; its foreground is the soft label.
        inside: the cells over which, and over all classes, the mean is taken; the mean over none
            is 0.
    """
    logits, label = jax.nn.relu(cam.astype(jnp.float32)), target[..., 1:]
    log_likelihood = label * jax.nn.log_sigmoid(logits) + (1 - label) * jax.nn.log_sigmoid(-logits)
    total = -jnp.sum(jnp.where(inside[..., None], log_likelihood, 0.0))
    return total / (jnp.maximum(inside.sum(), 1) * cam.shape[-1]).astype(jnp.float32)


def confident_label(
    seg_logits: Float[Array, "b h w l"], label: Int[Array, "b h w"], inside: Bool[Array, "b h w"]
) -> Int[Array, "b h w"]:
    """Returns the most probable label of the pixels without one, where it is confident; else 255.

    Args:
        seg_logits: the teacher's logits, one channel per label.
        label: the pseudo labels; only those that are 255 matter.
        inside: the pixels that are image and not padding.
    """
    probs = jax.nn.softmax(seg_logits.astype(jnp.float32), axis=-1)
    is_taken = (label == cams.IGNORE_INDEX) & inside & (probs.max(axis=-1) > CONFIDENCE)
    return jnp.where(is_taken, probs.argmax(axis=-1), cams.IGNORE_INDEX)


def teacher_maps(teacher_net: Callable, cam_fn: cams.CamFn, seen: dict, **numbers) -> dict:
    """Computes the teacher's maps of view 1.

    Args:
        teacher_net: the teacher, called as `net` of `toco`.
        cam_fn: the teacher's CAMs, see `cams.multi_scale_cams`.
        seen: the arrays so far.
        **numbers: those of `toco.class_maps`.

    Returns:
        What `toco.class_maps` returns, and `teacher_seg [B, h, w, C + 1]`, the teacher's logits of
        background and of the classes that the image shows.
    """
    view1 = normalize(seen["image"])
    grid = teacher_net("token_grid", view1)
    tokens = teacher_net("encode", view1)
    seg_logits = of_present(teacher_net("decode", tokens, grid), seen["cls_label"])
    seen = seen | teacher_net("classify", tokens, grid)
    return toco.class_maps(cam_fn, seen, **numbers) | {"teacher_seg": seg_logits}


def swap(seen: dict, *, patch: int) -> dict:
    """The teacher's segmentation supervises the student's CAM; returns the term `swap`."""
    target = jax.nn.softmax(seen["teacher_seg"] / SWAP_TEMPERATURE, axis=-1)
    inside = cams.inside_box(cams.box_to_tokens(seen["valid_box"], patch), target.shape[1:3])
    return {"swap": swapped(seen["cam"], target, inside)}


def consistency(net: Callable, seen: dict, *, group_size: int) -> dict:
    """The student segments `local` as the teacher segments view 1; returns the term `cons`."""
    size = seen["image"].shape[1:3]
    inside = cams.inside_box(seen["valid_box"], size)
    target = confident_label(resize(seen["teacher_seg"], size), seen["pseudo_label"], inside)
    view = normalize(seen["local"])
    logits = resize(net("decode", net("encode", view), net("token_grid", view)), size)
    return {"cons": losses.by_group(losses.cross_entropy, logits, target, group_size=group_size)}


def no_absent_class(
    seg_logits: Float[Array, "b h w l"],
    cls_label: Float[Array, "b c"],
    inside: Bool[Array, "b h w"],
) -> Float32[Array, ""]:
    """Mean of `-log p`, where `p` is the probability of background or a class of the image.

    Args:
        seg_logits: one channel per label, background first.
        cls_label: 1 for the classes that an image shows, 0 for the others.
        inside: the cells over which the mean is taken; the mean over none is 0.
    """
    logits = seg_logits.astype(jnp.float32)
    possible = jax.nn.logsumexp(of_present(logits, cls_label), axis=-1)
    loss = jax.nn.logsumexp(logits, axis=-1) - possible  # [B, h, w]
    num = jnp.maximum(inside.sum(), 1).astype(jnp.float32)
    return jnp.sum(jnp.where(inside, loss, 0.0)) / num


def absent(seen: dict, *, patch: int) -> dict:
    """No patch shows a class that the image does not show; returns the term `absent`."""
    logits = seen["seg_logits"]
    inside = cams.inside_box(cams.box_to_tokens(seen["valid_box"], patch), logits.shape[1:3])
    return {"absent": no_absent_class(logits, seen["cls_label"], inside)}


def init_extra(config: ConfigDict, params: dict) -> dict:
    """Returns what `toco` keeps, and the score that makes a pixel foreground."""
    return toco.init_extra(config, params) | {"high_thre": jnp.float32(config.high_thre)}


def moved_extra(config: ConfigDict, state: TrainState) -> dict:
    """Returns `state.extra` as each step moves it before its losses."""
    return toco.moved_extra(config, state) | {"high_thre": high_thre_at(config, state.step)}


def high_thre_at(config: ConfigDict, step: int | Array) -> Array:
    """Returns the score that makes a pixel foreground at a step, float32 `[]`."""
    start = first_step(config.loss_weights.seg) or 0
    length = max(config.total_steps - start, 1)
    progress = jnp.clip((jnp.asarray(step, jnp.float32) - start) / length, 0.0, 1.0)
    return config.high_thre - config.high_thre_drop * (1 - jnp.cos(jnp.pi * progress)) / 2


def make_loss_fn(config: ConfigDict, model: ToCo, phase: Phase, *, num_present: int) -> Callable:
    """Makes the loss function of one device's share of a batch, as `toco.make_loss_fn` does.

    Its `extra` also has `ema`, the parameters of the teacher.
    """
    weights = phase.active
    terms, numbers = set(weights), numbers_of(config, model, phase, num_present=num_present)

    def loss_fn(params, extra, keys, batch):
        ema = jax.lax.stop_gradient(extra["ema"])
        net = functools.partial(call, model, params)
        head = functools.partial(call, model, {"proj_head": extra["proj_head"]}, "project")
        labels = numbers["segmentation"] | {"high_thre": extra["high_thre"]}
        seen = batch | toco.classification(net, batch, with_view2="ctc" in terms)
        if terms - toco.WITHOUT_MAPS:
            teacher_net = functools.partial(call, model, ema)
            settings = numbers["class_maps"]
            seen |= teacher_maps(teacher_net, frozen_cams(model, ema), seen, **settings)
        settings = {"terms": terms, "numbers": numbers | {"segmentation": labels}}
        seen |= toco.from_maps(net, head, keys, seen, **settings)
        if "swap" in terms:
            seen |= swap(seen, patch=model.backbone.patch)
        if "absent" in terms:
            seen |= absent(seen, patch=model.backbone.patch)
        if "cons" in terms:
            seen |= consistency(net, seen, group_size=config.group_size)
        return weighted(seen, weights)

    return loss_fn
