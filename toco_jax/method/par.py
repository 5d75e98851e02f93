"""Pixel-adaptive refinement of class maps and the pseudo label made from it (paper, section 3.2).

Each pixel's class scores move towards those of 48 neighbours, weighted by how alike the colours are
(Ru et al., AFA, CVPR 2022). The weights depend on the image alone and are computed once.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from toco_jax.method import cams
from toco_jax.models.network import IMAGE_MEAN, IMAGE_STD
from toco_jax.ops.resize import resize

DILATIONS = (1, 2, 4, 8, 12, 24)
NUM_ITERATIONS = 10
_POSITION_WEIGHT = 0.01
_BANDWIDTH = 0.3
_EPS = 1e-8
_REACH = max(DILATIONS)
_DIRECTIONS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0))
OFFSETS = tuple((d * dy, d * dx) for d in DILATIONS for dy, dx in _DIRECTIONS)


def neighbour_distances() -> np.ndarray:
    """Distance of each of the 48 neighbours, float64 `[48]`: the dilation times 1 or sqrt 2."""
    return np.array([np.hypot(dy, dx) for dy, dx in OFFSETS])


def _neighbour_fn(x: jax.Array, *, unrolled: bool) -> Callable:
    """From an offset `(dy, dx)` to the neighbours of `x [B, C, H, W]` there, borders repeated."""
    padded = jnp.pad(x, ((0, 0), (0, 0), (_REACH, _REACH), (_REACH, _REACH)), mode="edge")
    if unrolled:
        # A compiler would fuse the repeating of borders into the reading of each neighbour.
        padded = jax.lax.optimization_barrier(padded)
    return lambda offset: jax.lax.dynamic_slice(
        padded, (0, 0, offset[0] + _REACH, offset[1] + _REACH), x.shape
    )


def _scan(step: Callable, init: jax.Array, *arrays, unrolled: bool) -> tuple[jax.Array, Any]:
    """`jax.lax.scan` over the neighbours and what `arrays` hold of them, or all steps in a row."""
    if not unrolled:
        return jax.lax.scan(step, init, (jnp.asarray(OFFSETS), *arrays))
    outputs = []
    for inputs in zip(OFFSETS, *arrays, strict=True):
        init, output = step(init, inputs)
        outputs.append(output)
    return init, None if outputs[0] is None else jnp.stack(outputs)


def _sum(term: Callable, like: jax.Array, *arrays, unrolled: bool) -> jax.Array:
    """Sum of `term(offset, *arrays_there)` over the neighbours."""

    def add(total: jax.Array, inputs: tuple) -> tuple[jax.Array, None]:
        return total + term(*inputs), None

    return _scan(add, jnp.zeros_like(like), *arrays, unrolled=unrolled)[0]


def affinity(image: jax.Array, *, unrolled: bool) -> jax.Array:
    """Weights of the 48 neighbours of each pixel.

    Args:
        image: `[B, H, W, 3]` in [0, 1].
        unrolled: see `refine`.

    Returns:
        `[48, B, H, W]` float32: a softmax over colour differences plus 0.01 times one over
        distances.
    """
    pixel = jnp.moveaxis(image.astype(jnp.float32), -1, 1)  # [B, 3, H, W]
    neighbour, num = _neighbour_fn(pixel, unrolled=unrolled), len(OFFSETS)
    mean = _sum(neighbour, pixel, unrolled=unrolled) / num
    squares = _sum(lambda offset: (neighbour(offset) - mean) ** 2, pixel, unrolled=unrolled)
    bandwidth = _BANDWIDTH * (jnp.sqrt(squares / (num - 1)) + _EPS)

    def logit_of(offset) -> jax.Array:
        red, green, blue = jnp.moveaxis(((neighbour(offset) - pixel) / bandwidth) ** 2, 1, 0)
        # Not `mean`: a reduction over three channels is no vector instruction on a CPU.
        return -(red + green + blue) / 3

    def more(largest: jax.Array, inputs: tuple) -> tuple[jax.Array, jax.Array]:
        logit = logit_of(*inputs)
        return jnp.maximum(largest, logit), logit

    lowest = jnp.full_like(pixel[:, 0], -jnp.inf)
    largest, logits = _scan(more, lowest, unrolled=unrolled)  # logits: [48, B, H, W]
    colour = jnp.exp(logits - largest[None])
    colour /= _sum(lambda _, weight: weight, largest, colour, unrolled=unrolled)[None]

    distance = neighbour_distances()
    closeness = -((distance / (distance.std(ddof=1) + _EPS) / _BANDWIDTH) ** 2)
    position = np.exp(closeness - closeness.max())
    position = (position / position.sum()).astype(np.float32)
    return colour + _POSITION_WEIGHT * position[:, None, None, None]


def refine(
    image: jax.Array,
    masks: jax.Array,
    *,
    num_iterations: int = NUM_ITERATIONS,
    unrolled: bool = False,
) -> jax.Array:
    """Propagates class maps along the image's own structure.

    Args:
        image: `[B, H, W, 3]` in [0, 1].
        masks: `[B, h, w, K]`, resized to the image with corners aligned when the sizes differ.
        num_iterations: propagation steps.
        unrolled: all neighbours in one program, as an accelerator likes it, rather than one after
            the other, whose sum stays in a processor's cache.

    Returns:
        `[B, H, W, K]` float32.
    """
    weights = affinity(image, unrolled=unrolled)
    if unrolled:  # An array each, which the iterations need not cut out of the whole.
        weights = list(weights)
    masks = resize(masks.astype(jnp.float32), image.shape[1:3], "bilinear_corners")
    masks = jnp.moveaxis(masks, -1, 1)  # [B, K, H, W]

    def propagate(_, masks: jax.Array) -> jax.Array:
        neighbour = _neighbour_fn(masks, unrolled=unrolled)

        def term(offset, weight: jax.Array) -> jax.Array:
            return neighbour(offset) * weight[:, None]

        return _sum(term, masks, weights, unrolled=unrolled)

    masks = jax.lax.fori_loop(0, num_iterations, propagate, masks)
    return jnp.moveaxis(masks, 1, -1)


def published_image_table() -> np.ndarray:
    """The released code's image after normalising, undoing it and truncating: uint8 `[256, 3]`.

    Rounding errors make some grey levels one darker.
    """
    level = np.arange(256, dtype=np.float32)[:, None] / np.float32(255)
    normalized = (level - np.float32(IMAGE_MEAN)) / np.float32(IMAGE_STD)
    mean, std = (np.float32(255 * np.float64(v)) for v in (IMAGE_MEAN, IMAGE_STD))
    return (normalized * std + mean).astype(np.uint8)


def unit_image(image: jax.Array, *, truncated: bool) -> jax.Array:
    """uint8 image `[B, H, W, 3]` to [0, 1], through `published_image_table` if `truncated`."""
    if truncated:
        table = jnp.asarray(published_image_table())
        image = jnp.stack([table[image[..., c], c] for c in range(3)], axis=-1)
    return image.astype(jnp.float32) / 255


def refine_pseudo_label(
    image: jax.Array,
    cam: jax.Array,
    present: jax.Array,
    valid_box: jax.Array,
    *,
    high_thre: float,
    low_thre: float,
    unrolled: bool = False,
) -> jax.Array:
    """CAMs refined at half size against a high and a low background score.

    Args:
        image: `[B, H, W, 3]` in [0, 1].
        cam: `[B, H, W, K]` in [0, 1]; the work grows with K, so give the classes that an image may
            hold (`cams.present_classes`) where there are many.
        present: `[B, K]` of 0 and 1, the image's own classes among them.
        valid_box: `[B, 4]` in the image's pixels.
        high_thre: background score of the run that decides the foreground.
        low_thre: background score of the run that must agree on the background.
        unrolled: see `refine`.

    Returns:
        `[B, H, W]` int32 in 0..K and 255: a class where the high run says so, 0 where both runs say
        background, 255 elsewhere and outside the box.
    """
    size = image.shape[1:3]
    half = (size[0] // 2, size[1] // 2)
    scores = resize(cam.astype(jnp.float32), half)
    is_present = present[:, None, None, :] > 0

    def class_probs(background_score: float) -> jax.Array:
        logits = jnp.where(is_present, scores, -jnp.inf)
        background = jnp.full_like(scores[..., :1], background_score)
        return jax.nn.softmax(jnp.concatenate([background, logits], axis=-1), axis=-1)

    runs = jnp.concatenate([class_probs(high_thre), class_probs(low_thre)], axis=-1)
    small = resize(image.astype(jnp.float32), half)
    refined = resize(refine(small, runs, unrolled=unrolled), size)
    high, low = (run.argmax(axis=-1).astype("int32") for run in jnp.split(refined, 2, axis=-1))
    label = jnp.where(high > 0, high, jnp.where(low > 0, cams.IGNORE_INDEX, 0))
    return jnp.where(cams.inside_box(valid_box, size), label, cams.IGNORE_INDEX)
