"""The objective: the poster's figure, from a batch of views to the weighted sum of the losses.

Each encoder pass is done once. View 1 is the classification input, the first global view and the
un-mirrored scale of the CAM; the teacher is a head of its own on the student's class tokens.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from toco_jax.config import Phase
from toco_jax.method import cams, crops, losses, par
from toco_jax.models.heads import ProjectionHead
from toco_jax.models.network import ToCo, normalize
from toco_jax.ops.parts import largest_divisor, map_parts
from toco_jax.ops.resize import resize

# Patches that `in_parts` takes through the encoder at once where there is no gradient. On more,
# whose hidden layers leave every cache, a processor's products are a fifth slower.
_PATCHES_AT_ONCE = 4096


def contrast_pairs(
    apply: Callable,
    teacher_params: dict,
    cls_tokens: jax.Array,
    local_crops: jax.Array,
    local_positive: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Projections of all views for the class token contrast.

    Args:
        apply: `apply(method, *args)` of the network with its parameters.
        teacher_params: parameters of the teacher head.
        cls_tokens: class tokens `[2 * B, D]` of the two global views.
        local_crops: uint8 `[B, n, s, s, 3]`.
        local_positive: `[B, n]`, whether a crop shows foreground.

    Returns:
        `student [2 + n, B, E]`, `teacher [2, B, E]` without gradient and `positive [B, 2 + n]`;
        global views are positive.
    """
    batch_size, num, *crop_shape = local_crops.shape
    local_crops = local_crops.swapaxes(0, 1).reshape(-1, *crop_shape)  # [n * B, s, s, 3]
    local_tokens = apply("encode", normalize(local_crops), num_mapped=0)["cls_token"]
    student = apply("project", jnp.concatenate([cls_tokens, local_tokens]))
    student = student.reshape(2 + num, batch_size, -1)  # [2 + n, B, E]
    teacher = ProjectionHead().apply({"params": teacher_params}, cls_tokens)
    teacher = jax.lax.stop_gradient(teacher).reshape(2, batch_size, -1)  # [2, B, E]
    positive = jnp.concatenate([jnp.ones((batch_size, 2), bool), local_positive], axis=1)
    return student, teacher, positive


