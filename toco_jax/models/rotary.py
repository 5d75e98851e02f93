"""Rotary positions of patches, which DINOv3 has in place of a table of positions.

Each head's channels are pairs, `i` and `i + d / 2`, that are rotated by an angle: in the first half
of the pairs it grows with the row of the patch, in the second half with its column (Siméoni et al.,
DINOv3, 2025).
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Float32

BASE = 100.0  # of the periods


class Rotary(NamedTuple):
    """Cosines and sines of the angles of all tokens; those without a position have the angle 0.

    Attributes:
        cos: of each channel; one entry for all images, or one for each.
        sin: the same.
    """

    cos: Float32[Array, "b n d"]
    sin: Float32[Array, "b n d"]


def rotary(
    grid: tuple[int, int],
    head_width: int,
    *,
    valid: Bool[Array | np.ndarray, "b h w"] | None = None,
    num_leading: int,
    num_tokens: int,
) -> Rotary:
    """Computes the rotations of all tokens.

    Positions are the centres of the patches, from -1 to 1 over the height and over the width of the
    image, whatever its size. Nothing is added to them, as the original does in its training.

    Args:
        grid: rows h and columns w of patches.
        head_width: d, the channels of a head, a multiple of 4.
        valid: the patches that belong to each image of a padded batch; all by default.
        num_leading: number of tokens before the patches.
        num_tokens: number of all tokens; those after the patches are not rotated either.

    Returns:
        Arrays of one image `[1, num_tokens, d]`, or of each image of `valid`.
    """
    heights, widths = (jnp.full((1,), side, jnp.float32) for side in grid)
    if valid is not None:
        heights = jnp.any(valid, axis=2).sum(axis=1, dtype=jnp.float32)  # [B]
        widths = jnp.any(valid, axis=1).sum(axis=1, dtype=jnp.float32)
    rows, columns = _angles(heights, grid[0], head_width), _angles(widths, grid[1], head_width)
    shape = (len(rows), *grid, head_width // 4)
    angles = [
        jnp.broadcast_to(rows[:, :, None], shape),
        jnp.broadcast_to(columns[:, None], shape),
    ]
    angle = jnp.concatenate(2 * angles, axis=-1)  # [B, h, w, d]
    angle = angle.reshape(shape[0], -1, head_width)  # [B, h * w, d]
    after = num_tokens - num_leading - angle.shape[1]
    angle = jnp.pad(angle, ((0, 0), (num_leading, after), (0, 0)))
    return Rotary(jnp.cos(angle), jnp.sin(angle))


def _angles(
    side: Float32[Array, " b"], num: int, head_width: int
) -> Float32[Array, "b num {head_width}//4"]:
    """Angles of `num` patches along an axis of images that are `side` patches long."""
    centres = jnp.arange(num, dtype=jnp.float32)[None] + 0.5  # [1, num]
    position = 2 * (centres / jnp.maximum(side, 1)[:, None]) - 1  # [B, num]
    return (2 * math.pi * position)[:, :, None] * frequencies(head_width)[None, None]


def frequencies(head_width: int) -> Float32[np.ndarray, " {head_width}//4"]:
    """Returns how fast each pair of channels turns, in units of the first, which is fastest."""
    exponents = np.arange(head_width // 4, dtype=np.float32) / np.float32(head_width // 4)
    return 1 / np.float32(BASE) ** exponents


def rotated(x: Float[Array, "b n heads d"], by: Rotary) -> Float[Array, "b n heads d"]:
    """Rotates queries or keys, in float32."""
    cos, sin = (part[:, :, None] for part in by)  # [1 or B, N, 1, d]
    exact = x.astype(jnp.float32)
    first, second = jnp.split(exact, 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    return (exact * cos + turned * sin).astype(x.dtype)
