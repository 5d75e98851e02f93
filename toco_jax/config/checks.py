"""Checks the values of a configuration before anything is computed or written."""

from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from toco_jax.config.keys import LOSS_TERMS, ConfigError
from toco_jax.config.methods import check_method
from toco_jax.config.types import check_types
from toco_jax.data import ON_ERROR
from toco_jax.models.backbones import backbone_from_name
from toco_jax.runtime.errors import UserError

COMPUTE_DTYPES = ("auto", "float32", "bfloat16")
ATTENTIONS = ("auto", "xla", "cudnn")
LOW_MEMORY = ("auto", "on", "off", "parts")
ON_NAN = ("stop", "skip")
LARGEST_SIDE = 32_767  # of an image in pixels, in OpenCV
MOST_THREADS = 1024


def validate(config: ConfigDict, num_devices: int) -> None:
    """Checks that every value can work.

    Args:
        config: the configuration of a run, see `config.defaults`.
        num_devices: the number of devices of all processes together.

    Raises:
        ConfigError: a value cannot work; the message is one sentence on the first such value.
    """
    check_types(config)
    _check_sizes(config)
    _check_values(config)
    _check_batch(config, num_devices)
    for term in LOSS_TERMS:
        _check_changes(f"loss_weights.{term}", config.loss_weights[term], lambda v: v >= 0)
    _check_changes("pseudo_label_cam", config.pseudo_label_cam, bool)
    check_method(config)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _check_changes(name: str, changes: Any, allowed: Callable[[Any], bool]) -> None:
    starts = [start for start, _ in changes]
    _require(
        starts[:1] == [0]
        and starts == sorted(set(starts))
        and all(allowed(value) for _, value in changes),
        f"{name}={changes} must list (first step, value) pairs that start at step 0 and ascend, "
        "such as ((0, 0.0), (2001, 0.1))",
    )


def _check_sizes(config: ConfigDict) -> None:
    try:
        spec = backbone_from_name(config.backbone)
    except UserError as error:
        raise ConfigError(str(error)) from error
    _require(
        -spec.depth <= config.aux_layer < spec.depth,
        f"aux_layer={config.aux_layer} is not a block of {config.backbone!r} with {spec.depth} "
        f"blocks: use {-spec.depth}..{spec.depth - 1}",
    )
    for key in ("crop_size", "local_crop_size"):
        below = min(config[key], LARGEST_SIDE) // spec.patch * spec.patch
        fits = [side for side in (below, below + spec.patch) if 0 < side <= LARGEST_SIDE]
        _require(
            spec.patch <= config[key] <= LARGEST_SIDE and config[key] % spec.patch == 0,
            f"{key}={config[key]} must be a positive multiple of the patch side {spec.patch} up to "
            f"{LARGEST_SIDE}: use {' or '.join(map(str, fits))}",
        )
    room = config.crop_size - config.local_crop_size
    _require(
        room > 0 and room**2 >= config.num_local_crops >= 1,
        f"local_crop_size={config.local_crop_size} must be smaller than crop_size="
        f"{config.crop_size} and leave room for num_local_crops={config.num_local_crops} (at least "
        "1) distinct positions",
    )
    sides = [scale * config.crop_size for scale in config.cam_scales] or [0]
    _require(
        spec.patch <= min(sides) and max(sides) <= LARGEST_SIDE,
        f"cam_scales={tuple(config.cam_scales)} must be positive and keep crop_size="
        f"{config.crop_size} between {spec.patch} and {LARGEST_SIDE} px",
    )


