"""The training step: the poster's figure, from a batch of views to an update.

Each encoder pass is done once. View 1 is the classification input, the first global view and the
un-mirrored scale of the CAM; the teacher is a head of its own on the student's class tokens.
"""

from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from ml_collections import ConfigDict

from toco_jax import cams, crops, losses, optim, par
from toco_jax.config import Phase
from toco_jax.models.heads import ProjectionHead
from toco_jax.models.toco import ToCo, normalize
from toco_jax.models.vit import backbone_from_name
from toco_jax.ops.resize import resize
from toco_jax.sharding import AXIS, data_parallel, mean_over_parts, replicated, split_over

# Purpose of a random stream, folded into the run's key before the step.
_CROPS = 1


@flax.struct.dataclass
class TrainState:
    """All that a run carries from step to step. The key never changes: draws fold in the step."""

    step: jax.Array
    params: Any
    teacher_params: Any
    opt_state: Any
    key: jax.Array


def make_model(config: ConfigDict, *, grid: int) -> ToCo:
    """The network of a configuration; `grid` is the side of the stored positions in patches.

    What `"auto"` means depends on the devices at hand: bfloat16 on a GPU or TPU and float32 on a
    CPU, cuDNN's attention for bfloat16 on a GPU, and low memory on a CPU, where it also is fastest.
    """
    platform = jax.default_backend()
    dtype = config.compute_dtype
    if dtype == "auto":
        dtype = "float32" if platform == "cpu" else "bfloat16"
    # Older runs have neither key.
    attention, low_memory = config.get("attention", "auto"), config.get("low_memory", "auto")
    if attention == "auto":
        attention = "cudnn" if platform == "gpu" and dtype == "bfloat16" else "xla"
    return ToCo(
        backbone_from_name(config.backbone),
        num_classes=config.num_classes,
        aux_layer=config.aux_layer,
        grid=grid,
        decoder_width=config.decoder_width,
        decoder_dilation=config.decoder_dilation,
        dtype=jnp.dtype(dtype),
        flash=attention == "cudnn",
        low_memory=platform == "cpu" if low_memory == "auto" else low_memory == "on",
    )


def make_optimizer(config: ConfigDict, params: dict):
    """The optimiser of a configuration for parameters (or their shapes)."""

    def schedule(step: jax.Array) -> jax.Array:
        return config.learning_rate * optim.poly_warmup_factor(
            step, warmup_steps=config.warmup_steps, total_steps=config.total_steps
        )

    return optim.adamw(
        schedule,
        optim.learning_rate_scales(
            params,
            head_lr_multiplier=config.head_lr_multiplier,
            projection_lr_multiplier=config.projection_lr_multiplier,
        ),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
    )


def init_params(model: ToCo, key: jax.Array) -> dict:
    """Random parameters of the network."""
    side = model.backbone.patch
    return model.init(key, jnp.zeros((1, side, side, 3)))["params"]


def init_state(config: ConfigDict, params: dict, teacher_params: dict | None = None) -> TrainState:
    """State before the first step; the teacher head starts as a copy of the student's."""
    if teacher_params is None:
        teacher_params = jax.tree.map(jnp.array, params["proj_head"])
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        teacher_params=teacher_params,
        opt_state=make_optimizer(config, params).init(params),
        key=jax.random.key(config.seed),
    )


