"""A segmentation network trained on masks: pseudo labels of ToCo, or true ones as its ceiling.

    toco evaluate runs/voc --split=train_aug --pseudo_labels=VOCdevkit/VOC2012/pseudo
    toco train second_stage data.root=VOCdevkit/VOC2012 data.train_masks=pseudo

The encoder and the decoder are ToCo's. The loss is the cross-entropy over all pixels with a label,
255 being none. Pixels up to 2 away from another label are left out, because pseudo labels are wrong
there most often (`data.mask_border=0` takes them). Without `data.train_masks` the true masks of the
training split are taken. For your own images add `data.source=folder num_classes=0`. Variants are
those of `configs/voc.py`. No run of it has been scored yet.
"""

from toco_jax.config import ConfigDict, defaults


def get_config(variant: str = "deit_base") -> ConfigDict:
    """What differs from `toco_jax.config.defaults`."""
    config = defaults(variant)
    config.loss_weights.update(
        {term: ((0, 0.0),) for term in ("cls_aux", "ptc", "ctc", "seg", "reg")}
    )
    config.loss_weights.sup = ((0, 1.0),)
    config.data.mask_border = 2
    return config
