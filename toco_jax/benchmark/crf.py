"""The dense CRF of the evaluation, with all classes and with the likeliest eight.

On a CPU the CPU time is what one core needs for an image. The images of a `--batch` are refined by
one call, one after the other (`jax.lax.map`).
"""

import argparse
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from toco_jax.benchmark.measure import Tables, medians, wall_and_cpu_seconds
from toco_jax.benchmark.photos import sized
from toco_jax.ops.crf import dense_crf
from toco_jax.ops.resize import resize


def run(args: argparse.Namespace) -> Tables:
    """Returns seconds per image, and the share of labels that the approximation changes."""
    images = sized(args.image, args.height, args.width, count=args.batch)
    probs = class_probs(args.batch, args.height, args.width, args.classes)

    def refine(**settings) -> Callable:
        one = functools.partial(dense_crf, iterations=args.iterations, **settings)
        return jax.jit(lambda images, probs: jax.lax.map(lambda x: one(*x), (images, probs)))

    variants = {"all classes": refine(), f"top {args.top_k}": refine(top_k=args.top_k)}
    works = {name: functools.partial(crf, images, probs) for name, crf in variants.items()}
    seconds = medians(works, repeats=args.repeats, measure=wall_and_cpu_seconds)
    labels = {name: np.asarray(work()).argmax(-1) for name, work in works.items()}
    exact = labels["all classes"]
    rows = [
        {
            "classes": name,
            "s per image": wall / args.batch,
            "CPU s per image": cpu / args.batch,
            "labels changed": float(np.mean(labels[name] != exact)),
        }
        for name, (wall, cpu) in seconds.items()
    ]
    size = f"{args.height} x {args.width}, {args.classes} classes"
    return {f"dense CRF, {size}, {args.iterations} iterations, batch {args.batch}": rows}


def class_probs(batch: int, height: int, width: int, classes: int) -> jax.Array:
    """Returns smooth probabilities `[batch, height, width, classes]` that are high for four classes
    only, like those of a network on a photograph.
    """
    coarse = jax.random.normal(jax.random.key(0), (batch, height // 16, width // 16, classes))
    favour = 8.0 * (jnp.arange(classes) < 4).astype(jnp.float32)[None, None, None]
    return jax.nn.softmax(3 * resize(coarse, (height, width)) + favour, axis=-1)
