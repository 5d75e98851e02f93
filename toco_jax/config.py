"""The configuration of a run: every key with its default, its checks, and what `"auto"` means."""

from typing import Any

import jax
from flax import traverse_util
from ml_collections import ConfigDict

from toco_jax.data import ON_ERROR
from toco_jax.models.vit import backbone_from_name
from toco_jax.runtime.errors import UserError

VARIANTS = ("deit_base", "vit_base", "deit_small", "deit_tiny")
LOSS_TERMS = ("cls", "cls_aux", "ptc", "ctc", "seg", "reg")
COMPUTE_DTYPES = ("auto", "float32", "bfloat16")
ATTENTIONS = ("auto", "xla", "cudnn")
SWITCH = ("auto", "on", "off", "parts")


# Bytes that a block's linear layers make of an image, from which on the blocks go into a loop on a
# CPU: 1.4 MB (deit_tiny at 224 pixels) are faster without it, 5.4 MB (vit_base at 224) with it.
_LARGE_BLOCK = 4 * 2**20


# Keys that earlier versions called otherwise: the old name and the present one.
_MOVED_KEYS = {
    "attention": "machine.attention",
    "low_memory": "machine.low_memory",
    "accumulate": "machine.accumulate",
    "shard_optimizer": "machine.shard_optimizer",
    "data.num_threads": "machine.num_threads",
}


class ConfigError(UserError):
    """A configuration value that cannot work; the message names the key, the value, the remedy."""


