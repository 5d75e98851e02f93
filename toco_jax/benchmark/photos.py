"""Images with edges, texture and noise like photographs, for work whose time depends on them."""

import pathlib

import cv2
import numpy as np

from toco_jax.data.labels import decode_image


def photo(seed: int, height: int, width: int, *, noise: float = 3.0) -> np.ndarray:
    """Smooth grounds, discs and noise of a deviation in grey levels: uint8 `[height, width, 3]`."""
    rng = np.random.default_rng(seed)

    def colours(*shape: int) -> np.ndarray:
        # Mostly bright or dark: the channels of a photograph go together.
        return rng.integers(0, 256, (*shape, 1)) + rng.normal(0, 30, (*shape, 3))

    ground = colours(5, 7).clip(0, 255).astype(np.uint8)
    image = cv2.resize(ground, (width, height), interpolation=cv2.INTER_LINEAR)
    for _ in range(30):
        centre = [int(c) for c in rng.integers(0, (width, height))]
        radius = int(rng.integers(4, 60)) * height // 375
        cv2.circle(image, centre, radius, [float(c) for c in colours()], -1)
    return np.clip(image + rng.normal(0, noise, image.shape), 0, 255).astype(np.uint8)


def jpegs(count: int) -> list[bytes]:
    """JPEG files of 500 x 375 pixels, about 80 KB each."""
    photos = (photo(seed, 375, 500, noise=13) for seed in range(count))
    quality = [cv2.IMWRITE_JPEG_QUALITY, 90]
    return [cv2.imencode(".jpg", image, quality)[1].tobytes() for image in photos]


def sized(path: pathlib.Path | None, height: int, width: int, *, count: int = 1) -> np.ndarray:
    """An image file at a size, or made-up photographs: uint8 `[count, height, width, 3]`."""
    if path is None:
        return np.stack([photo(seed, height, width) for seed in range(count)])
    image = decode_image(path.read_bytes(), path).pixels
    return np.stack([cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)] * count)
