"""ToCo: the poster's figure, from a batch of views to the weighted sum of the losses.

Each encoder pass is done once. View 1 is the classification input, the first global view and the
un-mirrored scale of the CAM; the teacher is a head of its own on the student's class tokens.

Each function below is a box of the figure, in the order in which the data flows. It takes the
arrays known so far by their names (`seen`, the batch at first) and keyword numbers, and returns new
arrays by their names, loss terms among them. `net(method, *args)` calls the network. Labels count
the classes `class_ids [B, K]` that an image may hold, from 1, until `cams.to_class_labels` names
them among all classes.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from toco_jax.method import cams, crops, losses, par
from toco_jax.method.phases import Phase
from toco_jax.models.network import ToCo, call, frozen_cams, normalize
from toco_jax.ops.resize import resize

Arrays = dict[str, jax.Array]


def classification(net: Callable, seen: Arrays, *, with_view2: bool) -> Arrays:
    """One pass with gradient over the global views, and the classification losses of view 1.

    Of view 2 only the class token is computed.

    Returns:
        The terms `cls` and `cls_aux`; and what `ToCo.encode` returns for both views and
        `ToCo.classify` for view 1.
    """
    view1, label = normalize(seen["image"]), seen["cls_label"]
    views = [view1, normalize(seen["view2"])] if with_view2 else [view1]
    tokens = net("encode", jnp.concatenate(views), num_mapped=len(view1))
    out = net("classify", tokens, net("token_grid", view1))
    cls = losses.multilabel_soft_margin(out["cls_logits"], label)
    cls_aux = losses.multilabel_soft_margin(out["aux_cls_logits"], label)
    return tokens | out | {"cls": cls, "cls_aux": cls_aux}


def class_maps(
    cam_fn: cams.CamFn, seen: Arrays, *, scales: tuple[float, ...], num_present: int
) -> Arrays:
    """Multi-scale CAMs of the classes that an image may hold, without gradient.

    Returns:
        `full_cam`, `full_aux_cam [B, H, W, K]` in [0, 1) at the size of the image, and `class_ids`,
        `present [B, K]` of `cams.present_classes`.
    """
    class_ids, present = cams.present_classes(seen["cls_label"], num_present)
    cam, aux_cam = cams.multi_scale_cams(
        cam_fn,
        normalize(seen["image"]),
        scales=scales,
        unscaled=jax.lax.stop_gradient((seen["cam"], seen["aux_cam"])),
        class_ids=class_ids,
    )
    return {"full_cam": cam, "full_aux_cam": aux_cam, "class_ids": class_ids, "present": present}


def patch_contrast(
    seen: Arrays, *, grid: tuple[int, int], patch: int, group_size: int, **thresholds: float
) -> Arrays:
    """Patch token contrast: the intermediate layer's CAM says which final patch tokens may agree.

    Args:
        seen: the arrays known so far.
        grid: rows and columns of the tokens.
        patch: side of a patch in pixels; 1 leaves the box unscaled, as the released code does.
        group_size: images that the loss pools over.
        **thresholds: `low_thre`, `bkg_thre` and `high_thre` in [0, 1].

    Returns:
        The term `ptc`; and `pseudo_label_aux [B, *grid]`.
    """
    token_box = cams.box_to_tokens(seen["valid_box"], patch)
    aux_cam = resize(seen["full_aux_cam"], grid)
    label = cams.cam_to_pseudo_label(aux_cam, seen["present"], token_box, **thresholds)
    pairs = (seen["patch_tokens"], cams.label_to_affinity(label))
    ptc = by_group(losses.patch_token_contrast, *pairs, group_size=group_size)
    return {"ptc": ptc, "pseudo_label_aux": cams.to_class_labels(label, seen["class_ids"])}


def uncertain_crops(
    keys: jax.Array, seen: Arrays, *, num: int, size: int, **thresholds: float
) -> Arrays:
    """Crops of the regions that the intermediate layer's CAM leaves uncertain.

    Args:
        keys: PRNG keys `[B]`.
        seen: the arrays known so far; with `crop_origins [B, num, 2]` nothing is drawn.
        num: crops of an image.
        size: side of a crop in pixels.
        **thresholds: `low_thre` and `high_thre` in [0, 1].

    Returns:
        `local_crops` uint8 `[B, num, size, size, 3]`, `is_foreground [B, num]` booleans and
        `roi_mask [B, H, W]`.
    """
    roi_mask = cams.cam_to_roi_mask(seen["full_aux_cam"], seen["present"], **thresholds)
    origins = seen.get("crop_origins")
    if origins is None:
        origins = crops.sample_crop_origins(keys, roi_mask, num=num, size=size)
    cut, is_foreground = crops.crop_and_flag(seen["local"], roi_mask, origins, size=size)
    return {"local_crops": cut, "is_foreground": is_foreground, "roi_mask": roi_mask}


def class_contrast(net: Callable, teacher: Callable, seen: Arrays, *, temperature: float) -> Arrays:
    """Class token contrast: the crops of an image against its global views.

    Args:
        net: the network.
        teacher: the teacher head, from class tokens `[..., D]` to `[..., E]`.
        seen: the arrays known so far.
        temperature: tau > 0.

    Returns:
        The term `ctc`; and `student [2 + n, B, E]`, `teacher [2, B, E]`, `positive [B, 2 + n]`.
    """
    local_crops, cls_tokens = seen["local_crops"], seen["cls_token"]
    batch_size, num, *crop_shape = local_crops.shape
    local_crops = local_crops.swapaxes(0, 1).reshape(-1, *crop_shape)  # [n * B, s, s, 3]
    local_tokens = net("encode", normalize(local_crops), num_mapped=0)["cls_token"]
    student = net("project", jnp.concatenate([cls_tokens, local_tokens]))
    student = student.reshape(2 + num, batch_size, -1)  # [2 + n, B, E]
    target = jax.lax.stop_gradient(teacher(cls_tokens)).reshape(2, batch_size, -1)  # [2, B, E]
    is_global = jnp.ones((batch_size, 2), bool)  # the global views always show foreground
    positive = jnp.concatenate([is_global, seen["is_foreground"]], axis=1)  # [B, 2 + n]
    ctc = losses.class_token_contrast(student, target, positive, temperature=temperature)
    return {"ctc": ctc, "student": student, "teacher": target, "positive": positive}


def segmentation(
    net: Callable,
    seen: Arrays,
    *,
    source: str,
    group_size: int,
    truncated: bool,
    unrolled: bool,
    **thresholds: float,
) -> Arrays:
    """The refined CAM supervises the decoder; the dense energy smooths what that predicts.

    Args:
        net: the network.
        seen: the arrays known so far.
        source: which map becomes labels, `"cam"` or `"aux_cam"`.
        group_size: images that the cross-entropy pools over.
        truncated: refines on the released code's image, see `par.unit_image`.
        unrolled: see `Compute`.
        **thresholds: `low_thre` and `high_thre` in [0, 1].

    Returns:
        The terms `seg` and `reg`; and `seg_logits [B, h, w, C + 1]`, `pseudo_label [B, H, W]`.
    """
    image, box = seen["image"], seen["valid_box"]
    unit = par.unit_image(image, truncated=truncated)
    settings = thresholds | {"unrolled": unrolled}
    maps = (seen[f"full_{source}"], seen["present"])
    refined = par.refine_pseudo_label(unit, *maps, box, **settings)
    label = cams.to_class_labels(refined, seen["class_ids"])
    seg_logits = net("decode", seen, net("token_grid", image))
    logits = resize(seg_logits, image.shape[1:3])
    seg = by_group(losses.segmentation, logits, label, group_size=group_size)
    reg = losses.dense_energy(image, logits, label, box, unrolled=unrolled)
    return {"seg": seg, "reg": reg, "seg_logits": seg_logits, "pseudo_label": label}


def by_group(loss: Callable, *arrays: jax.Array, group_size: int) -> jax.Array:
    """Mean over groups of `group_size` images of a `loss` that pools over images."""
    if len(arrays[0]) == group_size:  # shares its softmax with the dense energy
        return loss(*arrays)
    groups = [x.reshape(-1, group_size, *x.shape[1:]) for x in arrays]  # [G, g, ...]
    return jax.vmap(loss)(*groups).mean()


def figure(
    net: Callable,
    teacher: Callable,
    cam_fn: cams.CamFn,
    keys: jax.Array,
    batch: Arrays,
    *,
    terms: set[str],
    numbers: dict[str, dict],
) -> Arrays:
    """The poster's figure: all that the loss `terms` need, from a batch; see `numbers_of`."""
    seen = batch | classification(net, batch, with_view2="ctc" in terms)
    if terms - {"cls", "cls_aux"}:
        seen |= class_maps(cam_fn, seen, **numbers["class_maps"])
    if "ptc" in terms:
        seen |= patch_contrast(seen, **numbers["patch_contrast"])
    if "ctc" in terms:
        seen |= uncertain_crops(keys, seen, **numbers["uncertain_crops"])
        seen |= class_contrast(net, teacher, seen, **numbers["class_contrast"])
    if terms & {"seg", "reg"}:
        seen |= segmentation(net, seen, **numbers["segmentation"])
    return seen


