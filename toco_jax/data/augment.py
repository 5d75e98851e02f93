"""The three training views of an image (paper, section 4.1), on uint8 with OpenCV.

The operations are pure: an image and explicit values in, a new image out. The functions that take
`rng` draw those values from the record's own generator. Images are uint8 [H, W, 3] RGB in 0..255.
The views and their strengths are those of ToCo's released code (Ru et al., CVPR 2023, section 4);
the semantics of jitter and random-resized-crop are torchvision's.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np

# Share of the area and width / height of `random_resized_crop`; strengths of `colour_jitter` in the
# order brightness, contrast, saturation, and the largest turn of the hue.
_AREAS, _RATIOS = (0.4, 1.0), (3 / 4, 4 / 3)
_STRENGTHS, _TURN = (0.4, 0.4, 0.2), 0.1

# Images are already processed in parallel; OpenCV's own threads would only fight over the cores.
cv2.setNumThreads(0)


def make_views(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    crop_size: int,
    as_published: bool,
    mask: np.ndarray | None = None,
    scale_range: tuple[float, float] = (0.5, 2.0),
    blur_sigma: tuple[float, float] = (0.1, 2.0),
) -> dict[str, np.ndarray]:
    """Draws the views of one training image.

    Args:
        image: uint8 [H, W, 3], of any size from one pixel on.
        mask: the image's labels [H, W], uint8 or uint16; the views do not depend on it.
        rng: the record's generator; the views are a function of its state.
        crop_size: S, side of every view.
        as_published: False: one flip, decided before the base crop, is shared by view 1 and the
            local source, so that they and the box agree pixel by pixel. True: both flip once more,
            each on its own and after the box was recorded, as the released code does.
        scale_range: the image is rescaled by a uniform draw from it before the base crop.
        blur_sigma: the standard deviation of a blur is a uniform draw from it, in pixels.

    Returns:
        "image" (view 1: classification input and first global crop), "view2" (second global crop)
        and "local" (what local crops are cut from), uint8 [S, S, 3]; "valid_box" int32 [4], the
        half-open part (y0, y1, x0, x1) of the base crop that is image and not padding. With a mask
        also "mask" [S, S], the labels of view 1; padding has the largest value of their type.
    """
    crop, valid_box, labels = base_crop(
        image, rng, mask=mask, crop_size=crop_size, scale_range=scale_range
    )
    view1, local = crop, crop
    if as_published:
        is_mirrored = rng.random() < 0.5
        view1, local = _mirrored(crop, is_mirrored), random_flip(crop, rng)
        labels = None if labels is None else _mirrored(labels, is_mirrored)
    view2 = random_flip(random_resized_crop(image, rng, size=crop_size), rng)
    return {
        "image": photometric(view1, rng, blur_rate=1.0, blur_sigma=blur_sigma),
        "view2": photometric(view2, rng, blur_rate=0.1, blur_sigma=blur_sigma, solarise_rate=0.2),
        "local": photometric(local, rng, blur_rate=0.5, blur_sigma=blur_sigma),
        "valid_box": valid_box,
    } | ({} if labels is None else {"mask": labels})


def base_crop(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    crop_size: int,
    scale_range: tuple[float, float],
    mask: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Rescales, flips and crops at random.

    Returns the crop [S, S, 3], the valid box int32 [4], and the mask's crop [S, S] or None."""
    scale = rng.uniform(*scale_range)
    height, width = (max(1, round(scale * side)) for side in image.shape[:2])
    is_mirrored = rng.random() < 0.5
    scaled = _mirrored(resize(image, height, width), is_mirrored)
    places = [_random_interval(side, rng, crop_size) for side in (height, width)]
    crop, box = _cut(scaled, places, crop_size)
    if mask is None:
        return crop, box, None
    nearest = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    outside = np.iinfo(mask.dtype).max
    labels, _ = _cut(_mirrored(nearest, is_mirrored), places, crop_size, fill=outside)
    return crop, box, labels


def without_borders(mask: np.ndarray, width: int) -> np.ndarray:
    """Replaces labels up to `width` pixels away from another one by the largest value of a type."""
    if width == 0:
        return mask
    around = np.ones((2 * width + 1,) * 2, np.uint8)
    is_border = cv2.dilate(mask, around) != cv2.erode(mask, around)
    return np.where(is_border, np.iinfo(mask.dtype).max, mask)


