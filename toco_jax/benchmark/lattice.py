"""The bilateral filter of the dense energy: building the lattice, and filtering with it.

Sigmas are those of training. On a CPU the CPU time is what one core needs for an image; set
PJRT_NPROC=1 to see the same on the clock.
"""

import argparse
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from toco_jax.benchmark.measure import Tables, medians, wall_and_cpu_seconds
from toco_jax.benchmark.photos import sized
from toco_jax.ops.permutohedral import (
    Lattice,
    bilateral_filter_images,
    bilateral_points,
    filter_values,
    with_lattice,
)

_SIGMAS: dict[str, Any] = {"sigma_rgb": 15.0, "sigma_xy": 50.0}


def run(args: argparse.Namespace) -> Tables:
    """Returns the milliseconds of building the lattice, of applying it, and of both."""
    image = jnp.asarray(sized(args.image, args.size, args.size)[0])
    values = jax.random.uniform(jax.random.key(0), (args.size, args.size, args.channels))
    flat = values.reshape(-1, args.channels)  # [N, K]
    points, bounds = bilateral_points(image, **_SIGMAS)

    def contents(lattice: Lattice) -> tuple:
        # In shapes that do not depend on the lattice's size.
        neighbours = jnp.sum(lattice.neighbours, dtype=jnp.int32)
        return lattice.vertices, lattice.weights, neighbours

    build = jax.jit(lambda points: with_lattice(points, bounds, contents))
    vertices = len(np.unique(build(points)[0]))
    lattice = jax.jit(
        lambda points: with_lattice(points, bounds, lambda lattice: lattice, sizes=[vertices])
    )(points)
    apply = jax.jit(filter_values)
    unrolled = jax.default_backend() != "cpu" if args.together is None else args.together
    whole = jax.jit(functools.partial(bilateral_filter_images, **_SIGMAS, unrolled=unrolled))
    batch = [jnp.stack([x] * args.batch) for x in (image, values)]
    works = {
        "build": lambda: build(points),
        "apply": lambda: apply(lattice, flat),
        f"build and apply, {args.batch} at a time": lambda: whole(*batch),
    }
    seconds = medians(works, repeats=args.repeats, measure=wall_and_cpu_seconds)
    images = [1, 1, args.batch]
    rows = [
        {"part": name, "ms per image": 1000 * wall / num, "CPU ms per image": 1000 * cpu / num}
        for num, (name, (wall, cpu)) in zip(images, seconds.items(), strict=True)
    ]
    title = f"bilateral filter, {args.size} x {args.size}, {args.channels} maps"
    share = {"vertices": vertices, "vertices per pixel": vertices / len(flat)}
    return {title: rows, "lattice": [share]}
