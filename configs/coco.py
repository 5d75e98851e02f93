"""ToCo on COCO 2014 with the published values.

    toco prepare coco --root coco            once, from the official files
    toco train coco data.root=coco

Variants choose the encoder: `configs/coco.py:deit_base` (the default), `:vit_base`, `:deit_small`,
`:deit_tiny`. The published runs took 80,000 steps of 8 images on an A100, at 2.07 images/s in
86 hours. They report a mIoU on val, with multi-scale inference and CRF, of 41.3 % (deit_base) and
42.3 % (vit_base). The scores during training are those of 5,000 images evenly spaced over val.
"""

from toco_jax.config import ConfigDict, defaults


def get_config(variant: str = "deit_base") -> ConfigDict:
    """What differs from `toco_jax.config.defaults`."""
    config = defaults(variant)
    config.update(num_classes=80, batch_size=8, total_steps=80_000, eval_every=4_000)
    config.update(bkg_thre=0.45, high_thre=0.65, temperature=1.0)
    config.loss_weights.update(ptc=((0, 0.0), (12_001, 0.2)), ctc=((0, 0.0), (12_001, 0.5)))
    config.loss_weights.update(seg=((0, 0.0), (8_001, 0.1)), reg=((0, 0.0), (8_001, 0.05)))
    # The final layer's CAM is of use once the patch contrast is at work.
    config.pseudo_label_cam = ((0, "aux_cam"), (12_001, "cam"))
    config.data.update(source="coco", root="coco", train_split="train", val_split="val_part")
    return config