def _check_batch(config: ConfigDict, num_devices: int) -> None:
    accumulate = config.machine.accumulate
    _require(accumulate >= 1, f"machine.accumulate={accumulate} must be at least 1")
    unit = num_devices * config.group_size * accumulate
    lower = max(config.batch_size // unit, 1) * unit
    parts = f" x machine.accumulate={accumulate}" if accumulate > 1 else ""
    _require(
        config.batch_size >= 1 and config.batch_size % unit == 0,
        f"batch_size={config.batch_size} must be a multiple of {num_devices} devices x group_size="
        f"{config.group_size}{parts}: use {lower} or {lower + unit}",
    )


def _check_values(config: ConfigDict) -> None:
    _require(
        0 <= config.low_thre < config.bkg_thre < config.high_thre <= 1,
        f"thresholds must satisfy 0 <= low < bkg < high <= 1: low_thre={config.low_thre}, bkg_thre="
        f"{config.bkg_thre}, high_thre={config.high_thre}",
    )
    positive = ("decoder_width", "decoder_dilation", "group_size", "temperature")
    positive += ("total_steps", "learning_rate", "head_lr_multiplier", "projection_lr_multiplier")
    positive += ("layer_lr_decay", "eval_every", "save_every", "log_every")
    for key in positive:
        # Below float32's smallest number it would be 0 on the devices.
        _require(bool(np.float32(config[key]) > 0), f"{key}={config[key]} must be above 0")
    # 0 classes means as many as the data has.
    for key in ("num_classes", "warmup_steps", "weight_decay", "eval_batches", "max_grad_norm"):
        _require(config[key] >= 0, f"{key}={config[key]} must not be negative")
    _require(
        config.warmup_steps < config.total_steps,
        f"warmup_steps={config.warmup_steps} must be below total_steps={config.total_steps}",
    )
    # The largest gradient moves a weight by a few times its rate, and weights are below 1.
    rate = config.learning_rate * max(
        1.0, config.head_lr_multiplier, config.projection_lr_multiplier
    )
    _require(
        rate * max(1.0, config.weight_decay) <= 1,
        f"learning_rate={config.learning_rate}, times head_lr_multiplier="
        f"{config.head_lr_multiplier} or projection_lr_multiplier="
        f"{config.projection_lr_multiplier} and times weight_decay={config.weight_decay} if that "
        "is above 1, must be at most 1: AdamW changes weights by so much at a step",
    )
    drop, room = config.high_thre_drop, config.high_thre - config.bkg_thre
    _require(
        0 <= drop < room,
        f"high_thre_drop={drop} must lie in [0, {room:.6g}), for high_thre to stay above bkg_thre",
    )
    for key in ("ema_momentum", "ema_decay"):
        _require(0 <= config[key] < 1, f"{key}={config[key]} must lie in [0, 1)")
    machine = config.machine
    choices = {
        "compute_dtype": (config.compute_dtype, COMPUTE_DTYPES),
        "machine.attention": (machine.attention, ATTENTIONS),
        "machine.low_memory": (machine.low_memory, LOW_MEMORY),
        "on_nan": (config.on_nan, ON_NAN),
        "data.on_error": (config.data.on_error, ON_ERROR),
    }
    for key, (value, allowed) in choices.items():
        _require(value in allowed, f"{key}={value!r} must be one of {', '.join(allowed)}")
    _require(
        machine.attention != "cudnn" or config.compute_dtype != "float32",
        "machine.attention='cudnn' needs compute_dtype='bfloat16'",
    )
    for key, most in (("scale_range", 100), ("blur_sigma", 1000)):
        pair = config.data[key]
        _require(
            len(pair) == 2 and 0 < pair[0] <= pair[1] <= most,
            f"data.{key}={tuple(pair)} must be an ascending pair above 0 and up to {most}",
        )
    _require(bool(config.init), "init='' must be 'random', a weight name or a path")
    _require(
        0 <= machine.num_threads <= MOST_THREADS,
        f"machine.num_threads={machine.num_threads} must lie between 0 and {MOST_THREADS}",
    )
    border = config.data.mask_border
    _require(0 <= border <= 100, f"data.mask_border={border} must lie between 0 and 100 pixels")
    foreground = config.data.mask_foreground
    _require(
        0 <= foreground <= 255, f"data.mask_foreground={foreground} must be a pixel's value 0..255"
    )
    val_fraction = config.data.val_fraction
    _require(0 < val_fraction < 1, f"data.val_fraction={val_fraction} must lie between 0 and 1")
