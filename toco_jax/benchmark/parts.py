"""The parts of the training step as programs of their own, on the inputs that they have in it.

They do not add up to the step exactly: inside it XLA fuses across their borders.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from toco_jax.config import Phase
from toco_jax.method import cams, crops, losses, par, toco
from toco_jax.models.network import ToCo, normalize
from toco_jax.ops.resize import resize
from toco_jax.training import step

Parts = dict[str, tuple[Callable, tuple]]


def make_parts(
    config: ConfigDict,
    model: ToCo,
    phase: Phase,
    state: step.TrainState,
    batch: dict[str, jax.Array],
    *,
    max_classes: int,
    jit: Callable = jax.jit,
) -> Parts:
    """Jitted parts by name, each with its arguments.

    Args:
        config: a validated configuration.
        model: the network.
        phase: loss weights in force; parts without weight are left out.
        state: the state on one device.
        batch: one device's share of a batch.
        max_classes: most classes an image of the data holds, background included.
        jit: how a part is compiled.
    """
    parts: Parts = {}

    def run(name: str, function: Callable, *inputs: Any) -> Any:
        parts[name] = jit(function), inputs
        return parts[name][0](*inputs)

    params = state.params
    box = batch["valid_box"]
    class_ids, present = cams.present_classes(batch["cls_label"], max_classes - 1)  # [B, K] each
    thresholds = {"high_thre": config.high_thre, "low_thre": config.low_thre}
    encode = encoder_pass(model, views=("image", "view2") if phase.weight("ctc") else ("image",))
    _, tokens = run("encoder, global views, gradient", encode, params, batch)
    if any(phase.weight(term) for term in ("ptc", "ctc", "seg", "reg")):
        scales = cam_passes(config, model)
        cam, aux_cam = run("CAMs of all scales", scales, params, batch, tokens, class_ids)
    if phase.weight("ptc"):
        contrast = patch_contrast(config, model)
        run("patch token contrast", contrast, tokens["patch_tokens"], aux_cam, present, box)
    if phase.weight("ctc"):
        contrast = class_contrast(config, model)
        inputs = (params, state.teacher_params, tokens["cls_token"], batch["local"], aux_cam)
        run("local crops and projections, gradient", contrast, *inputs, present, state.key)
    if phase.weight("seg") or phase.weight("reg"):

        def refine(image, cam, cls_label, valid_box):
            image = par.unit_image(image, truncated=config.as_published)
            settings = thresholds | {"max_classes": max_classes}
            return par.refine_pseudo_label(image, cam, cls_label, valid_box, **settings)

        chosen = {"cam": cam, "aux_cam": aux_cam}[phase.pseudo_label_cam]
        pseudo_label = run("PAR", refine, batch["image"], chosen, present, box)
        logits, _ = run(
            "decoder and segmentation loss, gradient",
            decoder_pass(config, model),
            params,
            tokens,
            pseudo_label,
        )
        energy = jax.value_and_grad(losses.dense_energy, argnums=1)
        run("dense energy (lattice)", energy, batch["image"], logits, pseudo_label, box)

    def update(state: step.TrainState, grads: dict) -> step.TrainState:
        teacher_params = step.momentum_update(state, config.ema_momentum)
        return step.apply_gradients(config, state, teacher_params, grads)

    run("optimiser", update, state, params)
    return parts


def encoder_pass(model: ToCo, *, views: tuple[str, ...]) -> Callable:
    """`(params, batch)` to the gradient of all outputs of the views, and the tokens."""

    def loss(params: dict, batch: dict) -> tuple[jax.Array, dict]:
        images = jnp.concatenate([normalize(batch[name]) for name in views])
        settings = {"method": "encode", "num_mapped": len(batch["image"])}
        tokens = model.apply({"params": params}, images, **settings)
        return sum(jnp.sum(x.astype(jnp.float32) ** 2) for x in tokens.values()), tokens

    return jax.grad(loss, has_aux=True)


def cam_passes(config: ConfigDict, model: ToCo) -> Callable:
    """`(params, batch, tokens, class_ids)` to both CAMs."""
    grid = (config.crop_size // model.backbone.patch,) * 2

    def function(
        params: dict, batch: dict, tokens: dict, class_ids: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        out = model.apply({"params": params}, tokens, grid, method="classify")
        images = normalize(batch["image"])
        return toco.class_maps(config, model, params, images, out, class_ids)

    return function


def patch_contrast(config: ConfigDict, model: ToCo) -> Callable:
    """`(patch_tokens, aux_cam, cls_label, valid_box)` to the gradient of the patch contrast."""
    patch = model.backbone.patch
    grid = (config.crop_size // patch,) * 2

    def loss(patch_tokens, aux_cam, cls_label, valid_box) -> jax.Array:
        label = cams.cam_to_pseudo_label(
            resize(aux_cam, grid),
            cls_label,
            cams.box_to_tokens(valid_box, patch),
            bkg_thre=config.bkg_thre,
            high_thre=config.high_thre,
            low_thre=config.low_thre,
        )
        pairs = (patch_tokens, cams.label_to_affinity(label))
        return toco.by_group(config, losses.patch_token_contrast, *pairs)

    return jax.grad(loss)


def class_contrast(config: ConfigDict, model: ToCo) -> Callable:
    """`(params, teacher_params, cls_tokens, local, aux_cam, cls_label, key)` to the gradient."""

    def loss(params, teacher_params, cls_tokens, local, aux_cam, cls_label, key) -> jax.Array:
        roi_mask = cams.cam_to_roi_mask(
            aux_cam, cls_label, high_thre=config.high_thre, low_thre=config.low_thre
        )
        size = config.local_crop_size
        origins = crops.sample_crop_origins(key, roi_mask, num=config.num_local_crops, size=size)
        local_crops, positive = crops.crop_and_flag(local, roi_mask, origins, size=size)

        def apply(method: str, *args, **kwargs):
            return model.apply({"params": params}, *args, method=method, **kwargs)

        pairs = toco.contrast_pairs(apply, teacher_params, cls_tokens, local_crops, positive)
        return losses.class_token_contrast(*pairs, temperature=config.temperature)

    return jax.grad(loss, argnums=(0, 2))


def decoder_pass(config: ConfigDict, model: ToCo) -> Callable:
    """`(params, tokens, pseudo_label)` to the logits at full size, and the gradient."""
    grid = (config.crop_size // model.backbone.patch,) * 2

    def loss(params, tokens, pseudo_label) -> tuple[jax.Array, jax.Array]:
        seg_logits = model.apply({"params": params}, tokens, grid, method="decode")
        logits = resize(seg_logits, pseudo_label.shape[1:])
        return losses.segmentation(logits, pseudo_label), logits

    def function(params, tokens, pseudo_label) -> tuple[jax.Array, Any]:
        grads, logits = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, tokens, pseudo_label)
        return logits, grads

    return function