def numbers_of(
    config: ConfigDict, model: ToCo, phase: Phase, *, num_present: int
) -> dict[str, dict]:
    """The keyword numbers of each box of the figure.

    Args:
        config: a validated configuration.
        model: the network.
        phase: what is in force.
        num_present: most foreground classes that an image of the data holds.
    """
    patch = model.backbone.patch
    grid = (config.crop_size // patch,) * 2
    regions = {"low_thre": config.low_thre, "high_thre": config.high_thre}
    labels = regions | {"bkg_thre": config.bkg_thre}
    pooled = {"group_size": config.group_size}
    box_unit = 1 if config.as_published else patch
    quirks = {"truncated": config.as_published, "unrolled": model.compute.unrolled}
    return {
        "class_maps": {"scales": tuple(config.cam_scales), "num_present": num_present},
        "patch_contrast": pooled | labels | {"grid": grid, "patch": box_unit},
        "uncertain_crops": regions
        | {"num": config.num_local_crops, "size": config.local_crop_size},
        "class_contrast": {"temperature": config.temperature},
        "segmentation": pooled | regions | quirks | {"source": phase.pseudo_label_cam},
    }


def make_loss_fn(config: ConfigDict, model: ToCo, phase: Phase, *, num_present: int) -> Callable:
    """The loss of one device's share of a batch, for the terms that `phase` gives a weight.

    Returns:
        `loss_fn(params, teacher_params, keys [B], batch)` to `(total, seen)`; `seen` holds the
        unweighted terms under `"terms"` and all that `figure` returns. A function of arrays alone;
        with `crop_origins [B, n, 2]` in the batch no crop is drawn.
    """
    weights = {term: weight for term, weight in phase.weights if weight}
    numbers = numbers_of(config, model, phase, num_present=num_present)

    def loss_fn(params, teacher_params, keys, batch):
        net = functools.partial(call, model, params)
        teacher = functools.partial(call, model, {"proj_head": teacher_params}, "project")
        settings = {"terms": set(weights), "numbers": numbers}
        seen = figure(net, teacher, frozen_cams(model, params), keys, batch, **settings)
        total = sum(weight * seen[term] for term, weight in weights.items())
        terms = {term: seen[term] for term in weights} | {"total": total}
        return total, seen | {"terms": terms}

    return loss_fn
