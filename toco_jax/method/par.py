"""Pixel-adaptive refinement (PAR) of class maps, and the pseudo label made from it.

In each iteration a pixel's class scores become a weighted mean of those of 48 neighbours, in which
neighbours of a similar colour weigh more (Ru et al., AFA, CVPR 2022; paper, section 3.2). The
weights depend on the image alone and are computed once.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float32, Float64, Int, Int32, Num, UInt8

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


def neighbour_distances() -> Float64[np.ndarray, "48"]:
    """Distances of the 48 neighbours in pixels: the dilation times 1 or the square root of 2."""
    return np.array([np.hypot(dy, dx) for dy, dx in OFFSETS])


def _neighbour_fn(x: Num[Array, "b c h w"], *, unrolled: bool) -> Callable[[Any], Array]:
    """Function from an offset `(dy, dx)` to `x` shifted by it, with the border pixels repeated."""
    padded = jnp.pad(x, ((0, 0), (0, 0), (_REACH, _REACH), (_REACH, _REACH)), mode="edge")
    if unrolled:
        # A compiler would fuse the repeating of borders into the reading of each neighbour.
        padded = jax.lax.optimization_barrier(padded)
    return lambda offset: jax.lax.dynamic_slice(
        padded, (0, 0, offset[0] + _REACH, offset[1] + _REACH), x.shape
    )


def _scan(step: Callable, init: Array, *arrays: Any, unrolled: bool) -> tuple[Array, Any]:
    """`jax.lax.scan` over the offsets and entries of `arrays`; a Python loop if `unrolled`."""
    if not unrolled:
        return jax.lax.scan(step, init, (jnp.asarray(OFFSETS), *arrays))
    outputs = []
    for number, inputs in enumerate(zip(OFFSETS, *arrays, strict=True), start=1):
        init, output = step(init, inputs)
        if number % len(_DIRECTIONS) == 0:
            # One program a dilation. A GPU's cache does not hold what one for all 48 neighbours
            # reads, and that takes ten times as long.
            init = jax.lax.optimization_barrier(init)
        outputs.append(output)
    return init, None if outputs[0] is None else jnp.stack(outputs)


def _sum(term: Callable, like: Array, *arrays: Any, unrolled: bool) -> Array:
    """Sum of `term(offset, *entries)` over the offsets and their entries of `arrays`."""

    def add(total: Array, inputs: tuple) -> tuple[Array, None]:
        return total + term(*inputs), None

    return _scan(add, jnp.zeros_like(like), *arrays, unrolled=unrolled)[0]


def affinity(image: Float[Array, "b h w 3"], *, unrolled: bool) -> Float32[Array, "48 b h w"]:
    """Weights of the 48 neighbours of each pixel.

    Args:
        image: colours in [0, 1].
        unrolled: see `refine`.

    Returns:
        A softmax over the neighbours' colour differences, plus 0.01 times one over their distances.
    """
    pixel = jnp.moveaxis(image.astype(jnp.float32), -1, 1)  # [B, 3, H, W]
    neighbour, num = _neighbour_fn(pixel, unrolled=unrolled), len(OFFSETS)
    mean = _sum(neighbour, pixel, unrolled=unrolled) / num
    squares = _sum(lambda offset: (neighbour(offset) - mean) ** 2, pixel, unrolled=unrolled)
    bandwidth = _BANDWIDTH * (jnp.sqrt(squares / (num - 1)) + _EPS)

    def logit_of(offset: Any) -> Array:
        red, green, blue = jnp.moveaxis(((neighbour(offset) - pixel) / bandwidth) ** 2, 1, 0)
        # Not `mean`: XLA does not vectorise a reduction over three channels on a CPU.
        return -(red + green + blue) / 3

    def more(largest: Array, inputs: tuple) -> tuple[Array, Array]:
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
    image: Float[Array, "b h w 3"],
    masks: Float[Array, "b _ _ k"],
    *,
    num_iterations: int = NUM_ITERATIONS,
    unrolled: bool = False,
) -> Float32[Array, "b h w k"]:
    """Smooths class maps within regions of similar colour.

    Args:
        image: colours in [0, 1].
        masks: class maps; maps of another size are resized to the image's with aligned corners.
        num_iterations: how often every pixel is replaced by the mean of its neighbours.
        unrolled: computes the eight neighbours of a dilation in one program, which is fast on an
            accelerator. False loops over all of them, so that the running sum stays in a CPU's
            cache.

    Returns:
        The smoothed maps.
    """
    together = affinity(image, unrolled=unrolled)
    # Separate arrays, so that the iterations need not slice the whole again.
    weights = list(together) if unrolled else together
    masks = resize(masks.astype(jnp.float32), image.shape[1:3], "bilinear_corners")
    masks = jnp.moveaxis(masks, -1, 1)  # [B, K, H, W]

    def propagate(_: Any, masks: Array) -> Array:
        neighbour = _neighbour_fn(masks, unrolled=unrolled)

        def term(offset: Any, weight: Array) -> Array:
            return neighbour(offset) * weight[:, None]

        return _sum(term, masks, weights, unrolled=unrolled)

    masks = jax.lax.fori_loop(0, num_iterations, propagate, masks)
    return jnp.moveaxis(masks, 1, -1)


def published_image_table() -> UInt8[np.ndarray, "256 3"]:
    """The grey levels of each channel that the released code refines on.

    It undoes the normalisation of the images and truncates, so that rounding errors make some grey
    levels darker by one.
    """
    image_mean, image_std = np.array(IMAGE_MEAN), np.array(IMAGE_STD)
    level = np.arange(256, dtype=np.float32)[:, None] / np.float32(255)
    normalized = (level - image_mean.astype(np.float32)) / image_std.astype(np.float32)
    mean, std = ((255 * v).astype(np.float32) for v in (image_mean, image_std))
    return (normalized * std + mean).astype(np.uint8)


def unit_image(image: UInt8[Array, "b h w 3"], *, truncated: bool) -> Float32[Array, "b h w 3"]:
    """Scales colours to [0, 1]; `truncated` applies `published_image_table` first."""
    if truncated:
        table = jnp.asarray(published_image_table())
        image = jnp.stack([table[image[..., c], c] for c in range(3)], axis=-1)
    return image.astype(jnp.float32) / 255


def refine_pseudo_label(
    image: Float[Array, "b h w 3"],
    cam: Float[Array, "b h w k"],
    present: Num[Array, "b k"],
    valid_box: Int[Array, "b 4"],
    *,
    high_thre: float | Float[Array, ""],
    low_thre: float | Float[Array, ""],
    unrolled: bool = False,
) -> Int32[Array, "b h w"]:
    """Labels from refined CAMs: a class or background where two refinements agree, 255 elsewhere.

    The CAMs are refined twice at half the image's size, together with a constant map as the
    background's score. Once this score is high, so that only confident foreground wins over it, and
    once it is low, so that only confident background remains.

    Args:
        image: colours in [0, 1].
        cam: CAMs in [0, 1]. The work grows with K: if there are many classes, give only those that
            the images show (`cams.present_classes`).
        present: 1 for the classes that an image shows, 0 for the others.
        valid_box: the part of the image that is not padding; the label is 255 outside.
        high_thre: the high background score.
        low_thre: the low background score.
        unrolled: see `refine`.

    Returns:
        Labels in 0..K and 255: a class where it wins over the high score, 0 where both scores win,
        255 elsewhere.
    """
    size = image.shape[1:3]
    half = (size[0] // 2, size[1] // 2)
    scores = resize(cam.astype(jnp.float32), half)
    is_present = present[:, None, None, :] > 0

    def class_probs(background_score: float | Array) -> Array:
        logits = jnp.where(is_present, scores, -jnp.inf)
        background = jnp.full_like(scores[..., :1], background_score)
        return jax.nn.softmax(jnp.concatenate([background, logits], axis=-1), axis=-1)

    runs = jnp.concatenate([class_probs(high_thre), class_probs(low_thre)], axis=-1)
    small = resize(image.astype(jnp.float32), half)
    refined = resize(refine(small, runs, unrolled=unrolled), size)
    high, low = (run.argmax(axis=-1).astype("int32") for run in jnp.split(refined, 2, axis=-1))
    label = jnp.where(high > 0, high, jnp.where(low > 0, cams.IGNORE_INDEX, 0))
    return jnp.where(cams.inside_box(valid_box, size), label, cams.IGNORE_INDEX)
