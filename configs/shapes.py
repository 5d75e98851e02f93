"""ToCo on procedural scenes: every part of the method in minutes on 2 CPU cores, no download.

    python -m toco_jax.main --config=configs/shapes.py

Four classes, each a texture on a shape in random colours, one to three objects in a cluttered
80 pixel scene; labels of the image only. Starts from an encoder that
`python -m toco_jax.pretrain_shapes` made of single objects. Thresholds and weights are those of VOC
but for the class token contrast (0.1 instead of 0.5).

mIoU in % of segmentation / CAM on 200 scenes, mean of three seeds: 72.5 / 75.2; without auxiliary
classifier and contrasts 69.6 / 73.3; the best rule on a pixel's colour 26.2. The README has more.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The configuration of a run; the keys are those of `configs/voc.py`."""
    config = ConfigDict()
    config.seed = 0

    # Network.
    config.backbone = "width=96,depth=6,heads=3,patch=8"
    config.init = "shapes"
    config.num_classes = 4
    config.aux_layer = -3
    config.decoder_width = 128
    config.decoder_dilation = 2
    # "auto" is bfloat16 on a GPU or TPU and float32 on a CPU; cuDNN's attention goes with bfloat16.
    config.compute_dtype = "auto"
    config.attention = "auto"
    # "on" keeps less of the encoder for the gradient and computes the rest twice. "auto" does so
    # for large encoders on a CPU, where it also saves time; others there attend in "parts".
    config.low_memory = "auto"

    # Method.
    config.crop_size = 80
    config.local_crop_size = 24
    config.num_local_crops = 4
    config.cam_scales = (1.0,)
    config.low_thre = 0.25
    config.bkg_thre = 0.5
    config.high_thre = 0.7
    config.temperature = 0.5
    config.ema_momentum = 0.9
    config.loss_weights = {
        "cls": ((0, 1.0),),
        "cls_aux": ((0, 1.0),),
        "ptc": ((0, 0.0), (80, 0.2)),
        # At 0.5, with the projections at the other heads' rate, it swamped all other terms.
        "ctc": ((0, 0.0), (80, 0.1)),
        "seg": ((0, 0.0), (80, 0.1)),
        "reg": ((0, 0.0), (80, 0.05)),
    }
    config.pseudo_label_cam = ((0, "cam"),)
    config.as_published = False

    # Optimisation.
    config.batch_size = 10
    config.group_size = 2
    # Parts of the batch that each device works through one by one, with the same result.
    config.accumulate = 1
    # True gives each device a share of AdamW's moments in place of a copy.
    config.shard_optimizer = False
    config.total_steps = 250
    config.warmup_steps = 20
    config.learning_rate = 3e-4
    config.head_lr_multiplier = 10.0
    config.projection_lr_multiplier = 1.0
    config.weight_decay = 0.01
    config.max_grad_norm = 1.0

    # Loop.
    config.eval_every = 250
    config.eval_batches = 0
    config.save_every = 50
    config.log_every = 20

    config.data = ConfigDict()
    config.data.source = "shapes"
    config.data.root = ""
    config.data.train_split = "train"
    config.data.val_split = "val"
    config.data.labels = ""
    config.data.label_separator = ""
    config.data.masks = ""
    # Value of the only class in the masks, such as 255; 0 where they hold labels 0, 1, 2, ...
    config.data.mask_foreground = 0
    config.data.val_fraction = 0.1
    # Draws that split.
    config.data.split_seed = 0
    config.data.on_error = "raise"
    config.data.num_threads = 2
    config.data.scale_range = (0.9, 1.3)
    config.data.blur_sigma = (0.1, 0.4)
    return config
