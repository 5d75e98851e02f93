"""Label maps as palette PNGs, the form in which the field hands them on."""

import os
import pathlib

import numpy as np
from PIL import Image

from toco_jax.data.classes import palette


def write_mask(path: pathlib.Path, label: np.ndarray) -> None:
    """Writes labels `[H, W]` in 0..255 as an 8-bit PNG with VOC's palette, whole or not at all."""
    picture = Image.fromarray(label.astype(np.uint8))
    picture.putpalette(palette().tobytes())  # makes the mode "P"
    temporary = path.with_name(f".{path.name}.tmp")
    picture.save(temporary, format="PNG")
    os.replace(temporary, path)
