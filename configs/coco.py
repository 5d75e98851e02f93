"""ToCo on COCO 2014 with the published values.

    python -m toco_jax.data.prepare coco --root coco            once, from the official files
    python -m toco_jax.main --config=configs/coco.py --config.data.root=coco

Variants choose the encoder: `configs/coco.py:deit_base` (the default), `:vit_base`, `:deit_small`,
`:deit_tiny`. The published runs took 80,000 steps of 8 images, at 2.07 images/s on an A100, and
report mIoU on val with multi-scale inference and CRF of 41.3 (deit_base) and 42.3 (vit_base).
Scores during training are those of 5,000 images evenly spaced over val.
"""

from ml_collections import ConfigDict

from toco_jax.errors import UserError

VARIANTS = ("deit_base", "vit_base", "deit_small", "deit_tiny")


def get_config(variant: str = "deit_base") -> ConfigDict:
    """The configuration of a run; see the keys' comments."""
    if variant not in VARIANTS:
        raise UserError(f"unknown variant {variant!r}: use one of {', '.join(VARIANTS)}")
    config = ConfigDict()
    config.seed = 0

    # Network. `init` is "random", the name of published weights, or a path.
    config.backbone = variant
    config.init = variant
    config.num_classes = 80
    config.aux_layer = -3
    config.decoder_width = 512
    config.decoder_dilation = 5
    # "auto" is bfloat16 on a GPU or TPU and float32 on a CPU; cuDNN's attention goes with bfloat16.
    config.compute_dtype = "auto"
    config.attention = "auto"
    # "on" keeps less of the encoder for the gradient and computes the rest twice. "auto" does so
    # for large encoders on a CPU, where it also saves time; others there attend in "parts".
    config.low_memory = "auto"

    # Method.
    config.crop_size = 448
    config.local_crop_size = 96
    config.num_local_crops = 8
    config.cam_scales = (1.0, 0.5, 1.5)
    config.low_thre = 0.25
    config.bkg_thre = 0.45
    config.high_thre = 0.65
    config.temperature = 1.0
    config.ema_momentum = 0.9
    # (first step, value) pairs; a loss of weight 0 is not computed.
    config.loss_weights = {
        "cls": ((0, 1.0),),
        "cls_aux": ((0, 1.0),),
        "ptc": ((0, 0.0), (12_001, 0.2)),
        "ctc": ((0, 0.0), (12_001, 0.5)),
        "seg": ((0, 0.0), (8_001, 0.1)),
        "reg": ((0, 0.0), (8_001, 0.05)),
    }
    # The final layer's CAM is of use once the patch contrast is at work.
    config.pseudo_label_cam = ((0, "aux_cam"), (12_001, "cam"))
    # True restores two defects of the released code: independent flips of the global view and the
    # local source, and a valid box that is not scaled to the token grid.
    config.as_published = False

    # Optimisation. `batch_size` is global; losses that pool over images pool over `group_size`.
    config.batch_size = 8
    config.group_size = 2
    # Parts of the batch that each device works through one by one, with the same result.
    config.accumulate = 1
    # True gives each device a share of AdamW's moments in place of a copy.
    config.shard_optimizer = False
    config.total_steps = 80_000
    config.warmup_steps = 1_500
    config.learning_rate = 6e-5
    config.head_lr_multiplier = 10.0
    config.projection_lr_multiplier = 10.0
    config.weight_decay = 0.01
    config.max_grad_norm = 0.0

    # Loop. `eval_batches` limits an evaluation, 0 takes the whole split.
    config.eval_every = 4_000
    config.eval_batches = 0
    config.save_every = 1_000
    config.log_every = 20

    config.data = ConfigDict()
    config.data.source = "coco"
    config.data.root = "coco"
    config.data.train_split = "train"
    config.data.val_split = "val_part"
    # What `prepare coco` wrote, where it is not <root>/prepared.
    config.data.labels = ""
    # What separates labels in one text of a folder's labels.
    config.data.label_separator = ""
    # A folder of ready-made masks in place of the prepared ones.
    config.data.masks = ""
    # Value of the only class in the masks, such as 255; 0 where they hold labels 0, 1, 2, ...
    config.data.mask_foreground = 0
    # Share of the images that becomes val where a source has no lists.
    config.data.val_fraction = 0.1
    # Draws that split.
    config.data.split_seed = 0
    # An image that cannot be read: "raise" stops, "skip" takes the next one and counts it.
    config.data.on_error = "raise"
    config.data.num_threads = 8
    # Range of the random rescaling before the crop, and of the blurs' deviation in pixels.
    config.data.scale_range = (0.5, 2.0)
    config.data.blur_sigma = (0.1, 2.0)
    return config
