"""ToCo: the figure of the poster, from a batch of images to the weighted sum of its losses.

Each function below is one box of the figure, in the order in which data flows through it:

    classification   encoder and classifiers, with the classification losses
    class_maps       CAMs of the last and of the intermediate layer
    patch_contrast   patch token contrast
    uncertain_crops  local crops of uncertain regions
    class_contrast   class token contrast
    segmentation     pseudo labels, decoder, segmentation loss and regularisation

A box takes `seen`, the dictionary of all arrays computed so far (at first the batch), and keyword
numbers. It returns the new arrays, loss terms among them. `net(method, *args)` calls a method of
the network `ToCo`. No encoder pass is done twice: view 1 is the input of the classification, the
first global view, and the input of the CAM at scale 1. The teacher is a second projection head on
the student's class tokens.

Inside the boxes, labels count the K classes `class_ids [B, K]` that an image may show, from 1;
`cams.to_class_labels` converts them to labels that count all C classes.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Key
from ml_collections import ConfigDict

from toco_jax.method import cams, crops, losses, par
from toco_jax.method.averages import moved_average
from toco_jax.method.numbers import numbers_of
from toco_jax.method.phases import Phase, weighted
from toco_jax.method.supervision import supervision
from toco_jax.models.network import ToCo, call, frozen_cams, normalize
from toco_jax.ops.resize import resize
from toco_jax.run.state import TrainState

Arrays = dict[str, Array]

# The loss terms that need no class maps.
WITHOUT_MAPS = {"cls", "cls_aux", "cls_img", "sup"}


def classification(net: Callable, seen: Arrays, *, with_view2: bool) -> Arrays:
    """Encodes the global views, and computes the classification losses of view 1.

    Args:
        net: the network.
        seen: the batch: uint8 `image` and `view2 [B, H, W, 3]`, and `cls_label [B, C]` of 0 and 1.
        with_view2: encodes view 2 as well, of which only the class token is computed.

    Returns:
        The terms `cls` and `cls_aux`; what `ToCo.encode` returns for the views; and what
        `ToCo.classify` returns for view 1.
    """
    view1, label = normalize(seen["image"]), seen["cls_label"]
    views = [view1, normalize(seen["view2"])] if with_view2 else [view1]
    tokens = net("encode", jnp.concatenate(views), num_mapped=len(view1))
    out = net("classify", tokens, net("token_grid", view1))
    cls = losses.multilabel_soft_margin(out["cls_logits"], label)
    cls_aux = losses.multilabel_soft_margin(out["aux_cls_logits"], label)
    return tokens | out | {"cls": cls, "cls_aux": cls_aux}


def image_classification(net: Callable, seen: Arrays) -> Arrays:
    """The image head, which is no part of ToCo, classifies view 1; returns the term `cls_img`."""
    logits = net("classify_image", normalize(seen["image"]))
    return {"cls_img": losses.multilabel_soft_margin(logits, seen["cls_label"])}


def class_maps(
    cam_fn: cams.CamFn, seen: Arrays, *, scales: tuple[float, ...], num_present: int
) -> Arrays:
    """Computes multi-scale CAMs of the classes that each image may show, without gradient.

    Args:
        cam_fn: see `cams.multi_scale_cams`.
        seen: the arrays so far.
        scales: factors of the image size.
        num_present: K, the most classes that any image shows.

    Returns:
        `full_cam` and `full_aux_cam [B, H, W, K]` in [0, 1], at the size of the image; `class_ids`
        and `present [B, K]` of `cams.present_classes`.
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
    """Patch token contrast: the intermediate layer's CAM supervises the final patch tokens.

    The CAM becomes a label for each patch. Final tokens of patches with the same label should be
    similar, and those of patches with different labels should not.

    Args:
        seen: the arrays so far.
        grid: rows and columns of the patches.
        patch: side of a patch in pixels; 1 leaves the valid box in pixels, as the released code
            does.
        group_size: number of images over which the loss pools its pairs.
        **thresholds: `low_thre`, `bkg_thre` and `high_thre` in [0, 1], see
            `cams.cam_to_pseudo_label`.

    Returns:
        The term `ptc`, and `pseudo_label_aux [B, *grid]`.
    """
    token_box = cams.box_to_tokens(seen["valid_box"], patch)
    aux_cam = resize(seen["full_aux_cam"], grid)
    label = cams.cam_to_pseudo_label(aux_cam, seen["present"], token_box, **thresholds)
    pairs = (seen["patch_tokens"], cams.label_to_affinity(label))
    ptc = losses.by_group(losses.patch_token_contrast, *pairs, group_size=group_size)
    return {"ptc": ptc, "pseudo_label_aux": cams.to_class_labels(label, seen["class_ids"])}


