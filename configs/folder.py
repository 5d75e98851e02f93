"""ToCo on a folder of your own images, with VOC's values, which suit a few classes an image.

    python -m toco_jax.data.check --config=configs/folder.py --config.data.root=DIR
    python -m toco_jax.data.show --config=configs/folder.py --config.data.root=DIR --out sheet.png
    python -m toco_jax.main --config=configs/folder.py --config.data.root=DIR

Labels: labels.csv (`file,label;label`), labels.json, a text file beside each image, or a folder a
class, where copies of a file in several folders are one image of all these classes. Masks, for
scores alone, in DIR/masks. Memory and runtime are those of `configs/voc.py`, and so are the
variants; what to expect depends on the images.
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
    config.num_classes = 0  # as many as the labels name
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
    # Parts of the batch that each device works through one by one, with the same result.
    config.accumulate = 1
    # True gives each device a share of AdamW's moments in place of a copy.
    config.shard_optimizer = False
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
    config.data.source = "folder"
    config.data.root = "images"
    # Each is a list <split>.txt, a sub-folder <split>, or train and val of a seeded split.
    config.data.train_split = "train"
    config.data.val_split = "val"
    # "sidecars", "folders" or a label file (.csv, .json, .npy, .npz) in the root; "" what is there.
    config.data.labels = ""
    # What separates labels in one text, such as " "; "" splits at ; and | and, if it is clear, at ,
    config.data.label_separator = ""
    # Folder of the masks in the root; "" masks, if that is there.
    config.data.masks = ""
    # Value of the only class in the masks, such as 255; 0 where they hold labels 0, 1, 2, ...
    config.data.mask_foreground = 0
    # Share of the images that is val in a seeded split.
    config.data.val_fraction = 0.1
    # Draws that split. `seed` does not, so that runs of several seeds have the same data.
    config.data.split_seed = 0
    # An image that cannot be read: "raise" stops, "skip" takes the next one and counts it.
    config.data.on_error = "raise"
    config.data.num_threads = 8
    # Range of the random rescaling before the crop, and of the blurs' deviation in pixels.
    config.data.scale_range = (0.5, 2.0)
    config.data.blur_sigma = (0.1, 2.0)
    return config
