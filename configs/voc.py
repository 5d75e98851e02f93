"""ToCo on PASCAL VOC 2012 with the published values.

    toco train voc data.root=VOCdevkit/VOC2012

Variants choose the encoder: `configs/voc.py:deit_base` (the default), `:vit_base`, `:deit_small`,
`:deit_tiny`, or any other that has a name. `:quick` is a recipe of its own for small budgets, see
`toco_jax/config/quick.py`. The published runs took 20,000 steps of 4 images on one A100, at 3.5
images/s in 6.3 hours. They report a mIoU on val, with multi-scale inference and CRF, of 69.8 %
(deit_base) and 71.1 % (vit_base); at 448 pixels without CRF, 68.1 % and 69.2 %.
"""

from toco_jax.config import ConfigDict, defaults, quick


def get_config(variant: str = "deit_base") -> ConfigDict:
    """The published values are the defaults; `toco_jax.config.defaults` has every key's comment."""
    return quick() if variant == "quick" else defaults(variant)
