"""Every key of a configuration with its default, and how earlier versions called it."""

from typing import Any

from flax import traverse_util
from ml_collections import ConfigDict

from toco_jax.models.backbones import BACKBONES
from toco_jax.runtime.errors import UserError

# Every loss term, and its weight as (first step, value) pairs. A term is not computed while its
# weight is 0.
_LOSS_WEIGHTS = {
    "cls": ((0, 1.0),),
    "cls_aux": ((0, 1.0),),
    "ptc": ((0, 0.2),),
    "ctc": ((0, 0.5),),
    "seg": ((0, 0.0), (2001, 0.1)),
    "reg": ((0, 0.0), (2001, 0.05)),
    # Classification by the image head, which is no part of ToCo. The network has the head if this
    # weight is not always 0.
    "cls_img": ((0, 0.0),),
    # Cross-entropy on given masks, which is no part of ToCo. Only this term reads training masks.
    "sup": ((0, 0.0),),
    # Terms of `toco_plus` alone.
    "swap": ((0, 0.0),),
    "cons": ((0, 0.0),),
    "absent": ((0, 0.0),),
    # The term of `afa` alone.
    "aff": ((0, 0.0),),
}
LOSS_TERMS = tuple(_LOSS_WEIGHTS)

# Keys that have moved: the name in earlier versions, and the present one.
_MOVED_KEYS = {
    "attention": "machine.attention",
    "low_memory": "machine.low_memory",
    "accumulate": "machine.accumulate",
    "shard_optimizer": "machine.shard_optimizer",
    "data.num_threads": "machine.num_threads",
}


class ConfigError(UserError):
    """A value of the configuration cannot work; the message names key, value and remedy."""


def defaults(backbone: str = "deit_base") -> ConfigDict:
    """Returns every key of a run with its published value for PASCAL VOC 2012.

    The configuration is locked: keys cannot be added, and values keep their type. Local crops have
    96 pixels, or where patches do not fit into them the nearest size that they do.

    Args:
        backbone: the encoder, one of `BACKBONES`. The run starts from its published weights.

    Raises:
        ConfigError: `backbone` is none of `BACKBONES`.
    """
    if backbone not in BACKBONES:
        raise ConfigError(f"unknown variant {backbone!r}: use one of {', '.join(BACKBONES)}")
    patch = BACKBONES[backbone].patch
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

    # Method, one of `config.methods.TERMS`, which also sets other keys if it is chosen by a word
    # `method=...` or by `use_method`.
    config.method = "toco"
    # With `ema_decay` above 0 the network that is evaluated and given away has parameters that are
    # averaged over the steps with this decay.
    config.ema_decay = 0.0
    config.crop_size = 448
    config.local_crop_size = round(96 / patch) * patch
    config.num_local_crops = 8
    config.cam_scales = (1.0, 0.5, 1.5)
    # Whether CAMs, those of the pseudo labels included, are spread by the encoder's attention.
    config.propagate_cams = False
    config.low_thre = 0.25
    config.bkg_thre = 0.5
    config.high_thre = 0.7
    # By how much `high_thre` of the pseudo labels falls until the last step, in `toco_plus`.
    config.high_thre_drop = 0.0
    config.temperature = 0.5
    config.ema_momentum = 0.9
    config.loss_weights = _LOSS_WEIGHTS
    config.pseudo_label_cam = ((0, "cam"),)
    # True restores two defects of the released code: independent flips of the global view and the
    # local source, and a valid box that is not scaled to the token grid.
    config.as_published = False

    # Optimisation. `batch_size` counts the images of all devices. Losses that pool over images pool
    # over groups of `group_size` images, whatever the number of devices.
    config.batch_size = 4
    config.group_size = 2
    config.total_steps = 20_000
    config.warmup_steps = 1_500
    config.learning_rate = 6e-5
    # Each block of the encoder learns at this factor of the next one's rate; 1 for the same rate.
    config.layer_lr_decay = 1.0
    config.head_lr_multiplier = 10.0
    config.projection_lr_multiplier = 10.0
    config.weight_decay = 0.01
    config.max_grad_norm = 0.0

    # Loop: steps between two evaluations, checkpoints and log lines. An evaluation while training
    # takes `eval_batches` batches, or the whole split if 0.
    config.eval_every = 2_000
    config.eval_batches = 0
    config.save_every = 1_000
    config.log_every = 20
    # A step whose losses or gradients are not finite changes nothing. "stop" ends the run there,
    # "skip" goes on, until 10 steps in a row are such.
    config.on_nan = "stop"
    # Project of Weights & Biases that receives what metrics.jsonl does, "" for none.
    config.wandb = ""

    config.data = _data_defaults()
    config.machine = _machine_defaults()
    return config.lock()