def uncertain_crops(
    keys: Key[Array, " b"], seen: Arrays, *, num: int, size: int, **thresholds: float
) -> Arrays:
    """Cuts crops from the regions where the intermediate layer's CAM is uncertain.

    Args:
        keys: one PRNG key per image.
        seen: the arrays so far; if `crop_origins [B, num, 2]` is among them, crops are cut there
            and none is drawn.
        num: crops per image.
        size: side of a crop in pixels.
        **thresholds: `low_thre` and `high_thre` in [0, 1], see `cams.cam_to_roi_mask`.

    Returns:
        `local_crops` uint8 `[B, num, size, size, 3]`, `is_foreground` bool `[B, num]`, and
        `roi_mask [B, H, W]`.
    """
    roi_mask = cams.cam_to_roi_mask(seen["full_aux_cam"], seen["present"], **thresholds)
    origins = seen.get("crop_origins")
    if origins is None:
        origins = crops.sample_crop_origins(keys, roi_mask, num=num, size=size)
    cut, is_foreground = crops.crop_and_flag(seen["local"], roi_mask, origins, size=size)
    return {"local_crops": cut, "is_foreground": is_foreground, "roi_mask": roi_mask}


def class_contrast(net: Callable, teacher: Callable, seen: Arrays, *, temperature: float) -> Arrays:
    """Class token contrast: compares the crops of an image with its two global views.

    Class tokens of crops that show foreground should be similar to those of the global views, and
    class tokens of crops that show background should not.

    Args:
        net: the network.
        teacher: the teacher's projection head, from class tokens `[..., D]` to `[..., E]`.
        seen: the arrays so far.
        temperature: tau > 0.

    Returns:
        The term `ctc`; the projections `student [2 + n, B, E]` and `teacher [2, B, E]`; and
        `positive [B, 2 + n]`, the views that show foreground.
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
    **thresholds: float | Array,
) -> Arrays:
    """Trains the decoder on labels made from refined CAMs, and smooths its prediction.

    Args:
        net: the network.
        seen: the arrays so far.
        source: the map that labels are made from, such as `"cam"` or `"aux_cam"`.
        group_size: number of images over which the cross-entropy pools its pixels.
        truncated: refines on the colours of the released code, see `par.unit_image`.
        unrolled: see `Compute`.
        **thresholds: `low_thre` and `high_thre` in [0, 1], see `par.refine_pseudo_label`.

    Returns:
        The terms `seg` and `reg` (the dense energy); `seg_logits [B, h, w, C + 1]`; and
        `pseudo_label [B, H, W]`.
    """
    image, box = seen["image"], seen["valid_box"]
    unit = par.unit_image(image, truncated=truncated)
    cam, present = seen[f"full_{source}"], seen["present"]
    refined = par.refine_pseudo_label(unit, cam, present, box, unrolled=unrolled, **thresholds)
    label = cams.to_class_labels(refined, seen["class_ids"])
    seg_logits = net("decode", seen, net("token_grid", image))
    logits = resize(seg_logits, image.shape[1:3])
    seg = losses.by_group(losses.segmentation, logits, label, group_size=group_size)
    reg = losses.dense_energy(image, logits, label, box, unrolled=unrolled)
    return {"seg": seg, "reg": reg, "seg_logits": seg_logits, "pseudo_label": label}


def figure(
    net: Callable,
    teacher: Callable,
    cam_fn: cams.CamFn,
    keys: Key[Array, " b"],
    batch: Arrays,
    *,
    terms: set[str],
    numbers: dict[str, dict],
) -> Arrays:
    """Runs the boxes of the poster's figure that the loss `terms` need.

    Args:
        net: the network.
        teacher: the teacher's projection head.
        cam_fn: the network's CAMs without gradient, see `cams.multi_scale_cams`.
        keys: one PRNG key per image.
        batch: the arrays of the data pipeline.
        terms: names of the loss terms to compute.
        numbers: the keyword numbers of each box, see `numbers_of`.

    Returns:
        The batch and all arrays that the boxes return.
    """
    seen = batch | classification(net, batch, with_view2="ctc" in terms)
    if terms - WITHOUT_MAPS:
        seen |= class_maps(cam_fn, seen, **numbers["class_maps"])
    return seen | from_maps(net, teacher, keys, seen, terms=terms, numbers=numbers)


def from_maps(
    net: Callable,
    teacher: Callable,
    keys: Key[Array, " b"],
    seen: Arrays,
    *,
    terms: set[str],
    numbers: dict[str, dict],
) -> Arrays:
    """Runs the boxes that follow the class maps; arguments as in `figure`."""
    if "ptc" in terms:
        seen = seen | patch_contrast(seen, **numbers["patch_contrast"])
    if "ctc" in terms:
        seen = seen | uncertain_crops(keys, seen, **numbers["uncertain_crops"])
        seen |= class_contrast(net, teacher, seen, **numbers["class_contrast"])
    if terms & {"seg", "reg"}:
        seen = seen | segmentation(net, seen, **numbers["segmentation"])
    if "cls_img" in terms:
        seen = seen | image_classification(net, seen)
    if "sup" in terms:
        seen = seen | supervision(net, seen, **numbers["supervision"])
    return seen


def init_extra(config: ConfigDict, params: dict) -> dict:
    """Returns what training keeps beside the network before its first step: the teacher head."""
    del config  # other methods read it
    return {"proj_head": jax.tree.map(jnp.array, params["proj_head"])}


def moved_extra(config: ConfigDict, state: TrainState) -> dict:
    """Returns the teacher head moved towards the student's, as each step does before its losses."""
    teacher, student = state.extra["proj_head"], state.params["proj_head"]
    return {"proj_head": moved_average(teacher, student, config.ema_momentum)}


def make_loss_fn(config: ConfigDict, model: ToCo, phase: Phase, *, num_present: int) -> Callable:
    """Makes the loss function of one device's share of a batch.

    Args:
        config: a validated configuration.
        model: the network.
        phase: the loss weights; a term of weight 0 is not computed.
        num_present: the most foreground classes that any image of the data shows.

    Returns:
        A pure function `loss_fn(params, extra, keys, batch)` that returns `(total, seen)`. `extra`
        is that of the training state, and `keys [B]` are PRNG keys. `seen` holds all that `figure`
        returns, and the unweighted terms under `"terms"`. If the batch has `crop_origins
        [B, n, 2]`, no crop is drawn.
    """
    weights = phase.active
    numbers = numbers_of(config, model, phase, num_present=num_present)

    def loss_fn(params, extra, keys, batch):
        net = functools.partial(call, model, params)
        teacher = functools.partial(call, model, {"proj_head": extra["proj_head"]}, "project")
        settings = {"terms": set(weights), "numbers": numbers}
        seen = figure(net, teacher, frozen_cams(model, params), keys, batch, **settings)
        return weighted(seen, weights)

    return loss_fn
