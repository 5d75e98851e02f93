"""ToCo on a folder of your own images, with VOC's values, which suit a few classes per image.

    toco check folder data.root=DIR
    toco show folder data.root=DIR --out sheet.png
    toco train folder data.root=DIR

Labels are read from labels.csv (`file,label;label`), from labels.json, from the export of an
annotation tool, from a text file beside each image, or from one folder per class; copies of a file
in several folders are one image of all these classes. Masks are used for scores only, and are read
from DIR/masks. Variants, memory and runtime are those of `configs/voc.py`. Scores depend on the
images.
"""

from toco_jax.config import ConfigDict, defaults, quick


def get_config(variant: str = "deit_base") -> ConfigDict:
    """What differs from `toco_jax.config.defaults`."""
    config = quick() if variant == "quick" else defaults(variant)
    config.num_classes = 0  # as many as the labels name
    config.data.update(source="folder", root="images", train_split="train")
    return config