def _data_defaults() -> ConfigDict:
    """Returns the keys that say which data a run reads, and how."""
    data = ConfigDict()
    data.source = "voc"
    data.root = "VOCdevkit/VOC2012"
    # In a folder a split is a list <split>.txt, a sub-folder <split>, or train or val of a random
    # split.
    data.train_split = "train_aug"
    data.val_split = "val"
    # Image-level labels: "" for the usual place, or a label file (.csv, .json, .npy, .npz) or the
    # export of an annotation tool (.json, .xml) in the root, or a pattern of these. For a devkit
    # also "masks"; for a folder "sidecars", "labelme" or "folders"; for COCO the folder that
    # `prepare coco` wrote, if it is not <root>/prepared.
    data.labels = ""
    # Separates several labels in one text, such as " ". "" splits at ; and |, and at , if no label
    # can contain it.
    data.label_separator = ""
    # Folder of the masks in the root. "" takes SegmentationClassAug or else SegmentationClass in a
    # devkit, "masks" in a folder, and the prepared masks for COCO.
    data.masks = ""
    # Pixel value of the only class in the masks, such as 255; 0 if masks hold labels 0, 1, 2, ...
    data.mask_foreground = 0
    # Folder of the masks that the term `sup` trains on, if they are not those above; images may
    # lack one. Pixels up to `mask_border` away from another label are left out of it.
    data.train_masks = ""
    data.mask_border = 0
    # Fraction of the images that becomes val if a folder has no lists.
    data.val_fraction = 0.1
    # Seed of that split. It is not `seed`, so that runs with several seeds share the same data.
    data.split_seed = 0
    # For an image that cannot be read, "raise" stops and "skip" takes the next image and counts.
    data.on_error = "raise"
    # Ranges of the random rescaling before the crop and of the blur's standard deviation in pixels.
    data.scale_range = (0.5, 2.0)
    data.blur_sigma = (0.1, 2.0)
    return data


def _machine_defaults() -> ConfigDict:
    """Returns the keys that say how a run is executed, apart from what it computes.

    They change results by rounding at most, and may differ when a run goes on, or is evaluated, on
    another machine.
    """
    machine = ConfigDict()
    # "xla" or "cudnn"; "auto" is cuDNN's for bfloat16 on a GPU.
    machine.attention = "auto"
    # "on" stores less of the encoder for the gradient and computes the rest twice, "parts" computes
    # large attention maps and the passes for CAMs in parts. "auto" is "off" on a GPU or TPU; on a
    # CPU it is "on" for large encoders, for which that is also fastest, and "parts" for others.
    machine.low_memory = "auto"
    # Number of parts of the batch that each device processes one after the other.
    machine.accumulate = 1
    # True gives each device a share of AdamW's moments instead of a copy of all of them.
    machine.shard_optimizer = False
    # Threads that read and augment images; 0 does so in the thread of the training loop.
    machine.num_threads = 8
    return machine


def with_values(config: ConfigDict, **values: object) -> ConfigDict:
    """Returns a copy of a configuration with other values; the value of a group is a dict."""
    changed = config.copy_and_resolve_references()
    changed.update(values)
    return changed


def renamed(key: str) -> str:
    """Returns the present name of a dotted key, which may be that of an earlier version."""
    return _MOVED_KEYS.get(key, key)


def completed(values: dict[str, Any]) -> ConfigDict:
    """Returns the configuration of a run that this or an earlier version began.

    Keys that have moved since get their present names. Keys that are newer than the run get their
    defaults, which do what was done before these keys existed. Keys that no longer exist stay.

    Args:
        values: the nested values of the run's `config.json`; lists become tuples.

    Raises:
        ConfigError: a value stands where a group of keys has to be.
    """
    for group in ("data", "loss_weights", "machine"):
        if not isinstance(values.get(group, {}), dict):
            raise ConfigError(f"{group}={values[group]!r} must be a group of keys")
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
