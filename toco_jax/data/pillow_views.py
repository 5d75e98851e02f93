"""Makes the training views with Pillow, as the published code does: for timings, not training.

The draws are those of `augment.make_views`, in the same order, so that equal generators give the
same views up to rounding and resampling, and timings compare the same work.
"""

import io

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from toco_jax.data.augment import random_rectangle

_MEAN = np.array((0.485, 0.456, 0.406), np.float32)
_STD = np.array((0.229, 0.224, 0.225), np.float32)


def decode(content: bytes) -> Image.Image:
    """Decodes the content of a picture file to RGB."""
    return Image.open(io.BytesIO(content)).convert("RGB")


def make_views(
    image: Image.Image, rng: np.random.Generator, *, crop_size: int
) -> dict[str, np.ndarray]:
    """Draws views like `augment.make_views` with its default strengths and `as_published=False`.

    Returns:
        "image", "view2", "local": uint8 [S, S, 3]; "valid_box" int32 [4].
    """
    scale = rng.uniform(0.5, 2.0)
    width, height = (max(1, round(scale * side)) for side in image.size)
    crop = _random_flip(image.resize((width, height), Image.Resampling.BILINEAR), rng)
    crop, valid_box = _random_crop(crop, rng, crop_size)
    view2 = _random_flip(_random_resized_crop(image, rng, crop_size), rng)
    return {
        "image": _photometric(crop, rng, blur_rate=1.0),
        "view2": _photometric(view2, rng, blur_rate=0.1, solarise_rate=0.2),
        "local": _photometric(crop, rng, blur_rate=0.5),
        "valid_box": valid_box,
    }


def normalised(view: np.ndarray) -> np.ndarray:
    """Normalises a view uint8 [S, S, 3] to the input of a network, float32 [3, S, S]."""
    scaled = (view.astype(np.float32) / 255 - _MEAN) / _STD
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def _random_flip(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.mirror(image) if rng.random() < 0.5 else image


def _random_crop(
    image: Image.Image, rng: np.random.Generator, size: int
) -> tuple[Image.Image, np.ndarray]:
    starts, box = [], []
    for side in (image.height, image.width):
        offset = int(rng.integers(abs(side - size) + 1))
        starts.append(-offset if side >= size else offset)
        box += [0, size] if side >= size else [offset, offset + side]
    crop = Image.new("RGB", (size, size))
    crop.paste(image, (starts[1], starts[0]))
    return crop, np.array(box, np.int32)


def _random_resized_crop(image: Image.Image, rng: np.random.Generator, size: int) -> Image.Image:
    top, left, height, width = random_rectangle(image.height, image.width, rng)
    part = image.crop((left, top, left + width, top + height))
    return part.resize((size, size), Image.Resampling.BICUBIC)


def _photometric(
    image: Image.Image, rng: np.random.Generator, *, blur_rate: float, solarise_rate: float = 0.0
) -> np.ndarray:
    if rng.random() < 0.8:
        image = _colour_jitter(image, rng)
    if rng.random() < 0.2:
        image = image.convert("L").convert("RGB")
    if rng.random() < blur_rate:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 2.0)))
    if rng.random() < solarise_rate:
        image = ImageOps.solarize(image, 128)
    return np.asarray(image)


def _colour_jitter(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    factors = [rng.uniform(1 - strength, 1 + strength) for strength in (0.4, 0.4, 0.2)]
    shift = rng.uniform(-0.1, 0.1)
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for which in rng.permutation(4):
        if which < len(enhancers):
            image = enhancers[which](image).enhance(factors[which])
        else:
            image = _turn_hue(image, shift)
    return image


def _turn_hue(image: Image.Image, shift: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    turned = Image.fromarray(np.asarray(hue) + np.uint8(round(shift * 256) % 256))
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")
