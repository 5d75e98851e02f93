"""Anybody's photos as uint8 RGB, whatever they are stored as."""

import os

import numpy as np
from PIL import Image, ImageOps

from toco_jax.errors import UserError

_DEEP_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")


class PhotoError(UserError):
    """A file is missing or no picture; the message names it."""


def read_photo(path: str | os.PathLike) -> tuple[np.ndarray, list[str]]:
    """A picture as uint8 `[H, W, 3]`, upright, and notes on what was done to it.

    Raises:
        PhotoError: the file is missing or cannot be decoded.
    """
    try:
        with Image.open(path) as picture:
            frames = getattr(picture, "n_frames", 1)
            notes = [f"first of {frames} frames"] if frames > 1 else []
            return as_rgb(picture), notes
    except FileNotFoundError:
        raise PhotoError(f"{path} does not exist") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise PhotoError(f"{path} cannot be read as a picture ({error})") from error


def as_rgb(image: np.ndarray | Image.Image) -> np.ndarray:
    """Any picture as uint8 `[H, W, 3]`.

    Args:
        image: a PIL picture of any mode, turned as its EXIF note says, transparency on white; or an
            array `[H, W]`, `[H, W, 1]`, `[H, W, 3]` or `[H, W, 4]` of uint8, or of uint16 with its
            full range.

    Raises:
        ValueError: an array of another shape or type.
    """
    if isinstance(image, Image.Image):
        image = ImageOps.exif_transpose(image)
        if image.mode in _DEEP_MODES:
            deep = np.asarray(image).astype(np.int64)
            return as_rgb(np.clip(deep, 0, 65535).astype(np.uint16))
        if image.has_transparency_data:
            return as_rgb(np.asarray(image.convert("RGBA")))
        return np.asarray(image.convert("RGB"))
    if image.dtype == np.uint16:
        image = np.rint(image / 257).astype(np.uint8)
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or 0 in image.shape:
        raise ValueError(
            f"an image must be uint8 or uint16 [H, W], [H, W, 3] or [H, W, 4], not {image.dtype} "
            f"{image.shape}"
        )
    channels = image.shape[2] if image.ndim == 3 else 1
    if channels == 3:
        return image
    if channels == 1:
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)  # [H, W, 3]
    if channels == 4:
        colour, alpha = image[..., :3].astype(np.float32), image[..., 3:].astype(np.float32) / 255
        return np.rint(alpha * colour + (1 - alpha) * 255).astype(np.uint8)
    raise ValueError(f"an image has 1, 3 or 4 channels, not {channels}")
