"""Decoding and the three views of training, against the Pillow chain of the published code."""

import argparse
import pathlib

import numpy as np

from toco_jax.benchmark.measure import Tables, cpu_seconds, medians
from toco_jax.benchmark.photos import jpegs
from toco_jax.data import augment, pillow_views
from toco_jax.data.labels import decode_image


def run(args: argparse.Namespace) -> Tables:
    """Returns the images per CPU-second of each chain."""
    files = jpegs(args.images)

    def ours() -> None:
        rng = np.random.default_rng(0)
        for content in files:
            image = decode_image(content, pathlib.PurePath("memory.jpg")).pixels
            augment.make_views(image, rng, crop_size=args.size, as_published=False)

    def pillow(*, normalise: bool) -> None:
        rng = np.random.default_rng(0)
        for content in files:
            image = pillow_views.decode(content)
            views = pillow_views.make_views(image, rng, crop_size=args.size)
            if normalise:
                for name in ("image", "view2", "local"):
                    pillow_views.normalised(views[name])

    works = {
        "OpenCV, uint8 (normalised on the device)": ours,
        "Pillow, uint8": lambda: pillow(normalise=False),
        "Pillow, normalised float32, as published": lambda: pillow(normalise=True),
    }
    seconds = medians(works, repeats=args.repeats, measure=cpu_seconds)
    first = next(iter(seconds.values()))
    rows = [
        {
            "chain": name,
            "images per CPU-second": len(files) / value,
            "ms per image": 1000 * value / len(files),
            "times ours": value / first,
        }
        for name, value in seconds.items()
    ]
    return {f"three {args.size} px views of 500 x 375 JPEGs, one core": rows}
