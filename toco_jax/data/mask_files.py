"""Label maps as palette PNGs, the form that VOC introduced and other tools read."""

import io
import pathlib

import numpy as np
from PIL import Image

from toco_jax.data.classes import palette
from toco_jax.runtime.outputs import write_atomically


def write_mask(path: pathlib.Path, mask: np.ndarray) -> None:
    """Writes labels `[H, W]` in 0..255 as a palette PNG; a killed process leaves no part of it."""
    write_atomically(path, encode_mask(mask))


def encode_mask(mask: np.ndarray) -> bytes:
    """Returns labels `[H, W]` in 0..255 as the content of an 8-bit PNG with VOC's palette."""
    picture = Image.fromarray(mask.astype(np.uint8))
    picture.putpalette(palette().tobytes())  # makes the mode "P"
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def read_mask(path: pathlib.Path) -> np.ndarray:
    """Reads labels uint8 `[H, W]` that `write_mask` wrote."""
    with Image.open(path, formats=("PNG",)) as picture:
        return np.asarray(picture)