def random_crop(
    image: np.ndarray, rng: np.random.Generator, *, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a square at a random place; along a side shorter than it, places the whole image at a
    random offset in zeros. Returns ([S, S, 3], valid box (y0, y1, x0, x1) int32 [4])."""
    return _cut(image, [_random_interval(side, rng, size) for side in image.shape[:2]], size)


def _cut(
    pixels: np.ndarray, places: Sequence[tuple[int, int, int]], size: int, fill: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts the intervals of both axes out of [H, W, ...] and lays them into a square of `fill`."""
    (from_y, y0, rows), (from_x, x0, columns) = places
    crop = np.full((size, size, *pixels.shape[2:]), fill, pixels.dtype)
    crop[y0 : y0 + rows, x0 : x0 + columns] = pixels[
        from_y : from_y + rows, from_x : from_x + columns
    ]
    return crop, np.array([y0, y0 + rows, x0, x0 + columns], np.int32)


def _random_interval(side: int, rng: np.random.Generator, size: int) -> tuple[int, int, int]:
    """Draws (start in the image, start in the crop, length) along one axis."""
    offset = int(rng.integers(abs(side - size) + 1))
    return (offset, 0, size) if side >= size else (0, offset, side)


def random_resized_crop(image: np.ndarray, rng: np.random.Generator, *, size: int) -> np.ndarray:
    """Cuts a random rectangle by area and aspect ratio and resizes it (bicubic) to [S, S, 3]."""
    top, left, height, width = random_rectangle(image.shape[0], image.shape[1], rng)
    part = image[top : top + height, left : left + width]
    return resize(part, size, size, enlarge=cv2.INTER_CUBIC)


def random_rectangle(
    height: int, width: int, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draws (top, left, height, width) of a rectangle within an image.

    Its share of the area is uniform in 0.4..1, its width / height log-uniform in 3/4..4/3. After
    ten draws that do not fit, it is the largest central rectangle of an allowed ratio."""
    least, greatest = (math.log(ratio) for ratio in _RATIOS)
    for _ in range(10):
        area = height * width * rng.uniform(*_AREAS)
        ratio = math.exp(rng.uniform(least, greatest))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    low, high = _RATIOS
    w = min(width, max(1, round(height * high)))
    h = min(height, max(1, round(width / low)))
    return (height - h) // 2, (width - w) // 2, h, w


def photometric(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    blur_rate: float,
    blur_sigma: tuple[float, float] = (0.1, 2.0),
    solarise_rate: float = 0.0,
) -> np.ndarray:
    """Applies colour jitter (rate 0.8), grey (0.2), blur and solarising, in that order."""
    if rng.random() < 0.8:
        image = colour_jitter(image, rng)
    if rng.random() < 0.2:
        image = to_grey(image)
    if rng.random() < blur_rate:
        image = blur(image, rng.uniform(*blur_sigma))
    if rng.random() < solarise_rate:
        image = solarise(image)
    return image


def colour_jitter(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Applies the four adjustments in random order: factors uniform within 1 +- 0.4, 0.4 and 0.2,
    the hue shift uniform within +- 0.1 turns."""
    values = [rng.uniform(1 - strength, 1 + strength) for strength in _STRENGTHS]
    values.append(rng.uniform(-_TURN, _TURN))
    adjustments = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    for which in rng.permutation(4):
        image = adjustments[which](image, values[which])
    return image


def random_flip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirrors left to right half of the time."""
    return _mirrored(image, rng.random() < 0.5)


def _mirrored(pixels: np.ndarray, is_mirrored: bool) -> np.ndarray:
    return cv2.flip(pixels, 1) if is_mirrored else pixels


def resize(
    image: np.ndarray, height: int, width: int, *, enlarge: int = cv2.INTER_LINEAR
) -> np.ndarray:
    """Resizes to [height, width, 3]: sides that shrink are averaged over areas (plain interpolation
    would alias), sides that grow are interpolated by `enlarge`, an OpenCV code."""
    smaller = (min(width, image.shape[1]), min(height, image.shape[0]))
    if smaller != (image.shape[1], image.shape[0]):
        image = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
    if smaller != (width, height):
        image = cv2.resize(image, (width, height), interpolation=enlarge)
    return image


def adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Returns `factor * image`, clipped."""
    return cv2.addWeighted(image, factor, image, 0, 0)


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends with the image's mean grey: `factor * image + (1 - factor) * mean`, clipped."""
    mean = round(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0])
    return cv2.addWeighted(image, factor, image, 0, (1 - factor) * mean)


def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends with the grey image: `factor * image + (1 - factor) * grey`, clipped."""
    return cv2.addWeighted(image, factor, to_grey(image), 1 - factor, 0)


def adjust_hue(image: np.ndarray, shift: float) -> np.ndarray:
    """Turns the hue by `shift` turns, to the nearest 256th."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(shift * 256) % 256)  # wraps around, as hues do
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def to_grey(image: np.ndarray) -> np.ndarray:
    """Replaces all three channels by the luma (0.299, 0.587, 0.114)."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blurs with a Gaussian of `sigma` pixels; the border is replicated."""
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)


def solarise(image: np.ndarray) -> np.ndarray:
    """Inverts the values from 128 on."""
    values = np.arange(256, dtype=np.uint8)
    return cv2.LUT(image, np.where(values >= 128, 255 - values, values))