def class_maps(
    config: ConfigDict,
    model: ToCo,
    params: dict,
    images: jax.Array,
    out: dict[str, jax.Array],
    class_ids: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Multi-scale CAMs of the classes `class_ids [B, K]` of each image, without gradient.

    Args:
        config: a validated configuration.
        model: the network.
        params: its parameters.
        images: normalised images `[B, H, W, 3]`.
        out: what the network's `classify` says of them.
        class_ids: see `cams.present_classes`.

    Returns:
        `cam, aux_cam [B, H, W, K]` in [0, 1).
    """
    params, unscaled = jax.lax.stop_gradient((params, (out["cam"], out["aux_cam"])))

    def cam_fn(scaled: jax.Array) -> tuple[jax.Array, jax.Array]:
        def some(images: jax.Array) -> tuple[jax.Array, jax.Array]:
            return model.apply({"params": params}, images, method="cams")

        rows, columns = model.token_grid(scaled)
        num = largest_divisor(len(scaled), _PATCHES_AT_ONCE // (rows * columns))
        if model.in_parts and num < len(scaled):
            return map_parts(some, scaled, num)
        return some(scaled)

    return cams.multi_scale_cams(
        cam_fn,
        images,
        scales=tuple(config.cam_scales),
        unscaled=unscaled,
        class_ids=class_ids,
    )


def by_group(config: ConfigDict, loss: Callable, *arrays: jax.Array) -> jax.Array:
    """Mean of a `loss` that pools over images, over groups of `config.group_size` of them."""
    if len(arrays[0]) == config.group_size:  # shares its softmax with the dense energy
        return loss(*arrays)
    groups = [x.reshape(-1, config.group_size, *x.shape[1:]) for x in arrays]  # [G, g, ...]
    return jax.vmap(loss)(*groups).mean()


def make_loss_fn(config: ConfigDict, model: ToCo, phase: Phase, *, max_classes: int) -> Callable:
    """The loss of one device's share of a batch, for the terms that `phase` gives a weight.

    Args:
        config: a validated configuration.
        model: the network.
        phase: loss weights in force.
        max_classes: most classes an image of the data holds, background included.

    Returns:
        `loss_fn(params, teacher_params, keys [B], batch, crop_origins [B, n, 2] or None)` to
        `(total, aux)`; `aux` holds the unweighted terms under `"terms"` and what they were made
        from. A function of arrays alone.
    """
    weight = phase.weight
    patch = model.backbone.patch
    grid = (config.crop_size // patch,) * 2
    thresholds = {"high_thre": config.high_thre, "low_thre": config.low_thre}

    def loss_fn(params, teacher_params, keys, batch, crop_origins=None):
        cls_label, valid_box = batch["cls_label"], batch["valid_box"]

        def apply(method: str, *args, **kwargs):
            return model.apply({"params": params}, *args, method=method, **kwargs)

        # 1. One pass with gradient over the global views; the first is the classification input,
        # and of the second nothing but the class token is ever used.
        view1 = normalize(batch["image"])
        views = [view1, normalize(batch["view2"])] if weight("ctc") else [view1]
        tokens = apply("encode", jnp.concatenate(views), num_mapped=len(view1))
        terms, out = {}, apply("classify", tokens, grid)
        if weight("cls"):
            terms["cls"] = losses.multilabel_soft_margin(out["cls_logits"], cls_label)
        if weight("cls_aux"):
            terms["cls_aux"] = losses.multilabel_soft_margin(out["aux_cls_logits"], cls_label)
        aux = {"cls_logits": out["cls_logits"], "aux_cls_logits": out["aux_cls_logits"]}

        # 2. Multi-scale CAMs of the final and the intermediate layer, without gradient, of the
        # classes that an image may hold; labels count these until they are handed out.
        if any(weight(term) for term in ("ptc", "ctc", "seg", "reg")):
            class_ids, present = cams.present_classes(cls_label, max_classes - 1)  # [B, K] each
            cam, aux_cam = class_maps(config, model, params, view1, out, class_ids)
            aux |= {"cam": cam, "aux_cam": aux_cam, "class_ids": class_ids}

        # 3. Patch token contrast: the intermediate CAM says which final patch tokens may agree.
        if weight("ptc"):
            token_box = valid_box if config.as_published else cams.box_to_tokens(valid_box, patch)
            aux_label = cams.cam_to_pseudo_label(
                resize(aux_cam, grid), present, token_box, bkg_thre=config.bkg_thre, **thresholds
            )
            affinity = cams.label_to_affinity(aux_label)
            pairs = (tokens["patch_tokens"], affinity)
            terms["ptc"] = by_group(config, losses.patch_token_contrast, *pairs)
            aux["pseudo_label_aux"] = cams.to_class_labels(aux_label, class_ids)

        # 4. Class token contrast: crops of uncertain regions against the global views.
        if weight("ctc"):
            roi_mask = cams.cam_to_roi_mask(aux_cam, present, **thresholds)
            if crop_origins is None:
                crop_origins = crops.sample_crop_origins(
                    keys, roi_mask, num=config.num_local_crops, size=config.local_crop_size
                )
            local_crops, positive = crops.crop_and_flag(
                batch["local"], roi_mask, crop_origins, size=config.local_crop_size
            )
            student, teacher, positive = contrast_pairs(
                apply, teacher_params, tokens["cls_token"], local_crops, positive
            )
            terms["ctc"] = losses.class_token_contrast(
                student, teacher, positive, temperature=config.temperature
            )
            aux |= {"roi_mask": roi_mask, "positive": positive}
            aux |= {"student": student, "teacher": teacher}

        # 5. Segmentation: the refined CAM supervises the decoder, the dense energy smooths it.
        if weight("seg") or weight("reg"):
            refined = par.refine_pseudo_label(
                par.unit_image(batch["image"], truncated=config.as_published),
                {"cam": cam, "aux_cam": aux_cam}[phase.pseudo_label_cam],
                present,
                valid_box,
                max_classes=max_classes,
                **thresholds,
            )
            pseudo_label = cams.to_class_labels(refined, class_ids)
            seg_logits = apply("decode", tokens, grid)
            full_logits = resize(seg_logits, batch["image"].shape[1:3])
            if weight("seg"):
                terms["seg"] = by_group(config, losses.segmentation, full_logits, pseudo_label)
            if weight("reg"):
                terms["reg"] = losses.dense_energy(
                    batch["image"], full_logits, pseudo_label, valid_box
                )
            aux |= {"seg_logits": seg_logits, "pseudo_label": pseudo_label}

        total = sum(weight(term) * value for term, value in terms.items())
        return total, aux | {"terms": terms | {"total": total}}

    return loss_fn