def defaults(backbone: str = VARIANTS[0]) -> ConfigDict:
    """Every key of a run, with the published values of PASCAL VOC 2012; no key can be added.

    Args:
        backbone: one of `VARIANTS`, whose published weights the run starts from.

    Raises:
        ConfigError: it is none of them.
    """
    if backbone not in VARIANTS:
        raise ConfigError(f"unknown variant {backbone!r}: use one of {', '.join(VARIANTS)}")
    config = ConfigDict()
    config.seed = 0

    # Network. `init` is "random", the name of published weights, or a path.
    config.backbone = backbone
    config.init = backbone
    config.num_classes = 20
    config.aux_layer = -3
    config.decoder_width = 512
    config.decoder_dilation = 5
    # "auto" is bfloat16 on a GPU or TPU and float32 on a CPU.
    config.compute_dtype = "auto"

    # Method.
    config.crop_size = 448
    config.local_crop_size = 96
    config.num_local_crops = 8
    config.cam_scales = (1.0, 0.5, 1.5)
    config.low_thre = 0.25
    config.bkg_thre = 0.5
    config.high_thre = 0.7
    config.temperature = 0.5
    config.ema_momentum = 0.9
    # (first step, value) pairs; a loss of weight 0 is not computed.
    config.loss_weights = {
        "cls": ((0, 1.0),),
        "cls_aux": ((0, 1.0),),
        "ptc": ((0, 0.2),),
        "ctc": ((0, 0.5),),
        "seg": ((0, 0.0), (2001, 0.1)),
        "reg": ((0, 0.0), (2001, 0.05)),
    }
    config.pseudo_label_cam = ((0, "cam"),)
    # True restores two defects of the released code: independent flips of the global view and the
    # local source, and a valid box that is not scaled to the token grid.
    config.as_published = False

    # Optimisation. `batch_size` is global; losses that pool over images pool over `group_size`.
    config.batch_size = 4
    config.group_size = 2
    config.total_steps = 20_000
    config.warmup_steps = 1_500
    config.learning_rate = 6e-5
    config.head_lr_multiplier = 10.0
    config.projection_lr_multiplier = 10.0
    config.weight_decay = 0.01
    config.max_grad_norm = 0.0

    # Loop. `eval_batches` limits an evaluation, 0 takes the whole split.
    config.eval_every = 2_000
    config.eval_batches = 0
    config.save_every = 1_000
    config.log_every = 20

    config.data = ConfigDict()
    config.data.source = "voc"
    config.data.root = "VOCdevkit/VOC2012"
    # Of a folder each is a list <split>.txt, a sub-folder <split>, or train and val of a seeded
    # split.
    config.data.train_split = "train_aug"
    config.data.val_split = "val"
    # Image-level labels: "" for the usual place, or a label file (.csv, .json, .npy, .npz) in the
    # root. Of a devkit also "masks"; of a folder "sidecars" or "folders"; of COCO what
    # `prepare coco` wrote, where it is not <root>/prepared.
    config.data.labels = ""
    # What separates labels in one text, such as " "; "" splits at ; and | and, if it is clear, at ,
    config.data.label_separator = ""
    # Folder of the masks in the root; "" for SegmentationClassAug or else SegmentationClass of a
    # devkit, masks of a folder, the prepared ones of COCO.
    config.data.masks = ""
    # Value of the only class in the masks, such as 255; 0 where they hold labels 0, 1, 2, ...
    config.data.mask_foreground = 0
    # Share of the images that becomes val where a folder has no lists.
    config.data.val_fraction = 0.1
    # Draws that split. `seed` does not, so that runs of several seeds have the same data.
    config.data.split_seed = 0
    # An image that cannot be read: "raise" stops, "skip" takes the next one and counts it.
    config.data.on_error = "raise"
    # Range of the random rescaling before the crop, and of the blurs' deviation in pixels.
    config.data.scale_range = (0.5, 2.0)
    config.data.blur_sigma = (0.1, 2.0)

    # How a run is executed, apart from what it is. These keys change a result by rounding alone,
    # and they alone may differ when a run goes on, or is evaluated, on another machine.
    config.machine = ConfigDict()
    # "xla" or "cudnn"; "auto" is cuDNN's for bfloat16 on a GPU.
    config.machine.attention = "auto"
    # "on" keeps less of the encoder for the gradient and computes the rest twice. "auto" does so
    # for large encoders on a CPU, where it also saves time; others there attend in "parts".
    config.machine.low_memory = "auto"
    # Parts of the batch that each device works through one after the other, with the same result.
    config.machine.accumulate = 1
    # True gives each device a share of AdamW's moments instead of a copy of all of them.
    config.machine.shard_optimizer = False
    # Threads that read and augment images; 0 does so in the thread of the training loop.
    config.machine.num_threads = 8
    return config.lock()


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _check_changes(name: str, changes, allowed) -> None:
    try:
        starts = [int(start) for start, _ in changes]
        valid = starts[0] == 0 and starts == sorted(set(starts))
        valid = valid and all(allowed(value) for _, value in changes)
    except (TypeError, ValueError, IndexError):
        valid = False
    _require(
        valid,
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
        _require(
            config[key] >= spec.patch and config[key] % spec.patch == 0,
            f"{key}={config[key]} must be a positive multiple of the patch side {spec.patch}",
        )
    room = config.crop_size - config.local_crop_size
    _require(
        room > 0 and room**2 >= config.num_local_crops >= 1,
        f"local_crop_size={config.local_crop_size} must be smaller than crop_size="
        f"{config.crop_size} and leave room for num_local_crops={config.num_local_crops} (at least "
        "1) distinct positions",
    )
    smallest = min(config.cam_scales, default=0) * config.crop_size
    _require(
        smallest >= spec.patch,
        f"cam_scales={tuple(config.cam_scales)} must be positive and keep crop_size="
        f"{config.crop_size} at {spec.patch} px or more",
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
    positive += ("eval_every", "save_every", "log_every")
    for key in positive:
        _require(config[key] > 0, f"{key}={config[key]} must be above 0")
    # 0 classes means as many as the data has.
    for key in ("num_classes", "warmup_steps", "weight_decay", "eval_batches", "max_grad_norm"):
        _require(config[key] >= 0, f"{key}={config[key]} must not be negative")
    _require(
        config.warmup_steps < config.total_steps,
        f"warmup_steps={config.warmup_steps} must be below total_steps={config.total_steps}",
    )
    _require(0 <= config.ema_momentum < 1, f"ema_momentum={config.ema_momentum} must lie in [0, 1)")
    machine = config.machine
    choices = {
        "compute_dtype": (config.compute_dtype, COMPUTE_DTYPES),
        "machine.attention": (machine.attention, ATTENTIONS),
        "machine.low_memory": (machine.low_memory, SWITCH),
        "data.on_error": (config.data.on_error, ON_ERROR),
    }
    for key, (value, allowed) in choices.items():
        _require(value in allowed, f"{key}={value!r} must be one of {', '.join(allowed)}")
    _require(
        machine.attention != "cudnn" or config.compute_dtype != "float32",
        "machine.attention='cudnn' needs compute_dtype='bfloat16'",
    )
    for key in ("scale_range", "blur_sigma"):
        low, high = config.data[key]
        _require(
            0 < low <= high, f"data.{key}={config.data[key]} must be an ascending pair above 0"
        )
    _require(bool(config.init), "init='' must be 'random', a weight name or a path")
    _require(
        machine.num_threads >= 0,
        f"machine.num_threads={machine.num_threads} must not be negative",
    )
    foreground = config.data.mask_foreground
    _require(
        0 <= foreground <= 255, f"data.mask_foreground={foreground} must be a pixel's value 0..255"
    )
    val_fraction = config.data.val_fraction
    _require(0 < val_fraction < 1, f"data.val_fraction={val_fraction} must lie between 0 and 1")


def validate(config: ConfigDict, num_devices: int) -> None:
    """Raises `ConfigError`, one sentence, for the first value that cannot work.

    Args:
        config: the configuration of a run, see `config.defaults`.
        num_devices: devices of all processes together.
    """
    _check_sizes(config)
    _check_values(config)
    _check_batch(config, num_devices)
    unknown = set(config.loss_weights) ^ set(LOSS_TERMS)
    _require(
        not unknown,
        f"loss_weights must name exactly {', '.join(LOSS_TERMS)}; differs in {sorted(unknown)}",
    )
    for term in LOSS_TERMS:
        _check_changes(f"loss_weights.{term}", config.loss_weights[term], lambda v: float(v) >= 0)
    _check_changes("pseudo_label_cam", config.pseudo_label_cam, lambda v: v in ("cam", "aux_cam"))


def resolve(config: ConfigDict, platform: str | None = None) -> ConfigDict:
    """Returns a copy of a configuration in which every `"auto"` is replaced by what it means.

    `compute_dtype` becomes bfloat16 on a GPU or TPU and float32 on a CPU; it is part of what a run
    is. `machine.attention` becomes cuDNN's for bfloat16 on a GPU and XLA's otherwise.
    `machine.low_memory` becomes "off" on a GPU or TPU; on a CPU it becomes "on" for large encoders,
    for which that is also fastest, and "parts" for others (large attention maps, and the passes
    for CAMs, are computed in parts).

    Args:
        config: the configuration of a run.
        platform: `"cpu"`, `"gpu"` or `"tpu"`; by default that of JAX's devices.

    Raises:
        ConfigError: cuDNN's attention is asked for where there is none.
    """
    platform = platform or jax.default_backend()
    dtype = config.compute_dtype
    if dtype == "auto":
        dtype = "float32" if platform == "cpu" else "bfloat16"
    attention, low_memory = config.machine.attention, config.machine.low_memory
    has_cudnn = platform == "gpu" and dtype == "bfloat16"
    if attention == "auto":
        attention = "cudnn" if has_cudnn else "xla"
    _require(
        attention != "cudnn" or has_cudnn,
        f"machine.attention='cudnn' needs a GPU and compute_dtype='bfloat16', and this is {dtype} "
        f"on a {platform}: use machine.attention='auto'",
    )
    if low_memory == "auto":
        low_memory = "off"
        if platform == "cpu":
            low_memory = "on" if _has_large_blocks(config) else "parts"
    machine = {"attention": attention, "low_memory": low_memory}
    return with_values(config, compute_dtype=dtype, machine=machine)


def _has_large_blocks(config: ConfigDict) -> bool:
    backbone = backbone_from_name(config.backbone)
    num_tokens = 1 + (config.crop_size // backbone.patch) ** 2
    return 4 * 9 * backbone.width * num_tokens >= _LARGE_BLOCK  # qkv 3, proj 1, fc1 4, fc2 1


def with_values(config: ConfigDict, **values: object) -> ConfigDict:
    """Returns a copy of a configuration with other values; the value of a group is a dict."""
    changed = config.copy_and_resolve_references()
    changed.update(values)
    return changed


def renamed(key: str) -> str:
    """Returns the present name of a dotted key that earlier versions may have called otherwise."""
    return _MOVED_KEYS.get(key, key)


def completed(values: dict[str, Any]) -> ConfigDict:
    """Returns the configuration that an earlier version, or this one, wrote as `config.json`.

    Keys that have moved since are found under their present names, and keys that are newer than the
    file have defaults, which do what was done before there were such keys. Keys that no longer
    exist are kept.

    Args:
        values: the nested values of the file; lists become tuples.
    """
    values = {renamed(key): value for key, value in flat_values(values).items()}
    if values.get("data.source") == "folder":  # `seed` once drew the split of a folder
        values.setdefault("data.split_seed", values.get("seed", 0))
    nested = traverse_util.unflatten_dict(flat_values(defaults().to_dict()) | values, sep=".")
    return ConfigDict(nested)


def flat_values(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the values of nested groups by dotted key; lists become tuples."""
    flat = traverse_util.flatten_dict(values, sep=".")
    return {key: _as_tuples(value) for key, value in flat.items()}


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value
