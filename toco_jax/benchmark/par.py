"""Pixel-adaptive refinement by number of maps: two runs of (classes + background) in training.

On a CPU the CPU time is what one core needs for an image.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np

from toco_jax.benchmark.measure import Tables, medians, wall_and_cpu_seconds
from toco_jax.benchmark.photos import photo
from toco_jax.method.par import refine


def run(args: argparse.Namespace) -> Tables:
    """Returns milliseconds per image for each number of maps."""
    photos = np.stack([photo(seed, args.size, args.size) for seed in range(args.batch)])
    images = jnp.asarray(photos, jnp.float32) / 255
    unrolled = jax.default_backend() != "cpu" if args.together is None else args.together
    jitted = jax.jit(functools.partial(refine, unrolled=unrolled))
    works = {}
    for channels in args.channels:
        shape = (args.batch, args.size, args.size, channels)
        masks = jax.nn.softmax(jax.random.normal(jax.random.key(channels), shape), axis=-1)
        works[channels] = functools.partial(jitted, images, masks)
    seconds = medians(works, repeats=args.repeats, measure=wall_and_cpu_seconds)
    rows = [
        {
            "maps": channels,
            "ms per image": 1000 * wall / args.batch,
            "CPU ms per image": 1000 * cpu / args.batch,
        }
        for channels, (wall, cpu) in seconds.items()
    ]
    return {f"PAR, {args.size} x {args.size}, batch {args.batch}": rows}