def place_state(config: ConfigDict, state: TrainState, mesh: Mesh) -> TrainState:
    """A state on the devices of a mesh: a copy each, or a share each of the optimiser's moments
    with `config.shard_optimizer`.
    """
    placed = jax.tree.map(lambda _: replicated(mesh), state)
    if config.shard_optimizer:
        shares = jax.tree.map(lambda x: split_over(mesh, x.shape), state.opt_state)
        placed = placed.replace(opt_state=shares)
    # Unlike `device_put` this also places on the devices of other processes.
    return jax.jit(lambda state: state, out_shardings=placed)(state)


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

    def grouped(loss: Callable, *arrays: jax.Array) -> jax.Array:
        """Mean of `loss` over groups of images; the loss pools over the images of a group."""
        split = [x.reshape(-1, config.group_size, *x.shape[1:]) for x in arrays]  # [G, g, ...]
        return jax.vmap(loss)(*split).mean()

    def loss_fn(params, teacher_params, keys, batch, crop_origins=None):
        cls_label, valid_box = batch["cls_label"], batch["valid_box"]

        def apply(method: str, *args, params=params, **kwargs):
            return model.apply({"params": params}, *args, method=method, **kwargs)

        # 1. One pass with gradient over the global views; the first is the classification input,
        # and of the second nothing but the class token is ever used.
        view1 = normalize(batch["image"])
        views = [view1, normalize(batch["view2"])] if weight("ctc") else [view1]
        tokens = apply("encode", jnp.concatenate(views), num_mapped=len(view1))
        out = apply("classify", tokens, grid)
        terms = {}
        if weight("cls"):
            terms["cls"] = losses.multilabel_soft_margin(out["cls_logits"], cls_label)
        if weight("cls_aux"):
            terms["cls_aux"] = losses.multilabel_soft_margin(out["aux_cls_logits"], cls_label)
        aux = {"cls_logits": out["cls_logits"], "aux_cls_logits": out["aux_cls_logits"]}

        # 2. Multi-scale CAMs of the final and the intermediate layer, without gradient.
        if any(weight(term) for term in ("ptc", "ctc", "seg", "reg")):
            cam, aux_cam = jax.lax.stop_gradient(
                cams.multi_scale_cams(
                    lambda images: apply("cams", images, params=jax.lax.stop_gradient(params)),
                    view1,
                    scales=tuple(config.cam_scales),
                    unscaled=(out["cam"], out["aux_cam"]),
                )
            )
            aux |= {"cam": cam, "aux_cam": aux_cam}

        # 3. Patch token contrast: the intermediate CAM says which final patch tokens may agree.
        if weight("ptc"):
            token_box = valid_box if config.as_published else cams.box_to_tokens(valid_box, patch)
            aux_label = cams.cam_to_pseudo_label(
                resize(aux_cam, grid), cls_label, token_box, bkg_thre=config.bkg_thre, **thresholds
            )
            affinity = cams.label_to_affinity(aux_label)
            terms["ptc"] = grouped(losses.patch_token_contrast, tokens["patch_tokens"], affinity)
            aux["pseudo_label_aux"] = aux_label

        # 4. Class token contrast: crops of uncertain regions against the global views.
        if weight("ctc"):
            roi_mask = cams.cam_to_roi_mask(aux_cam, cls_label, **thresholds)
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
            aux |= {"roi_mask": roi_mask, "positive": positive, "student": student}
            aux["teacher"] = teacher

        # 5. Segmentation: the refined CAM supervises the decoder, the dense energy smooths it.
        if weight("seg") or weight("reg"):
            pseudo_label = par.refine_pseudo_label(
                par.unit_image(batch["image"], truncated=config.as_published),
                {"cam": cam, "aux_cam": aux_cam}[phase.pseudo_label_cam],
                cls_label,
                valid_box,
                max_classes=max_classes,
                **thresholds,
            )
            seg_logits = apply("decode", tokens, grid)
            full_logits = resize(seg_logits, batch["image"].shape[1:3])
            if weight("seg"):
                terms["seg"] = grouped(losses.segmentation, full_logits, pseudo_label)
            if weight("reg"):
                terms["reg"] = losses.dense_energy(
                    batch["image"], full_logits, pseudo_label, valid_box
                )
            aux |= {"seg_logits": seg_logits, "pseudo_label": pseudo_label}

        total = sum(weight(term) * value for term, value in terms.items())
        return total, aux | {"terms": terms | {"total": total}}

    return loss_fn


def momentum_update(state: TrainState, momentum: float) -> dict:
    """The teacher head a little closer to the student's; done before the losses of a step."""
    return jax.tree.map(
        lambda teacher, student: momentum * teacher + (1 - momentum) * student,
        state.teacher_params,
        state.params["proj_head"],
    )


def apply_gradients(
    config: ConfigDict, state: TrainState, teacher_params: dict, grads: dict
) -> TrainState:
    """The state after one update by `grads`, with the step's teacher head."""
    updates, opt_state = make_optimizer(config, state.params).update(
        grads, state.opt_state, state.params, step=state.step
    )
    return state.replace(
        step=state.step + 1,
        params=jax.tree.map(jnp.add, state.params, updates),
        teacher_params=teacher_params,
        opt_state=opt_state,
    )


def make_train_step(
    config: ConfigDict, model: ToCo, mesh: Mesh, phase: Phase, *, max_classes: int
) -> Callable:
    """The jitted step of one phase over a mesh; see `make_loss_fn` for the arguments.

    Returns:
        `train_step(state, batch, crop_origins=None) -> (state, terms)`: `batch` is split over the
        mesh (uint8 `image`, `view2`, `local` `[B, S, S, 3]`, float32 `cls_label [B, C]`, int32
        `valid_box [B, 4]`), `terms` holds the float32 loss terms and `total`. The state is donated.
    """
    loss_fn = make_loss_fn(config, model, phase, max_classes=max_classes)

    def share_grads(params, teacher_params, *share):
        """Gradient and loss terms of this device's share, averaged over the devices."""

        def part_grads(part) -> tuple[dict, dict]:
            value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
            (_, aux), grads = value_and_grad(params, teacher_params, *part)
            return grads, aux["terms"]

        return jax.lax.pmean(mean_over_parts(part_grads, share, config.accumulate), AXIS)

    everywhere, split = PartitionSpec(), PartitionSpec(AXIS)
    all_grads = data_parallel(
        share_grads, mesh, (everywhere, everywhere, split, split, split), everywhere
    )

    def train_step(state: TrainState, batch: dict, crop_origins: jax.Array | None = None):
        teacher_params = momentum_update(state, config.ema_momentum)
        crop_key = jax.random.fold_in(jax.random.fold_in(state.key, _CROPS), state.step)
        keys = jax.random.split(crop_key, batch["image"].shape[0])
        grads, terms = all_grads(state.params, teacher_params, keys, batch, crop_origins)
        state = apply_gradients(config, state, teacher_params, grads)
        if config.shard_optimizer:
            shares = jax.tree.map(lambda x: split_over(mesh, x.shape), state.opt_state)
            moments = jax.lax.with_sharding_constraint(state.opt_state, shares)
            state = state.replace(opt_state=moments)
        return state, terms

    copies = replicated(mesh)
    moments = None if config.shard_optimizer else copies
    state = TrainState(copies, copies, copies, moments, copies)
    return jax.jit(train_step, donate_argnums=0, out_shardings=(state, copies))
