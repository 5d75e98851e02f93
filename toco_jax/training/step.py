"""The training step: the gradient of the objective over a mesh of devices, and the update."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from ml_collections import ConfigDict

from toco_jax.method.averages import moved_average
from toco_jax.method.methods import METHODS
from toco_jax.method.phases import Phase
from toco_jax.models.network import ToCo
from toco_jax.ops.parts import mean_over_parts
from toco_jax.run.state import TrainState
from toco_jax.runtime.compute import compiler_options, platform_of
from toco_jax.runtime.sharding import AXIS, data_parallel, replicated, split_over
from toco_jax.training import optim

# The entry of a step's terms that is 1 where its update was left out, otherwise 0.
LEFT_OUT = "left_out"
# Number of the random stream of the crops, folded into the run's key before the step.
_CROPS = 1


def make_optimizer(config: ConfigDict, params: dict):
    """Makes the optimiser of a configuration for parameters, or for their shapes."""

    def schedule(step: jax.Array) -> jax.Array:
        return config.learning_rate * optim.poly_warmup_factor(
            step, warmup_steps=config.warmup_steps, total_steps=config.total_steps
        )

    return optim.adamw(
        schedule,
        optim.learning_rate_scales(
            params,
            head_lr_multiplier=config.head_lr_multiplier,
            layer_lr_decay=config.layer_lr_decay,
            projection_lr_multiplier=config.projection_lr_multiplier,
        ),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
    )


def init_params(model: ToCo, key: jax.Array) -> dict:
    """Returns random parameters of the network, float32."""
    side = model.backbone.patch
    return model.init(key, jnp.zeros((1, side, side, 3)))["params"]


def init_state(config: ConfigDict, params: dict, teacher_params: dict | None = None) -> TrainState:
    """Returns the state before the first step.

    Args:
        config: the configuration.
        params: parameters of the network.
        teacher_params: parameters of the teacher's projection head; a copy of the student's by
            default.
    """
    extra = METHODS[config.method].init_extra(config, params)
    if teacher_params is not None:
        extra["proj_head"] = teacher_params
    if config.ema_decay:
        extra["ema"] = jax.tree.map(jnp.array, params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        extra=extra,
        opt_state=make_optimizer(config, params).init(params),
        key=jax.random.key(config.seed),
    )


def state_placement(config: ConfigDict, state: TrainState, mesh: Mesh) -> TrainState:
    """Returns the sharding of each leaf of a state, or of its shapes, on a mesh.

    Every device has a copy of a leaf. With `config.machine.shard_optimizer` the optimiser's moments
    are split over the devices instead.
    """
    placement = jax.tree.map(lambda _: replicated(mesh), state)
    if config.machine.shard_optimizer:
        shares = jax.tree.map(lambda x: split_over(mesh, x.shape), state.opt_state)
        placement = dataclasses.replace(placement, opt_state=shares)
    return placement


def place_state(config: ConfigDict, state: TrainState, mesh: Mesh) -> TrainState:
    """Puts a state on the devices of a mesh, as `state_placement` says."""
    placement = state_placement(config, state, mesh)
    # Unlike `device_put` this also works for the devices of other processes.
    return jax.jit(lambda state: state, out_shardings=placement)(state)


def moved_extra(config: ConfigDict, state: TrainState) -> dict:
    """Returns `state.extra` as each step moves it before its losses."""
    extra = METHODS[config.method].moved_extra(config, state)
    if config.ema_decay:
        # Small at first, so that the initial parameters do not stay in the mean.
        taken = jnp.asarray(state.step, jnp.float32)
        decay = jnp.minimum(config.ema_decay, (1 + taken) / (10 + taken))
        extra["ema"] = moved_average(state.extra["ema"], state.params, decay)
    return extra


def apply_gradients(config: ConfigDict, state: TrainState, extra: dict, grads: dict) -> TrainState:
    """Returns the state after one update by `grads`, with the given `extra`."""
    updates, opt_state = make_optimizer(config, state.params).update(
        grads, state.opt_state, state.params, step=state.step
    )
    return dataclasses.replace(
        state,
        step=state.step + 1,
        params=jax.tree.map(jnp.add, state.params, updates),
        extra=extra,
        opt_state=opt_state,
    )


def make_train_step(
    config: ConfigDict, model: ToCo, mesh: Mesh, phase: Phase, *, num_present: int
) -> jax.stages.Wrapped:
    """Makes the jitted training step of one phase over a mesh.

    See `toco.make_loss_fn` for the arguments.

    Returns:
        `train_step(state, batch, crop_origins=None) -> (state, terms)`. `batch` is split over the
        mesh and holds uint8 `image`, `view2` and `local` `[B, S, S, 3]`, float32 `cls_label [B, C]`
        and int32 `valid_box [B, 4]`. `terms` holds the loss terms and `total`, float32 `[]`, and
        `left_out`: 1 if one of them or a gradient was not finite and therefore all of the state but
        its step stayed, otherwise 0. The memory of the given state is reused (donated).
    """
    make_loss_fn = METHODS[config.method].make_loss_fn
    loss_fn = make_loss_fn(config, model, phase, num_present=num_present)

    def share_grads(params, extra, *share):
        """Returns the mean over the devices of the gradients and loss terms of their shares."""

        def part_grads(part) -> tuple[dict, dict]:
            value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
            (_, aux), grads = value_and_grad(params, extra, *part)
            return grads, aux["terms"]

        means = mean_over_parts(part_grads, share, config.machine.accumulate)
        return means if mesh.size == 1 else jax.lax.pmean(means, AXIS)

    everywhere, split = PartitionSpec(), PartitionSpec(AXIS)
    all_grads = data_parallel(share_grads, mesh, (everywhere, everywhere, split, split), everywhere)

    def train_step(state: TrainState, batch: dict, crop_origins: jax.Array | None = None):
        if crop_origins is not None:
            batch = batch | {"crop_origins": crop_origins}
        extra = moved_extra(config, state)
        crop_key = jax.random.fold_in(jax.random.fold_in(state.key, _CROPS), state.step)
        keys = jax.random.split(crop_key, batch["image"].shape[0])
        grads, terms = all_grads(state.params, extra, keys, batch)
        updated = apply_gradients(config, state, extra, grads)
        stayed = dataclasses.replace(state, step=updated.step)
        # Not finite if any number is not.
        is_finite = jnp.isfinite(optax.tree.norm((grads, terms)))
        state = jax.tree.map(lambda *x: jnp.where(is_finite, *x), updated, stayed)
        placement = state_placement(config, state, mesh)
        terms = terms | {LEFT_OUT: (~is_finite).astype(jnp.float32)}
        return jax.lax.with_sharding_constraint(state, placement), terms

    copies: Any = replicated(mesh)
    moments = None if config.machine.shard_optimizer else copies
    placement = TrainState(copies, copies, copies, moments, copies)
    return jax.jit(
        train_step,
        donate_argnums=0,
        out_shardings=(placement, copies),
        compiler_options=compiler_options(platform_of(mesh.devices.flat[0])),
    )
